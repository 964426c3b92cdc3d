"""Training on several gloo ranks against one process: losses, weights, metrics, checkpoints, errors."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from genrec_plugins.config import parse_run
from genrec_plugins.training.run import prepare_run
from tests.plugins.rank_cases import (
    CASES,
    copy_until,
    do_job,
    genrec,
    kill_rank,
    run_config,
    run_ranks,
    wait_for,
    write_table,
)

pytestmark = pytest.mark.distributed
ALIKE = [case for case in CASES if case != "dropout"]
TOO_LARGE = {"sharding": {"memory_gb": 1e-5}}
ROW_WISE = {"sharding": {"tables": {"a": {"type": "row_wise"}}}}
NO_TABLE = {"sharding": {"tables": {"C1": {"type": "column_wise"}}}}


class Bench:
    """A table, its prepared rows, and every case trained by one process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.table = write_table(folder / "rows.parquet")
        self.alone = {name: do_job(self.job(name)) for name in ALIKE}

    def job(self, case: str, directory: str = "alone", **train: Any) -> dict[str, Any]:
        config = run_config(self.table, case, **train)
        kind = "encoder" if "encoder" in config["model"] else "plain"
        prepared = prepare_run(parse_run(config), self.folder / "prepared" / kind)
        assert prepared.rows("train") == 321
        directory = str(self.folder / directory / case)
        return {"name": case, "config": config, "prepared": str(prepared.directory), "directory": directory}

    def command(self, case: str, directory: str, **train: Any) -> list[str]:
        """``genrec train`` of a case in two processes."""
        job = self.job(case, directory, **train)
        file = self.folder / f"{directory}.yaml"
        file.write_text(yaml.safe_dump(job["config"], sort_keys=False))
        return ["train", str(file), "--out", job["directory"], "--prepared", job["prepared"], "--nproc", "2"]

    def weights(self, directory: str, case: str) -> dict[str, torch.Tensor]:
        return load_file(self.folder / directory / case / "model.safetensors")

    def check(self, directory: str, case: str, found: dict[str, Any]) -> None:
        """Losses (those there are), weights and metrics are those of one process."""
        expected, weights = self.alone[case], self.weights("alone", case)
        theirs = self.weights(directory, case)
        assert theirs.keys() == weights.keys()
        for name, weight in weights.items():
            torch.testing.assert_close(theirs[name], weight, atol=5e-6, rtol=1e-5, msg=f"{case}: {name}")
        assert found["losses"] == pytest.approx(expected["losses"][-len(found["losses"]) :], abs=1e-6)
        for split in ("valid", "test"):
            assert found["report"][split] == pytest.approx(expected["report"][split], abs=1e-6)
        assert found["report"]["best_epoch"] == expected["report"]["best_epoch"]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="module")
def two(bench: Bench) -> list[dict[str, Any]]:
    """What two ranks say of each job."""
    for case in ("adagrad-cut", "rowwise-adagrad"):
        copy_until(bench.folder / "alone" / case, 11, bench.folder / "from-one" / case)
    jobs = [bench.job(case, "two") for case in CASES]
    jobs += [bench.job(case, "from-one") | {"name": f"{case} from one"} for case in ("adagrad-cut", "rowwise-adagrad")]
    jobs += [
        bench.job("sgd", "no-plan", **train) | {"name": name}
        for name, train in {"too large": TOO_LARGE, "row-wise": ROW_WISE, "no table": NO_TABLE}.items()
    ]
    jobs.append({"name": "one fails", "check": "fail_on_last_rank"})
    return run_ranks(bench.folder / "jobs2", 2, jobs)


@pytest.mark.parametrize("case", ALIKE)
def test_two_ranks_learn_what_one_process_learns(bench: Bench, two: list[dict[str, Any]], case: str) -> None:
    bench.check("two", case, two[0][case])
    assert len(two[0][case]["losses"]) == len(bench.alone[case]["losses"])
    assert two[1][case]["losses"] == [], "only rank 0 talks"
    assert two[1][case]["report"] == two[0][case]["report"]
    assert len(list((bench.folder / "two" / case / "tensorboard").iterdir())) == 1


