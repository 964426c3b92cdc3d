"""Requests that come together are scored together: one queue, one worker thread. Torch-free.

Everything but the scoring happens on the event loop, so that there is nothing to lock. A request waits for others only
while there are any whose body is being read: a lone client never waits.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from genrec_plugins.serving.problems import Problem
from genrec_plugins.serving.wire import Asked

Scores = NDArray[np.float32]
#: weight of the newest batch in the estimate of the time that a row takes
_NEWEST = 0.2
_LONGEST_RETRY = 60


class Scorer(Protocol):
    """What a batch is scored by."""

    def score(self, asked: Sequence[Asked]) -> Scores:
        """Probabilities of all rows, one request after the other."""


@dataclass(eq=False)
class _Job:
    scorer: Scorer
    asked: Asked
    answer: asyncio.Future[Scores]


class Batcher:
    """Gathers requests and gives each its own scores, or its own error.

    Args:
        batch_rows: a batch takes requests up to so many rows; a single request may have more.
        batch_wait: seconds that the first of a batch waits for others at most.
        queue_rows: rows that may wait; a request beyond them is shed.
        coming: how many requests are on their way to :meth:`score`.
        observe: told of each batch: requests, rows, seconds.

    Example::

        >>> import pyarrow as pa
        >>> class Ages:
        ...     def score(self, asked):
        ...         return np.concatenate([one.table["age"].to_numpy() for one in asked])
        >>> async def main():
        ...     batcher = Batcher(batch_rows=8, batch_wait=0.0, queue_rows=8)
        ...     batcher.start()
        ...     asked = Asked(table=pa.table({"age": [0.5, 0.25]}))
        ...     scores = await batcher.score(Ages(), asked, seconds=5)
        ...     await batcher.close()
        ...     return scores.tolist()
        >>> asyncio.run(main())
        [0.5, 0.25]
    """

    def __init__(
        self,
        *,
        batch_rows: int,
        batch_wait: float,
        queue_rows: int,
        coming: Callable[[], int] = lambda: 0,
        observe: Callable[[int, int, float], None] = lambda requests, rows, seconds: None,
    ) -> None:
        self.batch_rows, self.batch_wait, self.queue_rows = batch_rows, batch_wait, queue_rows
        self._coming, self._observe = coming, observe
        self._jobs: deque[_Job] = deque()
        #: rows that wait, and rows that are being scored
        self.waiting_rows = 0
        self.running_rows = 0
        self._seconds_a_row = 0.0
        self._arrived = asyncio.Event()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="genrec-score")
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to score; call it on the event loop."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Score no more; requests that still wait are cancelled."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        for job in self._jobs:
            job.answer.cancel()
        self._jobs.clear()
        self._worker.shutdown(wait=True)

    async def score(self, scorer: Scorer, asked: Asked, seconds: float) -> Scores:
        """Probabilities of a request's rows.

        Args:
            scorer: only requests of one scorer go into one batch.
            asked: the rows.
            seconds: until nobody waits for the answer any more.

        Raises:
            Problem: too many rows wait, or they would wait too long (503).
            TimeoutError: the time is over.
        """
        wait = (self.waiting_rows + self.running_rows) * self._seconds_a_row
        if self.waiting_rows and self.waiting_rows + asked.rows > self.queue_rows:
            raise self._shed(f"{self.waiting_rows:,} rows wait already", wait)
        if wait > seconds:
            raise self._shed(f"the rows that wait already take {wait:.1f} s", wait)
        job = _Job(scorer, asked, asyncio.get_running_loop().create_future())
        self._jobs.append(job)
        self.waiting_rows += asked.rows
        self._arrived.set()
        async with asyncio.timeout(seconds):
            return await job.answer

    def _shed(self, found: str, wait: float) -> Problem:
        return Problem(
            503,
            f"the server is overloaded: {found}; try again after the seconds in Retry-After",
            retry_after=min(_LONGEST_RETRY, max(1, math.ceil(wait))),
        )

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._arrived.clear()
            if not self._jobs:
                await self._arrived.wait()
            await self._gather()
            jobs = self._take()
            if not jobs:
                continue
            rows = sum(job.asked.rows for job in jobs)
            self.running_rows = rows
            began = perf_counter()
            try:
                answers = await loop.run_in_executor(self._worker, _scored, jobs)
            finally:
                self.running_rows = 0
            spent = perf_counter() - began
            self._note(rows, spent)
            self._observe(len(jobs), rows, spent)
            for job, answer in zip(jobs, answers, strict=True):
                if job.answer.done():  # it was given up
                    continue
                if isinstance(answer, Exception):
                    job.answer.set_exception(answer)
                else:
                    job.answer.set_result(answer)

    def _note(self, rows: int, seconds: float) -> None:
        if rows:
            found, before = seconds / rows, self._seconds_a_row
            self._seconds_a_row = before + _NEWEST * (found - before) if before else found

    async def _gather(self) -> None:
        """Wait for the requests that are on their way, while there is room for them."""
        end = asyncio.get_running_loop().time() + self.batch_wait
        while self.waiting_rows < self.batch_rows and self._coming() and asyncio.get_running_loop().time() < end:
            self._arrived.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(end):
                    await self._arrived.wait()

    def _take(self) -> list[_Job]:
        """The next batch: requests of one scorer that are still waited for."""
        taken: list[_Job] = []
        rows = 0
        while self._jobs:
            job = self._jobs[0]
            if not job.answer.done():
                if taken and (rows + job.asked.rows > self.batch_rows or job.scorer is not taken[0].scorer):
                    break
                taken.append(job)
                rows += job.asked.rows
            self._jobs.popleft()
            self.waiting_rows -= job.asked.rows
        return taken


def _scored(jobs: Sequence[_Job]) -> list[Scores | Exception]:
    """Each job's scores. Where one fails, each is scored by itself, so that it fails alone."""
    try:
        scores = jobs[0].scorer.score([job.asked for job in jobs])
    except Problem as error:  # of no row
        return [error for _ in jobs]
    except Exception as error:
        return [error] if len(jobs) == 1 else [_scored([job])[0] for job in jobs]
    ends = np.cumsum([job.asked.rows for job in jobs])
    return list(np.split(scores, ends[:-1]))
