"""FAT's attention over the fields of a row, with pair-wise modulation (paper 3.2), a few rows at a time on a CPU.

The scores ``[B, H, F, F]`` are FAT's largest tensor, several times its tokens. Whole, they go through memory once for
each of product, modulation and softmax, forward and backward; a few rows' scores stay in a core's cache.
"""

import torch
from torch import Tensor, nn

from genrec_plugins.interactions.fat_config import FatConfig

#: Scores attended at a time on a CPU: 1.6 MB in fp32. Half as many and twice as many cost about the same.
SCORES_AT_A_TIME = 400_000


def modulated_attention(
    qkv: Tensor, modulation: Tensor | None, num_heads: int, scores_at_a_time: int = SCORES_AT_A_TIME
) -> Tensor:
    """``softmax((q_i . k_j) / sqrt(d_h) * w_ij) v_j`` within each row, rows in parts that fit the cache on a CPU.

    Args:
        qkv: queries, keys and values side by side, field-major, ``[F, B, 3 d]``.
        modulation: w, ``[1 or H, F, F]``, or None.
        num_heads: H.
        scores_at_a_time: of all heads, that a part of the rows may have; a part is one row at least.

    Returns:
        ``[F, B, d]``.

    Example::

        >>> modulated_attention(torch.zeros(3, 5, 12), None, num_heads=2).shape
        torch.Size([3, 5, 4])
    """
    return _modulated_attention(qkv, modulation, num_heads, scores_at_a_time)


# A leaf for torch.fx: how many parts there are depends on the batch.
@torch.fx.wrap
def _modulated_attention(qkv: Tensor, modulation: Tensor | None, num_heads: int, scores_at_a_time: int) -> Tensor:
    rows = qkv.size(1)
    # A compiled or exported graph would hold one copy of the formula for each part.
    if not torch.jit.is_scripting() and torch.compiler.is_compiling():
        return attend(qkv, modulation, num_heads)
    if qkv.device.type == "cpu":
        rows = max(1, scores_at_a_time // (num_heads * qkv.size(0) * qkv.size(0)))
    if rows >= qkv.size(1):
        return attend(qkv, modulation, num_heads)
    return torch.cat([attend(part, modulation, num_heads) for part in qkv.split(rows, dim=1)], dim=1)


def attend(qkv: Tensor, modulation: Tensor | None, num_heads: int) -> Tensor:
    """:func:`modulated_attention` for all rows at once.

    Example::

        >>> qkv, table = torch.randn(3, 5, 12), torch.randn(1, 3, 3)
        >>> torch.allclose(attend(qkv, table, 2), modulated_attention(qkv, table, 2))
        True
    """
    fields, rows = qkv.size(0), qkv.size(1)
    head_width = qkv.size(2) // (3 * num_heads)
    heads = qkv.unflatten(2, (3, num_heads, head_width)).permute(2, 1, 3, 0, 4)
    # One copy here, else one for each of the three before its product.
    query, key, value = heads.reshape(3, rows * num_heads, fields, head_width).unbind(0)
    scores = torch.bmm(query, key.transpose(1, 2)).view(rows, num_heads, fields, fields)
    # The scale goes on the table: one pass over the scores for both.
    scale = head_width**-0.5
    scores = scores * scale if modulation is None else scores * (modulation * scale)
    weights = torch.softmax(scores, dim=3).view(rows * num_heads, fields, fields)
    mixed = torch.bmm(weights, value).view(rows, num_heads, fields, head_width)
    return mixed.permute(2, 0, 1, 3).flatten(2)


class FieldAttention(nn.Module):
    """Field-decomposed attention with pair-wise modulation (paper 3.2).

    ``s(i, j) = (q_i . k_j) / sqrt(d_h) * w[f_i, f_j]``, ``o_i = sum_j softmax_j(s(i, j)) v_j``; heads split d.

    Args:
        num_fields: F, tokens of a row.
        config: FAT's options (modulation).
        width: d.

    Example::

        >>> attention = FieldAttention(num_fields=3, config=FatConfig(num_heads=2), width=4)
        >>> attention(torch.randn(3, 5, 12)).shape  # q, k, v side by side, field-major
        torch.Size([3, 5, 4])
    """

    def __init__(self, num_fields: int, config: FatConfig, width: int) -> None:
        super().__init__()
        self.num_fields = num_fields
        self.num_heads = config.num_heads
        self.width = width
        self.mean = 1.0 if config.modulation == "one-plus" else 0.0
        tables = config.num_heads if config.modulation_per_head else 1
        self.modulation = (
            nn.Parameter(torch.empty(tables, num_fields, num_fields)) if config.modulation != "none" else None
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the modulation from N(mean, 0.01); 0.01 is the standard deviation."""
        if self.modulation is not None:
            nn.init.normal_(self.modulation, mean=self.mean, std=0.01)

    def forward(self, qkv: Tensor) -> Tensor:
        """Attend over the fields of each row, ``[F, B, 3 d] -> [F, B, d]``."""
        return modulated_attention(qkv, self.modulation, self.num_heads)
