"""Files that are whole or absent: written aside, then renamed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from genrec_registry import DataError

_SYSTEM = re.compile(r"\(os error (\d+)\)")


@contextmanager
def written_aside(path: Path, *, instead: str = "name another --out") -> Iterator[Path]:
    """Give a path beside ``path`` to write to; rename it to ``path`` when the block ends well.

    Args:
        path: the file; its folder is made.
        instead: what the user can do where it cannot be written.

    Raises:
        DataError: it cannot be written.

    Example::

        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "sub" / "a.txt"
        >>> with written_aside(target) as partial:
        ...     _ = partial.write_text("whole")
        >>> target.read_text(), [file.name for file in target.parent.iterdir()]
        ('whole', ['a.txt'])
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with system_errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            _sync(partial)
            partial.replace(path)
    except BaseException as error:
        with suppress(OSError):  # it may be that its folder is none
            partial.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise DataError(f"{path}: cannot be written ({error.strerror or error}); {instead}") from error


def check_writable(path: Path, *, instead: str = "name another --out") -> None:
    """Raise now what :func:`written_aside` would after hours of work; makes the file's folder.

    Args:
        path: the file.
        instead: what the user can do where it cannot be written.

    Raises:
        DataError: it cannot be written.
    """
    problem = "it is a directory" if path.is_dir() else ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        problem = error.strerror or str(error)
    if not problem and not os.access(path.parent, os.W_OK):
        problem = "its folder is read-only"
    if problem:
        raise DataError(f"{path}: cannot be written ({problem}); {instead}")


def _sync(path: Path) -> None:
    """Have the system write a file to its disk: a power cut must not leave an empty file under the final name."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def reason_of(error: Exception, file: str) -> str:
    """Why a file of a directory cannot be read, in the words of a message.

    Args:
        error: that reading it raised.
        file: its name; where the system names another one, that counts.

    Example::

        >>> reason_of(FileNotFoundError(2, "No such file or directory", "runs/fat/run.json"), "run.json")
        'run.json is missing'
        >>> reason_of(KeyError("facts"), "run.json")
        "run.json has no 'facts'"
    """
    if isinstance(error, OSError):
        file = Path(error.filename).name if error.filename else file
    if isinstance(error, FileNotFoundError):
        return f"{file} is missing"
    if isinstance(error, KeyError):
        return f"{file} has no {error}"
    problem = (isinstance(error, OSError) and error.strerror) or (str(error) or type(error).__name__).splitlines()[0]
    return f"{file} cannot be read ({problem})"


@contextmanager
def system_errors() -> Iterator[None]:
    """Raise as OSError what Rust libraries (safetensors, polars) raise as their own where the system refuses.

    Example::

        >>> with system_errors():
        ...     raise RuntimeError("I/O error: No space left on device (os error 28)")
        Traceback (most recent call last):
        OSError: [Errno 28] No space left on device
    """
    try:
        yield
    except Exception as error:
        found = None if isinstance(error, OSError) else _SYSTEM.search(str(error))
        if found is None:
            raise
        number = int(found.group(1))
        raise OSError(number, os.strerror(number)) from error
