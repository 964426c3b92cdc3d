"""Where a token stands in its row: rotary angles, or a learned table."""

import torch
from torch import Tensor, nn

from genrec_registry import ModelError


def turns_at(positions: Tensor, width: int, base: float = 10_000.0) -> Tensor:
    """Rotary position embedding (RoFormer, arXiv 2104.09864, section 3.2.2): the turn of every pair of features.

    Pair i at position p is turned by ``p * base^(-2i/d)``. Made in the forward: as a buffer the angles would be zeros
    after DMP materialises a module built on the meta device.

    Args:
        positions: ``[...]``.
        width: d, of a head; even.
        base: of the wave lengths.

    Returns:
        ``[..., d / 2]`` complex numbers of length 1, for :func:`turn`.

    Example::

        >>> turns_at(torch.tensor([0]), width=4)
        tensor([[1.+0.j, 1.+0.j]])
    """
    frequencies = base ** (-torch.arange(width // 2, device=positions.device, dtype=torch.float32) * 2 / width)
    angles = positions.unsqueeze(-1) * frequencies
    return torch.polar(torch.ones_like(angles), angles)


def turn(heads: Tensor, turns: Tensor) -> Tensor:
    """Turn features 2i and 2i + 1 together: one complex product, several times faster than sines and cosines apart.

    Args:
        heads: ``[..., H, d]``.
        turns: ``[..., d / 2]`` of :func:`turns_at`.

    Example::

        >>> q, k = torch.randn(2, 1, 1, 8)
        >>> near = [turns_at(torch.tensor([place]), width=8) for place in (3, 7)]
        >>> far = [turns_at(torch.tensor([place]), width=8) for place in (13, 17)]
        >>> score = (turn(q, near[0]) * turn(k, near[1])).sum()  # depends on the distance alone
        >>> torch.allclose(score, (turn(q, far[0]) * turn(k, far[1])).sum(), atol=1e-5)
        True
    """
    pairs = torch.view_as_complex(heads.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turns.unsqueeze(-2)).flatten(-2).to(heads.dtype)


class PositionTable(nn.Module):
    """One learned vector a position.

    Args:
        max_length: tokens of the longest row.
        hidden: h.

    Raises:
        ModelError: a row is longer.

    Example::

        >>> PositionTable(max_length=3, hidden=8)(torch.tensor([0, 1, 0, 1, 2]), longest=3).shape
        torch.Size([5, 8])
    """

    def __init__(self, max_length: int, hidden: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(max_length, hidden))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw from N(0, 0.02); 0.02 is the standard deviation."""
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, positions: Tensor, longest: int) -> Tensor:
        """``[..., h]`` of positions ``[...]``, all below ``longest``."""
        check_length(longest, len(self.weight))
        return self.weight[positions]


def check_length(longest: int, max_length: int) -> None:
    """Refuse a row that is longer than a learned table.

    Raises:
        ModelError: it is.

    Example::

        >>> check_length(3, max_length=3)
    """
    if longest > max_length:
        raise ModelError(
            f"a row has {longest} tokens, but there are learned positions for {max_length}; "
            "keep the last events of longer rows, or raise max_length"
        )


def check_prefixes(lengths: Tensor, row: Tensor, prefix: Tensor) -> None:
    """Refuse to look behind the end of a row, where another one begins.

    Args:
        lengths: ``[B]`` of the rows.
        row: ``[M]``.
        prefix: ``[M]`` what is looked at of each.

    Raises:
        ModelError: a prefix is negative, or longer than its row.

    Example::

        >>> check_prefixes(torch.tensor([2, 3]), row=torch.tensor([1, 0]), prefix=torch.tensor([3, 0]))
    """
    wrong = (prefix < 0) | (prefix > lengths[row])
    if wrong.any():
        first = int(wrong.nonzero()[0])
        raise ModelError(
            f"query {first} looks at the first {int(prefix[first])} of row {int(row[first])}, which has "
            f"{int(lengths[row[first]])}; prefixes lie between 0 and the row's length"
        )
