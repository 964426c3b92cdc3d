"""``dot``: DLRM's own interaction."""

import torch
from torch import Tensor
from torchrec.models.dlrm import InteractionArch

from genrec_plugins.interactions.configs import DotConfig
from genrec_plugins.interactions.tokens import num_pairs, stack_tokens, upper_triangle
from genrec_registry import InteractionContext


class DotInteraction(InteractionArch):
    """The dense features and the dot product of every token pair.

    Source: DLRM, arXiv 1906.00091, section 2.1; TorchRec's ``InteractionArch``, whose outputs it reproduces. TorchRec
    keeps the pair indices in a buffer, which is all zeros after DMP materialises a model built on the meta device
    (every product would then be ``x_0 . x_0``); here they are made in the forward.

    Args:
        config: nothing to set.
        context: T = F + 1 tokens of width D.

    Shapes: ``[B, D]``, ``[B, F, D]`` -> ``[B, D + F(F+1)/2]``.

    Example::

        >>> context = InteractionContext(embedding_dim=4, token_names=("dense", "C1", "C2"))
        >>> DotInteraction(DotConfig(), context)(torch.zeros(5, 4), torch.zeros(5, 2, 4)).shape
        torch.Size([5, 7])
    """

    def __init__(self, config: DotConfig, context: InteractionContext) -> None:
        super().__init__(context.num_sparse_features)
        del self.triu_indices
        self.out_features = context.embedding_dim + num_pairs(context.num_tokens)

    def forward(self, dense_features: Tensor, sparse_features: Tensor) -> Tensor:
        """Return ``[B, out_features]``."""
        tokens = stack_tokens(dense_features, sparse_features)
        products = torch.bmm(tokens, tokens.transpose(1, 2))
        return torch.cat((dense_features, upper_triangle(products)), dim=1)
