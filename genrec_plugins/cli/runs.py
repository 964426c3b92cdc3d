"""``genrec runs list|compare``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from genrec_plugins.cli.table import print_json, print_table

if TYPE_CHECKING:
    from genrec_plugins.reports.runs import RunFacts

app = typer.Typer(
    help="""List run directories, and compare them: metrics, and how their configs differ.

    Examples:
        genrec runs list
        genrec runs compare runs/fat runs/dcn
    """
)

_Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
_Sort = Annotated[str, typer.Option("--sort", help="auc, logloss, ne, calibration, name or time.")]


@app.command("list")
def list_runs(
    directory: Annotated[Path, typer.Argument(metavar="[DIR]", help="Folder with run directories.")] = Path("runs"),
    sort: _Sort = "auc",
    as_json: _Json = False,
) -> None:
    """List the runs under a folder, best first; unfinished and broken ones are listed as such.

    Examples:
        genrec runs list
        genrec runs list experiments --sort time
        genrec runs list --json
    """
    from genrec_plugins.reports.runs import find_runs, sort_runs

    found = sort_runs(find_runs(directory), sort)
    if as_json:
        print_json([run.as_dict() for run in found])
        return
    if not found:
        typer.echo(f"{directory}: no run directories", err=True)
        return
    columns = ["run", "kind", "status", "model", "test AUC", "logloss", "NE", "calibration", "epochs", "when", "note"]
    print_table(columns, [_row(run) for run in found])


def _row(run: RunFacts) -> list[str]:
    from genrec_plugins.reports.tables import number

    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.modified)) if run.modified else ""
    metrics = [number(run.test, name) for name in ("auc", "logloss", "ne", "calibration")]
    note = run.note
    if run.kind == "lum":
        note = note or ", ".join(f"{name} {value:.4f}" for name, value in list(run.test.items())[:2])
    epochs = str(run.epochs) if run.epochs else ""
    return [run.name, run.kind, run.status, run.model, *metrics, epochs, when, note]


@app.command("compare")
def compare_runs(
    directories: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Run directories.")],
    sort: _Sort = "auc",
    as_json: _Json = False,
) -> None:
    """Show runs side by side, best first, and the config keys in which they differ.

    Examples:
        genrec runs compare runs/fat runs/dcn
        genrec runs compare runs/* --sort logloss --json
    """
    from genrec_plugins.reports.runs import differences, read_runs, same_rows, sort_runs
    from genrec_plugins.reports.tables import metric_table

    found = sort_runs(read_runs(directories), sort)
    differing = differences(found)
    if as_json:
        data = {"runs": [run.as_dict() for run in found], "differences": differing, "same_rows": same_rows(found)}
        print_json(data)
        return
    print_table(*metric_table(found))
    if differing:
        typer.echo("")
        print_table(["config", *(run.name for run in found)], [[key, *values] for key, values in differing.items()])
    if not same_rows(found):
        typer.echo("\nnot all were trained on the same rows: their metrics cannot be compared")
    for run in found:
        if run.note:
            typer.echo(f"{run.name}: {run.status}, {run.note}")
