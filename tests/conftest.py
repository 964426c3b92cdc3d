"""Shared fixtures: real rows where they are present, small everything."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("GENREC_DATA", ROOT.parent / "shared" / "data"))


def _sample(relative: str) -> Path:
    path = DATA / relative
    if not path.exists():
        pytest.skip(f"real rows are absent: {path} (set GENREC_DATA to the folder that has them)")
    return path


@pytest.fixture(scope="session")
def criteo_sample() -> Path:
    """Raw Criteo Kaggle rows, gzipped TSV without header, 40 columns."""
    return _sample("criteo/train_sample.txt.gz")


@pytest.fixture(scope="session")
def avazu_sample() -> Path:
    """Raw Avazu rows, gzipped CSV with header."""
    return _sample("avazu/train_sample.csv.gz")


@pytest.fixture(scope="session")
def movielens_100k() -> Path:
    """The folder of MovieLens-100K in RecBole's atomic files."""
    return _sample("movielens-100k")


@pytest.fixture(scope="session")
def amazon_data() -> Path:
    """The folder of Amazon Beauty (user -> items, published codes) and Office Products (MiniOneRec's files)."""
    return _sample("amazon")
