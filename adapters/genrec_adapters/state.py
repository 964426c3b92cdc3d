"""Plain data from a state file, checked against the types they are to have."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import TypeAdapter, ValidationError

if TYPE_CHECKING:
    import polars as pl

T = TypeVar("T")


def parse_json(text: str | bytes, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """``json.loads``; text that is nested too deeply is as wrong as any other.

    Args:
        text: of a file that may be damaged.
        pairs: makes something of the pairs of an object; a dict if None.

    Raises:
        ValueError: it is not JSON.

    Example::

        >>> parse_json('{"a": 1}')
        {'a': 1}
        >>> parse_json("[" * 100_000)
        Traceback (most recent call last):
        ValueError: nested too deeply
    """
    try:
        return json.loads(text, object_pairs_hook=pairs)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def checked_state(kind: type[T], data: Any) -> T:
    """JSON data as a dataclass, or as a container of such types; nothing is converted.

    Args:
        kind: a dataclass, or as ``dict[str, list[str]]``.
        data: what ``json.loads`` gave.

    Raises:
        ValueError: one line with the key at fault.

    Example::

        >>> checked_state(dict[str, list[str]], {"a": ["b"]})
        {'a': ['b']}
        >>> checked_state(dict[str, list[str]], {"a": [1]})
        Traceback (most recent call last):
        ValueError: key 'a.0': input should be a valid string, found 1
    """
    try:
        return TypeAdapter(kind).validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        found = "" if first["type"] == "missing" else f", found {str(first['input'])[:40]}"
        raise ValueError(f"key '{where}': {first['msg'][:1].lower()}{first['msg'][1:]}{found}") from None


def read_parquet(path: str | Path, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """``polars.read_parquet`` of a file that may be damaged: polars panics on some damage.

    Args:
        path: the file.
        columns: which; all if None.

    Raises:
        OSError: it cannot be read.
        PolarsError: it is damaged, or lacks a column.

    Example::

        >>> import polars as pl, tempfile
        >>> path = Path(tempfile.mkdtemp()) / "t.parquet"
        >>> pl.DataFrame({"a": [1], "b": [2]}).write_parquet(path)
        >>> read_parquet(path, ["b"]).to_dicts()
        [{'b': 2}]
    """
    import polars as pl

    try:
        return pl.read_parquet(path, columns=None if columns is None else list(columns))
    except pl.exceptions.PanicException as error:
        raise pl.exceptions.ComputeError(f"damaged Parquet file: {str(error).splitlines()[0]}") from None
