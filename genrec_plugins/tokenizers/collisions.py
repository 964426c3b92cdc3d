"""What happens to items whose codes are equal: one more level, other paths, or nothing.

A policy turns the codes of a tokenizer into IDs, first for the catalogue, then for new items one after the other.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from genrec_adapters.item_codes import Codes
from genrec_plugins.tokenizers.configs import CollisionsConfig, KnnCapConfig, NoCollisionsConfig, SuffixConfig
from genrec_plugins.tokenizers.neighbours import Neighbours, Path
from genrec_registry import Config, DataError, Tokenizer, explain


class CollisionPolicy(ABC):
    """Codes to IDs, with a memory of which are taken.

    Args:
        tokenizer: a fitted tokenizer; says what a path stands for.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.neighbours = Neighbours(tokenizer)
        self.taken: Counter[Path] = Counter()

    @property
    @abstractmethod
    def sizes(self) -> tuple[int, ...]:
        """Codes of each level of an ID."""

    @abstractmethod
    def fit(self, codes: Codes, embeddings: npt.NDArray[np.floating], item_ids: tuple[str, ...]) -> Codes:
        """IDs ``[N, len(sizes)]`` of the catalogue."""

    def add(self, codes: Codes, embeddings: npt.NDArray[np.floating]) -> Codes:
        """IDs of items that are new, beside those that are there; they are remembered.

        Raises:
            DataError: every path is full; then none of these items is remembered.
        """
        ids: list[Path] = []
        try:
            for row, path in enumerate(codes.tolist()):
                ids.append(self.place(tuple(path), embeddings[row]))
        except DataError:
            self.taken.subtract(found[: len(self.neighbours.sizes)] for found in ids)
            raise
        return np.array(ids, dtype=np.int32).reshape(len(codes), len(self.sizes))

    @abstractmethod
    def place(self, wanted: Path, embedding: npt.NDArray[np.floating]) -> Path:
        """The ID of one more item, which is counted.

        Raises:
            DataError: every path is full.
        """

    def resume(self, ids: Codes) -> None:
        """Remember the IDs of a catalogue that was placed before."""
        self.taken = Counter(map(tuple, ids[:, : len(self.neighbours.sizes)].tolist()))

    def _with_room(self, path: Path, embedding: npt.NDArray[np.floating], room: int) -> Path:
        """The path itself if fewer than ``room`` items have it, else the nearest such path."""
        if self.taken[path] < room:
            return path
        found = self.neighbours.first(path, embedding, self.taken, room)
        if found is None:
            raise DataError(
                f"all {prod(self.neighbours.sizes)} IDs have {room} items; fit the tokenizer again with larger sizes, "
                "or let more items share an ID"
            )
        return found


class NoCollisions(CollisionPolicy):
    """Items whose codes are equal share an ID.

    Args:
        config: nothing to set.
        tokenizer: a fitted tokenizer.
    """

    def __init__(self, config: NoCollisionsConfig, tokenizer: Tokenizer) -> None:
        super().__init__(tokenizer)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Those of the tokenizer."""
        return self.neighbours.sizes

    def fit(self, codes: Codes, embeddings: npt.NDArray[np.floating], item_ids: tuple[str, ...]) -> Codes:
        """The codes as they are."""
        return codes

    def place(self, wanted: Path, embedding: npt.NDArray[np.floating]) -> Path:
        """The codes as they are."""
        return wanted


class Suffix(CollisionPolicy):
    """One more level counts the items of a path, in the order they come (TIGER, arXiv 2305.05065, 3.1).

    The level has as many codes as the largest group has items, and some headroom. A new item whose group is full takes
    the nearest path that is not.

    Args:
        config: headroom.
        tokenizer: a fitted tokenizer.
        size: codes of the level, if it was fitted before.
    """

    def __init__(self, config: SuffixConfig, tokenizer: Tokenizer, size: int = 1) -> None:
        super().__init__(tokenizer)
        self.headroom = config.headroom
        self.size = size

    @property
    def sizes(self) -> tuple[int, ...]:
        """Those of the tokenizer, and the suffix's."""
        return (*self.neighbours.sizes, self.size)

    def fit(self, codes: Codes, embeddings: npt.NDArray[np.floating], item_ids: tuple[str, ...]) -> Codes:
        """Codes with a suffix; the n-th item of a path has suffix n."""
        suffix = np.empty((len(codes), 1), dtype=np.int32)
        for row, path in enumerate(map(tuple, codes.tolist())):
            suffix[row] = self.taken[path]
            self.taken[path] += 1
        self.size = int(suffix.max()) + 1 + self.headroom
        return np.concatenate([codes, suffix], axis=1)

    def place(self, wanted: Path, embedding: npt.NDArray[np.floating]) -> Path:
        """The codes, or the nearest with room, and the next free suffix.

        Raises:
            DataError: every path is full.
        """
        path = self._with_room(wanted, embedding, self.size)
        self.taken[path] += 1
        return (*path, self.taken[path] - 1)


