"""Checks of parsed rows that a text format cannot say: which words a column may hold, which rows go together."""

from __future__ import annotations

import polars as pl

from genrec_registry.contracts import ErrorPolicy

ROW = "__row__"
_SHOWN = 40


def sound_rows(
    chunk: pl.DataFrame, good: pl.Expr, policy: ErrorPolicy, *, path: str, column: str, expected: str
) -> pl.DataFrame:
    """The rows where ``good`` holds; the others are reported.

    Args:
        chunk: rows with their numbers in the column :data:`ROW`.
        good: what must hold; null counts as no.
        policy: takes the others.
        path: their file.
        column: what is wrong in them.
        expected: what is right.

    Example::

        >>> chunk = pl.DataFrame({ROW: [1, 2], "action": ["buy", "by"]})
        >>> policy = ErrorPolicy(on_error="skip")
        >>> good = pl.col("action").is_in(["buy"])
        >>> sound_rows(chunk, good, policy, path="f.csv", column="action", expected="buy").height, policy.examples
        (1, ["f.csv, row 2, column action: found 'by', expected buy"])
    """
    holds = chunk.select(good.fill_null(False).alias("good"))["good"]
    if holds.all():
        return chunk
    for row, value in chunk.filter(~holds).select(ROW, column).iter_rows():
        shown = "an empty value" if value is None or value == "" else repr(str(value)[:_SHOWN])
        policy.bad_row(path, row, column, f"found {shown}, expected {expected}")
    return chunk.filter(holds)
