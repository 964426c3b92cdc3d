"""What a user sees while it trains: a progress bar with rows/s, ETA and loss, or nothing."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    from rich.progress import TaskID


class Reporter(Protocol):
    """Told of each step and each evaluation."""

    def step(self, *, epoch: int, done: int, total: int, rows: int, loss: float) -> None:
        """``done`` of ``total`` steps of ``epoch`` are done; ``rows`` were read since the last call."""

    def rows(self, *, stage: str, rows: int, total: int | None) -> None:
        """``rows`` of ``total`` (None: unknown) went through a stage of the preprocessing."""

    def message(self, text: str) -> None:
        """One line for the user."""


class Quiet:
    """Says nothing."""

    def step(self, *, epoch: int, done: int, total: int, rows: int, loss: float) -> None:
        """Ignore."""

    def rows(self, *, stage: str, rows: int, total: int | None) -> None:
        """Ignore."""

    def message(self, text: str) -> None:
        """Ignore."""


class Console:
    """A rich progress bar on stderr; plain lines where stderr is not a terminal.

    Args:
        unit: what ``rows`` counts.

    Example::

        >>> with Console() as console:
        ...     console.step(epoch=1, done=1, total=2, rows=4096, loss=0.7)
    """

    def __init__(self, unit: str = "rows") -> None:
        from rich.console import Console as RichConsole
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._unit = unit
        self._console = RichConsole(stderr=True, highlight=False)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[position]}"),
            TextColumn("{task.fields[rate]:,.0f} " + f"{unit}/s"),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not sys.stderr.isatty(),
            transient=True,
        )
        self._task: TaskID | None = None
        self._loss = 0.0
        self._rows = 0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def _advance(self, title: str, *, completed: int, total: int | None, rows: int, position: str, note: str) -> None:
        """Move the bar titled ``title``; another title starts another bar. ``rows`` went by in this bar so far."""
        if self._task is None or self._progress.tasks[0].description != title:
            if self._task is not None:
                self._progress.remove_task(self._task)
            self._task = self._progress.add_task(title, total=total, position="", rate=0.0, note="")
        elapsed = self._progress.tasks[0].elapsed
        rate = rows / elapsed if elapsed else 0.0
        self._progress.update(self._task, completed=completed, total=total, position=position, rate=rate, note=note)

    def step(self, *, epoch: int, done: int, total: int, rows: int, loss: float) -> None:
        """Move the bar; the loss shown is a running mean."""
        title = f"epoch {epoch}"
        if self._task is None or self._progress.tasks[0].description != title:
            self._loss, self._rows = loss, 0
        self._loss += 0.1 * (loss - self._loss)
        self._rows += rows
        position = f"{done}/{total} steps"
        note = f"loss {self._loss:.4f}"
        self._advance(title, completed=done, total=total, rows=self._rows, position=position, note=note)

    def rows(self, *, stage: str, rows: int, total: int | None) -> None:
        """Move the bar of a preprocessing stage."""
        position = f"{rows:,}/{total:,} {self._unit}" if total else f"{rows:,} {self._unit}"
        self._advance(stage, completed=rows, total=total, rows=rows, position=position, note="")

    def message(self, text: str) -> None:
        """Print a line above the bar."""
        self._console.print(text, markup=False, soft_wrap=True)
