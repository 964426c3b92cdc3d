"""Items made in a thread, one ahead of the caller."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from genrec_adapters.read_ahead import read_ahead


def test_items_come_in_order_each_made_while_the_one_before_is_worked_on() -> None:
    made = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        yield 2
        made.set()
        yield 3

    ahead = read_ahead(items())
    assert next(ahead) == 1
    assert next(ahead) == 2
    assert made.wait(10), "the third is made, though nobody asked for it"
    assert list(ahead) == [3]


def test_an_error_comes_where_the_item_would_have() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("no second")

    ahead = read_ahead(items())
    assert next(ahead) == 1
    with pytest.raises(ValueError, match="no second"):
        next(ahead)


def test_a_caller_that_stops_waits_for_nothing() -> None:
    """Closed by the garbage collector while another thread starts, a generator that joins its thread waits for ever."""
    go_on, closed = threading.Event(), threading.Event()

    def items() -> Iterator[int]:
        yield 1
        go_on.wait(60)
        yield 2

    ahead = read_ahead(items())
    assert next(ahead) == 1
    threading.Thread(target=lambda: (ahead.close(), closed.set()), daemon=True).start()  # type: ignore[attr-defined]
    try:
        assert closed.wait(10)
    finally:
        go_on.set()
