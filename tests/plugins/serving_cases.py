"""Small trained runs to export, as the tests of export and serving share them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from genrec_plugins.config import LoadedRun, parse_run
from genrec_plugins.training.run import prepare_run, train_run

ROWS = 400


def raw_rows(rows: int = ROWS, seed: int = 0) -> pl.DataFrame:
    """Rows with text, whole and decimal numbers, lists, a moment; some of each missing."""
    source = np.random.default_rng(seed)
    words = ["red", "green", "blue", "", None]
    ages = [int(value) if value > 2 else None for value in source.integers(0, 40, rows)]
    frame = pl.DataFrame(
        {
            "label": source.integers(0, 2, rows).astype(np.int8),
            "colour": [words[index] for index in source.integers(0, len(words), rows)],
            "shop": pl.Series(source.integers(0, 9, rows), dtype=pl.Int64),
            "age": pl.Series(ages, dtype=pl.Int64),
            "price": [float(value) if value > -1 else None for value in source.normal(size=rows)],
            "tags": [[f"t{tag}" for tag in source.integers(0, 6, count)] for count in source.integers(0, 5, rows)],
            "seen": [source.integers(0, 20, count).tolist() for count in source.integers(0, 5, rows)],
            "image": pl.Series(source.normal(size=(rows, 3)).round(3).tolist(), dtype=pl.List(pl.Float64)),
            "when": pl.Series(1_400_000_000 + source.integers(0, 10**7, rows), dtype=pl.Int64),
            "title": [f"w{one} w{two}" for one, two in source.integers(0, 9, (rows, 2))],
        }
    )
    learned = (frame["shop"] % 2 + frame["price"].fill_null(0.0)) > 0.5
    return frame.with_columns(learned.cast(pl.Int8).alias("label"))


FIELDS = """
  colour: {type: categorical}
  shop: {type: categorical, missing: own}
  pair: {type: cross, columns: [colour, title]}
  age: {type: numeric-bucket, method: quantile, num_buckets: 5}
  age2: {type: numeric-bucket, column: age}
  tags: {type: multi-hot}
  seen: {type: sequence, max_length: 3, pooling: sum, mode: hash, num_buckets: 50}
  title: {type: text-hash, num_buckets: 50, ngrams: [3]}
  when: {type: timestamp, format: epoch-seconds, parts: [hour, weekday, weekend, cyclic]}
  price: {type: numeric-dense}
  price2: {type: numeric-embedding, column: price, num_bins: 4}
  image: {type: vector, width: 3}
"""


def make_run(folder: Path, model: str = "interaction: {type: dot}", fields: str = FIELDS) -> LoadedRun:
    """A run on the rows of :func:`raw_rows`, which are written to ``folder/rows.parquet``."""
    path = folder / "rows.parquet"
    if not path.exists():
        raw_rows().write_parquet(path)
    return parse_run(
        f"""
dataset: {{type: parquet, path: {path}, label: label}}
split: {{type: shuffled, seed: 1}}
fields:{fields}
model:
  embedding_dim: 8
  over_arch: [16]
  {model}
train: {{batch_size: 64, epochs: 1, embedding_lr: 0.2, dense_lr: 0.01, threads: 1}}
"""
    )


def trained(folder: Path, name: str, model: str = "interaction: {type: dot}", fields: str = FIELDS) -> Path:
    """A trained run directory below ``folder``."""
    run = make_run(folder, model, fields)
    train_run(run, folder / name, prepare_run(run, folder / f"{name}-prepared"))
    return folder / name


def arrow(frame: pl.DataFrame) -> pa.Table:
    """Rows as a client sends them, without their labels."""
    return frame.drop("label", strict=False).to_arrow()
