"""Field types with several ids a row: ``multi-hot`` keeps the first, ``sequence`` the last ones."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from genrec_adapters.field_types.base import Fitted, NothingToFit
from genrec_adapters.field_types.columns import items
from genrec_adapters.field_types.configs import IdListConfig, MultiHotConfig, SequenceConfig
from genrec_adapters.field_types.vocabulary import Counting, ids_for
from genrec_registry import FieldFitter, FieldSpec, FieldState, SparseFeature
from genrec_registry.contracts import ColumnKind


class _IdList:
    """What the two types share; they differ in which ids they keep of a row that has too many."""

    type: str

    def __init__(self, name: str, config: IdListConfig) -> None:
        self.name = name
        self.config = config
        self.column = config.column or name

    def _keep(self, ids: pl.Expr) -> pl.Expr:
        raise NotImplementedError

    @property
    def columns(self) -> Mapping[str, ColumnKind]:
        """The one column: a list, or text if a separator is set."""
        return {self.column: "list" if self.config.separator is None else "string"}

    def fitter(self) -> FieldFitter:
        """Counts all items in mode ``vocabulary``, those beyond max_length too; learns nothing in mode ``hash``."""
        if self.config.mode == "hash":
            return NothingToFit(self.restore)
        return Counting(
            items(self.column, self.config.separator),
            min_count=self.config.min_count,
            max_size=self.config.max_size,
            restore=self.restore,
        )

    def restore(self, state: FieldState) -> Fitted:
        """The field with the vocabulary of ``state``."""
        ids = ids_for(self.config, state.tables)
        kept = self._keep(items(self.column, self.config.separator))
        feature = SparseFeature(
            name=self.name,
            num_embeddings=ids.end,
            max_length=self.config.max_length,
            pooling=self.config.pooling,
            table=self.config.table,
        )
        return Fitted(
            spec=FieldSpec(name=self.name, type=self.type, sparse=(feature,)),
            expressions=(kept.list.eval(ids.of(pl.element())),),
            field_state=state,
        )


class MultiHot(_IdList):
    """A set of ids a row: implements ``FieldType``.

    Unknown items have id 0; null and empty items are dropped; a row without items has the empty list, which pools to
    zeros. Repeated items stay repeated.

    Args:
        name: field name.
        config: see :class:`~genrec_adapters.field_types.configs.MultiHotConfig`.

    Example::

        >>> field = MultiHot("genres", MultiHotConfig(separator="|", max_length=2))
        >>> fitter = field.fitter()
        >>> fitter.update(pl.DataFrame({"genres": ["war|drama", "drama", None]}))
        >>> fitted = fitter.finish()
        >>> pl.DataFrame({"genres": ["war|new|drama", ""]}).select(fitted.encode())["genres"].to_list()
        [[2, 0], []]
    """

    type = "multi-hot"

    def __init__(self, name: str, config: MultiHotConfig) -> None:
        super().__init__(name, config)

    def _keep(self, ids: pl.Expr) -> pl.Expr:
        return ids.list.head(self.config.max_length)


class Sequence(_IdList):
    """Ids in time order a row: implements ``FieldType``. Items as in :class:`MultiHot`, but the last ones are kept.

    Args:
        name: field name.
        config: see :class:`~genrec_adapters.field_types.configs.SequenceConfig`.

    Example::

        >>> field = Sequence("history", SequenceConfig(max_length=2, mode="hash", num_buckets=9, table="item"))
        >>> fitted = field.fitter().finish()
        >>> fitted.spec.sparse[0].table, fitted.spec.sparse[0].num_embeddings
        ('item', 10)
        >>> pl.DataFrame({"history": [["a", "b", "c"], []]}).select(fitted.encode())["history"].list.len().to_list()
        [2, 0]
    """

    type = "sequence"

    def __init__(self, name: str, config: SequenceConfig) -> None:
        super().__init__(name, config)

    def _keep(self, ids: pl.Expr) -> pl.Expr:
        return ids.list.tail(self.config.max_length)
