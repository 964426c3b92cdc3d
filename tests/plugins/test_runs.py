"""``genrec runs list|compare``: finished, unfinished and broken runs, their order, and how configs differ."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from genrec_plugins.cli import main
from genrec_plugins.reports.runs import differences, distinct_names, find_runs, read_run, same_rows, sort_runs
from genrec_registry import ConfigError, DataError


def config(interaction: str = "fat", **train: Any) -> dict[str, Any]:
    return {"seed": 1, "model": {"interaction": {"type": interaction}, "encoder": None}, "train": train}


def write_run(
    folder: Path,
    *,
    auc: float | None = 0.75,
    identity: tuple[str, ...] = ("a",),
    **settings: Any,
) -> Path:
    """A run directory as training leaves it; without ``auc``, one that was stopped after an epoch."""
    folder.mkdir(parents=True, exist_ok=True)
    run = {"config": config(**settings), "prepared": "prepared/x", "identity": list(identity), "parameters": 1234}
    (folder / "run.json").write_text(json.dumps(run))
    valid = {"auc": 0.7, "logloss": 0.5, "ne": 0.9, "calibration": 1.0, "rows": 10}
    history = [{"epoch": 1, "step": 7, "train_loss": 0.6, "valid": valid}]
    if auc is None:
        checkpoint = folder / "checkpoints" / "step-0000000009"
        checkpoint.mkdir(parents=True)
        progress = {"step": 9, "history": history, "best": {"epoch": 1, "value": 0.7}}
        (checkpoint / "trainer.json").write_text(json.dumps({"progress": progress}))
        return folder
    test = {**valid, "auc": auc, "logloss": 1 - auc}
    report = {"best_epoch": 1, "rows_per_second": 10.0, "history": history, "valid": valid, "test": test}
    (folder / "metrics.json").write_text(json.dumps(report))
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    root = tmp_path / "runs"
    write_run(root / "low", auc=0.7, interaction="dcn", epochs=2)
    write_run(root / "deep" / "high", auc=0.8, epochs=1)
    write_run(root / "nan", auc=float("nan"))
    write_run(root / "stopped", auc=None)
    write_run(root / "torn")
    (root / "torn" / "metrics.json").write_text('{"test": {')
    (root / "lost" / "checkpoints").mkdir(parents=True)
    (root / "notes").mkdir()
    return root


def genrec(*words: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        main.run(["runs", *words])
    return int(stopped.value.code or 0)


def test_every_run_is_found_with_its_state_and_the_best_comes_first(runs: Path) -> None:
    found = sort_runs(find_runs(runs))
    assert [(run.name, run.status) for run in found] == [
        ("deep/high", "finished"),
        ("low", "finished"),
        ("nan", "finished"),
        ("stopped", "unfinished"),
        ("lost", "broken"),
        ("torn", "broken"),
    ]
    by_name = {run.name: run for run in found}
    assert by_name["stopped"].note == "stopped after step 9, 1 epochs evaluated"
    assert by_name["stopped"].valid["auc"] == 0.7
    assert by_name["lost"].note == "run.json is missing"
    assert by_name["torn"].note.startswith("metrics.json cannot be read (")
    assert by_name["low"].model == "dcn"


def test_sorting_by_each_key(runs: Path) -> None:
    found = find_runs(runs)
    names = {by: [run.name for run in sort_runs(found, by)][:2] for by in ("logloss", "auc", "name")}
    assert names == {"logloss": ["deep/high", "low"], "auc": ["deep/high", "low"], "name": ["deep/high", "lost"]}
    times = [run.modified for run in sort_runs(found, "time")]
    assert times == sorted(times, reverse=True)
    with pytest.raises(ConfigError, match="did you mean 'logloss'"):
        sort_runs(found, "loglos")


@pytest.mark.parametrize(
    "damage",
    ["[]", "", "{", '{"config": 3}', '{"config": null, "identity": 7}', "[" * 50_000],
    ids=["list", "empty", "torn", "number", "null", "deep"],
)
def test_a_damaged_run_file_is_broken_and_raises_nothing(damage: str, tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    (tmp_path / "run" / "run.json").write_text(damage)
    found = read_run(tmp_path / "run")
    assert found.status == "broken"
    assert found.note.startswith("run.json")


@pytest.mark.parametrize(
    "metrics",
    [{"test": 3, "history": {"a": 1}}, {"history": [1, {"valid": "x"}], "valid": [1]}, {"best_epoch": "x", "test": {}}],
)
def test_metrics_of_other_types_are_left_out(metrics: dict[str, Any], tmp_path: Path) -> None:
    write_run(tmp_path)
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    found = read_run(tmp_path)
    assert found.status == "finished"
    assert dict(found.test) == {}
    assert genrec("compare", str(tmp_path)) == 0
    assert genrec("list", str(tmp_path)) == 0


def test_an_unreadable_newest_checkpoint_is_passed_over(tmp_path: Path) -> None:
    write_run(tmp_path, auc=None)
    newer = tmp_path / "checkpoints" / "step-0000000012"
    newer.mkdir()
    (newer / "trainer.json").write_text("{")
    assert read_run(tmp_path).note.startswith("stopped after step 9")


def test_differences_are_the_keys_whose_values_differ(runs: Path) -> None:
    low, high, lost = (read_run(runs / name) for name in ("low", "deep/high", "lost"))
    assert differences([low, high, lost]) == {
        "model.interaction.type": ['"dcn"', '"fat"', "-"],
        "train.epochs": ["2", "1", "-"],
    }
    assert differences([low, low]) == {}


def test_rows_are_the_same_only_where_their_digests_are(tmp_path: Path) -> None:
    one, two = write_run(tmp_path / "one"), write_run(tmp_path / "two", identity=("b",))
    assert same_rows([read_run(one), read_run(one)])
    assert not same_rows([read_run(one), read_run(two)])


def test_names_are_as_short_as_they_can_be() -> None:
    assert distinct_names(["a/x/run", "a/y/run", "a/y/other"]) == ["x/run", "y/run", "y/other"]
    assert distinct_names(["a/run", "a/./run"]) == ["run", "run"]


def test_list_prints_a_line_a_run_and_strict_json(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert genrec("list", str(runs)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:5] == ["deep/high", "ranker", "finished", "fat", "0.80000"]
    assert "broken" in lines[-1]
    assert genrec("list", str(runs), "--json") == 0
    found = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert [run["status"] for run in found] == ["finished"] * 3 + ["unfinished"] + ["broken"] * 2
    assert found[2]["test"]["auc"] is None


def test_compare_prints_metrics_differences_and_what_is_not_finished(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [str(runs / name) for name in ("low", "deep/high", "stopped")]
    assert genrec("compare", *paths) == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()[1:4]] == ["high", "low", "stopped"]
    assert "model.interaction.type" in out
    assert "stopped: unfinished, stopped after step 9" in out
    assert "cannot be compared" not in out
    write_run(runs / "elsewhere", identity=("b",))
    assert genrec("compare", *paths[:1], str(runs / "elsewhere")) == 0
    assert "cannot be compared" in capsys.readouterr().out
    assert genrec("compare", *paths, "--json") == 0
    data = json.loads(capsys.readouterr().out)
    assert data["differences"]["train.epochs"] == ["1", "2", "-"]
    assert data["same_rows"] is True


def test_a_folder_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no folder"):
        find_runs(tmp_path / "absent")
    assert genrec("list", str(tmp_path)) == 0
