"""Encoded rows as arrays that are quick to gather from: row-major ids and floats, ragged lists. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from genrec_adapters.manifest import LABEL_COLUMN
from genrec_registry.contracts import DenseFeature, SparseFeature
from genrec_registry.errors import DataError

Index = npt.NDArray[np.int64] | slice


@dataclass(frozen=True)
class Ragged:
    """A list of ids for each row: row i has ``values[offsets[i] : offsets[i + 1]]``.

    Example::

        >>> rows = Ragged(np.array([7, 8, 9], dtype=np.int32), np.array([0, 2, 2, 3]))
        >>> rows.take(np.array([2, 0])).values.tolist()
        [9, 7, 8]
    """

    values: npt.NDArray[np.int32] | npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Ids of each row."""
        return np.diff(self.offsets)

    def take(self, index: npt.NDArray[np.int64]) -> Ragged:
        """The rows of ``index``, in its order."""
        starts = self.offsets[index]
        lengths = self.offsets[index + 1] - starts
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        # Position p of the output comes from its row's start plus its place within the row.
        places = np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Ragged(self.values[places], offsets)

    @classmethod
    def concat(cls, parts: Sequence[Self]) -> Ragged:
        """One after the other."""
        lengths = np.concatenate([part.lengths for part in parts])
        return Ragged(np.concatenate([part.values for part in parts]), np.concatenate([[0], np.cumsum(lengths)]))


@dataclass(frozen=True)
class Rows:
    """Some rows of a split.

    Rows are contiguous, so that gathering one touches three cache lines, not one for each of F columns.

    Args:
        ids: one-hot features, ``[n, F1]``.
        dense: ``[n, sum(width)]``.
        labels: ``[n]``.
        lists: one for each multi-valued feature.
    """

    ids: npt.NDArray[np.int32] | npt.NDArray[np.int64]
    dense: npt.NDArray[np.float32]
    labels: npt.NDArray[np.float32]
    lists: tuple[Ragged, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: npt.NDArray[np.int64]) -> Rows:
        """The rows of ``index``, in its order."""
        lists = tuple(part.take(index) for part in self.lists)
        return Rows(self.ids.take(index, axis=0), self.dense.take(index, axis=0), self.labels.take(index), lists)

    @classmethod
    def concat(cls, parts: Sequence[Self]) -> Rows:
        """One after the other."""
        if len(parts) == 1:
            return parts[0]
        return Rows(
            np.concatenate([part.ids for part in parts]),
            np.concatenate([part.dense for part in parts]),
            np.concatenate([part.labels for part in parts]),
            tuple(Ragged.concat(lists) for lists in zip(*(part.lists for part in parts), strict=True)),
        )


def load_rows(
    paths: Sequence[Path], counts: Sequence[int], sparse: Sequence[SparseFeature], dense: Sequence[DenseFeature]
) -> Rows:
    """Shards, one after the other, with every id checked against its table.

    Args:
        paths: shard files.
        counts: rows of each, as the manifest says.
        sparse: sparse features in order; one-hot and multi-valued ones are kept apart.
        dense: dense features in order.

    Raises:
        DataError: a shard cannot be read, has other rows or columns than the manifest says, or an id is out of range
            (FBGEMM would look up row 0 without a word).
    """
    batches = ((path, batch) for path, count in zip(paths, counts, strict=True) for batch in _batches(path, count))
    return _gather(batches, sum(counts), sparse, dense)


def encoded_rows(
    frame: pl.DataFrame, sparse: Sequence[SparseFeature], dense: Sequence[DenseFeature], *, name: str
) -> Rows:
    """Rows of an encoded chunk that was never written, as :func:`load_rows` would give them.

    Args:
        frame: encoded features and ``__label__``.
        sparse: sparse features in order.
        dense: dense features in order.
        name: of the chunk's source, for messages.
    """
    path = Path(name)
    batches = ((path, batch) for batch in frame.to_arrow(compat_level=pl.CompatLevel.oldest()).to_batches())
    return _gather(batches, frame.height, sparse, dense)


