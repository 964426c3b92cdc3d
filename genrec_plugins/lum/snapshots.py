"""Which states of which users are asked for: after their last event, or after every event, in windows of histories."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from genrec_adapters.behaviour.histories import Histories

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Snapshots:
    """S moments of users' lives, and the R rows of events in which the answers to them are computed.

    Snapshots stand by user and time, and so do the rows; a row has one snapshot or more.

    Args:
        users: ``[R]`` the user of each row.
        starts: ``[R]`` its first event, as a row of the histories.
        stops: ``[R]`` one past its last event.
        row: ``[S]`` the row of each snapshot.
        prefix: ``[S]`` events of the row that it sees.
        times: ``[S]`` time of the last of them.
    """

    users: Int64
    starts: Int64
    stops: Int64
    row: Int64
    prefix: Int64
    times: Int64

    def __len__(self) -> int:
        """S."""
        return len(self.row)

    def parts(self, max_events: int, queries: int) -> Iterator[Snapshots]:
        """The same in parts, in order: rows until events and queries together reach ``max_events``.

        Args:
            max_events: budget of a part; a longer row is a part of its own.
            queries: asked at each snapshot.
        """
        asked = np.bincount(self.row, minlength=len(self.users))
        total = np.cumsum(self.stops - self.starts + queries * asked)
        first_snapshots = np.concatenate([[0], np.cumsum(asked)])
        begin = spent = 0
        while begin < len(self.users):
            end = max(int(np.searchsorted(total, spent + max_events, side="right")), begin + 1)
            rows, chosen = slice(begin, end), slice(first_snapshots[begin], first_snapshots[end])
            yield Snapshots(
                users=self.users[rows],
                starts=self.starts[rows],
                stops=self.stops[rows],
                row=self.row[chosen] - begin,
                prefix=self.prefix[chosen],
                times=self.times[chosen],
            )
            begin, spent = end, int(total[end - 1])

    def alone(self) -> Snapshots:
        """The same snapshots, each with a row of its own: what a pass without sharing computes."""
        return Snapshots(
            users=self.users[self.row],
            starts=self.starts[self.row],
            stops=self.starts[self.row] + self.prefix,
            row=np.arange(len(self)),
            prefix=self.prefix,
            times=self.times,
        )


def last_snapshots(histories: Histories, max_length: int) -> Snapshots:
    """One snapshot for each user with events, after the last of them; it sees the last ``max_length``.

    Example::

        >>> histories = Histories(
        ...     users=("u", "v", "w"), offsets=np.array([0, 3, 3, 4]), items=np.array([1, 2, 1, 3], np.int32),
        ...     times=np.array([5, 9, 9, 7]), labels=np.ones(4, np.int8),
        ... )
        >>> found = last_snapshots(histories, max_length=2)
        >>> found.users.tolist(), found.starts.tolist(), found.prefix.tolist(), found.times.tolist()
        ([0, 2], [1, 3], [2, 1], [9, 7])
    """
    users = np.flatnonzero(histories.lengths > 0)
    stops = histories.offsets[users + 1]
    starts = np.maximum(histories.offsets[users], stops - max_length)
    return Snapshots(
        users=users,
        starts=starts,
        stops=stops,
        row=np.arange(len(users)),
        prefix=stops - starts,
        times=histories.times[stops - 1],
    )


def every_snapshot(histories: Histories, max_length: int, stride: int) -> Snapshots:
    """A snapshot for each user after each event that is the last of its time.

    A history of at most ``max_length`` events is one row, in which all its snapshots share one pass. A longer one is
    cut into overlapping rows, each ``stride`` events further: its first row answers for the first ``max_length``
    events, each later one for the ``stride`` events that are new in it. So a snapshot sees all events before it, or at
    least the last ``max_length - stride + 1`` of them.

    Args:
        histories: all events.
        max_length: events of a row at most.
        stride: events that a further row goes on by, from 1 to ``max_length``.

    Example::

        >>> histories = Histories(
        ...     users=("u",), offsets=np.array([0, 6]), items=np.arange(1, 7, dtype=np.int32),
        ...     times=np.array([1, 2, 2, 3, 4, 5]), labels=np.ones(6, np.int8),
        ... )
        >>> found = every_snapshot(histories, max_length=4, stride=2)
        >>> found.starts.tolist(), found.stops.tolist()
        ([0, 2], [4, 6])
        >>> found.row.tolist(), found.prefix.tolist(), found.times.tolist()
        ([0, 0, 0, 1, 1], [1, 3, 4, 3, 4], [1, 2, 3, 4, 5])
    """
    owners = histories.owners
    last = np.ones(len(owners), dtype=bool)  # the last event of its user and time
    last[:-1] = (np.diff(owners) != 0) | (np.diff(histories.times) != 0)
    events = np.flatnonzero(last)
    seen = events - histories.offsets[owners[events]] + 1
    block = np.maximum(-(-(seen - max_length) // stride), 0)  # which row of its user answers for it
    first = np.ones(len(events), dtype=bool)
    first[1:] = (np.diff(owners[events]) != 0) | (np.diff(block) != 0)
    row = np.cumsum(first) - 1
    users, blocks = owners[events][first], block[first]
    starts = histories.offsets[users] + blocks * stride
    # A row ends at the last snapshot it answers for: later events would be computed for nothing.
    ends = events[np.append(np.flatnonzero(first)[1:], len(events)) - 1] + 1 if len(events) else starts
    return Snapshots(
        users=users,
        starts=starts,
        stops=ends,
        row=row,
        prefix=events + 1 - starts[row] if len(events) else events,
        times=histories.times[events],
    )
