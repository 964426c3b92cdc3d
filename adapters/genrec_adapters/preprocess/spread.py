"""The passes of a run whose work is spread over processes: the result is that of the local engine, byte for byte."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from genrec_adapters.datasets.parts import Part, PartedDataset
from genrec_adapters.manifest import FieldEntry, Shard, SplitEntry
from genrec_adapters.preprocess import tasks
from genrec_adapters.preprocess.jobs import Counts, Job, Unit, write_split
from genrec_adapters.preprocess.options import PrepareOptions, Progress
from genrec_adapters.preprocess.plan import Plan, no_training_rows, source_entry, write_manifest
from genrec_adapters.preprocess.writer import split_entry
from genrec_adapters.splits import FileSplit, needs_row_count
from genrec_registry.contracts import SPLITS, ErrorPolicy, SourceFile
from genrec_registry.errors import DataError

T = TypeVar("T")
R = TypeVar("R")
_MOST_UNITS = 1000


class Runner(Protocol):
    """Does pieces of work somewhere."""

    def __call__(self, work: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
        """What ``work`` returns for each item, in their order; an error of an item is raised in its place."""


def here(work: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """Do the work in this process, one piece after the other.

    Example::

        >>> list(here(abs, [-1, 2]))
        [1, 2]
    """
    return map(work, items)


def build_spread(
    root: Path, plan: Plan, options: PrepareOptions, report: Callable[[Progress], None], run: Runner
) -> None:
    """Fill a directory as the local engine does.

    Args:
        root: prepared directory in the making; all processes must see it, and the input, under the same paths.
        plan: what to do.
        options: how to write.
        report: told where it stands.
        run: does the work.

    Raises:
        DataError: a file or row is bad, or the result cannot be written.
        PluginError: a plugin gave something else than it promised.
    """
    stats = {source.path: Path(source.path).stat() for source in plan.sources}
    job = Job(
        root=root.resolve(),
        dataset=plan.dataset,
        fields=tuple(plan.fields),
        plugins=tuple(plan.plugins[f"field-type {field.config.type}"] for field in plan.fields),
        split=plan.split,
        on_error=options.on_error,
        storage=options.storage,
        shard_rows=options.shard_rows,
    )
    job.aside.mkdir()
    units = plan_units(plan, options.part_mib << 20)
    job, units, counted, digests = _measure(job, units, run, report)
    if needs_row_count(job.split):
        write_split(job)
    policy = ErrorPolicy(on_error=options.on_error)
    fitted = _fit(job, units, run, report, policy, counted)
    rows = sum(one.rows for one in fitted)
    if not sum(one.splits[0] for one in fitted):
        raise no_training_rows(plan, rows, policy.skipped)
    entries = list(run(partial(tasks.finish, job, units), range(len(job.fields))))
    encoded = _encode(job, units, entries, run, report, fitted)
    splits = _shards(job, encoded, run)
    sources = [source_entry(source, stats[source.path], digests[source.path]) for source in plan.sources]
    shutil.rmtree(job.aside)
    write_manifest(root, plan, options, rows=rows, policy=policy, sources=sources, fields=entries, splits=splits)
    report(Progress(stage="done", rows=rows, total=rows, skipped=policy.skipped))


def plan_units(plan: Plan, size: int) -> list[Unit]:
    """Cut the input into pieces: parts of files where they can be read so, else whole files.

    Args:
        plan: what to do.
        size: bytes of a piece; more where that would make too many.
    """
    units: list[Unit] = []
    total = sum(Path(source.path).stat().st_size for source in plan.sources)
    size = max(size, total // _MOST_UNITS)
    for source in plan.sources:
        parts: Sequence[Part | None] = ()
        if isinstance(plan.dataset, PartedDataset):
            parts = plan.dataset.parts(source, size)
        for part in parts or [None]:
            units.append(Unit(index=len(units), source=source, part=part))
    return units


def _measure(
    job: Job, units: Sequence[Unit], run: Runner, report: Callable[[Progress], None]
) -> tuple[Job, list[Unit], list[Counts], dict[str, str]]:
    """The job and units with the numbers of rows before them, what was counted, and the SHA-256 of each file.

    Rows are counted where the split needs that, or messages about a part of a file do. The digests come first: a file
    with a wrong MD5 is told as such.
    """
    sources = {unit.source.path: unit.source for unit in units}
    by_rows = not isinstance(job.split, FileSplit)
    to_count = units if by_rows or any(unit.part is not None for unit in units) else []
    found = run(partial(tasks.measure, job), [*sources.values(), *to_count])
    digests = {path: str(next(found)) for path in sources}
    counts: list[Counts] = []
    placed: list[Unit] = []
    rows = before = 0
    source: SourceFile | None = None
    for unit in to_count:
        one = next(found)
        assert isinstance(one, Counts)
        if unit.source is not source:
            source, before = unit.source, 0
        placed.append(replace(unit, before=before, first_row=rows))
        counts.append(one)
        rows, before = rows + one.rows, before + one.seen
        if by_rows:
            report(Progress(stage="count", rows=rows))
    for _ in found:  # lets the pass end
        raise AssertionError("a runner gave more results than there were items")
    if not by_rows:
        counts = []
    return replace(job, rows=rows if by_rows else None), placed or list(units), counts, digests


def _fit(
    job: Job,
    units: Sequence[Unit],
    run: Runner,
    report: Callable[[Progress], None],
    policy: ErrorPolicy,
    counted: Sequence[Counts],
) -> list[Counts]:
    found: list[Counts] = []
    rows = 0
    for unit, one in zip(units, run(partial(tasks.fit, job), units), strict=True):
        if counted:
            _expect_same(unit, one, counted[unit.index])
        rows += one.rows
        policy.skipped += one.skipped
        policy.examples += one.examples[: policy.max_examples - len(policy.examples)]
        found.append(one)
        report(Progress(stage="fit", rows=rows, total=job.rows, skipped=policy.skipped))
    return found


def _encode(
    job: Job,
    units: Sequence[Unit],
    entries: Sequence[FieldEntry],
    run: Runner,
    report: Callable[[Progress], None],
    fitted: Sequence[Counts],
) -> list[Counts]:
    found: list[Counts] = []
    rows, total = 0, sum(one.rows for one in fitted)
    for unit, one in zip(units, run(partial(tasks.encode, job, entries), units), strict=True):
        _expect_same(unit, one, fitted[unit.index])
        rows += one.rows
        found.append(one)
        report(Progress(stage="encode", rows=rows, total=total))
    return found


def _expect_same(unit: Unit, found: Counts, before: Counts) -> None:
    if (found.rows, found.skipped) != (before.rows, before.skipped):
        raise DataError(
            f"{unit.source.path}: gave {found.rows} rows and {found.skipped} bad ones, but {before.rows} and "
            f"{before.skipped} in the pass before; do not write to the input during the run"
        )


def _shards(job: Job, encoded: Sequence[Counts], run: Runner) -> dict[str, SplitEntry]:
    plans = tasks.plan_shards(job.shard_rows, encoded)
    shards: list[list[Shard]] = [[], [], []]
    positives = [0, 0, 0]
    for plan, (shard, ones) in zip(plans, run(partial(tasks.write_shard, job), plans), strict=True):
        shards[plan.split].append(shard)
        positives[plan.split] += ones
    return {name: split_entry(shards[index], positives[index]) for index, name in enumerate(SPLITS)}
