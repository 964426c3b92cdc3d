"""What a group query saves: the same answers from passes that share nothing, timed beside it."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from genrec_adapters.behaviour.histories import Histories
from genrec_plugins.lum.querier import Querier, make_querier
from genrec_plugins.lum.query import before, plan
from genrec_plugins.lum.run import LumRun
from genrec_plugins.lum.snapshots import Snapshots


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A group query beside separate passes.

    Args:
        snapshots: how many were asked about.
        queries: how many were asked at each.
        group_seconds: all snapshots and queries of a history in one pass.
        separate_seconds: a pass over the seen prefix for each snapshot and query.
        max_difference: largest absolute difference of the answers.
    """

    snapshots: int
    queries: int
    group_seconds: float
    separate_seconds: float
    max_difference: float

    @property
    def speed_up(self) -> float:
        """How many times faster the group query was."""
        return self.separate_seconds / self.group_seconds


def measure_run(
    run: LumRun,
    queries: Sequence[str] = (),
    *,
    snapshots: Literal["last", "every-event"] = "last",
    until: int | None = None,
    stride: int | None = None,
    max_events: int = 16384,
) -> Measured:
    """:func:`measure` on a run's own users; see :func:`~genrec_plugins.lum.query.query_run` for the arguments."""
    querier = make_querier(run, queries)
    histories = before(run.histories(), until)
    longest = run.run.config.max_length
    asked = plan(histories, snapshots, longest, stride or max(longest // 4, 1))
    return measure(querier, histories, asked, max_events=max_events)


def measure(
    querier: Querier, histories: Histories, asked: Snapshots, *, max_events: int = 16384, budget: int = 500_000
) -> Measured:
    """Time a group query and separate passes on the same snapshots, each twice, the better of the two.

    Separate passes are batched by the same budget of events, so that they lose nothing but the sharing.

    Args:
        querier: model and queries.
        histories: all events.
        asked: snapshots; the first rows of them whose separate passes read ``budget`` events in all are timed.
        max_events: events and queries of a pass.
        budget: see ``asked``.
    """
    sample = _first(asked, budget, len(querier.queries))
    one_by_one = [Querier(querier.model, [query], querier.device) for query in querier.queries]

    def group() -> np.ndarray:
        parts = sample.parts(max_events, len(querier.queries))
        return np.concatenate([querier.ask(histories, part) for part in parts])

    def separate() -> np.ndarray:
        alone = sample.alone()
        answers = [
            np.concatenate([single.ask(histories, part) for part in alone.parts(max_events, 1)])
            for single in one_by_one
        ]
        return np.concatenate(answers, axis=1)

    group_seconds, shared = _best(group)
    separate_seconds, apart = _best(separate)
    return Measured(
        snapshots=len(sample),
        queries=len(querier.queries),
        group_seconds=group_seconds,
        separate_seconds=separate_seconds,
        max_difference=float(np.abs(shared - apart).max()),
    )


def _best(work: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    best, answers = float("inf"), np.empty(0)
    for _ in range(2):
        began = time.perf_counter()
        answers = work()
        best = min(best, time.perf_counter() - began)
    return best, answers


def _first(asked: Snapshots, budget: int, queries: int) -> Snapshots:
    """The first rows, as far as the events of all their prefixes, once for each query, stay within the budget."""
    events = np.cumsum(np.bincount(asked.row, weights=asked.prefix, minlength=len(asked.users))) * queries
    rows = max(int(np.searchsorted(events, budget, side="right")), 1)
    chosen = asked.row < rows
    return Snapshots(
        users=asked.users[:rows],
        starts=asked.starts[:rows],
        stops=asked.stops[:rows],
        row=asked.row[chosen],
        prefix=asked.prefix[chosen],
        times=asked.times[chosen],
    )
