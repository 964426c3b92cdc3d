"""A histogram of numbers in bounded memory whose result depends on the numbers alone, not on chunks or their order.

Counts are exact up to ``capacity`` distinct numbers. Beyond it, mantissa bits are cut off, as few as bring the count of
distinct numbers back under ``capacity``. Cutting is nested and the count only grows with more numbers, so the bits cut
at the end are the fewest that fit *all* numbers, whichever way they arrived. Cutting one bit at most halves the count:
a histogram that was cut still tells at least ``capacity / 2`` values apart.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl

from genrec_adapters.field_types.base import Fitted
from genrec_adapters.field_types.columns import LARGEST
from genrec_registry import FieldState

CAPACITY = 65_536
_MANTISSA_BITS = 52


class Histogram:
    """Counts of finite numbers.

    Args:
        capacity: distinct numbers kept apart at most.

    Example::

        >>> histogram = Histogram()
        >>> histogram.add(pl.Series([3.0, 1.0, None, 3.0]))
        >>> histogram.table().rows()
        [(1.0, 1), (3.0, 2)]
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._cut_bits = 0
        # Keys are the numbers' bits: as floats, the cells next to zero on either side would be equal (0.0 == -0.0).
        self._counts = pl.DataFrame(schema={"bits": pl.Int64, "count": pl.Int64})
        self._smallest, self._largest = np.inf, -np.inf

    def add(self, numbers: pl.Series) -> None:
        """Count one chunk's numbers (Float64); null, NaN and those beyond any finite one are not counted."""
        # Adding 0.0 makes one zero of the two.
        values = (numbers.filter(numbers.abs() < LARGEST) + 0.0).drop_nans().rename("value")
        if values.is_empty():
            return
        self._smallest = min(self._smallest, float(values.min()))  # type: ignore[arg-type]
        self._largest = max(self._largest, float(values.max()))  # type: ignore[arg-type]
        distinct = values.to_frame().group_by("value").agg(pl.len().cast(pl.Int64).alias("count"))
        bits = pl.Series("bits", distinct["value"].to_numpy().view(np.int64))
        self._add_counted(pl.DataFrame([bits, distinct["count"]]))

    def _add_counted(self, counted: pl.DataFrame) -> None:
        self._counts = _cut(pl.concat([self._counts, counted]), self._cut_bits)
        while self._counts.height > self._capacity and self._cut_bits < _MANTISSA_BITS:
            self._cut_bits += 1
            self._counts = _cut(self._counts, self._cut_bits)

    def partial(self) -> FieldState:
        """All counts so far, for another histogram's :meth:`absorb`."""
        facts = {"cut_bits": self._cut_bits, "smallest": self._smallest, "largest": self._largest}
        return FieldState(json=facts, tables={"counts": self._counts})

    def absorb(self, partial: FieldState) -> None:
        """Add what :meth:`partial` gave; the result is that of one histogram of all numbers.

        Example::

            >>> one, other = Histogram(), Histogram()
            >>> one.add(pl.Series([3.0, 1.0]))
            >>> other.add(pl.Series([3.0]))
            >>> other.absorb(one.partial())
            >>> other.table().rows()
            [(1.0, 1), (3.0, 2)]
        """
        facts = partial.json
        self._smallest = min(self._smallest, facts["smallest"])
        self._largest = max(self._largest, facts["largest"])
        # What a part of the numbers needs cut, all of them need cut.
        self._cut_bits = max(self._cut_bits, facts["cut_bits"])
        self._add_counted(partial.tables["counts"])

    def table(self) -> pl.DataFrame:
        """Numbers in ascending order with their counts; a cut number stands at the middle of its cell.

        Returns:
            Columns ``value`` (Float64) and ``count`` (Int64); empty if no number was seen. The first and last value
            are the smallest and largest number seen, exactly.
        """
        bits = self._counts["bits"].to_numpy()
        if self._cut_bits:
            bits = bits | np.int64(1 << (self._cut_bits - 1))
        table = pl.DataFrame({"value": bits.view(np.float64), "count": self._counts["count"]}).sort("value")
        if self._cut_bits:
            values = table["value"].to_numpy().clip(self._smallest, self._largest)
            values[0], values[-1] = self._smallest, self._largest
            table = table.with_columns(pl.Series("value", values))
        return table


def _cut(counts: pl.DataFrame, bits: int) -> pl.DataFrame:
    """Cut the lowest bits off and add up what became equal."""
    return counts.group_by(pl.col("bits") & (-1 << bits)).agg(pl.col("count").sum())


def quantiles(table: pl.DataFrame, probabilities: np.ndarray) -> np.ndarray:
    """For each probability p, the smallest number with at least the share p of all rows at or below it.

    Args:
        table: of :meth:`Histogram.table`, not empty.
        probabilities: in [0, 1].

    Example::

        >>> table = pl.DataFrame({"value": [1.0, 2.0, 9.0], "count": [1, 2, 1]})
        >>> quantiles(table, np.array([0.0, 0.5, 0.8, 1.0])).tolist()
        [1.0, 2.0, 9.0, 9.0]
    """
    values = table["value"].to_numpy()
    below = np.cumsum(table["count"].to_numpy())
    places = np.searchsorted(below, probabilities * below[-1], side="left")
    return np.asarray(values[np.minimum(places, len(values) - 1)])


class Measuring:
    """Fitter of a field that needs the distribution of one number.

    Args:
        numbers: Float64 expression.
        finish: makes the fitted field of the histogram's table.
    """

    def __init__(self, numbers: pl.Expr, finish: Callable[[pl.DataFrame], Fitted]) -> None:
        self._numbers = numbers
        self._finish = finish
        self._histogram = Histogram()

    def update(self, chunk: pl.DataFrame) -> None:
        """Add one chunk's numbers."""
        self._histogram.add(chunk.select(self._numbers.alias("value")).to_series())

    def partial(self) -> FieldState:
        """The histogram so far."""
        return self._histogram.partial()

    def absorb(self, partial: FieldState) -> None:
        """Add another fitter's histogram."""
        self._histogram.absorb(partial)

    def finish(self) -> Fitted:
        """The field with what it needs of the distribution."""
        return self._finish(self._histogram.table())
