"""The raw columns that an exported model reads, and rows brought to the types that training saw. Torch-free.

Text of a number depends on its type (``7`` or ``7.0``), and so do the ids of a category made from it. So the types of
the training rows are part of an export, and what arrives is turned into these, or refused with row and column.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl
import pyarrow as pa

from genrec_adapters.state import checked_state
from genrec_registry import DataError, did_you_mean
from genrec_registry.contracts import ColumnKind

#: of a column's values, or of the elements of its lists
ValueType = Literal["text", "integer", "decimal"]

_POLARS: Mapping[ValueType, Any] = {"text": pl.String, "integer": pl.Int64, "decimal": pl.Float64}
_ARROW: Mapping[ValueType, pa.DataType] = {"text": pa.string(), "integer": pa.int64(), "decimal": pa.float64()}
_WORDS: Mapping[ValueType, str] = {"text": "text", "integer": "an integer", "decimal": "a number"}
_LOW, _HIGH = -(2**63), 2**63
_SHOWN = 40


class RowError(DataError):
    """A row that cannot be scored.

    Args:
        row: its index in the table, from 0; None where the whole column is at fault.
        column: the raw column; None where the fault lies between columns.
        problem: what was found and what was expected.

    Example::

        >>> print(RowError(2, "C1", "found 1.5, expected text"))
        row 2, column C1: found 1.5, expected text
    """

    def __init__(self, row: int | None, column: str | None, problem: str) -> None:
        places = [f"row {row}"] * (row is not None) + [f"column {column}"] * (column is not None)
        super().__init__(f"{', '.join(places)}: {problem}" if places else problem)
        self.row, self.column, self.problem = row, column, problem


@dataclass(frozen=True, kw_only=True)
class RawColumn:
    """One raw column.

    Args:
        name: of the column.
        kind: what the dataset calls it: ``string``, ``number`` or ``list``.
        values: type of its values, or of its lists' elements, in the training rows.
        required: whether a table must have it; a value in it may always be null, which is missing.
        fields: the fields that read it.
    """

    name: str
    kind: ColumnKind
    values: ValueType
    required: bool = True
    fields: tuple[str, ...] = ()

    @property
    def arrow(self) -> pa.DataType:
        """The Arrow type of the column, as :meth:`RawSchema.table` makes it."""
        return pa.list_(_ARROW[self.values]) if self.kind == "list" else _ARROW[self.values]


@dataclass(frozen=True, kw_only=True)
class RawSchema:
    """The raw columns of a model.

    Args:
        columns: those that a field reads, without the label.
        label: name of the label column, which is never read.
        nulls: words that the dataset's files have for a missing text.

    Example::

        >>> city = RawColumn(name="city", kind="string", values="text")
        >>> schema = RawSchema(columns=(city, RawColumn(name="age", kind="number", values="integer")), label="y")
        >>> schema.frame(pa.table({"city": ["Ulm", None], "age": [7.0, 8.0]})).rows()
        [('Ulm', 7), (None, 8)]
        >>> schema.table([{"city": "Ulm", "age": 7.5}])
        Traceback (most recent call last):
        genrec_plugins.serving.schema.RowError: row 0, column age: found 7.5, expected an integer
    """

    columns: tuple[RawColumn, ...]
    label: str
    nulls: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain data; :meth:`of` takes it back."""
        columns = [
            {
                "name": column.name,
                "kind": column.kind,
                "values": column.values,
                "required": column.required,
                "fields": list(column.fields),
            }
            for column in self.columns
        ]
        return {"columns": columns, "label": self.label, "nulls": list(self.nulls)}

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> RawSchema:
        """A schema from what :meth:`as_dict` gave; raises ValueError where it did not."""
        return checked_state(cls, data)

    def table(self, records: Sequence[Mapping[str, Any]]) -> pa.Table:
        """Rows as JSON has them, as a table.

        Args:
            records: column -> value: text, a number, None, or a list of these. Further keys are left alone.

        Raises:
            RowError: a record lacks a column, or has something else in it; a missing value is written as null.
        """
        arrays = []
        for column in self.columns:
            values = [_of_record(column, record, row) for row, record in enumerate(records)]
            arrays.append(pa.array(values, type=column.arrow))
        return pa.Table.from_arrays(arrays, names=[column.name for column in self.columns])

    def frame(self, table: pa.Table) -> pl.DataFrame:
        """A table's columns in the types of the training rows.

        Args:
            table: has the columns, in any order; further ones are left alone. A number may have any type of numbers,
                and stand in a text column if it is an integer; NaN is missing.

        Raises:
            RowError: a column is missing, or a value in it is of another type.
        """
        names = table.column_names
        for column in self.columns:
            if names.count(column.name) != 1:
                problem = "is there twice" if column.name in names else f"is missing{did_you_mean(column.name, names)}"
                raise RowError(None, column.name, f"{problem}; expected once, with null for what is missing")
        chosen = table.select([column.name for column in self.columns])
        try:
            read = _read(chosen)
        except _UNREADABLE:
            for column in self.columns:
                _read_column(chosen, column.name)
            raise
        return read.select([self._series(column, read[column.name]) for column in self.columns])

    def _series(self, column: RawColumn, series: pl.Series) -> pl.Series:
        if column.kind == "list":
            return _lists(column, series)
        values = _values(series, column.values, lambda place: (place, column.name))
        if column.values == "text" and self.nulls:
            values = values.set(values.is_in(list(self.nulls)).fill_null(False), None)
        return values.alias(column.name)


