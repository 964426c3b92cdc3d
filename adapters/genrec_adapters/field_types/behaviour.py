"""``behaviour``: a user's past events and the item at hand, one id each, for a sequence encoder to read."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from genrec_adapters.field_types.base import Fitted
from genrec_adapters.field_types.columns import text
from genrec_adapters.field_types.configs import BehaviourConfig, condition_name
from genrec_adapters.field_types.vocabulary import OOV, Ids, ValueCounter, VocabularyIds, ids_for
from genrec_adapters.state import read_parquet
from genrec_registry import BehaviourSpec, DataError, FieldFitter, FieldSpec, FieldState, SparseFeature, did_you_mean
from genrec_registry.contracts import ColumnKind


class Behaviour:
    """History and target of a row, unpooled: implements ``FieldType``.

    Features are called ``{name}.{feature}`` and, for the target, ``{name}.{feature}.target``. An item feature has one
    vocabulary (and one table) for history and target, counted over both columns of the training rows; a condition has
    one of its own. Unknown values have id 0. An attribute has columns of its own, or is looked up in a table of items,
    which becomes part of the field's state.

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
        for attribute, one in config.attributes.items():
            self.items[attribute] = (one.target or config.item, one.history or config.history)
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

    @property
    def files(self) -> tuple[str, ...]:
        """Tables of items that attributes are taken from."""
        return tuple(dict.fromkeys(one.items for one in self.config.attributes.values() if one.items is not None))

    def item_tables(self) -> dict[str, pl.DataFrame]:
        """Attribute -> ``item`` and ``value``, for the attributes that are taken from a table of items.

        Raises:
            DataError: a table cannot be read, has an item twice, or lacks a column.
        """
        found = {}
        for name, one in self.config.attributes.items():
            if one.items is not None:
                found[name] = _item_values(one.items, one.column or name, f"fields.{self.name}.attributes.{name}")
        return found

    def fitter(self) -> FieldFitter:
        """Counts the values of conditions, and in mode ``vocabulary`` those of the item features."""
        return _Fitter(self)

    def counted(self, tables: Mapping[str, pl.DataFrame]) -> dict[str, list[pl.Expr]]:
        """For each feature with a vocabulary, where its values stand.

        Args:
            tables: of :meth:`item_tables`.
        """
        found = {name: [self._list(column)] for name, column in self.conditions.items()}
        if self.config.mode == "vocabulary":
            for name, (target, past) in self.items.items():
                of_events = self._list(past).list.eval(_value(pl.element(), tables.get(name)))
                found[name] = [_value(text(target), tables.get(name)), of_events]
        return found

    def restore(self, state: FieldState) -> Fitted:
        """The field with the vocabularies of ``state``."""
        length = self.config.max_length
        sparse: list[SparseFeature] = []
        expressions: list[pl.Expr] = []

        def add(feature: str, table: str, ids: Ids, expression: pl.Expr, max_length: int) -> str:
            name = f"{self.name}.{feature}"
            shared = f"{self.name}_{table}"
            size = ids.end
            sparse.append(
                SparseFeature(name=name, num_embeddings=size, max_length=max_length, pooling="none", table=shared)
            )
            expressions.append(expression)
            return name

        items, conditions, targets = [], [], []
        item_ids: dict[str, tuple[Ids, pl.DataFrame | None]] = {}
        for name, (_, past) in self.items.items():
            ids = ids_for(self.config, {"vocabulary": state.tables[name]} if name in state.tables else {})
            of_item = state.tables.get(_table_of(name))
            item_ids[name] = ids, of_item
            events = self._events(past).list.eval(ids.of(_value(pl.element(), of_item)))
            items.append(add(name, name, ids, events, length))
        for name, column in self.conditions.items():
            ids = VocabularyIds(state.tables[name]["value"], first=OOV + 1)
            events = self._events(column).list.eval(ids.of(_value(pl.element())))
            conditions.append(add(name, name, ids, events, length))
        for name, (target, _) in self.items.items():
            ids, of_item = item_ids[name]
            targets.append(add(f"{name}.target", name, ids, ids.of(_value(text(target), of_item)), 1))
        behaviour = BehaviourSpec(
            items=tuple(items), conditions=tuple(conditions), targets=tuple(targets), max_length=length
        )
        return Fitted(
            spec=FieldSpec(name=self.name, type="behaviour", sparse=tuple(sparse), behaviour=behaviour),
            expressions=tuple(expressions),
            field_state=state,
        )


def _table_of(attribute: str) -> str:
    """Name of the state's table that says which item has which value; no feature is called so."""
    return f"{attribute}@item"


def _value(texts: pl.Expr, of_item: pl.DataFrame | None = None) -> pl.Expr:
    """The text, or what the table says of the item of that name; null where it is empty.

    An empty text is no value: it is in no vocabulary and in no bucket.
    """
    if of_item is not None:
        texts = texts.replace_strict(of_item["item"], of_item["value"], default=None, return_dtype=pl.String)
    return texts.replace("", None)


def _item_values(path: str, column: str, where: str) -> pl.DataFrame:
    try:
        frame = read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        problem = str(error).splitlines()[0]
        raise DataError(
            f"{path}: cannot be read ({problem}), expected a Parquet table of items; mend {where}"
        ) from error
    for wanted in ("item", column):
        if wanted not in frame.columns:
            known = did_you_mean(wanted, frame.columns)
            raise DataError(f"{path}: has no column '{wanted}'{known}; mend {where}")
    if frame[column].dtype.is_nested():
        raise DataError(f"{path}: column '{column}' is {frame[column].dtype}, expected one value an item; mend {where}")
    values = frame.select(item=pl.col("item").cast(pl.String), value=pl.col(column).cast(pl.String)).drop_nulls()
    values = values.filter(pl.col("item") != "")
    twice = values.filter(pl.col("item").is_duplicated())
    if twice.height:
        raise DataError(f"{path}: item '{twice['item'][0]}' stands there twice, expected each once; mend {where}")
    return values


class _Fitter:
    """Counts values of several features: implements ``FieldFitter``."""

    def __init__(self, field: Behaviour) -> None:
        self._field = field
        self._tables = field.item_tables()
        self._values = field.counted(self._tables)
        self._counters = {name: ValueCounter() for name in self._values}

    def update(self, chunk: pl.DataFrame) -> None:
        """Count one chunk's values."""
        for name, expressions in self._values.items():
            for expression in expressions:
                values = chunk.select(expression.alias("value")).to_series()
                if values.dtype == pl.List:
                    values = values.explode(empty_as_null=False, keep_nulls=False)
                self._counters[name].add(values.replace("", None))

    def partial(self) -> FieldState:
        """The counts so far."""
        tables = [counter.partial(f"{name} ") for name, counter in self._counters.items()]
        return FieldState(tables={name: table for one in tables for name, table in one.items()})

    def absorb(self, partial: FieldState) -> None:
        """Add another fitter's counts."""
        for name, counter in self._counters.items():
            counter.absorb(partial.tables, f"{name} ")

    def finish(self) -> Fitted:
        """The field with the vocabularies found."""
        config, tables = self._field.config, {_table_of(name): frame for name, frame in self._tables.items()}
        for name, counter in self._counters.items():
            if name in self._field.items:
                tables[name] = counter.counts(min_count=config.min_count, max_size=config.max_size)
            else:
                tables[name] = counter.counts()
        return self._field.restore(FieldState(tables=tables))
