"""``numeric-bucket``: a number becomes the id of its bucket."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl

from genrec_adapters.field_types.base import Fitted
from genrec_adapters.field_types.columns import number
from genrec_adapters.field_types.configs import NumericBucketConfig
from genrec_adapters.field_types.histogram import Measuring, quantiles
from genrec_adapters.field_types.log_squares import CountingLogSquares, LogSquareIds
from genrec_registry import FieldFitter, FieldSpec, FieldState, SparseFeature
from genrec_registry.contracts import ColumnKind

MISSING = 0


class NumericBucket:
    """The id of a number's bucket: implements ``FieldType``.

    Method ``criteo`` is the rule of the Criteo challenge's winners, which BARS keeps: ``floor(ln(x)^2)`` for x > 2,
    else x cut to an integer (negative numbers too); each result, and missing, is a vocabulary value like a category's,
    and id 0 is out of vocabulary. Methods ``quantile`` and ``uniform``: id 0 is missing, the buckets follow in
    ascending order, and a number outside the range seen falls into the first or last bucket.

    Args:
        name: field name.
        config: see :class:`~genrec_adapters.field_types.configs.NumericBucketConfig`.

    Example::

        >>> field = NumericBucket("I1", NumericBucketConfig())
        >>> fitter = field.fitter()
        >>> fitter.update(pl.DataFrame({"I1": [1, 1, 1, 2, 100, 101, None]}))
        >>> fitted = fitter.finish()
        >>> fitted.state().tables["vocabulary"].rows()
        [('1', 3), ('21', 2), ('', 1), ('2', 1)]
        >>> pl.DataFrame({"I1": [1.9, 100, None, 9]}).select(fitted.encode())["I1"].to_list()
        [1, 2, 3, 0]
    """

    def __init__(self, name: str, config: NumericBucketConfig) -> None:
        self.name = name
        self.config = config
        self.column = config.column or name

    @property
    def columns(self) -> Mapping[str, ColumnKind]:
        """The one column."""
        return {self.column: "number"}

    def _number(self) -> pl.Expr:
        value = number(self.column)
        return value if self.config.fill_na is None else value.fill_null(self.config.fill_na)

    def fitter(self) -> FieldFitter:
        """Counts buckets, or measures the distribution."""
        if self.config.method == "criteo":
            config = self.config
            return CountingLogSquares(self.column, config.fill_na, min_count=config.min_count, restore=self.restore)
        return Measuring(self._number(), self._from_distribution)

    def _from_distribution(self, table: pl.DataFrame) -> Fitted:
        inner = np.arange(1, self.config.num_buckets) / self.config.num_buckets
        edges: list[float] = []
        if table.height and self.config.method == "quantile":
            edges = np.unique(quantiles(table, inner)).tolist()
        elif table.height:
            low, high = float(table["value"][0]), float(table["value"][-1])
            edges = np.unique(low + inner * (high - low)).tolist()
        return self.restore(FieldState(json={"edges": edges}))

    def restore(self, state: FieldState) -> Fitted:
        """The field with the vocabulary or the edges of ``state``."""
        if self.config.method == "criteo":
            ids = LogSquareIds(state.tables["vocabulary"]["value"], self.config.fill_na)
            num_embeddings, encoded = ids.end, ids.of(pl.col(self.column))
        else:
            edges = pl.Series(state.json["edges"], dtype=pl.Float64)
            num_embeddings = edges.len() + 2
            # Bucket k holds the numbers in (edge k-1, edge k].
            place = pl.lit(edges).search_sorted(self._number(), side="left").cast(pl.Int32) + 1
            encoded = pl.when(self._number().is_null()).then(pl.lit(MISSING, dtype=pl.Int32)).otherwise(place)
        feature = SparseFeature(name=self.name, num_embeddings=num_embeddings)
        return Fitted(
            spec=FieldSpec(name=self.name, type="numeric-bucket", sparse=(feature,)),
            expressions=(encoded,),
            field_state=state,
        )
