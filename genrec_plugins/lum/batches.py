"""Histories to batches of jagged tensors for pre-training, with a budget of events a batch instead of padding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

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
        labels: ``[T]`` int64, 0 or 1; None where nobody asks.
    """

    users: Tensor
    offsets: Tensor
    items: Tensor
    conditions: dict[str, Tensor]
    times: Tensor
    labels: Tensor | None = None

    def __len__(self) -> int:
        """B."""
        return len(self.users)

    def to(self, device: torch.device) -> Self:
        """The batch on a device; itself on the CPU."""
        if device.type == "cpu":
            return self
        moved = {name: value.to(device, non_blocking=True) for name, value in self._tensors().items()}
        conditions = {name: ids.to(device, non_blocking=True) for name, ids in self.conditions.items()}
        return replace(self, conditions=conditions, **moved)

    def thinned(self, share: float) -> Self:
        """Without a random ``share`` of its events; drawn from torch's CPU generator. Rows stay, also empty ones."""
        keep = (torch.rand(len(self.items)) >= share).to(self.items.device)
        counts = torch.bincount(self.owners[keep], minlength=len(self))
        return replace(
            self,
            offsets=torch.cat([self.offsets[:1], counts.cumsum(0)]),
            items=self.items[keep],
            times=self.times[keep],
            conditions={name: ids[keep] for name, ids in self.conditions.items()},
            labels=None if self.labels is None else self.labels[keep],
        )

    def _tensors(self) -> dict[str, Tensor]:
        named = {"users": self.users, "offsets": self.offsets, "items": self.items, "times": self.times}
        return named if self.labels is None else {**named, "labels": self.labels}

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
    starts = np.maximum(histories.offsets[users], stops - max_length)
    return slice_batch(histories, users, starts, stops)


def slice_batch(
    histories: Histories, users: npt.NDArray[np.int64], starts: npt.NDArray[np.int64], stops: npt.NDArray[np.int64]
) -> SequenceBatch:
    """A row for each run of events ``starts[b]`` to ``stops[b]``.

    Args:
        histories: all events.
        users: ``[B]`` the user of each run.
        starts: ``[B]`` its first event, as a row of ``histories.items``.
        stops: ``[B]`` one past its last event.

    Example::

        >>> histories = Histories(
        ...     users=("u", "v"), offsets=np.array([0, 2, 3]), items=np.array([1, 2, 1], np.int32),
        ...     times=np.array([5, 9, 7]), labels=np.array([1, 0, 1], np.int8),
        ... )
        >>> slice_batch(histories, np.array([0, 0]), np.array([0, 1]), np.array([0, 2])).lengths.tolist()
        [0, 1]
    """
    lengths = stops - starts
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    # Row t of the batch is event t - offsets[b] of run b.
    events = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
    return SequenceBatch(
        users=torch.from_numpy(users),
        offsets=torch.from_numpy(offsets),
        items=torch.from_numpy(histories.items[events].astype(np.int64)),
        conditions={name: torch.from_numpy(ids[events].astype(np.int64)) for name, ids in histories.conditions.items()},
        times=torch.from_numpy(histories.times[events].astype(np.int64)),
        labels=torch.from_numpy(histories.labels[events].astype(np.int64)),
    )


def packs(
    lengths: npt.NDArray[np.int64],
    *,
    max_events: int,
    max_rows: int | None = None,
    seed: int | None = None,
    epoch: int = 0,
) -> list[npt.NDArray[np.int64]]:
    """Rows of the batches of an epoch: those with events, packed so that a batch has at most ``max_events`` events.

    Args:
        lengths: ``[U]`` events of each row.
        max_events: budget of a batch; a longer single row is a batch of its own.
        max_rows: rows of a batch at most.
        seed: of the order of rows, together with ``epoch``; None keeps their order.
        epoch: another epoch, another order.

    Example::

        >>> [rows.tolist() for rows in packs(np.array([2, 0, 3, 9, 1]), max_events=5)]
        [[0, 2], [3], [4]]
    """
    rows = np.flatnonzero(lengths > 0)
    if seed is not None:
        rows = np.random.default_rng((seed, epoch)).permutation(rows)
    starts = [0]
    total = 0
    for index, length in enumerate(lengths[rows].tolist()):
        full = total + length > max_events or index - starts[-1] == max_rows
        if index > starts[-1] and full:
            starts.append(index)
            total = 0
        total += length
    return np.split(rows, starts[1:]) if len(rows) else []


def batches(
    histories: Histories, *, max_length: int, max_events: int, seed: int | None = None, epoch: int = 0
) -> Iterator[SequenceBatch]:
    """All users with at least one event, packed; see :func:`packs`.

    Args:
        histories: all events.
        max_length: events kept of each user.
        max_events: budget of a batch; a longer single user is a batch of its own.
        seed: of the order of users, together with ``epoch``; None keeps their order.
        epoch: another epoch, another order.
    """
    kept = np.minimum(histories.lengths, max_length)
    for rows in packs(kept, max_events=max_events, seed=seed, epoch=epoch):
        yield make_batch(histories, rows, max_length)


def cut_windows(histories: Histories, max_length: int) -> tuple[Histories, npt.NDArray[np.int64]]:
    """Every user's events cut, from the last one back, into rows of at most ``max_length`` events.

    Args:
        histories: all events.
        max_length: events of a row.

    Returns:
        The rows as histories (a user stands once for each of them, oldest first), and ``[R]`` the user of each row.

    Example::

        >>> histories = Histories(
        ...     users=("u", "v"), offsets=np.array([0, 5, 6]), items=np.arange(1, 7, dtype=np.int32),
        ...     times=np.arange(6), labels=np.ones(6, np.int8),
        ... )
        >>> rows, users = cut_windows(histories, max_length=2)
        >>> rows.lengths.tolist(), users.tolist()
        ([1, 2, 2, 1], [0, 0, 0, 1])
    """
    pieces = -(-histories.lengths // max_length)
    users = np.repeat(np.arange(len(histories.users)), pieces)
    ends_of_user = np.cumsum(pieces)
    later = np.repeat(ends_of_user, pieces) - 1 - np.arange(len(users))  # pieces of this user that come after
    stops = histories.offsets[users + 1] - later * max_length
    return (
        replace(
            histories,
            users=tuple(histories.users[user] for user in users.tolist()),
            offsets=np.concatenate([[0], stops]).astype(np.int64),
        ),
        users,
    )
