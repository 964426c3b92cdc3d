"""Knowledge querying: ask a pre-trained model the same questions about every user (lum.md, step 2).

A group query computes a user's history once and lets all queries of all snapshots share it; none sees another. What
comes out is a knowledge store: user x snapshot x query -> vector, with the model's digest and the time of the last
event that each snapshot saw.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch import Tensor

from genrec_adapters.behaviour.histories import Histories, Vocabulary
from genrec_adapters.knowledge import KnowledgeFacts, KnowledgeStore
from genrec_plugins.lum.batches import slice_batch
from genrec_plugins.lum.data import fixed_conditions
from genrec_plugins.lum.infonce import InfoNCEModel
from genrec_plugins.lum.knowing import KnowingLum
from genrec_plugins.lum.run import LumRun
from genrec_plugins.lum.snapshots import Snapshots, every_snapshot, last_snapshots
from genrec_plugins.training.reporter import Quiet, Reporter
from genrec_registry import ConfigError, ModelError

#: values a single condition may have to be asked for without being told
MAX_DEFAULT = 8


@dataclass(frozen=True, kw_only=True)
class Query:
    """One question: its name, and the condition ids it is asked under.

    Args:
        name: names the column of the store.
        conditions: ids by condition; unknown is 0.
    """

    name: str
    conditions: Mapping[str, int]


def parse_queries(texts: Sequence[str], vocabularies: Mapping[str, Vocabulary]) -> tuple[Query, ...]:
    """Queries as the command line has them: ``NAME:CONDITION=VALUE,...``; ``NAME`` alone leaves conditions unknown.

    Args:
        texts: each query; none asks once for each value of a single condition, or once under no condition.
        vocabularies: the run's conditions.

    Raises:
        ConfigError: a query is not of that form, names what is not there, or a name comes twice.

    Example::

        >>> known = {"action": Vocabulary.of(["like", "dislike"])}
        >>> [(query.name, dict(query.conditions)) for query in parse_queries(["likes:action=like", "any"], known)]
        [('likes', {'action': 2}), ('any', {'action': 0})]
        >>> [query.name for query in parse_queries([], known)]
        ['dislike', 'like']
    """
    if not texts:
        texts = _default_queries(vocabularies)
    queries = []
    for text in texts:
        name, _, conditions = text.partition(":")
        pairs = [pair.partition("=") for pair in conditions.split(",") if pair]
        if not name or not all(key and equals for key, equals, _ in pairs):
            raise ConfigError(f"--query {text}: expected NAME:CONDITION=VALUE, as like:action=like")
        wanted = {key.strip(): value.strip() for key, _, value in pairs}
        queries.append(Query(name=name.strip(), conditions=fixed_conditions(wanted, vocabularies, f"--query {text}")))
    names = [query.name for query in queries]
    if len(set(names)) < len(names):
        raise ConfigError(f"--query: the names {', '.join(names)} are not all different; rename one")
    return tuple(queries)


def _default_queries(vocabularies: Mapping[str, Vocabulary]) -> list[str]:
    if not vocabularies:
        return ["any"]
    if len(vocabularies) == 1:
        ((name, vocabulary),) = vocabularies.items()
        if len(vocabulary) - 1 <= MAX_DEFAULT:
            return [f"{value}:{name}={value}" for value in vocabulary.values[1:]]
    raise ConfigError(
        f"--query is missing, and the run has the conditions {', '.join(vocabularies)}, which are too many to ask all; "
        "name queries, as --query like:action=like"
    )


def unlearned(queries: Sequence[Query], histories: Histories) -> list[str]:
    """What to tell of queries that leave a condition unknown where every event has one: nothing was learned of that."""
    return [
        f"query '{query.name}' leaves the condition '{name}' unknown, which no event does: what it asks was never "
        f"learned; name a value, as --query {query.name}:{name}=VALUE"
        for query in queries
        for name, value in query.conditions.items()
        if value == 0 and not bool((histories.conditions[name] == 0).any())
    ]


class Querier:
    """Asks one model a group of queries.

    Args:
        model: the pre-trained model, in eval mode.
        queries: Q questions.
        device: where the model is.
    """

    def __init__(self, model: InfoNCEModel | KnowingLum, queries: Sequence[Query], device: torch.device) -> None:
        self.model = model
        self.queries = tuple(queries)
        self.device = device

    @torch.no_grad()
    def ask(self, histories: Histories, snapshots: Snapshots) -> npt.NDArray[np.float32]:
        """Answers ``[S, Q, D]`` at snapshots, all queries in one pass over their rows."""
        number = len(self.queries)
        batch = slice_batch(histories, snapshots.users, snapshots.starts, snapshots.stops).to(self.device)
        places = (snapshots.row, snapshots.prefix)
        row, prefix = (torch.from_numpy(x).repeat_interleave(number).to(self.device) for x in places)
        conditions = self._conditions(len(snapshots))
        answers = self.model.answers(batch, row, prefix, conditions)
        return answers.unflatten(0, (-1, number)).float().cpu().numpy()

    def _conditions(self, count: int) -> dict[str, Tensor]:
        """``[S * Q]`` ids by condition, the queries of a snapshot beside each other."""
        names = self.queries[0].conditions
        return {
            name: torch.tensor([query.conditions[name] for query in self.queries], device=self.device).repeat(count)
            for name in names
        }

    def cold(self, histories: Histories) -> npt.NDArray[np.float32]:
        """Answers ``[Q, D]`` about a user without events."""
        zero = np.zeros(1, dtype=np.int64)
        nothing = Snapshots(users=zero, starts=zero, stops=zero, row=zero, prefix=zero, times=zero)
        return self.ask(histories, nothing)[0]


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


def query_run(
    run: LumRun,
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
        run: the pre-training run.
        out: directory of the store; an older store there is replaced.
        queries: as for :func:`parse_queries`.
        snapshots: a user's state after the last event only, or also the empty history and after every event.
        until: only events strictly before this time are seen; all if None.
        stride: see :func:`~genrec_plugins.lum.snapshots.every_snapshot`; a quarter of the longest history if None.
        max_events: events and queries of a pass, which bounds memory.
        reporter: told of progress.

    Raises:
        ModelError: the run is not finished, or its objective answers no queries.
    """
    began = time.perf_counter()
    querier = make_querier(run, queries)
    histories = before(run.histories(), until)
    reporter = reporter or Quiet()
    for warning in unlearned(querier.queries, histories):
        reporter.message(warning)
    longest = run.run.config.max_length
    asked = plan(histories, snapshots, longest, stride or max(longest // 4, 1))
    names = tuple(query.name for query in querier.queries)
    model = querier.model
    facts = KnowledgeFacts(
        model=run.digest,
        trained_until=run.trained_until,
        queries=names,
        dim=run.facts.embedding_dim,
        similarity="cosine" if run.facts.similarity == "cosine" else "dot",
        temperature=float(model.temperature),
    )
    frames = _frames(querier, histories, asked, names, snapshots == "every-event", max_events, reporter)
    store = KnowledgeStore.write(out, frames, item_frame(run, model), facts)
    return Queried(
        store=store,
        users=len(np.unique(asked.users)),
        snapshots=len(asked),
        queries=names,
        seconds=time.perf_counter() - began,
    )


def make_querier(run: LumRun, queries: Sequence[str] = ()) -> Querier:
    """The run's model with queries to ask.

    Raises:
        ModelError: the run is not finished, or its objective answers no queries.
    """
    from genrec_plugins.training.trainer import pick_device

    if not run.digest:
        raise ModelError(f"{run.directory}: pre-training is not finished; run 'genrec lum pretrain' again to go on")

    parsed = parse_queries(queries, run.vocabularies)
    model = run.model()
    if not isinstance(model, (InfoNCEModel, KnowingLum)):
        raise ModelError(
            f"{run.directory}: was pre-trained with objective '{run.run.config.objective.type}' and knowledge 0, which "
            "has no state to ask for; query a run of objective info-nce, or train with objective.knowledge above 0"
        )
    return Querier(model, parsed, pick_device(run.run.config.train.device))


@torch.no_grad()
def item_frame(run: LumRun, model: InfoNCEModel | KnowingLum) -> pl.DataFrame:
    """The catalogue's items and their vectors, without the unknown item."""
    vectors = model.catalogue_vectors()[1:].float().cpu().numpy()
    column = pl.Series("vector", vectors, dtype=pl.Array(pl.Float32, vectors.shape[1]))
    return pl.DataFrame({"item": pl.Series(run.catalogue.items.values[1:], dtype=pl.String), "vector": column})


def _frames(
    querier: Querier,
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
