"""How a training step grows with fields, width, depth, batch, table rows and length of histories: time and memory.

::

    python -m genrec_plugins.benchmarks.speed.growth_compute --largest-table 100000000 --out growth-compute

Writes OUT.json, OUT.svg and OUT.md. Time is processor time on one thread. A step's FLOPs grow with some sizes faster
than linearly by themselves (attention and dot products with the square of the fields), so their exponent stands beside
that of time: time that grows faster than both FLOPs and the size itself is marked. Table rows are measured in a process
each, as their memory is the process's.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from genrec_plugins.benchmarks.runner import run
from genrec_plugins.benchmarks.speed.growth import growth_svg, peak_mib, slope
from genrec_registry import ConfigError, SetupError, did_you_mean

#: axis -> sizes
SIZES: dict[str, tuple[int, ...]] = {
    "fields": (10, 25, 50, 100, 200),
    "width": (8, 16, 32, 64, 128),
    "depth": (1, 2, 4, 8),
    "batch": (256, 512, 1024, 2048, 4096),
    "tables": (10_000, 100_000, 1_000_000, 10_000_000, 100_000_000),
    "length": (10, 25, 50, 100, 200),
}
#: axis -> components
CURVES: dict[str, tuple[str, ...]] = {
    "fields": ("mlp", "dot", "dcn", "fat", "transformer"),
    "width": ("mlp", "dot", "dcn", "fat"),
    "depth": ("dcn", "fat", "transformer"),
    "batch": ("mlp", "dot", "dcn", "fat"),
    "tables": ("dot",),
    "length": ("lum", "hstu", "sasrec"),
}
_TABLE_WIDTH = 4
#: how much a measured exponent may exceed what is expected before it is marked
_TOLERANCE = 0.15


@dataclass(frozen=True, kw_only=True)
class Growth:
    """One measurement.

    Args:
        curve: the component.
        axis: what grows.
        x: its size.
        seconds: of a training step (an encoder: forward and backward).
        flops: model FLOPs of a step.
        memory: bytes: the most that a step holds; on the axis ``tables``, what the process took for model and step.
    """

    curve: str
    axis: str
    x: int
    seconds: float
    flops: int
    memory: int


def points_of(axis: str, sizes: Iterable[int], curves: Iterable[str], shape: Any, table_rows: int) -> list[Growth]:
    """Measure an axis.

    Args:
        axis: a key of :data:`SIZES`.
        sizes: along it.
        curves: the components.
        shape: :class:`~genrec_plugins.profiling.subjects.Shape` of everything that stays.
        table_rows: of the ranker's tables, where they stay.
    """
    from genrec_plugins.benchmarks.speed.cpu import one_thread

    found = []
    with one_thread():
        for curve in curves:
            for x in sizes:
                if axis == "tables":
                    found.append(_in_a_process(curve, x, shape))
                else:
                    found.append(point(axis, x, curve, shape, table_rows))
                typer.echo(f"{axis} {x:,}, {curve}: {1e3 * found[-1].seconds:.1f} ms", err=True)
    return found


def point(axis: str, x: int, curve: str, shape: Any, table_rows: int) -> Growth:
    """Measure one point in this process."""
    from genrec_plugins.profiling.measure import measure
    from genrec_plugins.profiling.ranker import Tables, ranker_subject
    from genrec_plugins.profiling.subjects import component_subject
    from genrec_registry import default_registry

    changed = {"fields": "fields", "width": "embedding_dim", "batch": "batch_size", "length": "length"}
    if axis in changed:
        shape = replace(shape, **{changed[axis]: x})
    if axis == "length":
        subject = component_subject("encoder", curve, default_registry(), shape)
    else:
        options = {"num_layers": x} if axis == "depth" else {}
        tables = Tables(rows=x if axis == "tables" else table_rows)
        subject = ranker_subject(curve, shape, options=options, tables=tables)
    profile = measure(subject, peak_flops=1.0, repeats=5)
    return Growth(curve=curve, axis=axis, x=x, seconds=profile.seconds, flops=profile.flops, memory=profile.peak_bytes)


def _in_a_process(curve: str, x: int, shape: Any) -> Growth:
    command = [sys.executable, "-m", __name__ if __name__ != "__main__" else __spec__.name]
    work = json.dumps([curve, x, asdict(replace(shape, embedding_dim=_TABLE_WIDTH))])
    done = subprocess.run([*command, "--work", work], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SetupError(
            f"tables of {x:,} rows: the process that measures them ended with {done.returncode}; if it was killed, for "
            "want of memory, lower --largest-table"
        )
    return Growth(**json.loads(done.stdout.splitlines()[-1]))


def _work(curve: str, x: int, shape: Mapping[str, int]) -> None:
    """Measure a point of the axis ``tables`` and print it."""
    from genrec_plugins.benchmarks.speed.cpu import one_thread
    from genrec_plugins.profiling.subjects import Shape

    before = peak_mib()
    with one_thread():
        found = point("tables", x, curve, Shape(**shape), x)
    print(json.dumps(asdict(replace(found, memory=round((peak_mib() - before) * 2**20)))))


# -- what is told -----------------------------------------------------------------------------------------------------

COLUMNS = ("axis", "component", "x", "ms a step", "MFLOPs", "MB", "time ~ x^", "FLOPs ~ x^", "MB ~ x^", "")


def exponents(points: Sequence[Growth]) -> dict[str, float]:
    """Exponents of one curve over its upper half, where constant costs no longer hide them.

    Args:
        points: of one curve, in order of x.

    Returns:
        Of ``seconds``, ``flops`` and ``memory``.

    Example::

        >>> line = [Growth(curve="a", axis="batch", x=x, seconds=x, flops=x * x, memory=7) for x in (1, 2, 4, 8)]
        >>> {name: round(value, 2) for name, value in exponents(line).items()}
        {'seconds': 1.0, 'flops': 2.0, 'memory': 0.0}
    """
    upper = points[-max(2, (len(points) + 1) // 2) :]
    return {
        name: slope((one.x, max(getattr(one, name), 1e-12)) for one in upper) for name in ("seconds", "flops", "memory")
    }


def superlinear(axis: str, found: Mapping[str, float]) -> bool:
    """Whether time grows faster than FLOPs and size explain; table rows should cost no time at all.

    Example::

        >>> superlinear("batch", {"seconds": 1.4, "flops": 1.0}), superlinear("fields", {"seconds": 1.4, "flops": 1.6})
        (True, False)
    """
    expected = 0.0 if axis == "tables" else max(1.0, found["flops"])
    return found["seconds"] > expected + _TOLERANCE


def table_of(points: Sequence[Growth]) -> list[list[object]]:
    """Rows for :func:`~genrec_plugins.cli.table.print_table`; exponents stand at the last point of a curve."""
    rows: list[list[object]] = []
    for one in points:
        curve = [other for other in points if (other.axis, other.curve) == (one.axis, one.curve)]
        told = ["", "", "", ""]
        if one is curve[-1] and len(curve) > 1:
            found = exponents(curve)
            told = [f"{found[name]:.2f}" for name in ("seconds", "flops", "memory")]
            told.append("faster than expected" if superlinear(one.axis, found) else "")
        sizes = [f"{1e3 * one.seconds:.1f}", f"{one.flops / 1e6:,.0f}", f"{one.memory / 1e6:,.0f}"]
        rows.append([one.axis, one.curve, f"{one.x:,}", *sizes, *told])
    return rows


def markdown(points: Sequence[Growth]) -> str:
    """:func:`table_of` as a table of Markdown.

    Example::

        >>> print(markdown([Growth(curve="a", axis="batch", x=2, seconds=0.001, flops=3, memory=4)]).splitlines()[2])
        | batch | a | 2 | 1.0 | 0 | 0 |  |  |  |  |
    """
    lines = [COLUMNS, ["---"] * len(COLUMNS), *table_of(points)]
    return "".join(f"| {' | '.join(str(cell) for cell in line)} |\n" for line in lines)


def plot(points: Sequence[Growth]) -> str:
    """Time and memory against each axis as SVG text."""
    return growth_svg(points, {"ms a step": lambda one: 1e3 * one.seconds, "MB": lambda one: 1e-6 * one.memory})


def main(
    axes: Annotated[str, typer.Option(help="Comma-separated.")] = ",".join(SIZES),
    largest_table: Annotated[
        int, typer.Option(min=10_000, help="Rows of all tables together, width 4; takes some 45 bytes a row.")
    ] = 10_000_000,
    batch_size: Annotated[int, typer.Option(min=1, help="B, where it stays.")] = 1024,
    fields: Annotated[int, typer.Option(min=2, help="F, where they stay.")] = 39,
    embedding_dim: Annotated[int, typer.Option(min=4, help="D, where it stays.")] = 16,
    out: Annotated[Path, typer.Option("--out", "-o", help="Writes OUT.json, OUT.svg and OUT.md.")] = Path(
        "growth-compute"
    ),
    work: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Measure how a training step grows, print the table, and write it as JSON and as a plot.

    Examples:

        python -m genrec_plugins.benchmarks.speed.growth_compute --axes fields,batch --out growth-compute
    """
    from genrec_plugins.cli.logs import load_torchrec
    from genrec_plugins.cli.table import print_table
    from genrec_plugins.files import check_writable

    chosen = [axis.strip() for axis in axes.split(",") if axis.strip()]
    for axis in chosen:
        if axis not in SIZES:
            raise ConfigError(f"--axes: there is no axis '{axis}'{did_you_mean(axis, SIZES)}")
    if work is None:
        check_writable(out.with_suffix(".json"))
    load_torchrec()
    if work is not None:
        _work(*json.loads(work))
        return

    from genrec_plugins.profiling.subjects import Shape

    shape = Shape(batch_size=batch_size, fields=fields, embedding_dim=embedding_dim)
    points: list[Growth] = []
    for axis in chosen:
        sizes = [x for x in SIZES[axis] if axis != "tables" or x <= largest_table]
        # a history of each length up to the longest
        here = replace(shape, batch_size=max(sizes)) if axis == "length" else shape
        for curve in CURVES[axis]:
            points += points_of(axis, sizes, [curve], here, table_rows=100_000)
            _write(points, out)
    print_table(COLUMNS, table_of(points))


def _write(points: Sequence[Growth], out: Path) -> None:
    """What there is so far: all curves take a while."""
    from genrec_plugins.files import written_aside

    texts = {".json": json.dumps([asdict(one) for one in points], indent=1) + "\n"}
    for suffix, text in (texts | {".svg": plot(points), ".md": markdown(points)}).items():
        with written_aside(out.with_suffix(suffix)) as aside:
            aside.write_text(text)


if __name__ == "__main__":
    run(main)
