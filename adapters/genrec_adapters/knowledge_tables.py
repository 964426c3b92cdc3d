"""The two tables of a knowledge store, checked while they are written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from genrec_registry.errors import DataError

_ROW_GROUP = 65_536


def write_users(path: Path, frames: Iterable[pl.DataFrame], queries: Sequence[str], dim: int) -> None:
    """Write ``users.parquet``, a frame at a time.

    Args:
        path: the file.
        frames: see :meth:`genrec_adapters.knowledge.KnowledgeStore.write`.
        queries: names of the columns of vectors.
        dim: D.

    Raises:
        DataError: columns, types, numbers or order are not as said.
    """
    vector = pl.Array(pl.Float32, dim)
    schema: dict[str, Any] = {"user": pl.String(), "last_event": pl.Int64(), **dict.fromkeys(queries, vector)}
    if not queries or len(schema) != 2 + len(queries):
        raise DataError(f"{path}: queries are called {list(queries)}, expected one or more names, all different")
    empty = pl.DataFrame(schema=schema).to_arrow(compat_level=pl.CompatLevel.oldest())
    last = pl.DataFrame(schema={"user": pl.String(), "last_event": pl.Int64()})
    with pq.ParquetWriter(path, empty.schema, compression="zstd") as writer:
        for frame in frames:
            rows = _checked(path, frame, schema, nulls=("user", "last_event"))
            _check_order(path, pl.concat([last, rows.select("user", "last_event")]))
            last = rows.select("user", "last_event").tail(1) if rows.height else last
            writer.write_table(rows.to_arrow(compat_level=pl.CompatLevel.oldest()), row_group_size=_ROW_GROUP)


def write_items(path: Path, items: pl.DataFrame, dim: int) -> None:
    """Write ``items.parquet``, sorted.

    Args:
        path: the file.
        items: ``item`` and ``vector``.
        dim: D.

    Raises:
        DataError: columns, types or numbers are not as said, or an item stands there twice.
    """
    rows = _checked(path, items, {"item": pl.String(), "vector": pl.Array(pl.Float32, dim)}).sort("item")
    twice = rows.filter(pl.col("item").is_duplicated())
    if twice.height:
        raise DataError(f"{path}: item '{twice['item'][0]}' stands there twice, expected each once")
    pq.write_table(rows.to_arrow(compat_level=pl.CompatLevel.oldest()), path, compression="zstd")


def _checked(path: Path, frame: pl.DataFrame, schema: dict[str, Any], nulls: Sequence[str] = ()) -> pl.DataFrame:
    """The frame with the columns and types of ``schema``."""
    if set(frame.columns) != set(schema):
        raise DataError(f"{path}: was given the columns {frame.columns}, expected {list(schema)}")
    try:
        rows = frame.select(pl.col(name).cast(dtype) for name, dtype in schema.items())
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{path}: was given columns of other types ({str(error).splitlines()[0]})") from error
    for name, dtype in schema.items():
        if name not in nulls and rows[name].null_count():
            raise DataError(f"{path}: column '{name}' has {rows[name].null_count()} nulls, expected none")
        if isinstance(dtype, pl.Array) and not np.isfinite(rows[name].to_numpy()).all():
            raise DataError(f"{path}: column '{name}' has values that are not finite; the model diverged")
    return rows


def _check_order(path: Path, rows: pl.DataFrame) -> None:
    """Raise unless rows rise strictly by user and time, nulls first, with one row at most without a user."""
    keys = rows.select(
        named=pl.col("user").is_not_null(),
        user=pl.col("user").fill_null(""),
        timed=pl.col("last_event").is_not_null(),
        time=pl.col("last_event").fill_null(0),
    )
    rises, equal = pl.repeat(False, max(rows.height - 1, 0), eager=True), None
    for key in keys.get_columns():
        before, now = key.head(len(rises)), key.tail(len(rises))
        step = now > before
        rises = rises | (step if equal is None else equal & step)
        equal = now == before if equal is None else equal & (now == before)
    if not rises.all():
        row = rows.row(int((~rises).arg_max() or 0) + 1, named=True)
        raise DataError(
            f"{path}: the row of user {row['user']!r} and last_event {row['last_event']} does not come after the one "
            "before it; sort by user, then last_event, nulls first, and give each pair once"
        )
    if rows.filter(pl.col("user").is_null() & pl.col("last_event").is_not_null()).height:
        raise DataError(f"{path}: the row without a user has a last_event; a cold-start row is made from no event")