@pytest.mark.parametrize("case", ["adagrad-cut", "rowwise-adagrad"])
def test_checkpoint_of_one_process_goes_on_in_two(bench: Bench, two: list[dict[str, Any]], case: str) -> None:
    found = two[0][f"{case} from one"]
    assert found["messages"][0] == "going on from step 11"
    assert 0 < len(found["losses"]) < len(bench.alone[case]["losses"])
    bench.check("from-one", case, found)


@pytest.mark.parametrize("case", ["adagrad-cut", "bars"])
def test_checkpoint_of_two_ranks_goes_on_in_one_process(bench: Bench, two: list[dict[str, Any]], case: str) -> None:
    copy_until(bench.folder / "two" / case, 12, bench.folder / "from-two" / case)
    found = do_job(bench.job(case, "from-two"))
    assert found["messages"][0] == f"going on from step {12 if case == 'adagrad-cut' else 11}"
    bench.check("from-two", case, found)


def test_layout_may_change_between_checkpoints_but_not_what_the_optimizer_keeps(bench: Bench) -> None:
    """Whole tables to cut ones, with Adagrad; a cut table has another row-wise state than a whole one."""
    cut = {"sharding": {"type": "column_wise", "columns": 8}}
    copy_until(bench.folder / "alone" / "adagrad-cut", 12, bench.folder / "cut" / "adagrad-cut")
    replicated = {"tables": {"{b,l}": {"type": "data_parallel"}}}
    found = do_job(bench.job("adagrad-cut", "cut", sharding={"type": "column_wise", "columns": 8, **replicated}))
    bench.check("cut", "adagrad-cut", found)
    copy_until(bench.folder / "alone" / "rowwise-adagrad", 11, bench.folder / "cut" / "rowwise-adagrad")
    refused = do_job(bench.job("rowwise-adagrad", "cut", **cut))
    assert "train.sharding" in refused["error"]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("too large", "the tables and their optimizer's state do not fit: 'a', the largest table, has"),
        ("row-wise", "table 'a' is row_wise, which TorchRec does on GPUs only; use table_wise or column_wise here"),
        ("no table", "train.sharding.tables: there is no table 'C1'; known: a, b, l"),
    ],
)
def test_planning_errors_are_told_on_every_rank_and_nobody_waits(
    two: list[dict[str, Any]], name: str, sentence: str
) -> None:
    assert two[0][name] == two[1][name]
    assert sentence in two[0][name]["error"]
    assert two[0][name]["known"]


def test_error_on_one_rank_is_told_to_all(two: list[dict[str, Any]]) -> None:
    first, last = two[0]["one fails"], two[1]["one fails"]
    assert last == {"every": "the last cannot", "first": "the first cannot", "value": 7}
    assert first == {**last, "every": "reading, process 1 of 2: the last cannot"}


