"""``behaviour``: a user's past events and the item at hand, one id each, for a sequence encoder to read."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from genrec_adapters.field_types.base import Fitted
from genrec_adapters.field_types.columns import text
from genrec_adapters.field_types.configs import BehaviourConfig, condition_name
from genrec_adapters.field_types.vocabulary import OOV, Ids, ValueCounter, VocabularyIds, ids_for
from genrec_registry import BehaviourSpec, FieldFitter, FieldSpec, FieldState, SparseFeature
from genrec_registry.contracts import ColumnKind


class Behaviour:
    """History and target of a row, unpooled: implements ``FieldType``.

    Features are called ``{name}.{feature}`` and, for the target, ``{name}.{feature}.target``. An item feature has one
    vocabulary (and one table) for history and target, counted over both columns of the training rows; a condition has
    one of its own. Unknown values have id 0.

    The list of items decides how many events a row has: a null or empty item is no event and is dropped, together with
    the values at its place in all other lists; then the last ``max_length`` are kept. A list that is shorter than that
    of the items has unknown values where it ends; what it has beyond is not read.

    Args:
        name: field name.
        config: see :class:`~genrec_adapters.field_types.configs.BehaviourConfig`.

    Example::

        >>> field = Behaviour("past", BehaviourConfig(conditions=("history_action",), max_length=2))
        >>> rows = pl.DataFrame({
        ...     "item": ["a", "z"],
        ...     "history_item": [["b", None, "a", "b"], []],
        ...     "history_action": [["view", "view", "buy"], None],
        ... })
        >>> fitter = field.fitter()
        >>> fitter.update(rows)
        >>> fitted = fitter.finish()
        >>> rows.select(fitted.encode()).rows()
        [([1, 2], [2, 0], 1), ([], [], 3)]
        >>> fitted.spec.behaviour.features
        ('past.item', 'past.action', 'past.item.target')
    """

    def __init__(self, name: str, config: BehaviourConfig) -> None:
        self.name = name
        self.config = config
        #: item feature -> (column of the target, list column of the history); the item itself comes first
        self.items = {"item": (config.item, config.history)}
        self.items |= {name: (one.target, one.history) for name, one in config.attributes.items()}
        self.conditions = {condition_name(column): column for column in config.conditions}

    @property
    def columns(self) -> Mapping[str, ColumnKind]:
        """Target and history of each item feature, and the conditions."""
        lists: ColumnKind = "list" if self.config.separator is None else "string"
        columns: dict[str, ColumnKind] = {target: "string" for target, _ in self.items.values()}
        return columns | dict.fromkeys([*(past for _, past in self.items.values()), *self.conditions.values()], lists)

    def _list(self, column: str) -> pl.Expr:
        """The column as a list of texts with everything in its place; null as the empty list."""
        if self.config.separator is None:
            value = pl.col(column).cast(pl.List(pl.String), strict=False)
        else:
            value = pl.col(column).cast(pl.String, strict=False).str.split(self.config.separator)
        return value.fill_null(pl.lit([], dtype=pl.List(pl.String)))

    def _events(self, column: str) -> pl.Expr:
        """The column's texts at the events that are kept, null where its list has ended."""
        element = pl.element()
        is_event = (element.is_not_null() & (element != "")).fill_null(False)
        places = self._list(self.config.history).list.eval(is_event.arg_true()).list.tail(self.config.max_length)
        return self._list(column).list.gather(places, null_on_oob=True)

    def fitter(self) -> FieldFitter:
        """Counts the values of conditions, and in mode ``vocabulary`` those of the item features."""
        return _Fitter(self)

    def counted(self) -> dict[str, list[pl.Expr]]:
        """For each feature with a vocabulary, where its values stand."""
        found = {name: [self._list(column)] for name, column in self.conditions.items()}
        if self.config.mode == "vocabulary":
            found |= {name: [text(target), self._list(past)] for name, (target, past) in self.items.items()}
        return found

    def restore(self, state: FieldState) -> Fitted:
        """The field with the vocabularies of ``state``."""
        length = self.config.max_length
        sparse: list[SparseFeature] = []
        expressions: list[pl.Expr] = []

        def add(feature: str, ids: Ids, expression: pl.Expr, table: str, max_length: int) -> str:
            name = f"{self.name}.{feature}"
            sparse.append(
                SparseFeature(
                    name=name, num_embeddings=ids.end, max_length=max_length, pooling="none", table=self._table(table)
                )
            )
            expressions.append(expression)
            return name

        item_ids: dict[str, Ids] = {}
        for name in self.items:
            tables = {"vocabulary": state.tables[name]} if name in state.tables else {}
            item_ids[name] = ids_for(self.config, tables)
        condition_ids = {name: VocabularyIds(state.tables[name]["value"], first=OOV + 1) for name in self.conditions}
        items = [
            add(
                name,
                item_ids[name],
                self._events(past).list.eval(item_ids[name].of(_value(pl.element()))),
                name,
                length,
            )
            for name, (_, past) in self.items.items()
        ]
        conditions = [
            add(name, ids, self._events(self.conditions[name]).list.eval(ids.of(_value(pl.element()))), name, length)
            for name, ids in condition_ids.items()
        ]
        targets = [
            add(f"{name}.target", item_ids[name], item_ids[name].of(_value(text(target))), name, 1)
            for name, (target, _) in self.items.items()
        ]
        behaviour = BehaviourSpec(
            items=tuple(items), conditions=tuple(conditions), targets=tuple(targets), max_length=length
        )
        return Fitted(
            spec=FieldSpec(name=self.name, type="behaviour", sparse=tuple(sparse), behaviour=behaviour),
            expressions=tuple(expressions),
            field_state=state,
        )

    def _table(self, feature: str) -> str:
        return f"{self.name}_{feature}"


def _value(texts: pl.Expr) -> pl.Expr:
    """The text, null where it is empty: an empty text is no value, in no vocabulary and in no bucket."""
    return texts.replace("", None)


class _Fitter:
    """Counts values of several features: implements ``FieldFitter``."""

    def __init__(self, field: Behaviour) -> None:
        self._field = field
        self._values = field.counted()
        self._counters = {name: ValueCounter() for name in self._values}

    def update(self, chunk: pl.DataFrame) -> None:
        """Count one chunk's values."""
        for name, expressions in self._values.items():
            for expression in expressions:
                values = chunk.select(expression.alias("value")).to_series()
                if values.dtype == pl.List:
                    values = values.explode(empty_as_null=False, keep_nulls=False)
                self._counters[name].add(values.replace("", None))

    def finish(self) -> Fitted:
        """The field with the vocabularies found."""
        config, tables = self._field.config, {}
        for name, counter in self._counters.items():
            if name in self._field.items:
                tables[name] = counter.counts(min_count=config.min_count, max_size=config.max_size)
            else:
                tables[name] = counter.counts()
        return self._field.restore(FieldState(tables=tables))
