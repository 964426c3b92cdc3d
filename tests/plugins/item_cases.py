"""Small catalogues of items for tests, as files."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

WORDS = [[f"{theme}{n}" for n in range(8)] for theme in ("ink", "pen", "desk", "lamp")]


def rows(start: int = 0, stop: int = 60) -> list[dict[str, Any]]:
    """Items of four themes, whose words repeat."""
    made = []
    for n in range(start, stop):
        words = np.random.default_rng(n).choice(WORDS[n % 4], 4, replace=False).tolist()
        made.append({"item": f"i{n}", "text": " ".join(words), "categories": [f"theme {n % 4}"]})
    return made


def write_items(path: str, start: int = 0, stop: int = 60) -> str:
    pl.DataFrame(rows(start, stop)).write_parquet(path)
    return path


def write_map(path: str | Path, start: int = 0, stop: int = 60) -> None:
    """The items as one JSON object, item -> content, as Amazon's metadata are published."""
    made = {row["item"]: {"title": row["text"], "categories": row["categories"]} for row in rows(start, stop)}
    Path(path).write_bytes(gzip.compress(json.dumps(made).encode()))


def write_index(path: str | Path, items: int = 60) -> None:
    """Published codes of two levels, drawn at random."""
    generator = np.random.default_rng(1)
    index = {f"i{n}": [f"<a_{generator.integers(4)}>", f"<b_{generator.integers(4)}>"] for n in range(items)}
    Path(path).write_bytes(gzip.compress(json.dumps(index).encode()))
