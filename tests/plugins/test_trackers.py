"""What TensorBoard, MLflow and W&B are told of a run, offline; runs that go on or fail, and trackers that fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from genrec_adapters.prepared import Prepared
from genrec_plugins.config import LoadedRun, parse_run
from genrec_plugins.reports.curves import logged_scalars
from genrec_plugins.reports.runs import read_run
from genrec_plugins.training.run import prepare_run, train_run
from genrec_plugins.training.trackers import TensorBoard, Trackers, open_trackers
from genrec_registry import ConfigError, ModelError, SetupError
from tests.plugins.interrupt import Interrupt
from tests.plugins.report_cases import report_run, write_rows


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("trackers")
    write_rows(folder)
    return prepare_run(report_run(folder), folder / "prepared")


def run_of(prepared: Prepared, *trackers: str, epochs: int = 2, **train: Any) -> LoadedRun:
    base = report_run(prepared.directory.parent, epochs=epochs).config.model_dump(mode="json")
    base["train"] |= {"trackers": list(trackers), "tracker_project": "ads"} | train
    return parse_run(base)


@pytest.fixture
def mlflow_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of an MLflow store in a folder: no server."""
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    return mlflow.MlflowClient(tracking_uri=(tmp_path / "mlruns").as_uri())


@pytest.fixture
def wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B that writes files and sends nothing."""
    pytest.importorskip("wandb")
    for name in ("HOME", "WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "wandb-home"))
    (tmp_path / "wandb-home").mkdir()
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_DIR")


def mlflow_run(client: Any) -> Any:
    experiment = client.get_experiment_by_name("ads")
    (run,) = client.search_runs([experiment.experiment_id])
    return run


def history(client: Any, run: Any, key: str) -> dict[int, float]:
    return {metric.step: metric.value for metric in client.get_metric_history(run.info.run_id, key)}


def test_tensorboard_is_always_told(prepared: Prepared, tmp_path: Path) -> None:
    report = train_run(run_of(prepared), tmp_path / "run", prepared)
    folder = tmp_path / "run" / "tensorboard"
    steps = report["history"][-1]["step"]
    assert [step for step, _ in logged_scalars(folder, "train/loss")] == list(range(2, steps + 1, 2))
    for entry in report["history"]:
        for name in ("auc", "logloss", "ne", "calibration"):
            told = dict(logged_scalars(folder, f"valid/{name}"))
            assert told[entry["step"]] == pytest.approx(entry["valid"][name], rel=1e-6)
    assert dict(logged_scalars(folder, "test/auc")) == {steps: pytest.approx(report["test"]["auc"])}
    assert not (tmp_path / "run" / "trackers.json").exists()


def test_mlflow_has_params_steps_epochs_and_final_metrics(
    prepared: Prepared, tmp_path: Path, mlflow_files: Any
) -> None:
    report = train_run(run_of(prepared, "mlflow"), tmp_path / "my-run", prepared)
    run = mlflow_run(mlflow_files)
    assert (run.info.run_name, run.info.status) == ("my-run", "FINISHED")
    params = run.data.params
    assert (params["model.interaction.type"], params["train.batch_size"], params["seed"]) == ("fat", "64", "3")
    assert params["parameters"] == str(json.loads((tmp_path / "my-run/run.json").read_text())["parameters"])
    assert "versions.torch" in params
    losses = history(mlflow_files, run, "train/loss")
    assert losses == pytest.approx(dict(logged_scalars(tmp_path / "my-run/tensorboard", "train/loss")))
    valid = {entry["step"]: entry["valid"]["auc"] for entry in report["history"]}
    assert history(mlflow_files, run, "valid/auc") == pytest.approx(valid)
    assert run.data.metrics["test/auc"] == pytest.approx(report["test"]["auc"])
    assert run.data.metrics["best_epoch"] == report["best_epoch"]


def test_a_run_that_goes_on_is_one_run_in_mlflow_and_a_restarted_one_another(
    prepared: Prepared, tmp_path: Path, mlflow_files: Any
) -> None:
    with pytest.raises(KeyboardInterrupt):
        train_run(run_of(prepared, "mlflow"), tmp_path / "run", prepared, Interrupt(18))
    assert mlflow_run(mlflow_files).info.status == "KILLED"
    report = train_run(run_of(prepared, "mlflow"), tmp_path / "run", prepared)
    run = mlflow_run(mlflow_files)
    assert run.info.status == "FINISHED"
    assert list(history(mlflow_files, run, "train/loss")) == list(range(2, report["history"][-1]["step"] + 1, 2))
    train_run(run_of(prepared, "mlflow"), tmp_path / "run", prepared, restart=True)
    experiment = mlflow_files.get_experiment_by_name("ads")
    assert len(mlflow_files.search_runs([experiment.experiment_id])) == 2


def test_a_run_that_fails_is_said_to_have_failed(prepared: Prepared, tmp_path: Path, mlflow_files: Any) -> None:
    with pytest.raises(ModelError):
        train_run(run_of(prepared, "mlflow", dense_lr=1e30, embedding_lr=1e30), tmp_path / "run", prepared)
    assert mlflow_run(mlflow_files).info.status == "FAILED"


def test_trackers_do_not_change_what_a_run_is(prepared: Prepared, tmp_path: Path, mlflow_files: Any) -> None:
    """A run goes on with other trackers than it was begun with, and its weights are the same."""
    with pytest.raises(KeyboardInterrupt):
        train_run(run_of(prepared), tmp_path / "run", prepared, Interrupt(18))
    reporter = Interrupt()
    resumed = train_run(run_of(prepared, "mlflow"), tmp_path / "run", prepared, reporter)
    assert any(text.startswith("going on from step 15") for text in reporter.told)
    whole = train_run(run_of(prepared), tmp_path / "whole", prepared)
    assert resumed["test"] == whole["test"]


def wandb_records(folder: Path) -> list[Any]:
    """What an offline run wrote: a LevelDB log (blocks of 32 KiB, parts of records) behind a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    data, place, block = path.read_bytes(), 7, 32 * 1024
    assert data[:4] == b":W&B"
    records, whole = [], b""
    while place + 7 <= len(data):
        if block - place % block < 7:
            place += block - place % block
            continue
        size, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        if place + 7 + size > len(data):
            break  # still being written
        whole += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            records.append(record)
            whole = b""
    return records


