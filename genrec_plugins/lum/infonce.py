"""Next-condition-item prediction by InfoNCE: tables, a sequence encoder, and the loss on its states."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchrec import JaggedTensor, KeyedJaggedTensor
from torchrec.modules.embedding_configs import EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingCollection

from genrec_adapters.behaviour.histories import Catalogue
from genrec_plugins.lum.batches import SequenceBatch
from genrec_plugins.lum.config import InfoNCEObjective
from genrec_plugins.lum.contrast import questions
from genrec_plugins.lum.negatives import NegativeSampler
from genrec_plugins.lum.rivals import rival_loss, rival_mask
from genrec_plugins.module_names import module_name

#: catalogue rows whose vectors are computed at once
ROWS = 65536


def _tables(sizes: Mapping[str, int], width: int, std: float) -> EmbeddingCollection:
    def draw(weight: Tensor) -> None:
        nn.init.normal_(weight, std=std)

    return EmbeddingCollection(
        tables=[
            EmbeddingConfig(
                name=module_name(name), num_embeddings=rows, embedding_dim=width, feature_names=[name], init_fn=draw
            )
            for name, rows in sizes.items()
        ]
    )


def _look_up(tables: EmbeddingCollection, ids: Mapping[str, Tensor], offsets: Tensor) -> dict[str, JaggedTensor]:
    """Embeddings of events: ``[T]`` ids of each feature to jagged tensors with the batch's offsets."""
    lengths = torch.diff(offsets)
    features = KeyedJaggedTensor(
        keys=list(ids), values=torch.cat(list(ids.values())), lengths=lengths.repeat(len(ids)).to(torch.int64)
    )
    found = tables(features)
    return {name: JaggedTensor(found[name].values(), lengths=lengths, offsets=offsets) for name in ids}


