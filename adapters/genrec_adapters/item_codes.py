"""Semantic IDs of a catalogue: L codes an item, as written by ``genrec tokenize`` or published with a data set."""

from __future__ import annotations

import gzip
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from genrec_adapters.state import checked_state, parse_json, read_parquet
from genrec_registry.errors import DataError

Codes = npt.NDArray[np.int32]
FILE = "codes.parquet"
SIZES = "genrec.sizes"  # key of the codebook sizes in the metadata of a file that stands alone
_TOKEN = re.compile(r"<[a-z]+_(\d+)>")


@dataclass(frozen=True, kw_only=True)
class ItemCodes:
    """Which item has which codes.

    Args:
        items: ``[N]`` item ids as text, each once.
        codes: ``[N, L]``, level l in ``[0, sizes[l])``.
        sizes: codes of each level.

    Raises:
        DataError: an item stands twice, or a code is out of range.

    Example::

        >>> codes = ItemCodes(items=("a", "b"), codes=np.array([[0, 3], [1, 2]], np.int32), sizes=(2, 4))
        >>> codes.of(["b"]).tolist(), codes.items_of(np.array([[0, 3], [0, 0]]))
        ([[1, 2]], [['a'], []])
    """

    items: tuple[str, ...]
    codes: Codes
    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.codes.shape != (len(self.items), len(self.sizes)):
            raise DataError(f"codes have shape {self.codes.shape}, expected {(len(self.items), len(self.sizes))}")
        if len(self._row_of) < len(self.items):
            raise DataError("an item has codes twice; give each item once")
        if len(self.items) and bool(((self.codes < 0) | (self.codes >= np.array(self.sizes))).any()):
            raise DataError(f"a code lies outside its codebook; the sizes are {self.sizes}")

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {item: row for row, item in enumerate(self.items)}

    @cached_property
    def _rows_by_code(self) -> dict[tuple[int, ...], list[int]]:
        rows: dict[tuple[int, ...], list[int]] = {}
        for row, code in enumerate(map(tuple, self.codes.tolist())):
            rows.setdefault(code, []).append(row)
        return rows

    def of(self, items: Sequence[str]) -> Codes:
        """Codes ``[M, L]`` of items; -1 in every level for an item that has none."""
        rows = np.array([self._row_of.get(item, -1) for item in items], dtype=np.int64)
        found = np.full((len(rows), len(self.sizes)), -1, dtype=np.int32)
        found[rows >= 0] = self.codes[rows[rows >= 0]]
        return found

    def items_of(self, codes: npt.NDArray[np.integer]) -> list[list[str]]:
        """For each row of codes ``[M, L]``, every item that has them."""
        return [[self.items[row] for row in self._rows_by_code.get(tuple(code), ())] for code in codes.tolist()]

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Codes from a tokenizer's directory, from ``codes.parquet`` of ``genrec tokenize encode``, or from a published
        index (``{"item": ["<a_3>", "<b_7>", ...]}``, .gz).

        Raises:
            DataError: there is nothing of the kind.
        """
        path = Path(path)
        if path.is_dir():
            return cls._read_directory(path)
        return cls._read_table(path) if path.suffix == ".parquet" else cls._read_index(path)

    @classmethod
    def _read_table(cls, path: Path) -> Self:
        import polars as pl
        import pyarrow.parquet as pq

        try:
            sizes = _sizes(parse_json((pq.read_metadata(path).metadata or {})[SIZES.encode()]))
            items, codes = _read_codes(path, len(sizes))
        except (OSError, ValueError, KeyError, TypeError, OverflowError, pl.exceptions.PolarsError) as error:
            raise DataError(
                f"{path}: holds no item codes ({error}); name what 'genrec tokenize encode' wrote"
            ) from error
        return cls(items=items, codes=codes, sizes=sizes)

    @classmethod
    def _read_directory(cls, path: Path) -> Self:
        import polars as pl

        try:
            sizes = _sizes(parse_json((path / "tokenizer.json").read_text())["sizes"])
            items, codes = _read_codes(path / FILE, len(sizes))
        except (OSError, ValueError, KeyError, TypeError, OverflowError, pl.exceptions.PolarsError) as error:
            raise DataError(f"{path}: holds no item codes ({error}); name what 'genrec tokenize fit' wrote") from error
        return cls(items=items, codes=codes, sizes=sizes)

    @classmethod
    def _read_index(cls, path: Path) -> Self:
        try:
            raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            index = {str(item): [int(code) for code in _numbers(tokens)] for item, tokens in parse_json(raw).items()}
        except (OSError, ValueError, AttributeError, TypeError) as error:
            raise DataError(f"{path}: is no index of item codes ({error}); expected JSON, item -> tokens") from error
        if not index or len({len(codes) for codes in index.values()}) != 1:
            raise DataError(f"{path}: items have no codes, or not equally many; expected the same number for each")
        codes = np.array(list(index.values()), dtype=np.int32)
        return cls(items=tuple(index), codes=codes, sizes=tuple((codes.max(axis=0) + 1).tolist()))

    def write(self, directory: Path) -> None:
        """Write ``codes.parquet`` into a tokenizer's directory; ``sizes`` go into its ``tokenizer.json``."""
        import polars as pl

        column = pl.Series("codes", self.codes, dtype=pl.Array(pl.Int32, len(self.sizes)))
        pl.DataFrame({"item": pl.Series(self.items, dtype=pl.String), "codes": column}).write_parquet(directory / FILE)


def _sizes(data: Any) -> tuple[int, ...]:
    sizes = tuple(checked_state(list[int], data))
    if not sizes or min(sizes) < 1:
        raise ValueError(f"the codebook sizes are {list(sizes)}")
    return sizes


def _read_codes(path: Path, levels: int) -> tuple[tuple[str, ...], Codes]:
    """Items and codes ``[N, levels]``; raises ValueError or polars' errors where a file is another or damaged."""
    frame = read_parquet(path, ["item", "codes"])
    items, rows = frame["item"].to_list(), frame["codes"].to_list()
    if not all(isinstance(item, str) for item in items):
        raise ValueError("it has items that are no text")
    widths = sorted({-1 if row is None else len(row) for row in rows})
    if widths not in ([], [levels]):
        raise ValueError(f"codes have shape [{len(rows)}, {widths[0]}], expected [N, {levels}]")
    return tuple(items), np.array(rows, dtype=np.int32).reshape(-1, levels)


def _numbers(tokens: list[str]) -> list[str]:
    found = [_TOKEN.fullmatch(token) for token in tokens]
    if not all(found):
        raise ValueError(f"tokens {tokens}, expected the form <a_183>")
    return [match.group(1) for match in found if match]
