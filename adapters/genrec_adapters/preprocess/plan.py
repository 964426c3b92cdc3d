"""What a run is to do, checked against the dataset before anything is read; and what it says of itself at its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from genrec_adapters.datasets.files import digest_file, find_files
from genrec_adapters.fields import Field, build_fields
from genrec_adapters.manifest import NAME, VERSION, FieldEntry, Manifest, SourceEntry, SplitEntry
from genrec_adapters.prepared import Prepared
from genrec_adapters.preprocess.options import PrepareOptions
from genrec_adapters.preprocess.writer import write_bytes
from genrec_adapters.splits import FileSplit, RandomSplit, ShuffledSplit, TimeSplit, parse_split
from genrec_registry.config import digest, parse_component
from genrec_registry.contracts import SPLITS, Dataset, ErrorPolicy, SourceFile
from genrec_registry.errors import ConfigError, DataError
from genrec_registry.manager import Registry

AnySplit = RandomSplit | ShuffledSplit | TimeSplit | FileSplit
_PACKAGES = ("genrec-plugins", "polars", "pyarrow", "numpy")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be done, checked.

    Args:
        dataset: scans the sources.
        sources: in reading order.
        fields: the configured fields.
        plugins: what each component was installed with.
        split: the split policy.
        config: everything that decides on the result, for people.
        config_digest: its digest.
    """

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


def make_plan(
    dataset: Any, fields: Mapping[str, Any] | None, split: Any, options: PrepareOptions, registry: Registry
) -> Plan:
    """Build dataset and fields, and choose the split.

    Args:
        dataset: tagged dataset config, or mapping.
        fields: pattern -> field config; the dataset's own if None.
        split: a split config, mapping or name; None for the default.
        options: how to run and write.
        registry: the installed plugins.

    Raises:
        ConfigError: the config does not fit the dataset.
        DataError: a file is missing.
        PluginError: a plugin is missing.
    """
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
    return Plan(
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


def reusable(target: Path, plan: Plan) -> Prepared | None:
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


def write_manifest(
    root: Path,
    plan: Plan,
    options: PrepareOptions,
    *,
    rows: int,
    policy: ErrorPolicy,
    sources: Sequence[SourceEntry],
    fields: Sequence[FieldEntry],
    splits: Mapping[str, SplitEntry],
) -> None:
    """Write the manifest, last of all: without it the folder is not prepared data.

    Args:
        root: prepared directory in the making.
        plan: what was to be done.
        options: how it was done.
        rows: usable rows that were read.
        policy: took the others.
        sources: the files that were read.
        fields: the fitted fields.
        splits: what was written.

    Raises:
        DataError: not all rows were written.
    """
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
        fields=tuple(fields),
        splits={name: splits[name] for name in SPLITS},
    )
    write_bytes(root, NAME, manifest.model_dump_json(indent=1).encode())


def source_entry(source: SourceFile, before: Any, sha256: str) -> SourceEntry:
    """A file as it was read.

    Args:
        source: the file.
        before: its ``stat`` before the run.
        sha256: digest of its content.

    Raises:
        DataError: it was changed during the run.
    """
    now = Path(source.path).stat()
    if (now.st_size, now.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        raise DataError(f"{source.path}: was changed during the run; do not write to the input, and run again")
    return SourceEntry(path=source.path, split=source.split, bytes=now.st_size, mtime_ns=now.st_mtime_ns, sha256=sha256)


def no_training_rows(plan: Plan, rows: int, skipped: int) -> DataError:
    """The error of a run that has nothing to fit on."""
    return DataError(
        f"{plan.sources[0].path}: gave no training rows ({rows} usable, {skipped} skipped), expected at least one; "
        "check the input and the split"
    )
