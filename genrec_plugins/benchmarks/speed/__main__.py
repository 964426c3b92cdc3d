"""The speed table: every part of the framework beside what users run today, in one command.

::

    python -m genrec_plugins.benchmarks.speed --fuxictr-python fuxictr-venv/bin/python --json speed.json
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

from genrec_plugins.benchmarks.runner import run
from genrec_plugins.benchmarks.speed.paired import Timed
from genrec_plugins.benchmarks.speed.parts import PARTS
from genrec_registry import ConfigError, did_you_mean

_PACKAGES = ("genrec-plugins", "torch", "torchrec", "polars", "numpy", "pyarrow")
COLUMNS = ("part", "what", "rate", "unit", "ours / theirs", "least", "most", "by the clock", "turns", "CPU us", "note")


def main(
    parts: Annotated[str, typer.Option(help="Names, comma-separated; all of them by default.")] = ",".join(PARTS),
    fuxictr_python: Annotated[str | None, typer.Option(help="A Python that has FuxiCTR.")] = None,
    hstu_reference: Annotated[
        Path | None, typer.Option(help="A checkout of generative-recommenders, whose HSTU is raced.")
    ] = None,
    rows: Annotated[
        int | None, typer.Option(min=1000, help="Generate so many rows [default: the real sample, else 100,000].")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Raw Criteo rows in place of both.")] = None,
    turns: Annotated[int, typer.Option(min=1, help="Turns that count.")] = 5,
    json_: Annotated[Path | None, typer.Option("--json", help="Write the results here.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the table here.")] = None,
) -> None:
    """Race each part against its rivals and print the ratios: above 1, ours is faster.

    Examples:

        python -m genrec_plugins.benchmarks.speed

        python -m genrec_plugins.benchmarks.speed --parts preprocess,loader --rows 1000000 --json speed.json
    """
    from genrec_plugins.benchmarks.speed.options import Options
    from genrec_plugins.cli.logs import load_torchrec
    from genrec_plugins.cli.table import print_table
    from genrec_plugins.files import check_writable, written_aside

    chosen = _chosen(parts)
    for path in (json_, markdown):
        if path is not None:
            check_writable(path, instead="name another file")
    load_torchrec()
    found: list[Timed] = []
    with tempfile.TemporaryDirectory(prefix="genrec-speed-") as folder:
        options = Options(
            folder=Path(folder),
            rows=rows,
            data=data,
            fuxictr_python=fuxictr_python,
            hstu_reference=hstu_reference,
            turns=turns,
        )
        for name in chosen:
            typer.echo(f"{name} ...", err=True)
            module, _, function = PARTS[name].partition(":")
            found += getattr(importlib.import_module(module), function)(options)
            for path, text in ((json_, _as_json(found, options)), (markdown, _as_markdown(found, options))):
                if path is not None:
                    with written_aside(path, instead="name another file") as aside:
                        aside.write_text(text)
        print_table(COLUMNS, [_cells(one) for one in found], title=_title(options))
        for note in options.notes:
            typer.echo(note)


def _chosen(parts: str) -> list[str]:
    names = [name.strip() for name in parts.split(",") if name.strip()]
    for name in names:
        if name not in PARTS:
            raise ConfigError(f"--parts: there is no part '{name}'{did_you_mean(name, PARTS)}")
    return names


def _cells(one: Timed) -> list[Any]:
    keys = ("part", "what", "rate", "unit", "ratio", "least", "most", "clock", "turns", "cpu_us", "note")
    row = one.row() | {"rate": f"{one.rate:,.0f}" if one.rate >= 1000 else f"{one.rate:.4g}"}
    return ["" if row[key] is None else row[key] for key in keys]


def _title(options: Any) -> str:
    return f"{options.raw.what}; {os.cpu_count()} cores; {platform.machine()}, Python {platform.python_version()}"


def _as_json(found: list[Timed], options: Any) -> str:
    facts = {
        "data": options.raw.what,
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in _PACKAGES}},
        "notes": options.notes,
        "table": [one.row() for one in found],
    }
    return json.dumps(facts, indent=1) + "\n"


def _as_markdown(found: list[Timed], options: Any) -> str:
    lines = [_title(options), "", f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
    lines += [f"| {' | '.join(str(cell) for cell in _cells(one))} |" for one in found]
    return "\n".join([*lines, "", *options.notes]) + "\n"


if __name__ == "__main__":
    run(main)
