"""Leave-one-out and time splits of histories, and what a model may see when it is asked for each target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from genrec_adapters.behaviour.histories import Histories, Int32, Int64
from genrec_adapters.splits import TimeSplit as Shares
from genrec_adapters.splits import sizes
from genrec_registry.errors import DataError

MIN_EVENTS = 3


@dataclass(frozen=True, kw_only=True)
class EvalSet:
    """N questions: given a history, which item comes next?

    Args:
        histories: row n is what may be seen when question n is asked, and nothing else; a user with several questions
            has a row for each.
        users: ``[N]`` the user of each row, as an index into the users of the histories that were split.
        targets: ``[N]`` catalogue rows of the items asked for.
        target_conditions: ``[N]`` ids by condition name, under which the targets came.
        times: ``[N]`` when they came.

    Example::

        >>> histories = Histories(
        ...     users=("u",), offsets=np.array([0, 4]), items=np.array([7, 8, 9, 6], np.int32), times=np.arange(4),
        ...     labels=np.ones(4, np.int8),
        ... )
        >>> test = leave_one_out(histories).test
        >>> test.histories.items.tolist(), test.targets.tolist()
        ([7, 8, 9], [6])
    """

    histories: Histories
    users: Int64
    targets: Int32
    target_conditions: Mapping[str, Int32] = field(default_factory=dict)
    times: Int64

    def __len__(self) -> int:
        """N."""
        return len(self.targets)

    @classmethod
    def of(cls, histories: Histories, events: Int64, stops: Int64, max_history: int | None = None) -> Self:
        """Questions for ``events [N]``, each after its user's events up to (not with) ``stops [N]``.

        Args:
            histories: all events.
            events: the targets, as rows of ``histories.items``.
            stops: where the visible events of each target end, as rows of ``histories.items``.
            max_history: keep only this many of them, the most recent.
        """
        users = histories.owners[events]
        starts = histories.offsets[users]
        if max_history is not None:
            starts = np.maximum(starts, stops - max_history)
        lengths = stops - starts
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        places = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
        return cls(
            histories=Histories(
                users=tuple(histories.users[user] for user in users.tolist()),
                offsets=offsets,
                items=histories.items[places],
                times=histories.times[places],
                labels=histories.labels[places],
                conditions={name: ids[places] for name, ids in histories.conditions.items()},
            ),
            users=users,
            targets=histories.items[events],
            target_conditions={name: ids[events] for name, ids in histories.conditions.items()},
            times=histories.times[events],
        )


@dataclass(frozen=True, kw_only=True)
class HistorySplit:
    """What a model learns from, and the questions it is asked.

    Args:
        train: what a model learns from; its users are those of the histories that were split.
        valid: questions to choose a model by.
        test: questions to report; their histories have the validation targets.
    """

    train: Histories
    valid: EvalSet
    test: EvalSet


class LeaveOneOut(HistorySplit):
    """One question of each set for each user with at least three events."""


class PublishedSplit(HistorySplit):
    """Questions as the published files have them."""


def leave_one_out(histories: Histories) -> LeaveOneOut:
    """The last event of a user tests, the second last validates, the others train (Kang and McAuley 2018, section IV).

    Users with fewer than three events only train. Events at the same time stand in file order, as published splits
    of this kind have them.

    Raises:
        DataError: no user has three events.

    Example::

        >>> histories = Histories(
        ...     users=("u", "v"), offsets=np.array([0, 4, 6]), items=np.array([7, 8, 9, 6, 7, 8], np.int32),
        ...     times=np.arange(6), labels=np.ones(6, np.int8),
        ... )
        >>> split = leave_one_out(histories)
        >>> split.train.items.tolist(), split.valid.targets.tolist(), split.test.targets.tolist()
        ([7, 8, 7, 8], [9], [6])
    """
    stops = histories.offsets[1:][histories.lengths >= MIN_EVENTS]
    if not len(stops):
        raise DataError(
            f"none of {len(histories.users)} users has {MIN_EVENTS} events, expected some to leave one out for "
            "validation and one for test; split by time instead"
        )
    keep = np.ones(len(histories.items), dtype=bool)
    keep[stops - 1] = keep[stops - 2] = False
    return LeaveOneOut(
        train=histories.select(keep),
        valid=EvalSet.of(histories, stops - 2, stops - 2),
        test=EvalSet.of(histories, stops - 1, stops - 1),
    )


@dataclass(frozen=True, kw_only=True)
class TimeSplit(HistorySplit):
    """Train on what happened before ``valid_from``; ask for what came later.

    Args:
        train: events before ``valid_from``; the users of the histories that were split.
        valid: a question for each event from ``valid_from`` to (not with) ``test_from``.
        test: a question for each event from ``test_from`` on.
        valid_from: time of the first validation event.
        test_from: time of the first test event.
    """

    valid_from: int
    test_from: int


def time_split(
    histories: Histories, valid: float = 0.1, test: float = 0.1, *, max_history: int | None = None
) -> TimeSplit:
    """Cut all users' events at two moments.

    The cuts are where ``split: {type: time}`` of a run cuts the same events as rows, moved to the earliest event of
    the same time: what trains here is a training row there. A question sees its user's events strictly before its own
    time, so that events of one time do not see each other.

    Args:
        histories: all events.
        valid: share of validation events.
        test: share of test events.
        max_history: events a question sees at most, the most recent; all if None.

    Raises:
        DataError: no event is left to train on.
        ConfigError: the shares are none.

    Example::

        >>> histories = Histories(
        ...     users=("u", "v"), offsets=np.array([0, 2, 4]), items=np.array([7, 8, 9, 6], np.int32),
        ...     times=np.array([1, 4, 2, 3]), labels=np.ones(4, np.int8),
        ... )
        >>> split = time_split(histories, valid=0.25, test=0.25)
        >>> split.train.items.tolist(), split.valid.targets.tolist(), split.test.histories.items.tolist()
        ([7, 9], [6], [7])
    """
    times = np.sort(histories.times)
    counts = sizes(_shares(valid, test), len(times))
    valid_from, test_from = _cut(times, counts[0]), _cut(times, counts[0] + counts[1])
    train = histories.times < valid_from
    if not train.any():
        raise DataError(
            f"{len(times)} events have no moment that leaves {1 - valid - test:.0%} of them before it, expected a "
            "clock that tells them apart; use leave-one-out instead"
        )
    seen = strictly_before(histories)
    validate = (histories.times >= valid_from) & (histories.times < test_from)
    events = [np.flatnonzero(validate), np.flatnonzero(histories.times >= test_from)]
    valid_set, test_set = (EvalSet.of(histories, rows, seen[rows], max_history) for rows in events)
    return TimeSplit(
        train=histories.select(train), valid=valid_set, test=test_set, valid_from=valid_from, test_from=test_from
    )


def _shares(valid: float, test: float) -> Shares:
    from genrec_registry.yaml_source import explain

    return explain(Shares, {"train": 1 - valid - test, "valid": valid, "test": test}, where="time split")


def _cut(times: Int64, index: int) -> int:
    """The time of event ``index`` in time order; later than all where there is none."""
    return int(times[index]) if index < len(times) else int(times[-1]) + 1


def strictly_before(histories: Histories) -> Int64:
    """``[T]``: where the events of t's user before t's time end, as rows of ``histories.items``.

    Example::

        >>> histories = Histories(
        ...     users=("u", "v"), offsets=np.array([0, 3, 4]), items=np.array([7, 8, 9, 6], np.int32),
        ...     times=np.array([1, 2, 2, 3]), labels=np.ones(4, np.int8),
        ... )
        >>> strictly_before(histories).tolist()
        [0, 1, 1, 3]
    """
    first = np.ones(len(histories.items), dtype=bool)
    owners = histories.owners
    first[1:] = (np.diff(owners) != 0) | (np.diff(histories.times) != 0)
    return np.maximum.accumulate(np.where(first, np.arange(len(first)), 0))
