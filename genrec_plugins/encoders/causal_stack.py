"""The causal transformer that LUM and generative retrieval stand on: pre-norm, RMSNorm, SwiGLU, RoPE.

- tokens of all rows stay one flat ``[T, h]``; only attention knows where rows begin (:mod:`.varlen`)
- ``prefill`` keeps keys and values, ``extend`` hangs any number of suffixes on them (:mod:`.suffixes`)
- nothing is a buffer: RoPE's angles are made once a forward, so a meta-device build needs no repair
"""

import math
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from genrec_plugins.encoders.positions import PositionTable, check_prefixes, turn, turns_at
from genrec_plugins.encoders.suffixes import Suffixes
from genrec_plugins.encoders.varlen import How, Layout, causal_attention
from genrec_registry import ModelError

Positions = Literal["rope", "learned"]


class ScaledLinear(nn.Linear):
    """A linear map without bias, drawn from N(0, scale^2 / in).

    Args:
        in_features: width of the input.
        out_features: width of the output.
        scale: 1 keeps the input's variance; a residual branch begins smaller.

    Example::

        >>> ScaledLinear(4, 6, scale=0.0)(torch.ones(2, 4)).abs().max().item()
        0.0
    """

    def __init__(self, in_features: int, out_features: int, scale: float = 1.0) -> None:
        self.scale = scale
        super().__init__(in_features, out_features, bias=False)

    def reset_parameters(self) -> None:
        """Draw the matrix."""
        nn.init.normal_(self.weight, std=self.scale / math.sqrt(self.in_features))


@dataclass(frozen=True)
class Cache:
    """What :meth:`CausalStack.extend` needs of the rows it continues.

    Args:
        offsets: ``[B + 1]`` of the rows' tokens.
        layers: for each layer the tokens' keys and values, flat ``[T, 2, H, d]``.
    """

    offsets: Tensor
    layers: tuple[Tensor, ...]


class Block(nn.Module):
    """One pre-norm block: ``x + Attn(norm(x))``, then ``x + SwiGLU(norm(x))``.

    Args:
        hidden: h.
        heads: H.
        ffn: hidden width of the FFN, in h.
        dropout: on both branches.
        branch_scale: initial scale of the matrices that end a branch.

    Example::

        >>> block = Block(hidden=8, heads=2, ffn=2.0, dropout=0.0, branch_scale=1.0)
        >>> block.heads_of(torch.randn(5, 8), None).shape
        torch.Size([5, 3, 2, 4])
    """

    def __init__(self, hidden: int, heads: int, ffn: float, dropout: float, branch_scale: float) -> None:
        super().__init__()
        inner = max(1, round(ffn * hidden))
        self.heads = heads
        self.attention_norm = nn.RMSNorm(hidden, eps=1e-6)
        self.qkv = ScaledLinear(hidden, 3 * hidden)
        self.mix = ScaledLinear(hidden, hidden, branch_scale)
        self.ffn_norm = nn.RMSNorm(hidden, eps=1e-6)
        self.gate_up = ScaledLinear(hidden, 2 * inner)
        self.down = ScaledLinear(inner, hidden, branch_scale)
        self.dropout = nn.Dropout(dropout)

    def heads_of(self, tokens: Tensor, turns: Tensor | None) -> Tensor:
        """Queries, keys and values ``[..., 3, H, d]`` of tokens ``[..., h]``; the first two are turned, if told so."""
        heads = self.qkv(self.attention_norm(tokens)).unflatten(-1, (3, self.heads, -1))
        # Values are "turned" by one: cheaper than to take the three apart and put them together again.
        return heads if turns is None else turn(heads, turns)

    def finish(self, tokens: Tensor, attended: Tensor) -> Tensor:
        """Add what attention found ``[..., H, d]`` to the tokens ``[..., h]``, and the FFN's part."""
        tokens = tokens + self.dropout(self.mix(attended.flatten(-2)))
        gate, up = self.gate_up(self.ffn_norm(tokens)).chunk(2, dim=-1)
        return tokens + self.dropout(self.down(nn.functional.silu(gate) * up))


