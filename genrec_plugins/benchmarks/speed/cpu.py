"""Ways of computing, timed by the processor's clock on one thread: other processes on the machine do not count."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

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


def on_the_cpu(work: Callable[[], object], calls: int = 1) -> Callable[[], float]:
    """``work``, done ``calls`` times, as a way of :func:`.paired.race` that tells its own processor seconds.

    Example::

        >>> 0 <= on_the_cpu(lambda: time.sleep(0.2))() < 0.1  # to wait is no work
        True
    """

    def timed() -> float:
        began = time.process_time()
        for _ in range(calls):
            work()
        return time.process_time() - began

    return timed
