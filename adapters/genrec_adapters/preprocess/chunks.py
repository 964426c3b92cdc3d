"""The chunks of a dataset, as often as they are needed: from memory where they fit, else by scanning again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import polars as pl

from genrec_adapters.read_ahead import read_ahead
from genrec_registry.contracts import Dataset, ErrorPolicy, SourceFile, Split
from genrec_registry.errors import DataError, PluginError


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Some consecutive usable rows.

    Args:
        frame: label and feature columns.
        split: the split its file is bound to.
        first_row: index of its first row among all usable rows.
    """

    frame: pl.DataFrame
    split: Split | None
    first_row: int


class ChunkStream:
    """Replayable chunks of a dataset; the second time they come from memory if they fit into ``cache_bytes``.

    Args:
        dataset: scans its sources.
        sources: in reading order.
        columns: feature columns that are needed.
        on_error: what to do with bad rows.
        cache_bytes: memory for parsed rows.
    """

    def __init__(
        self,
        dataset: Dataset,
        sources: Sequence[SourceFile],
        columns: Sequence[str],
        policy: ErrorPolicy,
        cache_bytes: int,
    ) -> None:
        self._dataset, self._sources = dataset, sources
        self._wanted = [dataset.label, *columns]
        self.policy = policy
        self._cache_left: float = cache_bytes
        self._cache: list[Chunk] | None = []
        self.rows: int | None = None  # known after the first pass

    def __iter__(self) -> Iterator[Chunk]:
        if self.rows is not None and self._cache is not None:
            yield from self._cache
            return
        first = self.rows is None
        policy = self.policy if first else ErrorPolicy(on_error=self.policy.on_error, max_examples=0)
        rows = 0
        for chunk in read_ahead(self._scan(policy)):
            rows += chunk.frame.height
            if first:
                self._keep(chunk)
            yield chunk
        if first:
            self.rows = rows
        elif (rows, policy.skipped) != (self.rows, self.policy.skipped):
            raise DataError(
                f"{self._sources[0].path}: gave {rows} rows and {policy.skipped} bad ones, but {self.rows} and "
                f"{self.policy.skipped} in the pass before; do not write to the input during the run"
            )

    def _scan(self, policy: ErrorPolicy) -> Iterator[Chunk]:
        row = 0
        for source in self._sources:
            for frame in self._dataset.scan(source, policy):
                wanted = wanted_columns(frame, self._wanted, self._dataset, source)
                yield Chunk(frame=wanted, split=source.split, first_row=row)
                row += frame.height

    def _keep(self, chunk: Chunk) -> None:
        if self._cache is None:
            return
        self._cache_left -= memory_of(chunk.frame)
        if self._cache_left < 0:
            self._cache = None
        else:
            self._cache.append(chunk)

    def release(self) -> None:
        """Give the memory back; a further pass scans again."""
        self._cache = None


def wanted_columns(frame: pl.DataFrame, wanted: Sequence[str], dataset: Dataset, source: SourceFile) -> pl.DataFrame:
    """The columns of a chunk that are needed.

    Args:
        frame: what the dataset gave.
        wanted: columns that it must have.
        dataset: for the message.
        source: for the message.

    Raises:
        PluginError: one is missing.
    """
    missing = [name for name in wanted if name not in frame.columns]
    if missing:
        raise PluginError(
            f"dataset {type(dataset).__name__} gave a chunk of {source.path} without the column "
            f"'{missing[0]}' it declares; mend its scan()"
        )
    return frame.select(wanted)


def memory_of(frame: pl.DataFrame) -> int:
    """Bytes that a frame takes, at most; polars' own estimate leaves out the sixteen of each text's view.

    Example::

        >>> memory_of(pl.DataFrame({"C1": ["05db9164", None], "I1": [1, 2]}))
        56
    """
    texts = sum(frame[name].len() for name, dtype in frame.schema.items() if dtype == pl.String)
    return int(frame.estimated_size()) + 16 * texts
