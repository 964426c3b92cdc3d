"""Items made in a thread, one ahead of the caller."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def read_ahead(items: Iterator[T]) -> Iterator[T]:
    """The items, the next one made in a thread while the caller works on this one; zlib and polars release the GIL.

    A caller that stops early does not wait for the item that is being made.

    Example::

        >>> list(read_ahead(iter([1, 2, 3])))
        [1, 2, 3]
    """
    end = object()
    pool = ThreadPoolExecutor(1, thread_name_prefix="ahead")
    try:
        ahead = pool.submit(next, items, end)
        while (item := ahead.result()) is not end:
            ahead = pool.submit(next, items, end)
            yield item  # type: ignore[misc]
    finally:
        # Joining the thread could wait for ever: an abandoned generator is closed wherever the garbage collector runs,
        # in the middle of another thread's start too, and threading then holds the lock that a join needs.
        pool.shutdown(wait=False)
