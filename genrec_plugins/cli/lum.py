"""``genrec lum``: pre-train a Large User Model, ask it test questions, query it for every user."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Pre-train a sequence encoder, query its knowledge of every user.", rich_markup_mode=None)

RunDirectory = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="The --out of 'genrec lum pretrain'.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
IsQuiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]


@app.command()
def pretrain(
    run_file: Annotated[Path, typer.Argument(metavar="LUM.YAML", help="Dataset, encoder, objective, training.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Run directory [default: runs/NAME of the file].")
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE over the file, as encoder=sasrec.")] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Forget the checkpoints in --out.")] = False,
    quiet: IsQuiet = False,
    json_: AsJson = False,
) -> None:
    """Pre-train a sequence encoder on users' events; an interrupted run goes on where it stopped.

    Examples:

        genrec lum pretrain examples/lum_movielens.yaml

        genrec lum pretrain lum.yaml --out runs/sasrec --set encoder=sasrec --set train.epochs=20
    """
    from genrec_plugins.cli.logs import load_torchrec
    from genrec_plugins.cli.table import print_json
    from genrec_plugins.config import parse_overrides
    from genrec_plugins.lum.config import load_lum

    run = load_lum(run_file, parse_overrides(set_))
    load_torchrec()

    from genrec_plugins.lum.run import pretrain as pretrain_run
    from genrec_plugins.training.reporter import Console, Quiet

    directory = out or Path("runs") / run_file.stem
    if quiet:
        report = pretrain_run(run, directory, Quiet(), restart=restart)
    else:
        with Console(unit="events") as console:
            report = pretrain_run(run, directory, console, restart=restart)
    if json_:
        print_json(report)
        return
    _print_metrics({split: report[split] for split in ("valid", "test") if report[split]})
    typer.echo(
        f"best epoch {report['best_epoch']}; {report['events_per_second']:,.0f} events/s, MFU {report['mfu']:.1%} of "
        f"{report['peak_flops'] / 1e9:,.0f} GFLOP/s; run directory {directory}"
    )


def _print_metrics(splits: dict[str, dict[str, float]]) -> None:
    from genrec_plugins.cli.table import print_table

    names = [name for found in splits.values() for name in found if name != "questions"]
    columns = list(dict.fromkeys(names))
    rows = [
        [split, f"{found['questions']:,}", *(f"{found[name]:.4f}" for name in columns)]
        for split, found in splits.items()
    ]
    print_table(["split", "questions", *columns], rows)


@app.command()
def evaluate(
    run_dir: RunDirectory,
    split: Annotated[str, typer.Option("--split", help="valid or test.")] = "test",
    quiet: IsQuiet = False,
    json_: AsJson = False,
) -> None:
    """Recall@K and NDCG@K of a pre-trained run over the whole catalogue.

    Examples:

        genrec lum evaluate runs/lum_movielens

        genrec lum evaluate runs/lum_movielens --split valid --json
    """
    from genrec_plugins.cli.logs import load_torchrec
    from genrec_plugins.cli.table import print_json
    from genrec_registry import ConfigError, did_you_mean

    if split not in ("valid", "test"):
        raise ConfigError(f"--split is '{split}'{did_you_mean(split, ['valid', 'test'])}")
    load_torchrec()

    from genrec_plugins.lum.run import LumRun
    from genrec_plugins.training.reporter import Console, Quiet

    run = LumRun.open(run_dir)
    if quiet:
        metrics = run.evaluate(split, Quiet())
    else:
        with Console(unit="questions") as console:
            metrics = run.evaluate(split, console)
    if json_:
        print_json(metrics)
    else:
        _print_metrics({split: metrics})
