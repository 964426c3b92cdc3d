"""What the field-type suite examines: a field type with its config, and rows to try it on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from pydantic import BaseModel

from genrec_plugins.testing.errors import ConformanceError
from genrec_registry import (
    DenseFeature,
    FieldSpec,
    FieldType,
    FieldTypeRecord,
    Registry,
    default_registry,
    explain,
    parse_component,
)
from genrec_registry.contracts import FittedField

Sample = pl.DataFrame | Callable[[], pl.DataFrame]
KINDS = ("string", "number", "list")


@dataclass(frozen=True, kw_only=True)
class FieldSubject:
    """One configured field type, ready to be fitted.

    Args:
        record: the field type's record.
        config: what its factory is given.
        sample: rows with the columns it reads.
    """

    record: FieldTypeRecord
    config: Any
    sample: pl.DataFrame

    def build(self, name: str = "field") -> FieldType:
        """A new field of this name, that reads the same columns whatever its name."""
        field: FieldType = self.record.load_factory()(name, self.config)
        return field

    def fit(self, chunks: Iterable[pl.DataFrame] | None = None, name: str = "field") -> FittedField:
        """A field fitted on these chunks, or on the whole sample."""
        fitter = self.build(name).fitter()
        for chunk in [self.sample] if chunks is None else chunks:
            fitter.update(chunk)
        return fitter.finish()


def field_subject(
    component: str | FieldTypeRecord,
    config: Mapping[str, Any] | BaseModel | None = None,
    sample: Sample = pl.DataFrame,
    *,
    registry: Registry | None = None,
) -> FieldSubject:
    """Bind a field type, its config and sample rows.

    Args:
        component: a registered name, or a record.
        config: its options: a mapping, a config object, or nothing. It has to name the columns, if the field type would
            otherwise take the field's name for one.
        sample: rows with the columns it reads, or a function that makes them.
        registry: where names are looked up; the installed plugins if None.

    Raises:
        PluginError: the name is unknown.
        ConfigError: the config is wrong.

    Example::

        >>> subject = field_subject("categorical", {"column": "C1"}, pl.DataFrame({"C1": ["a", "b", "a"]}))
        >>> subject.fit().spec.sparse[0].num_embeddings
        3
    """
    if isinstance(component, str):
        registry = registry or default_registry()
        found = registry.get("field-type", component)
        data = config if isinstance(config, BaseModel) else {"type": found.qualified_name, **(config or {})}
        record, config = found.record, parse_component(registry, "field-type", data)
    else:
        record = component
        if not isinstance(config, BaseModel):
            config = explain(record.load_config(), dict(config or {}), where=f"field type {record.name}")
    if not isinstance(record, FieldTypeRecord):
        raise ConformanceError(f"'{component}' is a {type(record).__name__}, expected a FieldTypeRecord")
    return FieldSubject(record=record, config=config, sample=sample() if callable(sample) else sample)


def encode(fitted: FittedField, rows: pl.DataFrame) -> pl.DataFrame:
    """Evaluate a field's expressions as the preprocessing does: in one ``select``, beside others.

    Raises:
        ConformanceError: an expression raises, or gives another number of rows.
    """
    try:
        # A second column of the rows' height: an expression that gives one value for all rows would be repeated.
        encoded = rows.lazy().select(*fitted.encode(), pl.int_range(pl.len()).alias("")).collect().drop("")
    except Exception as error:
        raise ConformanceError(
            f"encode raises {type(error).__name__} on {rows.head(3).rows()}...: {error}; unknown, missing and "
            "out-of-range values must have a defined result (cast with strict=False, fill nulls)"
        ) from error
    if encoded.height != rows.height:
        raise ConformanceError(f"encode gives {encoded.height} rows for {rows.height}; each row has exactly one result")
    return encoded


def feature_names(spec: FieldSpec) -> list[str]:
    """Names of the features, sparse first: the columns that ``encode`` gives."""
    return [*(sparse.name for sparse in spec.sparse), *(dense.name for dense in spec.dense)]


def expect_valid(spec: FieldSpec, encoded: pl.DataFrame) -> None:
    """Raise unless the columns are what the spec says: names, types, ids in range, lengths, finite floats, no nulls.

    Raises:
        ConformanceError: they are not.
    """
    expected = feature_names(spec)
    if encoded.columns != expected:
        raise ConformanceError(f"encode gives the columns {encoded.columns}, the spec has {expected}, in this order")
    for sparse in spec.sparse:
        series = encoded[sparse.name]
        id_type = pl.Int32 if sparse.dynamic is None else pl.Int64
        _expect_type(series, id_type if sparse.max_length == 1 else pl.List(id_type))
        if sparse.max_length > 1:
            longest = series.list.len().max()
            if longest is not None and longest > sparse.max_length:  # type: ignore[operator]
                raise ConformanceError(
                    f"'{sparse.name}' has {longest!r} ids in a row, max_length is {sparse.max_length}"
                )
            series = series.explode(empty_as_null=False) if series.len() else pl.Series(dtype=id_type)
            if series.null_count():
                raise ConformanceError(f"'{sparse.name}' has a null in a list of ids; drop it, or give it an id")
        wrong = series.filter((series < 0) | (series >= sparse.num_ids))
        if wrong.len():
            raise ConformanceError(
                f"'{sparse.name}' has the id {wrong[0]}, expected ids in [0, {sparse.num_ids}): "
                "FBGEMM would look another row up without a word"
            )
    _expect_equal_lengths(spec, encoded)
    for dense in spec.dense:
        series = encoded[dense.name]
        _expect_type(series, pl.Float32 if dense.width == 1 else pl.Array(pl.Float32, dense.width))
        if not np.isfinite(floats(encoded, [dense])).all():
            raise ConformanceError(f"'{dense.name}' has a value that is not finite; one such row spoils the model")


def _expect_equal_lengths(spec: FieldSpec, encoded: pl.DataFrame) -> None:
    if spec.behaviour is None:
        return
    first, *others = (*spec.behaviour.items, *spec.behaviour.conditions)
    lengths = encoded[first].list.len()
    for other in others:
        apart = (lengths != encoded[other].list.len()).arg_true()
        if apart.len():
            raise ConformanceError(
                f"'{first}' and '{other}' have lists of other lengths in row {apart[0]}: an encoder reads event i of "
                "each; drop a missing event from all of them"
            )


def _expect_type(series: pl.Series, expected: Any) -> None:
    if series.dtype != expected:
        raise ConformanceError(f"'{series.name}' is encoded as {series.dtype}, expected {expected}; cast it")
    if series.null_count():
        raise ConformanceError(f"'{series.name}' has {series.null_count()} nulls; every row needs an id or a number")


def floats(encoded: pl.DataFrame, features: Sequence[DenseFeature]) -> np.ndarray:
    """The dense columns side by side, ``[B, sum(width)]``."""
    columns = [
        encoded[feature.name].reshape((encoded.height, 1)) if feature.width == 1 else encoded[feature.name]
        for feature in features
    ]
    arrays = [column.to_numpy().reshape(encoded.height, -1) for column in columns]
    return np.concatenate(arrays, axis=1) if arrays else np.zeros((encoded.height, 0), np.float32)


_TEXTS = (
    None,
    "",
    " ",
    "never-seen-before",
    "\x00",
    "é日本😀",
    "x" * 5000,
    "nan",
    "-1",
    "1e999",
    "|",
    ",",
    ";;",
    "a|b|c,d",
)
_NUMBERS = (
    None,
    math.nan,
    math.inf,
    -math.inf,
    0.0,
    -0.0,
    1e308,
    -1e308,
    5e-324,
    -7.5,
    2.0**53,
    14102100.0,
    91.0,
    -181.0,
)


def hostile_rows(field: FieldType, sample: pl.DataFrame) -> pl.DataFrame:
    """Rows of missing, unknown and extreme values, in the column types of the sample.

    Args:
        field: says which columns it reads, and of what kind.
        sample: gives the columns' types.
    """
    height, columns = 42, []
    for step, (column, kind) in enumerate(field.columns.items(), start=1):
        dtype = sample.schema[column]
        values: Sequence[Any] = _TEXTS if kind == "string" else _NUMBERS
        if isinstance(dtype, pl.List | pl.Array):
            values = _hostile_lists(dtype, sample[column])
        # Columns go round at different speeds, so that every column meets every other's values.
        turned = [values[(row * step + row // len(values)) % len(values)] for row in range(height)]
        if isinstance(dtype, pl.List | pl.Array):
            columns.append(pl.Series(column, turned, dtype=pl.List(dtype.inner)))
        elif kind == "string" and dtype == pl.String:
            columns.append(pl.Series(column, turned, dtype=pl.String))
        else:
            numbers = [value if isinstance(value, float | None) else None for value in turned]
            columns.append(pl.Series(column, numbers, dtype=pl.Float64).cast(dtype, strict=False))
    return pl.DataFrame(columns)


def _hostile_lists(dtype: pl.List | pl.Array, series: pl.Series) -> list[Any]:
    text = dtype.inner == pl.String
    elements: list[Any] = list(_TEXTS if text else _NUMBERS)
    if not text and dtype.inner != pl.Float64:
        elements = pl.Series(elements, dtype=pl.Float64).cast(dtype.inner, strict=False).to_list()
    some = next((value for value in series.to_list() if value), elements)
    same_length = [[element] * len(some) for element in elements]
    return [None, [], [None], elements, elements * 20, list(some) * 2, *same_length]
