"""Columns may be called what people call them: ``user.id``, ``type``, ``values``; modules have names of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import nn

from genrec_adapters.behaviour.histories import Catalogue, Vocabulary
from genrec_plugins.config import parse_run
from genrec_plugins.lum.batches import SequenceBatch
from genrec_plugins.lum.build import build_model
from genrec_plugins.lum.config import parse_lum
from genrec_plugins.lum.pretrained import tables_by_feature
from genrec_plugins.module_names import module_name, table_name
from genrec_plugins.training.run import TrainedRun, prepare_run, train_run
from genrec_registry import default_registry

FIELDS: dict[str, Any] = {
    "user.id": "categorical",
    "user_id": "categorical",
    "type": "categorical",
    "a b": {"type": "dynamic-id", "rows": 4},
    "item.id": {"type": "dynamic-id", "rows": 4},
    "price.eur": "numeric-dense",
    "train": "numeric-embedding",
    "half.ü": "numeric-bucket",
}


@pytest.mark.parametrize("name", ["item", "item_id", "%", "t", "ü", "a b", "0"])
def test_most_names_stay(name: str) -> None:
    assert module_name(name) == name
    assert table_name(name) == f"t_{name}"


def test_names_of_modules_differ_as_the_names_do() -> None:
    names = ["user.id", "user_id", "type", "", "values", "training", "_modules", "half", "forward"]
    made = nn.ModuleDict({module_name(name): nn.Identity() for name in names})
    assert len(made) == len(names)
    assert len({table_name(name) for name in names}) == len(names)


def test_a_ranker_of_any_columns(tmp_path: Path) -> None:
    draw = np.random.default_rng(1)
    rows: dict[str, Any] = {"y": draw.integers(0, 2, 200)}
    rows |= {name: draw.integers(0, 9, 200).astype(str) for name in ("user.id", "user_id", "type", "a b", "item.id")}
    rows |= {name: draw.random(200) for name in ("price.eur", "train", "half.ü")}
    pl.DataFrame(rows).write_parquet(tmp_path / "rows.parquet")
    run = parse_run(
        {
            "dataset": {"type": "parquet", "path": str(tmp_path / "rows.parquet"), "label": "y"},
            "fields": FIELDS,
            "model": {"embedding_dim": 4, "over_arch": [4], "interaction": "fat"},
            "train": {"batch_size": 50, "sharding": {"tables": {"user.id": {"type": "data_parallel"}}}},
        }
    )
    trained = train_run(run, tmp_path / "run", prepare_run(run, tmp_path / "prepared"))
    opened = TrainedRun.open(tmp_path / "run")
    assert len(opened.predict("test")[0]) == trained["test"]["rows"]


def codes_of(folder: Path) -> str:
    (folder / "codes.json").write_text('{"i0": ["<a_1>", "<b_2>"], "i1": ["<a_0>", "<b_3>"]}')
    return str(folder / "codes.json")


@pytest.mark.parametrize("objective", ["info-nce", "semantic-id", "knowing"])
def test_pretraining_under_any_conditions(objective: str, tmp_path: Path) -> None:
    conditions = {"type": 3, "event.kind": 2, "values": 4, "event_kind": 2}
    data: dict[str, Any] = {"dataset": {"type": "movielens", "path": "x"}, "encoder": "lum"}
    if objective != "info-nce":
        codes = {"type": "semantic-id", "codes": codes_of(tmp_path), "knowledge": float(objective == "knowing")}
        data |= {"objective": codes}
    run = parse_lum(data)
    kinds = np.array([0, 1, 1], np.int32)
    features = {"half": kinds, "first.category": kinds}
    catalogue = Catalogue(items=Vocabulary.of(["i0", "i1"]), features=features, sizes=dict.fromkeys(features, 2))
    model: Any = build_model(run.config, catalogue, conditions, torch.arange(3), default_registry())
    batch = SequenceBatch(
        items=torch.tensor([1, 2, 1]),
        conditions={name: torch.tensor([0, 1, 1]) for name in conditions},
        offsets=torch.tensor([0, 2, 3]),
        users=torch.tensor([0, 1]),
        times=torch.tensor([1, 2, 1]),
        labels=torch.tensor([1, 1, 0]),
    )
    model.loss(batch).backward()
    if objective == "info-nce":
        tables = tables_by_feature(model.state_dict(), ["item", *features, *conditions])
        assert {name: len(table) for name, table in tables.items()} == {
            "item": 3,
            **dict.fromkeys(features, 2),
            **conditions,
        }
