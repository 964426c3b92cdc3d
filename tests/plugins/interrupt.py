"""A training that is broken off, for tests of going on."""

from __future__ import annotations

from genrec_plugins.training.reporter import Quiet


class Interrupt(Quiet):
    """Stops the run after a number of steps, as Ctrl-C would.

    Args:
        after: steps; a negative number for never.
    """

    def __init__(self, after: int) -> None:
        self.left = after

    def step(self, **facts: object) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
