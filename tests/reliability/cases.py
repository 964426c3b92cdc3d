"""Small data and runs for the fault tests, and functions that a process of its own can be asked to run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

ROWS = 600
TORCHREC: dict[str, Any] = {"preset": "torchrec", "embedding_lr": 0.1, "dense_lr": 0.01}
BARS: dict[str, Any] = {"preset": "bars", "lr": 0.01}


def write_table(path: Path, rows: int = ROWS, seed: int = 0) -> Path:
    """Rows whose label depends on a pair of fields and a number."""
    source = np.random.default_rng(seed)
    a, b = source.integers(0, 5, rows), source.integers(0, 4, rows)
    x = source.normal(size=rows)
    label = (source.random(rows) < 1 / (1 + np.exp(-(2.0 * ((a + b) % 2) - 1 + x)))).astype(int)
    lines = ["label,a,b,x", *(f"{y},a{i},b{j},{v:.4f}" for y, i, j, v in zip(label, a, b, x, strict=True))]
    path.write_text("\n".join(lines) + "\n")
    return path


def run_config(table: Path, train: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """A run on :func:`write_table`'s rows; ``changes`` go over its sections."""
    config: dict[str, Any] = {
        "seed": 3,
        "dataset": {"type": "csv", "path": str(table), "label": "label", "numbers": ["x"]},
        "split": {"type": "shuffled", "seed": 1, "train": 0.7, "valid": 0.15, "test": 0.15},
        "fields": {"{a,b}": {"type": "categorical", "min_count": 1}, "x": {"type": "numeric-dense"}},
        "model": {
            "embedding_dim": 8,
            "over_arch": [16],
            "dropout": 0.1,
            "interaction": {"type": "fat", "num_heads": 2},
        },
        "train": {"batch_size": 64, "epochs": 2, "checkpoint_every": 3, "threads": 1, **(train or TORCHREC)},
    }
    return config | changes


def prepare(config: dict[str, Any], out: Path) -> str:
    """``genrec preprocess``; returns the directory."""
    from genrec_plugins.config import parse_run
    from genrec_plugins.training.run import prepare_run

    return str(prepare_run(parse_run(config), out).directory)


def train(config: dict[str, Any], prepared: Path, out: Path, restart: bool = False) -> dict[str, Any]:
    """``genrec train``: its metrics, and what it said."""
    from genrec_adapters.prepared import Prepared
    from genrec_plugins.config import parse_run
    from genrec_plugins.training.run import train_run

    said = Listening()
    report = train_run(parse_run(config), out, Prepared.open(prepared), said, restart=restart)
    return {"valid": report["valid"], "test": report["test"], "said": said.lines}


class Listening:
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def step(self, **_: object) -> None:
        """Ignore."""

    def rows(self, **_: object) -> None:
        """Ignore."""

    def message(self, text: str) -> None:
        """Keep."""
        self.lines.append(text)


def steps_in(run: Path) -> list[int]:
    """Steps of the checkpoints under their final names; each must be whole."""
    found = []
    for path in sorted((run / "checkpoints").glob("step-*")):
        step = json.loads((path / "trainer.json").read_text())["progress"]["step"]
        assert path.name == f"step-{step:010d}"
        found.append(step)
    return found


def half_files(folder: Path) -> list[str]:
    """Files below a folder, under final names, that are not whole, each with why; logs may end in the middle."""
    found = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        hidden = any(part.startswith(".") and part != ".metadata" for part in name.parts)  # partial files, locks
        if hidden or not path.is_file():
            continue
        try:
            _read_whole(path)
        except Exception as error:  # whatever the reader says
            found.append(f"{name}: {str(error) or type(error).__name__}")
    return found


def _read_whole(path: Path) -> None:
    import polars as pl
    from safetensors.numpy import load_file

    from genrec_adapters.prepared import Prepared
    from genrec_plugins.training.safe_state import check_files
    from genrec_registry import digest

    if path.name == "manifest.json":
        Prepared.open(path.parent).verify()
    elif path.name == "trainer.json":
        meta = json.loads(path.read_text())
        check_files(path.parent / "state", meta["sha256"])
        if meta.pop("digest") != digest(meta):
            raise ValueError("was changed")
    elif path.suffix == ".json":
        json.loads(path.read_text())
    elif path.suffix == ".jsonl":
        for line in path.read_text().splitlines(keepends=True)[:-1]:
            json.loads(line)
    elif path.suffix == ".safetensors":
        load_file(path)
    elif path.suffix == ".arrow":
        pl.read_ipc(path.read_bytes())
    elif path.suffix == ".parquet":
        pl.read_parquet(path)
    elif path.parent.name == "state":  # of a checkpoint; trainer.json has its digest
        if not (path.parents[1] / "trainer.json").exists():
            raise ValueError("has no trainer.json")
    elif "tensorboard" not in path.parts:
        raise ValueError("of an unknown kind")


