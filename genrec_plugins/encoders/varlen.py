"""Attention over rows of unequal length, without padding where it costs: rows stay one flat ``[T, ...]``.

Everything token-wise (projections, norms, FFN) works on flat tokens. Attention alone needs to know where rows begin; a
:class:`Layout` says how they are laid into padded rectangles for it, and is made once a forward for all layers:

- ``bucketed`` (the default, and the fastest here): rows of similar length share a rectangle. Padding stands at the
  right, where a causal mask hides it.
- ``packed``: short rows stand behind each other in one rectangle as wide as the longest, under a block-diagonal causal
  mask (LUM, "packing").
- ``padded``: one rectangle for all, as a plain batch of padded sequences.

All give what :func:`attention_by_row` gives. On CUDA in half precision ``bucketed`` attention is one call of PyTorch's
flash kernel for jagged rows; that path is untested here.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

How = Literal["bucketed", "packed", "padded"]
Kernel = Callable[[Tensor, Tensor | None], Tensor]
Int64 = npt.NDArray[np.int64]

#: Scores (query-key pairs) of padding that cost as much as one more call: measured on one CPU thread, 10k to 30k.
CALL_COST = 16_000


@dataclass(frozen=True)
class Rectangle:
    """R rows laid side by side in one padded tensor ``[R, S, ...]``.

    Args:
        tokens: ``[R, S]`` the flat token in each place; padding repeats some token of the row.
        row: ``[R, S]`` the row each place belongs to where a place may see others of its row only; None where every
            row of the rectangle is one row of the batch.
    """

    tokens: Int64
    row: Int64 | None = None


class Layout:
    """Where the rows of a jagged batch lie, and how they are laid out for attention.

    Args:
        offsets: ``[B + 1]``, row b has the tokens ``offsets[b]`` to ``offsets[b + 1]``; empty rows are allowed.
        how: see the module.

    Attributes:
        offsets: the same, int64.
        positions: ``[T]`` each token's place in its row.
        max_length: tokens of the longest row.

    Example::

        >>> layout = Layout(torch.tensor([0, 2, 2, 5]))
        >>> layout.positions.tolist(), layout.max_length
        ([0, 1, 0, 1, 2], 3)
        >>> layout.apply(lambda rows, mask: rows.cumsum(dim=1), torch.ones(5, 1)).flatten().tolist()
        [1.0, 2.0, 1.0, 2.0, 3.0]
    """

    def __init__(self, offsets: Tensor, how: How = "bucketed") -> None:
        device = offsets.device
        ends = offsets.detach().cpu().numpy().astype(np.int64)
        starts, lengths = ends[:-1], np.diff(ends)
        self.how = how
        self.offsets = offsets.long()
        self.max_length = int(lengths.max(initial=0))
        self.num_tokens = int(ends[-1])
        self.positions = torch.from_numpy(np.arange(self.num_tokens) - np.repeat(starts, lengths)).to(device)
        rectangles = list(_LAYOUTS[how](starts, lengths)) or [Rectangle(np.zeros((0, 1), dtype=np.int64))]
        self._shapes = [rectangle.tokens.shape for rectangle in rectangles]
        self._masks = [_block_mask(rectangle.row, device) for rectangle in rectangles]
        places = np.concatenate([rectangle.tokens.ravel() for rectangle in rectangles])
        self._gather = torch.from_numpy(places).to(device)
        # Written from the right, so that of all places that hold a token the first one, the real one, stays.
        back = np.zeros(self.num_tokens, dtype=np.int64)
        back[places[::-1]] = np.arange(len(places))[::-1]
        self._scatter = torch.from_numpy(back).to(device)

    def apply(self, kernel: Kernel, tokens: Tensor) -> Tensor:
        """Run a causal kernel over padded rows.

        Args:
            kernel: ``(rows [R, S, ...], mask) -> [R, S, ...]``, called once a rectangle. Token s may look at tokens
                ``<= s`` of its row, and at those where ``mask [R, S, S]`` is true, if there is one.
            tokens: flat ``[T, ...]``.

        Returns:
            flat ``[T, ...]``.
        """
        padded = tokens.index_select(0, self._gather).split([rows * width for rows, width in self._shapes])
        results = [
            kernel(part.unflatten(0, shape), mask).flatten(0, 1)
            for part, shape, mask in zip(padded, self._shapes, self._masks, strict=True)
        ]
        return torch.cat(results).index_select(0, self._scatter)


def _padded(starts: Int64, lengths: Int64) -> Iterator[Rectangle]:
    """All rows in one rectangle."""
    rows = np.flatnonzero(lengths)
    if len(rows):
        yield _rectangle(starts[rows], lengths[rows])


def _bucketed(starts: Int64, lengths: Int64) -> Iterator[Rectangle]:
    """From the longest row down: a rectangle is closed where going on would cost more padding than another call."""
    rows = np.argsort(-lengths, kind="stable")[: np.count_nonzero(lengths)]
    sizes, counts = np.unique(lengths[rows], return_counts=True)
    begin = end = width = waste = 0
    for size, count in zip(sizes[::-1].tolist(), counts[::-1].tolist(), strict=True):
        waste += count * (width**2 - size**2)
        if waste > CALL_COST or end == 0:
            if end:
                yield _rectangle(starts[rows[begin:end]], lengths[rows[begin:end]])
            begin, width, waste = end, size, 0
        end += count
    if end:
        yield _rectangle(starts[rows[begin:end]], lengths[rows[begin:end]])


def _rectangle(starts: Int64, lengths: Int64) -> Rectangle:
    places = np.arange(lengths.max())
    return Rectangle(starts[:, None] + np.minimum(places, lengths[:, None] - 1))


def _packed(starts: Int64, lengths: Int64) -> Iterator[Rectangle]:
    """First fit, longest row first, into bins as wide as the longest row."""
    if not lengths.any():
        return
    width = int(lengths.max())
    bins: list[list[int]] = []
    free: list[int] = []
    for row in np.argsort(-lengths, kind="stable")[: np.count_nonzero(lengths)].tolist():
        index = next((i for i, room in enumerate(free) if room >= lengths[row]), len(bins))
        if index == len(bins):
            bins.append([])
            free.append(width)
        bins[index].append(row)
        free[index] -= int(lengths[row])
    tokens = np.empty((len(bins), width), dtype=np.int64)
    owner = np.empty((len(bins), width), dtype=np.int64)
    for index, rows in enumerate(bins):
        # What is left of the bin repeats its last token, as if that row went on.
        filled = np.concatenate([np.arange(starts[row], starts[row] + lengths[row]) for row in rows])
        tokens[index] = np.pad(filled, (0, width - len(filled)), mode="edge")
        owner[index] = np.pad(np.repeat(rows, lengths[rows]), (0, width - len(filled)), mode="edge")
    yield Rectangle(tokens, owner)


_LAYOUTS = {"bucketed": _bucketed, "packed": _packed, "padded": _padded}


def _block_mask(row: Int64 | None, device: torch.device) -> Tensor | None:
    """Block-diagonal and causal, ``[R, S, S]``."""
    if row is None:
        return None
    owner = torch.from_numpy(row).to(device)
    return (owner[:, :, None] == owner[:, None, :]).tril()


def causal_attention(heads: Tensor, layout: Layout, dropout: float = 0.0) -> Tensor:
    """Softmax attention of every token over itself and the earlier tokens of its row.

    Args:
        heads: queries, keys and values, flat ``[T, 3, H, d]``.
        layout: of the T tokens.
        dropout: on the attention weights.

    Returns:
        flat ``[T, H, d]``.

    Example::

        >>> heads, offsets = torch.randn(5, 3, 2, 4), torch.tensor([0, 2, 2, 5])
        >>> torch.allclose(causal_attention(heads, Layout(offsets)), attention_by_row(heads, offsets), atol=1e-5)
        True
    """
    if layout.how == "bucketed" and layout.num_tokens and _flash(heads) and not dropout:
        from torch.nn.attention.varlen import varlen_attn

        query, key, value = heads.unbind(1)
        ends, longest = layout.offsets.int(), layout.max_length
        attended = varlen_attn(query, key, value, ends, ends, longest, longest, window_size=(-1, 0))
        assert isinstance(attended, Tensor)
        return attended

    if heads.device.type == "cpu" and heads.dtype == torch.bfloat16:
        # PyTorch's CPU kernel is slower in bf16 than in fp32; forward and backward together by 2.5x where measured.
        with torch.autocast("cpu", enabled=False):
            return causal_attention(heads.float(), layout, dropout).to(heads.dtype)

    def kernel(rows: Tensor, mask: Tensor | None) -> Tensor:
        query, key, value = rows.permute(2, 0, 3, 1, 4)  # [R, S, 3, H, d] to three of [R, H, S, d]
        mask = None if mask is None else mask.unsqueeze(1)
        mixed = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=mask is None, dropout_p=dropout
        )
        return mixed.transpose(1, 2)

    return layout.apply(kernel, heads)


def _flash(heads: Tensor) -> bool:
    """Whether PyTorch's flash kernel for jagged rows takes this tensor."""
    return heads.is_cuda and heads.dtype in (torch.float16, torch.bfloat16)


def attention_by_row(heads: Tensor, offsets: Tensor) -> Tensor:
    """The same as :func:`causal_attention`, row by row and in plain formulas: slow, and obviously right.

    Example::

        >>> heads = torch.tensor([1.0, 3.0, 5.0]).view(3, 1, 1, 1) * torch.tensor([0.0, 0.0, 1.0]).view(3, 1, 1)
        >>> attention_by_row(heads, torch.tensor([0, 2, 3])).flatten().tolist()
        [1.0, 2.0, 5.0]
    """
    rows = [heads[:0, 2]]
    for start, stop in zip(offsets.tolist(), offsets.tolist()[1:], strict=False):
        query, key, value = heads[start:stop].unbind(1)
        scores = torch.einsum("ihd,jhd->hij", query, key) / query.shape[-1] ** 0.5
        hidden = torch.ones(stop - start, stop - start, dtype=torch.bool, device=query.device).triu(1)
        weights = scores.masked_fill(hidden, float("-inf")).softmax(dim=-1)
        rows.append(torch.einsum("hij,jhd->ihd", weights, value))
    return torch.cat(rows)
