"""Histories to batches of jagged tensors for pre-training, with a budget of events a batch instead of padding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from genrec_adapters.behaviour.histories import Histories


@dataclass(frozen=True, kw_only=True)
class SequenceBatch:
    """T events of B users, as they stand one after the other: no padding.

    Args:
        users: ``[B]`` indices into the histories' users.
        offsets: ``[B + 1]`` int64.
        items: ``[T]`` catalogue rows, int64.
        conditions: ``[T]`` ids by condition name, int64.
        times: ``[T]`` int64.
    """

    users: Tensor
    offsets: Tensor
    items: Tensor
    conditions: dict[str, Tensor]
    times: Tensor

    @property
    def lengths(self) -> Tensor:
        """``[B]`` events of each user."""
        return torch.diff(self.offsets)

    @property
    def owners(self) -> Tensor:
        """``[T]`` the row of the batch each event belongs to."""
        return torch.repeat_interleave(torch.arange(len(self.users), device=self.offsets.device), self.lengths)


def make_batch(histories: Histories, users: npt.NDArray[np.int64], max_length: int) -> SequenceBatch:
    """The last ``max_length`` events of these users.

    Args:
        histories: all events.
        users: ``[B]`` indices of users; one without events is an empty row.
        max_length: events kept of each.

    Example::

        >>> histories = Histories(
        ...     users=("u", "v"), offsets=np.array([0, 2, 3]), items=np.array([1, 2, 1], np.int32),
        ...     times=np.array([5, 9, 7]), labels=np.array([1, 0, 1], np.int8),
        ... )
        >>> make_batch(histories, np.array([1, 0]), max_length=1).items.tolist()
        [1, 2]
    """
    stops = histories.offsets[users + 1]
    lengths = np.minimum(stops - histories.offsets[users], max_length)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    # Row t of the batch is event t - offsets[b] of the kept part of user b.
    events = np.arange(offsets[-1]) + np.repeat(stops - lengths - offsets[:-1], lengths)
    return SequenceBatch(
        users=torch.from_numpy(users),
        offsets=torch.from_numpy(offsets),
        items=torch.from_numpy(histories.items[events].astype(np.int64)),
        conditions={name: torch.from_numpy(ids[events].astype(np.int64)) for name, ids in histories.conditions.items()},
        times=torch.from_numpy(histories.times[events].astype(np.int64)),
    )


def batches(
    histories: Histories, *, max_length: int, max_events: int, seed: int | None = None, epoch: int = 0
) -> Iterator[SequenceBatch]:
    """All users with at least one event, packed so that a batch has about ``max_events`` events.

    Args:
        histories: all events.
        max_length: events kept of each user.
        max_events: budget of a batch; a longer single user is a batch of its own.
        seed: of the order of users, together with ``epoch``; None keeps their order.
        epoch: another epoch, another order.
    """
    users = np.flatnonzero(histories.lengths > 0)
    if seed is not None:
        users = np.random.default_rng((seed, epoch)).permutation(users)
    kept = np.minimum(histories.lengths[users], max_length)
    start = total = 0
    for index, length in enumerate(kept.tolist()):
        if index > start and total + length > max_events:
            yield make_batch(histories, users[start:index], max_length)
            start, total = index, 0
        total += length
    if start < len(users):
        yield make_batch(histories, users[start:], max_length)
