"""Semantic IDs as ids of one embedding table: each item becomes the n-grams of its codes, whose vectors are summed.

- ``prefix``: n-gram l is the item's first l codes, so that items share as much of their vector as of their ID; with all
  levels the last n-gram is (nearly) the item's own. Prefix n-grams of Zheng et al., arXiv 2504.02137, section 4.
- ``level``: n-gram l is the code of level l alone, the unigrams of Singh et al., arXiv 2306.08121, section 4.
- Rows of the table: 0 is what is unknown, then one block a length. A block has a row for each n-gram that occurs, or,
  where those are more than ``num_buckets``, that many rows, among which n-grams are hashed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import numpy.typing as npt

from genrec_adapters.item_codes import ItemCodes
from genrec_registry.errors import ConfigError, DataError

Ngrams = Literal["prefix", "level"]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class CodeNgrams:
    """The n-grams of a set of item codes, numbered.

    Args:
        kind: which n-grams.
        sizes: codes of each level.
        known: for each length, the keys of the n-grams that have a row of their own, sorted; None where they are
            hashed.
        num_buckets: rows of a block of hashed n-grams.
        seed: of the hash.

    Example::

        >>> codes = ItemCodes(items=("a", "b", "c"), codes=np.array([[0, 3], [0, 1], [1, 1]], np.int32), sizes=(2, 4))
        >>> ngrams = CodeNgrams.of(codes)
        >>> ngrams.num_ids, ngrams.ids(codes.of(["a", "b", "c", "?"])).tolist()
        (6, [[1, 4], [1, 3], [2, 5], [0, 0]])
        >>> CodeNgrams.of(codes, kind="level").ids(codes.codes).tolist()
        [[1, 4], [1, 3], [2, 3]]
    """

    kind: Ngrams
    sizes: tuple[int, ...]
    known: tuple[Int64 | None, ...]
    num_buckets: int = 0
    seed: int = 0

    @classmethod
    def of(
        cls,
        codes: ItemCodes,
        *,
        kind: Ngrams = "prefix",
        depth: int | None = None,
        num_buckets: int | None = None,
        seed: int = 0,
    ) -> Self:
        """The n-grams that occur in ``codes``.

        Args:
            codes: of the catalogue.
            kind: which n-grams.
            depth: n-grams an item: those of the first ``depth`` levels; all levels if None.
            num_buckets: hash the n-grams of a length where more than this many occur; never if None.
            seed: another seed gives other collisions.

        Raises:
            ConfigError: the codes have fewer levels.
            DataError: a prefix of that length does not fit 63 bits.
        """
        levels = len(codes.sizes)
        depth = levels if depth is None else depth
        if not 1 <= depth <= levels:
            raise ConfigError(f"depth is {depth}, the codes have {levels} levels; expected 1..{levels}")
        if kind == "prefix" and math.prod(codes.sizes[:depth]) >= 2**63:
            raise DataError(f"codebooks of {codes.sizes[:depth]} codes have more than 2^63 prefixes; set a lower depth")
        bare = cls(kind=kind, sizes=codes.sizes[:depth], known=(None,) * depth)
        occurring = [np.unique(keys) for keys in bare._keys(codes.codes).T]
        limit = num_buckets or len(codes.items)
        known = tuple(keys if len(keys) <= limit else None for keys in occurring)
        return cls(kind=kind, sizes=bare.sizes, known=known, num_buckets=num_buckets or 0, seed=seed)

    @property
    def depth(self) -> int:
        """n-grams of an item."""
        return len(self.sizes)

    @property
    def _rows(self) -> list[int]:
        """Rows of each block."""
        return [self.num_buckets if keys is None else len(keys) for keys in self.known]

    @property
    def num_ids(self) -> int:
        """Rows of the table."""
        return 1 + sum(self._rows)

    def ids(self, codes: npt.NDArray[np.integer]) -> Int32:
        """Table rows ``[M, depth]`` of codes ``[M, L]``; 0 for an n-gram without a row, and for the code -1."""
        levels = codes[:, : self.depth]
        inside = (levels >= 0) & (levels < np.array(self.sizes))
        if self.kind == "prefix":
            inside = np.logical_and.accumulate(inside, axis=1)
        found = np.zeros(levels.shape, dtype=np.int32)
        first = 1
        for level, (keys, known, rows) in enumerate(zip(self._keys(levels).T, self.known, self._rows, strict=True)):
            if known is None:
                place, here = (_mix(keys, self.seed) % np.uint64(rows)).astype(np.int64), inside[:, level]
            else:
                place = np.searchsorted(known, keys).clip(max=max(0, rows - 1))
                here = inside[:, level] & (known[place] == keys if rows else False)
            found[:, level] = np.where(here, first + place, 0)
            first += rows
        return found

    def _keys(self, codes: npt.NDArray[np.integer]) -> Int64:
        """One number for each n-gram ``[M, depth]``: different n-grams of one length have different numbers."""
        levels = codes[:, : self.depth].astype(np.int64)
        if self.kind == "prefix":
            for level in range(1, self.depth):
                levels[:, level] += levels[:, level - 1] * self.sizes[level]
        return levels


@dataclass(frozen=True, kw_only=True)
class ItemNgrams:
    """The table rows of every item of a catalogue, to be looked up by item id.

    Args:
        ids: ``[num_items, depth]``; item r's vector is the sum of the rows ``ids[r]``.
        num_ids: rows of the table.

    Example::

        >>> codes = ItemCodes(items=("a", "b"), codes=np.array([[0, 3], [0, 1]], np.int32), sizes=(2, 4))
        >>> ItemNgrams.of(codes, ["", "b", "a"]).ids.tolist()  # id 0 is the unknown item, as in a Vocabulary
        [[0, 0], [1, 2], [1, 3]]
    """

    ids: Int32
    num_ids: int

    @classmethod
    def of(
        cls,
        codes: ItemCodes,
        items: Sequence[str],
        *,
        kind: Ngrams = "prefix",
        depth: int | None = None,
        num_buckets: int | None = None,
        seed: int = 0,
    ) -> Self:
        """The n-grams of ``items``, in the order of their ids; an item without codes has id 0 in every place.

        Args:
            codes: say which n-grams there are, and which item has which.
            items: the items by id, as ``Vocabulary.values``.
            kind: see :meth:`CodeNgrams.of`, as the others.
            depth: n-grams an item.
            num_buckets: rows of a block of hashed n-grams.
            seed: of the hash.
        """
        ngrams = CodeNgrams.of(codes, kind=kind, depth=depth, num_buckets=num_buckets, seed=seed)
        return cls(ids=ngrams.ids(codes.of(items)), num_ids=ngrams.num_ids)


def _mix(keys: Int64, seed: int) -> npt.NDArray[np.uint64]:
    """A fixed 64-bit hash: the finaliser of SplitMix64 (Steele et al. 2014)."""
    mixed = keys.astype(np.uint64) + np.uint64(seed * 0x9E3779B97F4A7C15 % 2**64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return np.asarray(mixed ^ (mixed >> np.uint64(31)))
