"""Where a token stands in its row: rotary angles, or a learned table."""

import torch
from torch import Tensor, nn

from genrec_registry import ModelError


def rotate(heads: Tensor, positions: Tensor, base: float = 10_000.0) -> Tensor:
    """Rotary position embedding (RoFormer, arXiv 2104.09864, equation 34): turn pair i by ``position * base^(-2i/d)``.

    The angles are made here: a buffer would be zeros after DMP materialises a module built on the meta device.

    Args:
        heads: ``[..., H, d]`` with an even d; feature i is paired with ``i + d/2``.
        positions: ``[...]``.
        base: of the angles' wave lengths.

    Example::

        >>> q, k = torch.randn(2, 1, 1, 8)
        >>> here, there = torch.tensor([3]), torch.tensor([7])
        >>> score = (rotate(q, here) * rotate(k, there)).sum()
        >>> torch.allclose(score, (rotate(q, here + 5) * rotate(k, there + 5)).sum(), atol=1e-5)  # relative
        True
    """
    half = heads.shape[-1] // 2
    frequencies = base ** (-torch.arange(half, device=heads.device, dtype=torch.float32) / half)
    angles = (positions.unsqueeze(-1) * frequencies).unsqueeze(-2)
    cos, sin = angles.cos().to(heads.dtype), angles.sin().to(heads.dtype)
    first, second = heads[..., :half], heads[..., half:]
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


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
