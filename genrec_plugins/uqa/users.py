"""User vectors of questions: from a pre-trained sequence encoder, or from a knowledge store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from genrec_plugins.uqa.config import EncoderUsers, StoreUsers
from genrec_plugins.uqa.data import Question, histories_of
from genrec_registry import ConfigError, DataError


class UserVectors(nn.Module):
    """Vectors ``[B, vectors, width]`` of the users that questions are about.

    Subclasses set ``vectors`` and ``width`` and give :meth:`forward`.
    """

    vectors: int
    width: int
    #: path and digest of what the vectors come from
    source: str
    digest: str

    def forward(self, questions: Sequence[Question]) -> Tensor:
        """Vectors of the users of B questions, ``[B, vectors, width]``."""
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        """Where the vectors are."""
        return torch.device("cpu")


class EncoderVectors(UserVectors):
    """A pre-trained encoder reads each question's history.

    Args:
        config: which run, and how its encoder is asked.

    Raises:
        DataError: it is no pre-training run.
        ConfigError: its objective has no vectors, or a query names an unknown condition.
    """

    def __init__(self, config: EncoderUsers) -> None:
        super().__init__()
        from genrec_plugins.lum.data import fixed_conditions
        from genrec_plugins.lum.infonce import InfoNCEModel
        from genrec_plugins.lum.run import LumRun

        self.config = config
        self.run = LumRun.open(config.run)
        model: Any = self.run.model()
        if not isinstance(model, InfoNCEModel):
            raise ConfigError(
                f"users.run: {config.run} was pre-trained with objective '{self.run.run.config.objective.type}', which "
                "gives no user vectors; name one of objective 'info-nce'"
            )
        self.model = model
        self.model.requires_grad_(config.tune)
        self.source, self.digest = config.run, self.run.digest
        self.width = self.run.facts.embedding_dim
        self.queries = [
            fixed_conditions(query, self.run.vocabularies, f"users.queries.{number}")
            for number, query in enumerate(config.queries)
        ]
        views = {"answers": len(self.queries), "tokens": int(model.encoder.num_user_tokens), "states": 1}
        self.vectors = views[config.view]

    @property
    def device(self) -> torch.device:
        """Of the tables."""
        weight: Tensor = self.model.item_tables.embeddings["item"].weight
        return weight.device

    def forward(self, questions: Sequence[Question]) -> Tensor:
        """See :class:`UserVectors`; a question without history has the vectors of an empty one."""
        from genrec_plugins.lum.batches import make_batch

        histories = histories_of(list(questions), self.run.catalogue.items, self.run.vocabularies)
        rows = np.arange(len(questions), dtype=np.int64)
        batch = make_batch(histories, rows, self.run.facts.max_length).to(self.device)
        with torch.set_grad_enabled(self.config.tune and torch.is_grad_enabled()):
            if self.config.view == "tokens":
                target = {
                    name: torch.zeros(len(rows), self.run.facts.feature_dim, device=self.device)
                    for name in self.run.facts.item_features
                }
                tokens: Tensor = self.model.encoder(self.model.events(batch), target)
                return tokens
            answers = self._answers(batch)
            return answers if self.config.view == "answers" else self._mean_state(batch, answers[:, 0])

    def _answers(self, batch: Any) -> Tensor:
        """``[B, Q, D]``."""
        count, asked = len(batch.lengths), len(self.queries)
        row = torch.arange(count, device=self.device).repeat_interleave(asked)
        conditions = {
            name: torch.tensor([query[name] for query in self.queries], device=self.device).repeat(count)
            for name in self.run.vocabularies
        }
        return self.model.answers(batch, row, batch.lengths[row], conditions).unflatten(0, (count, asked))

    def _mean_state(self, batch: Any, last: Tensor) -> Tensor:
        """``[B, 1, D]``: the mean of the state before each event and of the answer after the last one."""
        states = self.model.encoder.states(self.model.events(batch))
        if self.run.facts.similarity == "cosine":  # as the answers are
            states = nn.functional.normalize(states, dim=-1)
        total = last.index_add(0, batch.owners, states.to(last.dtype))
        mean: Tensor = total / (batch.lengths + 1).unsqueeze(1)
        return mean.unsqueeze(1)


class StoreVectors(UserVectors):
    """Vectors that stand in a knowledge store: one for each of its queries, of the question's user.

    A question with a time has the newest snapshot made from events before it, any other the newest there is; an
    unknown user has the cold-start row.

    Args:
        config: which store.

    Raises:
        DataError: it is none.
    """

    def __init__(self, config: StoreUsers) -> None:
        super().__init__()
        from genrec_adapters.knowledge import KnowledgeStore

        self.store = KnowledgeStore.open(config.path)
        self.source = config.path
        self.digest = self.store.digest
        self.width = self.store.facts.dim
        self.vectors = len(self.store.facts.queries)

    def forward(self, questions: Sequence[Question]) -> Tensor:
        """See :class:`UserVectors`.

        Raises:
            DataError: a question has no user, or lies before all that is known of its user.
        """
        nameless = next((question for question in questions if not question.user), None)
        if nameless is not None:
            raise DataError(f"question {nameless.text[:40]!r} has no 'user', by whom a store is looked up")
        times = [float("inf") if question.time is None else question.time for question in questions]
        rows = self.store.user_rows([question.user for question in questions], times)
        vectors = [self.store.query_vectors(query, rows) for query in self.store.facts.queries]
        return torch.from_numpy(np.stack(vectors, axis=1))


def user_vectors(config: EncoderUsers | StoreUsers) -> UserVectors:
    """What the ``users`` section asks for.

    Raises:
        DataError: run or store cannot be read.
    """
    return EncoderVectors(config) if isinstance(config, EncoderUsers) else StoreVectors(config)
