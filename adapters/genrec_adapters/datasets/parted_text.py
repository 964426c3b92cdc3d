"""What datasets of plain delimited text have in common: their files can be read in parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import polars as pl

from genrec_adapters.datasets.delimited import TextFormat, scan_text
from genrec_adapters.datasets.parts import Part, count_part_lines, text_parts
from genrec_registry.contracts import ErrorPolicy, SourceFile


class PartedText:
    """Base of a dataset of delimited text: makes it a :class:`~genrec_adapters.datasets.parts.PartedDataset`."""

    def text_format(self, source: SourceFile) -> TextFormat:
        """How a file's lines are to be read."""
        raise NotImplementedError

    def parts(self, source: SourceFile, size: int) -> Sequence[Part]:
        """Parts that end at line ends; none of a gzipped file."""
        return text_parts(source.path, size)

    def count_part(self, source: SourceFile, part: Part) -> int:
        """Lines, without the header."""
        header = part.first == 0 and self.text_format(source).names is None
        return count_part_lines(source.path, part) - header

    def scan_part(self, source: SourceFile, part: Part, policy: ErrorPolicy, before: int) -> Iterator[pl.DataFrame]:
        """The chunks of a part."""
        return scan_text(source.path, self.text_format(source), policy, part=part, before=before)
