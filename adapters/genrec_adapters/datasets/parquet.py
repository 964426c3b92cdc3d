"""Any Parquet table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from genrec_adapters.datasets.configs import ParquetConfig
from genrec_adapters.datasets.files import config_sources
from genrec_adapters.datasets.parts import Part
from genrec_adapters.patterns import select
from genrec_registry.contracts import ColumnKind, ErrorPolicy, SourceFile
from genrec_registry.errors import ConfigError, DataError, did_you_mean

_CHUNK_ROWS = 262_144


class ParquetTable:
    """A Parquet table: numbers, text (dates and times become ISO text), and lists.

    Args:
        config: see :class:`~genrec_adapters.datasets.configs.ParquetConfig`.

    Example::

        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile(suffix=".parquet") as file:
        ...     pl.DataFrame({"y": [1, 0], "age": [7.5, None], "seen": [["a"], []]}).write_parquet(file.name)
        ...     dataset = ParquetTable(ParquetConfig(path=file.name, label="y"))
        ...     dict(dataset.columns), [chunk.rows() for chunk in dataset.scan(dataset.sources()[0], ErrorPolicy())]
        ({'age': 'number', 'seen': 'list'}, [[(1, 7.5, ['a']), (0, None, [])]])
    """

    def __init__(self, config: ParquetConfig) -> None:
        self.config = config

    @property
    def label(self) -> str:
        """The label column."""
        return self.config.label

    @cached_property
    def columns(self) -> Mapping[str, ColumnKind]:
        """Columns of the first file, by their Parquet types."""
        path, schema = self.sources()[0].path, self._schema
        if self.label not in schema.names:
            raise ConfigError(
                f"dataset.label: there is no column '{self.label}'{did_you_mean(self.label, schema.names)}"
            )
        others = [name for name in schema.names if name != self.label]
        wanted = self.config.columns
        names = others if wanted is None else select(wanted, others, where="dataset.columns")
        return {name: _kind(schema.field(name), path) for name in names}

    @cached_property
    def _schema(self) -> pa.Schema:
        return _open(self.sources()[0].path).schema_arrow

    def sources(self) -> Sequence[SourceFile]:
        """The files in reading order."""
        return config_sources(self.config)

    def default_fields(self) -> Mapping[str, Any]:
        """Categories for text, buckets of equal counts for numbers, sets of ids for lists, vectors for float lists.

        Lists of floats whose length the schema does not fix are left out.
        """
        fields: dict[str, Any] = {}
        for name, kind in self.columns.items():
            dtype = self._schema.field(name).type
            if kind == "number":
                fields[name] = {"type": "numeric-bucket", "method": "quantile"}
            elif kind == "string":
                fields[name] = {"type": "categorical", "min_count": 2}
            elif not pa.types.is_floating(dtype.value_type):
                fields[name] = {"type": "multi-hot", "min_count": 2}
            elif pa.types.is_fixed_size_list(dtype):
                fields[name] = {"type": "vector", "width": dtype.list_size}
        return fields

    def parts(self, source: SourceFile, size: int) -> Sequence[Part]:
        """Row groups, as many as make up the size."""
        facts = _open(source.path).metadata
        edges, held = [0], 0
        for group in range(facts.num_row_groups):
            if held and held + facts.row_group(group).total_byte_size > size:
                edges.append(group)
                held = 0
            held += facts.row_group(group).total_byte_size
        edges.append(facts.num_row_groups)
        return [Part(first=first, stop=stop) for first, stop in pairwise(edges)] if len(edges) > 2 else []

    def count_part(self, source: SourceFile, part: Part) -> int:
        """Rows by the file's own account."""
        return _rows(_open(source.path), part)

    def scan(self, source: SourceFile, policy: ErrorPolicy) -> Iterator[pl.DataFrame]:
        """Chunks: label Int8, numbers Int64 or Float64, text String, lists List."""
        return self._scan(source, None, policy, 0)

    def scan_part(self, source: SourceFile, part: Part, policy: ErrorPolicy, before: int) -> Iterator[pl.DataFrame]:
        """The chunks of some row groups."""
        return self._scan(source, part, policy, before)

    def _scan(self, source: SourceFile, part: Part | None, policy: ErrorPolicy, before: int) -> Iterator[pl.DataFrame]:
        file = _open(source.path)
        names = [self.label, *self.columns]
        for name in names:
            if name not in file.schema_arrow.names:
                raise DataError(f"{source.path}: has no column '{name}'{did_you_mean(name, file.schema_arrow.names)}")
            if name != self.label and _kind(file.schema_arrow.field(name), source.path) != self.columns[name]:
                found = file.schema_arrow.field(name).type
                raise DataError(
                    f"{source.path}: column '{name}' is {found}, expected {self.columns[name]} as in file 1"
                )
        label = file.schema_arrow.field(self.label)
        if _kind(label, source.path) == "list" or pa.types.is_temporal(label.type):
            raise DataError(f"{source.path}: the label '{self.label}' is {label.type}, expected numbers 0 and 1")
        if file.metadata.num_rows == 0:
            raise DataError(f"{source.path}: has no rows, expected at least one; write it again")
        part = part or Part(first=0, stop=file.metadata.num_row_groups)
        row = before
        batches = file.iter_batches(_CHUNK_ROWS, row_groups=list(range(part.first, part.stop)), columns=names)
        while True:
            try:
                batch = next(batches, None)
                if batch is None:
                    break
                batch.validate(full=True)  # polars panics on text that is not UTF-8
                frame = pl.DataFrame(pl.from_arrow(batch)).select(names)
                plain = frame.with_columns([_plain(frame[name]) for name in self.columns])
            except (OSError, pa.ArrowException, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
                problem = str(error).splitlines()[0]
                raise DataError(f"{source.path}: cannot be read after row {row} ({problem}); write it again") from error
            yield self._usable(plain, source, row, policy)
            row += frame.height
        expected = before + _rows(file, part)
        if row != expected:
            raise DataError(f"{source.path}: gave {row} rows of {expected}; write it again")

    def _usable(self, frame: pl.DataFrame, source: SourceFile, before: int, policy: ErrorPolicy) -> pl.DataFrame:
        raw = frame[self.label]
        label = _plain(raw).cast(pl.Float64, strict=False)
        good = label.is_in([0.0, 1.0]).fill_null(False)
        for index in (~good).arg_true().to_list():
            shown = "an empty value" if raw[index] is None else repr(raw[index])
            policy.bad_row(source.path, before + index + 1, self.label, f"found {shown}, expected 0 or 1")
        return frame.filter(good).with_columns(label.filter(good).cast(pl.Int8))


def _rows(file: pq.ParquetFile, part: Part) -> int:
    return sum(file.metadata.row_group(group).num_rows for group in range(part.first, part.stop))


def _open(path: str) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(path, memory_map=True)
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        problem = str(error).splitlines()[0]
        raise DataError(f"{path}: is not a readable Parquet file ({problem}); write it again") from error
    rows = _rows(file, Part(first=0, stop=file.metadata.num_row_groups))
    if rows != file.metadata.num_rows:
        raise DataError(f"{path}: has {file.metadata.num_rows} rows, and {rows} in its row groups; write it again")
    return file


def _kind(column: pa.Field, path: str) -> ColumnKind:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    types = pa.types
    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    if is_list and not types.is_nested(kind.value_type):
        return "list"
    if types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) or types.is_decimal(kind):
        return "number"
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return "string"
    if types.is_temporal(kind) and not types.is_duration(kind):
        return "string"
    raise DataError(
        f"{path}: column '{column.name}' is {column.type}, expected numbers, text, times or lists of these; "
        "leave it out of dataset.columns, or write it as one of these"
    )


def _plain(column: pl.Series) -> pl.Series:
    """The column as String, Int64, Float64 or List."""
    dtype = column.dtype
    if isinstance(dtype, pl.Array):
        return column.arr.to_list()
    if isinstance(dtype, pl.List):
        return column
    if dtype.is_float() or dtype.is_decimal() or dtype == pl.UInt64:
        return column.cast(pl.Float64)
    if dtype.is_integer() or dtype == pl.Boolean:
        return column.cast(pl.Int64)
    return column.cast(pl.String)
