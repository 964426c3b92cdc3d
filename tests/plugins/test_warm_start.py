"""Post-training: a ranker that begins at a pre-trained encoder, rows matched by value, frozen or fine-tuned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from genrec_adapters.prepared import Prepared
from genrec_plugins.config import LoadedRun, parse_run
from genrec_plugins.lum.batches import make_batch
from genrec_plugins.lum.config import parse_lum
from genrec_plugins.lum.pretrained import read_pretrained
from genrec_plugins.lum.run import LumRun, pretrain
from genrec_plugins.models import build_dlrm
from genrec_plugins.training.checkpoints import plain_weights
from genrec_plugins.training.run import prepare_run, train_run
from genrec_plugins.training.trainer import Trainer
from genrec_plugins.training.warm_start import warm_start
from genrec_registry import ConfigError, DataError, ModelError
from tests.plugins.interrupt import Interrupt

COMMON = {"batch_size": 64, "epochs": 1, "threads": 1}
TORCHREC = {"preset": "torchrec", "embedding_lr": 0.1, "dense_lr": 0.01, **COMMON}
BARS = {"preset": "bars", "lr": 0.01, "embedding_l2": 0.1, "net_l2": 0.1, **COMMON}
ARCH = "behaviour_arch."
TABLES = {name: f"{ARCH}embedding_collection.embeddings.t_past_{name}.weight" for name in ("item", "action")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ratings in two files: the first is pre-trained on, the second, with some other movies, is ranked."""
    folder = tmp_path_factory.mktemp("ratings")
    source = np.random.default_rng(0)
    for name, movies in (("early", range(20)), ("late", range(4, 24))):
        lines = ["userId,movieId,rating,timestamp"]
        for user in range(40):
            chosen = source.choice(list(movies), 12, replace=False)
            lines += [f"{user},{movie},{source.integers(1, 6)},{place}" for place, movie in enumerate(chosen)]
        (folder / name).mkdir()
        (folder / name / "ratings.csv").write_text("\n".join(lines) + "\n")
    movies = [f"{movie},Film {movie} (1999),{('Drama', 'Crime', 'War')[movie % 3]}" for movie in range(20)]
    (folder / "early" / "movies.csv").write_text("\n".join(["movieId,title,genres", *movies]) + "\n")
    return folder


def pretrained_run(folder: Path, encoder: str, features: str = "") -> Path:
    out = folder / f"lum-{encoder}{features}"
    if not out.exists():
        run = parse_lum(f"""
dataset: {{type: movielens, path: {folder / "early"}}}
encoder: {{type: {encoder}}}
items: {{features: [{features}]}}
embedding_dim: 8
feature_dim: 12
max_length: 10
objective: {{type: info-nce, negatives: {{sampled: 8}}}}
train: {{epochs: 1, max_events: 256, threads: 1, warmup_steps: 2}}
""")
        pretrain(run, out)
    return out


def make_run(
    folder: Path, encoder: str = "lum", train: dict = TORCHREC, start: dict | None = None, **parts: Any
) -> LoadedRun:
    """A ranker's run; ``parts``: what else its encoder, its model or its history has, and another pre-training run."""
    past = {"type": "behaviour", "conditions": ["history_action"], "max_length": 10} | parts.get("past", {})
    model = {"embedding_dim": 4, "over_arch": [8], "encoder_dim": 8, "encoder_feature_dim": 12} | parts.get("model", {})
    return parse_run(
        {
            "dataset": {"type": "movielens", "path": str(folder / "late")},
            "split": {"type": "time"},
            "fields": {"user": "categorical", "item": "categorical", "past": past},
            "model": {
                **model,
                "interaction": {"type": "fat", "num_heads": 2},
                "encoder": {"type": encoder, **parts.get("options", {})},
            },
            "train": {
                **train,
                "warm_start": {"encoder": parts.get("run", str(folder / f"lum-{encoder}")), **(start or {})},
            },
        }
    )


