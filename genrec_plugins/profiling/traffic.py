"""Bytes that operators read and write, and the most bytes that are alive at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

#: operators that read a few rows of their first argument
_LOOKUPS = ("embedding", "index_select", "gather", "index.")


class Traffic(TorchDispatchMode):
    """Counts the bytes of every operator's arguments and results, views left out.

    That is what goes to and from memory if nothing stays in a cache from one operator to the next: arithmetic
    intensity, FLOPs over these bytes, is that of the operators as they are launched. A look-up counts the rows that it
    reads, and not its table.

    Attributes:
        bytes: so far.
        operators: so far.

    Example::

        >>> with Traffic() as traffic:
        ...     _ = torch.ones(10, dtype=torch.float32).mul(2).view(2, 5)
        >>> traffic.bytes, traffic.operators  # 40 for the ones, 40 read and 40 written for the product
        (120, 2)
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0
        self.operators = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operator and count it."""
        kwargs = kwargs or {}
        results = func(*args, **kwargs)
        name = func.name().removeprefix("aten::")
        if func.is_view or name.startswith(("empty", "detach", "_unsafe_view")):
            return results
        self.operators += 1
        written = sum(map(_bytes, tree_leaves(results)))
        read = [_bytes(leaf) for leaf in tree_leaves((args, kwargs))]
        if name.startswith(_LOOKUPS) and read:
            read[0] = min(read[0], written)
        self.bytes += written + sum(read)
        return results

    def __enter__(self) -> Self:
        """Begin to count."""
        super().__enter__()
        return self


def _bytes(value: Any) -> int:
    """Of a tensor's elements; those that an ``expand`` repeats are one."""
    if not isinstance(value, Tensor) or value.layout != torch.strided:
        return 0
    number = 1
    for size, stride in zip(value.shape, value.stride(), strict=True):
        number *= size if stride else min(size, 1)
    return number * value.element_size()


def peak_bytes(work: Callable[[], object], device: torch.device | str = "cpu") -> int:
    """The most bytes that ``work`` holds at a time, beside what was there before.

    Args:
        work: what to run.
        device: whose memory; on a CPU what torch allocates, which is less than what the process keeps.

    Example::

        >>> peak_bytes(lambda: torch.ones(1000).mul(2).mul(3).sum()) // 1000  # two tensors of 4000 bytes
        8
    """
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return int(torch.cuda.max_memory_allocated(device) - before)
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        work()
    records: list[Any] = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for record in sorted(records, key=lambda event: event.start_ns()):
        now += record.nbytes()
        peak = max(peak, now)
    return peak
