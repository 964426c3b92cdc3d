"""Several pre-training runs asked as one: their answers side by side, so that similarities are means.

With cosine similarity every vector is brought to length 1 first; then the cosine of two joined vectors is the mean of
the runs' cosines, and the store and its readers need not know how many runs there were.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from genrec_adapters.behaviour.histories import Histories
from genrec_adapters.knowledge import KnowledgeFacts
from genrec_plugins.lum.querier import Querier, Query, catalogue_vectors, make_querier
from genrec_plugins.lum.run import LumRun
from genrec_plugins.lum.snapshots import Snapshots
from genrec_registry import ConfigError

Floats = npt.NDArray[np.float32]


def joined(vectors: Sequence[Floats], similarity: str) -> Floats:
    """The runs' vectors side by side, ``[..., D_1 + D_2 + ...]``; a single run's are left as they are.

    Args:
        vectors: ``[..., D]`` of each run.
        similarity: what they are compared by.

    Example::

        >>> left, right = np.array([[2.0, 0.0]], np.float32), np.array([[0.0, 3.0]], np.float32)
        >>> joined([left, right], "cosine").tolist(), joined([left], "cosine").tolist()
        ([[1.0, 0.0, 0.0, 1.0]], [[2.0, 0.0]])
    """
    if len(vectors) == 1:
        return vectors[0]
    if similarity == "cosine":
        vectors = [vector / np.maximum(np.linalg.norm(vector, axis=-1, keepdims=True), 1e-12) for vector in vectors]
    return np.concatenate(vectors, axis=-1)


class Committee:
    """One or more runs over the same items and conditions.

    Args:
        runs: finished runs.
        queries: as for :func:`~genrec_plugins.lum.query.parse_queries`.

    Raises:
        ConfigError: the runs know different items or conditions, or compare differently.
        ModelError: a run is not finished, or its objective answers no queries.
    """

    def __init__(self, runs: Sequence[LumRun], queries: Sequence[str] = ()) -> None:
        first, *others = runs
        for other in others:
            for what, ours, theirs in (
                ("items", first.catalogue.items, other.catalogue.items),
                ("conditions", dict(first.vocabularies), dict(other.vocabularies)),
                ("similarity", first.facts.similarity, other.facts.similarity),
            ):
                if ours != theirs:
                    raise ConfigError(
                        f"{first.directory} and {other.directory} have other {what}; expected runs of the same "
                        "dataset, items and conditions to be asked together; make a store of each"
                    )
        self.runs = tuple(runs)
        self.similarity = first.facts.similarity
        self.queriers: list[Querier] = [make_querier(run, queries) for run in runs]

    @property
    def queries(self) -> tuple[Query, ...]:
        """What is asked."""
        return self.queriers[0].queries

    def _all(self, of: Callable[[Querier], Floats]) -> Floats:
        return joined([of(querier) for querier in self.queriers], self.similarity)

    def ask(self, histories: Histories, snapshots: Snapshots) -> Floats:
        """Answers ``[S, Q, sum D]``; see :meth:`Querier.ask`."""
        return self._all(lambda querier: querier.ask(histories, snapshots))

    def cold(self, histories: Histories) -> Floats:
        """Answers ``[Q, sum D]`` about a user without events."""
        return self._all(lambda querier: querier.cold(histories))

    def item_frame(self) -> pl.DataFrame:
        """The catalogue's items and their vectors, without the unknown item."""
        vectors = self._all(lambda querier: catalogue_vectors(querier.model)[1:])
        column = pl.Series("vector", vectors, dtype=pl.Array(pl.Float32, vectors.shape[1]))
        items = self.runs[0].catalogue.items.values[1:]
        return pl.DataFrame({"item": pl.Series(items, dtype=pl.String), "vector": column})

    def facts(self) -> KnowledgeFacts:
        """What the store says of the runs."""
        digests = [run.digest for run in self.runs]
        return KnowledgeFacts(
            model=digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest(),
            trained_until=max(run.trained_until for run in self.runs),
            queries=tuple(query.name for query in self.queries),
            dim=sum(run.facts.embedding_dim for run in self.runs),
            similarity="cosine" if self.similarity == "cosine" else "dot",
            temperature=float(np.mean([float(querier.model.temperature) for querier in self.queriers])),
        )
