"""The work of a run in pieces that any process can do, in any order of each pass, and again if it died at it.

A piece reads the input, and what pieces of earlier passes wrote below ``Job.aside``; it writes a file of its own, under
its final name only once it is complete, and returns a few numbers. So a process that collects the results holds neither
rows nor vocabularies.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from genrec_adapters.datasets.files import digest_file
from genrec_adapters.datasets.parts import PartedDataset
from genrec_adapters.manifest import FieldEntry, Shard
from genrec_adapters.prepared import read_state
from genrec_adapters.preprocess.encoding import Encoder, field_entry
from genrec_adapters.preprocess.jobs import Counts, Job, Unit, chunks, own_file, split_chunks
from genrec_adapters.preprocess.writer import SplitWriter
from genrec_adapters.splits import FileSplit
from genrec_registry.contracts import (
    SPLITS,
    ErrorPolicy,
    FieldState,
    FittedField,
    MergeableFitter,
    SourceFile,
)
from genrec_registry.errors import DataError

# -- pass 1: digests and counts ---------------------------------------------------------------------------------------


def measure(job: Job, item: SourceFile | Unit) -> str | Counts:
    """SHA-256 of a file, whose MD5 is checked where one is expected; or the rows of a unit."""
    return count(job, item) if isinstance(item, Unit) else digest_file(item.path, md5=item.md5).sha256


def count(job: Job, unit: Unit) -> Counts:
    """How many rows a unit has: the split needs the number of usable rows before a row, and messages that of all rows.

    Rows are parsed only where bad ones may be left out of them, or where the file cannot be read in parts.
    """
    seen = 0
    if unit.part is not None:
        assert isinstance(job.dataset, PartedDataset)
        seen = job.dataset.count_part(unit.source, unit.part)
        if job.on_error == "stop":
            return Counts(rows=seen, seen=seen)
    if isinstance(job.split, FileSplit):
        return Counts(seen=seen)
    policy = ErrorPolicy(on_error=job.on_error, max_examples=0)
    rows = sum(frame.height for frame in chunks(job, unit, policy))
    return Counts(rows=rows, skipped=policy.skipped, seen=seen)


# -- pass 2: fitting --------------------------------------------------------------------------------------------------


def _training_rows(frame: pl.DataFrame, split: npt.NDArray[np.int8]) -> pl.DataFrame:
    chosen = split == 0
    return frame if chosen.all() else frame.filter(pl.Series(chosen))


def fit(job: Job, unit: Unit) -> Counts:
    """Let each field count a unit's training rows, and write what it counted."""
    policy = ErrorPolicy(on_error=job.on_error)
    fitters = [field.type.fitter() for field in job.fields]
    rows, splits = 0, np.zeros(3, dtype=np.int64)
    for frame, split in split_chunks(job, unit, policy):
        rows += frame.height
        splits += np.bincount(split, minlength=3)
        train = _training_rows(frame, split)
        for fitter in fitters if train.height else []:
            if isinstance(fitter, MergeableFitter):
                fitter.update(train)
    with own_file(_partials(job, unit.index)) as path, zipfile.ZipFile(path, "w") as archive:
        for place, fitter in enumerate(fitters):
            if isinstance(fitter, MergeableFitter):
                _write_partial(archive, place, fitter.partial())
    train_rows, valid_rows, test_rows = splits.tolist()
    return Counts(
        rows=rows,
        skipped=policy.skipped,
        examples=tuple(policy.examples),
        splits=(train_rows, valid_rows, test_rows),
    )


def _partials(job: Job, unit: int) -> Path:
    return job.aside / f"fitted-{unit:06d}.zip"


def _write_partial(archive: zipfile.ZipFile, place: int, partial: FieldState) -> None:
    facts = {"json": partial.json, "tables": list(partial.tables)}
    archive.writestr(f"{place}.json", json.dumps(facts))
    for number, table in enumerate(partial.tables.values()):
        buffer = BytesIO()
        table.write_ipc(buffer)
        archive.writestr(f"{place}.{number}.arrow", buffer.getvalue())


def _read_partial(archive: zipfile.ZipFile, place: int) -> FieldState:
    facts = json.loads(archive.read(f"{place}.json"))
    tables = [pl.read_ipc(BytesIO(archive.read(f"{place}.{number}.arrow"))) for number in range(len(facts["tables"]))]
    return FieldState(json=facts["json"], tables=dict(zip(facts["tables"], tables, strict=True)))


def finish(job: Job, units: Sequence[Unit], place: int) -> FieldEntry:
    """Put together what was counted for one field, and write what it learned.

    A field whose fitter cannot be merged goes through all rows here.
    """
    field = job.fields[place]
    fitter = field.type.fitter()
    for unit in units:
        if isinstance(fitter, MergeableFitter):
            with zipfile.ZipFile(_partials(job, unit.index)) as archive:
                fitter.absorb(_read_partial(archive, place))
            continue
        for frame, split in split_chunks(job, unit, ErrorPolicy(on_error=job.on_error, max_examples=0)):
            train = _training_rows(frame, split)
            if train.height:
                fitter.update(train)
    return field_entry(job.root, field, fitter.finish(), job.plugins[place])


