"""Histories as rectangles, for graphs that know no rows of unequal length.

The encoders lay rows out by their lengths, in Python. Here every row has L events. What lies behind a row's end comes
later than all that is asked of it, so that a causal mask hides it; DIN multiplies it by zero. The modules are those
that were trained.
"""

# No postponed annotations: torch.fx writes what it reads here, and TorchScript reads what fx writes.
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from genrec_plugins.encoders.after import AfterEvents
from genrec_plugins.encoders.causal_stack import Block
from genrec_plugins.encoders.din import Din
from genrec_plugins.encoders.lum import Lum
from genrec_plugins.encoders.varlen import Kernel, Layout, causal_attention

Events = Mapping[str, Tensor]


class FullRows(Layout):
    """A layout whose shapes depend on no value: each row has ``length`` tokens.

    Args:
        like: ``[B, length, ...]``.

    Example::

        >>> rows = FullRows(torch.zeros(2, 3, 1))
        >>> rows.positions.tolist()
        [0, 1, 2, 0, 1, 2]
        >>> rows.apply(lambda part, mask: part.cumsum(dim=1), torch.ones(6, 1)).flatten().tolist()
        [1.0, 2.0, 3.0, 1.0, 2.0, 3.0]
    """

    def __init__(self, like: Tensor) -> None:
        # Not the parent's, which reads lengths as numbers.
        self.how = "padded"
        self.max_length = like.shape[1]
        self.positions = torch.arange(self.max_length, device=like.device).expand(like.shape[0], -1).reshape(-1)

    def apply(self, kernel: Kernel, tokens: Tensor) -> Tensor:
        """As :meth:`Layout.apply`."""
        return kernel(tokens.unflatten(0, (-1, self.max_length)), None).flatten(0, 1)


class PaddedAfter(nn.Module):
    """SASRec, HSTU, mean pooling: what is known after each row's last event, ``[B, 1, D]``.

    Args:
        encoder: the trained one.
    """

    def __init__(self, encoder: AfterEvents) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, events: Events, lengths: Tensor, target: Events) -> Tensor:
        """Of padded events ``[B, L, E]`` by feature, of which each row has ``lengths [B]``."""
        encoder = self.encoder
        tokens: Tensor = encoder.events.item(events)
        if encoder.events.condition is not None:
            tokens = tokens + encoder.events.condition(events)
        outputs = encoder.outputs(tokens.flatten(0, 1) * encoder.token_scale, FullRows(tokens)).view_as(tokens)
        last = _at(outputs, (lengths - 1).clamp(min=0))
        found: Tensor = encoder.out(torch.where((lengths > 0).view(-1, 1, 1), last, encoder.start))
        return found


class PaddedLum(nn.Module):
    """LUM: its learned queries stand behind each row's last event, ``[B, N, D]``.

    Args:
        encoder: the trained one.
    """

    def __init__(self, encoder: Lum) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, events: Events, lengths: Tensor, target: Events) -> Tensor:
        """Of padded events ``[B, L, E]`` by feature, of which each row has ``lengths [B]``."""
        encoder, stack = self.encoder, self.encoder.stack
        items = encoder.item(events)
        if encoder.condition is not None:
            conditions = encoder.condition(events)
        else:
            assert encoder.any_condition is not None
            conditions = encoder.any_condition.expand_as(items)
        tokens = torch.stack([conditions, items], dim=2).flatten(1, 2)
        asked = encoder.queries.expand(items.shape[0], -1, -1)
        rows, ends, width = FullRows(tokens), 2 * lengths.unsqueeze(1), tokens.shape[1]
        places = torch.arange(width, device=tokens.device)
        if stack.position is not None:
            tokens = tokens + stack.position(places, width)
            asked = asked + stack.position(ends, width + 1)
        # A query sees the tokens of its row, and of the queries itself alone.
        own = torch.eye(asked.shape[1], dtype=torch.bool, device=tokens.device)
        seen = torch.cat(
            [
                (places < ends).unsqueeze(1).expand(-1, asked.shape[1], -1),
                own.unsqueeze(0).expand(items.shape[0], -1, -1),
            ],
            dim=2,
        )
        for block in stack.blocks:
            assert isinstance(block, Block)
            heads, queries = block.heads_of(tokens, None), block.heads_of(asked, None)
            if stack.position is None:
                heads, queries = _turned(heads, places), _turned(queries, ends)
            asked = block.finish(asked, _answers(queries, heads, seen))
            attended = causal_attention(heads.flatten(0, 1), rows)
            tokens = block.finish(tokens, attended.unflatten(0, (-1, width)))
        found: Tensor = encoder.out(stack.norm(asked))
        return found


