"""``fm``: the factorization machine, and what it shares with ``fwfm`` and ``fmfm``."""

from abc import abstractmethod

import torch
from torch import Tensor, nn

from genrec_plugins.interactions.configs import FmConfig
from genrec_plugins.interactions.tokens import stack_tokens
from genrec_registry import InteractionContext, ModelError


class FactorizationInteraction(nn.Module):
    """First-order term, pair term and, for the deep variants, the flattened tokens.

    An interaction sees embeddings, not ids, so the first-order weight of an id cannot be a table of its own; our
    choice is a linear map D -> 1 for each token, ``w_0 + sum_i <w_i, x_i>``.

    Args:
        config: whether to add the tokens.
        context: T tokens of width D, at least two.

    Raises:
        ModelError: there is only one token, hence no pair.
    """

    def __init__(self, config: FmConfig, context: InteractionContext) -> None:
        super().__init__()
        if context.num_tokens < 2:
            raise ModelError("a factorization machine needs two tokens or more, found 1; add a field or use 'mlp'")
        width = context.num_tokens * context.embedding_dim
        self.deep = config.deep
        self.first_order = nn.Linear(width, 1)
        self.out_features = 2 + (width if config.deep else 0)

    @abstractmethod
    def pair_term(self, tokens: Tensor) -> Tensor:
        """The sum over pairs, ``[B, 1]``, of ``tokens [B, T, D]``."""

    def forward(self, dense_features: Tensor, sparse_features: Tensor) -> Tensor:
        """Return ``[first order, pair term, tokens if deep]``, ``[B, out_features]``."""
        tokens = stack_tokens(dense_features, sparse_features)
        flat = tokens.flatten(1)
        terms = [self.first_order(flat), self.pair_term(tokens)]
        return torch.cat([*terms, flat] if self.deep else terms, dim=1)


class FmInteraction(FactorizationInteraction):
    """``sum_{i<j} <x_i, x_j>``, in time linear in T.

    Source: Factorization Machines (ICDM 2010), equation 1 and lemma 3.1; with ``deep`` DeepFM, arXiv 1703.04247. The
    first-order term is a linear map of each token, see :class:`FactorizationInteraction`.

    Args:
        config: whether to add the tokens.
        context: T tokens of width D, at least two.

    Shapes: ``[B, D]``, ``[B, F, D]`` -> ``[B, 2 + T D]``, or ``[B, 2]`` if not deep.

    Example::

        >>> context = InteractionContext(embedding_dim=4, token_names=("dense", "C1", "C2"))
        >>> FmInteraction(FmConfig(), context)(torch.zeros(5, 4), torch.zeros(5, 2, 4)).shape
        torch.Size([5, 14])
    """

    def pair_term(self, tokens: Tensor) -> Tensor:
        """``1/2 sum_d ((sum_i x_id)^2 - sum_i x_id^2)``."""
        return 0.5 * (tokens.sum(1).square() - tokens.square().sum(1)).sum(1, keepdim=True)