@pytest.fixture(scope="module", params=["lum", "sasrec"])
def case(request: pytest.FixtureRequest, folder: Path) -> tuple[str, Path, Prepared]:
    """Encoder, its pre-training run, and prepared rows."""
    run = pretrained_run(folder, request.param)
    return request.param, run, prepare_run(make_run(folder), folder / "prepared")


@pytest.fixture(scope="module")
def lum(folder: Path) -> tuple[Path, Prepared]:
    return pretrained_run(folder, "lum"), prepare_run(make_run(folder), folder / "prepared")


def test_rows_of_the_tables_are_found_by_value(folder: Path, case: tuple[str, Path, Prepared]) -> None:
    encoder, directory, prepared = case
    run = make_run(folder, encoder)
    model = build_dlrm(run.config.model, prepared.fields, run.registry)
    report = warm_start(model, run.config.train.warm_start, prepared, run.registry)
    pretrained = read_pretrained(directory)
    assert report.rows == {"item": (16, 20), "action": (2, 2)}, "movies 4 to 19 of 4 to 23"
    state = prepared.restore_fields(run.registry)["past"].state()
    for feature, name in TABLES.items():
        table, values = model.state_dict()[name], ["", *state.tables[feature]["value"].to_list()]
        assert len(table) == len(values)
        for row, value in enumerate(values):
            theirs = pretrained.values[feature].index(value) if value in pretrained.values[feature] else 0
            assert torch.equal(table[row], pretrained.tables[feature][theirs]), (feature, value)


def test_states_in_the_ranker_are_those_of_pre_training(folder: Path, case: tuple[str, Path, Prepared]) -> None:
    """One history, encoded by both programs: the same states, up to rounding."""
    encoder, directory, prepared = case
    run = make_run(folder, encoder)
    model = build_dlrm(run.config.model, prepared.fields, run.registry).eval()
    warm_start(model, run.config.train.warm_start, prepared, run.registry)
    trained = LumRun.open(directory)
    histories = trained.histories()
    events = make_batch(histories, np.array([0, 7]), max_length=10)
    expected = trained.model().encoder.states(trained.model().events(events))
    state = prepared.restore_fields(run.registry)["past"].state()
    ids = {name: {v: row + 1 for row, v in enumerate(table["value"].to_list())} for name, table in state.tables.items()}
    names = {"item": trained.catalogue.items.values, "action": trained.vocabularies["action"].values}
    theirs = {"item": events.items, "action": events.conditions["action"]}
    seen = {name: [ids[name].get(names[name][row], 0) for row in theirs[name].tolist()] for name in names}
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

    keys = ["past.item", "past.action", "past.item.target"]
    flat = torch.tensor([*seen["item"], *seen["action"], 1, 1])
    kjt = KeyedJaggedTensor(
        keys=keys, values=flat, lengths=torch.cat([events.lengths, events.lengths, torch.ones(2)]).long()
    )
    looked_up = model.behaviour_arch.embedding_collection(kjt)
    found = model.behaviour_arch.encoder.states({"item": looked_up["past.item"], "action": looked_up["past.action"]})
    known = torch.tensor([item in ids["item"].values() and item > 0 for item in seen["item"]])
    assert known.any()
    first_unknown = [
        int((~known[a:b]).float().argmax()) if (~known[a:b]).any() else int(b - a)
        for a, b in zip(events.offsets[:-1], events.offsets[1:], strict=True)
    ]
    for start, seen_until in zip(events.offsets[:-1].tolist(), first_unknown, strict=True):
        torch.testing.assert_close(found[start : start + seen_until], expected[start : start + seen_until])


#: the section's options -> what training moves
FROZEN = [
    ({}, ("encoder", "item", "action")),
    ({"freeze": True}, ()),
    ({"freeze": True, "freeze_tables": False}, ("item", "action")),
    ({"freeze_tables": True}, ("encoder",)),
]


