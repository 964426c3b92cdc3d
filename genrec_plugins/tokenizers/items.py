"""Files of items: Parquet, JSON lines, or one JSON object, item -> content; all become item, text and categories."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl

from genrec_adapters.state import parse_json
from genrec_registry import DataError
from genrec_registry.contracts import ErrorPolicy

CHUNK_ROWS = 16384
_EXPECTED = "expected Parquet or JSON with the columns item, text and categories, or JSON, item -> content"


def read_items(path: str | Path) -> pl.DataFrame:
    """All items of a file: ``item``, ``text``, ``categories``, and what other text columns there are.

    Args:
        path: ``.parquet``; or ``.json``, ``.jsonl``, each also with ``.gz``: rows with the columns, or an object
            item -> ``{"title": ..., "description": ...}`` as of Amazon's metadata.

    Raises:
        DataError: the file cannot be read, has no items, or has one twice.

    Example::

        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "items.json"
        >>> _ = path.write_text('{"7": {"title": "Blue pen", "description": "Writes."}}')
        >>> read_items(path).select("item", "text").rows()
        [('7', 'Blue pen. Writes.')]
    """
    frames = list(stream_items(path))
    if not frames:
        raise DataError(f"{path}: has no items, expected at least one; check the file")
    items = pl.concat(frames)
    check_unique(items, str(path))
    return items


def count_items(path: str | Path) -> int | None:
    """Rows of a Parquet file; None where only reading all of it would tell."""
    path = Path(path)
    if path.suffix != ".parquet":
        return None
    import pyarrow.parquet as pq

    with _explained(path):
        return int(pq.read_metadata(path).num_rows)


def stream_items(path: str | Path, rows: int = CHUNK_ROWS) -> Iterator[pl.DataFrame]:
    """Items of a file in chunks; Parquet is read as it goes, JSON whole.

    Args:
        path: see :func:`read_items`.
        rows: of a chunk at most.

    Raises:
        DataError: the file cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: does not exist, {_EXPECTED}; name the items' file")
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        with _explained(path), pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=rows):
                frame = pl.from_arrow(batch)
                assert isinstance(frame, pl.DataFrame)
                yield _standard(frame, path)
        return
    with _explained(path):
        whole = _read_json(path)
    for start in range(0, len(whole), rows):
        yield whole[start : start + rows]


def check_unique(items: pl.DataFrame, source: str) -> None:
    """Raise unless each item stands once.

    Raises:
        DataError: one does not.
    """
    twice = items["item"].is_duplicated()
    if twice.any():
        raise DataError(f"{source}: item '{items['item'].filter(twice)[0]}' stands twice; give each item once")


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """What libraries raise on a bad file, as one sentence."""
    try:
        yield
    except (OSError, ValueError, EOFError, pl.exceptions.PolarsError) as error:  # pyarrow's are of the first two
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path}: cannot be read ({reason}), {_EXPECTED}") from error


def _read_json(path: Path) -> pl.DataFrame:
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    rows = _json_rows(raw)
    if rows is not None:
        return _standard(pl.DataFrame(rows, infer_schema_length=None), path)
    from genrec_adapters.datasets.amazon_items import read_meta

    return _standard(read_meta(str(path), ErrorPolicy()), path)


def _json_rows(raw: bytes) -> list[dict[str, Any]] | None:
    """Objects with an ``item`` each, from an array or from lines; None for anything else."""
    first = raw.lstrip()[:1]
    if first == b"[":
        rows = parse_json(raw)
        return rows if all(isinstance(row, dict) for row in rows) else None
    line = raw.lstrip().split(b"\n", 1)[0]
    try:
        row = parse_json(line)
    except ValueError:
        return None
    if not (isinstance(row, dict) and "item" in row and not isinstance(row["item"], dict)):
        return None
    return [parse_json(line) for line in raw.splitlines() if line.strip()]


def _standard(frame: pl.DataFrame, path: Path) -> pl.DataFrame:
    """Text columns under their names; ``item`` without nulls, ``text`` and ``categories`` present."""
    if "item" not in frame.columns:
        raise DataError(f"{path}: has the columns {', '.join(frame.columns)}, expected 'item' among them; rename one")
    item = frame["item"].cast(pl.String, strict=False)
    if item.null_count():
        raise DataError(f"{path}: {item.null_count()} rows have no item id, expected one in each; fill column 'item'")
    empty = pl.lit([], dtype=pl.List(pl.String))
    categories: pl.Expr = empty
    if "categories" in frame.columns:
        given = pl.col("categories")
        if not isinstance(frame.schema["categories"], pl.List):
            given = pl.concat_list(given.cast(pl.String)).list.drop_nulls()
        categories = given.cast(pl.List(pl.String)).fill_null(empty)
    text = pl.col("text").cast(pl.String).fill_null("") if "text" in frame.columns else pl.lit("")
    others = [name for name, dtype in frame.schema.items() if dtype == pl.String and name not in ("item", "text")]
    others = [name for name in others if name != "categories"]
    return frame.select(item, text.alias("text"), categories.alias("categories"), *others)
