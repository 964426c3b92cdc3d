"""A config field's type in the words of a YAML author."""

from __future__ import annotations

from collections.abc import Iterable
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

_LIMITS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
_LENGTHS = {"min_length": "at least", "max_length": "at most"}


def type_text(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    """Describe an annotation and its bounds.

    Args:
        annotation: a type, as pydantic keeps it in ``model_fields``.
        metadata: annotated-types objects with the bounds.

    Example::

        >>> from pydantic import PositiveInt
        >>> type_text(PositiveInt | None), type_text(Literal["sum", "mean"]), type_text(dict[str, list[int]])
        ('int > 0 | null', 'sum | mean', 'mapping of list of int')
    """
    words = [_plain(annotation), ", ".join(_bounds(metadata))]
    return " ".join(word for word in words if word)


def _plain(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation in (None, NoneType):
        return "null"
    if origin is Annotated:
        return type_text(arguments[0], arguments[1:])
    if origin is Literal:
        return " | ".join(str(choice) for choice in arguments)
    if origin in (Union, UnionType):
        return " | ".join(_plain(choice) for choice in arguments)
    if origin is dict:
        return f"mapping of {_plain(arguments[1])}"
    if origin in (list, set, frozenset, tuple):
        inner = [argument for argument in arguments if argument is not Ellipsis]
        many = origin is not tuple or Ellipsis in arguments
        return f"list of {_plain(inner[0])}" if many else f"[{', '.join(map(_plain, inner))}]"
    return "any" if annotation is Any else getattr(annotation, "__name__", str(annotation))


def _bounds(metadata: Iterable[Any]) -> Iterable[str]:
    for bound in metadata:
        for name, sign in _LIMITS.items():
            if getattr(bound, name, None) is not None:
                yield f"{sign} {getattr(bound, name)}"
        for name, words in _LENGTHS.items():
            if getattr(bound, name, None) is not None:
                yield f"({words} {getattr(bound, name)} items)"
