"""Pre-training files as the subject of a sweep: the same run as ``genrec lum pretrain``, its cost, its metrics."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from genrec_plugins.cli import main
from genrec_plugins.lum.config import parse_lum
from genrec_plugins.lum.run import pretrain
from genrec_plugins.scaling.lum import LumSubject
from genrec_plugins.scaling.subjects import subject_of
from genrec_plugins.training.reporter import Quiet
from genrec_registry import ConfigError
from tests.plugins.uqa_cases import write_events

LUM = """
dataset: {{type: taobao-userbehavior, path: {events}}}
encoder: {{type: lum, hidden: 8, num_layers: 1}}
embedding_dim: 8
max_length: 6
objective: {{type: info-nce, full: true}}
train: {{epochs: 2, threads: 1, lr: 0.01, max_events: 256}}
"""


@pytest.fixture(scope="module")
def lum_file(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("lum")
    events = write_events(folder / "events.csv", users=60)
    (folder / "lum.yaml").write_text(LUM.format(events=events))
    return folder / "lum.yaml"


def test_a_cell_is_the_run_that_pretrain_makes(lum_file, tmp_path):
    subject = subject_of(lum_file, {"train.epochs": "3"}, tmp_path)
    assert isinstance(subject, LumSubject)
    measured = subject.plan({"encoder.hidden": 16}, seed=2).measure(Quiet())
    run = parse_lum(lum_file.read_text(), {"train.epochs": "3", "encoder.hidden": "16", "seed": "2"})
    report = pretrain(run, tmp_path / "run")
    for name, value in measured.metrics.items():
        assert value == pytest.approx(report["test"][name], abs=1e-7), name
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert measured.parameters == facts["parameters"]
    tables = sum(facts["facts"]["item_features"].values()) + sum(facts["facts"]["condition_features"].values())
    assert measured.dense_parameters == measured.parameters - 8 * tables
    assert measured.flops_per_row == pytest.approx(report["flops_per_event"] / 3)


def test_identity_is_of_config_and_events(lum_file, tmp_path):
    subject = subject_of(lum_file, {}, tmp_path)
    same, again = (subject.plan({"encoder.hidden": 16}, 1).identity() for _ in range(2))
    assert same == again
    others = {
        subject.plan({"encoder.hidden": 8}, 1).identity(),
        subject.plan({"encoder.hidden": 16}, 2).identity(),
        subject.plan({"max_length": 3}, 1).identity(),
    }
    assert len(others | {same}) == 4


def test_loss_is_no_metric_of_a_model_without_scores_of_all_items(lum_file, tmp_path):
    assert next(iter(subject_of(lum_file, {}, tmp_path).metrics)) == "loss"
    generative = subject_of(lum_file, {"objective": "{type: semantic-id, codes: none}"}, tmp_path)
    assert "loss" not in generative.metrics
    assert generative.metrics["recall@10"]


def test_genrec_scale_sweeps_width_and_length(lum_file, tmp_path, capsys):
    words = [
        "scale",
        str(lum_file),
        "--axis",
        "encoder.hidden=4,8",
        "--axis",
        "max_length=2,4,6",
        "--metric",
        "recall@10",
    ]
    for _ in range(2):
        with pytest.raises(SystemExit) as stopped:
            main.run([*words, "--seeds", "1", "--out", str(tmp_path)])
        assert not stopped.value.code
    shown = capsys.readouterr()
    assert shown.err.count("kept from before") == 6, (
        "5 of the second turn; hidden 8 with max_length 6 is one cell of both"
    )
    width, length = json.loads((tmp_path / "result.json").read_text())
    four, eight = (point["measured"] for point in width["points"])
    assert four["dense_parameters"] < eight["dense_parameters"]
    assert length["points"][-1]["measured"] == eight
    assert len(list((tmp_path / "cells").iterdir())) == 4


def test_mistakes_are_told(lum_file, tmp_path):
    subject = subject_of(lum_file, {}, tmp_path)
    with pytest.raises(ConfigError, match="did you mean 'hidden'"):
        subject.plan({"encoder.hiden": 8}, 1)
    with pytest.raises(ConfigError, match="cannot be split by num_heads"):
        subject.plan({"encoder.hidden": 9}, 1)
