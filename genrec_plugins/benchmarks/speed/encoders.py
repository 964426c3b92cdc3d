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
from genrec_plugins.benchmarks.speed.options import Options
from genrec_plugins.benchmarks.speed.paired import Timed, race
from genrec_plugins.encoders.causal_stack import CausalStack
from genrec_plugins.encoders.hstu import HstuBlock
from genrec_plugins.encoders.varlen import Layout

HIDDEN = 64
LAYERS = 2
HEADS = 2
MAX_EVENTS = 4096
#: dataset type and folder or file below the sample data, and the events kept of a history
SAMPLES = {"movielens": ("movielens-100k", 200), "amazon-reviews": ("amazon/beauty.inter.json.gz", 50)}


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
    """Our HSTU blocks, forward and backward, beside :func:`reference_block`.

    Args:
        options: turns.
        lengths: events of rows by name; those of the real samples if None.
        hidden: h.
    """
    found = []
    with one_thread():
        for name, events in (lengths or history_lengths(options)).items():
            longest = int(events.max())
            blocks = nn.ModuleList(HstuBlock(hidden, HEADS, longest, dropout=0.0) for _ in range(LAYERS))
            tokens = torch.randn(int(events.sum()), hidden, requires_grad=True)
            gradient, offsets = torch.randn_like(tokens), _offsets(events)

            def ours(blocks: nn.ModuleList = blocks, tokens: Tensor = tokens, offsets: Tensor = offsets) -> Tensor:
                layout, states = Layout(offsets), tokens
                for block in blocks:
                    states = block(states, layout)
                return states

            def theirs(blocks: nn.ModuleList = blocks, tokens: Tensor = tokens, offsets: Tensor = offsets) -> Tensor:
                states = tokens
                for block in blocks:
                    assert isinstance(block, HstuBlock)
                    states = reference_block(block, states, offsets)
                return states

            found += race(
                f"HSTU, {name}",
                {
                    "HSTU, rows of like length together": on_the_cpu(_both_ways(blocks, tokens, ours, gradient)),
                    "the public reference's CPU path, restated": on_the_cpu(
                        _both_ways(blocks, tokens, theirs, gradient)
                    ),
                },
                amount=len(tokens),
                unit="events/s",
                turns=options.turns,
                notes={
                    "the public reference's CPU path, restated": "our own words for what it computes: padded, dense "
                    f"scores; it has no position bias, ours has; h {hidden}"
                },
            )
    return found


def reference_block(block: HstuBlock, tokens: Tensor, offsets: Tensor) -> Tensor:
    """An HSTU block in the way of the public repository's PyTorch path (generative-recommenders), in our own words.

    Queries, keys and values go from flat to padded by FBGEMM, all ``S x S`` scores are made, ``SiLU(.) / n`` and the
    causal mask applied, the weighted values go back to flat. Without the bias by position, which that path lacks.

    Args:
        block: its parameters are used; n is its ``max_length``.
        tokens: flat ``[T, h]``.
        offsets: ``[B + 1]``.
    """
    total, hidden = tokens.shape
    longest = int(torch.diff(offsets).max())
    projected = nn.functional.silu(block.project(block.norm(tokens)))
    gate, value, query, key = projected.split(hidden, dim=1)
    padded = [
        torch.ops.fbgemm.jagged_to_padded_dense(flat, [offsets], [longest], 0.0)
        .unflatten(2, (block.heads, -1))
        .transpose(1, 2)
        for flat in (query, key, value)
    ]
    scores = torch.einsum("bhxa,bhya->bhxy", padded[0], padded[1])
    weights = nn.functional.silu(scores) / block.max_length
    weights = weights * torch.ones(longest, longest, dtype=torch.bool).tril()
    mixed = torch.einsum("bhxy,bhyd->bhxd", weights, padded[2])
    attended = torch.ops.fbgemm.dense_to_jagged(mixed.transpose(1, 2).flatten(2), [offsets], total)[0]
    result: Tensor = tokens + block.mix(block.attended_norm(attended) * gate)
    return result


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