def save_tokenizer(out: Path, seed: int, items: int = 40) -> list[int]:
    """Fit a tokenizer on the items and save it; returns its first item's codes."""
    from genrec_plugins.tokenizers.fitted import fit_tokenizer

    vectors = np.random.default_rng(seed).standard_normal((items, 4)).astype(np.float32)
    fitted = fit_tokenizer({"type": "rq-kmeans", "sizes": [4, 4]}, vectors, [f"i{row}" for row in range(items)])
    fitted.save(out)
    return [int(code) for code in fitted.item_codes.codes[0]]


def open_tokenizer(out: Path) -> list[int]:
    """The saved tokenizer's codes of its first item."""
    from genrec_plugins.tokenizers.fitted import load_tokenizer

    return [int(code) for code in load_tokenizer(out).item_codes.codes[0]]


def write_store(out: Path, seed: int, users: int = 50) -> str:
    """Write a knowledge store; returns its digest."""
    import polars as pl

    from genrec_adapters.knowledge import KnowledgeFacts, KnowledgeStore

    source = np.random.default_rng(seed)
    kind = pl.Array(pl.Float32, 4)
    frame = pl.DataFrame(
        {
            "user": [None, *(f"u{user:03}" for user in range(users))],
            "last_event": pl.Series([None, *range(users)], dtype=pl.Int64),
            "like": pl.Series(source.normal(size=(users + 1, 4)).astype(np.float32), dtype=kind),
        }
    )
    items = pl.DataFrame({"item": ["a", "b"], "vector": pl.Series(source.normal(size=(2, 4)), dtype=kind)})
    facts = KnowledgeFacts(model=f"{seed:064x}", trained_until=None, queries=("like",), dim=4)
    return KnowledgeStore.write(out, [frame], items, facts).digest


def open_store(out: Path) -> str:
    """Open a store, read all of it, and return its digest."""
    from genrec_adapters.knowledge import KnowledgeStore

    store = KnowledgeStore.open(out)
    store.load(["like"])
    return store.digest


def open_prepared(out: Path) -> list[str]:
    """Open prepared rows, check every file, and return the digests of the rows."""
    from genrec_adapters.prepared import Prepared

    prepared = Prepared.open(out)
    prepared.verify()
    return [shard.sha256 for split in prepared.manifest.splits.values() for shard in split.shards]


def lum_config(ratings: Path) -> dict[str, Any]:
    """A small pre-training run."""
    return {
        "dataset": {"type": "movielens", "path": str(ratings)},
        "encoder": {"type": "lum", "hidden": 16, "num_heads": 2, "num_layers": 1},
        "embedding_dim": 16,
        "max_length": 32,
        "train": {
            "epochs": 2,
            "max_events": 128,
            "lr": 0.01,
            "warmup_steps": 2,
            "threads": 1,
            "device": "cpu",
            "checkpoint_every": 2,
            "peak_flops": 1e11,
        },
    }


def pretrain(config: dict[str, Any], out: Path) -> dict[str, Any]:
    """``genrec lum pretrain``: its test metrics, and what it said."""
    from genrec_plugins.lum.config import parse_lum
    from genrec_plugins.lum.run import LumRun, pretrain

    said = Listening()
    report = pretrain(parse_lum(config), out, said)
    return {"test": report["test"], "digest": LumRun.open(out).digest, "said": said.lines}


def bench(config: dict[str, Any], out: Path) -> list[dict[str, float]]:
    """``genrec scale`` over two widths: the metrics of its cells."""
    from genrec_plugins.scaling.ranker import RankerSubject
    from genrec_plugins.scaling.sweep import Axis, run_sweep
    from genrec_registry import parse_yaml

    subject = RankerSubject(source=parse_yaml(json.dumps(config)), overrides={}, prepared_root=out / "prepared")
    axes = [Axis.parse("model.embedding_dim=4,8,16")]
    (swept,) = run_sweep(subject, axes, [1], out / "sweep", draws=10)
    return [point.measured.metrics for point in swept.points]


def change_rows(prepared: Any, folder: Path, column: str, rows: list[int], value: float) -> Any:
    """The prepared rows with a value in some training rows that no field would give; the manifest goes with it."""
    import hashlib
    import shutil

    import pyarrow as pa

    from genrec_adapters.prepared import Prepared

    shutil.copytree(prepared.directory, folder)
    shard = prepared.manifest.splits["train"].shards[0]
    path = folder / shard.path
    table = pa.ipc.open_file(pa.BufferReader(path.read_bytes())).read_all()
    old = table[column].combine_chunks()
    wide = pa.types.is_fixed_size_list(old.type)
    width = old.type.list_size if wide else 1
    values = (old.flatten() if wide else old).to_numpy(zero_copy_only=False).copy().reshape(len(old), width)
    values[rows, 0] = value
    flat = pa.array(values.reshape(-1))
    new = pa.FixedSizeListArray.from_arrays(flat, width) if wide else flat
    place = table.schema.get_field_index(column)
    table = table.set_column(place, column, new.cast(old.type))
    with pa.ipc.new_file(path, table.schema) as sink:
        sink.write_table(table)
    manifest = json.loads((folder / "manifest.json").read_text())
    entry = manifest["splits"]["train"]["shards"][0]
    entry |= {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return Prepared.open(folder)