class InfoNCEModel(nn.Module):
    """A sequence encoder that is pre-trained to tell the next item from others.

    ``L = -log exp(sim(o_l, e_l) / tau) / (exp(sim(o_l, e_l) / tau) + sum_neg exp(sim(o_l, e_neg) / tau))`` for each
    event l, where o is the encoder's state (in LUM: the output at the condition token, never at the item token), e an
    item vector. Source: arXiv 2502.08309, step 1.

    Weights: ``item_tables.embeddings.FEATURE.weight`` (``item`` is the item's own id; rows are catalogue rows and
    feature ids, 0 is unknown), ``condition_tables.embeddings.CONDITION.weight``, ``encoder.*``, and
    ``log_temperature`` where it is learned.

    Args:
        encoder: a module with the contract of :class:`~genrec_registry.contracts.EncoderContext`, ``"next-item"``.
        catalogue: the items and the ids of their features.
        condition_sizes: ids of each condition.
        objective: similarity, temperature, negatives.
        feature_dim: E, width of every table.
        counts: ``[N]`` training events of each catalogue row.
        table_init_std: tables begin at N(0, std).

    Example::

        >>> import numpy as np
        >>> from genrec_adapters.behaviour.histories import Vocabulary
        >>> from genrec_plugins.encoders.configs import LumConfig
        >>> from genrec_plugins.encoders.lum import Lum
        >>> from genrec_registry import EncoderContext
        >>> context = EncoderContext(embedding_dim=4, feature_dim=6, max_length=9, item_features=("item",))
        >>> model = InfoNCEModel(
        ...     Lum(LumConfig(hidden=8), context), Catalogue(items=Vocabulary.of(["a", "b", "c"])), {},
        ...     InfoNCEObjective(), feature_dim=6, counts=torch.tensor([0, 2, 1, 1]),
        ... ).eval()
        >>> batch = SequenceBatch(
        ...     users=torch.tensor([0, 1]), offsets=torch.tensor([0, 2, 3]), items=torch.tensor([1, 3, 2]),
        ...     conditions={}, times=torch.zeros(3, dtype=torch.int64),
        ... )
        >>> model.loss(batch).ndim, model.recommend(batch, k=2).shape
        (0, torch.Size([2, 2]))
    """

    def __init__(
        self,
        encoder: Any,
        catalogue: Catalogue,
        condition_sizes: Mapping[str, int],
        objective: InfoNCEObjective,
        *,
        feature_dim: int,
        counts: Tensor,
        table_init_std: float = 0.02,
    ) -> None:
        super().__init__()
        self.objective = objective
        self.encoder = encoder
        self.item_tables = _tables(catalogue.all_sizes(), feature_dim, table_init_std)
        self.condition_tables = _tables(condition_sizes, feature_dim, table_init_std) if condition_sizes else None
        self.conditions = tuple(condition_sizes)
        self.log_temperature = nn.Parameter(torch.empty(())) if objective.learn_temperature else None
        self.sampler = NegativeSampler(objective.negatives, counts)
        # Facts of the data, not parameters: plain tensors, which a meta-device build leaves alone.
        self._features = {name: torch.tensor(ids, dtype=torch.int64) for name, ids in catalogue.all_features().items()}
        self.num_items = len(catalogue)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the learned temperature to where it begins; tables and encoder draw their own."""
        if self.log_temperature is not None:
            nn.init.constant_(self.log_temperature, torch.tensor(self.objective.temperature).log().item())

    @property
    def temperature(self) -> Tensor | float:
        """tau; a learned one stays above 0.005, where logits of cosines still fit a softmax."""
        if self.log_temperature is None:
            return self.objective.temperature
        return self.log_temperature.exp().clamp(min=0.005)

    # -- look-ups --

    def _item_ids(self, rows: Tensor) -> dict[str, Tensor]:
        if self._features["item"].device != rows.device:
            self._features = {name: ids.to(rows.device) for name, ids in self._features.items()}
        return {name: ids[rows] for name, ids in self._features.items()}

    def events(self, batch: SequenceBatch) -> dict[str, JaggedTensor]:
        """What the encoder reads of a batch: item features and conditions, ``[T, E]`` each."""
        found = _look_up(self.item_tables, self._item_ids(batch.items), batch.offsets)
        if self.condition_tables is not None:
            ids = {name: batch.conditions[name] for name in self.conditions}
            found |= _look_up(self.condition_tables, ids, batch.offsets)
        return found

    def _condition_embeddings(self, conditions: Mapping[str, Tensor] | None, count: int) -> dict[str, Tensor]:
        """``[M, E]`` of the ids ``[M]`` of each condition; unknown where a condition is not given."""
        if self.condition_tables is None:
            return {}
        device = self.item_tables.embeddings["item"].weight.device
        given = conditions or {}
        ids = {
            name: given[name] if name in given else torch.zeros(count, dtype=torch.int64, device=device)
            for name in self.conditions
        }
        offsets = torch.arange(count + 1, device=device)
        return {name: jagged.values() for name, jagged in _look_up(self.condition_tables, ids, offsets).items()}

    def item_vectors(self, rows: Tensor) -> Tensor:
        """Vectors ``[M, D]`` of catalogue rows ``[M]``, of length 1 where the similarity is cosine."""
        offsets = torch.arange(len(rows) + 1, device=rows.device)
        found = _look_up(self.item_tables, self._item_ids(rows), offsets)
        return self._comparable(self.encoder.item_vectors({name: jagged.values() for name, jagged in found.items()}))

    def catalogue_vectors(self) -> Tensor:
        """Vectors ``[N, D]`` of the whole catalogue; row 0 stands for unknown items."""
        device = self.item_tables.embeddings["item"].weight.device
        rows = torch.arange(self.num_items, device=device)
        return torch.cat([self.item_vectors(part) for part in rows.split(ROWS)])

    def answers(
        self, batch: SequenceBatch, row: Tensor, prefix: Tensor, conditions: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Answers ``[M, D]`` to M queries that share the histories of a batch; their dot product with
        :meth:`catalogue_vectors` is the similarity.

        Args:
            batch: histories.
            row: ``[M]`` the row of the batch each query is about.
            prefix: ``[M]`` events of the row that it sees.
            conditions: ``[M]`` ids by condition; one that is not given is unknown.
        """
        asked = self._condition_embeddings(conditions, len(row))
        return self._comparable(self.encoder.query(self.events(batch), row, prefix, asked))

    def _comparable(self, vectors: Tensor) -> Tensor:
        vectors = vectors.float()  # autocast hands out bf16; similarities are compared in fp32
        return functional.normalize(vectors, dim=-1) if self.objective.similarity == "cosine" else vectors

    # -- training --

    def loss(self, batch: SequenceBatch) -> Tensor:
        """Mean InfoNCE over the predicted events; zero where a batch has none."""
        states = self._comparable(self.encoder.states(self.events(batch)))
        wanted = batch.items > 0
        if self.objective.loss_on == "positive":
            assert batch.labels is not None, "loss_on: positive needs labels in the batch"
            wanted = wanted & (batch.labels > 0)
        chosen = torch.nonzero(wanted).squeeze(1)
        states, targets = states[chosen], batch.items[chosen]
        if not len(targets):
            return states.sum()  # of nothing: 0, with a gradient
        if self.objective.full:
            logits = states @ self.catalogue_vectors()[1:].T / self.temperature
            loss = functional.cross_entropy(logits, targets - 1)
        else:
            loss = self._sampled_loss(states, targets, batch, chosen)
        if self.objective.rivals:
            loss = loss + self.objective.rivals * self._rival_loss(states, batch, chosen)
        if self.objective.condition_contrast:
            loss = loss + self.objective.condition_contrast * self._contrast_loss(batch, chosen)
        return loss

    def _contrast_loss(self, batch: SequenceBatch, chosen: Tensor) -> Tensor:
        asked = questions(batch, chosen)
        answers = self.answers(batch, asked.row, asked.prefix, asked.conditions).unflatten(0, (-1, asked.count))
        vectors = self.item_vectors(batch.items[asked.events])
        logits = (answers * vectors[:, None]).sum(dim=2) / self.temperature
        return functional.cross_entropy(logits, asked.own)

    def _rival_loss(self, states: Tensor, batch: SequenceBatch, chosen: Tensor) -> Tensor:
        items, place = torch.unique(batch.items, return_inverse=True)
        rivals = rival_mask(batch, place, len(items)) & (items > 0)
        return rival_loss(states / self.temperature, self.item_vectors(items), place[chosen], rivals[chosen])

    def _sampled_loss(self, states: Tensor, targets: Tensor, batch: SequenceBatch, chosen: Tensor) -> Tensor:
        drawn = self.sampler.draw(targets)
        true_items, place = torch.unique(targets, return_inverse=True)
        vectors = self.item_vectors(torch.cat([true_items, drawn.items]))
        states = states / self.temperature
        true = (states * vectors[: len(true_items)][place]).sum(dim=1)
        negatives = vectors[len(true_items) :]
        if self.objective.negatives.log_q:
            logits = torch.addmm(-drawn.log_q, states, negatives.T)
            if self.objective.negatives.log_q_positive:
                true = true - self.sampler.expected(len(targets)).clamp(min=1e-12).log().float()[targets]
        else:
            logits = states @ negatives.T
        with torch.no_grad():
            # Written past autograd, which would copy the whole matrix: at -inf logsumexp has gradient 0 of itself.
            logits[self._hits(targets, drawn.items)] = -torch.inf
            if self.objective.negatives.mask_history:
                logits[self._in_history(batch, drawn.items)[batch.owners[chosen]]] = -torch.inf
        return (torch.logaddexp(logits.logsumexp(dim=1), true) - true).mean()

    @staticmethod
    def _hits(targets: Tensor, items: Tensor) -> tuple[Tensor, ...]:
        """Where a negative is the event's own true item: places ``(event, negative)``."""
        return torch.nonzero(targets[:, None] == items[None, :], as_tuple=True)

    def _in_history(self, batch: SequenceBatch, items: Tensor) -> Tensor:
        """``[B, M]`` whether each item is one of the row's."""
        seen = torch.zeros(len(batch), self.num_items, dtype=torch.bool, device=items.device)
        seen[batch.owners, batch.items] = True
        return seen[:, items]

    # -- use --

    @torch.no_grad()
    def scores(self, batch: SequenceBatch, vectors: Tensor, conditions: Mapping[str, Tensor] | None = None) -> Tensor:
        """Logits ``[B, N]`` of every catalogue row as the item after each row of a batch; -inf for the unknown item.

        Args:
            batch: histories.
            vectors: :meth:`catalogue_vectors`.
            conditions: ``[B]`` ids by condition.
        """
        rows = torch.arange(len(batch), device=batch.offsets.device)
        logits = self.answers(batch, rows, batch.lengths, conditions) @ vectors.T / self.temperature
        logits[:, 0] = -torch.inf
        return logits

    @torch.no_grad()
    def recommend(
        self,
        batch: SequenceBatch,
        k: int,
        exclude_seen: bool = False,
        conditions: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """The k most similar items to come, ``[B, k]`` catalogue rows, best first.

        Args:
            batch: histories.
            k: items a row.
            exclude_seen: leave out items of the history.
            conditions: ``[B]`` ids by condition, under which the next item is asked for.
        """
        logits = self.scores(batch, self.catalogue_vectors(), conditions)
        if exclude_seen:
            logits[batch.owners, batch.items] = -torch.inf
        return logits.topk(min(k, self.num_items - 1), dim=1).indices


def table_parameters(model: nn.Module) -> list[Tensor]:
    """The weights of all embedding tables, which have a learning rate and a decay of their own."""
    return [module.weight for module in model.modules() if isinstance(module, (nn.Embedding, nn.EmbeddingBag))]
