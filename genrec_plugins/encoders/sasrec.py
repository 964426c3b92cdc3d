"""``sasrec``: self-attentive sequential recommendation (Kang & McAuley 2018, arXiv 1808.09781)."""

from torch import Tensor, nn

from genrec_plugins.encoders.after import AfterEvents
from genrec_plugins.encoders.configs import SasRecConfig
from genrec_plugins.encoders.positions import PositionTable
from genrec_plugins.encoders.varlen import Layout, causal_attention
from genrec_registry import EncoderContext, ModelError


class SasRecBlock(nn.Module):
    """Self-attention and a point-wise network, each as ``x + Dropout(g(LayerNorm(x)))`` (section 3.2).

    Args:
        hidden: h.
        heads: H.
        dropout: on both branches and on the attention weights.

    Example::

        >>> import torch
        >>> layout = Layout(torch.tensor([0, 2, 5]))
        >>> SasRecBlock(hidden=8, heads=2, dropout=0.0)(torch.randn(5, 8), layout).shape
        torch.Size([5, 8])
    """

    def __init__(self, hidden: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(hidden)
        self.qkv = nn.Linear(hidden, 3 * hidden, bias=False)
        self.ffn_norm = nn.LayerNorm(hidden)
        self.ffn = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, hidden))
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, layout: Layout) -> Tensor:
        """Flat ``[T, h]`` to ``[T, h]``."""
        heads = self.qkv(self.attention_norm(tokens)).unflatten(1, (3, self.heads, -1))
        attended = causal_attention(heads, layout, self.dropout.p if self.training else 0.0)
        tokens = tokens + self.dropout(attended.flatten(1))
        return tokens + self.dropout(self.ffn(self.ffn_norm(tokens)))


class SasRec(AfterEvents):
    """Learned positions, causal blocks, and items compared by their own embeddings (sections 3.1 to 3.3).

    Positions count from the first event of a row, not back from its last as left-padded code has it: otherwise a later
    event would move every earlier state.

    Args:
        config: SASRec's options; the tokens have width D unless ``hidden`` says otherwise.
        context: widths and feature names; condition features are added to the events' tokens.

    Raises:
        ModelError: the width is not a multiple of the heads; or a row is longer than ``max_length``.

    Example::

        >>> import torch
        >>> from torchrec import JaggedTensor
        >>> context = EncoderContext(embedding_dim=4, feature_dim=4, max_length=3, item_features=("item",))
        >>> events = {"item": JaggedTensor(torch.randn(5, 4), lengths=torch.tensor([2, 0, 3]))}
        >>> sasrec = SasRec(SasRecConfig(), context)
        >>> sasrec(events, {}).shape, sasrec.states(events).shape
        (torch.Size([3, 1, 4]), torch.Size([5, 4]))
    """

    def __init__(self, config: SasRecConfig, context: EncoderContext) -> None:
        hidden = config.hidden or context.embedding_dim
        if hidden % config.num_heads:
            raise ModelError(
                f"sasrec: width {hidden} is not a multiple of num_heads {config.num_heads}; change one of them"
            )
        super().__init__(context, hidden, config.attention, token_scale=hidden**0.5)
        self.position = PositionTable(context.max_length, hidden)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            SasRecBlock(hidden, config.num_heads, config.dropout) for _ in range(config.num_layers)
        )
        self.norm = nn.LayerNorm(hidden)

    def outputs(self, tokens: Tensor, layout: Layout) -> Tensor:
        """Flat ``[T, h]`` to ``[T, h]``."""
        tokens = self.dropout(tokens + self.position(layout.positions, layout.max_length))
        for block in self.blocks:
            tokens = block(tokens, layout)
        return self.norm(tokens)
