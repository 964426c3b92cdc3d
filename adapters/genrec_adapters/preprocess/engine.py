"""Two streaming passes: fit the fields on the training rows, then encode all rows.

Memory holds a few chunks, the fields' statistics, and for exact splits one byte a row; never the table.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import BaseModel

from genrec_adapters.datasets.files import digest_file, find_files
from genrec_adapters.fields import Field, build_fields
from genrec_adapters.manifest import NAME, VERSION, Manifest, SourceEntry, SplitEntry
from genrec_adapters.prepared import Prepared
from genrec_adapters.preprocess.chunks import Chunk, ChunkStream
from genrec_adapters.preprocess.encoding import Encoder, field_entry
from genrec_adapters.preprocess.options import PrepareOptions, Progress
from genrec_adapters.preprocess.swap import Swap
from genrec_adapters.preprocess.writer import SplitWriter, write_bytes
from genrec_adapters.splits import (
    FileSplit,
    RandomSplit,
    ShuffledSplit,
    TimeSplit,
    assigner,
    needs_row_count,
    parse_split,
)
from genrec_registry.config import digest, parse_component
from genrec_registry.contracts import SPLITS, Dataset, ErrorPolicy, FittedField, SourceFile
from genrec_registry.errors import ConfigError, DataError
from genrec_registry.manager import Registry, default_registry

AnySplit = RandomSplit | ShuffledSplit | TimeSplit | FileSplit
_PACKAGES = ("genrec-plugins", "polars", "pyarrow", "numpy")


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
    """
    registry = registry or default_registry()
    options = options or PrepareOptions()
    report = progress or (lambda _: None)
    plan = _plan(dataset, fields, split, options, registry)
    swap = Swap(Path(out_dir))
    try:
        with swap.lock():
            done = _reusable(swap.target, plan)
            if done:
                report(Progress(stage="reused", rows=done.manifest.rows_read - done.manifest.rows_skipped))
                return done
            try:
                _build(swap.start(), plan, options, report)
                swap.commit()
            except BaseException:
                swap.discard()
                raise
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        problem = "the disk is full; free some space" if full else f"{error.strerror or error}; mend that"
        raise DataError(f"{out_dir}: cannot be written, {problem} or choose another folder") from error
    return Prepared.open(out_dir)


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What is to be done, checked."""

    dataset: Dataset
    sources: Sequence[SourceFile]
    fields: Sequence[Field]
    plugins: Mapping[str, str]
    split: AnySplit
    config: dict[str, Any]
    config_digest: str

    @property
    def columns(self) -> list[str]:
        """Raw columns that some field reads."""
        return list(dict.fromkeys(column for field in self.fields for column in field.type.columns))


def _plan(
    dataset: Any, fields: Mapping[str, Any] | None, split: Any, options: PrepareOptions, registry: Registry
) -> _Plan:
    dataset_config = parse_component(registry, "dataset", dataset)
    built: Dataset = registry.create("dataset", dataset_config)
    sources = list(built.sources())
    chosen = build_fields(built.default_fields() if fields is None else fields, built.columns, registry)
    component = registry.get("dataset", dataset_config.type)
    plugins = {f"dataset {dataset_config.type}": f"{component.distribution} {component.version}"}
    for field in chosen:
        component = registry.get("field-type", field.config.type)
        plugins[f"field-type {field.config.type}"] = f"{component.distribution} {component.version}"
    policy = _split_policy(split, sources)
    config = {
        "dataset": dataset_config.model_dump(mode="json"),
        "fields": {field.name: field.config.model_dump(mode="json") for field in chosen},
        "split": policy.model_dump(mode="json"),
        "on_error": options.on_error,
        "storage": options.storage,
        "shard_rows": options.shard_rows,
    }
    return _Plan(
        dataset=built,
        sources=sources,
        fields=chosen,
        plugins=plugins,
        split=policy,
        config=config,
        # The order of fields is the order of tokens, hence a list here: digest() sorts the keys of mappings.
        config_digest=digest(
            {
                **config,
                **_field_files(chosen),
                "order": [f.name for f in chosen],
                "plugins": plugins,
                "version": VERSION,
            }
        ),
    )


def _field_files(fields: Sequence[Field]) -> dict[str, Any]:
    """Digests of the files that fields read beside the rows; empty where none does."""
    paths = {path: field.name for field in fields for path in getattr(field.type, "files", ())}
    files = [file for path, name in paths.items() for file in find_files(path, key=f"fields.{name}")]
    return {"files": {file: digest_file(file).sha256 for file in files}} if files else {}


def _split_policy(split: Any, sources: Sequence[SourceFile]) -> AnySplit:
    bound = [source for source in sources if source.split is not None]
    if split is None:
        return FileSplit() if bound else RandomSplit()
    policy: AnySplit = split if isinstance(split, BaseModel) else parse_split(split)  # type: ignore[assignment]
    if isinstance(policy, FileSplit) and len(bound) < len(sources):
        raise ConfigError(
            "split: type 'files' needs a dataset whose files carry the split; "
            "set dataset.train, valid and test, or choose random, shuffled or time"
        )
    if bound and not isinstance(policy, FileSplit):
        raise ConfigError(
            f"split: found type '{policy.type}', but the dataset's files carry the split already; "
            "remove 'split', or give the rows as dataset.path"
        )
    return policy


def _reusable(target: Path, plan: _Plan) -> Prepared | None:
    """What is in place, if it is what this run would make."""
    if not target.exists():
        return None
    try:
        done = Prepared.open(target)
    except DataError:
        return None
    manifest = done.manifest
    known = {(entry.path, entry.split): entry for entry in manifest.sources}
    if manifest.config_digest != plan.config_digest or set(known) != {(s.path, s.split) for s in plan.sources}:
        return None
    for source in plan.sources:
        entry, stat = known[source.path, source.split], Path(source.path).stat()
        if stat.st_size != entry.bytes:
            return None
        if stat.st_mtime_ns != entry.mtime_ns and digest_file(source.path).sha256 != entry.sha256:
            return None
    return Prepared(directory=done.directory, manifest=manifest, reused=True)


def _build(root: Path, plan: _Plan, options: PrepareOptions, report: Callable[[Progress], None]) -> None:
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
            splits = _encode(root, plan, stream, assign, fitted, options, report)
            sources = [_source_entry(source, stats[source.path], digests[source.path]) for source in plan.sources]
        finally:
            stop.set()
    rows = stream.rows or 0
    written = sum(entry.rows for entry in splits.values())
    if written != rows:
        raise DataError(f"{root}: wrote {written} rows of {rows}, expected all of them; run again on a sound disk")
    manifest = Manifest(
        config_digest=plan.config_digest,
        config=plan.config,
        versions={**{name: metadata.version(name) for name in _PACKAGES}, **plan.plugins},
        label=plan.dataset.label,
        storage=options.storage,
        rows_read=rows + policy.skipped,
        rows_skipped=policy.skipped,
        skipped_examples=tuple(policy.examples),
        sources=tuple(sources),
        fields=tuple(
            field_entry(root, field, one, plan.plugins[f"field-type {field.config.type}"])
            for field, one in zip(plan.fields, fitted, strict=True)
        ),
        splits={name: splits[name] for name in SPLITS},
    )
    # Written last: without it the folder is not prepared data.
    write_bytes(root, NAME, manifest.model_dump_json(indent=1).encode())
    report(Progress(stage="done", rows=rows, total=rows, skipped=policy.skipped))


Assignment = Callable[[Chunk], npt.NDArray[np.int8]]


def _assigner(plan: _Plan, stream: ChunkStream, report: Callable[[Progress], None]) -> Assignment:
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
    plan: _Plan,
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
        raise DataError(
            f"{plan.sources[0].path}: gave no training rows ({stream.rows or 0} usable, {stream.policy.skipped} "
            "skipped), expected at least one; check the input and the split"
        )
    return list(pool.map(lambda fitter: fitter.finish(), fitters))


def _encode(
    root: Path,
    plan: _Plan,
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


def _source_entry(source: SourceFile, before: Any, digests: Future[Any]) -> SourceEntry:
    sha256 = digests.result().sha256
    now = Path(source.path).stat()
    if (now.st_size, now.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        raise DataError(f"{source.path}: was changed during the run; do not write to the input, and run again")
    return SourceEntry(path=source.path, split=source.split, bytes=now.st_size, mtime_ns=now.st_mtime_ns, sha256=sha256)
