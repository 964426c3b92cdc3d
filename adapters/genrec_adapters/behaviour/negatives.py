"""Items that a user never had, as rows with label 0."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from genrec_adapters.behaviour.events import EventTable
from genrec_adapters.behaviour.histories import Int32, Int64
from genrec_registry.errors import DataError

Sampling = Literal["uniform", "popularity"]
_ROUNDS = 30


def with_negatives(
    table: EventTable, events: Int64, count: int, sampling: Sampling = "uniform", seed: int = 1
) -> tuple[Int64, Int32, npt.NDArray[np.int8]]:
    """Each event, and behind each one with label 1 ``count`` rows at the same time with items its user never had.

    An item that a user has later is no negative of theirs either; beyond that, nothing is learned from later events:
    ``popularity`` takes the item of an event drawn evenly from those of all users strictly before the row's time (of
    any item alike, where there is none).

    Args:
        table: all events.
        events: ``[N]`` rows of the table, in time order.
        count: negatives for each event with label 1.
        sampling: how they are drawn.
        seed: another seed, other items.

    Returns:
        Event, item and label of each row.

    Raises:
        DataError: a user has every item.

    Example::

        >>> import polars as pl
        >>> rows = pl.DataFrame({"user": ["u", "v"], "item": ["a", "b"], "time": [1, 2], "label": [1, 1]})
        >>> events, items, labels = with_negatives(EventTable.of([rows]), np.array([0, 1]), 1)
        >>> events.tolist(), items.tolist(), labels.tolist()
        ([0, 0, 1, 1], [0, 1, 1, 0], [1, 0, 1, 0])
    """
    if not count:
        return events, table.item[events], table.label[events]
    repeats = 1 + count * (table.label[events] == 1)
    chosen = np.repeat(events, repeats)
    sampled = np.ones(len(chosen), dtype=bool)
    sampled[np.cumsum(repeats) - repeats] = False
    items, labels = table.item[chosen], table.label[chosen]
    items[sampled] = _sample(table, chosen[sampled], sampling, np.random.default_rng(seed))
    labels[sampled] = 0
    return chosen, items, labels


def _sample(table: EventTable, events: Int64, sampling: Sampling, random: np.random.Generator) -> Int32:
    """One item that its user never had for each of ``events``."""
    had = np.unique(table.user.astype(np.int64) * len(table.items) + table.item)
    users = table.user[events].astype(np.int64)
    found = np.full(len(events), -1, dtype=np.int32)
    left = np.arange(len(events))
    earlier = _earlier(table, events) if sampling == "popularity" else np.zeros(len(events), dtype=np.int64)
    for _ in range(_ROUNDS):
        if not len(left):
            return found
        drawn = random.integers(0, len(table.items), len(left), dtype=np.int32)
        place = (random.random(len(left)) * earlier[left]).astype(np.int64)
        drawn = np.where(earlier[left] > 0, table.item[table.by_time[place]], drawn) if earlier.any() else drawn
        key = users[left] * len(table.items) + drawn
        taken = had[np.minimum(np.searchsorted(had, key), len(had) - 1)] == key
        found[left[~taken]] = drawn[~taken]
        left = left[taken]
    # A few users have almost everything: draw evenly from what is left of the catalogue.
    for row in left.tolist():
        own = had[np.searchsorted(had, users[row] * len(table.items)) :]
        own = own[own < (users[row] + 1) * len(table.items)] - users[row] * len(table.items)
        rest = np.setdiff1d(np.arange(len(table.items)), own)
        if not len(rest):
            user = table.users[int(users[row])]
            raise DataError(
                f"user '{user}' has events with every one of {len(table.items)} items, expected one to take as a "
                "negative; set negatives: 0"
            )
        found[row] = random.choice(rest)
    return found


def _earlier(table: EventTable, events: Int64) -> Int64:
    """For each of ``events``, how many events of all users are strictly before its time."""
    return np.searchsorted(table.time[table.by_time], table.time[events], side="left").astype(np.int64)
