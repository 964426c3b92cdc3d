"""Samples of a training process's memory, and what they say about an hour of it."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from genrec_plugins.training.reporter import Quiet
from genrec_registry import ConfigError

#: share of the samples that is warm-up: pools, caches and the allocator's arenas fill
WARM_UP = 0.3
#: what memory may grow by in the time after warm-up: a share of what it was then, and a bit for the allocator
BOUND_SHARE, BOUND_MIB = 0.02, 8.0


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Memory at one moment.

    Args:
        seconds: since the first step.
        step: training steps so far.
        rss_mib: resident memory of the process.
        tensors: tensors that are alive.
        objects: Python objects that the garbage collector tracks.
    """

    seconds: float
    step: int
    rss_mib: float
    tensors: int
    objects: int


@dataclass(frozen=True, kw_only=True)
class Soaked:
    """What a soak found.

    Args:
        samples: all of them.
        slope_mib_per_hour: of the line through resident memory after warm-up.
        growth_mib: what that line rises by from the end of warm-up to the end.
        bound_mib: what it may.
        tensors: growth of the number of live tensors in that time, between medians of its halves.
        steady: whether memory grew by no more than the bound, and tensors not at all.
    """

    samples: tuple[Sample, ...]
    slope_mib_per_hour: float
    growth_mib: float
    bound_mib: float
    tensors: float
    steady: bool


def rss_mib() -> float:
    """Resident memory of this process (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def judge(samples: Sequence[Sample]) -> Soaked:
    """Draw the line through the samples after warm-up.

    Args:
        samples: in order of time.

    Raises:
        ConfigError: there are too few of them.

    Example::

        >>> def at(second, rss):
        ...     return Sample(seconds=second, step=second, rss_mib=rss, tensors=5, objects=9)
        >>> judge([at(second, 500.0) for second in range(60)]).steady
        True
        >>> leaking = judge([at(second, 500.0 + second) for second in range(60)])
        >>> leaking.steady, round(leaking.slope_mib_per_hour)
        (False, 3600)
    """
    kept = list(samples[int(len(samples) * WARM_UP) :])
    if len(kept) < 6:
        raise ConfigError(f"found {len(samples)} samples, expected 9 at least; soak for longer, or sample more often")
    seconds = np.array([sample.seconds for sample in kept])
    memory = np.array([sample.rss_mib for sample in kept])
    slope = float(np.polyfit(seconds - seconds[0], memory, 1)[0])
    growth = slope * float(seconds[-1] - seconds[0])
    bound = BOUND_SHARE * float(memory[0]) + BOUND_MIB
    half = len(kept) // 2
    tensors = [float(np.median([sample.tensors for sample in part])) for part in (kept[:half], kept[half:])]
    return Soaked(
        samples=tuple(samples),
        slope_mib_per_hour=slope * 3600,
        growth_mib=growth,
        bound_mib=bound,
        tensors=tensors[1] - tensors[0],
        steady=growth <= bound and tensors[1] <= tensors[0],
    )


class Enough(Exception):
    """It has trained for long enough."""


class Watch(Quiet):
    """A reporter that samples memory, and ends the training when it has gone on for long enough.

    Args:
        until: seconds to train, from the end of the first step, or steps.
        every: seconds between samples, or steps.
        by_steps: whether these are steps, so that a slow machine samples at the same moments.
        tell: called with each sample.
    """

    def __init__(
        self, until: float, every: float, *, by_steps: bool = False, tell: Callable[[Sample], None] | None = None
    ) -> None:
        self.samples: list[Sample] = []
        self._until, self._every, self._by_steps, self._tell = until, every, by_steps, tell
        self._began = 0.0
        self._steps, self._due = 0, every

    def step(self, *, epoch: int, done: int, total: int, rows: int, loss: float) -> None:
        """Sample, if it is time."""
        self._began = self._began or time.monotonic()
        self._steps += 1
        seconds = time.monotonic() - self._began
        now = self._steps if self._by_steps else seconds
        if now >= self._due:
            self._due += (1 + (now - self._due) // self._every) * self._every
            self.samples.append(self._sample(seconds))
            if self._tell is not None:
                self._tell(self.samples[-1])
        if now >= self._until:
            raise Enough

    def _sample(self, seconds: float) -> Sample:
        import torch

        gc.collect()
        objects = gc.get_objects()
        # isinstance() would ask objects that answer for others, and wake lazy modules
        tensors = sum(issubclass(type(one), torch.Tensor) for one in objects)
        return Sample(seconds=seconds, step=self._steps, rss_mib=rss_mib(), tensors=tensors, objects=len(objects))
