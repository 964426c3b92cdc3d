"""Draw blocks of rows: what the planted model sees, and the text of each column.

A block always has BLOCK rows and starts at a multiple of BLOCK; a file that ends sooner cuts the last one. Every cell
is a function of (seed, field, row), so that the size of a block changes no row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from genrec_plugins.synthetic.fields import Categorical, Field, Format, Hour, Numeric
from genrec_plugins.synthetic.hashing import high_uniform, key_of, low_uniform, mix, scramble32
from genrec_plugins.synthetic.planted import MISSING, NUMERIC_LIMIT

BLOCK = 16_384
_FIRST_DAY = 141_021
#: a prime that divides none of the vocabularies: spreads the common ids over the range
_STRIDE = 7_919

_digits = np.frombuffer("".join(f"{value:04x}" for value in range(65_536)).encode(), dtype=np.uint32)


@dataclass(frozen=True)
class Block:
    """Rows ``start .. start + BLOCK``.

    Args:
        values: what :class:`~genrec_plugins.synthetic.planted.PlantedModel` takes.
        columns: the raw columns, as they are written.
        label_noise: ``[BLOCK]`` uniforms; the label is 1 where they are below the true probability.
    """

    values: dict[str, NDArray[np.int64]]
    columns: dict[str, pl.Series]
    label_noise: NDArray[np.float64]


class RowSource:
    """Draws blocks of a format.

    Args:
        layout: the format.
        seed: of the rows.
        total: rows of the whole file; places the hours.
    """

    def __init__(self, layout: Format, *, seed: int | str, total: int) -> None:
        self.layout = layout
        self.total = total
        self._seed = seed

    def block(self, start: int, *, text: bool = True, size: int | None = None) -> Block:
        """The block that starts at row ``start``.

        Args:
            start: a multiple of BLOCK.
            text: also make ``columns``.
            size: rows; BLOCK if None.

        Example::

            >>> from genrec_plugins.synthetic.fields import AVAZU
            >>> block = RowSource(AVAZU, seed=0, total=100).block(0)
            >>> list(block.columns)[:3], len(block.values["site_id"])
            (['id', 'hour', 'C1'], 16384)
        """
        rows = np.arange(start, start + (size or BLOCK), dtype=np.uint64)
        values: dict[str, NDArray[np.int64]] = {}
        columns: dict[str, pl.Series] = {}
        if self.layout.row_id and text:
            columns["id"] = pl.Series("id", mix(rows, self._key("id")))
        for field in self.layout.fields:
            values[field.name], column = self._draw(field, rows, text)
            if column is not None:
                columns[field.name] = column
        return Block(values, columns, high_uniform(mix(rows, self._key("label"))))

    def _key(self, name: str) -> np.uint64:
        return key_of("rows", self.layout.name, self._seed, name)

    def _draw(self, field: Field, rows: NDArray[np.uint64], text: bool) -> tuple[NDArray[np.int64], pl.Series | None]:
        if isinstance(field, Hour):
            hours = np.minimum(rows, self.total - 1).astype(np.int64) * (field.days * 24) // self.total
            written = (_FIRST_DAY + hours // 24) * 100 + hours % 24
            return hours % 24 + 1, pl.Series(field.name, written)
        bits = mix(rows, self._key(field.name))
        if isinstance(field, Numeric):
            absent = high_uniform(mix(bits, self._key("missing"))) < field.missing
            numbers, score = _numbers(field, bits)
            score[absent] = MISSING
            return score, _nullable(field.name, numbers, absent) if text else None
        absent = low_uniform(bits) < field.missing
        rank = _zipf(high_uniform(bits), field)
        column = _category_text(field, rank, absent) if text else None
        value = rank + 1
        value[absent] = MISSING
        return value, column


def _zipf(uniform: NDArray[np.float64], field: Categorical) -> NDArray[np.int64]:
    """Ranks 0 .. vocabulary - 1 by the inverse of the continuous power law's distribution function."""
    power = 1.0 - field.exponent
    if abs(power) < 1e-9:
        position = np.exp(uniform * np.log(field.vocabulary + 1.0))
    else:
        position = (uniform * ((field.vocabulary + 1.0) ** power - 1.0) + 1.0) ** (1.0 / power)
    rank: NDArray[np.int64] = position.astype(np.int64) - 1
    return np.clip(rank, 0, field.vocabulary - 1, out=rank)


def _numbers(field: Numeric, bits: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Counts, and their standard scores in fiftieths, computed from the counts as written (Box and Muller, 1958)."""
    first = (bits >> np.uint64(32)).astype(np.float64) * 2.0**-32
    second = (bits & np.uint64(0xFFFFFFFF)).astype(np.float64) * 2.0**-32
    normal = np.sqrt(-2.0 * np.log1p(-first)) * np.cos(2.0 * np.pi * second)
    counts = np.exp(field.log_mean + field.log_sigma * normal).astype(np.int64)
    score = np.rint((np.log(np.maximum(counts, 0.5)) - field.log_mean) * (50.0 / field.log_sigma)).astype(np.int64)
    return counts + field.shift, np.clip(score, -NUMERIC_LIMIT, NUMERIC_LIMIT, out=score)


def _nullable(name: str, numbers: NDArray[np.int64], absent: NDArray[np.bool_]) -> pl.Series:
    column = pl.from_arrow(pa.array(numbers, mask=absent))
    assert isinstance(column, pl.Series)
    return column.alias(name)


def _category_text(field: Categorical, rank: NDArray[np.int64], absent: NDArray[np.bool_]) -> pl.Series:
    if field.text == "hex":
        ids = scramble32(rank.astype(np.uint64), key_of("text", field.name))
        characters = np.empty((len(ids), 2), dtype=np.uint32)
        characters[:, 0] = _digits[ids >> np.uint32(16)]
        characters[:, 1] = _digits[ids & np.uint32(0xFFFF)]
        offsets = pa.py_buffer(np.arange(0, 8 * len(ids) + 1, 8, dtype=np.int32))
        valid = pa.py_buffer(np.packbits(~absent, bitorder="little")) if absent.any() else None
        column = pl.from_arrow(pa.StringArray.from_buffers(len(ids), offsets, pa.py_buffer(characters), valid))
        assert isinstance(column, pl.Series)
        return column.alias(field.name)
    if field.levels:
        numbers = np.array(field.levels, dtype=np.int64)[rank]
    else:
        numbers = field.start + rank * _STRIDE % field.vocabulary
    if field.missing_text:
        numbers[absent] = int(field.missing_text)
        return pl.Series(field.name, numbers)
    return _nullable(field.name, numbers, absent)
