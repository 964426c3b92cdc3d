"""``transformer``: a pre-norm encoder over the tokens of one row."""

from torch import Tensor, nn

from genrec_plugins.interactions.configs import TransformerConfig
from genrec_plugins.interactions.row_attention import row_attention
from genrec_plugins.interactions.tokens import stack_tokens
from genrec_registry import InteractionContext, ModelError


class _Attention(nn.Module):
    """Multi-head self-attention over axis 1 of ``[B, T, D]``."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        batch, length, width = tokens.shape
        qkv = self.qkv(tokens).view(batch, length, 3, self.num_heads, width // self.num_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each [B, H, T, D/H]
        mixed = row_attention(query, key, value, scale=(self.num_heads / width) ** 0.5)
        return self.out(mixed.transpose(1, 2).reshape(batch, length, width))


class _Block(nn.Module):
    """``x + attention(norm(x))``, then ``x + ffn(norm(x))``."""

    def __init__(self, width: int, config: TransformerConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = _Attention(width, config.num_heads)
        self.ffn_norm = nn.LayerNorm(width)
        self.ffn = nn.Sequential(nn.Linear(width, config.ffn_width), nn.GELU(), nn.Linear(config.ffn_width, width))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.dropout(self.attention(self.attention_norm(tokens)))
        return tokens + self.dropout(self.ffn(self.ffn_norm(tokens)))


class TransformerInteraction(nn.Module):
    """A transformer encoder whose tokens are the fields of one row; rows never see each other.

    Source: arXiv 1706.03762, section 3, with the pre-norm residual of arXiv 2002.04745. (TorchRec's experimental
    ``DLRM_Transformer`` leaves out ``batch_first=True`` and so attends across the batch.) There is no position
    embedding: each field has tables of its own, so its embeddings already say which field they belong to.

    Args:
        config: layers, heads, widths, dropout and readout.
        context: T tokens of width D.

    Raises:
        ModelError: the heads do not divide D.

    Shapes: ``[B, D]``, ``[B, F, D]`` -> ``[B, T D]`` (``flatten``) or ``[B, D]`` (``mean``).

    Example::

        >>> import torch
        >>> context = InteractionContext(embedding_dim=4, token_names=("dense", "C1", "C2"))
        >>> TransformerInteraction(TransformerConfig(), context)(torch.zeros(5, 4), torch.zeros(5, 2, 4)).shape
        torch.Size([5, 12])
    """

    def __init__(self, config: TransformerConfig, context: InteractionContext) -> None:
        super().__init__()
        width = context.embedding_dim
        if width % config.num_heads:
            raise ModelError(
                f"transformer: num_heads = {config.num_heads} does not divide the embedding width {width}; "
                "choose another number of heads or another embedding width"
            )
        self.flatten = config.readout == "flatten"
        self.out_features = context.num_tokens * width if self.flatten else width
        self.blocks = nn.Sequential(*(_Block(width, config) for _ in range(config.num_layers)))
        self.norm = nn.LayerNorm(width)

    def forward(self, dense_features: Tensor, sparse_features: Tensor) -> Tensor:
        """Return ``[B, out_features]``."""
        tokens = self.norm(self.blocks(stack_tokens(dense_features, sparse_features)))
        return tokens.flatten(1) if self.flatten else tokens.mean(1)
