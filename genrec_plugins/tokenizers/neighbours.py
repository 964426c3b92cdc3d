"""The paths of codes nearest to an item, beside the one it has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from math import prod

import numpy as np
import numpy.typing as npt

from genrec_plugins.tokenizers.inputs import chunks
from genrec_registry import Tokenizer

Path = tuple[int, ...]


class Neighbours:
    """Paths by the distance between an embedding and what they stand for; works for every tokenizer.

    Args:
        tokenizer: a fitted tokenizer; only ``codebook_sizes`` and ``reconstruct`` are used.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.sizes = tuple(tokenizer.codebook_sizes)
        self.tokenizer = tokenizer
        # Items of one prefix come one after the other, and ask for the same vectors.
        self._last_level = lru_cache(maxsize=8)(lambda prefix: self._variants((*prefix, 0), len(self.sizes) - 1))

    def distances(self, codes: npt.NDArray[np.int32], embeddings: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
        """Squared distance of each item to what its codes stand for, ``[N]``; 0 where codes say nothing of it."""
        found = np.zeros(len(codes), dtype=np.float32)
        for part in chunks(len(codes)):
            vectors = self.tokenizer.reconstruct(codes[part])
            if vectors is not None:
                found[part] = np.square(embeddings[part] - vectors).sum(axis=1)
        return found

    def first(
        self, path: Path, embedding: npt.NDArray[np.floating], taken: Mapping[Path, int], room: int
    ) -> Path | None:
        """The first of :meth:`of` that fewer than ``room`` items have; None if there is none."""
        if len(taken) >= prod(self.sizes) and min(taken.values()) >= room:
            return None
        return next((other for other in self.of(path, embedding) if taken.get(other, 0) < room), None)

    def of(self, path: Path, embedding: npt.NDArray[np.floating]) -> Iterator[Path]:
        """All other paths, near ones first.

        First those with another last code, by distance. Then, for the level before the last, the codes by the distance
        of the path with that one code changed, each with its last codes by distance; then for the level before that. At
        the end, everything in counting order, from ``path`` on: what changes two levels and more has not been seen yet,
        the rest comes twice.

        Args:
            path: L codes.
            embedding: ``[E]``.
        """
        if self.tokenizer.reconstruct(np.array([path], dtype=np.int32)) is not None:
            yield from self._last_codes(path[:-1], embedding, without=path[-1])
            for level in reversed(range(len(path) - 1)):
                for code in _by_distance(self._variants(path, level), embedding):
                    if code != path[level]:
                        yield from self._last_codes((*path[:level], code, *path[level + 1 : -1]), embedding)
        start, total = int(np.ravel_multi_index(path, self.sizes)), prod(self.sizes)
        for step in range(1, total):
            yield tuple(int(code) for code in np.unravel_index((start + step) % total, self.sizes))

    def _last_codes(self, prefix: Path, embedding: npt.NDArray[np.floating], without: int = -1) -> Iterator[Path]:
        yield from ((*prefix, code) for code in _by_distance(self._last_level(prefix), embedding) if code != without)

    def _variants(self, path: Path, level: int) -> npt.NDArray[np.float32]:
        """What the paths with each code at ``level`` stand for, ``[K, E]``."""
        paths = np.tile(np.array(path, dtype=np.int32), (self.sizes[level], 1))
        paths[:, level] = np.arange(self.sizes[level])
        vectors = self.tokenizer.reconstruct(paths)
        assert vectors is not None
        return vectors


def _by_distance(vectors: npt.NDArray[np.float32], embedding: npt.NDArray[np.floating]) -> list[int]:
    order: list[int] = np.argsort(np.square(vectors - embedding).sum(axis=1), kind="stable").tolist()
    return order
