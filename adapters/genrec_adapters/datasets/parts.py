"""Parts of a file that can be read without what stands before them, so that several processes can read one file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from genrec_adapters.datasets.blocks import is_plain
from genrec_registry.contracts import Dataset, ErrorPolicy, SourceFile

if TYPE_CHECKING:
    import polars as pl

_LONGEST_LINE = 16 << 20
_TAIL_BYTES = 1 << 16
_COUNT_BYTES = 4 << 20


@dataclass(frozen=True, kw_only=True)
class Part:
    """Consecutive rows of a file.

    Args:
        first: where it begins: a byte of a text file, a row group of a Parquet file.
        stop: where it ends, not included.
    """

    first: int
    stop: int


@runtime_checkable
class PartedDataset(Dataset, Protocol):
    """A dataset whose files can be read in parts.

    One that has not these methods is read a file at a time.
    """

    def parts(self, source: SourceFile, size: int) -> Sequence[Part]:
        """The file in parts of about ``size`` bytes, in order; empty if it can only be read as a whole."""

    def count_part(self, source: SourceFile, part: Part) -> int:
        """Rows of a part, bad ones too, without looking at their values."""

    def scan_part(self, source: SourceFile, part: Part, policy: ErrorPolicy, before: int) -> Iterator[pl.DataFrame]:
        """What ``scan`` gives of these rows.

        Args:
            source: the file.
            part: which rows.
            policy: takes the bad ones.
            before: rows of the file that stand before the part, for messages.
        """


def text_parts(path: str, size: int) -> list[Part]:
    """A plain text file in parts that end at line ends; empty if it is gzipped, or fits into one part.

    Empty lines at the very end of the file belong to no part, as to no block.

    Args:
        path: the file.
        size: bytes of a part, about.

    Example::

        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile(suffix=".txt") as file:
        ...     _ = file.write(b"one\\ntwo\\nthree\\n\\n"), file.flush()
        ...     [(part.first, part.stop) for part in text_parts(file.name, 5)]
        [(0, 8), (8, 13)]
    """
    if not is_plain(path):
        return []
    edges = [0]
    try:
        with Path(path).open("rb") as file:
            end = _end_of_rows(file.fileno())
            while edges[-1] + size < end:
                file.seek(edges[-1] + size)
                line = file.readline(_LONGEST_LINE)
                if len(line) == _LONGEST_LINE:
                    return []  # reading it as a whole says what is wrong
                if file.tell() >= end:
                    break
                edges.append(file.tell())
    except OSError:
        return []
    if len(edges) == 1:
        return []
    return [Part(first=first, stop=stop) for first, stop in zip(edges, [*edges[1:], end], strict=True)]


def _end_of_rows(file: int) -> int:
    """The byte behind the last one that is no line end."""
    end = os.fstat(file).st_size
    while end:
        start = max(end - _TAIL_BYTES, 0)
        tail = os.pread(file, end - start, start).rstrip(b"\r\n")
        if tail:
            return start + len(tail)
        end = start
    return 0


def count_part_lines(path: str, part: Part) -> int:
    """Lines of a part of a text file; its last one counts whether or not it has an end.

    Raises:
        DataError: the file cannot be read.
    """
    from genrec_adapters.datasets.blocks import count_lines, read_part_blocks

    return sum(count_lines(block) for block in read_part_blocks(path, part.first, part.stop))
