"""The numeric buckets of the Criteo challenge's winners, by their rule and, for whole numbers, by a table of it.

The rule is floor(ln(x)^2) for x > 2, else x cut to an integer. Whole numbers of usual size are looked up: one memory
access in place of a logarithm, six comparisons and a text that is hashed, which is some fifteen times faster. Numbers
beyond the table, and those that are not whole, go through the rule.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import numpy.typing as npt
import polars as pl

from genrec_adapters.field_types.base import Fitted
from genrec_adapters.field_types.columns import LARGEST
from genrec_adapters.field_types.short_texts import present
from genrec_adapters.field_types.vocabulary import OOV, ValueCounter
from genrec_registry import FieldState

Integers = npt.NDArray[np.int64]
#: bucket of a missing number; all others are far above
MISSING = int(np.iinfo(np.int64).min)
_LARGEST_INT = 2.0**62

_FIRST, _NUMBERS = -256, 1 << 16  # the numbers of the table
_BEYOND, _MISSING_PLACE = _NUMBERS, _NUMBERS + 1  # places behind them
_WHOLE = (pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32)


def log_squares(numbers: npt.NDArray[np.float64]) -> Integers:
    """The bucket of every number; :data:`MISSING` for NaN.

    Example::

        >>> log_squares(np.array([-1.5, 2.0, 3.0, 100.0])).tolist()
        [-1, 2, 1, 21]
    """
    missing = np.isnan(numbers)
    known = np.where(missing, 0.0, numbers)
    small = np.clip(known, -_LARGEST_INT, 2.0)
    large = np.floor(np.square(np.log(np.clip(known, 2.0, LARGEST))))
    return np.where(missing, MISSING, np.where(known > 2.0, large, small).astype(np.int64))


def _as_counted(buckets: Integers, counts: Integers) -> pl.DataFrame:
    """Buckets as vocabulary values, the missing one as the empty text, with their counts."""
    known = pl.when(pl.col("value") != MISSING).then(pl.col("value").cast(pl.String))
    return pl.DataFrame({"value": buckets, "count": counts}).with_columns(known.otherwise(pl.lit("")))


def _as_buckets(texts: pl.Series) -> Integers:
    return np.array([int(text) if text else MISSING for text in texts.to_list()], dtype=np.int64)


class _Split:
    """A column's numbers: places in the table for those it has, the buckets of all others.

    Args:
        column: of any type; what is no number counts as missing.
        fill: bucket of missing numbers.

    Attributes:
        places: ``[n]``, :data:`_BEYOND` for the others; None if they are all others.
        others: their buckets in row order.
    """

    def __init__(self, column: pl.Series, fill: int) -> None:
        self.places: Integers | None = None
        if column.dtype not in _WHOLE:
            numbers = column.cast(pl.Float64, strict=False).to_numpy()
            self.others = log_squares(numbers)
        else:
            arrow = column.cast(pl.Int64).rechunk().to_arrow()
            values = np.frombuffer(arrow.buffers()[1] or b"", dtype=np.int64)[arrow.offset :][: len(arrow)]
            known = present(arrow)
            # As unsigned numbers, those below the first one are beyond the last one.
            self.places = np.minimum((values - _FIRST).view(np.uint64), np.uint64(_BEYOND)).view(np.int64)
            if known is not None:
                np.copyto(self.places, _MISSING_PLACE, where=~known)
            self.others = log_squares(values[self.places == _BEYOND].astype(np.float64))
        self.others[self.others == MISSING] = fill


@cache
def _table(fill: int) -> tuple[Integers, Integers]:
    """The distinct buckets of all places, and for each place which of them; that of :data:`_BEYOND` means nothing."""
    buckets = log_squares(np.arange(_FIRST, _FIRST + _NUMBERS, dtype=np.float64))
    return np.unique(np.append(buckets, [fill, fill]), return_inverse=True)


class CountingLogSquares:
    """Fitter: counts buckets.

    Args:
        column: the raw column.
        fill_na: what a missing number counts as; None for a bucket of its own.
        min_count: buckets below it are left out.
        restore: the field type's ``restore``; it finds the table ``"vocabulary"`` in the state.
    """

    def __init__(
        self, column: str, fill_na: float | None, *, min_count: int, restore: Callable[[FieldState], Fitted]
    ) -> None:
        self._column, self._fill, self._min_count, self._restore = column, _fill(fill_na), min_count, restore
        self._places = np.zeros(_NUMBERS + 2, dtype=np.int64)
        self._others = ValueCounter()

    def update(self, chunk: pl.DataFrame) -> None:
        """Count one chunk's numbers."""
        split = _Split(chunk[self._column], self._fill)
        if split.places is not None:
            self._places += np.bincount(split.places, minlength=_NUMBERS + 2)
        if split.others.size:
            self._others.add_counted(_as_counted(*np.unique(split.others, return_counts=True)))

    def partial(self) -> FieldState:
        """The counts so far."""
        seen = np.flatnonzero(self._places)
        places = pl.DataFrame({"place": seen, "count": self._places[seen]})
        return FieldState(tables={"places": places, **self._others.partial("other ")})

    def absorb(self, partial: FieldState) -> None:
        """Add another fitter's counts."""
        places = partial.tables["places"]
        self._places[places["place"].to_numpy()] += places["count"].to_numpy()
        self._others.absorb(partial.tables, "other ")

    def finish(self) -> Fitted:
        """The field with the vocabulary found."""
        self._places[_BEYOND] = 0  # those were counted one by one
        buckets, of_place = _table(self._fill)
        places = np.flatnonzero(self._places)
        counts = np.bincount(of_place[places], weights=self._places[places]).astype(np.int64)
        seen = np.flatnonzero(counts)
        self._others.add_counted(_as_counted(buckets[seen], counts[seen]))
        return self._restore(FieldState(tables={"vocabulary": self._others.counts(min_count=self._min_count)}))


