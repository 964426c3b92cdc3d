"""A model that reads knowledge, for the tests of the stores it may stand in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from genrec_adapters.knowledge import KnowledgeFacts, KnowledgeStore
from genrec_plugins.config import parse_run
from genrec_plugins.serving.export import export_run
from genrec_plugins.training.run import prepare_run, train_run


def vectors(rows: np.ndarray) -> pl.Series:
    return pl.Series(rows.astype(np.float32), dtype=pl.Array(pl.Float32, rows.shape[1]))


def write_store(folder: Path, snapshots: list[tuple[str | None, int | None]], seed: int = 0) -> KnowledgeStore:
    source = np.random.default_rng(seed)
    users = pl.DataFrame(
        {
            "user": pl.Series([user for user, _ in snapshots], dtype=pl.String),
            "last_event": pl.Series([time for _, time in snapshots], dtype=pl.Int64),
            "like": vectors(source.normal(size=(len(snapshots), 3))),
            "buy": vectors(source.normal(size=(len(snapshots), 3))),
        }
    ).sort("user", "last_event", nulls_last=False)
    names = [f"i{number}" for number in range(5)] + ["ä" * 300]
    items = pl.DataFrame({"item": names, "vector": vectors(source.normal(size=(6, 3)))})
    facts = KnowledgeFacts(model="0" * 64, trained_until=5, queries=("like", "buy"), dim=3)
    return KnowledgeStore.write(folder, [users], items, facts)


def export_with_knowledge(folder: Path) -> Path:
    """An export whose field ``knowledge`` knows users u0 to u7, of u0 to u9 that there are."""
    store = write_store(folder / "store", [(None, None), *((f"u{number}", 5) for number in range(8))])
    source = np.random.default_rng(1)
    rows = pl.DataFrame(
        {
            "user": [f"u{number}" for number in source.integers(0, 10, 300)],
            "item": [f"i{number}" for number in source.integers(0, 6, 300)],
            "time": source.integers(6, 90, 300),
            "label": source.integers(0, 2, 300),
        }
    )
    rows.write_parquet(folder / "rows.parquet")
    run_ = parse_run(
        f"""
dataset: {{type: parquet, path: {folder}/rows.parquet, label: label}}
split: {{type: shuffled, seed: 1}}
fields:
  "{{user,item}}": categorical
  knowledge: {{type: lum-knowledge, store: {store.directory}}}
model: {{embedding_dim: 4, over_arch: [8], interaction: {{type: dot}}}}
train: {{batch_size: 50, epochs: 1, threads: 1, embedding_lr: 0.2, dense_lr: 0.01}}
"""
    )
    train_run(run_, folder / "run", prepare_run(run_, folder / "prepared"))
    export_run(folder / "run", folder / "export", formats=())
    return folder / "export"


#: known, known, not known, nothing, without a time
ROWS = [
    {"user": user, "item": item, "time": time}
    for user, item, time in [("u1", "i1", 9), ("u2", "i0", 6), ("u9", "i2", 7), (None, None, None), ("u1", "i1", None)]
]
