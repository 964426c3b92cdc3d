"""``fwfm``: a factorization machine with a weight for each pair of fields."""

import torch
from torch import Tensor, nn

from genrec_plugins.interactions.configs import FwfmConfig
from genrec_plugins.interactions.fm import FactorizationInteraction
from genrec_plugins.interactions.tokens import num_pairs, upper_triangle
from genrec_registry import InteractionContext


class FwfmInteraction(FactorizationInteraction):
    """``sum_{i<j} r_ij <x_i, x_j>``.

    Source: FwFM, arXiv 1806.03514, with the variant whose first-order term comes from the embeddings (a linear map of
    each token). ``r`` starts at 1 with deviation 0.01, close to a plain FM (our choice).

    Args:
        config: whether to add the tokens.
        context: T tokens of width D, at least two.

    Shapes: ``[B, D]``, ``[B, F, D]`` -> ``[B, 2 + T D]``, or ``[B, 2]`` if not deep.

    Example::

        >>> context = InteractionContext(embedding_dim=4, token_names=("dense", "C1", "C2"))
        >>> FwfmInteraction(FwfmConfig(deep=False), context)(torch.zeros(5, 4), torch.zeros(5, 2, 4)).shape
        torch.Size([5, 2])
    """

    def __init__(self, config: FwfmConfig, context: InteractionContext) -> None:
        super().__init__(config, context)
        self.pair_weight = nn.Parameter(torch.empty(num_pairs(context.num_tokens)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the pair weights anew."""
        nn.init.normal_(self.pair_weight, mean=1.0, std=0.01)

    def pair_term(self, tokens: Tensor) -> Tensor:
        """Weighted sum of the pair products, in the order (0, 1), (0, 2), ..., (T-2, T-1)."""
        products = upper_triangle(torch.bmm(tokens, tokens.transpose(1, 2)))
        return (products * self.pair_weight).sum(1, keepdim=True)