@pytest.mark.parametrize("train", [TORCHREC, BARS], ids=["torchrec", "bars"])
@pytest.mark.parametrize(("start", "moving"), FROZEN, ids=["tuned", "frozen", "encoder-frozen", "tables-frozen"])
def test_frozen_parts_do_not_move_by_a_bit(
    start: dict, moving: tuple[str, ...], train: dict, folder: Path, lum: tuple[Path, Prepared]
) -> None:
    run = make_run(folder, train=train, start=start)
    trainer = Trainer(run.config, lum[1], run.registry)
    before = plain_weights(trainer.recipe.model)
    result = trainer.fit()
    assert set(result.weights) == set(before)
    moved = {name for name in before if not torch.equal(before[name], result.weights[name])}
    loaded = {f"{ARCH}encoder.{name}" for name in trainer.warm_start.parameters}
    still = set() if "encoder" in moving else loaded
    still |= {name for feature, name in TABLES.items() if feature not in moving}
    assert moved == set(before) - still
    assert f"{ARCH}encoder.queries" in moved, "pre-training knows no queries of the ranker: they are trained always"


def test_frozen_encoder_has_no_dropout_and_no_gradient(folder: Path, lum: tuple[Path, Prepared]) -> None:
    run = make_run(folder, start={"freeze": True}, options={"dropout": 0.5})
    trainer = Trainer(run.config, lum[1], run.registry)
    trainer.model.train()
    assert trainer.model.behaviour_arch.training
    assert not any(module.training for module in trainer.model.behaviour_arch.encoder.modules())
    optimised = {id(p) for group in trainer.recipe.optimizer.param_groups for p in group["params"]}
    frozen = [trainer.model.behaviour_arch.encoder.get_parameter(name) for name in trainer.warm_start.parameters]
    assert not {id(parameter) for parameter in frozen} & optimised
    trainer.recipe.model(next(iter(trainer.loader)))[0].backward()
    assert all(parameter.grad is None for parameter in frozen)


@pytest.mark.parametrize("train", [TORCHREC, BARS], ids=["torchrec", "bars"])
@pytest.mark.parametrize("start", [{}, {"freeze": True}], ids=["tuned", "frozen"])
def test_resumed_run_ends_with_the_weights_of_an_unbroken_one(
    train: dict, start: dict, folder: Path, lum: tuple[Path, Prepared], tmp_path: Path
) -> None:
    run = make_run(folder, train=train | {"checkpoint_every": 2, "epochs": 2}, start=start)
    train_run(run, tmp_path / "whole", lum[1])
    reporter = Interrupt(9)
    with pytest.raises(KeyboardInterrupt):
        train_run(run, tmp_path / "broken", lum[1], reporter)
    train_run(run, tmp_path / "broken", lum[1])
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("broken", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    facts = json.loads((tmp_path / "whole" / "run.json").read_text())["warm_start"]
    assert facts["rows"] == {"item": [16, 20], "action": [2, 2]}
    assert facts["fresh"] == ["queries"]
    assert facts["digest"] == LumRun.open(lum[0]).digest
    assert facts["frozen"] == (["encoder", "tables"] if start else [])
    assert "known values: item 16 of 20, action 2 of 2" in reporter.told[0]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"past": {"conditions": []}},
            r"was trained on the conditions \(action\), field 'past' has \(none\).*past\.conditions",
        ),
        (
            {"model": {"encoder_dim": None, "encoder_feature_dim": None}},
            r"set model\.encoder_dim: 8 and model\.encoder_fea.* 12",
        ),
        ({"options": {"hidden": 32}}, r"encoder weight '.*' has the shape .* there, .*give model\.encoder the options"),
        ({"options": {"num_layers": 3}}, r"encoder weight 'stack.*' is missing there"),
        ({"run": "/nowhere"}, "/nowhere: is not the directory of a pre-training run"),
        ({"past": {"mode": "hash", "num_buckets": 9}}, r"rows of 'past\.item' have no values to find"),
    ],
)
def test_what_does_not_fit_is_told(changes: dict, problem: str, folder: Path, lum: tuple, tmp_path: Path) -> None:
    run = make_run(folder, **changes)
    with pytest.raises((ConfigError, ModelError, DataError), match=problem):
        Trainer(run.config, prepare_run(run, tmp_path / "prepared"), run.registry)


