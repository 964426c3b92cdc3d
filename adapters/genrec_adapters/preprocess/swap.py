"""Build a directory aside and put it in place at once, so that a killed run leaves nothing half-valid."""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from genrec_adapters.manifest import NAME
from genrec_registry.errors import ConfigError, DataError

# Names and numbers of <fcntl.h> and <stdio.h>.
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


class Swap:
    """The three names of one directory: in place, in the making, and on its way out.

    Args:
        target: the directory's final name.
        marker: a file that every such directory has.
        what: what such a directory is, for messages.
    """

    def __init__(self, target: Path, *, marker: str = NAME, what: str = "prepared data") -> None:
        self.target = target
        self.marker, self.what = marker, what
        self.new = target.parent / f".{target.name}.new"
        self.old = target.parent / f".{target.name}.old"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other runs out; the system releases the lock when the process dies, however it dies.

        Raises:
            DataError: another run holds it.
            ConfigError: the target exists and is something else.
        """
        self.target.parent.mkdir(parents=True, exist_ok=True)
        path = self.target.parent / f".{self.target.name}.lock"
        file = _locked(path)
        while file is not None and not _is_at(path, file):  # a run that just ended removed what was locked here
            os.close(file)
            file = _locked(path)
        if file is None:
            raise DataError(f"{self.target}: another run is preparing this folder; wait for it or choose another")
        try:
            self._recover()
            yield
        finally:
            path.unlink(missing_ok=True)
            os.close(file)

    def _recover(self) -> None:
        """Clear what a killed run left; data on its way out comes back if nothing had replaced it yet."""
        if self.old.exists() and not self.target.exists():
            self.old.rename(self.target)
        self._clear()
        foreign = self.target.is_dir() and not (self.target / self.marker).exists() and any(self.target.iterdir())
        if foreign or (self.target.exists() and not self.target.is_dir()):
            raise ConfigError(
                f"{self.target}: exists and is not {self.what}, expected an empty or new folder; name another folder"
            )

    def start(self) -> Path:
        """An empty directory to build in."""
        self.new.mkdir()
        return self.new

    def commit(self) -> None:
        """Put the new directory in place of the old one: in one step where the file system can, else in two renames."""
        _sync(self.new)
        if not self.target.exists():
            self.new.rename(self.target)
        elif not _exchange(self.new, self.target):
            self.target.rename(self.old)
            self.new.rename(self.target)
        _sync(self.target.parent)
        self._clear()

    def discard(self) -> None:
        """Drop what was built."""
        shutil.rmtree(self.new, ignore_errors=True)

    def _clear(self) -> None:
        for leftover in (self.new, self.old):
            if leftover.exists():
                shutil.rmtree(leftover)


@contextmanager
def replaced(target: Path, *, marker: str, what: str) -> Iterator[Path]:
    """A directory to build in, which takes the place of ``target`` when the block ends well.

    Args:
        target: the directory's final name.
        marker: a file that every such directory has.
        what: what such a directory is, for messages.

    Raises:
        DataError: another run is at it.
        ConfigError: the target exists and is something else.

    Example::

        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "out"
        >>> with replaced(target, marker="a.txt", what="an example") as aside:
        ...     _ = (aside / "a.txt").write_text("whole")
        >>> [path.name for path in target.iterdir()]
        ['a.txt']
    """
    swap = Swap(target, marker=marker, what=what)
    with swap.lock():
        try:
            yield swap.start()
            swap.commit()
        except BaseException:
            swap.discard()
            raise


def _locked(path: Path) -> int | None:
    """An open file that this process has locked; None if another process has."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    except BaseException:
        os.close(file)
        raise
    return file


def _is_at(path: Path, file: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(file))
    except FileNotFoundError:
        return False


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names in one step (Linux, not on every file system); whether that was done."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        rename = ctypes.CDLL(None).renameat2
    except (OSError, AttributeError):  # a C library without it
        return False
    return bool(rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0)


def _sync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
