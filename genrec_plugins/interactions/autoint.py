"""``autoint``: multi-head self-attention between fields."""

import torch.nn.functional as F
from torch import Tensor, nn

from genrec_plugins.interactions.configs import AutoIntConfig
from genrec_plugins.interactions.row_attention import row_attention
from genrec_plugins.interactions.tokens import stack_tokens
from genrec_registry import InteractionContext


class _InteractingLayer(nn.Module):
    """Equations 5 to 8 of AutoInt: ``[B, T, in_features]`` -> ``[B, T, heads * attention_dim]``."""

    def __init__(self, in_features: int, config: AutoIntConfig) -> None:
        super().__init__()
        self.num_heads, self.attention_dim = config.num_heads, config.attention_dim
        self.out_features = config.num_heads * config.attention_dim
        self.qkv = nn.Linear(in_features, 3 * self.out_features, bias=False)
        self.residual = nn.Linear(in_features, self.out_features, bias=False) if config.residual else None

    def forward(self, tokens: Tensor) -> Tensor:
        batch, length, _ = tokens.shape
        qkv = self.qkv(tokens).view(batch, length, 3, self.num_heads, self.attention_dim)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each [B, H, T, d']
        mixed = row_attention(query, key, value, scale=1.0)  # equation 5 has no 1/sqrt(d')
        mixed = mixed.transpose(1, 2).reshape(batch, length, self.out_features)
        return F.relu(mixed if self.residual is None else mixed + self.residual(tokens))


class AutoIntInteraction(nn.Module):
    """Interacting layers over the tokens of one row, flattened.

    Source: AutoInt, arXiv 1810.11921, section 4.4, equations 5 to 8. ``alpha = softmax(<W_Q e_m, W_K e_k>)`` without
    scaling, ``e~_m = sum_k alpha W_V e_k``, heads concatenated, ``ReLU(e~_m + W_res e_m)``.

    Args:
        config: layers, heads, width of a head, residual.
        context: T tokens of width D.

    Shapes: ``[B, D]``, ``[B, F, D]`` -> ``[B, T d' H]``.

    Example::

        >>> import torch
        >>> context = InteractionContext(embedding_dim=4, token_names=("dense", "C1", "C2"))
        >>> config = AutoIntConfig(num_heads=2, attention_dim=8)
        >>> AutoIntInteraction(config, context)(torch.zeros(5, 4), torch.zeros(5, 2, 4)).shape
        torch.Size([5, 48])
    """

    def __init__(self, config: AutoIntConfig, context: InteractionContext) -> None:
        super().__init__()
        width = config.num_heads * config.attention_dim
        widths = [context.embedding_dim] + [width] * (config.num_layers - 1)
        self.layers = nn.Sequential(*(_InteractingLayer(in_features, config) for in_features in widths))
        self.out_features = context.num_tokens * width

    def forward(self, dense_features: Tensor, sparse_features: Tensor) -> Tensor:
        """Return ``[B, out_features]``."""
        return self.layers(stack_tokens(dense_features, sparse_features)).flatten(1)
