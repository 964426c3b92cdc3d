"""Attention within a row: both ways, in fp32 and bf16, against the formula of one row."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from genrec_plugins.interactions.row_attention import PLAIN_TOKENS, row_attention


def one_by_one(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """``sum_j softmax_j(scale q_i . k_j) v_j``, a row, head and token at a time."""
    found = torch.zeros_like(value)
    rows, heads, tokens, _ = query.shape
    for row in range(rows):
        for head in range(heads):
            for token in range(tokens):
                scores = scale * (key[row, head] @ query[row, head, token])
                found[row, head, token] = torch.softmax(scores, dim=0) @ value[row, head]
    return found


@pytest.mark.parametrize("tokens", [1, 5, PLAIN_TOKENS, PLAIN_TOKENS + 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_ways_equal_the_formula(tokens: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 2, tokens, 4)
    expected = one_by_one(query, key, value, scale=0.7)
    found = row_attention(query.to(dtype), key.to(dtype), value.to(dtype), scale=0.7)
    assert found.dtype == dtype
    close = {"atol": 1e-5, "rtol": 1e-4} if dtype == torch.float32 else {"atol": 0.05, "rtol": 0.05}
    torch.testing.assert_close(found.float(), expected, **close)


@pytest.mark.parametrize("tokens", [PLAIN_TOKENS, PLAIN_TOKENS + 1])
def test_which_way(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    used = []
    fused = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        torch.nn.functional,
        "scaled_dot_product_attention",
        lambda *rows, **named: used.append(1) or fused(*rows, **named),
    )
    rows = torch.randn(3, 1, 1, tokens, 4)
    row_attention(*rows, scale=1.0)
    assert len(used) == (tokens > PLAIN_TOKENS)
    row_attention(*rows.bfloat16(), scale=1.0)
    assert len(used) == (tokens > PLAIN_TOKENS), "bf16 never goes through the CPU's fused kernel"
