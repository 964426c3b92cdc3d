"""Asking one pre-trained model: what a query is, and the answers to a group of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from genrec_adapters.behaviour.histories import Histories, Vocabulary
from genrec_plugins.lum.batches import slice_batch
from genrec_plugins.lum.data import fixed_conditions
from genrec_plugins.lum.infonce import InfoNCEModel
from genrec_plugins.lum.knowing import KnowingLum
from genrec_plugins.lum.run import LumRun
from genrec_plugins.lum.snapshots import Snapshots
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
def catalogue_vectors(model: InfoNCEModel | KnowingLum) -> npt.NDArray[np.float32]:
    """Vectors of the catalogue's items, ``[N, D]``, the unknown item first."""
    return model.catalogue_vectors().float().cpu().numpy()
