"""Recommendations of a pre-trained run: beam search over codes, or dense retrieval by o_q, for chosen users."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from genrec_adapters.behaviour.histories import Histories
from genrec_adapters.knowledge import KnowledgeStore
from genrec_plugins.lum.batches import make_batch
from genrec_plugins.lum.config import SemanticIdObjective
from genrec_plugins.lum.data import fixed_conditions
from genrec_plugins.lum.dense_index import DenseIndex, IndexType
from genrec_plugins.training.reporter import Quiet, Reporter
from genrec_registry import ConfigError, DataError, ModelError

if TYPE_CHECKING:
    from genrec_plugins.lum.run import LumRun

Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]
Method = Literal["auto", "beam", "dense"]
#: users answered at once
USERS = 1024
#: ``(users [B], seen) -> rows of the catalogue and scores, [B, k]``, 0 and -inf where there is none
Answer = Callable[[Int64, "tuple[Int64, Int64] | None"], tuple[Int64, Float32]]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked for.

    Args:
        k: items a user.
        method: ``"beam"`` for runs with objective semantic-id, ``"dense"`` for the others, both where a semantic-id
            run has ``knowledge``; ``"auto"`` picks.
        conditions: under which the next item is asked for, ``{"action": "like"}``; those not named are unknown.
        exclude_seen: leave out items of the user's whole history.
        width: prefixes kept in beam search; the run's own if 0.
        index: of dense retrieval.
        store: a knowledge store of the run, whose vectors stand for the model's; for dense retrieval.
        query: which of the store's queries; may be left out if it has one.
    """

    k: int = 10
    method: Method = "auto"
    conditions: Mapping[str, str] | None = None
    exclude_seen: bool = False
    width: int = 0
    index: IndexType = "flat"
    store: Path | None = None
    query: str | None = None


def recommend(
    run: LumRun, request: Request, users: Sequence[str] | None = None, reporter: Reporter | None = None
) -> pl.DataFrame:
    """The k best next items of users, after all events that the run's dataset has of them.

    With a knowledge store it is the user's newest snapshot there that speaks, or the cold-start row.

    Args:
        run: a pre-trained run.
        request: what is asked for.
        users: their ids; all users if None.
        reporter: told of progress.

    Returns:
        ``user``, ``rank`` (from 1), ``item``, ``score``: the log-probability of the item's ID, or the similarity.

    Raises:
        ConfigError: the method does not go with the run, or a condition or query is unknown.
        DataError: a user is unknown.
        ModelError: the store is another model's.
    """
    method = method_of(run, request.method)
    ids = fixed_conditions(request.conditions or {}, run.vocabularies, "--condition")
    store = None if request.store is None else _open_store(run, request, method)
    histories = run.histories()
    chosen = chosen_users(histories, users)
    if store is not None:
        answer = _stored(run, store, histories, request)
    else:
        answer = (_beam if method == "beam" else _dense)(run, histories, request, ids)
    reporter = reporter or Quiet()
    items = np.array(run.catalogue.items.values, dtype=object)
    parts = [pl.DataFrame(schema={"user": pl.String, "rank": pl.Int32, "item": pl.String, "score": pl.Float32})]
    done = 0
    for part in _by_length(histories, chosen):
        rows, scores = answer(part, seen_items(histories, part) if request.exclude_seen else None)
        parts.append(as_table([histories.users[user] for user in part.tolist()], rows, scores, items))
        done += len(part)
        reporter.rows(stage=f"retrieving by {method}", rows=done, total=len(chosen))
    found = pl.concat(parts)
    order = pl.DataFrame({"user": [histories.users[user] for user in chosen.tolist()]}, schema={"user": pl.String})
    return order.join(found, on="user", how="inner", maintain_order="left_right")


def method_of(run: LumRun, method: Method) -> Literal["beam", "dense"]:
    """The method, if the run's objective has it; for ``"auto"`` the one that the objective is made for.

    Raises:
        ConfigError: the objective does not have it.
    """
    objective = run.run.config.objective
    able: tuple[Literal["beam", "dense"], ...] = ("dense",)
    if isinstance(objective, SemanticIdObjective):
        able = ("beam", "dense") if objective.knowledge else ("beam",)
    if method == "auto":
        return able[0]
    if method not in able:
        knows = " without knowledge" if able == ("beam",) else ""
        raise ConfigError(
            f"--method is {method}, but {run.directory} was trained with objective {objective.type}{knows}; expected "
            f"--method {able[0]}"
        )
    return method


def chosen_users(histories: Histories, users: Sequence[str] | None) -> Int64:
    """Indices of users, in the order they are named; each once.

    Raises:
        DataError: one has no events.
    """
    if users is None:
        return np.arange(len(histories.users))
    index = {user: at for at, user in enumerate(histories.users)}
    unknown = [user for user in users if user not in index]
    if unknown:
        raise DataError(
            f"{len(unknown):,} of {len(users):,} users have no events in the run's dataset, as '{unknown[0]}'; "
            f"expected users of the dataset, as '{histories.users[0]}'"
        )
    return np.array(list(dict.fromkeys(index[user] for user in users)), dtype=np.int64)


