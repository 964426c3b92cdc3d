"""``genrec train``, ``genrec evaluate`` and ``genrec predict``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from typing import Any

    from genrec_registry import Split

RunDirectory = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="The --out of 'genrec train'.")]
SplitName = Annotated[str, typer.Option("--split", help="train, valid or test.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def train(
    run_file: Annotated[Path, typer.Argument(metavar="RUN.YAML", help="Dataset, fields, model, training.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Run directory [default: runs/NAME of the file].")
    ] = None,
    prepared_dir: Annotated[
        Path | None, typer.Option("--prepared", help="Prepared directory [default: prepared/DATASET-DIGEST].")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE over the file, as model.interaction=dcn.")
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Forget the checkpoints in --out.")] = False,
    nproc: Annotated[int, typer.Option("--nproc", min=1, help="Processes to train in, on this machine.")] = 1,
    max_restarts: Annotated[
        int, typer.Option("--max-restarts", min=0, help="With --nproc: how often a dead process is made good.")
    ] = 3,
    follow: Annotated[
        Path | None, typer.Option("--follow", help="Then train on the Parquet files that appear in this folder.")
    ] = None,
    poll: Annotated[float, typer.Option("--poll", min=0.01, help="With --follow: seconds between two looks.")] = 5.0,
    until_idle: Annotated[
        float | None, typer.Option("--until-idle", min=0, help="With --follow: end after so many seconds without one.")
    ] = None,
    full_every: Annotated[
        int, typer.Option("--full-every", min=1, help="With --follow: files between two full checkpoints.")
    ] = 10,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    json_: AsJson = False,
) -> None:
    """Train the model of a run file; an interrupted run goes on where it stopped.

    Examples:

        genrec train run.yaml

        genrec train run.yaml --out runs/dcn --set model.interaction=dcn --set train.epochs=2

        genrec train run.yaml --nproc 4

        torchrun --nproc-per-node 4 -m genrec_plugins.cli train run.yaml

        genrec train run.yaml --follow incoming --until-idle 600
    """
    from genrec_plugins.cli.follow import follow_task
    from genrec_plugins.cli.ranks import TrainTask, launch_ranks, run_rank, run_task
    from genrec_plugins.training.launch import launched

    overrides = tuple(set_ or ())
    directory = out or Path("runs") / run_file.stem
    task = TrainTask(run_file, directory, prepared_dir, overrides, restart, quiet)
    if follow is not None:
        follow_task(task, follow, nproc, poll=poll, until_idle=until_idle, full_every=full_every, json_=json_)
        return
    if nproc > 1:
        report = launch_ranks(task, nproc, max_restarts)
    elif launched():
        report = run_rank(task)
    else:
        report = run_task(task)
    if report is not None:  # else another process tells it
        _print_report(report, directory, json_)


def _print_report(report: dict[str, Any], directory: Path, json_: bool) -> None:
    from genrec_plugins.cli.table import print_json

    if json_:
        print_json(report)
        return
    for split in ("valid", "test"):
        if report[split] is not None:
            _print_metrics(split, report[split])
    typer.echo(f"{report['rows_per_second']:,.0f} rows/s in training; run directory {directory}")


def _print_metrics(split: str, metrics: dict[str, float]) -> None:
    typer.echo(
        f"{split:5} AUC {metrics['auc']:.5f}  logloss {metrics['logloss']:.5f}  NE {metrics['ne']:.5f}  "
        f"calibration {metrics['calibration']:.4f}  rows {metrics['rows']:,}"
    )


def evaluate(run_dir: RunDirectory, split: SplitName = "test", json_: AsJson = False) -> None:
    """Compute exact AUC, logloss, normalised entropy and calibration of a trained run.

    Examples:

        genrec evaluate runs/run

        genrec evaluate runs/run --split valid --json
    """
    from genrec_plugins.cli.logs import load_torchrec
    from genrec_plugins.cli.table import print_json
    from genrec_plugins.training.run import TrainedRun

    load_torchrec()
    metrics = TrainedRun.open(run_dir).evaluate(_split(split)).as_dict()
    if json_:
        print_json(metrics)
    else:
        _print_metrics(split, metrics)


def predict(
    run_dir: RunDirectory,
    split: SplitName = "test",
    data: Annotated[
        Path | None, typer.Option("--data", help="A raw file in the run's format instead of a split.")
    ] = None,
    on_error: Annotated[str, typer.Option(help="Bad rows of --data: stop, or skip, count and report.")] = "stop",
    out: Annotated[Path, typer.Option("--out", "-o", help="Parquet file to write.")] = Path("predictions.parquet"),
) -> None:
    """Write label and probability of each row of a split, or of a new raw file, in row order.

    Examples:

        genrec predict runs/run --out predictions.parquet

        genrec predict runs/run --data tomorrow.txt.gz --on-error skip
    """
    import polars as pl

    from genrec_plugins.cli.logs import load_torchrec
    from genrec_plugins.files import written_aside
    from genrec_plugins.training.run import TrainedRun
    from genrec_registry import ConfigError, ErrorPolicy

    load_torchrec()
    if on_error not in ("stop", "skip"):
        raise ConfigError(f"--on-error is '{on_error}'; expected stop or skip")
    policy = ErrorPolicy(on_error="skip" if on_error == "skip" else "stop")
    trained = TrainedRun.open(run_dir)
    labels, probabilities = trained.predict_file(str(data), policy) if data else trained.predict(_split(split))
    if policy.skipped:
        typer.echo(f"{policy.skipped:,} bad rows were left out, the first of them:", err=True)
        for example in policy.examples:
            typer.echo(f"  {example}", err=True)
    with written_aside(out) as partial:
        pl.DataFrame({"label": labels.astype("int8"), "probability": probabilities}).write_parquet(partial)
    typer.echo(f"{len(labels):,} rows written to {out}")


def _split(name: str) -> Split:
    from genrec_registry import SPLITS, ConfigError, did_you_mean

    for split in SPLITS:
        if split == name:
            return split
    raise ConfigError(f"--split is '{name}'{did_you_mean(name, SPLITS)}")
