"""``hstu``: Hierarchical Sequential Transduction Units (Zhai et al. 2024, arXiv 2402.17152)."""

import torch
from torch import Tensor, nn

from genrec_plugins.encoders.after import AfterEvents
from genrec_plugins.encoders.causal_stack import ScaledLinear
from genrec_plugins.encoders.configs import HstuConfig
from genrec_plugins.encoders.positions import check_length
from genrec_plugins.encoders.varlen import Layout
from genrec_registry import EncoderContext, ModelError


class HstuBlock(nn.Module):
    """One unit: projection, pointwise attention without softmax, gate (paper, equations 1 to 3).

    ``U, V, Q, K = SiLU(f_1(LN(X)))``; ``A = SiLU(Q K^T + rab) / n``; ``Y = X + f_2(LN(A V) * U)``. The bias ``rab`` is
    one learned number a head and distance; the paper's bias by time is left out, an encoder is not told the times.

    Args:
        hidden: h.
        heads: H; queries, keys and values of a head are h / H wide.
        max_length: n, events of the longest row.
        dropout: on what the gate lets through.

    Example::

        >>> layout = Layout(torch.tensor([0, 2, 5]))
        >>> HstuBlock(hidden=8, heads=2, max_length=3, dropout=0.0)(torch.randn(5, 8), layout).shape
        torch.Size([5, 8])
    """

    def __init__(self, hidden: int, heads: int, max_length: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.max_length = max_length
        self.norm = nn.LayerNorm(hidden, eps=1e-6)
        self.project = ScaledLinear(hidden, 4 * hidden)
        self.bias = nn.Parameter(torch.empty(heads, max_length))
        self.attended_norm = nn.LayerNorm(hidden, eps=1e-6)
        self.mix = nn.Linear(hidden, hidden)
        self.dropout = nn.Dropout(dropout)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the bias from N(0, 0.02); 0.02 is the standard deviation."""
        nn.init.normal_(self.bias, std=0.02)

    def forward(self, tokens: Tensor, layout: Layout) -> Tensor:
        """Flat ``[T, h]`` to ``[T, h]``."""
        check_length(layout.max_length, self.max_length)
        gate, heads = nn.functional.silu(self.project(self.norm(tokens))).tensor_split([tokens.shape[1]], dim=1)
        attended = layout.apply(self.attend, heads.unflatten(1, (3, self.heads, -1))).flatten(1)
        return tokens + self.mix(self.dropout(self.attended_norm(attended) * gate))

    def attend(self, rows: Tensor, mask: Tensor | None) -> Tensor:
        """Values, weighted point by point: ``[R, S, 3, H, d]`` to ``[R, S, H, d]``."""
        value, query, key = rows.permute(2, 0, 3, 1, 4)  # each [R, H, S, d]
        places = torch.arange(rows.shape[1], device=rows.device)
        distance = places.unsqueeze(1) - places
        scores = query @ key.transpose(2, 3) + self.bias[:, distance.clamp(min=0)]
        weights = nn.functional.silu(scores) / self.max_length
        seen = distance >= 0 if mask is None else mask.unsqueeze(1)
        return ((weights * seen) @ value).transpose(1, 2)


class Hstu(AfterEvents):
    """A stack of HSTU blocks over one token an event; the condition of a past event is added to its item's token.

    Args:
        config: HSTU's options; the tokens have width D unless ``hidden`` says otherwise.
        context: widths and feature names.

    Raises:
        ModelError: the width is not a multiple of the heads; or a row is longer than ``max_length``.

    Example::

        >>> from torchrec import JaggedTensor
        >>> context = EncoderContext(embedding_dim=4, feature_dim=4, max_length=3, item_features=("item",))
        >>> events = {"item": JaggedTensor(torch.randn(5, 4), lengths=torch.tensor([2, 0, 3]))}
        >>> hstu = Hstu(HstuConfig(), context)
        >>> hstu(events, {}).shape, hstu.states(events).shape
        (torch.Size([3, 1, 4]), torch.Size([5, 4]))
    """

    def __init__(self, config: HstuConfig, context: EncoderContext) -> None:
        hidden = config.hidden or context.embedding_dim
        if hidden % config.num_heads:
            raise ModelError(
                f"hstu: width {hidden} is not a multiple of num_heads {config.num_heads}; change one of them"
            )
        super().__init__(context, hidden, config.attention, token_scale=hidden**0.5)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            HstuBlock(hidden, config.num_heads, context.max_length, config.dropout) for _ in range(config.num_layers)
        )

    def outputs(self, tokens: Tensor, layout: Layout) -> Tensor:
        """Flat ``[T, h]`` to ``[T, h]``."""
        tokens = self.dropout(tokens)
        for block in self.blocks:
            tokens = block(tokens, layout)
        return tokens
