"""From a request to its answer: what is let in, how long it may take, and what it is told. Torch-free."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from time import perf_counter

import numpy as np
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from genrec_plugins.serving.batcher import Batcher, Scores
from genrec_plugins.serving.metrics import ServeMetrics
from genrec_plugins.serving.problems import Problem
from genrec_plugins.serving.reload import Model, Models
from genrec_plugins.serving.schema import RowError
from genrec_plugins.serving.settings import ServeSettings
from genrec_plugins.serving.wire import JSON, Asked, answer_body, answer_type, rows_of
from genrec_registry import GenrecError

_log = logging.getLogger("genrec.serve")
_READERS = 2
#: what a client that went away is counted as; nobody gets it
GONE = 499


class ScoreService:
    """Answers ``POST /score``.

    Bodies are read on the event loop, made to tables by two threads, and scored by one.

    Args:
        models: has the model.
        settings: has the limits.
    """

    def __init__(self, models: Models, settings: ServeSettings) -> None:
        self.models, self.settings = models, settings
        self.requests = 0
        self._pending_bytes = 0
        self._on_their_way = 0
        self.metrics = ServeMetrics(lambda: self.batcher.waiting_rows, lambda: self.requests)
        self.batcher = Batcher(
            batch_rows=settings.batch_rows,
            batch_wait=settings.batch_wait_ms / 1000,
            queue_rows=settings.queue_rows,
            coming=lambda: self._on_their_way,
            observe=self.metrics.scored,
        )
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="genrec-read")

    async def close(self) -> None:
        """Stop; requests in flight have been answered."""
        await self.batcher.close()
        self._readers.shutdown(wait=True)

    async def answer(self, request: Request) -> Response:
        """Scores, or why there are none.

        Args:
            request: its body was not read yet.
        """
        began = perf_counter()
        rows = 0
        try:
            if self.requests >= self.settings.max_requests:
                raise Problem(503, "the server is overloaded: too many requests at once; try again", retry_after=1)
            self.requests += 1
            try:
                response, rows = await self._scored(request, began)
            finally:
                self.requests -= 1
        except Problem as problem:
            response = refusal(problem)
        except ClientDisconnect:
            response = Response(status_code=GONE)
        except Exception:
            _log.exception("a request failed")
            response = refusal(Problem(500, "a mistake in the server; its log has the traceback"))
        self.metrics.answered(response.status_code, perf_counter() - began, rows)
        if response.status_code == 503:  # it holds a connection, and nothing else
            await asyncio.sleep(self.settings.refusal_wait_ms / 1000)
        return response

    async def _scored(self, request: Request, began: float) -> tuple[Response, int]:
        end = began + self.settings.deadline_seconds
        kind = answer_type(request.headers.get("accept"))
        model = self.models.current
        if model is None:
            raise Problem(503, "no model is loaded yet; /health says more", retry_after=1)
        if (encoding := request.headers.get("content-encoding", "identity").lower()) != "identity":
            raise Problem(415, f"Content-Encoding is '{encoding}', expected none")
        with self._bytes(request) as taken:
            self._on_their_way += 1
            try:
                asked = await self._asked(request, model, taken, end)
            finally:
                self._on_their_way -= 1
            scores = await self._batched(model, asked, end)
        headers = {"X-Model": model.digest}
        return Response(answer_body(scores, model.digest, kind), media_type=kind, headers=headers), asked.rows

    async def _asked(self, request: Request, model: Model, taken: _Taken, end: float) -> Asked:
        body = await self._body(request, taken, end)
        made = partial(rows_of, max_rows=self.settings.max_request_rows, shared=model.shared)
        kind = request.headers.get("content-type", JSON)
        return await asyncio.get_running_loop().run_in_executor(self._readers, made, body, kind, model.schema)

    async def _batched(self, model: Model, asked: Asked, end: float) -> Scores:
        if not asked.rows:
            return np.empty(0, dtype=np.float32)
        try:
            return await self.batcher.score(model, asked, end - perf_counter())
        except TimeoutError:
            raise Problem(504, f"no scores within {self.settings.deadline_seconds:g} s") from None
        except RowError as error:
            raise Problem.of_row(error) from error
        except GenrecError as error:
            _log.error("a request failed: %s", error)
            raise Problem(500, str(error)) from error

    async def _body(self, request: Request, taken: _Taken, end: float) -> bytes:
        limit = self.settings.max_body_bytes
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(max(0.0, end - perf_counter())):
                async for part in request.stream():
                    size += len(part)
                    if size > limit:
                        raise _too_long(limit)
                    taken.up_to(size)
                    parts.append(part)
        except TimeoutError:
            found = f"{size:,} bytes came within {self.settings.deadline_seconds:g} s"
            raise Problem(408, f"the body did not end in time: {found}") from None
        return b"".join(parts)

    @contextmanager
    def _bytes(self, request: Request) -> Iterator[_Taken]:
        """Bytes of this request's body, which count until it is answered: they stand for its table, too."""
        told = request.headers.get("content-length", "")
        length = int(told) if told.isascii() and told.isdigit() else 0
        if length > self.settings.max_body_bytes:
            raise _too_long(self.settings.max_body_bytes)
        taken = _Taken(self)
        try:
            taken.up_to(length)
            yield taken
        finally:
            self._pending_bytes -= taken.size

    def take(self, size: int) -> None:
        """Count bytes of bodies.

        Raises:
            Problem: there are too many (503).
        """
        if self._pending_bytes + size > self.settings.max_pending_bytes:
            raise Problem(503, "the server is overloaded: too many bytes at once; try again", retry_after=1)
        self._pending_bytes += size


class _Taken:
    """What one request has taken of the bytes there are."""

    def __init__(self, service: ScoreService) -> None:
        self.size = 0
        self._service = service

    def up_to(self, size: int) -> None:
        if size > self.size:
            self._service.take(size - self.size)
            self.size = size


def refusal(problem: Problem) -> Response:
    """The answer that a problem gets.

    Args:
        problem: the problem.
    """
    headers = problem.headers()
    if problem.status in (408, 413):  # else what is left of the body would be read
        headers["Connection"] = "close"
    return JSONResponse(problem.body(), problem.status, headers)


def _too_long(limit: int) -> Problem:
    return Problem(413, f"the body is longer than {limit:,} bytes; send several requests")