_UNREADABLE = (pa.ArrowException, pl.exceptions.PolarsError, pl.exceptions.PanicException, ValueError)


def _read(table: pa.Table) -> pl.DataFrame:
    table.validate(full=True)  # polars panics on text that is not UTF-8
    return pl.DataFrame(pl.from_arrow(table, rechunk=True))


def _read_column(table: pa.Table, name: str) -> None:
    """Raise RowError if this is the column that cannot be read."""
    try:
        _read(table.select([name]))
    except _UNREADABLE as error:
        problem = str(error).splitlines()[0]
        raise RowError(None, name, f"cannot be read ({problem}), expected text, numbers or lists") from None


def _of_record(column: RawColumn, record: Mapping[str, Any], row: int) -> Any:
    if not isinstance(record, Mapping):
        raise RowError(row, None, f"found {type(record).__name__}, expected an object with the columns as keys")
    if column.name not in record:
        hint = did_you_mean(column.name, record) if record else ""
        raise RowError(row, column.name, f"is missing{hint}; write null where there is no value")
    value = record[column.name]
    if column.kind != "list" or value is None:
        return _of_json(value, column, row)
    if not isinstance(value, list | tuple):
        raise RowError(row, column.name, f"found {_shown(value)}, expected a list")
    return [_of_json(element, column, row) for element in value]


def _of_json(value: Any, column: RawColumn, row: int) -> Any:
    if value is None:
        return None
    kind: ValueType = column.values
    if isinstance(value, float) and math.isnan(value) and kind != "text":
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        if kind == "text":
            return str(value)
        if kind == "decimal" and abs(value) < 2**1023:
            return float(value)
        if _LOW <= value < _HIGH:
            return value
    elif isinstance(value, float) and kind == "decimal":
        return value
    elif isinstance(value, float) and kind == "integer" and value.is_integer() and abs(value) < 2**53:
        return int(value)
    elif isinstance(value, str) and kind == "text":
        try:
            value.encode()
        except UnicodeEncodeError:
            raise RowError(row, column.name, "found half of a UTF-16 pair, expected text") from None
        return value
    raise RowError(row, column.name, f"found {_shown(value)}, expected {_WORDS[kind]}")


def _lists(column: RawColumn, series: pl.Series) -> pl.Series:
    if series.dtype == pl.Null:
        return series.cast(pl.List(_POLARS[column.values]))
    if isinstance(series.dtype, pl.Array):
        series = series.arr.to_list()
    if not isinstance(series.dtype, pl.List):
        row = int(series.is_not_null().arg_max() or 0)
        raise RowError(row, column.name, f"found {_shown(series[row])}, expected a list")
    if series.dtype.inner == _POLARS[column.values] and column.values != "decimal":
        return series
    rows = pl.Series(range(len(series)))
    lengths = series.list.len().fill_null(0)
    owner = rows.repeat_by(lengths).explode(empty_as_null=False)
    flat = series.explode(empty_as_null=False, keep_nulls=False)
    values = _values(flat, column.values, lambda place: (int(owner[place]), column.name))
    offsets = pl.concat([pl.Series([0], dtype=pl.Int64), lengths.cast(pl.Int64).cum_sum()])
    mask = series.is_null().to_arrow() if series.null_count() else None
    lists = pa.LargeListArray.from_arrays(
        offsets.to_arrow(), values.to_arrow(compat_level=pl.CompatLevel.oldest()), mask=mask
    )
    return pl.Series(column.name, pl.from_arrow(lists))


def _values(series: pl.Series, wanted: ValueType, place_of: Callable[[int], tuple[int, str]]) -> pl.Series:
    """Values in the wanted type; ``place_of`` gives row and column of a place."""
    dtype = series.dtype
    if isinstance(dtype, pl.Categorical | pl.Enum):
        series, dtype = series.cast(pl.String), pl.String()
    if dtype == pl.Null or dtype == _POLARS[wanted]:
        return series.cast(_POLARS[wanted]).fill_nan(None) if wanted == "decimal" else series.cast(_POLARS[wanted])
    if wanted == "text":
        fits = dtype.is_integer() or (dtype.is_temporal() and dtype != pl.Duration)
        cast = series.cast(pl.String) if fits else None
    else:
        cast = _number(series, wanted)
    bad = series.is_not_null() if cast is None else series.is_not_null() & cast.is_null()
    if cast is not None and dtype.is_float():
        bad = bad & ~series.is_nan().fill_null(False)
    if bad.any():
        place = int(bad.arg_max() or 0)
        row, name = place_of(place)
        raise RowError(row, name, f"found {_shown(series[place])}, expected {_WORDS[wanted]}")
    return series.cast(_POLARS[wanted], strict=False) if cast is None else cast


def _number(series: pl.Series, wanted: ValueType) -> pl.Series | None:
    """The numbers of a series, null where they do not fit; None where its type has none."""
    dtype = series.dtype
    if dtype.is_decimal():
        series, dtype = series.cast(pl.Float64), pl.Float64()
    if not (dtype.is_integer() or dtype.is_float() or dtype == pl.Boolean):
        return None
    if wanted == "decimal":
        return series.cast(pl.Float64).fill_nan(None)
    if dtype.is_float():
        wide = series.cast(pl.Float64)
        whole = wide.is_finite() & (wide == wide.floor()) & (wide.abs() < 2**53)
        return wide.set(~whole.fill_null(False), None).cast(pl.Int64)
    return series.cast(pl.Int64, strict=False)


def _shown(value: Any) -> str:
    text = repr(value.to_list() if isinstance(value, pl.Series) else value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + ".."
