"""What all parts of the speed table are given, and the raw rows they share."""

from __future__ import annotations

import gzip
import os
import shutil
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from genrec_plugins.synthetic import generate
from genrec_registry import DataError

GENERATED_ROWS = 100_000
_SAMPLE = "criteo/train_sample.txt.gz"


@dataclass(frozen=True, kw_only=True)
class Raw:
    """A raw Criteo file, plain text.

    Args:
        path: the file.
        rows: its lines.
        what: where the rows come from, for people.
    """

    path: Path
    rows: int
    what: str


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a part of the speed table is given.

    A part is a function of this that returns the list of :func:`~genrec_plugins.benchmarks.speed.paired.race`.

    Args:
        folder: for files of the run; removed after it.
        rows: generate so many rows; None for the real sample where it is, else 100,000 generated ones.
        data: raw Criteo rows (``.gz`` too) in place of both.
        fuxictr_python: a Python that has FuxiCTR; without it the lines of FuxiCTR are left out, and a note says so.
        hstu_reference: a checkout of generative-recommenders; without it the lines of its own code are left out.
        turns: that count.
        notes: sentences that go below the table.
    """

    folder: Path
    rows: int | None = None
    data: Path | None = None
    fuxictr_python: str | None = None
    hstu_reference: Path | None = None
    turns: int = 5
    notes: list[str] = field(default_factory=list)

    @cached_property
    def raw(self) -> Raw:
        """The rows, made on first use.

        Raises:
            DataError: ``data`` does not exist.
        """
        path = self.folder / "train.txt"
        sample = Path(os.environ.get("GENREC_DATA", "../shared/data")) / _SAMPLE
        source = self.data or (sample if self.rows is None and sample.exists() else None)
        if source is None:
            rows = self.rows or GENERATED_ROWS
            generate("criteo", rows, path, seed=1)
            return Raw(path=path, rows=rows, what=f"{rows:,} generated rows")
        if not source.is_file():
            raise DataError(f"{source}: does not exist, expected raw Criteo rows; mend --data")
        with (
            gzip.open(source, "rb") if source.suffix == ".gz" else source.open("rb") as rows_in,
            path.open("wb") as out,
        ):
            shutil.copyfileobj(rows_in, out, 1 << 20)
        with path.open("rb") as file:
            rows = sum(1 for _ in file)
        return Raw(path=path, rows=rows, what=f"{rows:,} rows of {source.name}")

    def without_fuxictr(self, part: str) -> bool:
        """Whether there is no FuxiCTR; a note says so."""
        note = f"{part}: without FuxiCTR, which --fuxictr-python PATH adds"
        if self.fuxictr_python is None and note not in self.notes:
            self.notes.append(note)
        return self.fuxictr_python is None
