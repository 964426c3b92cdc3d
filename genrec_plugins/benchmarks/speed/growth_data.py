"""How preprocessing and loading grow with rows, fields and vocabulary: time and memory, each point a process.

::

    python -m genrec_plugins.benchmarks.speed.growth_data --largest 3000000 --out growth

Writes ``growth.json`` and ``growth.svg``. Time is processor time, all threads together: what a busy machine leaves
alone.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import polars as pl
import typer

from genrec_adapters.datasets.criteo import criteo_fields
from genrec_adapters.field_types.short_texts import short_texts
from genrec_adapters.prepared import Prepared
from genrec_adapters.preprocess import PrepareOptions, prepare
from genrec_plugins.benchmarks.runner import run
from genrec_plugins.benchmarks.speed.growth import growth_svg, peak_mib, slope
from genrec_registry import DataError, SetupError

FIELDS = (10, 25, 50, 100, 200)
VOCABULARIES = (10_000, 100_000, 1_000_000, 10_000_000)
_WIDE_ROWS = 200_000
_EPOCHS = 3


@dataclass(frozen=True, kw_only=True)
class Point:
    """One measurement.

    Args:
        curve: what was measured, and against what.
        axis: ``rows``, ``fields`` or ``vocabulary``.
        x: its size.
        values: values that went through: rows times fields.
        seconds: processor time.
        peak_mib: largest resident memory of the process.
        base_mib: the same before the work, with all imports.
    """

    curve: str
    axis: str
    x: int
    values: int
    seconds: float
    peak_mib: float
    base_mib: float


# -- what one process does --------------------------------------------------------------------------------------------


def prepare_rows(rows: str, out: str, fields: Any, cache_mib: int) -> None:
    """Prepare a raw Criteo file or a table of ``c0``, ``c1``, ... with a label ``y``."""
    criteo = Path(rows).suffix == ".txt"
    dataset = {"type": "criteo-kaggle", "train": rows} if criteo else {"type": "csv", "train": rows, "label": "y"}
    prepare(dataset, out, fields=fields, options=PrepareOptions(cache_mib=cache_mib))


def load_epochs(prepared: str) -> None:
    """Go through a prepared directory's training rows in shuffled batches."""
    from genrec_adapters.loader import BatchLoader

    loader = BatchLoader(Prepared.open(prepared), "train", 4096, shuffle=True)
    for _ in range(_EPOCHS):
        for _ in loader:
            pass


WORK: dict[str, Callable[..., None]] = {"prepare": prepare_rows, "load": load_epochs}


def _work(name: str, arguments: list[Any]) -> None:
    """Do it in this process and print what it took."""
    if name == "load":
        from genrec_plugins.cli.logs import load_torchrec

        load_torchrec()
        import genrec_adapters.loader  # noqa: F401 - before the clock
    before, began = peak_mib(), time.process_time()
    WORK[name](*arguments)
    print(json.dumps([time.process_time() - began, peak_mib(), before]))


def measure(curve: str, axis: str, x: int, values: int, work: str, *arguments: Any) -> Point:
    """One point, in a process of its own."""
    command = [sys.executable, "-m", __spec__.name, "--work", json.dumps([work, list(arguments)])]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SetupError(f"{curve}, {x:,} {axis}: the process that measures it ended with {done.returncode}; see above")
    seconds, peak, base = json.loads(done.stdout.splitlines()[-1])
    point = Point(curve=curve, axis=axis, x=x, values=values, seconds=seconds, peak_mib=peak, base_mib=base)
    typer.echo(f"{curve}, {x:,} {axis}: {seconds:.2f} s, {peak:.0f} MiB", err=True)
    return point


# -- the curves -------------------------------------------------------------------------------------------------------


def by_rows(folder: Path, source: Path, sizes: list[int]) -> list[Point]:
    """Criteo rows: with vocabularies, with and without the cache of parsed rows; with hashes alone; and the loader."""
    found: list[Point] = []
    for rows in sizes:
        raw, out = folder / "rows.txt", folder / "out"
        _first_lines(source, raw, rows)
        for name, fields, cache in (
            ("prepare, hashed, no cache", _hashed(), 0),
            ("prepare, no cache", criteo_fields(), 0),
            ("prepare", criteo_fields(), 1024),
        ):
            shutil.rmtree(out, ignore_errors=True)
            found.append(measure(name, "rows", rows, 39 * rows, "prepare", str(raw), str(out), fields, cache))
        found.append(measure(f"load, {_EPOCHS} epochs", "rows", rows, _EPOCHS * 39 * rows, "load", str(out)))
        shutil.rmtree(out)
    return found


def by_fields(folder: Path, rows: int) -> list[Point]:
    """Tables of 10 to 200 columns, each with 10,000 values."""
    found: list[Point] = []
    for count in FIELDS:
        raw, out = folder / "wide.csv", folder / "out"
        write_table(raw, rows, count, VOCABULARIES[0])
        found.append(measure("prepare", "fields", count, count * rows, "prepare", str(raw), str(out), None, 0))
        loaded = _EPOCHS * count * rows
        found.append(measure(f"load, {_EPOCHS} epochs", "fields", count, loaded, "load", str(out)))
        shutil.rmtree(out)
    return found