def test_queries_may_be_more_than_in_pre_training(folder: Path, lum: tuple[Path, Prepared]) -> None:
    run = make_run(folder, start={"freeze": True}, options={"num_queries": 3})
    trainer = Trainer(run.config, lum[1], run.registry)
    assert trainer.model.token_names[-3:] == ("past.user_1", "past.user_2", "past.user_3")


def test_other_encoders_and_other_items_are_told(folder: Path, lum: tuple[Path, Prepared], tmp_path: Path) -> None:
    run = make_run(folder, "din", run=str(lum[0]))
    with pytest.raises(ModelError, match="encoder Din cannot be pre-trained"):
        Trainer(run.config, lum[1], run.registry)
    run = make_run(folder, "sasrec", run=str(lum[0]))
    with pytest.raises(ModelError, match=r"is missing there, .*encoder 'lum' in its run\.json"):
        Trainer(run.config, lum[1], run.registry)
    plain = make_run(folder).config.model_dump(mode="json")
    del plain["fields"]["past"]
    plain["model"] |= {"encoder": None, "encoder_dim": None, "encoder_feature_dim": None}
    run = parse_run(plain)
    with pytest.raises(ConfigError, match="goes with a sequence encoder"):
        Trainer(run.config, prepare_run(run, tmp_path / "plain"), run.registry)
    strange = tmp_path / "late"
    strange.mkdir()
    header, *lines = (folder / "late" / "ratings.csv").read_text().splitlines()
    (strange / "ratings.csv").write_text("\n".join([header, *(line.replace(",", ",m", 1) for line in lines)]))
    run = make_run(tmp_path, run=str(lum[0]))
    with pytest.raises(ModelError, match=r"knows none of the 20 values of 'item' \(here 'm.*pre-train on the items"):
        Trainer(run.config, prepare_run(run, tmp_path / "strange"), run.registry)


def test_further_features_come_from_the_runs_catalogue(folder: Path, tmp_path: Path) -> None:
    directory = pretrained_run(folder, "sasrec", "first_category")
    attributes = {"first_category": {"items": str(directory / "catalogue.parquet")}}
    run = make_run(folder, "sasrec", run=str(directory), past={"attributes": attributes})
    prepared = prepare_run(run, tmp_path / "prepared")
    model = build_dlrm(run.config.model, prepared.fields, run.registry)
    report = warm_start(model, run.config.train.warm_start, prepared, run.registry)
    assert report.rows == {"item": (16, 20), "first_category": (3, 3), "action": (2, 2)}
    catalogue = LumRun.open(directory).catalogue
    state = prepared.restore_fields(run.registry)["past"].state()
    tables, theirs = model.state_dict(), read_pretrained(directory).tables
    ids = {feature: state.tables[feature]["value"].to_list() for feature in ("item", "first_category")}
    for movie in range(4, 20):
        category = int(catalogue.features["first_category"][catalogue.items.values.index(str(movie))])
        mine = tables[TABLES["item"].replace("item", "first_category")][ids["first_category"].index(str(category)) + 1]
        assert torch.equal(mine, theirs["first_category"][category])
    run = make_run(folder, "sasrec", run=str(directory))
    with pytest.raises(
        ModelError, match=r"item features \(item, first_category\), field 'past' has \(item\).*attributes"
    ):
        Trainer(run.config, prepare_run(run, tmp_path / "other"), run.registry)
