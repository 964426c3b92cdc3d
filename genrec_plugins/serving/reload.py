"""The model that is being served, and how another one takes its place while requests go on. Torch-free.

A new export is opened and tried on a thread of its own. Only then do new requests get it; those that were read for the
old one are still scored by it. An export that cannot be served changes nothing but what ``/health`` says.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from genrec_plugins.serving.batcher import Scorer
from genrec_plugins.serving.facts import NAME
from genrec_plugins.serving.schema import RawSchema
from genrec_registry import DataError, GenrecError

CURRENT = "current"
_log = logging.getLogger("genrec.serve")


class Model(Scorer, Protocol):
    """What is served."""

    @property
    def schema(self) -> RawSchema:
        """The raw columns."""

    @property
    def digest(self) -> str:
        """Equal digests, equal scores."""

    shared: frozenset[str]
    history: str
    loaded_at: float

    def try_out(self) -> None:
        """Raise if it cannot score."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A new export that could not be served.

    Args:
        directory: where it was.
        error: why.
        at: seconds since 1970.
    """

    directory: str
    error: str
    at: float


class Models:
    """The model that new requests get.

    Args:
        directory: an export; a symbolic link to one; or a folder in which ``current`` is one of these.
        open_model: opens an export.
        observe: told of each reload: ``ok``, ``same`` or ``failed``.

    Attributes:
        current: the model; None until the first is loaded.
        failure: of the newest try, None if it went well.
    """

    def __init__(
        self,
        directory: str | Path,
        open_model: Callable[[Path], Model],
        observe: Callable[[str], None] = lambda outcome: None,
    ) -> None:
        self.directory = Path(directory)
        self.current: Model | None = None
        self.failure: Failure | None = None
        self.observe = observe
        self._open_model = open_model
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="genrec-load")
        self._one_at_a_time = asyncio.Lock()
        self._seen: object = None

    async def reload(self) -> bool:
        """Look for an export now, and serve it if it is another one.

        Returns:
            Whether it is another one.

        Raises:
            GenrecError: it cannot be served; the model before goes on.
        """
        async with self._one_at_a_time:
            loop = asyncio.get_running_loop()
            self._seen = await loop.run_in_executor(self._loader, self._mark)
            before = None if self.current is None else self.current.digest
            try:
                found = await loop.run_in_executor(self._loader, self._opened, before)
            except GenrecError as error:
                self.failure = Failure(directory=str(self.directory), error=str(error), at=time.time())
                goes_on = "" if before is None else f"; the model {before[:16]} goes on"
                _log.error("the export cannot be served: %s%s", error, goes_on)
                self.observe("failed")
                raise
            self.failure = None
            if found is None:
                self.observe("same")
                return False
            self.current = found
            _log.info("serving model %s from %s", found.digest[:16], self.directory)
            self.observe("ok")
            return True

    async def watch(self, seconds: float) -> None:
        """Look for a new export every so many seconds, for ever.

        Args:
            seconds: between two looks.
        """
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(seconds)
            mark = await loop.run_in_executor(self._loader, self._mark)
            if mark is None or mark == self._seen:
                continue
            try:
                await self.reload()
            except GenrecError:
                continue  # it is in the log, and in /health

    def close(self) -> None:
        """Load no more."""
        self._loader.shutdown(wait=True)

    def _mark(self) -> object:
        """What changes when another export is put in place; None where there is none."""
        try:
            place = export_place(self.directory)
            facts = (place / NAME).stat()
        except (OSError, RuntimeError):  # a circle of links
            return None
        return str(place), facts.st_ino, facts.st_mtime_ns, facts.st_size

    def _opened(self, before: str | None) -> Model | None:
        """The export, tried; None if it is the one that is being served."""
        try:
            model = self._open_model(export_place(self.directory))
            if model.digest == before:
                return None
            model.try_out()
        except GenrecError:
            raise
        except Exception as error:  # it must not end the server, whatever it is
            _log.exception("the export %s cannot be opened", self.directory)
            raise DataError(f"{self.directory}: cannot be opened ({type(error).__name__}: {error})") from error
        return model


def export_place(directory: Path) -> Path:
    """The export itself: a link that moves while it is opened must not mix two of them.

    Args:
        directory: an export, a link to one, or a folder with ``current`` in it.
    """
    inside = directory / CURRENT
    linked = inside if not (directory / NAME).exists() and inside.exists() else directory
    return linked.resolve()
