"""Ways of computing, timed by the processor's clock on one thread: other processes on the machine do not count."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from genrec_plugins.benchmarks.speed.paired import Spent
from genrec_plugins.training.memory import keep_freed_memory


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for torch's operators inside, and memory that is kept as in training.

    Example::

        >>> with one_thread():
        ...     torch.get_num_threads()
        1
    """
    keep_freed_memory()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Stopwatch:
    """Seconds of the processor and of the clock since it was made.

    Example::

        >>> watch = Stopwatch()
        >>> time.sleep(0.2)  # to wait is no work
        >>> watch.read().cpu < 0.1 < watch.read().clock
        True
    """

    def __init__(self) -> None:
        self._cpu, self._clock = time.process_time(), time.perf_counter()

    def read(self) -> Spent:
        """So far."""
        return Spent(cpu=time.process_time() - self._cpu, clock=time.perf_counter() - self._clock)


def on_the_cpu(work: Callable[[], object], calls: int = 1) -> Callable[[], Spent]:
    """``work``, done ``calls`` times, as a way of :func:`.paired.race` that goes by the processor's time.

    Example::

        >>> spent = on_the_cpu(lambda: time.sleep(0.2))()
        >>> spent.cpu < 0.1 < spent.clock
        True
    """

    def timed() -> Spent:
        watch = Stopwatch()
        for _ in range(calls):
            work()
        return watch.read()

    return timed
