"""``fmfm``: a factorization machine with a matrix for each pair of fields."""

import torch
from torch import Tensor, nn

from genrec_plugins.interactions.configs import FmfmConfig
from genrec_plugins.interactions.fm import FactorizationInteraction
from genrec_plugins.interactions.tokens import block_matrix, num_pairs
from genrec_registry import InteractionContext


class FmfmInteraction(FactorizationInteraction):
    """``sum_{i<j} x_i^T M_ij x_j``, with ``M_ij`` a D x D matrix of the pair.

    Source: FM^2, arXiv 2102.12994, the matrix form. The matrices are laid out as one strictly upper block triangular
    ``[T D, T D]`` matrix, so that all pairs cost one matrix product. They start at the identity with
    deviation 0.01, close to a plain FM (our choice).

    Args:
        config: whether to add the tokens.
        context: T tokens of width D, at least two.

    Shapes: ``[B, D]``, ``[B, F, D]`` -> ``[B, 2 + T D]``, or ``[B, 2]`` if not deep.

    Example::

        >>> context = InteractionContext(embedding_dim=4, token_names=("dense", "C1", "C2"))
        >>> FmfmInteraction(FmfmConfig(deep=False), context)(torch.zeros(5, 4), torch.zeros(5, 2, 4)).shape
        torch.Size([5, 2])
    """

    def __init__(self, config: FmfmConfig, context: InteractionContext) -> None:
        super().__init__(config, context)
        self.num_tokens = context.num_tokens
        width = context.embedding_dim
        self.pair_matrix = nn.Parameter(torch.empty(num_pairs(context.num_tokens), width, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the pair matrices anew."""
        nn.init.normal_(self.pair_matrix, std=0.01)
        with torch.no_grad():
            self.pair_matrix.diagonal(dim1=1, dim2=2).add_(1.0)

    def pair_term(self, tokens: Tensor) -> Tensor:
        """Sum over the pairs in the order (0, 1), (0, 2), ..., (T-2, T-1)."""
        flat = tokens.flatten(1)
        return (torch.mm(flat, block_matrix(self.pair_matrix, self.num_tokens)) * flat).sum(1, keepdim=True)
