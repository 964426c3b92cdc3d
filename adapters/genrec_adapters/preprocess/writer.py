"""Write encoded rows to shards, digesting them on the way."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any, Literal

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from genrec_adapters.manifest import LABEL_COLUMN, FileEntry, Shard, SplitEntry


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
    """Cuts one split's encoded rows into shards.

    Args:
        root: prepared directory in the making.
        name: the split.
        storage: file format.
        shard_rows: rows a file.
    """

    def __init__(self, root: Path, name: str, storage: Literal["arrow", "parquet"], shard_rows: int) -> None:
        self._root, self._name, self._storage, self._shard_rows = root, name, storage, shard_rows
        self._shards: list[Shard] = []
        self._positives = 0
        self._file: DigestFile | None = None
        self._sink: Any = None
        self._path = ""
        self._rows = 0

    def write(self, frame: pl.DataFrame) -> None:
        """Append rows."""
        self._positives += int(frame[LABEL_COLUMN].sum())
        while frame.height:
            room = self._shard_rows - self._rows
            self._append(frame.head(room))
            frame = frame.slice(room)
            if self._rows == self._shard_rows:
                self._finish_shard()

    def _append(self, frame: pl.DataFrame) -> None:
        table = frame.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())
        if self._file is None:
            self._path = f"{self._name}/part-{len(self._shards):05d}.{self._storage}"
            self._file = DigestFile(self._root / self._path)
            if self._storage == "arrow":
                self._sink = pa.ipc.new_file(self._file, table.schema)
            else:
                self._sink = pq.ParquetWriter(self._file, table.schema, compression="zstd")
        self._sink.write_table(table)
        self._rows += table.num_rows

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
        self._finish_shard()
        rows = sum(shard.rows for shard in self._shards)
        mean = self._positives / rows if rows else None
        return SplitEntry(rows=rows, label_mean=mean, shards=tuple(self._shards))


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
