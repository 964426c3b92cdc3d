"""What ``genrec train --follow`` does."""

from __future__ import annotations

from pathlib import Path

import typer

from genrec_plugins.cli.ranks import TrainTask, reporter_of
from genrec_registry import ConfigError


def follow_task(
    task: TrainTask,
    folder: Path,
    nproc: int,
    *,
    poll: float,
    until_idle: float | None,
    full_every: int,
    json_: bool,
) -> None:
    """Train as ``task`` says, then on the files of a folder until they end, and tell what came of it.

    Args:
        task: the arguments of ``genrec train``.
        folder: where files appear.
        nproc: processes that were asked for; more than one are refused.
        poll: seconds between two looks.
        until_idle: end after so many seconds without a new file.
        full_every: files between two full checkpoints.
        json_: print JSON.

    Raises:
        ConfigError: it cannot be followed.
    """
    from genrec_plugins.cli.logs import load_torchrec
    from genrec_plugins.cli.table import print_json
    from genrec_plugins.config import load_run, parse_overrides

    if nproc > 1:
        raise ConfigError("--follow trains in one process; drop --nproc")
    run = load_run(task.run_file, parse_overrides(task.overrides))
    load_torchrec()
    from genrec_plugins.training.follow import LOG, FollowOptions, follow_run
    from genrec_plugins.training.run import prepare_run

    options = FollowOptions(folder=folder, poll=poll, until_idle=until_idle, full_every=full_every)
    with reporter_of(task.quiet) as reporter:
        prepared = prepare_run(run, task.prepared, reporter=reporter)
        report = follow_run(run, task.directory, prepared, options, reporter, restart=task.restart)
    if json_:
        print_json(report)
        return
    now = len(report["progressive"])
    typer.echo(
        f"{report['files']:,} files ({now:,} of them now), {report['rows']:,} rows; "
        f"metrics of each before it was trained on: {task.directory / LOG}"
    )
