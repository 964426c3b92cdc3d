"""Run a function in a process of its own and let something happen to it: killed, or out of disk.

- The processes are forked from one that has the heavy imports behind it, so that a trial costs a fraction of a second.
- ``KillAt(n)`` kills before the n-th change of a file or folder that Python makes (open for writing, rename, remove,
  mkdir); the count is the same each time, so that every such place can be tried. Rust and C++ write past it:
  ``KillAfter`` kills at any moment, ``KillInFile`` in the middle of any file.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from genrec_registry import GenrecError

_PRELOAD = [
    "sklearn.metrics",
    "torch.distributed.checkpoint._fsspec_filesystem",
    "torch.distributed.optim",  # what TorchRec imports when a model is sharded, half a second
    "torch.utils.tensorboard",
    "genrec_adapters.datasets.csv_table",
    "genrec_adapters.datasets.parquet",
    "genrec_adapters.field_types",
    "genrec_adapters.preprocess.engine",
    "genrec_plugins.builtin",
    "genrec_plugins.encoders",
    "genrec_plugins.interactions",
    "genrec_plugins.training.follow",
    "genrec_plugins.training.sharding",
    "genrec_plugins.lum.run",
    "genrec_plugins.tokenizers.fitted",
]
_CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


@dataclass(frozen=True)
class KillAt:
    """SIGKILL before the n-th change to the file system, from 1."""

    change: int


@dataclass(frozen=True)
class KillAfter:
    """SIGKILL that many seconds after the function began."""

    seconds: float


@dataclass(frozen=True)
class KillInFile:
    """Die in the write that would make any file longer than this, with the bytes before it written."""

    size: int


@dataclass(frozen=True)
class FileLimit:
    """No file can grow beyond this: the write fails, as on a full disk."""

    size: int


Fault = KillAt | KillAfter | KillInFile | FileLimit | None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of the function.

    Args:
        killed: whether the fault killed it.
        value: what it returned.
        sentence: the message of the GenrecError that it ended with; empty if there was none.
        crash: the traceback of any other exception; empty if there was none.
        changes: changes to the file system it made, as ``KillAt`` counts them.
        seconds: it took.
    """

    killed: bool = False
    value: Any = None
    sentence: str = ""
    crash: str = ""
    changes: int = 0
    seconds: float = 0.0


def run(target: Callable[..., Any], *arguments: Any, fault: Fault = None, timeout: float = 300.0) -> Outcome:
    """Call ``target(*arguments)`` in a process of its own.

    Args:
        target: a module's function; it and the arguments are pickled.
        arguments: its arguments.
        fault: what happens to it.
        timeout: seconds after which the test fails.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(theirs, fault, target, arguments))
    began = time.monotonic()
    process.start()
    theirs.close()
    outcome: Outcome | None = None
    try:
        if ours.poll(timeout):
            outcome = ours.recv()
        else:
            process.kill()
            pytest.fail(f"{target.__name__} still ran after {timeout} s under {fault}")
    except EOFError:
        pass  # it died
    process.join()
    if outcome is not None:
        return outcome
    assert process.exitcode in (-signal.SIGKILL, -signal.SIGXFSZ), f"{target.__name__} ended with {process.exitcode}"
    return Outcome(killed=True, seconds=time.monotonic() - began)


def _child(pipe: Any, fault: Fault, target: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    changes = 0

    def count(event: str, details: tuple[Any, ...]) -> None:
        nonlocal changes
        if event in _CHANGES or (event == "open" and isinstance(details[2], int) and details[2] & _WRITING):
            if event == "open" and str(details[0]).startswith("/dev/"):
                return
            changes += 1
            if isinstance(fault, KillAt) and changes == fault.change:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    if isinstance(fault, KillAfter):
        timer = threading.Timer(fault.seconds, os.kill, (os.getpid(), signal.SIGKILL))
        timer.daemon = True
        timer.start()
    if isinstance(fault, KillInFile | FileLimit):
        if isinstance(fault, KillInFile):
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (fault.size, resource.RLIM_INFINITY))
    began = time.monotonic()
    try:
        found = {"value": target(*arguments)}
    except GenrecError as error:
        found = {"sentence": str(error)}
    except BaseException:
        found = {"crash": traceback.format_exc()}
    pipe.send(Outcome(**found, changes=changes, seconds=time.monotonic() - began))
    pipe.close()
    os._exit(0)  # threads of libraries may not hold it up


def draw(unbroken: Outcome, trials: int, seed: int, *, sizes: tuple[int, int] = (1, 1)) -> Iterator[Fault]:
    """Faults that kill, drawn over the whole length of an unbroken run.

    Args:
        unbroken: how the run goes without a fault.
        trials: how many.
        seed: of the draw.
        sizes: smallest and largest size of file to die in; (1, 1) leaves that out.
    """
    source = random.Random(seed)
    for trial in range(trials):
        if trial % 3 == 1:
            yield KillAfter(source.uniform(0.0, unbroken.seconds))
        elif trial % 3 == 2 and sizes[1] > 1:
            yield KillInFile(source.randint(*sizes))
        else:
            yield KillAt(source.randint(1, unbroken.changes))


@contextmanager
def small_disk(folder: Path, kib: int) -> Iterator[Path]:
    """Mount a file system of this size at ``folder``; the test is skipped where mounting is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    options = f"size={kib}k"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path, leave_kib: int) -> Path:
    """Write a file that leaves this much of the folder's disk."""
    facts = os.statvfs(folder)
    ballast = folder / "ballast"
    with ballast.open("wb") as file:
        left = facts.f_bavail * facts.f_frsize - leave_kib * 1024
        while left > 0:
            left -= file.write(b"\0" * min(left, 1 << 20))
    return ballast


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, for comparing two."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
