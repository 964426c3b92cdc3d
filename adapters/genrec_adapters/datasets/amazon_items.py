"""What Amazon's items are: titles, brands, prices, categories and descriptions of 2014, 2018, 2023 and MiniOneRec."""

from __future__ import annotations

import ast
import html
import re
from collections.abc import Iterator
from typing import Any

import polars as pl

from genrec_adapters.datasets.amazon_formats import loads_loosely, whole_json
from genrec_adapters.datasets.blocks import StreamFault, read_blocks
from genrec_registry.contracts import ErrorPolicy
from genrec_registry.errors import DataError

_SCHEMA: dict[str, type[pl.DataType] | pl.DataType] = {
    "item": pl.String,
    "text": pl.String,
    "categories": pl.List(pl.String),
    "title": pl.String,
    "brand": pl.String,
    "price": pl.String,
    "description": pl.String,
}
_TAG, _SPACE, _NUMBER = re.compile(r"<[^>]*>|<[^>]*$"), re.compile(r"\s+"), re.compile(r"\d+(?:\.\d+)?")
# Descriptions of 2018 may carry a style sheet.
_STYLE = re.compile(r"<(style|script)\b.*?</\1>|[.#@][\w .#,:-]+\{[^}]*\}", re.IGNORECASE | re.DOTALL)
_HALF = re.compile("[\ud800-\udfff]")  # of a UTF-16 pair: JSON can name one, and it is no character
_BATCH = 50_000


def read_meta(path: str, policy: ErrorPolicy) -> pl.DataFrame:
    """Item, text (title and description), categories, title, brand, price and description.

    Args:
        path: JSON lines with ``asin`` or ``parent_asin``, or one JSON object, item -> content.
        policy: takes lines that are no object, or name no item.
    """
    frames: list[pl.DataFrame] = []
    rows: list[list[Any]] = []
    for row, item, content in _contents(path):
        if not isinstance(content, dict):
            policy.bad_row(path, row, "(whole line)", f"found {str(content)[:40]!r}, expected an object")
        elif item is None or item == "":
            policy.bad_row(path, row, "asin", "found nothing, expected the item's id (asin or parent_asin)")
        elif _HALF.search(str(item)):
            policy.bad_row(path, row, "asin", f"found {str(item)[:40]!a}, which is no text; expected the item's id")
        else:
            rows.append([str(item), *_facts(content)])
        if len(rows) == _BATCH:
            frames.append(pl.DataFrame(rows, schema=_SCHEMA, orient="row"))
            rows = []
    return pl.concat([*frames, pl.DataFrame(rows, schema=_SCHEMA, orient="row")])


def _contents(path: str) -> Iterator[tuple[int, Any, Any]]:
    """Row, item and content; a line that cannot be read has the line as its content."""
    first = _first_line(path)
    try:
        one_per_line = isinstance(loads_loosely(first), dict)
    except ValueError:
        one_per_line = False
    if one_per_line and b"asin" in first:
        yield from _lines(path)
        return
    whole = whole_json(path)
    if not isinstance(whole, dict):
        raise DataError(f"{path}: holds a JSON {type(whole).__name__}, expected an object, item -> content")
    yield from ((row, item, content) for row, (item, content) in enumerate(whole.items(), 1))


def _first_line(path: str) -> bytes:
    try:
        return next(read_blocks(path), b"").split(b"\n", 1)[0]
    except StreamFault as fault:
        raise DataError(f"{path}: {fault}, expected a complete file; download it again") from fault


def _lines(path: str) -> Iterator[tuple[int, Any, Any]]:
    row = 0
    try:
        for block in read_blocks(path):
            for row, line in enumerate(block.split(b"\n")[:-1], row + 1):  # noqa: B020
                try:
                    content = loads_loosely(line)
                except ValueError:
                    content = line
                known = content if isinstance(content, dict) else {}
                yield row, known.get("parent_asin") or known.get("asin"), content
    except StreamFault as fault:
        raise DataError(f"{path}: {fault} after row {row}, expected a complete file; download it again") from fault


def _facts(content: dict[str, Any]) -> list[Any]:
    """Text, categories, title, brand, price and description."""
    details = content.get("details")
    brand = content.get("brand") or content.get("store")
    if not brand and isinstance(details, dict):
        brand = details.get("Brand")
    title, description = plain_text(content.get("title")), plain_text(content.get("description"))
    text = f"{title}. {description}" if title and description else title or description
    price = _NUMBER.search(str(content.get("price") or "").replace(",", ""))
    categories = _categories(content.get("categories") or content.get("category") or content.get("main_category"))
    return [text, categories, title, plain_text(brand), price.group() if price else None, description]


def _categories(found: Any) -> list[str]:
    """Distinct names, from the widest to the narrowest: a text, a list, or a list of paths (2014)."""
    if isinstance(found, str):
        found = found.split(",") if found else []
    flat = [name for part in found or [] for name in (part if isinstance(part, list) else [part])]
    return list(dict.fromkeys(filter(None, (plain_text(name) for name in flat))))


def plain_text(value: Any) -> str:
    """A text, or the texts of a list (also one that was written out), without markup.

    Example::

        >>> plain_text("['Soft &amp; <b>warm</b>.', '', 'Blue']")
        'Soft & warm . Blue'
        >>> plain_text(None), plain_text(["a", "b"])
        ('', 'a b')
    """
    if isinstance(value, str) and value.startswith("[") and value.endswith("]"):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, RecursionError, MemoryError):  # it may be nested too deeply
            value = value.strip("[]")
    if value is None:
        return ""
    text = " ".join(str(part) for part in value) if isinstance(value, list) else str(value)
    return _SPACE.sub(" ", _TAG.sub(" ", html.unescape(_STYLE.sub(" ", _HALF.sub("\ufffd", text))))).strip()
