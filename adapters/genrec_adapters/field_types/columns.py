"""Read a raw column as text, as a number or as a list of texts, whatever its type; no value ever raises."""

from __future__ import annotations

import polars as pl

#: Numbers beyond this count as infinite; below it, differences and means of numbers stay finite.
LARGEST = 1e300


def text(column: str) -> pl.Expr:
    """The column as text, null as the empty text: numbers are written out, bytes that are not UTF-8 are empty.

    Args:
        column: name of a column of any type that is not a list.

    Example::

        >>> pl.DataFrame({"C1": [7, None]}).select(text("C1"))["C1"].to_list()
        ['7', '']
    """
    return pl.col(column).cast(pl.String, strict=False).fill_null("")


def number(column: str) -> pl.Expr:
    """The column as Float64: null where there is no number (null, NaN, other text).

    Infinities become plus or minus :data:`LARGEST`, so that arithmetic on them stays defined.

    Args:
        column: name of a column of numbers, or of text that holds numbers.

    Example::

        >>> pl.DataFrame({"I1": ["1.5", "x", "nan", "-inf"]}).select(number("I1"))["I1"].to_list()
        [1.5, None, None, -1e+300]
    """
    value = pl.col(column).cast(pl.Float64, strict=False)
    return value.fill_nan(None).clip(-LARGEST, LARGEST)


def items(column: str, separator: str | None) -> pl.Expr:
    """The column as a list of texts without null and empty items; null as the empty list.

    Args:
        column: name of a list column, or of a text column if ``separator`` is given.
        separator: splits the text.

    Example::

        >>> pl.DataFrame({"genres": ["a|b", "|", None]}).select(items("genres", "|"))["genres"].to_list()
        [['a', 'b'], [], []]
    """
    if separator is None:
        value = pl.col(column).cast(pl.List(pl.String), strict=False)
    else:
        value = pl.col(column).cast(pl.String, strict=False).str.split(separator)
    present = pl.element().filter(pl.element().is_not_null() & (pl.element() != ""))
    return value.list.eval(present).fill_null(pl.lit([], dtype=pl.List(pl.String)))
