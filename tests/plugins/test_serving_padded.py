"""Encoders over padded histories: the tokens of the encoders themselves, for any lengths."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchrec import JaggedTensor

from genrec_plugins.serving.padded import padded_form
from genrec_registry import EncoderContext, default_registry

LENGTH, WIDTH, TOLERANCE = 6, 8, 5e-6
CASES: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
    (component.name, {}, ("action",)) for component in default_registry().components("encoder")
] + [
    ("sasrec", {"num_heads": 2, "num_layers": 3, "hidden": 4}, ()),
    ("hstu", {"attention": "packed"}, ()),
    ("lum", {"num_queries": 3, "num_heads": 4, "hidden": 16}, ("action", "kind")),
    ("lum", {"num_queries": 2, "num_heads": 1, "positions": "learned", "num_layers": 3}, ()),
]


def made(name: str, options: dict[str, Any], conditions: tuple[str, ...]) -> nn.Module:
    component = default_registry().get("encoder", name)
    context = EncoderContext(
        embedding_dim=4,
        feature_dim=WIDTH,
        max_length=LENGTH,
        item_features=("item", "genre"),
        condition_features=conditions,
    )
    encoder: nn.Module = component.record.load_factory()(component.record.load_config()(**options), context)
    for parameter in encoder.parameters():  # what begins small would hide mistakes
        nn.init.normal_(parameter, std=0.3)
    return encoder.eval()


@pytest.mark.parametrize(("name", "options", "conditions"), CASES, ids=range(len(CASES)))
@settings(max_examples=15, deadline=None)
@given(lengths=st.lists(st.integers(0, LENGTH), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_padded_tokens_are_the_encoders(
    name: str, options: dict[str, Any], conditions: tuple[str, ...], lengths: list[int], seed: int
) -> None:
    torch.manual_seed(seed)
    encoder = made(name, options, conditions)
    features = ("item", "genre", *conditions)
    padded = {feature: torch.randn(len(lengths), LENGTH, WIDTH) for feature in features}
    target = {feature: torch.randn(len(lengths), WIDTH) for feature in ("item", "genre")}
    counts = torch.tensor(lengths)
    there = torch.arange(LENGTH) < counts.unsqueeze(1)
    events = {feature: JaggedTensor(values[there], lengths=counts) for feature, values in padded.items()}
    form = padded_form(encoder)
    assert form is not None
    with torch.no_grad():
        expected = encoder(events, target)
        found = form(padded, counts, target)
        # what lies behind the rows' ends is nobody's
        others = {feature: torch.where(there.unsqueeze(2), values, 99.0) for feature, values in padded.items()}
        again = form(others, counts, target)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= TOLERANCE * (1 + expected.abs().max())
    assert torch.equal(again, found)


def test_a_plugins_encoder_has_none() -> None:
    class Own(nn.Module):
        num_user_tokens = 1

        def forward(self, events: Any, target: Any) -> Tensor:
            return torch.zeros(1, 1, 4)

    assert padded_form(Own()) is None