def _gather(
    batches: Iterable[tuple[Path, pa.RecordBatch]],
    total: int,
    sparse: Sequence[SparseFeature],
    dense: Sequence[DenseFeature],
) -> Rows:
    one_hot = [feature for feature in sparse if feature.max_length == 1]
    multi = [feature for feature in sparse if feature.max_length > 1]
    # a KeyedJaggedTensor has one type of ids: the hashes of a dynamic feature make all of them 64 bits wide
    ids = np.empty((total, len(one_hot)), dtype=np.int64 if any(feature.dynamic for feature in sparse) else np.int32)
    floats = np.empty((total, sum(feature.width for feature in dense)), dtype=np.float32)
    labels = np.empty(total, dtype=np.float32)
    lists: list[list[Ragged]] = [[] for _ in multi]
    start = 0
    for path, batch in batches:
        stop = start + batch.num_rows
        labels[start:stop] = _column(batch, LABEL_COLUMN, path, _is_number).to_numpy(zero_copy_only=False)
        for position, feature in enumerate(one_hot):
            values = _column(batch, feature.name, path, pa.types.is_integer).to_numpy(zero_copy_only=False)
            _check_range(values, feature, path)
            ids[start:stop, position] = values
        for position, feature in enumerate(multi):
            lists[position].append(_ragged(_column(batch, feature.name, path, _is_id_list), feature, path))
        first = 0
        for wide in dense:
            column = _column(batch, wide.name, path, partial(_is_vector, wide.width))
            flat = column.flatten() if pa.types.is_fixed_size_list(column.type) else column
            block = flat.to_numpy(zero_copy_only=False).reshape(batch.num_rows, wide.width)
            floats[start:stop, first : first + wide.width] = block
            first += wide.width
        start = stop
    empty = Ragged(np.empty(0, dtype=np.int32), np.zeros(1, dtype=np.int64))
    return Rows(ids, floats, labels, tuple(Ragged.concat(parts) if parts else empty for parts in lists))


def _batches(path: Path, count: int) -> list[pa.RecordBatch]:
    try:
        if path.suffix == ".arrow":
            with pa.memory_map(str(path)) as source:
                reader = pa.ipc.open_file(source)
                batches = [reader.get_batch(index) for index in range(reader.num_record_batches)]
        else:
            batches = pq.read_table(path, memory_map=True).to_batches()
        for batch in batches:
            batch.validate(full=True)  # offsets that lie would reach beyond the buffers
            _ = batch.schema.names  # which are decoded now, if they are text
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        problem = str(error).splitlines()[0]
        raise DataError(f"{path}: cannot be read ({problem}); run 'genrec preprocess' again") from error
    found = sum(batch.num_rows for batch in batches)
    if found != count:
        raise DataError(f"{path}: has {found} rows, expected {count}; run 'genrec preprocess' again")
    return batches


def _column(batch: pa.RecordBatch, name: str, path: Path, fits: Callable[[pa.DataType], bool]) -> Any:
    if name not in batch.schema.names:
        raise DataError(f"{path}: has no column '{name}', as the manifest says it has; run 'genrec preprocess' again")
    column = batch.column(name)
    if column.null_count or not fits(column.type):
        raise DataError(
            f"{path}: column '{name}' is {column.type} with {column.null_count} nulls, which is not what the manifest "
            "says of it; run 'genrec preprocess' again"
        )
    return column


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _is_id_list(kind: pa.DataType) -> bool:
    return bool((pa.types.is_list(kind) or pa.types.is_large_list(kind)) and pa.types.is_integer(kind.value_type))


def _is_vector(width: int, kind: pa.DataType) -> bool:
    if pa.types.is_fixed_size_list(kind):
        return bool(kind.list_size == width) and _is_number(kind.value_type)
    return width == 1 and _is_number(kind)


def _check_range(values: npt.NDArray[Any], feature: SparseFeature, path: Path) -> None:
    if values.size and (int(values.min()) < 0 or int(values.max()) >= feature.num_ids):
        raise DataError(
            f"{path}: feature '{feature.name}' has ids {values.min()}..{values.max()}, expected "
            f"0..{feature.num_ids - 1}; run 'genrec preprocess' again"
        )


def _ragged(column: Any, feature: SparseFeature, path: Path) -> Ragged:
    offsets = column.offsets.to_numpy().astype(np.int64)
    values = column.values.to_numpy(zero_copy_only=False)[offsets[0] : offsets[-1]]
    _check_range(values, feature, path)
    return Ragged(values, offsets - offsets[0])