class LogSquareIds:
    """Ids of a vocabulary's buckets from 1 on; :data:`~genrec_adapters.field_types.vocabulary.OOV` for all others.

    Args:
        values: the buckets as texts, in the order of their ids.
        fill_na: see :class:`CountingLogSquares`.

    Example::

        >>> ids = LogSquareIds(pl.Series(["1", "", "21"]), None)
        >>> pl.DataFrame({"I1": [1, None, 100, 7]}).select(ids.of(pl.col("I1")))["I1"].to_list()
        [1, 2, 3, 0]
    """

    def __init__(self, values: pl.Series, fill_na: float | None) -> None:
        known = _as_buckets(values)
        order = np.argsort(known)
        self._buckets, self._ids = known[order], (order + 1).astype(np.int32)
        self._fill = _fill(fill_na)
        buckets, of_place = _table(self._fill)
        self._table = self._lookup(buckets)[of_place]
        self.end = 1 + values.len()

    def _lookup(self, buckets: Integers) -> npt.NDArray[np.int32]:
        if not self._buckets.size:
            return np.full(buckets.shape, OOV, dtype=np.int32)
        place = np.minimum(np.searchsorted(self._buckets, buckets), self._buckets.size - 1)
        return np.where(self._buckets[place] == buckets, self._ids[place], np.int32(OOV))

    def _of_series(self, column: pl.Series) -> pl.Series:
        split = _Split(column, self._fill)
        others = self._lookup(split.others)
        if split.places is None:
            return pl.Series(column.name, others)
        ids = self._table[split.places]
        if others.size:
            ids[split.places == _BEYOND] = others
        return pl.Series(column.name, ids)

    def of(self, column: pl.Expr) -> pl.Expr:
        """Int32 ids of a raw column of any type, row by row."""
        return column.map_batches(self._of_series, return_dtype=pl.Int32, is_elementwise=True)


def _fill(fill_na: float | None) -> int:
    return MISSING if fill_na is None else int(log_squares(np.array([fill_na]))[0])
