"""Prepared data with fewer training rows: the same vocabularies, validation and test rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from genrec_adapters.manifest import FileEntry
from genrec_adapters.prepared import Prepared
from genrec_adapters.preprocess.writer import SplitWriter
from genrec_registry import ConfigError, digest

SHARD_ROWS = 4_000_000


def take_training_rows(prepared: Prepared, rows: int, directory: Path, seed: int = 1) -> Prepared:
    """The same prepared data with ``rows`` of its training rows, drawn at random and kept in their order.

    A smaller draw is part of a larger one of the same seed.

    Args:
        prepared: all rows.
        rows: how many.
        directory: where the training rows go; all other files are linked into it.
        seed: of the draw.

    Raises:
        ConfigError: there are not so many.
    """
    there = prepared.rows("train")
    if not 0 < rows <= there:
        raise ConfigError(f"rows is {rows}, expected 1 to {there:,}, the training rows there are")
    kept = np.zeros(there, dtype=bool)
    kept[np.random.default_rng(seed).permutation(there)[:rows]] = True
    writer = SplitWriter(directory, "train", prepared.manifest.storage, SHARD_ROWS)
    start = 0
    for path, shard in zip(prepared.shard_paths("train"), prepared.manifest.splits["train"].shards, strict=True):
        read = pl.read_ipc if prepared.manifest.storage == "arrow" else pl.read_parquet
        writer.write(read(path).filter(pl.Series(kept[start : start + shard.rows])))
        start += shard.rows
    training = writer.finish()
    manifest = prepared.manifest
    for entry in manifest.entries():
        if entry not in manifest.splits["train"].shards:
            _link(prepared.directory, directory, entry)
    fewer = manifest.model_copy(
        update={
            "config_digest": digest({"of": manifest.config_digest, "training_rows": rows, "seed": seed}),
            "splits": {**manifest.splits, "train": training},
        }
    )
    return Prepared(directory=directory, manifest=fewer)


def _link(source: Path, target: Path, entry: FileEntry) -> None:
    path = target / entry.path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to((source / entry.path).resolve())