def finished_wandb_records(folder: Path) -> list[Any]:
    """The records, once the last one is there: W&B's own process writes them, and may after the run has ended."""
    until = time.monotonic() + 60
    while True:
        records = wandb_records(folder)
        if any(record.WhichOneof("record_type") == "exit" for record in records) or time.monotonic() > until:
            return records
        time.sleep(0.1)


def test_wandb_has_config_steps_epochs_and_final_metrics(
    prepared: Prepared, tmp_path: Path, wandb_offline: None
) -> None:
    report = train_run(run_of(prepared, "wandb"), tmp_path / "my-run", prepared)
    records = finished_wandb_records(tmp_path / "my-run")
    (begun,) = [record.run for record in records if record.WhichOneof("record_type") == "run"]
    assert (begun.project, begun.display_name) == ("ads", "my-run")
    assert begun.run_id == json.loads((tmp_path / "my-run/trackers.json").read_text())["wandb"]
    config = {item.key: json.loads(item.value_json) for item in begun.config.update}
    assert (config["model.interaction.type"], config["train.batch_size"]) == ("fat", 64)
    rows = []
    for record in records:
        if record.WhichOneof("record_type") == "history":
            items = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            rows.append((int(items.get("_step", record.history.step.num)), items))
    losses = {step: items["train/loss"] for step, items in rows if "train/loss" in items}
    assert losses == pytest.approx(dict(logged_scalars(tmp_path / "my-run/tensorboard", "train/loss")))
    aucs = {step: items["valid/auc"] for step, items in rows if "valid/auc" in items}
    assert aucs == pytest.approx({entry["step"]: entry["valid"]["auc"] for entry in report["history"]})
    summary: dict[str, Any] = {}
    for record in records:
        if record.WhichOneof("record_type") == "summary":
            summary |= {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.summary.update}
    assert summary["test/auc"] == pytest.approx(report["test"]["auc"])
    (ended,) = [record.exit for record in records if record.WhichOneof("record_type") == "exit"]
    assert ended.exit_code == 0


