"""How the files of Amazon reviews are read: user lists, JSON lines, ratings as CSV."""

from __future__ import annotations

import ast
import io
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import polars as pl

from genrec_adapters.datasets.blocks import StreamFault, read_blocks
from genrec_adapters.datasets.delimited import TextFormat, scan_text
from genrec_adapters.state import parse_json
from genrec_registry.contracts import ErrorPolicy
from genrec_registry.errors import DataError

Form = Literal["lists", "reviews", "ratings", "targets"]
# Reviews of 2014 and 2018 / of 2023 (McAuley's group): what they call user, item, rating and time.
_OLD, _NEW = ("reviewerID", "asin", "overall", "unixReviewTime"), ("user_id", "parent_asin", "rating", "timestamp")
_REVIEW_SCHEMA: Mapping[str, type[pl.DataType]] = {
    **dict.fromkeys(("reviewerID", "user_id", "asin", "parent_asin"), pl.String),
    **dict.fromkeys(("overall", "rating"), pl.Float64),
    **dict.fromkeys(("unixReviewTime", "timestamp"), pl.Int64),
}
_FIRST_KEY = re.compile(rb'\s*\{\s*"([^"]*)"\s*:\s*(\[?)')
# A time beyond this is in milliseconds: as seconds it would lie after the year 5000.
_MILLISECONDS = 10**11
_RATINGS = TextFormat(
    label="",
    features=_NEW,
    integers=frozenset({"timestamp"}),
    floats=frozenset({"rating"}),
    required=frozenset(_NEW),
)


def detect(path: str) -> Form:
    """The form of a file of events.

    ``lists``: one JSON object, user -> items. ``reviews``: a JSON object a line. ``ratings``: CSV with user_id,
    parent_asin, rating, timestamp. ``targets``: MiniOneRec's CSV, a row a target with its history.

    Raises:
        DataError: it is none of them.
    """
    try:
        head = next(read_blocks(path), b"")[:65536]
    except StreamFault as fault:
        raise DataError(f"{path}: {fault}, expected a complete file; download it again") from fault
    first = _FIRST_KEY.match(head)
    if first:
        return "lists" if first.group(2) and first.group(1) not in (b"image", b"images", b"helpful") else "reviews"
    names = head.split(b"\n", 1)[0].decode(errors="replace").strip().split(",")
    if "history_item_id" in names:
        return "targets"
    if set(_NEW) <= set(names):
        return "ratings"
    raise DataError(
        f"{path}: begins with {head[:60]!r}, expected a JSON object user -> items, reviews as JSON lines, or a CSV "
        "with the columns user_id, item_id, history_item_id (MiniOneRec) or user_id, parent_asin, rating, timestamp"
    )


class Pairs(list[tuple[str, Any]]):
    """A JSON object as its pairs, so that a key that stands twice is seen."""


def whole_json(path: str, pairs: type[Pairs] | None = None) -> Any:
    """The one JSON value of a file, plain or gzipped.

    Args:
        path: the file.
        pairs: have objects as their pairs.

    Raises:
        DataError: it is none.
    """
    try:
        return parse_json(b"".join(read_blocks(path)), pairs)
    except StreamFault as fault:
        raise DataError(f"{path}: {fault}, expected a complete file; download it again") from fault
    except ValueError as error:
        raise DataError(f"{path}: is not JSON ({error}), expected one JSON object; download it again") from error


def read_lists(path: str, policy: ErrorPolicy) -> Iterator[pl.DataFrame]:
    """User, item, time and label of a JSON object, user -> items in time order; the place in the list is the time.

    Args:
        path: the file.
        policy: takes users whose value is no list of items; row n is the n-th user.
    """
    users = whole_json(path, Pairs)
    if not isinstance(users, Pairs):
        raise DataError(f"{path}: holds a JSON {type(users).__name__}, expected an object, user -> list of items")
    seen: set[str] = set()
    names: list[str] = []
    lists: list[list[str]] = []
    for row, (user, items) in enumerate(users, 1):
        if user in seen:
            policy.bad_row(path, row, user, "this user stands twice, expected one list for each")
            continue
        seen.add(user)
        listed = isinstance(items, list) and not isinstance(items, Pairs)
        if not listed or not all(_is_name(name) for name in (user, *items)):
            policy.bad_row(
                path,
                row,
                user if _is_name(user) else repr(user),
                f"found {str(items)[:40]!r}, expected a list of items",
            )
            continue
        names.append(user)
        lists.append([str(item) for item in items])
    frame = pl.DataFrame({"user": names, "item": lists}, schema={"user": pl.String, "item": pl.List(pl.String)})
    time = pl.int_ranges(pl.col("item").list.len(), dtype=pl.Int64).alias("time")
    known = frame.filter(pl.col("item").list.len() > 0).with_columns(time).explode("item", "time")
    yield known.with_columns(pl.lit(1, dtype=pl.Int8).alias("label"))


