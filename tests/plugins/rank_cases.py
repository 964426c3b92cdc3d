"""Runs of several ranks for the tests, and the worker that does them: ``python -m tests.plugins.rank_cases JOBS.json``.

One process start costs seconds, so that one group of ranks does a list of jobs.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

ROOT = Path(__file__).resolve().parents[2]
ROWS = 361
TORCHREC = {"preset": "torchrec", "embedding_lr": 0.1, "dense_lr": 0.01, "eval_batch_size": 17}

#: name -> (train section, model section) over the defaults; without dropout, any number of ranks learns the same
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    # of 321 train rows the last batch has one, for all ranks
    "rowwise-adagrad": ({}, {}),
    "adagrad-cut": (
        {
            "embedding_optimizer": "adagrad",
            "sharding": {"tables": {"a": {"type": "column_wise", "columns": 4}, "{b,l}": {"type": "data_parallel"}}},
        },
        {},
    ),
    "sgd": (
        {
            "embedding_optimizer": "sgd",
            "dense_optimizer": "adamw",
            "weight_decay": 0.1,
            "lr_schedule": "linear",
            "warmup_steps": 3,
            "batch_size": 45,
        },
        {"interaction": {"type": "dcn", "num_layers": 1}},
    ),
    "pieces": (
        {"embedding_optimizer": "sgd", "sharding": {"draw": "pieces", "type": "column_wise", "columns": 8}},
        {"embedding_init_std": 0.5},
    ),
    "encoder": ({"batch_size": 64}, {"encoder": {"type": "din"}}),
    "dropout": ({"embedding_optimizer": "adagrad"}, {"dropout": 0.2}),
    "bars": ({"preset": "bars", "lr": 0.01, "embedding_l2": 0.01, "clip_grad_norm": 0.1}, {}),
}


def write_table(path: Path) -> Path:
    """Rows with single values, lists, a number and a history, and a label that depends on them."""
    source = np.random.default_rng(0)
    a, b = source.integers(0, 30, ROWS), source.integers(0, 4, ROWS)
    x = source.normal(size=ROWS)
    lists = [source.integers(0, 9, source.integers(0, 5)) for _ in range(ROWS)]
    histories = [source.integers(0, 30, source.integers(0, 6)) for _ in range(ROWS)]
    score = 2.0 * ((a + b) % 2) - 1 + x + np.array([(part == 3).sum() for part in lists])
    label = (source.random(ROWS) < 1 / (1 + np.exp(-score))).astype(int)
    columns = {
        "label": label,
        "a": [f"i{value}" for value in a],
        "item": [f"i{value}" for value in a],
        "b": [f"b{value}" for value in b],
        "x": x,
        "l": [[f"l{value}" for value in part] for part in lists],
        "history_item": [[f"i{value}" for value in part] for part in histories],
    }
    pl.DataFrame(columns).write_parquet(path)
    return path


def run_config(table: Path, case: str, **train: Any) -> dict[str, Any]:
    """The config of a case, on :func:`write_table`'s rows."""
    train_section, model_section = CASES[case]
    base = {} if train_section.get("preset") == "bars" else TORCHREC
    fields: dict[str, Any] = {
        "{a,b}": {"type": "categorical", "min_count": 1},
        "x": {"type": "numeric-dense"},
        "l": {"type": "multi-hot", "max_length": 4, "min_count": 1},
    }
    if "encoder" in model_section:
        fields["past"] = {"type": "behaviour", "max_length": 5}
    model = {"embedding_dim": 16, "over_arch": [16], "interaction": {"type": "dot"}, **model_section}
    shared = {"batch_size": 32, "epochs": 2, "threads": 1, "keep_checkpoints": 100}
    shared["checkpoint_every"] = 4 if case in ("adagrad-cut", "dropout") else 0
    return {
        "seed": 3,
        "dataset": {"type": "parquet", "path": str(table), "label": "label"},
        "split": {"type": "shuffled", "seed": 1, "train": 321.5 / ROWS, "valid": 22.5 / ROWS, "test": 17 / ROWS},
        "fields": fields,
        "model": model,
        "train": {**base, **shared, **train_section, **train},
    }


def copy_until(run: Path, step: int, to: Path) -> Path:
    """The run as it was when it was killed after a checkpoint."""
    shutil.copytree(run / "checkpoints", to / "checkpoints")
    shutil.copy(run / "model.safetensors", to)
    for checkpoint in (to / "checkpoints").glob("step-*"):
        if int(checkpoint.name.split("-")[1]) > step:
            shutil.rmtree(checkpoint)
    return to


