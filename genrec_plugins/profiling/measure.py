"""The numbers of one component: FLOPs, bytes, operators, time, MFU, memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from genrec_plugins.profiling.flops import clock_of, flop_counter, launched_operators, seconds_of
from genrec_plugins.profiling.subjects import Subject
from genrec_plugins.profiling.traffic import Traffic, peak_bytes


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What one subject costs.

    Model FLOPs are those of the forward's matrix products, times 3 with the backward; ``executed_flops`` are counted
    as they run, backward included, so that what is computed twice shows.

    Args:
        name: of the component.
        kind: ``interaction`` or ``encoder``.
        part: what of it ran.
        backward: whether the backward is included.
        rows: of a call.
        events: of a call.
        parameters: of the component.
        flops: model FLOPs of a call.
        executed_flops: FLOPs that a call runs.
        bytes: that its operators read and write.
        operators_forward: launched by a forward, views included.
        operators: launched by a call.
        seconds: of the fastest call.
        peak_flops: FLOP/s that the device could do.
        peak_bytes: the most memory that a call holds.
    """

    name: str
    kind: str
    part: str
    backward: bool
    rows: int
    events: int
    parameters: int
    flops: int
    executed_flops: int
    bytes: int
    operators_forward: int
    operators: int
    seconds: float
    peak_flops: float
    peak_bytes: int

    @property
    def rows_per_second(self) -> float:
        """Rows over seconds."""
        return self.rows / self.seconds

    @property
    def intensity(self) -> float:
        """Arithmetic intensity: FLOPs that run, over bytes."""
        return self.executed_flops / self.bytes if self.bytes else 0.0

    @property
    def mfu(self) -> float:
        """Model FLOPs utilisation: model FLOPs a second, over the peak."""
        return self.flops / self.seconds / self.peak_flops

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        derived = {
            "flops_per_row": self.flops / self.rows,
            "rows_per_second": self.rows_per_second,
            "events_per_second": self.events / self.seconds,
            "intensity": self.intensity,
            "mfu": self.mfu,
        }
        return asdict(self) | derived

    def cells(self) -> dict[str, object]:
        """A line of the table."""
        return {
            "component": self.name,
            "part": self.part,
            "MFU": f"{self.mfu:.1%}",
            "kFLOPs/row": f"{self.flops / self.rows / 1e3:,.0f}",
            "FLOPs/byte": f"{self.intensity:.1f}",
            "operators": f"{self.operators_forward}" + (f" + {self.backward_operators}" if self.backward else ""),
            "rows/s": f"{self.rows_per_second:,.0f}",
            "peak MB": f"{self.peak_bytes / 1e6:,.1f}",
            "parameters": f"{self.parameters:,}",
        }

    @property
    def backward_operators(self) -> int:
        """Launched by the backward alone."""
        return self.operators - self.operators_forward


def measure(
    subject: Subject,
    *,
    peak_flops: float,
    backward: bool = True,
    repeats: int = 5,
    device: torch.device | str = "cpu",
) -> Profile:
    """Measure one subject.

    Args:
        subject: what runs.
        peak_flops: FLOP/s of the device.
        backward: whether the backward is included; without it no gradient is kept.
        repeats: timed calls, of which the fastest counts.
        device: where it runs.
    """
    device = torch.device(device)
    work: Callable[[], object] = subject.step if backward else torch.no_grad()(subject.forward)
    work()  # builds what is built once
    with torch.no_grad(), flop_counter() as forward:
        subject.forward()
    with Traffic() as traffic, flop_counter() as executed:
        work()
    operators_forward = launched_operators(torch.no_grad()(subject.forward))
    subject.clear()  # or the gradients that are there would count as memory that the call need not take
    most = peak_bytes(work, device)
    return Profile(
        name=subject.name,
        kind=subject.kind,
        part=subject.part,
        backward=backward,
        rows=subject.rows,
        events=subject.events,
        parameters=sum(parameter.numel() for parameter in subject.module.parameters()),
        flops=int(forward.get_total_flops()) * (3 if backward else 1),
        executed_flops=int(executed.get_total_flops()),
        bytes=traffic.bytes,
        operators_forward=operators_forward,
        operators=launched_operators(work) if backward else operators_forward,
        seconds=min(seconds_of(work, device, clock_of(device)) for _ in range(max(repeats, 1))),
        peak_flops=peak_flops,
        peak_bytes=most,
    )


def write_trace(subject: Subject, path: Path, *, backward: bool = True, device: torch.device | str = "cpu") -> None:
    """Write a trace of one call for ``chrome://tracing`` or Perfetto.

    Args:
        subject: what runs.
        path: the file; gzipped if it ends in ``.gz``.
        backward: whether the backward is included.
        device: where it runs.
    """
    work = subject.step if backward else torch.no_grad()(subject.forward)
    work()
    activities = [torch.profiler.ProfilerActivity.CPU]
    if torch.device(device).type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities, record_shapes=True) as profile:
        work()
    profile.export_chrome_trace(str(path))
