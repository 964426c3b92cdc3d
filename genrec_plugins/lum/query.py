"""Knowledge querying: ask a pre-trained model the same questions about every user (lum.md, step 2).

A group query computes a user's history once and lets all queries of all snapshots share it; none sees another. What
comes out is a knowledge store: user x snapshot x query -> vector, with the model's digest and the time of the last
event that each snapshot saw.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import polars as pl

from genrec_adapters.behaviour.histories import Histories
from genrec_adapters.knowledge import KnowledgeStore
from genrec_plugins.lum.committee import Committee
from genrec_plugins.lum.querier import unlearned
from genrec_plugins.lum.run import LumRun
from genrec_plugins.lum.snapshots import Snapshots, every_snapshot, last_snapshots
from genrec_plugins.training.reporter import Quiet, Reporter


def before(histories: Histories, until: int | None) -> Histories:
    """The events strictly before ``until``; all if None."""
    return histories if until is None else histories.select(histories.times < until)


def plan(histories: Histories, which: Literal["last", "every-event"], max_length: int, stride: int) -> Snapshots:
    """The snapshots of all users; see :mod:`genrec_plugins.lum.snapshots`."""
    if which == "last":
        return last_snapshots(histories, max_length)
    return every_snapshot(histories, max_length, stride)


@dataclass(frozen=True, kw_only=True)
class Queried:
    """What a query run wrote.

    Args:
        store: the knowledge store.
        users: users with a snapshot.
        snapshots: snapshots of users, without those of empty histories.
        queries: names of the queries.
        seconds: of asking and writing.
    """

    store: KnowledgeStore
    users: int
    snapshots: int
    queries: tuple[str, ...]
    seconds: float


class Asks(Protocol):
    """One model or several, asked the same queries."""

    def ask(self, histories: Histories, snapshots: Snapshots) -> npt.NDArray[np.float32]:
        """Answers ``[S, Q, D]``."""

    def cold(self, histories: Histories) -> npt.NDArray[np.float32]:
        """Answers ``[Q, D]`` about a user without events."""


def query_run(
    run: LumRun | Sequence[LumRun],
    out: str | Path,
    queries: Sequence[str] = (),
    *,
    snapshots: Literal["last", "every-event"] = "last",
    until: int | None = None,
    stride: int | None = None,
    max_events: int = 16384,
    reporter: Reporter | None = None,
) -> Queried:
    """Ask a run's model about every user of its dataset, and write a knowledge store.

    Args:
        run: the pre-training run; several, of the same items and conditions, answer side by side (see
            :mod:`genrec_plugins.lum.committee`).
        out: directory of the store; an older store there is replaced.
        queries: as for :func:`parse_queries`.
        snapshots: a user's state after the last event only, or also the empty history and after every event.
        until: only events strictly before this time are seen; all if None.
        stride: see :func:`~genrec_plugins.lum.snapshots.every_snapshot`; a quarter of the longest history if None.
        max_events: events and queries of a pass, which bounds memory.
        reporter: told of progress.

    Raises:
        ConfigError: several runs do not go together.
        ModelError: the run is not finished, or its objective answers no queries.
    """
    began = time.perf_counter()
    runs = (run,) if isinstance(run, LumRun) else tuple(run)
    committee = Committee(runs, queries)
    histories = before(runs[0].histories(), until)
    reporter = reporter or Quiet()
    for warning in unlearned(committee.queries, histories):
        reporter.message(warning)
    longest = min(one.run.config.max_length for one in runs)
    asked = plan(histories, snapshots, longest, stride or max(longest // 4, 1))
    facts = committee.facts()
    names = facts.queries
    frames = _frames(committee, histories, asked, names, snapshots == "every-event", max_events, reporter)
    store = KnowledgeStore.write(out, frames, committee.item_frame(), facts)
    return Queried(
        store=store,
        users=len(np.unique(asked.users)),
        snapshots=len(asked),
        queries=names,
        seconds=time.perf_counter() - began,
    )


def _frames(
    querier: Asks,
    histories: Histories,
    asked: Snapshots,
    names: Sequence[str],
    empty: bool,
    max_events: int,
    reporter: Reporter,
) -> Iterator[pl.DataFrame]:
    """Rows of the store: the cold-start row, then users with, where ``empty``, their empty history first."""
    cold = querier.cold(histories)
    yield _frame([None], [None], cold[None], names)
    done, previous = 0, -1
    for part in asked.parts(max_events, len(names)):
        answers = querier.ask(histories, part)
        users = part.users[part.row]
        times: list[Any] = part.times.tolist()
        if empty:
            new = np.flatnonzero(np.diff(users, prepend=previous) != 0)
            answers = np.insert(answers, new, cold, axis=0)
            for offset, place in enumerate(new.tolist()):
                times.insert(place + offset, None)
            users = np.insert(users, new, users[new])
        previous = int(users[-1])
        yield _frame([histories.users[user] for user in users.tolist()], times, answers, names)
        done += len(part)
        reporter.rows(stage="querying", rows=done, total=len(asked))


def _frame(
    users: Sequence[str | None], times: Sequence[int | None], answers: npt.NDArray[np.float32], names: Sequence[str]
) -> pl.DataFrame:
    columns: dict[str, Any] = {
        "user": pl.Series(users, dtype=pl.String),
        "last_event": pl.Series(times, dtype=pl.Int64),
    }
    vector = pl.Array(pl.Float32, answers.shape[2])
    columns |= {name: pl.Series(answers[:, index], dtype=vector) for index, name in enumerate(names)}
    return pl.DataFrame(columns)
