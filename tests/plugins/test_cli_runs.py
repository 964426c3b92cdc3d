"""The commands that train, as a user calls them, each in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from genrec_plugins.synthetic import generate

RUN = """
dataset: {type: criteo-kaggle, path: train.txt}
split: {type: shuffled, seed: 1}
model: {embedding_dim: 4, over_arch: [8], interaction: {type: fat, num_heads: 2}}
train: {batch_size: 512, threads: 1}
"""


def genrec(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "genrec_plugins.cli.main", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    generate("criteo", 3000, folder / "train.txt", seed=1)
    (folder / "run.yaml").write_text(RUN)
    trained = genrec("train", "run.yaml", cwd=folder)
    assert trained.returncode == 0, trained.stderr
    assert "prepared 3,000 rows" in trained.stderr
    assert "valid AUC" in trained.stdout
    assert "WARNING" not in trained.stdout + trained.stderr
    return folder


def test_preprocess_again_does_nothing(folder: Path) -> None:
    again = genrec("preprocess", "run.yaml", "--json", cwd=folder)
    assert again.returncode == 0, again.stderr
    summary = json.loads(again.stdout)
    assert summary["reused"] is True
    assert {name: split["rows"] for name, split in summary["splits"].items()} == {
        "train": 2400, "valid": 300, "test": 300,
    }  # fmt: skip


def test_evaluate_agrees_with_training(folder: Path) -> None:
    found = genrec("evaluate", "runs/run", "--split", "test", "--json", cwd=folder)
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout) == json.loads((folder / "runs/run/metrics.json").read_text())["test"]


def test_predict_writes_parquet_of_a_split_and_of_a_raw_file(folder: Path) -> None:
    assert genrec("predict", "runs/run", "--out", "test.parquet", cwd=folder).returncode == 0
    frame = pl.read_parquet(folder / "test.parquet")
    assert frame.schema == {"label": pl.Int8, "probability": pl.Float32}
    assert frame.height == 300
    lines = (folder / "train.txt").read_text().splitlines(keepends=True)
    (folder / "new.txt").write_text("".join(lines[:50]) + "one\ttoo\tfew\n")
    refused = genrec("predict", "runs/run", "--data", "new.txt", cwd=folder)
    assert refused.returncode == 4
    assert refused.stderr.startswith("new.txt, row 51")
    skipped = genrec("predict", "runs/run", "--data", "new.txt", "--on-error", "skip", "-o", "new.parquet", cwd=folder)
    assert skipped.returncode == 0, skipped.stderr
    assert "1 bad rows were left out" in skipped.stderr
    assert pl.read_parquet(folder / "new.parquet").height == 50


def test_overrides_choose_another_interaction(folder: Path) -> None:
    options = ("--out", "runs/dcn", "--set", "model.interaction={type: dcn, num_layers: 1}", "--json", "--quiet")
    report = genrec("train", "run.yaml", *options, cwd=folder)
    assert report.returncode == 0, report.stderr
    assert json.loads(report.stdout)["best_epoch"] == 1
    assert json.loads((folder / "runs/dcn/run.json").read_text())["config"]["model"]["interaction"]["type"] == "dcn"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("train", "absent.yaml"), 2, "absent.yaml: cannot be read"),
        (("train", "run.yaml", "--set", "train.epoch=2"), 2, "did you mean 'epochs'?"),
        (("train", "run.yaml", "--set", "model.interaction.type=fatt"), 2, "did you mean 'fat'?"),
        (("train", "run.yaml", "--set", "dataset.path=absent.txt", "-o", "runs/x"), 4, "absent.txt"),
        (("train", "run.yaml", "--set", "seed=2", "--out", "runs/run"), 5, "--restart"),
        (("evaluate", "runs"), 4, "runs: is not a run directory (run.json is missing)"),
        (("lum", "query", "runs/run", "-o", "k"), 4, "a pre-training run (run.json has no 'facts')"),
        (("runs", "compare", "runs/run", "runs/rum"), 4, "runs/rum: is no directory"),
        (("report", "runs/run", "runs/rum"), 4, "runs/rum: is no directory"),
        (("report", "runs/run", "-o", "runs"), 4, "runs: cannot be written (it is a directory)"),
        (("evaluate", "runs/run", "--split", "tset"), 2, "did you mean 'test'?"),
        (("bench", "criteo", "--data", "train.txt", "--interactions", "fatt"), 2, "did you mean 'fat'?"),
        (("bench", "criteo", "--data", "a=x", "--data", "y"), 2, "expected one file, or train=FILE"),
        (("demo", "criteos"), 2, "did you mean 'criteo'?"),
    ],
)
def test_mistakes_are_one_sentence_and_an_exit_code(
    folder: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    found = genrec(*arguments, cwd=folder)
    assert found.returncode == code, found.stderr
    *before, sentence = found.stderr.strip().splitlines()
    assert message in sentence
    assert set(before) <= {"prepared rows are up to date"}


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "run.yaml"),
        ("evaluate", "runs/run"),
        ("predict", "runs/run"),
        ("bench", "criteo", "--data", "train.txt"),
        ("tune", "criteo", "--data", "train.txt"),
        ("ablate", "criteo", "--data", "train.txt"),
        ("demo",),
    ],
)
def test_without_torchrec_every_command_says_how_to_install_it(folder: Path, arguments: tuple[str, ...]) -> None:
    hide = f"import sys; sys.modules['torchrec'] = None; from genrec_plugins.cli import main; main.run({arguments!r})"
    found = subprocess.run([sys.executable, "-c", hide], cwd=folder, capture_output=True, text=True, check=False)
    assert found.returncode == 6, found.stderr
    assert found.stderr.startswith("torchrec cannot be used: ")
    assert len(found.stderr.strip().splitlines()) == 1


def test_demo_runs_the_whole_path(tmp_path: Path) -> None:
    found = genrec("demo", "--rows", "2000", "--interactions", "fat,mlp", "--epochs", "1", cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    lines = found.stdout.splitlines()
    assert lines[0].split()[0] == "interaction"
    assert {line.split()[0] for line in lines[1:3]} == {"fat", "mlp"}
    assert lines[3].startswith("(Bayes optimum)")
    assert (tmp_path / "demo/criteo-report/index.html").exists()
