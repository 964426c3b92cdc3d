"""Compute efficiency of a model: FLOPs a row, operators a forward, MFU against the GEMM rate of the same run.

Model FLOPs count the matrix products of the forward, 2 m n k each, times 3 with the backward. Embedding look-ups are
bytes, not FLOPs, and count for nothing here.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

_Shape = tuple[int, ...]


def _attention_flops(query: _Shape, key: _Shape, value: _Shape, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def _attention_backward_flops(grad: _Shape, query: _Shape, key: _Shape, value: _Shape, *_: Any, **__: Any) -> int:
    return int(sdpa_backward_flop_count(grad, query, key, value))  # computes the scores again


#: The CPU's fused attention, ``[B, H, S, d]`` each, which torch's own counter leaves out.
_COUNTED_TOO = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
}


def flop_counter() -> FlopCounterMode:
    """A mode that counts the FLOPs of matrix products and of fused attention, on a CPU too.

    Attention counts with its whole rectangles: what a causal mask hides is computed all the same on a CPU.

    Example::

        >>> with flop_counter() as counter:
        ...     _ = torch.rand(3, 4) @ torch.rand(4, 5)
        >>> counter.get_total_flops()  # 2 * 3 * 4 * 5
        120
    """
    return FlopCounterMode(display=False, custom_mapping=_COUNTED_TOO)


def forward_flops(module: nn.Module, *inputs: Any, **named: Any) -> int:
    """FLOPs of one forward.

    Args:
        module: any module.
        inputs: its inputs.
        named: its keyword inputs.

    Example::

        >>> forward_flops(nn.Linear(4, 8), torch.rand(10, 4))  # 2 * 10 * 4 * 8
        640
    """
    with torch.no_grad(), flop_counter() as counter:
        module(*inputs, **named)
    return int(counter.get_total_flops())


def forward_operators(module: nn.Module, *inputs: Any, **named: Any) -> int:
    """Operators launched by one forward, nested ones not counted again, views included.

    Example::

        >>> forward_operators(nn.Sequential(nn.ReLU(), nn.ReLU()), torch.rand(2, 2))
        2
    """
    with torch.no_grad():
        return launched_operators(lambda: module(*inputs, **named))


def launched_operators(work: Callable[[], object]) -> int:
    """Operators launched by any piece of work, the backward's too; those within an operator are not counted again.

    Example::

        >>> weight = torch.ones(3, requires_grad=True)
        >>> launched_operators(lambda: (weight * 2).sum())
        2
        >>> launched_operators(lambda: (weight * 2).sum().backward()) > 4
        True
    """
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        work()
    return sum(1 for event in profile.events() if _is_operator(event) and not _within_operator(event))


def _is_operator(event: Any) -> bool:
    return bool(event.name.startswith(("aten::", "fb")))


def _within_operator(event: Any) -> bool:
    parent = event.cpu_parent
    return parent is not None and (_is_operator(parent) or _within_operator(parent))


def gemm_rate(
    device: torch.device | str = "cpu",
    size: int = 1536,
    seconds: float = 0.5,
    dtype: torch.dtype | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """The device's GEMM rate now, FLOP/s: the best of several ``size``-cubed products.

    Args:
        device: which device.
        size: m = n = k.
        seconds: how long to try.
        dtype: of the matrices; fp32, on a GPU bf16, if None.
        clock: that times the products.
    """
    device = torch.device(device)
    dtype = dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32)
    left = torch.rand(size, size, device=device, dtype=dtype)
    right = torch.rand(size, size, device=device, dtype=dtype)
    best = float("inf")
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or best == float("inf"):
        best = min(best, seconds_of(lambda: left @ right, device, clock))
    return 2.0 * size**3 / best


def clock_of(device: torch.device) -> Callable[[], float]:
    """The clock to time work on a device with: on one CPU thread the processor's, which other processes do not move."""
    return time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter


def seconds_of(
    work: Callable[[], object], device: torch.device, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Time of one call, the device's queue drained before and after."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = clock()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - began


def mfu(forward_flops_per_row: float, rows_per_second: float, peak: float) -> float:
    """Model FLOPs utilisation of training: ``3 * forward FLOPs a row * rows/s / peak``.

    Example::

        >>> mfu(1e6, 1e4, 1e11)
        0.3
    """
    return 3 * forward_flops_per_row * rows_per_second / peak
