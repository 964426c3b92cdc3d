"""``numeric-dense``: a number becomes a token that points its own way, scaled by the transformed number."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl

from genrec_adapters.field_types.base import Fitted
from genrec_adapters.field_types.columns import LARGEST, number
from genrec_adapters.field_types.configs import NumericDenseConfig
from genrec_adapters.field_types.histogram import Measuring
from genrec_registry import DenseFeature, FieldFitter, FieldSpec, FieldState
from genrec_registry.contracts import ColumnKind

_LARGEST_FLOAT32 = float(np.finfo(np.float32).max)


def log1p(value: pl.Expr) -> pl.Expr:
    """``sign(x) ln(1 + |x|)``."""
    return value.sign() * value.abs().log1p()


def moments(values: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of values that occur ``counts`` times; 0 and 1 of nothing, 1 where all are equal."""
    largest = float(np.abs(values).max(initial=0.0))
    if largest == 0.0:
        return 0.0, 1.0
    scaled = values / largest  # so that squares of large numbers do not overflow
    mean = float(np.average(scaled, weights=counts))
    deviation = float(np.sqrt(np.average((scaled - mean) ** 2, weights=counts)))
    return mean * largest, (deviation * largest) or 1.0


def as_float32(value: pl.Expr) -> pl.Expr:
    """Float32 without overflow."""
    return value.clip(-_LARGEST_FLOAT32, _LARGEST_FLOAT32).cast(pl.Float32)


def with_missing_indicator(value: pl.Expr, missing: pl.Expr, *, default: float) -> pl.Expr:
    """``Array(Float32, 2)``: the value, or ``default`` where it is null, and 1 where ``missing``, else 0."""
    return pl.concat_arr(as_float32(value.fill_null(default)), missing.cast(pl.Float32))


class NumericDense:
    """A transformed number and a missing indicator: implements ``FieldType``.

    A missing number (null, NaN) stands at the training mean, and its indicator, unless it is turned off, has a learned
    direction of its own.
    Infinities count as the smallest or largest number seen in training; other numbers outside the range seen are
    transformed like all others, and bounded by ``clip`` alone.

    Args:
        name: field name.
        config: see :class:`~genrec_adapters.field_types.configs.NumericDenseConfig`.

    Example::

        >>> field = NumericDense("I1", NumericDenseConfig(clip=3.0))
        >>> fitter = field.fitter()
        >>> fitter.update(pl.DataFrame({"I1": [1.0, 3.0, None]}))
        >>> fitted = fitter.finish()
        >>> pl.DataFrame({"I1": [3.0, 1000.0, None]}).select(fitted.encode())["I1"].to_list()
        [[1.0, 0.0], [3.0, 0.0], [0.0, 1.0]]
    """

    def __init__(self, name: str, config: NumericDenseConfig) -> None:
        self.name = name
        self.config = config
        self.column = config.column or name

    @property
    def columns(self) -> Mapping[str, ColumnKind]:
        """The one column."""
        return {self.column: "number"}

    def fitter(self) -> FieldFitter:
        """Measures the distribution."""
        return Measuring(number(self.column), self._from_distribution)

    def _from_distribution(self, table: pl.DataFrame) -> Fitted:
        values = table["value"].to_numpy()
        low, high = (float(values[0]), float(values[-1])) if len(values) else (0.0, 0.0)
        if self.config.transform.startswith("log1p"):
            values = np.sign(values) * np.log1p(np.abs(values))
        mean, scale = moments(values, table["count"].to_numpy())
        return self.restore(FieldState(json={"low": low, "high": high, "mean": mean, "scale": scale}))

    def restore(self, state: FieldState) -> Fitted:
        """The field with the range and moments of ``state``."""
        facts = state.json
        value = number(self.column)
        infinite = value.abs() >= LARGEST
        value = pl.when(infinite).then(value.clip(facts["low"], facts["high"])).otherwise(value)
        if self.config.transform.startswith("log1p"):
            value = log1p(value)
        if self.config.transform.endswith("standardise"):
            value = (value - facts["mean"]) / facts["scale"]
            mean = 0.0
        else:
            mean = facts["mean"]
        if self.config.clip is not None:
            value = value.clip(-self.config.clip, self.config.clip)
            mean = min(max(mean, -self.config.clip), self.config.clip)
        if self.config.missing_indicator:
            encoded = with_missing_indicator(value, number(self.column).is_null(), default=mean)
        else:
            encoded = as_float32(value.fill_null(mean))
        feature = DenseFeature(name=self.name, width=1 + self.config.missing_indicator)
        return Fitted(
            spec=FieldSpec(name=self.name, type="numeric-dense", dense=(feature,)),
            expressions=(encoded,),
            field_state=state,
        )
