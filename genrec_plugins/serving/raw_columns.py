"""Which raw columns a run reads, and of what types they were in its training rows."""

from __future__ import annotations

from typing import Any

import polars as pl

from genrec_adapters.fields import Field, build_fields
from genrec_adapters.prepared import Prepared
from genrec_plugins.config import LoadedRun
from genrec_plugins.serving.schema import RawColumn, RawSchema, ValueType
from genrec_registry import SPLITS, ConfigError, DataError, ErrorPolicy
from genrec_registry.contracts import ColumnKind, Dataset


def raw_schema(run: LoadedRun, prepared: Prepared, data: str | None = None) -> RawSchema:
    """The schema of a run's raw rows; one chunk of them is read for the types.

    Args:
        run: the run.
        prepared: its prepared rows.
        data: another file of the same format, where the run's own are gone.

    Raises:
        DataError: the raw rows cannot be read.
        ConfigError: a column holds what no row that arrives later could hold.
    """
    config = run.config.dataset
    if data is not None:
        kept = {key: value for key, value in config.model_dump(exclude_none=True).items() if key not in SPLITS}
        config = type(config).model_validate(kept | {"path": data})
    dataset: Dataset = run.registry.create("dataset", config)
    try:
        configs = {entry.spec.name: entry.config for entry in prepared.manifest.fields}
        fields = build_fields(configs, dataset.columns, run.registry)
        types = _first_chunk(dataset).schema
    except DataError as error:
        raise DataError(
            f"{error}; the types of the raw columns are read there: put the file back, or name another one of this "
            "format with --data"
        ) from error
    readers = _readers(fields)
    columns = tuple(
        RawColumn(
            name=name,
            kind=dataset.columns[name],
            values=_values(name, dataset.columns[name], types[name]),
            fields=readers[name],
        )
        for name in readers
    )
    nulls = getattr(config, "null_values", ())
    return RawSchema(columns=columns, label=dataset.label, nulls=tuple(nulls))


def _first_chunk(dataset: Dataset) -> pl.DataFrame:
    for source in dataset.sources():
        for chunk in dataset.scan(source, ErrorPolicy(on_error="skip")):
            return chunk
    raise DataError(f"{dataset.sources()[0].path}: has no usable row")


def _readers(fields: list[Field]) -> dict[str, tuple[str, ...]]:
    """Column -> the fields that read it, in order of first use."""
    readers: dict[str, tuple[str, ...]] = {}
    for field in fields:
        for column in field.type.columns:
            readers[column] = (*readers.get(column, ()), field.name)
    return readers


def _values(name: str, kind: ColumnKind, dtype: Any) -> ValueType:
    inner = dtype.inner if isinstance(dtype, pl.List | pl.Array) else dtype
    if isinstance(inner, pl.List | pl.Array | pl.Struct):
        raise ConfigError(
            f"column '{name}' is {dtype}, expected lists of text or numbers; a model that reads it cannot be served"
        )
    if inner.is_float() or inner.is_decimal():
        return "decimal"
    if inner.is_integer() or (kind == "number" and inner == pl.Boolean):
        return "integer"
    return "text"
