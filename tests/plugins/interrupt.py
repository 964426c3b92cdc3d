"""A training that is broken off, for tests of going on."""

from __future__ import annotations

from genrec_plugins.training.reporter import Quiet


class Interrupt(Quiet):
    """Stops the run after a number of steps, as Ctrl-C would, and keeps what it was told.

    Args:
        after: steps; a negative number for never.

    Attributes:
        told: the messages.
    """

    def __init__(self, after: int = -1) -> None:
        self.left = after
        self.told: list[str] = []

    def step(self, **facts: object) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt

    def message(self, text: str) -> None:
        self.told.append(text)
