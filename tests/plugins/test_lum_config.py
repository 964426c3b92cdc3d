"""A pre-training run's YAML: what it becomes, and what is said of a mistake, without importing torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from genrec_plugins.lum.config import parse_lum
from genrec_registry import ConfigError

BASE = "dataset: {type: movielens, path: data}\nencoder: lum\n"


def test_names_stand_for_mappings_and_defaults_are_filled_in():
    config = parse_lum(BASE + "split: time\nobjective: {temperature: 0.2}").config
    assert (config.encoder.type, config.split.type, config.objective.type) == ("lum", "time", "info-nce")
    assert (config.objective.temperature, config.objective.negatives.in_batch) == (0.2, True)


def test_values_are_set_over_the_file():
    run = parse_lum(BASE, {"encoder": "sasrec", "train.epochs": "7", "objective.negatives.sampled": "9"})
    assert (run.config.encoder.type, run.config.train.epochs, run.config.objective.negatives.sampled) == (
        "sasrec",
        7,
        9,
    )
    both = parse_lum(BASE, {"encoder": "sasrec", "encoder.hidden": "32"}).config.encoder
    assert (both.type, both.hidden) == ("sasrec", 32)


@pytest.mark.parametrize(("text", "expected"), [
    ("dataset: {type: avazu, path: x}\nencoder: lum", r"1:11: dataset 'avazu' gives no events; .*movielens"),
    ("dataset: {type: movielens, path: x}\nencoder: din", r"2:1: encoder 'din' cannot be pre-trained; .*lum"),
    ("dataset: {type: movielens, path: x}\nencoder: lun", "'encoder.type' is 'lun', did you mean 'lum'"),
    ("dataset: {type: movielens, path: x}", "key 'encoder' is missing"),
    (BASE + "train: {epoch: 3}", "unknown key 'train.epoch', did you mean 'epochs'"),
    (BASE + "objective: {type: infonce}", "'objective.type' is 'infonce', did you mean 'info-nce'"),
    (BASE + "objective: {negatives: {in_batch: false, sampled: 0}}", "expected negatives from one of them"),
    (BASE + "objective: {negatives: {log_q: false, log_q_positive: true}}", "goes with log_q: true"),
    (BASE + "objective: {type: semantic-id}", "'objective.codes' is missing"),
    (BASE + "objective: {type: semantic-id, codes: x, hidden: 10, heads: 4}", "no multiple of heads"),
    (BASE + "split: {type: time, valid: 0.5, test: 0.5}", "valid [+] test is 1"),
])  # fmt: skip
def test_mistakes_are_explained(text, expected):
    with pytest.raises(ConfigError, match=expected):
        parse_lum(text)


def test_codes_need_no_encoder():
    config = parse_lum("dataset: {type: movielens, path: x}\nobjective: {type: semantic-id, codes: index.json}").config
    assert config.encoder is None


def test_configs_load_no_torch():
    script = (
        "import sys\nfrom genrec_plugins.lum.config import parse_lum\n"
        f"parse_lum({BASE!r})\nassert 'torch' not in sys.modules, 'torch was imported'"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