def seen_items(histories: Histories, users: Int64) -> tuple[Int64, Int64]:
    """``[S]`` positions in ``users [B]`` and ``[S]`` catalogue rows of all their events."""
    starts, stops = histories.offsets[users], histories.offsets[users + 1]
    lengths = stops - starts
    owners = np.repeat(np.arange(len(users)), lengths)
    places = np.arange(int(lengths.sum())) + np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
    return owners, histories.items[places].astype(np.int64)


def as_table(users: Sequence[str], rows: Int64, scores: Float32, items: npt.NDArray[np.object_]) -> pl.DataFrame:
    """``[B, k]`` answers to a row an item; empty places are left out.

    Args:
        users: ``[B]``.
        rows: ``[B, k]`` catalogue rows, 0 for an empty place.
        scores: ``[B, k]``.
        items: ids by catalogue row.

    Example::

        >>> as_table(["u"], np.array([[2, 0]]), np.array([[0.5, -np.inf]], np.float32), np.array(["", "a", "b"])).rows()
        [('u', 1, 'b', 0.5)]
    """
    user, column = np.nonzero(rows)
    return pl.DataFrame(
        {
            "user": pl.Series([users[at] for at in user.tolist()], dtype=pl.String),
            "rank": pl.Series(column + 1, dtype=pl.Int32),
            "item": pl.Series(items[rows[user, column]].tolist(), dtype=pl.String),
            "score": pl.Series(scores[user, column], dtype=pl.Float32),
        }
    )


def _by_length(histories: Histories, users: Int64) -> Iterator[Int64]:
    """Batches of users with histories of similar length."""
    order = users[np.argsort(histories.lengths[users], kind="stable")]
    for start in range(0, len(order), USERS):
        yield order[start : start + USERS]


def _asked(ids: Mapping[str, int], count: int, device: torch.device) -> dict[str, torch.Tensor]:
    return {name: torch.full((count,), value, dtype=torch.int64, device=device) for name, value in ids.items()}


def _beam(run: LumRun, histories: Histories, request: Request, ids: Mapping[str, int]) -> Answer:
    model: Any = run.model()
    device = next(model.parameters()).device

    def answer(users: Int64, seen: tuple[Int64, Int64] | None) -> tuple[Int64, Float32]:
        batch = make_batch(histories, users, run.facts.max_length).to(device)
        barred = None if seen is None else tuple(torch.from_numpy(part).to(device) for part in seen)
        asked = _asked(ids, len(users), device)
        found = model.retrieve(batch, request.k, seen=barred, conditions=asked, width=request.width)
        return found.items.cpu().numpy(), found.scores.cpu().numpy()

    return answer


@torch.no_grad()
def _dense(run: LumRun, histories: Histories, request: Request, ids: Mapping[str, int]) -> Answer:
    model: Any = run.model()
    device = next(model.parameters()).device
    index = _index(model.catalogue_vectors()[1:].float().cpu().numpy(), request)

    @torch.no_grad()
    def answer(users: Int64, seen: tuple[Int64, Int64] | None) -> tuple[Int64, Float32]:
        batch = make_batch(histories, users, run.facts.max_length).to(device)
        rows = torch.arange(len(users), device=device)
        queries = model.answers(batch, rows, batch.lengths, _asked(ids, len(users), device))
        return index.search(queries.float().cpu().numpy(), request.k, exclude=seen)

    return answer


def _stored(run: LumRun, store: KnowledgeStore, histories: Histories, request: Request) -> Answer:
    query = _query_of(store, request)
    index = _index(store.item_vectors(store.item_rows(run.catalogue.items.values[1:])), request)

    def answer(users: Int64, seen: tuple[Int64, Int64] | None) -> tuple[Int64, Float32]:
        rows = store.user_rows([histories.users[user] for user in users.tolist()], np.full(len(users), np.inf))
        return index.search(store.query_vectors(query, rows), request.k, exclude=seen)

    return answer


def _index(vectors: Float32, request: Request) -> DenseIndex:
    """An index of all items; row 0 of the catalogue, the unknown item, is not among them."""
    return DenseIndex(vectors, rows=np.arange(1, len(vectors) + 1), kind=request.index)


def _open_store(run: LumRun, request: Request, method: str) -> KnowledgeStore:
    if method == "beam":
        raise ConfigError(f"--store goes with dense retrieval, but {run.directory} generates codes; leave --store out")
    if request.conditions:
        raise ConfigError(
            "--condition does not go with --store, whose queries have theirs; name one of them by --query"
        )
    store = KnowledgeStore.open(request.store or "")
    if store.facts.model != run.digest:
        raise ModelError(
            f"{store.directory}: was written by model {store.facts.model[:16]}.., but {run.directory} holds model "
            f"{run.digest[:16]}..; run 'genrec lum query' again"
        )
    return store


def _query_of(store: KnowledgeStore, request: Request) -> str:
    queries = store.facts.queries
    if request.query is None and len(queries) == 1:
        return queries[0]
    if request.query not in queries:
        found = "is missing" if request.query is None else f"is '{request.query}'"
        raise ConfigError(f"--query {found}; {store.directory} has the queries {', '.join(queries)}")
    return request.query