# -- pass 3: encoding -------------------------------------------------------------------------------------------------


_RESTORED: dict[tuple[Path, tuple[str, ...]], list[FittedField]] = {}  # of the last job that this process worked for


def _restored(job: Job, entries: Sequence[FieldEntry]) -> list[FittedField]:
    """The fitted fields, restored once in a process."""
    key = (job.root, tuple(entry.model_dump_json() for entry in entries))
    if key not in _RESTORED:
        _RESTORED.clear()
        _RESTORED[key] = [
            field.type.restore(read_state(job.root, entry)) for field, entry in zip(job.fields, entries, strict=True)
        ]
    return _RESTORED[key]


def encode(job: Job, entries: Sequence[FieldEntry], unit: Unit) -> Counts:
    """Encode a unit's rows, and write those of each split to a file of their own."""
    policy = ErrorPolicy(on_error=job.on_error, max_examples=0)
    fitted = _restored(job, entries)
    encoder = Encoder(job.fields, fitted, job.dataset.label)
    checks = [one.check_split for one in fitted if hasattr(one, "check_split")]
    writers: list[_RowsFile] = [_RowsFile(_rows_file(job, unit.index, split)) for split in range(3)]
    rows = 0
    try:
        for frame, split in split_chunks(job, unit, policy):
            rows += frame.height
            for check, (index, name) in product(checks, enumerate(SPLITS)):
                check(frame.filter(pl.Series(split == index)), name)
            encoded = encoder.encode(frame)
            for index, writer in enumerate(writers):
                chosen = split == index
                if chosen.any():
                    writer.write(encoded if chosen.all() else encoded.filter(pl.Series(chosen)))
        for writer in writers:
            writer.commit()
    finally:
        for writer in writers:
            writer.discard()
    train, valid, test = (writer.rows for writer in writers)
    return Counts(rows=rows, skipped=policy.skipped, splits=(train, valid, test))


def _rows_file(job: Job, unit: int, split: int) -> Path:
    return job.aside / f"rows-{unit:06d}.{SPLITS[split]}.arrow"


class _RowsFile:
    """Encoded rows of one split and unit; no file if there are none."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._aside = path.with_name(f"{path.name}.{os.getpid()}-{os.urandom(4).hex()}")
        self._sink: Any = None
        self.rows = 0

    def write(self, frame: pl.DataFrame) -> None:
        table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
        if self._sink is None:
            self._sink = pa.ipc.new_file(str(self._aside), table.schema)
        self._sink.write_table(table)
        self.rows += frame.height

    def commit(self) -> None:
        if self._sink is not None:
            self._sink.close()
            self._aside.replace(self._path)

    def discard(self) -> None:
        if self._sink is not None:
            self._sink.close()
        self._aside.unlink(missing_ok=True)


# -- pass 4: shards ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ShardPlan:
    """One shard to write.

    Args:
        split: index into ``SPLITS``.
        index: its number.
        pieces: unit, and the rows from .. to of its file that belong here.
    """

    split: int
    index: int
    pieces: tuple[tuple[int, int, int], ...]


def plan_shards(shard_rows: int, counts: Sequence[Counts]) -> list[ShardPlan]:
    """Which rows of which unit make up each shard.

    Args:
        shard_rows: rows a file.
        counts: of the units, in order.

    Example::

        >>> counts = [Counts(splits=(5, 0, 0)), Counts(splits=(2, 1, 0))]
        >>> [(plan.split, plan.index, plan.pieces) for plan in plan_shards(4, counts)]
        [(0, 0, ((0, 0, 4),)), (0, 1, ((0, 4, 5), (1, 0, 2))), (1, 0, ((1, 0, 1),))]
    """
    plans: list[ShardPlan] = []
    for split in range(3):
        pieces: list[tuple[int, int, int]] = []
        held = index = 0
        for unit, one in enumerate(counts):
            start, rows = 0, one.splits[split]
            while start < rows:
                stop = min(rows, start + shard_rows - held)
                pieces.append((unit, start, stop))
                held += stop - start
                start = stop
                if held == shard_rows:
                    plans.append(ShardPlan(split=split, index=index, pieces=tuple(pieces)))
                    pieces, held, index = [], 0, index + 1
        if pieces:
            plans.append(ShardPlan(split=split, index=index, pieces=tuple(pieces)))
    return plans


def write_shard(job: Job, plan: ShardPlan) -> tuple[Shard, int]:
    """Write a shard; what the manifest says of it, and how many of its labels are 1."""
    writer = SplitWriter(job.root, SPLITS[plan.split], job.storage, job.shard_rows, first=plan.index)
    for unit, start, stop in plan.pieces:
        path = _rows_file(job, unit, plan.split)
        rows = pl.read_ipc(path)
        if rows.height < stop:
            raise DataError(f"{path}: has {rows.height} rows, expected {stop} at least; run again on a sound disk")
        writer.write(rows.slice(start, stop - start))
    entry = writer.finish()
    return entry.shards[0], writer.positives
