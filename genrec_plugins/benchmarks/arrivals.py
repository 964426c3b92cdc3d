"""Rows that arrive as Parquet files in a folder, with ids that come and go: a stream for a soak.

::

    python -m genrec_plugins.benchmarks.arrivals incoming runs/soak/progressive.jsonl --rows 10000

writes files into ``incoming``, always a few ahead of what the log says was taken, until it is ended.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import numpy as np
import polars as pl
import typer

from genrec_plugins.benchmarks.runner import run
from genrec_plugins.files import written_aside

#: users, of whom each file has some, and the classes that an id's number says it belongs to
_USERS, _KINDS = 2000, 4


def arriving_rows(number: int, rows: int) -> pl.DataFrame:
    """The rows of one file.

    A tenth of its rows is how many items are alive, a fifth of those are new; advertisements move half as fast. The
    label depends on kinds of item, advertisement and user, and on a number.

    Args:
        number: of the file, from 0; it is the seed, too.
        rows: how many.

    Example::

        >>> first, later = (set(arriving_rows(number, 5000)["item"]) for number in (0, 5))
        >>> len(first) > 400, first & later
        (True, set())
    """
    source = np.random.default_rng(number)
    alive = max(rows // 10, _KINDS)
    item = source.integers(0, alive, rows) + number * alive // 5
    ad = source.integers(0, alive // 2, rows) + number * alive // 20
    user = np.minimum(source.geometric(0.002, rows), _USERS)
    x = source.normal(size=rows)
    score = 1.5 * (item % _KINDS == user % _KINDS) + (ad % 2) + 0.5 * x - 1.3
    label = source.random(rows) < 1 / (1 + np.exp(-score))
    names = {"item": item, "ad": ad, "user": user}
    texts = {name: [f"{name[0]}{one}" for one in values.tolist()] for name, values in names.items()}
    return pl.DataFrame({"y": label.astype(np.int8), **texts, "x": x})


def arrive(folder: Path, number: int, rows: int) -> Path:
    """Put a file into the folder, whole at once.

    Args:
        folder: of the stream.
        number: of the file.
        rows: how many it has.
    """
    path = folder / f"part-{number}.parquet"
    with written_aside(path) as partial:
        arriving_rows(number, rows).write_parquet(partial)
    return path


def keep_arriving(
    folder: Annotated[Path, typer.Argument(help="Where files go.")],
    log: Annotated[Path, typer.Argument(help="A line of it is a file that was taken.")],
    rows: Annotated[int, typer.Option(help="Rows of a file.")] = 10_000,
    ahead: Annotated[int, typer.Option(help="Files that wait at most.")] = 2,
) -> None:
    """Write files until the process that asked for them is gone."""
    parent, made, taken = os.getppid(), 0, 0
    log.parent.mkdir(parents=True, exist_ok=True)
    log.touch()
    with log.open() as lines:
        while os.getppid() == parent:
            taken += sum(1 for _ in lines)
            if made - taken < ahead:
                made += 1
                arrive(folder, made, rows)
            else:
                time.sleep(0.02)


@contextmanager
def arrivals(folder: Path, log: Path, rows: int) -> Iterator[None]:
    """Have a process of its own write files as :func:`keep_arriving` does, so that its memory is not this one's.

    Args:
        folder: of the stream; it is made.
        log: the follower's.
        rows: of a file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", __name__, str(folder), str(log), "--rows", str(rows)]
    process = subprocess.Popen(command, env=os.environ | {"POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1"})
    try:
        yield
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    run(keep_arriving)
