"""A small trained run with every kind of field that a report cuts rows by; its test rows are a file in their order."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from genrec_plugins.config import LoadedRun, parse_run
from genrec_plugins.training.run import TrainedRun, prepare_run, train_run

SIZES = {"train": 900, "valid": 150, "test": 450}
FAT = "{type: fat, mode: hyper, num_heads: 2, num_bases: 6, meta_dim: 4, top_k: 2}"


def write_rows(folder: Path) -> None:
    """Rows whose label depends on a, on the number x, and on the words; b is noise with many rare values."""
    source = np.random.default_rng(0)
    for split, rows in SIZES.items():
        a = source.integers(0, 5, rows)
        b = np.minimum(source.geometric(0.02, rows), 300)
        x = source.normal(size=rows).round(4)
        k = source.integers(0, 60, rows)
        words = [" ".join(source.choice(["red", "blue", "green"], size=n)) for n in source.integers(0, 4, rows)]
        logit = 1.5 * (a % 2) - 1 + x + 0.5 * np.array(["red" in text for text in words])
        label = (source.random(rows) < 1 / (1 + np.exp(-logit))).astype(int)
        missing = source.random(rows) < 0.1
        with (folder / f"{split}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["label", "a", "b", "x", "k", "words"])
            for y, i, j, v, n, text, gone in zip(label, a, b, x, k, words, missing, strict=True):
                writer.writerow([y, "" if gone else f"a{i}", f"b{j}", "" if n == 7 else f"{v:.4f}", n, text])


def raw_rows(folder: Path, split: str = "test") -> list[dict[str, str]]:
    """The rows of a split as text."""
    with (folder / f"{split}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def report_run(folder: Path, interaction: str = FAT, epochs: int = 2) -> LoadedRun:
    return parse_run(
        f"""
seed: 3
dataset:
  type: csv
  train: {folder / "train.csv"}
  valid: {folder / "valid.csv"}
  test: {folder / "test.csv"}
  label: label
  numbers: [x, k]
fields:
  a: {{type: categorical, missing: own}}
  b: {{type: categorical, min_count: 3}}
  x: {{type: numeric-dense}}
  k: {{type: numeric-bucket}}
  words: {{type: text-hash, num_buckets: 16}}
model: {{embedding_dim: 8, over_arch: [16], interaction: {interaction}}}
train: {{batch_size: 64, epochs: {epochs}, embedding_lr: 0.1, dense_lr: 0.01, threads: 1, log_every: 2}}
"""
    )


def train(folder: Path, name: str = "fat", interaction: str = FAT, epochs: int = 2) -> TrainedRun:
    """A trained run at ``folder/name``, on rows that are written to ``folder`` if they are not there."""
    if not (folder / "train.csv").exists():
        write_rows(folder)
    run = report_run(folder, interaction, epochs)
    train_run(run, folder / name, prepare_run(run, folder / "prepared"))
    return TrainedRun.open(folder / name)