class KnnCap(CollisionPolicy):
    """At most ``cap`` items share an ID (FORGE, arXiv 2509.20904).

    Of an overfull path, the items nearest to what it stands for stay; each of the others takes the nearest path with
    room: another last code, then another code of the level before, and so on. Where codes say nothing of embeddings
    (hash, random), the next path in counting order.

    Args:
        config: the cap.
        tokenizer: a fitted tokenizer.
    """

    def __init__(self, config: KnnCapConfig, tokenizer: Tokenizer) -> None:
        super().__init__(tokenizer)
        self.cap = config.cap

    @property
    def sizes(self) -> tuple[int, ...]:
        """Those of the tokenizer."""
        return self.neighbours.sizes

    def fit(self, codes: Codes, embeddings: npt.NDArray[np.floating], item_ids: tuple[str, ...]) -> Codes:
        """Codes, some moved; the result does not depend on the order of the items.

        Raises:
            DataError: there are more items than ``cap`` on every path.
        """
        order = np.lexsort((np.array(item_ids), self.neighbours.distances(codes, embeddings), *codes.T[::-1]))
        ids, moving = codes.copy(), []
        for row in order.tolist():
            path = tuple(codes[row].tolist())
            if self.taken[path] < self.cap:
                self.taken[path] += 1
            else:
                moving.append(row)
        for row in moving:
            ids[row] = self.place(tuple(codes[row].tolist()), embeddings[row])
        return ids

    def place(self, wanted: Path, embedding: npt.NDArray[np.floating]) -> Path:
        """The codes, or the nearest with room.

        Raises:
            DataError: every path is full.
        """
        path = self._with_room(wanted, embedding, self.cap)
        self.taken[path] += 1
        return path


class _Section(Config):
    collisions: CollisionsConfig


def parse_collisions(data: Any) -> SuffixConfig | KnnCapConfig | NoCollisionsConfig:
    """Validate a policy's config: a name, ``{"type": name, ...}``, or a config object.

    Raises:
        ConfigError: there is no such policy, or an option is wrong.

    Example::

        >>> parse_collisions("suffix"), parse_collisions({"type": "knn-cap", "cap": 3})
        (SuffixConfig(type='suffix', headroom=16), KnnCapConfig(type='knn-cap', cap=3))
    """
    if isinstance(data, str):
        data = {"type": data}
    return explain(_Section, {"collisions": data}, where="tokenizer").collisions


def make_policy(
    config: SuffixConfig | KnnCapConfig | NoCollisionsConfig, tokenizer: Tokenizer, sizes: tuple[int, ...] | None = None
) -> CollisionPolicy:
    """The policy of a config.

    Args:
        config: which, and its options.
        tokenizer: a fitted tokenizer.
        sizes: codes of each level of an ID, if it was fitted before.
    """
    if isinstance(config, SuffixConfig):
        return Suffix(config, tokenizer, sizes[-1] if sizes else 1)
    return KnnCap(config, tokenizer) if isinstance(config, KnnCapConfig) else NoCollisions(config, tokenizer)
