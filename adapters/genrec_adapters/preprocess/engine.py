"""Two streaming passes: fit the fields on the training rows, then encode all rows.

Memory holds a few chunks, the fields' statistics, and for exact splits one byte a row; never the table.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from genrec_adapters.datasets.files import digest_file
from genrec_adapters.manifest import SplitEntry
from genrec_adapters.prepared import Prepared
from genrec_adapters.preprocess.chunks import Chunk, ChunkStream
from genrec_adapters.preprocess.encoding import Encoder, field_entry
from genrec_adapters.preprocess.options import PrepareOptions, Progress
from genrec_adapters.preprocess.plan import (
    Plan,
    make_plan,
    no_training_rows,
    reusable,
    source_entry,
    write_manifest,
)
from genrec_adapters.preprocess.swap import Swap
from genrec_adapters.preprocess.writer import SplitWriter
from genrec_adapters.splits import (
    FileSplit,
    assigner,
    needs_row_count,
)
from genrec_registry.contracts import SPLITS, ErrorPolicy, FittedField
from genrec_registry.errors import DataError
from genrec_registry.manager import Registry, default_registry


def prepare(
    dataset: Any,
    out_dir: str | Path,
    *,
    fields: Mapping[str, Any] | None = None,
    split: Any = None,
    options: PrepareOptions | None = None,
    registry: Registry | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Prepared:
    """Preprocess a dataset, or find that it is done already.

    The result is put in place at once, when it is complete. Running again with the same config and the same input
    files does nothing; files count as the same if path, size and time of change are, or else their content.

    Args:
        dataset: tagged dataset config, or ``{"type": ...}`` mapping.
        out_dir: the prepared directory.
        fields: pattern -> field config; the dataset's default fields if None.
        split: a split config, mapping or name; if None, the files' own split where they carry one, else random
            80/10/10 with seed 1.
        options: how to run and write.
        registry: the installed plugins if None.
        progress: called after each chunk.

    Raises:
        ConfigError: the config does not fit the dataset.
        DataError: a file or row is bad, or the result cannot be written.
        PluginError: a plugin is missing or gave something else than it promised.
        SetupError: Ray is asked for, and is not installed or cannot be reached.
    """
    registry = registry or default_registry()
    options = options or PrepareOptions()
    report = progress or (lambda _: None)
    plan = make_plan(dataset, fields, split, options, registry)
    swap = Swap(Path(out_dir))
    try:
        with swap.lock():
            done = reusable(swap.target, plan)
            if done:
                report(Progress(stage="reused", rows=done.manifest.rows_read - done.manifest.rows_skipped))
                return done
            try:
                build = _build_on_ray if options.engine == "ray" else _build
                build(swap.start(), plan, options, report)
                swap.commit()
            except BaseException:
                swap.discard()
                raise
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        problem = "the disk is full; free some space" if full else f"{error.strerror or error}; mend that"
        raise DataError(f"{out_dir}: cannot be written, {problem} or choose another folder") from error
    return Prepared.open(out_dir)


def _build_on_ray(root: Path, plan: Plan, options: PrepareOptions, report: Callable[[Progress], None]) -> None:
    from genrec_adapters.preprocess.on_ray import build_on_ray

    build_on_ray(root, plan, options, report)


def _build(root: Path, plan: Plan, options: PrepareOptions, report: Callable[[Progress], None]) -> None:
    stats = {source.path: Path(source.path).stat() for source in plan.sources}
    policy = ErrorPolicy(on_error=options.on_error)
    stream = ChunkStream(plan.dataset, plan.sources, plan.columns, policy, options.cache_mib << 20)
    with ThreadPoolExecutor(1, thread_name_prefix="digest") as hashing, ThreadPoolExecutor(options.workers) as pool:
        md5 = {source.path: source.md5 for source in plan.sources}
        stop = threading.Event()  # a run that fails must not wait until gigabytes are hashed
        digests = {path: hashing.submit(digest_file, path, md5=md5[path], stop=stop) for path in stats}
        try:
            for path in stats:
                if md5[path]:
                    digests[path].result()  # a wrong file is told before it is read
            assign = _assigner(plan, stream, report)
            fitted = _fit(plan, stream, assign, pool, report)
            learned = [
                pool.submit(field_entry, root, field, one, plan.plugins[f"field-type {field.config.type}"])
                for field, one in zip(plan.fields, fitted, strict=True)
            ]
            splits = _encode(root, plan, stream, assign, fitted, options, report)
            sources = [
                source_entry(source, stats[source.path], digests[source.path].result().sha256)
                for source in plan.sources
            ]
            entries = [entry.result() for entry in learned]
        finally:
            stop.set()
    rows = stream.rows or 0
    write_manifest(root, plan, options, rows=rows, policy=policy, sources=sources, fields=entries, splits=splits)
    report(Progress(stage="done", rows=rows, total=rows, skipped=policy.skipped))


Assignment = Callable[[Chunk], npt.NDArray[np.int8]]


def _assigner(plan: Plan, stream: ChunkStream, report: Callable[[Progress], None]) -> Assignment:
    """The index into ``SPLITS`` of each row of a chunk."""
    split = plan.split
    if isinstance(split, FileSplit):
        index = {name: number for number, name in enumerate(SPLITS)}
        return lambda chunk: np.full(chunk.frame.height, index[chunk.split or "train"], dtype=np.int8)
    if needs_row_count(split):
        for _ in _reported("count", stream, report):
            pass
    assign = assigner(split, stream.rows)
    return lambda chunk: assign(chunk.first_row, chunk.frame.height)


def _reported(stage: Any, stream: ChunkStream, report: Callable[[Progress], None]) -> Iterator[Chunk]:
    rows = 0
    for chunk in stream:
        yield chunk
        rows += chunk.frame.height
        report(Progress(stage=stage, rows=rows, total=stream.rows, skipped=stream.policy.skipped))


def _fit(
    plan: Plan,
    stream: ChunkStream,
    assign: Assignment,
    pool: ThreadPoolExecutor,
    report: Callable[[Progress], None],
) -> list[FittedField]:
    fitters = [field.type.fitter() for field in plan.fields]
    rows = 0
    for chunk in _reported("fit", stream, report):
        chosen = assign(chunk) == 0
        count = int(chosen.sum())
        if not count:
            continue
        rows += count
        train = chunk.frame if count == chunk.frame.height else chunk.frame.filter(pl.Series(chosen))
        list(pool.map(lambda fitter, frame=train: fitter.update(frame), fitters))  # list() brings errors here
    if not rows:
        raise no_training_rows(plan, stream.rows or 0, stream.policy.skipped)
    return list(pool.map(lambda fitter: fitter.finish(), fitters))


def _encode(
    root: Path,
    plan: Plan,
    stream: ChunkStream,
    assign: Assignment,
    fitted: Sequence[FittedField],
    options: PrepareOptions,
    report: Callable[[Progress], None],
) -> dict[str, SplitEntry]:
    encoder = Encoder(plan.fields, fitted, plan.dataset.label)
    writers = [SplitWriter(root, name, options.storage, options.shard_rows) for name in SPLITS]
    checks = [one.check_split for one in fitted if hasattr(one, "check_split")]
    with ThreadPoolExecutor(1, thread_name_prefix="write") as writing:
        written: Future[None] | None = None
        for chunk in _reported("encode", stream, report):
            split = assign(chunk)
            for check, (index, name) in product(checks, enumerate(SPLITS)):
                check(chunk.frame.filter(pl.Series(split == index)), name)
            encoded = encoder.encode(chunk.frame)
            if written:
                written.result()  # one chunk waits at most
            written = writing.submit(_write, writers, encoded, split)
        if written:
            written.result()
    stream.release()
    return dict(zip(SPLITS, (writer.finish() for writer in writers), strict=True))


def _write(writers: Sequence[SplitWriter], encoded: pl.DataFrame, split: npt.NDArray[np.int8]) -> None:
    for index, writer in enumerate(writers):
        chosen = split == index
        if chosen.all():
            writer.write(encoded)
        elif chosen.any():
            writer.write(encoded.filter(pl.Series(chosen)))
