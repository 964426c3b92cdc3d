"""Build a directory aside and put it in place at once, so that a killed run leaves nothing half-valid."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from genrec_adapters.manifest import NAME
from genrec_registry.errors import ConfigError, DataError


class Swap:
    """The three names of one directory: in place, in the making, and on its way out.

    Args:
        target: the directory's final name.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self.new = target.parent / f".{target.name}.new"
        self.old = target.parent / f".{target.name}.old"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other runs out; the system releases the lock when the process dies, however it dies.

        Raises:
            DataError: another run holds it.
            ConfigError: the target exists and is not prepared data.
        """
        self.target.parent.mkdir(parents=True, exist_ok=True)
        with (self.target.parent / f".{self.target.name}.lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise DataError(
                    f"{self.target}: another run is preparing this folder; wait for it or choose another"
                ) from None
            self._recover()
            yield

    def _recover(self) -> None:
        """Clear what a killed run left; data on its way out comes back if nothing had replaced it yet."""
        if self.old.exists() and not self.target.exists():
            self.old.rename(self.target)
        for leftover in (self.new, self.old):
            if leftover.exists():
                shutil.rmtree(leftover)
        foreign = self.target.is_dir() and not (self.target / NAME).exists() and any(self.target.iterdir())
        if foreign or (self.target.exists() and not self.target.is_dir()):
            raise ConfigError(
                f"{self.target}: exists and is not prepared data, expected an empty or new folder; name another folder"
            )

    def start(self) -> Path:
        """An empty directory to build in."""
        self.new.mkdir()
        return self.new

    def commit(self) -> None:
        """Put the new directory in place of the old one."""
        _sync(self.new)
        if self.target.exists():
            self.target.rename(self.old)
        self.new.rename(self.target)
        _sync(self.target.parent)
        if self.old.exists():
            shutil.rmtree(self.old)

    def discard(self) -> None:
        """Drop what was built."""
        shutil.rmtree(self.new, ignore_errors=True)


def _sync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