def _turned(heads: Tensor, positions: Tensor) -> Tensor:
    """Queries and keys of ``[B, S, 3, H, d]``, turned as at ``positions [S]`` or ``[B, 1]``; in real numbers.

    The same as :func:`~genrec_plugins.encoders.positions.turn`, whose complex numbers are not for every graph.
    """
    width = heads.shape[4]
    frequencies = 10_000.0 ** (-torch.arange(width // 2, device=heads.device, dtype=torch.float32) * 2 / width)
    angles = (positions.unsqueeze(-1) * frequencies).unsqueeze(-2).unsqueeze(-2)
    cosine, sine = angles.cos(), angles.sin()
    even, odd = heads[:, :, :2, :, 0::2], heads[:, :, :2, :, 1::2]
    turned = torch.stack([even * cosine - odd * sine, even * sine + odd * cosine], dim=5).flatten(4)
    return torch.cat([turned, heads[:, :, 2:]], dim=2)


def _answers(queries: Tensor, heads: Tensor, seen: Tensor) -> Tensor:
    """Attention of queries ``[B, N, 3, H, d]`` over tokens ``[B, S, 3, H, d]`` and themselves: ``[B, N, H, d]``."""
    key, value = (torch.cat([heads[:, :, part], queries[:, :, part]], dim=1).transpose(1, 2) for part in (1, 2))
    query = queries[:, :, 0].transpose(1, 2)
    mixed = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=seen.unsqueeze(1))
    return mixed.transpose(1, 2)


class PaddedDin(nn.Module):
    """DIN: the interest of each row in its target, ``[B, 1, D]``.

    Args:
        encoder: the trained one.
    """

    def __init__(self, encoder: Din) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, events: Events, lengths: Tensor, target: Events) -> Tensor:
        """Of padded events ``[B, L, E]`` by feature, of which each row has ``lengths [B]``, and targets ``[B, E]``."""
        embed = self.encoder.events
        past: Tensor = embed.item(events)
        if embed.condition is not None:
            past = past + embed.condition(events)
        now = embed.item(target).unsqueeze(1).expand_as(past)
        weights = self.encoder.activation(torch.cat([past, now, past - now, past * now], dim=2))
        there = torch.arange(past.shape[1], device=past.device) < lengths.unsqueeze(1)
        return (weights * past * there.unsqueeze(2)).sum(dim=1, keepdim=True)


def _at(rows: Tensor, places: Tensor) -> Tensor:
    """``[B, 1, h]``: of ``rows [B, L, h]`` what stands at ``places [B]``."""
    return rows.gather(1, places.view(-1, 1, 1).expand(-1, 1, rows.shape[2]))


def padded_form(encoder: nn.Module) -> nn.Module | None:
    """An encoder over padded events; None for one that has no such form, as a plugin's may.

    Args:
        encoder: the trained one.

    Example::

        >>> from genrec_plugins.encoders.configs import MeanPoolConfig
        >>> from genrec_plugins.encoders.mean_pool import MeanPool
        >>> from genrec_registry import EncoderContext
        >>> context = EncoderContext(embedding_dim=1, feature_dim=1, max_length=3, item_features=("item",))
        >>> padded = padded_form(MeanPool(MeanPoolConfig(), context))
        >>> padded({"item": torch.tensor([[[1.0], [3.0], [99.0]]])}, torch.tensor([2]), {}).tolist()
        [[[2.0]]]
    """
    if isinstance(encoder, AfterEvents):
        return PaddedAfter(encoder)
    if isinstance(encoder, Lum):
        return PaddedLum(encoder)
    return PaddedDin(encoder) if isinstance(encoder, Din) else None
