"""The three stages by the command line, on files of UQABench's form: events, pre-training, alignment, accuracy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from genrec_plugins.cli import main
from tests.plugins.uqa_cases import COLOURS, make_language_model

pytest.importorskip("transformers", reason="needs the extra [uqa]")

#: asked in the words of two of UQABench's templates; the tiny model knows none of them, and all are the same to it
QUESTIONS = ("请问用户近期最感兴趣的类目是什么?", "请问用户下一个可能点击的商品的类目是什么?")

LUM = """
dataset: {type: taobao-userbehavior, path: events.csv}
items: {features: [category]}
conditions: []
encoder: {type: lum, hidden: 16, num_layers: 1}
embedding_dim: 16
max_length: 12
objective: {type: info-nce, full: true}
train: {epochs: 10, threads: 1, lr: 0.01, max_events: 512, warmup_steps: 5}
"""
UQA = """
questions: {train: align_data_train.arrow, test: align_data_eval.arrow}
users: {run: lum, view: states}
llm: {path: lm}
adapter: {tokens: 1, hidden: 0}
train: {epochs: 10, batch_size: 32, adapter_lr: 0.01, threads: 1}
evaluation: {mode: greedy, max_new_tokens: 1}
"""


def write_arrow(path: Path, rows: int, seed: int) -> None:
    """Users of one colour each: item ``10 c + k`` has colour c, which is its category; ``text`` asks for it."""
    source = np.random.default_rng(seed)
    items, colours, texts = [], [], []
    for row in range(rows):
        liked = int(source.integers(0, len(COLOURS)))
        own = np.where(source.random(8) < 0.95, liked, source.integers(0, len(COLOURS), 8))
        items.append([[int(10 * colour + source.integers(0, 5))] for colour in own])
        colours.append([[int(colour)] for colour in own])
        messages = [
            {"role": "user", "content": QUESTIONS[row % 2]},
            {"role": "assistant", "content": [COLOURS[liked]]},
        ]
        texts.append(json.dumps(messages, ensure_ascii=False))
    lists = pl.List(pl.List(pl.Int64))
    frame = {
        "uni_seq_item_id": pl.Series(items, dtype=lists),
        "uni_seq_cate_id": pl.Series(colours, dtype=lists),
        "text": texts,
    }
    pl.DataFrame(frame).write_ipc(path)


def test_three_stages(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_language_model(tmp_path / "lm")
    write_arrow(tmp_path / "pretrain_data_train.arrow", 150, seed=1)
    write_arrow(tmp_path / "align_data_train.arrow", 400, seed=2)
    write_arrow(tmp_path / "align_data_eval.arrow", 120, seed=3)
    (tmp_path / "lum.yaml").write_text(LUM)
    (tmp_path / "uqa.yaml").write_text(UQA)
    for words in (
        "uqa events pretrain_data_train.arrow --out events.csv",
        "lum pretrain lum.yaml --out lum --quiet",
        "uqa train uqa.yaml --out out --quiet",
    ):
        with pytest.raises(SystemExit) as stopped:
            main.run(words.split())
        assert not stopped.value.code, words
    assert "1,200 events of 150 users" in capsys.readouterr().out
    rows = {row["task"]: row for row in json.loads((tmp_path / "out" / "metrics.json").read_text())["test"]}
    assert list(rows) == [
        "all", "action prediction", "interest perception", "attribute prediction", "short-term interest",
    ]  # fmt: skip
    assert rows["all"]["questions"] == 120
    assert rows["all"]["chance"] is None
    assert rows["all"]["accuracy"] > 0.6
    assert rows["all"]["constant"] < 0.4
