"""HSTU as the public reference has it on a CPU: its own code from a checkout, or our restatement of that."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genrec_plugins.encoders.hstu import HstuBlock
from genrec_registry import SetupError

_MODULE = "generative_recommenders.research.modeling.sequential.hstu"
_BUCKETS = 128  # of times, as the reference's HSTU has them


def reference_block(block: HstuBlock, tokens: Tensor, offsets: Tensor) -> Tensor:
    """An HSTU block in the way of the public repository's PyTorch path (generative-recommenders), in our own words.

    Queries, keys and values go from flat to padded by FBGEMM, all ``S x S`` scores are made, ``SiLU(.) / n`` and the
    causal mask applied, the weighted values go back to flat. Without a bias by position or time.

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


def checkout_stack(checkout: Path, blocks: nn.ModuleList, *, biased: bool) -> tuple[nn.Module, Callable[..., Tensor]]:
    """The reference's own stack with the weights of ours, from a checkout of its repository.

    Args:
        checkout: folder that has ``generative_recommenders``.
        blocks: :class:`~genrec_plugins.encoders.hstu.HstuBlock` s, without dropout; their norms have no effect of their
            own yet, as the reference's have no parameters.
        biased: with its bias by time and position, which it has by default; without, it computes what ours do with
            a bias of zero.

    Returns:
        The module, and its forward: flat tokens ``[T, h]`` and offsets ``[B + 1]`` to ``[T, h]``.

    Raises:
        SetupError: there is no such code there, or it cannot be imported.
    """
    code = _import(checkout)
    layers, longest = [], 0
    for block in blocks:
        assert isinstance(block, HstuBlock)
        hidden = block.mix.in_features
        bias = code.RelativeBucketedTimeAndPositionBasedBias(
            max_seq_len=block.max_length,
            num_buckets=_BUCKETS,
            bucketization_fn=lambda gaps: (torch.log(torch.abs(gaps).clamp(min=1)) / 0.301).long(),
        )
        layer = code.SequentialTransductionUnitJagged(
            embedding_dim=hidden,
            linear_hidden_dim=hidden // block.heads,
            attention_dim=hidden // block.heads,
            dropout_ratio=0.0,
            attn_dropout_ratio=0.0,
            num_heads=block.heads,
            linear_activation="silu",
            relative_attention_bias_module=bias,
        )
        with torch.no_grad():
            layer._uvqk.copy_(block.project.weight.T)
            layer._o.weight.copy_(block.mix.weight)
            layer._o.bias.copy_(block.mix.bias)
        layers.append(layer)
        longest = block.max_length
    stack = code.HSTUJagged(layers, autocast_dtype=None)
    mask = torch.ones(longest, longest).tril()

    def forward(tokens: Tensor, offsets: Tensor) -> Tensor:
        times = torch.arange(longest).expand(len(offsets) - 1, -1) if biased else None
        states: Tensor = stack.jagged_forward(tokens, offsets, times, mask)[0]
        return states

    return stack, forward


def _import(checkout: Path) -> Any:
    place = checkout / Path(*_MODULE.split(".")).with_suffix(".py")
    if not place.is_file():
        raise SetupError(
            f"{checkout}: has no {place.relative_to(checkout)}, expected a checkout of generative-recommenders; "
            "mend --hstu-reference"
        )
    sys.path.insert(0, str(checkout))
    try:
        return importlib.import_module(_MODULE)
    except ImportError as error:
        raise SetupError(f"{checkout}: the reference cannot be imported ({error}); install what it needs") from error
    finally:
        sys.path.remove(str(checkout))
