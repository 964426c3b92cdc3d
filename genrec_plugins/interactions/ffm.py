"""``ffm``: field-aware pair embeddings."""

import torch
from torch import Tensor, nn

from genrec_plugins.interactions.configs import FfmConfig, pair_embedding_dim
from genrec_plugins.interactions.tokens import num_pairs, stack_tokens, upper_triangle
from genrec_registry import InteractionContext, ModelError


def pair_slices(name: str, config: FfmConfig, context: InteractionContext) -> list[int]:
    """The shape ``[T, T, k]`` that a row's tokens are viewed in: entry (i, j) is token i's embedding toward token j.

    Args:
        name: the interaction, for the message.
        config: has ``pair_dim`` k.
        context: T tokens of width D.

    Raises:
        ModelError: D is not T k, or there is only one token.
    """
    needed = pair_embedding_dim(config, context.num_tokens)
    if context.embedding_dim != needed:
        raise ModelError(
            f"{name}: the tables have width {context.embedding_dim}, but {context.num_tokens} tokens with "
            f"pair_dim = {config.pair_dim} need width {needed}; set the embedding width to {needed}"
        )
    if context.num_tokens < 2:
        raise ModelError(f"{name} needs two tokens or more, found 1; add a field or use 'mlp'")
    return [context.num_tokens, context.num_tokens, config.pair_dim]


def pair_products(slices: Tensor) -> Tensor:
    """``<x_i->j, x_j->i>`` for i < j, ``[B, P]``, of ``slices [B, T, T, k]``.

    Example::

        >>> pair_products(torch.tensor([[[[9.0], [2.0]], [[3.0], [9.0]]]]))
        tensor([[6.]])
    """
    return upper_triangle((slices * slices.transpose(1, 2)).sum(3))


def own_slices(slices: Tensor) -> Tensor:
    """``x_i->i``, ``[B, T k]``, of ``slices [B, T, T, k]``.

    Example::

        >>> own_slices(torch.tensor([[[[7.0], [2.0]], [[3.0], [9.0]]]]))
        tensor([[7., 9.]])
    """
    return torch.diagonal(slices, dim1=1, dim2=2).transpose(1, 2).flatten(1)


class FfmInteraction(nn.Module):
    """All pair products ``<x_i->j, x_j->i>`` and a first-order term.

    Source: Field-aware Factorization Machines (RecSys 2016); the paper's logit is the sum of the output.
    Token i of width D = T k holds T slices, slice j being its embedding toward token j. Slice i of token i has no
    counterpart in a pair: it carries the first-order term, by a linear map k -> 1 of each token (our choice, as an
    interaction sees embeddings and not ids).

    Args:
        config: ``pair_dim`` k.
        context: T tokens of width D = T k.

    Raises:
        ModelError: D is not T k.

    Shapes: ``[B, D]``, ``[B, F, D]`` -> ``[B, 1 + T(T-1)/2]``.

    Example::

        >>> context = InteractionContext(embedding_dim=12, token_names=("dense", "C1", "C2"))
        >>> FfmInteraction(FfmConfig(pair_dim=4), context)(torch.zeros(5, 12), torch.zeros(5, 2, 12)).shape
        torch.Size([5, 4])
    """

    def __init__(self, config: FfmConfig, context: InteractionContext) -> None:
        super().__init__()
        self.slices = pair_slices("ffm", config, context)
        self.first_order = nn.Linear(context.num_tokens * config.pair_dim, 1)
        self.out_features = 1 + num_pairs(context.num_tokens)

    def forward(self, dense_features: Tensor, sparse_features: Tensor) -> Tensor:
        """Return ``[first order, products]``, ``[B, out_features]``."""
        slices = stack_tokens(dense_features, sparse_features).unflatten(2, self.slices[1:])
        return torch.cat((self.first_order(own_slices(slices)), pair_products(slices)), dim=1)