@pytest.mark.distributed
def test_of_two_processes_the_first_alone_tells(prepared: Prepared, tmp_path: Path, mlflow_files: Any) -> None:
    config = run_of(prepared, "mlflow", epochs=1).config.model_dump(mode="json")
    (tmp_path / "run.yaml").write_text(json.dumps(config))
    command = [sys.executable, "-m", "genrec_plugins.cli.main", "train", "run.yaml", "--nproc", "2", "--json"]
    command += ["--prepared", str(prepared.directory), "--out", "run"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    run = mlflow_run(mlflow_files)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["test/auc"] == pytest.approx(json.loads(done.stdout)["test"]["auc"])
    assert [metric.step for metric in mlflow_files.get_metric_history(run.info.run_id, "train/loss")] == [
        2, 4, 6, 8, 10, 12, 14,
    ]  # fmt: skip


# -- what can go wrong ------------------------------------------------------------------------------------------------


class Fails:
    """A tracker whose server has gone."""

    def __init__(self, works: int) -> None:
        self.works = works
        self.calls = 0

    def _call(self) -> None:
        self.calls += 1
        if self.calls > self.works:
            raise ConnectionError("no route to host\nlong story")

    def log(self, values: Any, step: int) -> None:
        self._call()

    def summarise(self, values: Any, step: int) -> None:
        self._call()

    def close(self, outcome: Any) -> None:
        self._call()


def test_a_tracker_that_fails_is_left_alone_and_the_others_are_told(tmp_path: Path) -> None:
    reporter, gone, stays = Interrupt(), Fails(1), Fails(100)
    with Trackers([TensorBoard(tmp_path)], {"mlflow": gone, "wandb": stays}, reporter) as trackers:
        for step in range(5):
            trackers.log({"train/loss": 0.5}, step)
    assert gone.calls == 2
    assert stays.calls == 6
    assert reporter.told == ["mlflow: no route to host; it is told nothing more of this run"]
    assert len(logged_scalars(tmp_path, "train/loss")) == 5


def test_a_server_that_cannot_be_reached_is_told_before_training(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    for name in ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR"):
        monkeypatch.setenv(name, "0")
    with pytest.raises(SetupError, match="names 'mlflow', which cannot be opened"):
        train_run(run_of(prepared, "mlflow"), tmp_path / "run", prepared, Interrupt(1))


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_tracker_that_is_not_installed_is_named_with_its_extra(
    name: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SetupError, match=rf'pip install "genrec-plugins\[{name}\]"'):
        open_trackers([name], "p", tmp_path, {})


def test_unknown_trackers_are_refused_and_known_ones_imported_only_when_used(prepared: Prepared) -> None:
    with pytest.raises(ConfigError, match="trackers"):
        run_of(prepared, "tensorbord")
    code = (
        "import sys, genrec_plugins.training.run, genrec_plugins.config; print({'mlflow','wandb'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ}
    )  # fmt: skip
    assert done.stdout.strip() == "set()"


def test_a_damaged_file_of_ids_begins_new_runs(tmp_path: Path, mlflow_files: Any) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "trackers.json").write_text("[1")
    with open_trackers(["mlflow"], "ads", tmp_path / "run", {"fields.C{1..3}.type": "categorical"}) as trackers:
        trackers.log({"train/loss": float("nan"), "valid/auc": 0.5}, 1)
    run = mlflow_run(mlflow_files)
    assert run.data.params == {"fields.C_1..3_.type": "categorical"}
    assert run.data.metrics == {"valid/auc": 0.5}


# -- the run directory ------------------------------------------------------------------------------------------------


def test_a_refused_run_leaves_the_directory_of_the_other_one_as_it_was(prepared: Prepared, tmp_path: Path) -> None:
    train_run(run_of(prepared), tmp_path, prepared)
    before = [(tmp_path / name).read_bytes() for name in ("run.json", "metrics.json")]
    with pytest.raises(ModelError, match="another config"):
        train_run(run_of(prepared, batch_size=32), tmp_path, prepared)
    assert [(tmp_path / name).read_bytes() for name in ("run.json", "metrics.json")] == before


def test_metrics_of_an_earlier_training_do_not_outlive_its_weights(prepared: Prepared, tmp_path: Path) -> None:
    train_run(run_of(prepared), tmp_path, prepared)
    assert read_run(tmp_path).status == "finished"
    with pytest.raises(KeyboardInterrupt):
        train_run(run_of(prepared), tmp_path, prepared, Interrupt(18), restart=True)
    assert read_run(tmp_path).status == "unfinished"
