"""The fast ways of attending against the slow, obvious ones; and what each encoder is by its paper."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from genrec_plugins.encoders.causal_stack import CausalStack
from genrec_plugins.encoders.varlen import Layout, attention_by_row, causal_attention
from genrec_registry import ModelError

LENGTHS = {
    "ragged": [3, 0, 1, 17, 4, 4, 0, 9, 1],
    "equal": [5, 5, 5],
    "one": [6],
    "empty rows": [0, 0, 0],
    "no rows": [],
    "many": [40, *range(1, 30), 33, 0, 33],
}
HOW = ("bucketed", "packed", "padded")


def offsets_for(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_every_layout_attends_as_row_by_row(how, lengths):
    offsets = offsets_for(lengths)
    generator = torch.Generator().manual_seed(0)
    heads = torch.randn(sum(lengths), 3, 2, 6, generator=generator)
    upstream = torch.randn(sum(lengths), 2, 6, generator=generator)
    fast, slow = heads.clone().requires_grad_(), heads.clone().requires_grad_()
    found = causal_attention(fast, Layout(offsets, how))
    expected = attention_by_row(slow, offsets)
    found.backward(upstream)
    expected.backward(upstream)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(fast.grad, slow.grad, atol=1e-5, rtol=0)


def separate_passes(stack: CausalStack, tokens: Tensor, offsets: Tensor, suffix: Tensor, row, prefix) -> Tensor:
    """One full pass for each suffix: its prefix, then itself."""
    starts = offsets.tolist()
    outputs = []
    for own, r, p in zip(suffix, row.tolist(), prefix.tolist(), strict=True):
        whole = torch.cat([tokens[starts[r] : starts[r] + p], own])
        outputs.append(stack(whole, torch.tensor([0, len(whole)]))[p:])
    return torch.stack(outputs) if outputs else suffix


@pytest.mark.parametrize("positions", ["rope", "learned"])
@pytest.mark.parametrize("size", [1, 4])
def test_extend_is_as_many_separate_passes(positions, size):
    torch.manual_seed(0)
    lengths = [3, 0, 1, 17, 4, 4, 0, 9, 1]
    offsets = offsets_for(lengths)
    stack = CausalStack(hidden=8, layers=2, heads=2, positions=positions, max_length=17 + size).eval()
    tokens = torch.randn(sum(lengths), 8)
    every_prefix = [(r, p) for r, length in enumerate(lengths) for p in range(length + 1)]
    row, prefix = torch.tensor(every_prefix)[torch.randperm(len(every_prefix))].T
    suffix = torch.randn(len(row), size, 8)
    out, cache = stack.prefill(tokens, offsets)
    torch.testing.assert_close(out, stack(tokens, offsets), atol=0, rtol=0)
    found = stack.extend(suffix, row, prefix, cache)
    assert torch.equal(stack.extend(suffix, row, prefix, stack.remember(tokens, offsets)), found)
    expected = separate_passes(stack, tokens, offsets, suffix, row, prefix)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_extend_cuts_many_suffixes_of_one_row_into_several_groups():
    torch.manual_seed(0)
    stack = CausalStack(hidden=8, layers=1, heads=2).eval()
    tokens, offsets = torch.randn(7, 8), torch.tensor([0, 5, 7])
    row = torch.tensor([0] * 200 + [1] * 3)
    prefix = torch.cat([torch.randint(6, (200,)), torch.tensor([2, 0, 1])])
    suffix = torch.randn(203, 2, 8)
    found = stack.extend(suffix, row, prefix, stack.prefill(tokens, offsets)[1])
    expected = separate_passes(stack, tokens, offsets, suffix, row, prefix)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_extend_of_nothing():
    stack = CausalStack(hidden=8, layers=1, heads=2)
    _, cache = stack.prefill(torch.randn(3, 8), torch.tensor([0, 3]))
    none = torch.zeros(0, dtype=torch.long)
    assert stack.extend(torch.zeros(0, 2, 8), none, none, cache).shape == (0, 2, 8)
    _, empty = stack.prefill(torch.zeros(0, 8), torch.tensor([0, 0]))
    zero = torch.zeros(1, dtype=torch.long)
    assert torch.isfinite(stack.extend(torch.randn(1, 2, 8), zero, zero, empty)).all()


def test_learned_positions_end_where_they_end():
    stack = CausalStack(hidden=8, layers=1, heads=2, positions="learned", max_length=3)
    stack(torch.randn(3, 8), torch.tensor([0, 3]))
    with pytest.raises(ModelError, match=r"4 tokens.*for 3"):
        stack(torch.randn(4, 8), torch.tensor([0, 4]))


def test_widths_that_do_not_go_together():
    with pytest.raises(ModelError, match="heads 3"):
        CausalStack(hidden=8, heads=3)
    with pytest.raises(ModelError, match="even"):
        CausalStack(hidden=6, heads=2)
    with pytest.raises(ModelError, match="max_length"):
        CausalStack(hidden=6, heads=2, positions="learned")
