"""Baselines whose codes know nothing of an item's content: hash and random."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from genrec_adapters.field_types.hashing import hash_texts
from genrec_adapters.item_codes import Codes
from genrec_plugins.tokenizers.base import BaseTokenizer
from genrec_plugins.tokenizers.configs import HashConfig, RandomConfig
from genrec_plugins.tokenizers.inputs import Floats


class _IdTokenizer(BaseTokenizer):
    """Codes from ids alone; embeddings are checked, and otherwise not looked at."""

    learned = False

    def _shapes(self, width: int) -> dict[str, tuple[int, ...]]:
        return {}


class HashCodes(_IdTokenizer):
    """The mixed-radix digits of one hash of the item's id.

    Args:
        config: sizes.

    Example::

        >>> tokenizer = HashCodes(HashConfig(sizes=(10, 10)))
        >>> tokenizer.fit(np.zeros((2, 1), np.float32), ["a", "b"])
        >>> tokenizer.encode(np.zeros((3, 1), np.float32), ["a", "b", "new"]).tolist()
        [[1, 5], [0, 4], [5, 7]]
    """

    def __init__(self, config: HashConfig) -> None:
        super().__init__(config.sizes)

    def _encode(self, embeddings: Floats, item_ids: Sequence[str]) -> Codes:
        rest = hash_texts(pl.Series("item", item_ids, dtype=pl.String))
        codes = np.empty((len(item_ids), len(self.sizes)), np.int32)
        for level in reversed(range(len(self.sizes))):
            rest, codes[:, level] = np.divmod(rest, np.uint64(self.sizes[level]))
        return codes


class RandomCodes(_IdTokenizer):
    """A draw for each item and level, keyed by seed, level and the item's id, so that new items get codes as well.

    Args:
        config: sizes and seed.

    Example::

        >>> tokenizer = RandomCodes(RandomConfig(sizes=(10, 10), seed=1))
        >>> tokenizer.fit(np.zeros((2, 1), np.float32), ["a", "b"])
        >>> tokenizer.encode(np.zeros((1, 1), np.float32), ["b"]).shape
        (1, 2)
    """

    def __init__(self, config: RandomConfig) -> None:
        super().__init__(config.sizes)
        self.keys = np.random.default_rng(config.seed).integers(0, 2**63, len(config.sizes), dtype=np.uint64)

    def _encode(self, embeddings: Floats, item_ids: Sequence[str]) -> Codes:
        ids = pl.Series("item", item_ids, dtype=pl.String)
        draws = [hash_texts(ids, int(key)) % np.uint64(size) for key, size in zip(self.keys, self.sizes, strict=True)]
        return np.stack(draws, axis=1).astype(np.int32)
