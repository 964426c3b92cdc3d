"""``onn``: operation-aware embeddings that feed the over arch."""

import torch
from torch import Tensor, nn

from genrec_plugins.interactions.configs import OnnConfig
from genrec_plugins.interactions.ffm import own_slices, pair_products, pair_slices
from genrec_plugins.interactions.tokens import num_pairs, stack_tokens
from genrec_registry import InteractionContext


class OnnInteraction(nn.Module):
    """Each token's own slice and all field-aware inner products, for the MLP above.

    Source: Operation-aware Neural Networks, arXiv 1904.12579: an embedding for each operation, here the
    copy (slice i of token i) and the inner product with each other token (slice j of token i).

    Args:
        config: ``pair_dim`` k.
        context: T tokens of width D = T k.

    Raises:
        ModelError: D is not T k.

    Shapes: ``[B, D]``, ``[B, F, D]`` -> ``[B, T k + T(T-1)/2]``.

    Example::

        >>> context = InteractionContext(embedding_dim=12, token_names=("dense", "C1", "C2"))
        >>> OnnInteraction(OnnConfig(pair_dim=4), context)(torch.zeros(5, 12), torch.zeros(5, 2, 12)).shape
        torch.Size([5, 15])
    """

    def __init__(self, config: OnnConfig, context: InteractionContext) -> None:
        super().__init__()
        self.slices = pair_slices("onn", config, context)
        self.out_features = context.num_tokens * config.pair_dim + num_pairs(context.num_tokens)

    def forward(self, dense_features: Tensor, sparse_features: Tensor) -> Tensor:
        """Return ``[own slices, products]``, ``[B, out_features]``."""
        slices = stack_tokens(dense_features, sparse_features).unflatten(2, self.slices[1:])
        return torch.cat((own_slices(slices), pair_products(slices)), dim=1)
