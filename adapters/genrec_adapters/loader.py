"""Batches of prepared data for TorchRec.

- Rows lie row-major in memory; a batch gathers whole rows, then transposes a small block into the key-major values of
  a KeyedJaggedTensor.
- A full-size one-hot batch shares lengths, offsets and per-key tables with all others: TorchRec computes none of them.
- Values, lengths and offsets are int32, as in TorchRec's own Criteo loader: on CPU both EmbeddingBagCollection and
  FBGEMM's table-batched embedding take them as they are, and they are half as long to copy or to send.
- Values of all features are int64 where the ids of one are hashes: a KeyedJaggedTensor has one type.
- The order of rows is a function of (seed, epoch) alone, so that a resumed run sees the batches it would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torchrec.datasets.utils import Batch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from genrec_adapters.prepared import Prepared
from genrec_adapters.rows import Ragged, Rows, load_rows
from genrec_registry.contracts import SparseFeature, Split
from genrec_registry.errors import ConfigError, DataError

BUFFER_ROWS = 8_000_000
BUFFER_BYTES = 2 << 30


@dataclass(frozen=True)
class _Segment:
    """Shards that are loaded together, and where their rows stand in the order of the epoch."""

    shards: tuple[int, ...]
    start: int
    stop: int


class BatchLoader:
    """Iterates over one split of prepared data in batches.

    With several ranks, rank r takes every ``world_size``-th row of the order. All ranks give the same number of
    batches, as collective operations need; without ``drop_last`` no row is lost, and the last batch of a rank may be
    one row longer than asked for.

    With ``cut``, ``batch_size`` counts the rows of all ranks together: the i-th batches of the ranks are the i-th batch
    of one process, cut. A last batch may be too short to give every rank a row; a rank without one gets some row, for
    which :meth:`own_rows` is 0.

    Args:
        prepared: the data.
        split: which rows.
        batch_size: B, rows a batch and rank; with ``cut``, rows a batch.
        shuffle: a new order each epoch. A full shuffle where the split fits ``buffer_rows``; else the shards are
            shuffled, and the rows within each group of shards that fits.
        seed: of the order.
        drop_last: leave out the last, short batch.
        rank: this process.
        world_size: number of processes.
        cut: cut the batches of one process into those of the ranks.
        buffer_rows: rows held in memory, a whole shard at least; if None, 8 million or what fits into 2 GiB (a row
            takes ``4 * (F + dense width + 1)`` bytes).

    Raises:
        ConfigError: an argument is out of range.
        DataError: the split has fewer rows than there are ranks, and they are not ``cut``.

    Example::

        >>> from genrec_adapters.preprocess import prepare
        >>> import polars as pl, tempfile, pathlib
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> pl.DataFrame({"y": [0, 1, 1], "c": ["a", "b", "a"]}).write_csv(folder / "t.csv")
        >>> prepared = prepare(
        ...     {"type": "csv", "train": str(folder / "t.csv"), "label": "y"},
        ...     folder / "prepared",
        ...     fields={"c": {"type": "categorical"}},
        ... )
        >>> [batch.sparse_features["c"].values().tolist() for batch in BatchLoader(prepared, "train", batch_size=2)]
        [[1, 2], [1]]
    """

    def __init__(
        self,
        prepared: Prepared,
        split: Split,
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        drop_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
        cut: bool = False,
        buffer_rows: int | None = None,
    ) -> None:
        if batch_size < 1 or (buffer_rows is not None and buffer_rows < 1):
            raise ConfigError(f"found batch_size {batch_size}, buffer_rows {buffer_rows}; expected at least 1 for both")
        if not 0 <= rank < world_size:
            raise ConfigError(f"rank is {rank}, expected 0..{world_size - 1} for world_size {world_size}")
        if cut and batch_size < world_size:
            raise ConfigError(f"found batch_size {batch_size} for {world_size} ranks; expected at least a row a rank")
        self.prepared, self.split, self.batch_size = prepared, split, batch_size
        self.shuffle, self.seed, self.drop_last = shuffle, seed, drop_last
        self.rank, self.world_size, self.cut = rank, world_size, cut
        self._sparse, self._dense = prepared.sparse_features, prepared.dense_features
        width = sum(feature.max_length for feature in self._sparse) + sum(feature.width for feature in self._dense) + 1
        self.buffer_rows = buffer_rows or min(BUFFER_ROWS, max(1, BUFFER_BYTES // (4 * width)))
        self._paths = prepared.shard_paths(split)
        self._counts = [shard.rows for shard in prepared.manifest.splits[split].shards]
        self._rows = sum(self._counts)
        if 0 < self._rows < world_size and not cut:
            raise DataError(
                f"{prepared.directory}: split '{split}' has {self._rows} rows for {world_size} ranks, expected at "
                "least one a rank; use fewer processes"
            )
        self._epoch = 0
        self._skip = 0
        self._kept: tuple[tuple[int, ...], Rows] | None = None
        self._to_batch = BatchMaker(self._sparse, -(-batch_size // world_size) if cut else batch_size)

    @property
    def rows(self) -> int:
        """Rows of the split, all ranks together."""
        return self._rows

    def __len__(self) -> int:
        """Batches an epoch, the same on every rank."""
        least = self._rows if self.cut else self._rows // self.world_size
        return least // self.batch_size if self.drop_last else -(-least // self.batch_size)

    def own_rows(self, batch: int) -> int:
        """Rows of this rank in a batch; 0 if the one it gets is not its own."""
        return self._end(batch) - self._end(batch - 1)

    def all_rows(self, batch: int) -> int:
        """Rows of all ranks in a batch of ``cut`` ones."""
        return min(self.batch_size, self._rows - batch * self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next iteration; without it every iteration has the same order."""
        self._epoch = epoch

    def skip(self, batches: int) -> Self:
        """Begin the next iteration (only that) after this many batches, without reading them.

        Raises:
            ConfigError: there are not so many.
        """
        if not 0 <= batches <= len(self):
            raise ConfigError(f"cannot skip {batches} batches, the split has {len(self)}; resume with its own data")
        self._skip = batches
        return self

    def __iter__(self) -> Iterator[Batch]:
        first, self._skip = self._skip, 0
        return self._iterate(first, self._epoch)

    def _iterate(self, first: int, epoch: int) -> Iterator[Batch]:
        number = len(self)
        position, last = self._end(first - 1), self._end(number - 1)
        carried: list[Rows] = []
        batch, batch_end = first, self._end(first)
        for segment in self._segments(epoch):
            # Rows of this rank within the segment: order positions rank, rank + world_size, ...
            low = max(position, self._own(segment.start))
            high = min(self._own(segment.stop), last)
            if low >= high:
                continue
            rows = self._load(segment)
            order = self._order(segment, epoch)
            while low < high:
                end = min(batch_end, high)
                index = order[np.arange(low, end) * self.world_size + self.rank - segment.start]
                carried.append(rows.take(index))
                low = position = end
                if end == batch_end:
                    yield self._to_batch(Rows.concat(carried))
                    carried = []
                    batch += 1
                    batch_end = self._end(batch)
        if batch < number:  # the last batch has no row for this rank
            rows = self._load(self._segments(epoch)[-1])
            yield self._to_batch(rows.take(np.zeros(1, dtype=np.int64)))

    def _end(self, batch: int) -> int:
        """How many rows this rank has had when it is through with ``batch``."""
        if self.cut:
            return self._own(min((batch + 1) * self.batch_size, self._rows))
        if batch < len(self) - 1 or self.drop_last:
            return (batch + 1) * self.batch_size
        return self._own(self._rows)  # the last one takes what is left, so that all ranks have equally many

    def _own(self, position: int) -> int:
        """How many of the first ``position`` rows of the order are this rank's."""
        return (position - self.rank + self.world_size - 1) // self.world_size

    def _segments(self, epoch: int) -> list[_Segment]:
        """Groups of whole shards, each at most ``buffer_rows`` where a shard is no longer than that."""
        shards = list(range(len(self._counts)))
        fits = self._rows <= self.buffer_rows
        if self.shuffle and not fits:
            np.random.default_rng((self.seed, epoch)).shuffle(shards)
        # In file order there is nothing to mix: one shard at a time is enough.
        limit = self.buffer_rows if self.shuffle or fits else 1
        segments: list[_Segment] = []
        group: list[int] = []
        start = size = 0
        for shard in shards:
            if group and size + self._counts[shard] > limit:
                segments.append(_Segment(tuple(group), start, start + size))
                start, group, size = start + size, [], 0
            group.append(shard)
            size += self._counts[shard]
        if group:
            segments.append(_Segment(tuple(group), start, start + size))
        return segments

    def _load(self, segment: _Segment) -> Rows:
        if self._kept is not None and self._kept[0] == segment.shards:
            return self._kept[1]
        self._kept = None  # free the old rows before the new ones are made
        paths = [self._paths[shard] for shard in segment.shards]
        counts = [self._counts[shard] for shard in segment.shards]
        rows = load_rows(paths, counts, self._sparse, self._dense)
        self._kept = (segment.shards, rows)
        return rows

    def _order(self, segment: _Segment, epoch: int) -> npt.NDArray[np.int64]:
        count = segment.stop - segment.start
        if not self.shuffle:
            return np.arange(count)
        return np.random.default_rng((self.seed, epoch, segment.start)).permutation(count)


