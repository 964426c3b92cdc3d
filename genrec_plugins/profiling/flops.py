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
from torch.utils.flop_counter import FlopCounterMode


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
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        module(*inputs, **named)
    return int(counter.get_total_flops())


def forward_operators(module: nn.Module, *inputs: Any, **named: Any) -> int:
    """Operators launched by one forward, nested ones not counted again, views included.

    Example::

        >>> forward_operators(nn.Sequential(nn.ReLU(), nn.ReLU()), torch.rand(2, 2))
        2
    """
    with torch.no_grad(), torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        module(*inputs, **named)
    return sum(1 for event in profile.events() if event.cpu_parent is None and event.name.startswith(("aten::", "fb")))


def gemm_rate(device: torch.device | str = "cpu", size: int = 1536, seconds: float = 0.5) -> float:
    """The device's GEMM rate now, FLOP/s: the best of several ``size``-cubed products in fp32 (bf16 on a GPU).

    Args:
        device: which device.
        size: m = n = k.
        seconds: how long to try.
    """
    device = torch.device(device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    left = torch.rand(size, size, device=device, dtype=dtype)
    right = torch.rand(size, size, device=device, dtype=dtype)
    best = float("inf")
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or best == float("inf"):
        best = min(best, seconds_of(lambda: left @ right, device))
    return 2.0 * size**3 / best


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Wall time of one call, the device's queue drained before and after."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def mfu(forward_flops_per_row: float, rows_per_second: float, peak: float) -> float:
    """Model FLOPs utilisation of training: ``3 * forward FLOPs a row * rows/s / peak``.

    Example::

        >>> mfu(1e6, 1e4, 1e11)
        0.3
    """
    return 3 * forward_flops_per_row * rows_per_second / peak
