"""Field types whose value is one category: ``categorical``, and ``cross`` of two columns."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from genrec_adapters.field_types.base import Fitted, NothingToFit
from genrec_adapters.field_types.columns import text
from genrec_adapters.field_types.configs import CategoricalConfig, CrossConfig
from genrec_adapters.field_types.vocabulary import OOV, Counting, ids_for
from genrec_registry import FieldFitter, FieldSpec, FieldState, SparseFeature
from genrec_registry.contracts import ColumnKind

_BETWEEN = "\x1f"  # ASCII's unit separator: does not occur in real values, so that (ab, c) and (a, bc) differ


class Categorical:
    """One id a row: implements ``FieldType``.

    Ids: 0 is out of vocabulary; 1 is missing if ``missing: own``; the values, or hash buckets, follow.

    Args:
        name: field name.
        config: see :class:`~genrec_adapters.field_types.configs.CategoricalConfig`.

    Example::

        >>> field = Categorical("C1", CategoricalConfig(min_count=2))
        >>> fitter = field.fitter()
        >>> fitter.update(pl.DataFrame({"C1": ["x", "y", "x", None, ""]}))
        >>> fitted = fitter.finish()
        >>> pl.DataFrame({"C1": ["x", "y", None]}).select(fitted.encode())["C1"].to_list()
        [2, 0, 1]
    """

    def __init__(self, name: str, config: CategoricalConfig) -> None:
        self.name = name
        self.config = config
        self.column = config.column or name

    @property
    def columns(self) -> Mapping[str, ColumnKind]:
        """The one column."""
        return {self.column: "string"}

    def fitter(self) -> FieldFitter:
        """Counts values in mode ``vocabulary``; learns nothing in mode ``hash``."""
        if self.config.mode == "hash":
            return NothingToFit(self.restore)
        known = self.config.missing == "value"
        return Counting(
            pl.col(self.column).cast(pl.String, strict=False),
            min_count=self.config.min_count,
            max_size=self.config.max_size,
            restore=self.restore,
            empty=known,
            nulls=known,
        )

    def restore(self, state: FieldState) -> Fitted:
        """The field with the vocabulary of ``state``."""
        own = self.config.missing == "own"
        ids = ids_for(self.config, state.tables, first=OOV + 1 + own)
        # The missing ones are put in at the end: filling texts costs five times as much as filling ids.
        values = pl.col(self.column).cast(pl.String, strict=False)
        encoded = ids.of(values)
        if self.config.missing == "value":
            encoded = pl.when(values.is_null()).then(pl.lit(ids.of_one(""), dtype=pl.Int32)).otherwise(encoded)
        else:
            missing = values.is_null() | (values == "")
            encoded = pl.when(missing).then(pl.lit(OOV + own, dtype=pl.Int32)).otherwise(encoded)
        feature = SparseFeature(name=self.name, num_embeddings=ids.end, table=self.config.table)
        return Fitted(
            spec=FieldSpec(name=self.name, type="categorical", sparse=(feature,)),
            expressions=(encoded,),
            field_state=state,
        )


class Cross:
    """One id a row for the pair of two columns' values: implements ``FieldType``.

    A missing part counts as the empty text, so that (x, missing) is a pair like any other. Id 0 is out of vocabulary.

    Args:
        name: field name.
        config: see :class:`~genrec_adapters.field_types.configs.CrossConfig`.

    Example::

        >>> field = Cross("site_x_app", CrossConfig(columns=("site", "app")))
        >>> fitter = field.fitter()
        >>> fitter.update(pl.DataFrame({"site": ["s", "s", "t"], "app": ["a", "a", None]}))
        >>> rows = pl.DataFrame({"site": ["s", "t", "t"], "app": ["a", "", "a"]})
        >>> rows.select(fitter.finish().encode())["site_x_app"].to_list()
        [1, 2, 0]
    """

    def __init__(self, name: str, config: CrossConfig) -> None:
        self.name = name
        self.config = config

    @property
    def columns(self) -> Mapping[str, ColumnKind]:
        """The two columns."""
        return dict.fromkeys(self.config.columns, "string")

    def _pair(self) -> pl.Expr:
        return pl.concat_str([text(column) for column in self.config.columns], separator=_BETWEEN)

    def fitter(self) -> FieldFitter:
        """Counts pairs in mode ``vocabulary``; learns nothing in mode ``hash``."""
        if self.config.mode == "hash":
            return NothingToFit(self.restore)
        return Counting(
            self._pair(), min_count=self.config.min_count, max_size=self.config.max_size, restore=self.restore
        )

    def restore(self, state: FieldState) -> Fitted:
        """The field with the vocabulary of ``state``."""
        ids = ids_for(self.config, state.tables)
        feature = SparseFeature(name=self.name, num_embeddings=ids.end, table=self.config.table)
        return Fitted(
            spec=FieldSpec(name=self.name, type="cross", sparse=(feature,)),
            expressions=(ids.of(self._pair()),),
            field_state=state,
        )
