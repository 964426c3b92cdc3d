"""A sequence encoder on two ranks: the model and the batches that the worker trains it with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torchrec import EmbeddingCollection, EmbeddingConfig, JaggedTensor, KeyedJaggedTensor
from torchrec.datasets.utils import Batch

from genrec_registry import EncoderContext

ROWS = 32


class EncoderLoss(nn.Module):
    """Does a row's last item have a low id? Asked of the user tokens; states are drawn to their items' vectors."""

    def __init__(self, encoder: nn.Module, context: EncoderContext) -> None:
        super().__init__()
        self.context = context
        self.encoder = encoder
        number: Any = encoder.num_user_tokens
        self.head = nn.Linear(number * context.embedding_dim, 1)

    def forward(self, found: dict[str, JaggedTensor], labels: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, and logits ``[B]``."""
        items, conditions = self.context.item_features, self.context.condition_features
        events = {
            # Built anew: a sharded collection gives promises.
            name: JaggedTensor(found[name].values(), lengths=found[name].lengths(), offsets=found[name].offsets())
            for name in (*items, *conditions)
        }
        target = {name: found[f"target_{name}"].values() for name in items}
        logits = self.head(self.encoder(events=events, target=target).flatten(1)).squeeze(1)
        loss = nn.functional.binary_cross_entropy_with_logits(logits, labels.float())
        if hasattr(self.encoder, "states"):
            states: Callable[..., Tensor] = self.encoder.states  # type: ignore[assignment]
            vectors: Callable[..., Tensor] = self.encoder.item_vectors  # type: ignore[assignment]
            scores = (states(events) * vectors({name: events[name].values() for name in items})).sum(dim=1)
            loss = loss + 0.1 * nn.functional.softplus(-scores).sum() / max(len(scores), 1)
        return loss, logits


class EncoderTrain(nn.Module):
    """Tables and loss, called by the pipeline as ``DLRMTrain`` is."""

    def __init__(self, collection: EmbeddingCollection, loss: EncoderLoss) -> None:
        super().__init__()
        self.embedding_collection = collection
        self.loss = loss

    def forward(self, batch: Batch) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        """The loss, and what a training loop logs."""
        loss, logits = self.loss(self.embedding_collection(batch.sparse_features), batch.labels)
        return loss, (loss.detach(), logits.detach(), batch.labels.detach())


def encoder_context(data: dict[str, Any]) -> EncoderContext:
    """The context of a case, from JSON."""
    tuples = {key: tuple(value) for key, value in data.items() if isinstance(value, list)}
    return EncoderContext(**data | tuples)


def build_encoder_model(encoder: Callable[[EncoderContext], nn.Module], data: dict[str, Any]) -> nn.Module:
    """A trainable model on the meta device: a table for each feature, shared with the target, and the encoder."""
    context, meta = encoder_context(data), torch.device("meta")
    tables = [
        EmbeddingConfig(
            name=f"t_{name}",
            embedding_dim=context.feature_dim,
            num_embeddings=ROWS,
            feature_names=[name, f"target_{name}"] if name in context.item_features else [name],
        )
        for name in (*context.item_features, *context.condition_features)
    ]
    with meta:
        return EncoderTrain(EmbeddingCollection(tables=tables, device=meta), EncoderLoss(encoder(context), context))


def encoder_batches(data: dict[str, Any], rank: int, batch_size: int) -> list[Batch]:
    """Two batches, other ones on each rank; on rank 1 the second has no event at all."""
    context = encoder_context(data)
    generator = torch.Generator().manual_seed(rank)
    made = []
    for number in range(2):
        lengths = torch.randint(context.max_length + 1, (batch_size,), generator=generator)
        lengths = lengths * 0 if rank == number == 1 else lengths
        ends, total = lengths.cumsum(0), int(lengths.sum())
        ids, sizes = {}, {}
        for name in (*context.item_features, *context.condition_features):
            ids[name], sizes[name] = torch.randint(ROWS, (total,), generator=generator), lengths
        for name in context.item_features:
            ids[f"target_{name}"] = torch.randint(ROWS, (batch_size,), generator=generator)
            sizes[f"target_{name}"] = torch.ones_like(lengths)
        last = torch.cat([ids[context.item_features[0]], torch.tensor([ROWS])])[ends - 1]
        made.append(
            Batch(
                dense_features=torch.zeros(batch_size, 1),
                sparse_features=KeyedJaggedTensor(
                    keys=list(ids), values=torch.cat(list(ids.values())), lengths=torch.cat(list(sizes.values())).int()
                ),
                labels=((lengths > 0) & (last < ROWS // 2)).int(),
            )
        )
    return made
