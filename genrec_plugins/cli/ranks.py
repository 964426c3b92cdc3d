"""What ``genrec train`` does in one process, in a rank of several, and to start them; only rank 0 talks."""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

import typer

from genrec_plugins.training.launch import end, launch, launched, restarts
from genrec_plugins.training.reporter import Console, Quiet
from genrec_registry import ConfigError, GenrecError

Report = dict[str, Any]

#: in the message of a collective whose other end is gone
_LOST = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer")


@dataclass(frozen=True)
class TrainTask:
    """The arguments of ``genrec train``.

    Args:
        run_file: the run's YAML.
        directory: the run directory.
        prepared: prepared directory, or None for its own.
        overrides: KEY=VALUE.
        restart: forget the checkpoints.
        quiet: no progress.
    """

    run_file: Path
    directory: Path
    prepared: Path | None
    overrides: tuple[str, ...]
    restart: bool
    quiet: bool


def run_task(task: TrainTask) -> Report:
    """Train in this process, alone or as the rank that the environment says it is.

    Args:
        task: what to train.

    Returns:
        What ``metrics.json`` holds.
    """
    from genrec_plugins.cli.logs import load_torchrec
    from genrec_plugins.config import load_run, parse_overrides

    run = load_run(task.run_file, parse_overrides(task.overrides))
    load_torchrec()
    from genrec_adapters.prepared import Prepared
    from genrec_plugins.training.ranks import ensure_process_group, on_every, on_first
    from genrec_plugins.training.run import prepare_run, train_run
    from genrec_plugins.training.trainer import pick_device

    if launched():
        ensure_process_group(pick_device(run.config.train.device))
    with reporter_of(task.quiet) as reporter:
        again, most = restarts()
        if again:
            reporter.message(f"a process died; all were started again ({again} of {most} times)")
        directory = on_first(lambda: prepare_run(run, task.prepared, reporter=reporter).directory)
        with on_every("opening the prepared rows"):
            prepared = Prepared.open(directory)
        # what was to be forgotten is, when the run starts again after a process was lost
        restart = on_first(lambda: task.restart and not again)
        return train_run(run, task.directory, prepared, reporter, restart=restart)


def reporter_of(quiet: bool) -> AbstractContextManager[Console | Quiet]:
    """What tells the user, on the first rank; the others say nothing.

    Args:
        quiet: the user wants to be told nothing.
    """
    first = int(os.environ.get("RANK", "0")) == 0 or not launched()
    return Console() if first and not quiet else nullcontext(Quiet())


def run_rank(task: TrainTask) -> Report | None:
    """Train as one rank of several. Where another process is lost, this one ends with exit code 1.

    Args:
        task: what to train.

    Returns:
        The report on rank 0, None on the others.

    Raises:
        Exit: of a mistake that another rank tells the user of.
        GenrecError: of one that this rank must tell.
    """
    try:
        report = run_task(task)
    except GenrecError as error:
        if _is_known(error) and not _is_first():
            raise typer.Exit(error.exit_code) from error
        raise
    except RuntimeError as error:
        if not any(word in str(error) for word in _LOST):
            raise
        typer.echo(f"process {os.environ['RANK']}: another process was lost", err=True)
        end(1)
    import torch.distributed as dist

    first = _is_first()
    dist.destroy_process_group()
    return report if first else None


def launch_ranks(task: TrainTask, ranks: int, max_restarts: int) -> Report | None:
    """Train in several processes on this machine.

    Args:
        task: what to train.
        ranks: how many processes.
        max_restarts: how often all are started again when one dies.

    Returns:
        The report.

    Raises:
        ConfigError: this is one of several processes already.
        Exit: of a mistake that a rank has told the user of.
    """
    from genrec_plugins.cli.logs import load_torchrec
    from genrec_plugins.config import load_run, parse_overrides

    if launched():
        raise ConfigError("--nproc starts processes, and torchrun has started this one; use one of the two")
    load_run(task.run_file, parse_overrides(task.overrides))  # a mistake in the file is told before anything starts
    load_torchrec()
    outcomes = launch(ranks, _rank_of_launch, task, max_restarts=max_restarts)
    code = max(code for code, _ in outcomes.values())
    if code:
        raise typer.Exit(code)
    report: Report | None = outcomes[0][1]
    return report


def _rank_of_launch(task: TrainTask) -> tuple[int, Report | None]:
    """Exit code and report of a rank; it ends without them where a restart can help."""
    # the last thing that multiprocessing does in a process whose function returned, the result being sent
    Finalize(None, end, exitpriority=-1000)
    try:
        return 0, run_rank(task)
    except GenrecError as error:
        if os.environ.get("GENREC_TRACEBACK", "") not in ("", "0"):
            traceback.print_exc()
        typer.echo(str(error) if _is_first() else f"process {os.environ['RANK']}: {error}", err=True)
        if not _is_known(error):
            end(error.exit_code)
        return error.exit_code, None
    except typer.Exit as done:
        return done.exit_code, None
    except Exception:
        traceback.print_exc()
        end(1)


def _is_joined() -> bool:
    if "torch.distributed" not in sys.modules:
        return False
    import torch.distributed as dist

    return dist.is_initialized()


def _is_first() -> bool:
    """Whether this rank tells what all know: the first, or before they know each other, the first of the machine."""
    return os.environ.get("RANK" if _is_joined() else "LOCAL_RANK", "0") == "0"


def _is_known(error: GenrecError) -> bool:
    """Whether all ranks end with this error; those from before they know each other are of the file or the machine."""
    return not _is_joined() or getattr(error, "known_to_all_ranks", False)
