"""Shuffled batches of 4,096 rows from prepared files, against other loaders and against the fastest model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from genrec_adapters.datasets.criteo import CATEGORIES, criteo_fields
from genrec_adapters.loader import BatchLoader
from genrec_adapters.prepared import Prepared
from genrec_adapters.preprocess import prepare
from genrec_adapters.rows import load_rows
from genrec_plugins.benchmarks.speed.options import Options
from genrec_plugins.benchmarks.speed.other_python import OtherPython
from genrec_plugins.benchmarks.speed.paired import Timed, race
from genrec_plugins.benchmarks.speed.preprocess import torchrecs
from genrec_plugins.config import parse_run
from genrec_plugins.training.trainer import Trainer
from genrec_registry import default_registry

BATCH_SIZE = 4096
#: the fastest model that makes sense of 39 fields: tables of width 4, one hidden layer of 8
FASTEST = {"embedding_dim": 4, "interaction": {"type": "mlp"}, "over_arch": [8]}
_STEPS = 10
_ROWS = 2_000_000  # a turn lasts at least so many rows, as the system's scheduler thinks in milliseconds


def loader(options: Options) -> list[Timed]:
    """An epoch from the files on (a loader is built, reads and shuffles), and a further epoch of the same loader.

    Ours gives 39 ids a row as one KeyedJaggedTensor; in DLRM's shape, as TorchRec's, 26 ids and 13 floats.
    """
    raw = options.raw
    dataset = {"type": "criteo-kaggle", "train": str(raw.path)}
    fields = prepare(dataset, options.folder / "fields", fields=criteo_fields())
    stock = prepare(dataset, options.folder / "stock", fields=criteo_fields(shape="stock"))
    torchrecs(raw, options.folder)
    parquet = write_parquet(fields, options.folder / "encoded.parquet")
    found = []
    repeats = -(-_ROWS // raw.rows)
    for what, again in (("files", False), ("epoch", True)):
        ways: dict[str, Callable[[], object]] = {
            "genrec BatchLoader, 39 ids": _way(lambda: ours(fields), again, repeats),
            "genrec BatchLoader, 26 ids and 13 floats": _way(lambda: ours(stock), again, repeats),
            "TorchRec InMemoryBinaryCriteoIterDataPipe": _way(lambda: in_memory(options.folder), again, repeats),
        }
        with ExitStack() as others:
            if not options.without_fuxictr("loader"):
                for kind in ("parquet", "npz"):
                    script = ("fuxictr_loader.py", parquet, kind, what, BATCH_SIZE)
                    other = others.enter_context(OtherPython(str(options.fuxictr_python), *script))
                    ways[f"FuxiCTR {other.facts['version']}, {kind}"] = _scaled(other.turn, repeats)
            if again:
                ways["training the fastest model on one thread"] = _scaled(training(fields), repeats)
            notes = {"TorchRec InMemoryBinaryCriteoIterDataPipe": "26 ids and 13 floats"}
            part = "loader, a further epoch" if again else "loader, from files"
            found += race(part, ways, amount=raw.rows * repeats, unit="rows/s", turns=options.turns, notes=notes)
    return found


def ours(prepared: Prepared) -> BatchLoader:
    """Our loader."""
    return BatchLoader(prepared, "train", BATCH_SIZE, shuffle=True)


def in_memory(folder: Path) -> Any:
    """TorchRec's loader of the arrays in ``folder``, its ids brought into range."""
    from torchrec.datasets.criteo import InMemoryBinaryCriteoIterDataPipe

    dense, sparse, labels = ([str(folder / f"{name}.npy")] for name in ("dense", "sparse", "labels"))
    return InMemoryBinaryCriteoIterDataPipe(
        "train",
        dense,
        sparse,
        labels,
        batch_size=BATCH_SIZE,
        rank=0,
        world_size=1,
        shuffle_batches=True,
        shuffle_training_set=True,
        hashes=[1_000_000] * len(CATEGORIES),
    )


def write_parquet(prepared: Prepared, path: Path) -> Path:
    """The encoded training rows as one file, for FuxiCTR: the same ids, and ``label``."""
    shards = prepared.manifest.splits["train"].shards
    sparse = prepared.sparse_features
    rows = load_rows(prepared.shard_paths("train"), [shard.rows for shard in shards], sparse, ())
    columns = {feature.name: rows.ids[:, place].astype(np.int64) for place, feature in enumerate(sparse)}
    pl.DataFrame({**columns, "label": rows.labels}).write_parquet(path)
    return path


def training(prepared: Prepared) -> Callable[[], float]:
    """Seconds that an epoch of the fastest model would take, from a few steps on batches that lie ready."""
    import torch

    run = {
        "dataset": {"type": "criteo-kaggle", "train": "train.txt"},
        "model": FASTEST,
        "train": {"preset": "torchrec", "batch_size": BATCH_SIZE, "threads": 1},
    }
    trainer = Trainer(parse_run(run).config, prepared, default_registry())
    batches = list(zip(range(_STEPS), trainer.loader, strict=False))
    rows = sum(len(batch.labels) for _, batch in batches)

    def train() -> float:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        given = iter([batch for _, batch in batches])
        began = time.perf_counter()
        for _ in batches:
            trainer._steps(given)
        seconds = time.perf_counter() - began
        torch.set_num_threads(threads)
        return seconds * prepared.rows("train") / rows

    return train


def _way(make: Callable[[], Iterable[Any]], again: bool, repeats: int) -> Callable[[], None]:
    """Go through a loader ``repeats`` times: a new one each time, or the same one again."""
    kept = make() if again else None

    def run() -> None:
        for _ in range(repeats):
            for _ in make() if kept is None else kept:
                pass

    return run


def _scaled(seconds: Callable[[], float], repeats: int) -> Callable[[], float]:
    """A slow way goes once, and counts as ``repeats`` times that."""
    return lambda: seconds() * repeats
