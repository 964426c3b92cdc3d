"""``mlp``: no interaction, the over arch has to find everything itself."""

from torch import Tensor, nn

from genrec_plugins.interactions.configs import MlpConfig
from genrec_plugins.interactions.tokens import stack_tokens
from genrec_registry import InteractionContext


class NoInteraction(nn.Module):
    """The tokens, flattened: with DLRM's over arch on top it is the plain DNN baseline.

    Args:
        config: nothing to set.
        context: T tokens of width D.

    Shapes: ``[B, D]``, ``[B, F, D]`` -> ``[B, T D]``.

    Example::

        >>> import torch
        >>> context = InteractionContext(embedding_dim=4, token_names=("dense", "C1", "C2"))
        >>> NoInteraction(MlpConfig(), context)(torch.zeros(5, 4), torch.zeros(5, 2, 4)).shape
        torch.Size([5, 12])
    """

    def __init__(self, config: MlpConfig, context: InteractionContext) -> None:
        super().__init__()
        self.out_features = context.num_tokens * context.embedding_dim

    def forward(self, dense_features: Tensor, sparse_features: Tensor) -> Tensor:
        """Return ``[B, out_features]``."""
        return stack_tokens(dense_features, sparse_features).flatten(1)
