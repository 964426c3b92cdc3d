"""Plain data from a state file, checked against the types they are to have."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

T = TypeVar("T")


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