def test_killed_process_is_made_good_and_the_run_ends_as_an_unbroken_one(
    bench: Bench, two: list[dict[str, Any]]
) -> None:
    """SIGKILL of rank 1 in the middle of 'genrec train --nproc 2': weights and metrics are the same, bit for bit."""
    copy_until(bench.folder / "two" / "dropout", 22, bench.folder / "killed" / "dropout")
    process = genrec(*bench.command("dropout", "killed"), "--restart")
    wait_for(process, lambda: not list((bench.folder / "killed" / "dropout").glob("checkpoints/step-*")))
    kill_rank(process, 1, bench.folder / "killed" / "dropout" / "checkpoints" / "step-0000000004")
    output, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    assert "a process died; all were started again (1 of 3 times)" in errors, errors
    assert "going on from step " in errors
    assert output.splitlines()[0].startswith("valid AUC ")
    assert "Traceback" not in errors
    whole, mended = (bench.folder / name / "dropout" for name in ("two", "killed"))
    assert (mended / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    reports = [json.loads((directory / "metrics.json").read_text()) for directory in (mended, whole)]
    assert reports[0]["test"] == reports[1]["test"]
    for mine, theirs in zip(reports[0]["history"], reports[1]["history"], strict=True):
        assert (mine["train_loss"], mine["valid"]) == (theirs["train_loss"], theirs["valid"])


def test_mistake_is_told_once_and_not_tried_again(bench: Bench) -> None:
    process = genrec(*bench.command("sgd", "mistaken", **TOO_LARGE))
    output, errors = process.communicate(timeout=600)
    assert (process.returncode, output) == (2, ""), errors
    (sentence,) = [line for line in errors.splitlines() if line != "prepared rows are up to date"]
    assert sentence.startswith("train.sharding: the tables and their optimizer's state do not fit")


@pytest.mark.parametrize(
    ("options", "environment", "message"),
    [
        (["--set", "train.epoch=2"], {}, "did you mean 'epochs'?"),
        ([], {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}, "--nproc starts"),
    ],
)
def test_mistakes_before_anything_is_started(
    bench: Bench, options: list[str], environment: dict[str, str], message: str
) -> None:
    process = genrec(*bench.command("sgd", "refused"), *options, **environment)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert message in errors
    assert len(errors.strip().splitlines()) == 1


@pytest.mark.long
def test_restarts_are_used_up(bench: Bench) -> None:
    process = genrec(*bench.command("dropout", "spent"), "--max-restarts", "0")
    kill_rank(process, 1, bench.folder / "spent" / "dropout" / "checkpoints" / "step-0000000004")
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 6, errors
    assert re.search(r"process \d of 2 (was killed by SIGKILL|died); run the same command again to go on", errors)
    again = genrec(*bench.command("dropout", "spent"))
    _, errors = again.communicate(timeout=600)
    assert again.returncode == 0, errors
    assert "going on from step " in errors


@pytest.mark.long
def test_torchrun_starts_the_same_run(bench: Bench, two: list[dict[str, Any]]) -> None:
    command = bench.command("dropout", "torchrun")[:-2]
    module = ["torch.distributed.run", "--nproc-per-node", "2", "-m", "genrec_plugins.cli"]
    process = genrec(*command, module=module)
    output, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    assert output.count("valid AUC") == 1
    files = [bench.folder / name / "dropout" / "model.safetensors" for name in ("two", "torchrun")]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.long
@pytest.mark.parametrize("ranks", [3, 4])
def test_more_ranks_learn_what_one_process_learns(bench: Bench, two: list[dict[str, Any]], ranks: int) -> None:
    """Three ranks have unequal shares of every batch; four have more ranks than tables, and rows of two go on there."""
    copy_until(bench.folder / "two" / "adagrad-cut", 12, bench.folder / f"from-two-{ranks}" / "adagrad-cut")
    jobs = [bench.job(case, f"ranks{ranks}") for case in ALIKE]
    jobs.append(bench.job("adagrad-cut", f"from-two-{ranks}") | {"name": "from two"})
    found = run_ranks(bench.folder / f"jobs{ranks}", ranks, jobs)[0]
    for case in ALIKE:
        bench.check(f"ranks{ranks}", case, found[case])
    bench.check(f"from-two-{ranks}", "adagrad-cut", found["from two"])


def test_a_rank_ends_without_waiting_for_threads_that_need_python() -> None:
    """What is printed gets out, and nothing of Python's own way out runs: Gloo's threads would abort the process."""
    code = "import atexit; from genrec_plugins.training.launch import end; atexit.register(print, 'late')"
    process = subprocess.run(
        [sys.executable, "-c", f"{code}; print('told', end=''); end(3)"], capture_output=True, text=True, check=False
    )
    assert (process.returncode, process.stdout, process.stderr) == (3, "told", "")
