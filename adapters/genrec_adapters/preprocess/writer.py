"""Write encoded rows to shards, digesting them on the way."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from genrec_adapters.manifest import LABEL_COLUMN, FileEntry, Shard, SplitEntry

#: rows of a record batch or row group: fixed, so that files do not depend on the chunks the rows came in
BATCH_ROWS = 65_536


class DigestFile(io.RawIOBase):
    """A file that is written once from front to back and knows its digest.

    Args:
        path: where to write; the folder is made.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("wb")
        self._hash = hashlib.sha256()
        self.size = 0

    def writable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """Bytes written."""
        return self.size

    def write(self, data: Any) -> int:
        """Write and digest."""
        view = memoryview(data).cast("B")
        self._file.write(view)
        self._hash.update(view)
        self.size += len(view)
        return len(view)

    def flush(self) -> None:
        """Hand the bytes to the system."""
        if not self._file.closed:
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()

    def sha256(self) -> str:
        """Digest of what was written."""
        return self._hash.hexdigest()


class SplitWriter:
    """Cuts one split's encoded rows into shards; their bytes depend on the rows alone.

    Args:
        root: prepared directory in the making.
        name: the split.
        storage: file format.
        shard_rows: rows a file.
        first: number of the first shard.

    Attributes:
        positives: rows so far whose label is 1.
    """

    def __init__(
        self, root: Path, name: str, storage: Literal["arrow", "parquet"], shard_rows: int, *, first: int = 0
    ) -> None:
        self._root, self._name, self._storage, self._shard_rows = root, name, storage, shard_rows
        self._first = first
        self._shards: list[Shard] = []
        self.positives = 0
        self._waiting: list[pl.DataFrame] = []
        self._waiting_rows = 0
        self._file: DigestFile | None = None
        self._sink: Any = None
        self._path = ""
        self._rows = 0

    def write(self, frame: pl.DataFrame) -> None:
        """Append rows."""
        self.positives += int(frame[LABEL_COLUMN].sum())
        self._waiting.append(frame)
        self._waiting_rows += frame.height
        if self._waiting_rows < self._batch_rows:
            return
        rows = pl.concat(self._waiting, rechunk=False) if len(self._waiting) > 1 else frame
        while rows.height >= self._batch_rows:
            batch, rows = rows.head(self._batch_rows), rows.slice(self._batch_rows)
            self._append(batch)
        self._waiting, self._waiting_rows = [rows], rows.height

    @property
    def _batch_rows(self) -> int:
        """Rows of the next batch."""
        return min(BATCH_ROWS, self._shard_rows - self._rows)

    def _append(self, frame: pl.DataFrame) -> None:
        table = _copied(frame.to_arrow(compat_level=pl.CompatLevel.oldest()))
        if self._file is None:
            self._path = f"{self._name}/part-{self._first + len(self._shards):05d}.{self._storage}"
            self._file = DigestFile(self._root / self._path)
            if self._storage == "arrow":
                self._sink = pa.ipc.new_file(self._file, table.schema)
            else:
                self._sink = pq.ParquetWriter(self._file, table.schema, compression="zstd")
        self._sink.write_table(table)
        self._rows += table.num_rows
        if self._rows == self._shard_rows:
            self._finish_shard()

    def _finish_shard(self) -> None:
        if self._file is None:
            return
        self._sink.close()
        self._file.close()
        entry = Shard(path=self._path, bytes=self._file.size, sha256=self._file.sha256(), rows=self._rows)
        self._shards.append(entry)
        self._file, self._sink, self._rows = None, None, 0

    def finish(self) -> SplitEntry:
        """Close the last shard and say what was written."""
        if self._waiting_rows:
            self._append(pl.concat(self._waiting))
            self._waiting, self._waiting_rows = [], 0
        self._finish_shard()
        return split_entry(self._shards, self.positives)


def _copied(table: pa.Table) -> pa.Table:
    """The rows in buffers of their own.

    Arrow writes a slice together with what follows it in the buffer, up to the next multiple of eight bytes.
    """
    columns = [[*column.chunks, *(chunk[:0] for chunk in column.chunks[:1])] for column in table.columns]
    return pa.Table.from_arrays([pa.concat_arrays(chunks) for chunks in columns], schema=table.schema)


def split_entry(shards: Sequence[Shard], positives: int) -> SplitEntry:
    """What the manifest says of a split.

    Args:
        shards: its files.
        positives: rows whose label is 1.
    """
    rows = sum(shard.rows for shard in shards)
    return SplitEntry(rows=rows, label_mean=positives / rows if rows else None, shards=tuple(shards))


def write_bytes(root: Path, relative: str, data: bytes) -> FileEntry:
    """Write a small file below ``root``."""
    with DigestFile(root / relative) as file:
        file.write(data)
        return FileEntry(path=relative, bytes=file.size, sha256=file.sha256())


def write_table(root: Path, relative: str, table: pl.DataFrame) -> FileEntry:
    """Write a table as Parquet below ``root``."""
    with DigestFile(root / relative) as file:
        pq.write_table(table.to_arrow(compat_level=pl.CompatLevel.oldest()), file, compression="zstd")
        return FileEntry(path=relative, bytes=file.size, sha256=file.sha256())
