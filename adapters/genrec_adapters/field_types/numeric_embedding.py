"""``numeric-embedding``: a number becomes a token through a learned embedding of its place in the distribution.

The floats prepared here are small; the embedding itself is in :mod:`genrec_adapters.field_types.tokens`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl

from genrec_adapters.field_types.base import Fitted
from genrec_adapters.field_types.columns import number
from genrec_adapters.field_types.configs import NumericEmbeddingConfig
from genrec_adapters.field_types.histogram import Measuring, quantiles
from genrec_adapters.field_types.numeric_dense import log1p, moments, with_missing_indicator
from genrec_registry import DenseFeature, FieldFitter, FieldSpec, FieldState
from genrec_registry.contracts import ColumnKind

_AUTODIS_BOUND = 8.0


class NumericEmbedding:
    """A number's place in the distribution and a missing indicator: implements ``FieldType``.

    ``piecewise-linear`` (Gorishniy et al., arXiv 2203.05556, section 3.2) stores the *position* p in [0, T]: k plus the
    share of bin k that lies below the number. Component t of the encoding is then ``clip(p - t, 0, 1)``, so that two
    floats a row stand for T, and their precision does not depend on the numbers' size. Numbers outside the range seen
    have the position 0 or T (the paper lets the outer bins run on linearly).

    ``autodis`` (Guo et al., arXiv 2012.08986) stores sign(x) ln(1 + |x|), standardised and bounded by 8.

    Missing (null, NaN) has a learned vector of its own.

    Args:
        name: field name.
        config: see :class:`~genrec_adapters.field_types.configs.NumericEmbeddingConfig`.

    Example::

        >>> field = NumericEmbedding("I1", NumericEmbeddingConfig(num_bins=2))
        >>> fitter = field.fitter()
        >>> fitter.update(pl.DataFrame({"I1": [0, 1, 5]}))
        >>> fitted = fitter.finish()
        >>> fitted.state().json
        {'edges': [0.0, 1.0, 5.0]}
        >>> pl.DataFrame({"I1": [0.5, 3.0, 99.0, None]}).select(fitted.encode())["I1"].to_list()
        [[0.5, 0.0], [1.5, 0.0], [2.0, 0.0], [0.0, 1.0]]
    """

    def __init__(self, name: str, config: NumericEmbeddingConfig) -> None:
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
        if self.config.method == "autodis":
            mean, scale = moments(np.sign(values) * np.log1p(np.abs(values)), table["count"].to_numpy())
            return self.restore(FieldState(json={"mean": mean, "scale": scale}))
        edges = [0.0]
        if len(values):
            probabilities = np.arange(self.config.num_bins + 1) / self.config.num_bins
            edges = np.unique(quantiles(table, probabilities)).tolist()
        return self.restore(FieldState(json={"edges": edges}))

    def restore(self, state: FieldState) -> Fitted:
        """The field with the edges or moments of ``state``."""
        if self.config.method == "autodis":
            value = (log1p(number(self.column)) - state.json["mean"]) / state.json["scale"]
            value = value.clip(-_AUTODIS_BOUND, _AUTODIS_BOUND)
            params = {
                "method": "autodis",
                "bins": self.config.num_bins,
                "temperature": self.config.temperature,
                "skip": self.config.skip,
            }
        else:
            edges = state.json["edges"]
            value = _position(number(self.column), np.asarray(edges, dtype=np.float64))
            params = {"method": "piecewise-linear", "bins": max(1, len(edges) - 1)}
        feature = DenseFeature(name=self.name, width=2, params=params)
        return Fitted(
            spec=FieldSpec(name=self.name, type="numeric-embedding", dense=(feature,)),
            expressions=(with_missing_indicator(value, number(self.column).is_null(), default=0.0),),
            field_state=state,
        )


def _position(value: pl.Expr, edges: np.ndarray) -> pl.Expr:
    places = np.arange(len(edges), dtype=np.float64)

    def of_series(series: pl.Series) -> pl.Series:
        filled = series.fill_null(edges[0])
        return pl.Series(series.name, np.interp(filled.to_numpy(), edges, places))

    missing = value.is_null()
    position = value.map_batches(of_series, return_dtype=pl.Float64, is_elementwise=True)
    return pl.when(missing).then(None).otherwise(position)
