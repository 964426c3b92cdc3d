"""Rows of Criteo's shape, and built datasets."""

from __future__ import annotations

from typing import Any

from genrec_plugins.testing.datasets import build_dataset

NAMES = ["label", *(f"I{i}" for i in range(1, 14)), *(f"C{i}" for i in range(1, 27))]


def criteo_line(index: int, **changes: str) -> bytes:
    """A sound Criteo row, with some values changed."""
    values = dict.fromkeys(NAMES, "")
    values |= {"label": str(index % 2), "I1": str(index), "I2": "-3", "C1": f"{index:08x}", "C26": "49d68486"}
    values |= changes
    return "\t".join(values.values()).encode()


def dataset(type_name: str, **config: Any) -> Any:
    """A built dataset."""
    return build_dataset(type_name, config)