class BatchMaker:
    """Rows to a Batch, with everything that only depends on the batch size made once.

    Args:
        sparse: sparse features in order.
        batch_size: B of a full batch.
    """

    def __init__(self, sparse: Sequence[SparseFeature], batch_size: int) -> None:
        self._keys = [feature.name for feature in sparse]
        self._one_hot = [feature.max_length == 1 for feature in sparse]
        self._index_per_key = {name: index for index, name in enumerate(self._keys)}
        self._batch_size = batch_size
        # One row longer: a rank's last batch may be.
        size = len(self._keys) * (batch_size + 1)
        self._ones = torch.ones(size, dtype=torch.int32)
        self._offsets = torch.arange(size + 1, dtype=torch.int32)

    def __call__(self, rows: Rows) -> Batch:
        """One batch of all ``rows``; without lists, at most one row more than ``batch_size``."""
        sparse = self._one_id_each(rows) if all(self._one_hot) else self._ragged(rows)
        return Batch(
            dense_features=torch.from_numpy(rows.dense), sparse_features=sparse, labels=torch.from_numpy(rows.labels)
        )

    def _one_id_each(self, rows: Rows) -> KeyedJaggedTensor:
        size, keys = len(rows), len(self._keys)
        return KeyedJaggedTensor(
            keys=self._keys,
            values=torch.from_numpy(np.ascontiguousarray(rows.ids.T).reshape(-1)),
            lengths=self._ones[: keys * size],
            offsets=self._offsets[: keys * size + 1],
            stride=size,
            length_per_key=[size] * keys,
            offset_per_key=[size * index for index in range(keys + 1)],
            index_per_key=self._index_per_key,
        )

    def _ragged(self, rows: Rows) -> KeyedJaggedTensor:
        size = len(rows)
        ones = np.ones(size, dtype=np.int32)
        columns, lists = iter(np.ascontiguousarray(rows.ids.T)), iter(rows.lists)
        values: list[npt.NDArray[Any]] = []
        lengths: list[npt.NDArray[np.int32]] = []
        for one_hot in self._one_hot:
            if one_hot:
                values.append(next(columns))
                lengths.append(ones)
            else:
                ragged: Ragged = next(lists)
                values.append(ragged.values)
                lengths.append(ragged.lengths.astype(np.int32))
        length_per_key = [part.size for part in values]
        flat = np.concatenate(lengths)
        return KeyedJaggedTensor(
            keys=self._keys,
            values=torch.from_numpy(np.concatenate(values)),
            lengths=torch.from_numpy(flat),
            offsets=torch.from_numpy(np.concatenate([[0], np.cumsum(flat)]).astype(np.int32)),
            stride=size,
            length_per_key=length_per_key,
            offset_per_key=np.concatenate([[0], np.cumsum(length_per_key)]).tolist(),
            index_per_key=self._index_per_key,
        )