def read_reviews(path: str, policy: ErrorPolicy) -> Iterator[pl.DataFrame]:
    """User, item, rating and time (seconds) of reviews as JSON lines, of 2014, 2018 or 2023.

    Args:
        path: the file.
        policy: takes lines that are no JSON object, or lack one of the four.
    """
    row = 1
    try:
        for block in read_blocks(path):
            frame = _parse(block, row, path, policy)
            if frame.height:
                yield frame.with_columns(_seconds("time"))
            row += block.count(b"\n")
    except StreamFault as fault:
        raise DataError(f"{path}: {fault} after row {row - 1}, expected a complete file; download it again") from fault


def read_ratings(path: str, policy: ErrorPolicy) -> Iterator[pl.DataFrame]:
    """User, item, rating and time (seconds) of a CSV with user_id, parent_asin, rating and timestamp."""
    for chunk in scan_text(path, _RATINGS, policy):
        yield chunk.rename(dict(zip(_NEW, ("user", "item", "rating", "time"), strict=True))).with_columns(
            _seconds("time")
        )


def _seconds(name: str) -> pl.Expr:
    time = pl.col(name)
    return pl.when(time > _MILLISECONDS).then(time // 1000).otherwise(time)


def _is_name(value: Any) -> bool:
    """Whether a JSON value can be an id: a number, or text without halves of UTF-16 pairs."""
    if isinstance(value, str):
        return value.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in value)
    return isinstance(value, int) and not isinstance(value, bool)


def _parse(block: bytes, first_row: int, path: str, policy: ErrorPolicy) -> pl.DataFrame:
    try:
        # polars leaves empty lines out without a word, and unpacks what begins as packed data do
        if block.startswith(b"{") and b"\n\n" not in block:
            frame = pl.read_ndjson(io.BytesIO(block), schema=_REVIEW_SCHEMA).select(
                pl.coalesce("reviewerID", "user_id").alias("user"),
                pl.coalesce("parent_asin", "asin").alias("item"),
                pl.coalesce("overall", "rating").alias("rating"),
                pl.coalesce("unixReviewTime", "timestamp").alias("time"),
            )
            whole = pl.all_horizontal(pl.all().is_not_null()) & (pl.col("user") != "") & (pl.col("item") != "")
            sound = frame.select(whole & pl.col("rating").is_finite()).to_series()
            if frame.height == block.count(b"\n") and sound.all():
                return frame
    except pl.exceptions.PolarsError:
        pass  # the careful path below says what is wrong
    rows = []
    for row, line in enumerate(block.split(b"\n")[:-1], first_row):
        found = _review(line)
        if isinstance(found, list):
            rows.append(found)
        else:
            policy.bad_row(path, row, *found)
    schema = {"user": pl.String, "item": pl.String, "rating": pl.Float64, "time": pl.Int64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def _review(line: bytes) -> list[Any] | tuple[str, str]:
    """User, item, rating and time of a line, or the column at fault and what is wrong."""
    try:
        review = parse_json(line)
    except ValueError as error:
        return "(whole line)", f"is not JSON ({error}), expected an object a line"
    if not isinstance(review, dict):
        return "(whole line)", f"holds a JSON {type(review).__name__}, expected an object"
    names = _NEW if "user_id" in review else _OLD
    names = (names[0], "asin" if "parent_asin" not in review else "parent_asin", *names[2:])
    for name, kind in zip(names, (str | int, str | int, int | float, int), strict=True):
        value = review.get(name)
        fits = _is_name(value) if kind == str | int else not isinstance(value, int | float) or abs(value) < 1e18
        if isinstance(value, bool) or not isinstance(value, kind) or not fits or value == "":
            what = "a text" if kind == str | int else "an integer" if kind is int else "a number"
            return name, f"found {'nothing' if value is None else repr(value)[:40]}, expected {what}"
    return [str(review[names[0]]), str(review[names[1]]), float(review[names[2]]), review[names[3]]]


def loads_loosely(line: bytes) -> Any:
    """A line of the items' content: JSON, or (in 2014) a Python literal.

    Raises:
        ValueError: it is neither.
    """
    try:
        return parse_json(line)
    except ValueError as error:
        if line[:2] != b"{'":
            raise
        try:
            return ast.literal_eval(line.decode())
        except (ValueError, SyntaxError):
            raise error from None