def do_job(job: dict[str, Any]) -> dict[str, Any]:
    """Train a job's run; the losses, the report and the messages, or the error it ended with."""
    from genrec_adapters.prepared import Prepared
    from genrec_plugins.config import parse_run
    from genrec_plugins.training.reporter import Quiet
    from genrec_plugins.training.run import train_run
    from genrec_registry import GenrecError

    losses: list[float] = []
    messages: list[str] = []

    class Recorder(Quiet):
        def step(self, **facts: Any) -> None:
            losses.append(facts["loss"])

        def message(self, text: str) -> None:
            messages.append(text)

    try:
        prepared = Prepared.open(job["prepared"])
        report = train_run(parse_run(job["config"]), job["directory"], prepared, Recorder())
    except GenrecError as error:
        return {"error": str(error), "known": getattr(error, "known_to_all_ranks", False)}
    return {"losses": losses, "report": report, "messages": messages}


def run_ranks(folder: Path, ranks: int, jobs: list[dict[str, Any]], timeout: float = 600.0) -> list[dict[str, Any]]:
    """Do jobs in a group of ranks.

    Args:
        folder: for its files.
        ranks: how many.
        jobs: each with ``config``, ``prepared`` and ``directory``; or with ``check``, a function of this module.
        timeout: seconds after which ranks count as hanging.

    Returns:
        For each rank, the outcome of each job by its ``name``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "jobs.json").write_text(json.dumps(jobs))
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    shared |= {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
    command = [sys.executable, "-m", "tests.plugins.rank_cases", str(folder)]
    workers = [
        subprocess.Popen(
            command, cwd=ROOT, env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE, text=True,
        )
        for rank in range(ranks)
    ]  # fmt: skip
    try:
        errors = [worker.communicate(timeout=timeout)[1] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert all(worker.returncode == 0 for worker in workers), "\n".join(errors)
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(ranks)]


def genrec(
    *arguments: str, module: Sequence[str] = ("genrec_plugins.cli",), **environment: str
) -> subprocess.Popen[str]:
    """Start ``genrec`` with these arguments."""
    return subprocess.Popen(
        [sys.executable, "-m", *module, *arguments], cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_for(process: subprocess.Popen[str], seen: Callable[[], bool], timeout: float = 600.0) -> None:
    """Wait until something is seen of a process that must still run."""
    until = time.monotonic() + timeout
    while not seen():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.005)


def kill_rank(process: subprocess.Popen[str], rank: int, after: Path, timeout: float = 600.0) -> None:
    """SIGKILL a rank that ``genrec train --nproc`` started, as soon as a file is there."""
    wait_for(process, after.exists, timeout)
    ranks = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == process.pid and b"spawn_main" in (folder / "cmdline").read_bytes():
                ranks.append(int(folder.name))
    os.kill(sorted(ranks)[rank], signal.SIGKILL)


def fail_on_last_rank() -> dict[str, Any]:
    """An error that one rank alone has, in either helper."""
    from genrec_plugins.training.ranks import on_every, on_first, rank, world_size
    from genrec_registry import DataError

    def fail() -> None:
        raise DataError("the first cannot")

    found: dict[str, Any] = {}
    try:
        with on_every("reading"):
            if rank() == world_size() - 1:
                raise DataError("the last cannot")
    except DataError as error:
        found["every"] = str(error)
    try:
        on_first(fail)
    except DataError as error:
        found["first"] = str(error)
    found["value"] = on_first(lambda: rank() + 7)
    return found


def main(folder: Path) -> None:
    """Do the jobs as one rank."""
    import faulthandler
    import warnings

    faulthandler.enable()

    warnings.filterwarnings("ignore")
    from genrec_plugins.cli.logs import load_torchrec

    load_torchrec()
    import torch
    import torch.distributed as dist

    from genrec_plugins.training.launch import end
    from genrec_plugins.training.ranks import ensure_process_group, rank

    torch.set_num_threads(1)
    ensure_process_group(torch.device("cpu"))
    outcomes = {}
    for job in json.loads((folder / "jobs.json").read_text()):
        outcomes[job["name"]] = globals()[job["check"]]() if "check" in job else do_job(job)
    (folder / f"rank{rank()}.json").write_text(json.dumps(outcomes))
    dist.barrier()
    dist.destroy_process_group()
    end()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
