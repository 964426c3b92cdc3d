"""Rows and fields for the engines to agree on: every built-in field type, over numbers, texts and lists."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from genrec_adapters.knowledge import KnowledgeFacts, KnowledgeStore


def write_rows(path: Path, rows: int = 3000, *, seed: int = 0, row_group: int = 200) -> dict[str, Any]:
    """A Parquet table with gaps, rare values and extreme numbers; its dataset config."""
    draw = np.random.default_rng(seed)

    def words(values: int, length: int = 0) -> list[str | None]:
        drawn = draw.geometric(0.02, rows) % values
        return [None if draw.random() < 0.05 else f"w{value}".ljust(length, "x") for value in drawn]

    items = [f"i{value}" for value in draw.integers(0, 14, rows)]
    numbers = np.where(draw.random(rows) < 0.01, np.inf, draw.normal(0, 1e3, rows))
    pl.DataFrame(
        {
            "y": draw.integers(0, 2, rows),
            "short": words(200),
            "long": words(150, 20),
            "city": words(9),
            "number": pl.Series(numbers).scatter(draw.integers(0, rows, 50), None),
            "count": pl.Series(draw.poisson(30, rows)).scatter(draw.integers(0, rows, 50), None),
            "tags": [[f"t{tag}" for tag in draw.geometric(0.1, draw.integers(0, 5))] for _ in range(rows)],
            "when": draw.integers(1_400_000_000, 1_700_000_000, rows),
            "image": draw.normal(size=(rows, 3)).astype(np.float32),
            "user": [f"u{value}" for value in draw.integers(0, 5, rows)],
            "item": items,
            "history": [[items[place] for place in draw.integers(0, rows, draw.integers(0, 4))] for _ in range(rows)],
            "action": [["view", "buy", "x"][: draw.integers(0, 4)] for _ in range(rows)],
        }
    ).write_parquet(path, row_group_size=row_group)
    return {"type": "parquet", "path": str(path), "label": "y"}


def every_field(folder: Path) -> dict[str, Any]:
    """A field of every built-in type, some in several modes; what they read beside the rows is in the folder."""
    codes = np.random.default_rng(1).integers(0, 4, (12, 3)).tolist()
    index = {
        f"i{n}": [f"<{level}_{code}>" for level, code in zip("abc", row, strict=True)] for n, row in enumerate(codes)
    }
    (folder / "codes.json").write_text(json.dumps(index))

    def vectors(*rows: list[float]) -> pl.Series:
        return pl.Series(rows, dtype=pl.Array(pl.Float32, 2))

    KnowledgeStore.write(
        folder / "store",
        [pl.DataFrame({"user": ["u0", "u1"], "last_event": [10, 10], "like": vectors([3.0, 4.0], [1.0, 2.0])})],
        pl.DataFrame({"item": ["i1", "i2"], "vector": vectors([3.0, 4.0], [4.0, -3.0])}),
        KnowledgeFacts(model="0" * 64, trained_until=10, queries=("like",), dim=2),
    )
    number = {"column": "number"}
    return {
        "short": {"type": "categorical", "min_count": 3},
        "long": {"type": "categorical", "max_size": 40, "missing": "value"},
        "hashed": {"type": "categorical", "column": "short", "mode": "hash", "num_buckets": 50},
        "pair": {"type": "cross", "columns": ["short", "city"], "min_count": 2},
        "bucket": {"type": "numeric-bucket", "method": "criteo", **number},
        "counts": {"type": "numeric-bucket", "method": "criteo", "column": "count"},
        "quantile": {"type": "numeric-bucket", "method": "quantile", "num_buckets": 7, **number},
        "uniform": {"type": "numeric-bucket", "method": "uniform", "num_buckets": 7, **number},
        "dense": {"type": "numeric-dense", **number},
        "linear": {"type": "numeric-embedding", "num_bins": 5, **number},
        "autodis": {"type": "numeric-embedding", "method": "autodis", **number},
        "tags": {"type": "multi-hot", "min_count": 2},
        "last": {"type": "sequence", "column": "tags", "max_length": 2},
        "text": {"type": "text-hash", "column": "long", "num_buckets": 99},
        "when": {"type": "timestamp", "format": "epoch-seconds", "parts": ["hour", "weekday", "cyclic"]},
        "image": {"type": "vector", "width": 3},
        "user": {"type": "dynamic-id", "rows": 100},
        "past": {"type": "behaviour", "item": "item", "history": "history", "conditions": ["action"], "max_length": 2},
        "codes": {"type": "semantic-id", "codes": str(folder / "codes.json"), "column": "item"},
        "known": {
            "type": "lum-knowledge",
            "store": str(folder / "store"),
            "user": "user",
            "item": "item",
            "time": "when",
        },
    }