def by_vocabulary(folder: Path, rows: int) -> list[Point]:
    """One column of equally frequent values: from few, each often, to as many as rows, each once."""
    found: list[Point] = []
    fields = {"c0": {"type": "categorical"}}
    for values in [size for size in VOCABULARIES if size <= rows]:
        raw, out = folder / "one.csv", folder / "out"
        write_table(raw, rows, 1, values)
        found.append(measure("prepare", "vocabulary", values, rows, "prepare", str(raw), str(out), fields, 0))
        shutil.rmtree(out)
    return found


def _hashed() -> dict[str, Any]:
    return {
        "I{1..13}": {"type": "numeric-bucket", "method": "criteo"},
        "C{1..26}": {"type": "categorical", "mode": "hash", "num_buckets": 1_000_000},
    }


def _first_lines(source: Path, target: Path, rows: int) -> None:
    with source.open("rb") as file, target.open("wb") as out:
        out.writelines(islice(file, rows))


def write_table(path: Path, rows: int, columns: int, values: int, *, seed: int = 0) -> None:
    """A CSV of eight-digit hexadecimal categories, each of ``values`` equally often, in random order.

    Example::

        >>> path = Path(tempfile.mkdtemp()) / "t.csv"
        >>> write_table(path, 6, 2, 3)
        >>> pl.read_csv(path)["c1"].n_unique()
        3
    """
    draw = np.random.default_rng(seed)
    # An odd factor permutes the numbers below 2^32, so that texts are distinct and look like hashes.
    numbers = (np.arange(values, dtype=np.uint64) * np.uint64(2654435761)).astype(np.uint32)
    digits = np.frombuffer("".join(f"{byte:02x}" for byte in range(256)).encode(), dtype=np.uint16)
    names = short_texts(digits[numbers.view(np.uint8)].view(np.uint64))
    data = {"y": (draw.random(rows) < 0.25).astype(np.int8)}
    table = pl.DataFrame(data | {f"c{i}": names[draw.permutation(rows) % values] for i in range(columns)})
    table.write_csv(path)


# -- what is told -----------------------------------------------------------------------------------------------------

COLUMNS = ("curve", "axis", "x", "s CPU", "ns a value", "peak MiB", "MiB above start", "exponent")


def table_of(points: list[Point]) -> list[list[object]]:
    """Rows for :func:`~genrec_plugins.cli.table.print_table`; the exponent stands at the last point of its curve."""
    table: list[list[object]] = []
    for point in points:
        key = (point.curve, point.axis)
        curve = [other for other in points if (other.curve, other.axis) == key]
        end = point is curve[-1] and len(curve) > 1
        exponent = f"{slope((one.x, one.seconds) for one in curve):.2f}" if end else ""
        each = f"{1e9 * point.seconds / point.values:.1f}"
        memory = (f"{point.peak_mib:.0f}", f"{point.peak_mib - point.base_mib:.0f}")
        table.append([*key, f"{point.x:,}", f"{point.seconds:.2f}", each, *memory, exponent])
    return table


def plot(points: Sequence[Point]) -> str:
    """Time and memory against each axis, as SVG text."""
    return growth_svg(
        points,
        {
            "processor seconds": lambda point: point.seconds,
            "peak MiB above start": lambda point: max(1.0, point.peak_mib - point.base_mib),
        },
    )


def main(
    largest: Annotated[int, typer.Option(min=10_000, help="Rows of the largest Criteo file.")] = 1_000_000,
    data: Annotated[Path | None, typer.Option(help="Raw Criteo rows, as text; generated if left out.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Writes OUT.json and OUT.svg.")] = Path("growth"),
    work: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Measure the curves, print them, and write them as JSON and as a plot.

    Examples:

        python -m genrec_plugins.benchmarks.speed.growth_data --largest 3000000 --out growth
    """
    if work is not None:
        _work(*json.loads(work))
        return
    from genrec_plugins.cli.table import print_table
    from genrec_plugins.files import check_writable, written_aside
    from genrec_plugins.synthetic import generate

    if data is not None and not data.is_file():
        raise DataError(f"{data}: does not exist, expected raw Criteo rows as text; mend --data")
    check_writable(out.with_suffix(".json"))
    halves = round(2 * math.log10(max(largest / 1e5, 10)))  # half decades, from 100,000 rows on
    sizes = [round(largest / 10 ** (half / 2)) for half in range(halves, -1, -1)]
    with tempfile.TemporaryDirectory(prefix="genrec-growth-") as name:
        folder = Path(name)
        if data is None:
            data = folder / "train.txt"
            generate("criteo", largest, data, seed=1)
        points = by_rows(folder, data, sizes)
        points += by_fields(folder, min(_WIDE_ROWS, largest))
        points += by_vocabulary(folder, largest)
    with written_aside(out.with_suffix(".json")) as aside:
        aside.write_text(json.dumps({"cores": os.cpu_count(), "points": [asdict(p) for p in points]}, indent=1) + "\n")
    with written_aside(out.with_suffix(".svg")) as aside:
        aside.write_text(plot(points))
    print_table(COLUMNS, table_of(points))


if __name__ == "__main__":
    run(main)
