"""``masknet``: blocks whose input is multiplied by a mask computed from the row's embeddings."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genrec_plugins.interactions.configs import MaskNetConfig
from genrec_plugins.interactions.tokens import stack_tokens
from genrec_registry import InteractionContext


class _TokenLayerNorm(nn.Module):
    """LayerNorm over D with a gain and a bias for each token (each embedding is normalised by itself)."""

    def __init__(self, num_tokens: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_tokens, width))
        self.bias = nn.Parameter(torch.empty(num_tokens, width))
        self.width = [width]
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Gain 1, bias 0."""
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        return F.layer_norm(tokens, self.width) * self.weight + self.bias


class _MaskBlock(nn.Module):
    """``ReLU(LN(W (input * mask)))`` with ``mask = W_2 ReLU(W_1 v + b_1) + b_2`` of the embeddings v."""

    def __init__(self, in_features: int, embeddings_width: int, config: MaskNetConfig) -> None:
        super().__init__()
        hidden = max(1, round(config.reduction_ratio * embeddings_width))
        self.mask = nn.Sequential(nn.Linear(embeddings_width, hidden), nn.ReLU(), nn.Linear(hidden, in_features))
        self.hidden = nn.Linear(in_features, config.block_width, bias=False)
        self.norm = nn.LayerNorm(config.block_width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, inputs: Tensor, embeddings: Tensor) -> Tensor:
        return self.dropout(F.relu(self.norm(self.hidden(inputs * self.mask(embeddings)))))


class MaskNetInteraction(nn.Module):
    """Mask blocks side by side (``parallel``) or in a chain (``serial``).

    Source: MaskNet, arXiv 2102.07619, serial and parallel model. Every block's mask is made from the raw embeddings.
    The first block (all blocks, if parallel) works on the normalised embeddings, a later one on its predecessor's
    output. The paper's top MLP is the over arch.

    Args:
        config: mode, blocks, widths.
        context: T tokens of width D.

    Shapes: ``[B, D]``, ``[B, F, D]`` -> ``[B, num_blocks * block_width]`` if parallel, ``[B, block_width]`` if serial.

    Example::

        >>> context = InteractionContext(embedding_dim=4, token_names=("dense", "C1", "C2"))
        >>> config = MaskNetConfig(num_blocks=3, block_width=8)
        >>> MaskNetInteraction(config, context)(torch.zeros(5, 4), torch.zeros(5, 2, 4)).shape
        torch.Size([5, 24])
    """

    def __init__(self, config: MaskNetConfig, context: InteractionContext) -> None:
        super().__init__()
        width = context.num_tokens * context.embedding_dim
        self.parallel = config.mode == "parallel"
        self.norm = _TokenLayerNorm(context.num_tokens, context.embedding_dim)
        later = width if self.parallel else config.block_width
        self.blocks = nn.ModuleList(
            _MaskBlock(width if index == 0 else later, width, config) for index in range(config.num_blocks)
        )
        self.out_features = config.block_width * (config.num_blocks if self.parallel else 1)

    def forward(self, dense_features: Tensor, sparse_features: Tensor) -> Tensor:
        """Return ``[B, out_features]``."""
        tokens = stack_tokens(dense_features, sparse_features)
        embeddings, hidden = tokens.flatten(1), self.norm(tokens).flatten(1)
        if self.parallel:
            return torch.cat([block(hidden, embeddings) for block in self.blocks], dim=1)
        for block in self.blocks:
            hidden = block(hidden, embeddings)
        return hidden
