"""The sweep: which runs it trains, keeps and refuses; its tables and plots; ``genrec scale`` on generated rows."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from genrec_adapters.loader import BatchLoader
from genrec_plugins.cli import main
from genrec_plugins.scaling.fewer_rows import take_training_rows
from genrec_plugins.scaling.ranker import RankerSubject
from genrec_plugins.scaling.report import markdown, write_report
from genrec_plugins.scaling.subjects import subject_of
from genrec_plugins.scaling.sweep import Axis, Measured, run_sweep
from genrec_plugins.synthetic import generate
from genrec_plugins.training.reporter import Quiet
from genrec_registry import ConfigError, digest

RUN = """
dataset: {{type: criteo-kaggle, path: {rows}}}
split: {{type: shuffled}}
model: {{embedding_dim: 4, over_arch: [8], interaction: fat}}
train: {{batch_size: 256, threads: 1}}
"""


class Line:
    """A subject whose loss is a power law of the width, without any training."""

    def __init__(self) -> None:
        self.metrics = {"loss": False, "recall@10": True}
        self.trained: list[tuple[Any, int]] = []

    def plan(self, setting, seed):
        line, (key, value) = self, next(iter(setting.items()))
        if key not in ("width", "size", "kind"):
            raise ConfigError(f"no key {key}")

        class Plan:
            def identity(self):
                return digest({"width": value, "seed": seed})

            def measure(self, reporter):
                line.trained.append((value, seed))
                width = len(value) if isinstance(value, str) else value
                loss = 1 + 2 * width**-0.5 + 0.001 * np.sin(17 * width + seed)
                return Measured(
                    metrics={"loss": loss, "recall@10": 1 / loss},
                    parameters=100 + width**2,
                    dense_parameters=width**2,
                    flops_per_row=2.0 * width**2,
                    seconds=0.1,
                )

        return Plan()


def test_every_value_and_seed_is_trained_once_and_kept(tmp_path):
    line, axis = Line(), Axis.parse("width=4,8,16,32")
    (swept,) = run_sweep(line, [axis], [1], tmp_path, draws=50)
    assert line.trained == [(4, 1), (8, 1), (16, 1), (32, 1)]
    (again,) = run_sweep(line, [axis], [1, 2], tmp_path, draws=50)
    assert line.trained[4:] == [(4, 2), (8, 2), (16, 2), (32, 2)]
    assert [(point.value, point.seed) for point in again.points] == [(w, s) for w in (4, 8, 16, 32) for s in (1, 2)]
    assert [point for point in again.points if point.seed == 1] == list(swept.points)
    assert again.curve.fits[0].constants["c"] == pytest.approx(0.5, abs=0.05)
    run_sweep(line, [axis, Axis.parse("size=2,4,8")], [1], tmp_path, draws=50)
    assert line.trained[8:] == [(2, 1)], "cells that axes share are trained once"


def test_a_torn_or_foreign_cell_is_trained_again(tmp_path):
    line, axis = Line(), Axis.parse("width=4,8,16")
    run_sweep(line, [axis], [1], tmp_path, draws=50)
    torn, foreign, _ = sorted((tmp_path / "cells").iterdir())
    torn.write_text('{"identity": ')
    foreign.write_text(json.dumps(json.loads(foreign.read_text()) | {"identity": "another config"}))
    line.trained.clear()
    run_sweep(line, [axis], [1], tmp_path, draws=50)
    assert len(line.trained) == 2


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ("value", [4, 8, 16]),
        ("parameters", [116, 164, 356]),
        ("dense-parameters", [16, 64, 256]),
        ("flops", [32, 128, 512]),
    ],
)
def test_the_curve_is_over_the_size_that_was_asked_for(tmp_path, size, expected):
    (swept,) = run_sweep(Line(), [Axis.parse("width=4,8,16")], [1], tmp_path, size=size, metric="recall@10", draws=50)
    assert list(swept.curve.x) == expected
    assert swept.rising
    assert swept.curve.y == tuple(point.measured.metrics["recall@10"] for point in swept.points)


def test_mistakes_are_told_before_anything_is_trained(tmp_path):
    line = Line()
    good = Axis.parse("width=4,8,16")
    for axes, options, words in [
        ([good], {"metric": "recal@10"}, "did you mean 'recall@10'"),
        ([good], {"size": "flop"}, "did you mean 'flops'"),
        ([good, Axis.parse("width=2")], {}, "--axis width comes twice"),
        ([good, Axis.parse("depth=1,2")], {}, "no key depth"),
        ([Axis.parse("kind=fat,dcn")], {}, "'fat' is no number to draw over; choose --x parameters"),
    ]:
        with pytest.raises(ConfigError, match=words):
            run_sweep(line, axes, [1], tmp_path, **options)
    assert line.trained == []
    (named,) = run_sweep(line, [Axis.parse("kind=a,bcd,efghi")], [1], tmp_path, size="flops", draws=50)
    assert list(named.curve.x) == [2, 18, 50]
    for text in ("width", "width=", "=1,2", "width=4,8,4"):
        with pytest.raises(ConfigError, match=r"--axis"):
            Axis.parse(text)


def test_report_has_tables_sentences_and_a_plot_of_each_axis(tmp_path):
    swept = run_sweep(Line(), [Axis.parse("width=4,8,16,32"), Axis.parse("size=1,2")], [1, 2], tmp_path, draws=50)
    text = markdown(swept[0])
    assert "| width | loss | recall@10 | parameters | dense parameters | FLOPs | seconds |" in text
    assert re.search(r"\| power \| y = (0\.9|1\.0)", text)
    assert "loss falls with width" in text
    assert "2 sizes of size do not show a law" in markdown(swept[1])
    files = write_report([swept[0]], tmp_path, "Scaling")
    assert [path.name for path in files] == ["table.md", "result.json", "width.png"]
    assert files[2].read_bytes().startswith(b"\x89PNG")
    (found,) = json.loads(files[1].read_text())
    assert len(found["points"]) == 8
    assert found["curve"]["fits"][0]["law"] == "power"


# -- rankers ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run_file(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    generate("criteo", 1500, folder / "train.txt", seed=1)
    (folder / "run.yaml").write_text(RUN.format(rows=folder / "train.txt"))
    return folder / "run.yaml"


def test_fewer_training_rows_are_nested_and_leave_the_rest(run_file, tmp_path):
    subject = subject_of(run_file, {}, tmp_path)
    assert isinstance(subject, RankerSubject)
    plan = subject.plan({}, 1)
    whole = subject.prepared(plan.run, None, Quiet())
    some, more = (subject.prepared(plan.run, rows, Quiet()) for rows in (100, 400))
    few = take_training_rows(whole, 100, tmp_path / "few")

    def rows_of(prepared, split):
        read = [pl.read_ipc(path) for path in prepared.shard_paths(split)]
        return pl.concat(read).rows()

    assert len(rows_of(some, "train")) == some.rows("train") == 100
    assert rows_of(few, "train") == rows_of(some, "train")
    assert set(rows_of(some, "train")) <= set(rows_of(more, "train")) <= set(rows_of(whole, "train"))
    assert rows_of(some, "test") == rows_of(whole, "test")
    assert some.fields == whole.fields
    assert len({str(prepared.identity) for prepared in (whole, some, more)}) == 3
    assert sum(batch.labels.numel() for batch in BatchLoader(some, "train", 32)) == 100
    some.verify()
    with pytest.raises(ConfigError, match=r"rows is 9999, expected 1 to 1,200"):
        subject.prepared(plan.run, 9999, Quiet())
    with pytest.raises(ConfigError, match="expected a number of training rows"):
        subject.plan({"rows": "all"}, 1)


def test_genrec_scale_trains_a_ranker_and_goes_on(run_file, tmp_path, capsys):
    words = ["scale", str(run_file), "--axis", "model.interaction.num_layers=1,2", "--axis", "rows=300,600,1200"]
    words += ["--seeds", "1", "--out", str(tmp_path / "out")]
    for turn in range(2):
        with pytest.raises(SystemExit) as stopped:
            main.run([*words, "--metric", "logloss"] if turn else words)
        assert not stopped.value.code
    shown = capsys.readouterr()
    assert shown.err.count("kept from before") == 5
    assert "2 sizes of model.interaction.num_layers do not show a law" in shown.out
    assert "auc" in shown.out.splitlines()[0]
    depth, rows = json.loads((tmp_path / "out" / "result.json").read_text())
    assert depth["metric"] == "logloss"
    one, two = (point["measured"] for point in depth["points"])
    assert two["dense_parameters"] > one["dense_parameters"]
    assert two["flops_per_row"] > one["flops_per_row"]
    assert len({point["measured"]["metrics"]["logloss"] for point in rows["points"]}) == 3
    assert (tmp_path / "out" / "rows.png").exists()


def test_genrec_scale_tells_mistakes_without_torch(run_file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.yaml").write_text("fields: {}\n")
    for words, sentence in [
        ([str(run_file), "--axis", "model.interaction.num_layer=1,2"], "did you mean 'num_layers'"),
        ([str(run_file), "--axis", "model.interaction.num_layers=1,x"], "num_layers"),
        (["other.yaml", "--axis", "seed=1,2"], "has neither 'model'"),
        (["none.yaml", "--axis", "seed=1,2"], "none.yaml"),
    ]:
        with pytest.raises(SystemExit) as stopped:
            main.run(["scale", *words])
        assert stopped.value.code == 2
        assert sentence in capsys.readouterr().err
    assert not (tmp_path / "scale-out").exists()
