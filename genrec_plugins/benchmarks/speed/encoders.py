"""LUM's packed encoder against PyTorch's padded one, and HSTU against the way the public reference goes on a CPU."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from genrec_plugins.benchmarks.packing_speed import Lengths, read_lengths, sample
from genrec_plugins.benchmarks.speed.cpu import on_the_cpu, one_thread
from genrec_plugins.benchmarks.speed.hstu_reference import checkout_stack, reference_block
from genrec_plugins.benchmarks.speed.options import Options
from genrec_plugins.benchmarks.speed.paired import Spent, Timed, race
from genrec_plugins.encoders.causal_stack import CausalStack
from genrec_plugins.encoders.hstu import HstuBlock
from genrec_plugins.encoders.varlen import Layout

HIDDEN = 64
LAYERS = 2
HEADS = 2
MAX_EVENTS = 4096
#: dataset type and folder or file below the sample data, and the events kept of a history
SAMPLES = {"movielens": ("movielens-100k", 200), "amazon-reviews": ("amazon/beauty.inter.json.gz", 50)}

_OURS = "HSTU, rows of like length together"
_THEIRS = "the public reference's own code"
_RESTATED = "the public reference's CPU path, restated"
_HSTU_NOTES = {
    _THEIRS: "padded, dense scores; no bias",
    f"{_THEIRS}, with its bias": "by time and position, as it has by default",
    _RESTATED: "our own words for what it computes; no bias",
}
_Forward = Callable[[Tensor, Tensor], Tensor]


def history_lengths(options: Options, max_events: int = MAX_EVENTS) -> dict[str, Lengths]:
    """Events of some users of each real dataset that is there; a note for one that is not, and drawn ones for none.

    Args:
        options: takes the notes.
        max_events: of all users together.
    """
    data = Path(os.environ.get("GENREC_DATA", "../shared/data"))
    found: dict[str, Lengths] = {}
    for kind, (relative, longest) in SAMPLES.items():
        if not (data / relative).exists():
            options.notes.append(f"encoders: without {kind}, which is not at {data / relative}")
            continue
        lengths = read_lengths(f"{kind}={data / relative}")[1]
        found[f"{kind}, up to {longest} events"] = sample(lengths, longest, max_events, seed=1)
    if not found:
        drawn = np.random.default_rng(1).lognormal(3.5, 1.0, size=max_events).astype(np.int64) + 1
        found["drawn lengths, up to 200 events"] = sample(drawn, 200, max_events, seed=1)
    return found


def lum(options: Options, lengths: Mapping[str, Lengths] | None = None, *, hidden: int = HIDDEN) -> list[Timed]:
    """LUM's transformer, forward and backward, beside ``nn.TransformerEncoder`` of as many parameters on padded rows.

    Two tokens an event, as LUM has them. PyTorch's encoder gets a causal mask and a padding mask, and rows filled up to
    the longest; the rate counts real tokens.

    Args:
        options: turns.
        lengths: events of rows by name; those of the real samples if None.
        hidden: h.
    """
    found = []
    with one_thread():
        for name, events in (lengths or history_lengths(options)).items():
            tokens = 2 * int(events.sum())
            ways = {
                "LUM, rows of like length together": _packed(events, hidden),
                "nn.TransformerEncoder, padded": _padded(events, hidden),
            }
            share = tokens / (2 * len(events) * int(events.max()))
            found += race(
                f"LUM, {name}",
                {what: on_the_cpu(work) for what, work in ways.items()},
                amount=tokens,
                unit="tokens/s",
                turns=options.turns,
                notes={"nn.TransformerEncoder, padded": f"{share:.0%} of its places hold a token; h {hidden}"},
            )
    return found


def _packed(events: Lengths, hidden: int) -> Callable[[], object]:
    """Our stack on flat tokens."""
    stack = CausalStack(hidden=hidden, layers=LAYERS, heads=HEADS)
    tokens = torch.randn(2 * int(events.sum()), hidden, requires_grad=True)
    offsets = _offsets(2 * events)
    gradient = torch.randn_like(tokens)
    return _both_ways(stack, tokens, lambda: stack(tokens, offsets), gradient)


def _padded(events: Lengths, hidden: int) -> Callable[[], object]:
    """PyTorch's encoder on rows filled up to the longest."""
    layer = nn.TransformerEncoderLayer(
        hidden, HEADS, 4 * hidden, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    encoder = nn.TransformerEncoder(layer, LAYERS, norm=nn.LayerNorm(hidden), enable_nested_tensor=False)
    longest = 2 * int(events.max())
    tokens = torch.randn(len(events), longest, hidden, requires_grad=True)
    padding = torch.arange(longest) >= torch.from_numpy(2 * events).unsqueeze(1)
    causal = torch.ones(longest, longest, dtype=torch.bool).triu(1)
    gradient = torch.randn_like(tokens).masked_fill(padding.unsqueeze(2), 0.0)
    run = lambda: encoder(tokens, mask=causal, src_key_padding_mask=padding, is_causal=False)  # noqa: E731
    return _both_ways(encoder, tokens, run, gradient)


def hstu(options: Options, lengths: Mapping[str, Lengths] | None = None, *, hidden: int = HIDDEN) -> list[Timed]:
    """Our HSTU blocks, forward and backward, beside the public reference's, from a checkout and as restated here.

    Args:
        options: turns, and the checkout of the reference; without it a note says so.
        lengths: events of rows by name; those of the real samples if None.
        hidden: h.
    """
    found = []
    if options.hstu_reference is None:
        options.notes.append("hstu: without the reference's own code, which --hstu-reference CHECKOUT adds")
    with one_thread():
        for name, events in (lengths or history_lengths(options)).items():
            longest = int(events.max())
            blocks = nn.ModuleList(HstuBlock(hidden, HEADS, longest, dropout=0.0) for _ in range(LAYERS))
            tokens = torch.randn(int(events.sum()), hidden, requires_grad=True)
            gradient, offsets = torch.randn_like(tokens), _offsets(events)

            def timed(
                module: nn.Module,
                forward: _Forward,
                tokens: Tensor = tokens,
                given: tuple[Tensor, ...] = (offsets, gradient),
            ) -> Callable[[], Spent]:
                return on_the_cpu(_both_ways(module, tokens, lambda: forward(tokens, given[0]), given[1]))

            ways = {_OURS: timed(blocks, _through(blocks))}
            if options.hstu_reference is not None:
                for what, biased in ((_THEIRS, False), (f"{_THEIRS}, with its bias", True)):
                    ways[what] = timed(*checkout_stack(options.hstu_reference, blocks, biased=biased))
            ways[_RESTATED] = timed(blocks, _restated(blocks))
            found += race(
                f"HSTU, {name}",
                ways,
                amount=len(tokens),
                unit="events/s",
                turns=options.turns,
                notes=_HSTU_NOTES | {_OURS: f"with a bias by position; h {hidden}"},
            )
    return found


def _through(blocks: nn.ModuleList) -> _Forward:
    def forward(tokens: Tensor, offsets: Tensor) -> Tensor:
        layout = Layout(offsets)
        for block in blocks:
            tokens = block(tokens, layout)
        return tokens

    return forward


def _restated(blocks: nn.ModuleList) -> _Forward:
    def forward(tokens: Tensor, offsets: Tensor) -> Tensor:
        for block in blocks:
            assert isinstance(block, HstuBlock)
            tokens = reference_block(block, tokens, offsets)
        return tokens

    return forward


def _both_ways(
    module: nn.Module, tokens: Tensor, forward: Callable[[], Tensor], gradient: Tensor
) -> Callable[[], object]:
    """Forward and backward, the tokens' gradient included."""

    def run() -> None:
        module.zero_grad(set_to_none=True)
        tokens.grad = None
        forward().backward(gradient)

    return run


def _offsets(lengths: Lengths) -> Tensor:
    return torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]))