class CausalStack(nn.Module):
    """A stack of causal blocks over the rows of a jagged batch, with a norm at the end.

    Args:
        hidden: h.
        layers: blocks.
        heads: H; must divide h (into an even width, if positions are ``"rope"``).
        ffn: hidden width of the FFN, in h.
        positions: ``"rope"``, or ``"learned"``: one vector a position.
        max_length: tokens of the longest row, suffix included; needed for learned positions.
        dropout: on every branch.
        attention: how rows are laid out, see :mod:`.varlen`.

    Raises:
        ModelError: widths do not go together; or a row is longer than the learned positions, or a prefix than its row.

    Example::

        >>> stack = CausalStack(hidden=8, layers=2, heads=2).eval()
        >>> tokens, offsets = torch.randn(5, 8), torch.tensor([0, 2, 5])
        >>> out, cache = stack.prefill(tokens, offsets)
        >>> suffix = torch.randn(1, 1, 8)  # one token, behind the whole second row
        >>> found = stack.extend(suffix, row=torch.tensor([1]), prefix=torch.tensor([3]), cache=cache)
        >>> expected = stack(torch.cat([tokens, suffix[0]]), torch.tensor([0, 2, 6]))
        >>> torch.allclose(out, expected[:5], atol=1e-5), torch.allclose(found[0], expected[5:], atol=1e-5)
        (True, True)
    """

    def __init__(
        self,
        hidden: int,
        layers: int = 2,
        heads: int = 2,
        ffn: float = 8 / 3,
        positions: Positions = "rope",
        max_length: int = 0,
        dropout: float = 0.0,
        attention: How = "bucketed",
    ) -> None:
        super().__init__()
        if hidden % heads or (positions == "rope" and hidden // heads % 2):
            even = " into an even width (for RoPE)" if positions == "rope" else ""
            raise ModelError(f"hidden {hidden} cannot be split by heads {heads}{even}; change one of them")
        if positions == "learned" and max_length < 1:
            raise ModelError(f"max_length is {max_length}; learned positions need the length of the longest row")
        self.head_width = hidden // heads
        self.attention = attention
        self.position = PositionTable(max_length, hidden) if positions == "learned" else None
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(hidden, heads, ffn, dropout, (2 * layers) ** -0.5) for _ in range(layers))
        self.norm = nn.RMSNorm(hidden, eps=1e-6)

    def forward(self, tokens: Tensor, offsets: Tensor) -> Tensor:
        """Outputs ``[T, h]`` of tokens ``[T, h]`` in rows ``offsets [B + 1]``; each sees its row up to itself."""
        return self.prefill(tokens, offsets)[0]

    def prefill(self, tokens: Tensor, offsets: Tensor) -> tuple[Tensor, Cache]:
        """Outputs as of :meth:`forward`, and what later :meth:`extend` calls need."""
        tokens, cache = self._run(tokens, offsets, to_the_end=True)
        return self.norm(tokens), cache

    def remember(self, tokens: Tensor, offsets: Tensor) -> Cache:
        """:meth:`prefill` for when its outputs are not wanted: the last block stops at its keys and values."""
        return self._run(tokens, offsets, to_the_end=False)[1]

    def extend(self, suffix: Tensor, row: Tensor, prefix: Tensor, cache: Cache) -> Tensor:
        """Outputs of M suffixes, each as if it alone stood behind its prefix.

        Args:
            suffix: ``[M, t, h]``.
            row: ``[M]`` row of the prefill it continues.
            prefix: ``[M]`` tokens of that row it sees; its own positions begin there.
            cache: of :meth:`prefill` or :meth:`remember`.

        Returns:
            ``[M, t, h]``.
        """
        check_prefixes(torch.diff(cache.offsets), row, prefix)
        count, size, _ = suffix.shape
        positions = prefix.unsqueeze(1) + torch.arange(size, device=prefix.device)
        longest = int(prefix.max()) + size if count else 0
        tokens, turns = self._placed(suffix, positions, longest)
        suffixes = Suffixes(cache.offsets, row, prefix)
        for block, prefixes in zip(self._blocks(), cache.layers, strict=True):
            tokens = block.finish(tokens, suffixes.attend(block.heads_of(tokens, turns), prefixes))
        return self.norm(tokens)

    def _run(self, tokens: Tensor, offsets: Tensor, to_the_end: bool) -> tuple[Tensor, Cache]:
        layout = Layout(offsets, self.attention)
        tokens, turns = self._placed(tokens, layout.positions, layout.max_length)
        layers = []
        for block in self._blocks():
            heads = block.heads_of(tokens, turns)
            layers.append(heads[:, 1:])
            if to_the_end or len(layers) < len(self.blocks):
                tokens = block.finish(tokens, causal_attention(heads, layout))
        return tokens, Cache(layout.offsets, tuple(layers))

    def _blocks(self) -> list[Block]:
        return cast(list[Block], list(self.blocks))

    def _placed(self, tokens: Tensor, positions: Tensor, longest: int) -> tuple[Tensor, Tensor | None]:
        """Tokens that know their positions, after dropout; or else the turns ``[..., 3, d / 2]`` that tell them."""
        if self.position is not None:
            return self.dropout(tokens + self.position(positions, longest)), None
        turns = turns_at(positions, self.head_width)
        return self.dropout(tokens), torch.stack([turns, turns, torch.ones_like(turns)], dim=-2)
