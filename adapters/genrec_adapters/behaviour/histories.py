"""Events of all users as flat arrays, and the catalogue of items they are about.

Ids follow the field vocabularies' rule: 0 is what is unknown, known values begin at 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt

from genrec_registry.errors import DataError

if TYPE_CHECKING:
    import polars as pl

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Text values and their ids, in the order of the ids.

    Args:
        values: ``values[0]`` is the empty string and stands for everything unknown.

    Example::

        >>> vocabulary = Vocabulary.of(["b", "a", "b"])
        >>> vocabulary.values, vocabulary.encode(["b", "?"]).tolist()
        (('', 'a', 'b'), [2, 0])
    """

    values: tuple[str, ...]

    @classmethod
    def of(cls, values: Sequence[str]) -> Self:
        """The vocabulary of these values: sorted, each once."""
        return cls(values=("", *sorted({value for value in values if value})))

    def __len__(self) -> int:
        """Ids, the unknown one included."""
        return len(self.values)

    def encode(self, values: Sequence[str] | pl.Series) -> Int32:
        """Ids of values; 0 for those not in the vocabulary."""
        import polars as pl

        series = pl.Series("value", values, dtype=pl.String)
        known = pl.Series(self.values[1:], dtype=pl.String)
        ids = series.replace_strict(known, np.arange(1, len(self), dtype=np.int32), default=0, return_dtype=pl.Int32)
        return ids.fill_null(0).to_numpy()


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """Every item, with the ids of its features: row 0 is the unknown item.

    Args:
        items: the items' own vocabulary.
        features: further one-valued features by name, ``[len(items)]`` ids each.
        sizes: ids of each of ``features``.

    Example::

        >>> catalogue = Catalogue(items=Vocabulary.of(["a", "b"]))
        >>> len(catalogue), {name: ids.tolist() for name, ids in catalogue.all_features().items()}
        (3, {'item': [0, 1, 2]})
    """

    items: Vocabulary
    features: Mapping[str, Int32] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        """Rows, the unknown item included."""
        return len(self.items)

    def all_features(self) -> dict[str, Int32]:
        """``item`` (the row itself) and the further features, ``[len(self)]`` ids each."""
        return {"item": np.arange(len(self), dtype=np.int32), **self.features}

    def all_sizes(self) -> dict[str, int]:
        """Rows of the embedding table of each of :meth:`all_features`."""
        return {"item": len(self), **self.sizes}


@dataclass(frozen=True, kw_only=True)
class Histories:
    """Events of U users, T in all, grouped by user and in time order.

    Args:
        users: ``[U]`` users' ids as text.
        offsets: ``[U + 1]``; user u's events are rows ``offsets[u]`` to ``offsets[u + 1]``.
        items: ``[T]`` catalogue rows.
        times: ``[T]`` epoch seconds (or a counter).
        conditions: ``[T]`` ids by condition name.
        labels: ``[T]`` 0 or 1.

    Raises:
        DataError: the arrays do not go together, or a user's events are not in time order.

    Example::

        >>> histories = Histories(
        ...     users=("u", "v"), offsets=np.array([0, 2, 3]), items=np.array([1, 2, 1], np.int32),
        ...     times=np.array([5, 9, 7]), labels=np.array([1, 0, 1], np.int8),
        ... )
        >>> histories.lengths.tolist(), histories.select(np.array([True, False, True])).lengths.tolist()
        ([2, 1], [1, 1])
    """

    users: tuple[str, ...]
    offsets: Int64
    items: Int32
    times: Int64
    labels: npt.NDArray[np.int8]
    conditions: Mapping[str, Int32] = field(default_factory=dict)

    def __post_init__(self) -> None:
        events = len(self.items)
        lengths = {len(self.times), len(self.labels), *(len(ids) for ids in self.conditions.values())}
        if len(self.offsets) != len(self.users) + 1 or self.offsets[-1] != events or lengths - {events}:
            raise DataError(f"histories of {len(self.users)} users and {events} events have arrays of other lengths")
        starts = np.zeros(events + 1, dtype=bool)
        starts[self.offsets] = True
        if events and bool(((np.diff(self.times) < 0) & ~starts[1:-1]).any()):
            raise DataError("a user's events are not in time order; sort them by user and time")

    @property
    def lengths(self) -> Int64:
        """``[U]`` events of each user."""
        return np.diff(self.offsets)

    @property
    def owners(self) -> Int64:
        """``[T]`` the user (index) of each event."""
        return np.repeat(np.arange(len(self.users)), self.lengths)

    def select(self, keep: npt.NDArray[np.bool_]) -> Self:
        """The events where ``keep [T]`` holds; users stay, also those left without events."""
        counts = np.bincount(self.owners[keep], minlength=len(self.users))
        return type(self)(
            users=self.users,
            offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            items=self.items[keep],
            times=self.times[keep],
            labels=self.labels[keep],
            conditions={name: ids[keep] for name, ids in self.conditions.items()},
        )
