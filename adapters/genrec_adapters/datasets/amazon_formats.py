"""How the files of Amazon reviews are read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import polars as pl

from genrec_adapters.datasets.blocks import StreamFault, read_blocks
from genrec_registry.contracts import ErrorPolicy
from genrec_registry.errors import DataError


def whole_json(path: str) -> Any:
    """The one JSON value of a file, plain or gzipped.

    Raises:
        DataError: it is none.
    """
    try:
        return json.loads(b"".join(read_blocks(path)))
    except StreamFault as fault:
        raise DataError(f"{path}: {fault}, expected a complete file; download it again") from fault
    except ValueError as error:
        raise DataError(f"{path}: is not JSON ({error}), expected one JSON object; download it again") from error


def detect(path: str) -> str:
    """The form of a file: ``lists`` (user -> items), ``reviews`` (JSON lines) or ``targets`` (MiniOneRec's CSV)."""
    return "lists"


def read_lists(path: str, policy: ErrorPolicy) -> Iterator[pl.DataFrame]:
    """Events of a JSON object, user -> items in time order; the place in the list is the time.

    Args:
        path: the file.
        policy: takes users whose value is no list of items; row n is the n-th user.
    """
    users = whole_json(path)
    if not isinstance(users, dict):
        raise DataError(f"{path}: holds a JSON {type(users).__name__}, expected an object, user -> list of items")
    names: list[str] = []
    lists: list[list[str]] = []
    for row, (user, items) in enumerate(users.items(), 1):
        if not isinstance(items, list) or not all(isinstance(item, str | int) for item in items):
            policy.bad_row(path, row, user, f"found {str(items)[:40]!r}, expected a list of items")
            continue
        names.append(user)
        lists.append([str(item) for item in items])
    frame = pl.DataFrame({"user": names, "item": lists}, schema={"user": pl.String, "item": pl.List(pl.String)})
    time = pl.int_ranges(pl.col("item").list.len(), dtype=pl.Int64).alias("time")
    yield (
        frame.filter(pl.col("item").list.len() > 0)
        .with_columns(time)
        .explode("item", "time")
        .with_columns(pl.lit(1, dtype=pl.Int8).alias("label"))
    )
