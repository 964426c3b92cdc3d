"""``genrec lum``: pre-train a Large User Model, ask it test questions, query it for every user."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from genrec_plugins.cli.lum_demo import demo

app = typer.Typer(
    help="""Pre-train a sequence encoder, query its knowledge of every user.

    Examples:
        genrec lum demo --data ml-100k
        genrec lum pretrain examples/lum_movielens.yaml --out runs/lum
        genrec lum query runs/lum --out stores/likes --query like:action=like
    """,
    rich_markup_mode=None,
)
app.command()(demo)

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


@app.command()
def query(
    run_dirs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="A run directory; several answer side by side.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Directory of the knowledge store; a store is replaced.")],
    query_: Annotated[
        list[str] | None,
        typer.Option("--query", help="NAME:CONDITION=VALUE,... [default: each value of a single condition]."),
    ] = None,
    snapshots: Annotated[
        str, typer.Option("--snapshots", help="last: after a user's last event; every-event: after each, too.")
    ] = "last",
    until: Annotated[
        str | None, typer.Option("--until", help="See events strictly before this: epoch seconds, or a date.")
    ] = None,
    stride: Annotated[
        int | None, typer.Option("--stride", min=1, help="Of windows over longer histories [default: a quarter].")
    ] = None,
    max_events: Annotated[int, typer.Option("--max-events", min=1, help="Events and queries of a pass.")] = 16384,
    measure: Annotated[
        bool, typer.Option("--measure", help="Time separate passes of the first run beside it.")
    ] = False,
    quiet: IsQuiet = False,
    json_: AsJson = False,
) -> None:
    """Ask a pre-trained run the same queries about every user; write a knowledge store.

    Examples:

        genrec lum query runs/lum_movielens --out stores/likes --query like:action=like

        genrec lum query runs/lum_movielens --out stores/all --query like:action=like --query dislike:action=dislike
        --snapshots every-event --measure

        genrec lum query runs/seed-1 runs/seed-2 runs/seed-3 --out stores/three
    """
    from genrec_plugins.cli.logs import load_torchrec
    from genrec_registry import ConfigError, did_you_mean

    if snapshots not in ("last", "every-event"):
        raise ConfigError(f"--snapshots is '{snapshots}'{did_you_mean(snapshots, ['last', 'every-event'])}")
    moment = parse_time(until) if until is not None else None
    load_torchrec()

    from genrec_plugins.cli.table import print_json
    from genrec_plugins.lum.query import query_run
    from genrec_plugins.lum.run import LumRun
    from genrec_plugins.training.reporter import Console, Quiet

    runs = [LumRun.open(run_dir) for run_dir in run_dirs]
    longest = min(run.run.config.max_length for run in runs)
    if stride is not None and stride > longest:
        raise ConfigError(f"--stride is {stride}, expected at most the shortest max_length, {longest}")
    options: dict[str, Any] = {"snapshots": snapshots, "until": moment, "stride": stride, "max_events": max_events}
    if quiet:
        done = query_run(runs, out, query_ or (), reporter=Quiet(), **options)
    else:
        with Console(unit="snapshots") as console:
            done = query_run(runs, out, query_ or (), reporter=console, **options)
    report: dict[str, Any] = {
        "users": done.users,
        "snapshots": done.snapshots,
        "queries": list(done.queries),
        "seconds": done.seconds,
        "store": done.store.digest,
    }
    if measure:
        from dataclasses import asdict

        from genrec_plugins.lum.measure import measure_run

        found = measure_run(runs[0], query_ or (), **options)
        report["measured"] = asdict(found) | {"speed_up": found.speed_up}
    if json_:
        print_json(report)
        return
    typer.echo(
        f"{done.users:,} users, {done.snapshots:,} snapshots, queries {', '.join(done.queries)}: "
        f"{done.seconds:.1f} s; knowledge store {out}"
    )
    if measure:
        typer.echo(
            f"of {found.snapshots:,} snapshots x {found.queries} queries: group query {found.group_seconds:.2f} s, "
            f"separate passes {found.separate_seconds:.2f} s, {found.speed_up:.1f} times; "
            f"largest difference {found.max_difference:.1e}"
        )


def parse_time(text: str) -> int:
    """Epoch seconds of ``--until``: a number as it is, a date or moment in UTC.

    Raises:
        ConfigError: it is neither.

    Example::

        >>> parse_time("893286638"), parse_time("1998-04-22"), parse_time("1998-04-22T12:00:00")
        (893286638, 893203200, 893246400)
    """
    from datetime import UTC, datetime

    from genrec_registry import ConfigError

    if text.removeprefix("-").isdigit():
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"--until is '{text}', expected epoch seconds or a date such as 1998-04-22") from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
