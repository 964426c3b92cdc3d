"""Small trained runs to export, as the tests of export and serving share them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import torch
from safetensors.torch import save_file

from genrec_adapters.knowledge import KnowledgeFacts, KnowledgeStore
from genrec_adapters.prepared import Prepared
from genrec_plugins.config import LoadedRun, parse_run
from genrec_plugins.models import build_dlrm
from genrec_plugins.training.run import prepare_run, train_run

ROWS = 400
FIRST_TIME = 1_400_000_000


def raw_rows(rows: int = ROWS, seed: int = 0) -> pl.DataFrame:
    """Rows with text, whole and decimal numbers, lists, a moment; some of each missing."""
    source = np.random.default_rng(seed)
    words = ["red", "green", "blue", "", None]
    ages = [int(value) if value > 2 else None for value in source.integers(0, 40, rows)]
    lengths = source.integers(0, 5, rows)
    frame = pl.DataFrame(
        {
            "colour": [words[index] for index in source.integers(0, len(words), rows)],
            "shop": pl.Series(source.integers(0, 9, rows), dtype=pl.Int64),
            "age": pl.Series(ages, dtype=pl.Int64),
            "price": [float(value) if value > -1 else None for value in source.normal(size=rows)],
            "tags": [[f"t{tag}" for tag in source.integers(0, 6, count)] for count in source.integers(0, 5, rows)],
            "seen": [source.integers(0, 20, count).tolist() for count in source.integers(0, 5, rows)],
            "image": pl.Series(source.normal(size=(rows, 3)).round(3).tolist(), dtype=pl.List(pl.Float64)),
            "when": pl.Series(FIRST_TIME + source.integers(0, 10**7, rows), dtype=pl.Int64),
            "title": [f"w{one} w{two}" for one, two in source.integers(0, 9, (rows, 2))],
            "user": [f"u{user}" for user in source.integers(0, 6, rows)],
            "item": [f"i{item}" for item in source.integers(0, 14, rows)],
            "past": [[f"i{item}" for item in source.integers(0, 14, count)] for count in lengths],
            "past_action": [[("click", "buy")[a] for a in source.integers(0, 2, count)] for count in lengths],
        }
    )
    label = (frame["shop"] % 2 + frame["price"].fill_null(0.0)) > 0.5
    return frame.with_columns(label.cast(pl.Int8).alias("label"))


#: a FAT whose weights have something to fold
FAT = "interaction: {type: fat, num_heads: 2, mode: hyper, num_bases: 4, meta_dim: 4, top_k: 2}"
#: most field types, and no plain form is too hard for any of them
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
HISTORY = """
  past: {type: behaviour, item: item, history: past, conditions: [past_action], max_length: 4}
"""
#: what goes with :data:`FIELDS` and :data:`HISTORY` to have every built-in type
OTHERS = """
  item: {type: dynamic-id, rows: 8}
  content: {type: semantic-id, column: item, codes: FOLDER/codes.json}
  lum: {type: lum-knowledge, store: FOLDER/store, time: when, weights: any}
"""


def write_codes(folder: Path) -> None:
    """Semantic IDs of most items."""
    codes = np.random.default_rng(1).integers(0, 3, (12, 2)).tolist()
    (folder / "codes.json").write_text(
        json.dumps({f"i{n}": [f"<a_{a}>", f"<b_{b}>"] for n, (a, b) in enumerate(codes)})
    )


def write_store(folder: Path, seed: int = 2) -> None:
    """A knowledge store of some users and items, made before the first row."""
    source = np.random.default_rng(seed)
    width = pl.Array(pl.Float32, 3)
    vectors = [pl.Series(source.normal(size=(count, 3)).astype(np.float32), dtype=width) for count in (5, 12)]
    users = pl.DataFrame(
        {
            "user": [None, "u0", "u1", "u2", "u3"],
            "last_event": [None, *[FIRST_TIME - 10] * 4],
            "like": vectors[0],
        },
        schema={"user": pl.String, "last_event": pl.Int64, "like": width},
    )
    items = pl.DataFrame({"item": [f"i{n}" for n in range(12)], "vector": vectors[1]})
    facts = KnowledgeFacts(model="0" * 64, trained_until=FIRST_TIME - 10, queries=("like",), dim=3)
    KnowledgeStore.write(folder / "store", [users], items, facts)


def make_run(folder: Path, model: str = "interaction: {type: dot}", fields: str = FIELDS) -> LoadedRun:
    """A run on the rows of :func:`raw_rows`, which are written to ``folder/rows.parquet``."""
    path = folder / "rows.parquet"
    if not path.exists():
        raw_rows().write_parquet(path)
        write_codes(folder)
        write_store(folder)
    fields = fields.replace("FOLDER", str(folder))
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


def untrained(folder: Path, name: str, model: str, prepared: Prepared, fields: str = FIELDS) -> Path:
    """A run directory with weights as they begin: quick, and as good to export."""
    run, directory = make_run(folder, model, fields), folder / name
    directory.mkdir()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.config.seed)  # else what a test sees would depend on those before it
        weights = build_dlrm(run.config.model, prepared.fields, run.registry).state_dict()
    save_file({key: value.clone().contiguous() for key, value in weights.items()}, directory / "model.safetensors")
    facts = {
        "config": run.config.model_dump(mode="json"),
        "prepared": str(prepared.directory),
        "identity": prepared.identity,
        "versions": {},
    }
    (directory / "run.json").write_text(json.dumps(facts))
    return directory


def arrow(frame: pl.DataFrame) -> pa.Table:
    """Rows as a client sends them, without their labels."""
    return frame.drop("label", strict=False).to_arrow()
