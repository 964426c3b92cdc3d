"""``genrec export``: a trained run as a directory to serve from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from genrec_plugins.serving.formats import Format
    from genrec_plugins.serving.tables import Tables


def export(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="The --out of 'genrec train'.")],
    to: Annotated[Path, typer.Option("--to", "-o", help="Directory to write.")],
    tables: Annotated[str, typer.Option(help="How embedding tables are stored: fp32, fp16, int8 or int4.")] = "fp32",
    formats: Annotated[
        str | None,
        typer.Option(
            help="Files for other runtimes, comma-separated, of export, torchscript, onnx and aoti (AOTInductor, needs "
            "a C++ compiler and minutes); 'none' for none [default: export,torchscript,onnx]."
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="A raw file in the run's format, where the run's own are gone.")
    ] = None,
    unfinished: Annotated[
        bool, typer.Option("--unfinished", help="Take the best weights so far of a run that has not ended.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print the model card as JSON.")] = False,
) -> None:
    """Write a directory that scores raw rows: weights, preprocessing, model card, and files for other runtimes.

    Examples:

        genrec export runs/run --to exported

        genrec export runs/run --to exported --tables int8 --formats none

        genrec export runs/run --to exported --formats export,aoti
    """
    from genrec_plugins.cli.logs import load_torchrec

    if not unfinished:
        _check_finished(run_dir)
    load_torchrec()
    from genrec_plugins.cli.table import print_json
    from genrec_plugins.serving.export import export_run
    from genrec_plugins.training.reporter import Console, Quiet

    kind, wanted = _tables(tables), _formats(formats)
    with Console() as console:
        card = export_run(
            run_dir,
            to,
            tables=kind,
            formats=wanted,
            data=None if data is None else str(data),
            reporter=Quiet() if quiet else console,
        )
    if json_:
        print_json(card)
    else:
        _print(card, to)


def _check_finished(run_dir: Path) -> None:
    from genrec_plugins.reports.runs import read_run
    from genrec_registry import DataError

    run = read_run(run_dir)
    if run.status == "unfinished":
        raise DataError(
            f"{run_dir}: is unfinished ({run.note}); give the command that began it again, or take its best weights so "
            "far with --unfinished"
        )


def _tables(name: str) -> Tables:
    from genrec_plugins.serving.tables import TABLES
    from genrec_registry import ConfigError, did_you_mean

    for known in TABLES:
        if known == name:
            return known
    raise ConfigError(f"--tables is '{name}'{did_you_mean(name, TABLES)}")


def _formats(names: str | None) -> list[Format] | None:
    from genrec_plugins.serving.formats import FORMATS
    from genrec_registry import ConfigError, did_you_mean

    if names is None:
        return None
    given = [name.strip() for name in names.split(",") if name.strip()]
    if given == ["none"]:
        return []
    unknown = [name for name in given if name not in FORMATS]
    if unknown or not given:
        name = unknown[0] if unknown else ""
        raise ConfigError(f"--formats has '{name}'{did_you_mean(name, [*FORMATS, 'none'])}")
    return [known for known in FORMATS if known in given]


def _print(card: dict[str, Any], to: Path) -> None:
    for split, found in card["metrics"].items():
        before, after = found["trained"], found["exported"]
        if found["auc_cost"] is not None:
            typer.echo(
                f"{split:5} AUC {before['auc']:.5f} -> {after['auc']:.5f}  logloss {before['logloss']:.5f} -> "
                f"{after['logloss']:.5f}  rows {after['rows']:,}"
            )
    files = ", ".join(found["file"] for found in card["formats"].values())
    typer.echo(f"exported to {to}{f', with {files}' if files else ''}; model_card.md says what is in it")
