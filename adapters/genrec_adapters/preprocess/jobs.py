"""What the pieces of a run are given: the job, the unit of input that each reads, and the rows of that unit."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from genrec_adapters.datasets.parts import Part, PartedDataset
from genrec_adapters.fields import Field
from genrec_adapters.preprocess.chunks import wanted_columns
from genrec_adapters.preprocess.plan import AnySplit
from genrec_adapters.read_ahead import read_ahead
from genrec_adapters.splits import FileSplit, RandomSplit, ShuffledSplit, TimeSplit, assigner
from genrec_registry.contracts import SPLITS, Dataset, ErrorPolicy, SourceFile

ASIDE = ".pieces"


@dataclass(frozen=True, kw_only=True)
class Unit:
    """What one piece of work reads: a file, or a part of one.

    Args:
        index: its place in the order of all rows.
        source: the file.
        part: which part; None for all of it.
        before: rows of the file before the part, bad ones too.
        first_row: usable rows before it, of all files.
    """

    index: int
    source: SourceFile
    part: Part | None = None
    before: int = 0
    first_row: int = 0


@dataclass(frozen=True, kw_only=True)
class Job:
    """What all pieces of a run are given.

    Args:
        root: prepared directory in the making; all processes must see it under this path.
        dataset: scans the sources.
        fields: the configured fields.
        plugins: for each field, distribution and version of its type.
        split: the split policy.
        on_error: what to do with bad rows.
        storage: file format.
        shard_rows: rows a file.
        rows: usable rows of all files, where they were counted.
    """

    root: Path
    dataset: Dataset
    fields: tuple[Field, ...]
    plugins: tuple[str, ...]
    split: AnySplit
    on_error: Literal["stop", "skip"]
    storage: Literal["arrow", "parquet"]
    shard_rows: int
    rows: int | None = None

    @property
    def aside(self) -> Path:
        """Folder for what pieces hand on to later ones."""
        return self.root / ASIDE

    @property
    def wanted(self) -> list[str]:
        """Label and raw columns that are needed."""
        columns = [column for field in self.fields for column in field.type.columns]
        return list(dict.fromkeys([self.dataset.label, *columns]))


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What a piece saw of its unit.

    Args:
        rows: usable rows.
        skipped: bad ones.
        examples: sentences on the first of these.
        splits: usable rows of each split.
        seen: all rows, where they were counted without looking at them.
    """

    rows: int = 0
    skipped: int = 0
    examples: tuple[str, ...] = ()
    splits: tuple[int, int, int] = (0, 0, 0)
    seen: int = 0


def chunks(job: Job, unit: Unit, policy: ErrorPolicy) -> Iterator[pl.DataFrame]:
    """The usable rows of a unit, with the columns that are needed."""
    if unit.part is None:
        frames = job.dataset.scan(unit.source, policy)
    else:
        assert isinstance(job.dataset, PartedDataset)
        frames = job.dataset.scan_part(unit.source, unit.part, policy, unit.before)
    wanted = job.wanted
    for frame in read_ahead(iter(frames)):
        yield wanted_columns(frame, wanted, job.dataset, unit.source)


def split_chunks(job: Job, unit: Unit, policy: ErrorPolicy) -> Iterator[tuple[pl.DataFrame, npt.NDArray[np.int8]]]:
    """The chunks of a unit, and the index into ``SPLITS`` of each row."""
    row = unit.first_row
    for frame in chunks(job, unit, policy):
        if isinstance(job.split, FileSplit):
            yield frame, np.full(frame.height, SPLITS.index(unit.source.split or "train"), dtype=np.int8)
        elif isinstance(job.split, RandomSplit):
            yield frame, assigner(job.split)(row, frame.height)
        else:
            whole = np.load(job.aside / "split.npy", mmap_mode="r", allow_pickle=False)
            yield frame, np.asarray(whole[row : row + frame.height])
        row += frame.height


def write_split(job: Job) -> None:
    """Draw a split of exact sizes, one byte a row, for all pieces to look up."""
    assert isinstance(job.split, (ShuffledSplit, TimeSplit))
    assert job.rows is not None
    np.save(job.aside / "split.npy", assigner(job.split, job.rows)(0, job.rows))


@contextmanager
def own_file(path: Path) -> Iterator[Path]:
    """A path to write to that gets its name when the block ends well; a process that died leaves nothing under it."""
    aside = path.with_name(f"{path.name}.{os.getpid()}-{os.urandom(4).hex()}")
    try:
        yield aside
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
