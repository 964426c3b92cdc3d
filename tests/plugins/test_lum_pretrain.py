"""Pre-training end to end: what it learns, what it leaves on disk, and that interruptions change nothing."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from genrec_plugins.lum.batches import cut_windows, make_batch, packs
from genrec_plugins.lum.data import evenly, load_data
from genrec_plugins.lum.efficiency import loss_flops
from genrec_plugins.lum.evaluate import Asked, evaluate, metrics_of, ranks_of
from genrec_plugins.lum.query import query_run
from genrec_plugins.lum.run import LumRun, pretrain, weights_digest
from genrec_plugins.lum.trainer import LumTrainer, asked_of
from genrec_registry import ConfigError, DataError, ModelError
from tests.plugins.lum_cases import make_batch_of, make_model, run_of, write_lists, write_ratings


@pytest.fixture(scope="module")
def lists(tmp_path_factory):
    return write_lists(tmp_path_factory.mktemp("lists") / "users.json")


@pytest.fixture(scope="module")
def ratings(tmp_path_factory):
    return write_ratings(tmp_path_factory.mktemp("ratings"))


def of_lists(path, **changes):
    return run_of({"type": "amazon-reviews", "path": str(path)}, **changes)


def of_ratings(path, **changes):
    return run_of({"type": "movielens", "path": str(path)}, **changes)


# -- learning ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("encoder", "objective"), [
    ("lum", {"type": "info-nce"}),
    ("sasrec", {"type": "info-nce", "full": True}),
    ("hstu", {"type": "info-nce", "negatives": {"sampled": 4, "sampling": "popularity"}}),
])  # fmt: skip
def test_a_rule_of_what_follows_what_is_learned(lists, encoder, objective):
    train = {"epochs": 30, "lr": 0.01, "early_stop_patience": 0, "evaluate_every": 30}
    encoder = {"type": encoder, "hidden": 16, "num_heads": 2, "num_layers": 1}
    run = of_lists(lists, encoder=encoder, objective=objective, train=train)
    trainer = LumTrainer(run, load_data(run))
    result = trainer.fit()
    test = evaluate(trainer.model, trainer.data.test, trainer.asked, trainer.device)
    assert test["recall@1"] > 0.8  # by chance: 1 of 12
    assert 0 < result.mfu < 1
    assert result.flops_per_event > 0


def test_codes_are_generated_by_the_same_run(lists, tmp_path):
    index = {str(item): [f"<a_{item // 4}>", f"<b_{item % 4}>"] for item in range(12)}
    (tmp_path / "index.json").write_text(json.dumps(index))
    objective = {"type": "semantic-id", "codes": str(tmp_path / "index.json"), "hidden": 16, "layers": 1, "heads": 2}
    train = {"epochs": 20, "lr": 0.02, "early_stop_patience": 0, "evaluate_every": 20}
    report = pretrain(of_lists(lists, encoder=None, objective=objective, train=train), tmp_path / "run")
    assert report["test"]["recall@1"] > 0.8
    assert "loss" not in report["test"]
    assert LumRun.open(tmp_path / "run").evaluate("test") == report["test"]
    with pytest.raises(ModelError, match="has no state to ask for"):
        query_run(LumRun.open(tmp_path / "run"), tmp_path / "store")
    (tmp_path / "index.json").write_text(json.dumps({"other": ["<a_1>"]}))
    with pytest.raises(DataError, match="12 of 12 items have no codes"):
        pretrain(of_lists(lists, encoder=None, objective=objective), tmp_path / "other")


def test_the_condition_decides_what_is_asked_for(ratings):
    train = {"epochs": 40, "lr": 0.005, "early_stop_patience": 0, "evaluate_every": 40}
    run = of_ratings(ratings, train=train)
    trainer = LumTrainer(run, load_data(run))
    trainer.fit()
    test = trainer.data.test
    liked = trainer.data.conditions["action"].values.index("like")
    likes = np.flatnonzero(test.target_conditions["action"] == liked)
    own = evaluate(trainer.model, test, trainer.asked, trainer.device, chosen=likes)
    asked = replace(trainer.asked, fixed={"action": 3 - liked})
    other = evaluate(trainer.model, test, asked, trainer.device, chosen=likes)
    assert own["recall@1"] > 0.6 > other["recall@1"]


# -- on disk ----------------------------------------------------------------------------------------------------------


def test_a_run_directory_tells_everything(ratings, tmp_path):
    run = of_ratings(ratings, split={"type": "time"})
    report = pretrain(run, tmp_path / "run")
    found = LumRun.open(tmp_path / "run")
    data = load_data(run)
    assert found.run.config == run.config
    assert found.catalogue.items == data.catalogue.items
    assert found.facts.item_features == {"item": len(data.catalogue)}
    assert found.facts.condition_features == {"action": 3}
    assert found.trained_until == data.train.times.max() < data.valid.times.min()
    assert found.digest == weights_digest(found.weights())
    names = set(found.weights())
    assert {"item_tables.embeddings.item.weight", "condition_tables.embeddings.action.weight"} <= names
    assert any(name.startswith("encoder.") for name in names)
    assert found.evaluate("test") == report["test"]
    assert np.array_equal(found.histories().items, data.histories.items)
    assert report == json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert list((tmp_path / "run" / "tensorboard").iterdir())


def test_new_items_are_unknown_to_an_old_run(lists, tmp_path):
    path = tmp_path / "users.json"
    path.write_text(lists.read_text())
    pretrain(of_lists(path, train={"epochs": 1}), tmp_path / "run")
    data = json.loads(path.read_text())
    data["u00"] = ["99", *data["u00"]]
    path.write_text(json.dumps(data))
    found = LumRun.open(tmp_path / "run")
    assert found.histories().items[0] == 0
    with pytest.raises(DataError, match="other items"):
        found.evaluate("test")


def test_damage_is_told(lists, tmp_path):
    with pytest.raises(DataError, match="is not the directory of a pre-training run"):
        LumRun.open(tmp_path)
    run = of_lists(lists, train={"epochs": 1})
    pretrain(run, tmp_path / "run")
    other = of_lists(lists, train={"epochs": 1}, seed=2)
    pretrain(other, tmp_path / "other")
    (tmp_path / "other" / "model.safetensors").rename(tmp_path / "run" / "model.safetensors")
    with pytest.raises(ModelError, match="other digest"):
        LumRun.open(tmp_path / "run").model()
    (tmp_path / "run" / "model.safetensors").write_bytes(b"no")
    with pytest.raises(ModelError, match="cannot be read"):
        LumRun.open(tmp_path / "run").model()
    with pytest.raises(ModelError, match="another config"):
        pretrain(other, tmp_path / "run")


def test_no_split_and_no_column_that_is_not_there(ratings, lists):
    with pytest.raises(ConfigError, match="no column 'scene'; known: action"):
        load_data(of_ratings(ratings, conditions=["scene"]))
    with pytest.raises(ConfigError, match="carry no split"):
        load_data(of_lists(lists, split="official"))
    run = of_ratings(ratings, evaluation={"conditions": {"action": "buy"}})
    data = load_data(run)
    with pytest.raises(ConfigError, match="condition 'action' has no value 'buy'"):
        asked_of(run, data)


# -- interruptions ----------------------------------------------------------------------------------------------------


class Stopped(Exception):
    """In place of a kill."""


class StopAt:
    """A reporter that stops the run at a step."""

    def __init__(self, step: int) -> None:
        self.left = step

    def step(self, **facts: object) -> None:
        self.left -= 1
        if self.left == 0:
            raise Stopped

    def rows(self, **facts: object) -> None:
        pass

    def message(self, text: str) -> None:
        pass


@pytest.mark.parametrize("stop", [3, 7])
def test_a_resumed_run_ends_with_the_same_bits(ratings, tmp_path, stop):
    changes = {
        "encoder": {"type": "lum", "hidden": 16, "num_heads": 2, "num_layers": 1, "dropout": 0.2},
        "objective": {"negatives": {"sampled": 7}, "learn_temperature": True},
    }
    run = of_ratings(ratings, train={"epochs": 3, "checkpoint_every": 2}, **changes)
    whole = pretrain(run, tmp_path / "whole")
    with pytest.raises(Stopped):
        pretrain(run, tmp_path / "parts", StopAt(stop))  # type: ignore[arg-type]
    assert LumRun.open(tmp_path / "parts").digest == ""
    parts = pretrain(run, tmp_path / "parts")
    assert LumRun.open(tmp_path / "parts").digest == LumRun.open(tmp_path / "whole").digest
    assert parts["test"] == whole["test"]
    losses = [[entry["train_loss"] for entry in report["history"]] for report in (parts, whole)]
    assert losses[0] == losses[1]


def test_early_stop_keeps_the_best_weights(lists, tmp_path):
    run = of_lists(lists, train={"epochs": 30, "early_stop_patience": 2, "lr": 0.02, "lr_schedule": "constant"})
    report = pretrain(run, tmp_path / "run")
    values = [entry["valid"]["ndcg@10"] for entry in report["history"]]
    assert len(values) < 30
    assert report["best_epoch"] == 1 + int(np.argmax(values)) == len(values) - 2
    assert LumRun.open(tmp_path / "run").evaluate("valid") == report["valid"]


# -- evaluation -------------------------------------------------------------------------------------------------------


def test_ranks_count_ties_half():
    scores = torch.tensor([[3.0, 1.0, 2.0, 2.0], [1.0, 1.0, 1.0, 1.0], [-torch.inf, 0.0, 1.0, 2.0]])
    assert ranks_of(scores, torch.tensor([2, 0, 0])).tolist() == [1.5, 1.5, 3.0]


def test_metrics_are_their_definitions():
    ranks = np.array([0.0, 4.0, 4.5, 9.0, 10.0, np.inf])
    found = metrics_of(ranks)
    assert found["recall@5"] == pytest.approx(3 / 6)
    assert found["recall@10"] == pytest.approx(4 / 6)
    assert found["ndcg@5"] == pytest.approx((1 + 1 / np.log2(6) + 1 / np.log2(6.5)) / 6)


@pytest.mark.parametrize("exclude_seen", [False, True])
def test_evaluation_is_that_of_one_question_at_a_time(ratings, exclude_seen):
    run = of_ratings(ratings, max_length=6, split={"type": "time", "valid": 0.2, "test": 0.2})
    data = load_data(run)
    model = LumTrainer(run, data).model.eval()
    asked = Asked(max_length=6, batch_events=64, exclude_seen=exclude_seen)
    found = evaluate(model, data.test, asked, torch.device("cpu"))
    ranks, losses = [], []
    for index in range(len(data.test)):
        batch = make_batch(data.test.histories, np.array([index]), 6)
        own = {name: torch.from_numpy(ids[[index]]).long() for name, ids in data.test.target_conditions.items()}
        scores = model.scores(batch, model.catalogue_vectors(), own)[0]
        target = int(data.test.targets[index])
        losses.append((scores.logsumexp(0) - scores[target]).item())
        if exclude_seen:
            scores[batch.items] = -torch.inf
        above = (scores > scores[target]).sum().item()
        ranks.append(above + ((scores == scores[target]).sum().item() - 1) / 2)
    assert found["questions"] == len(data.test) > 10
    for name, value in metrics_of(np.array(ranks)).items():
        assert found[name] == pytest.approx(value, abs=1e-3)  # batches may round two scores the other way
    assert found["loss"] == pytest.approx(np.mean(losses), rel=1e-4)


def test_lists_without_scores_are_ranked_by_their_order(ratings):
    run = of_ratings(ratings)
    data = load_data(run)
    model = LumTrainer(run, data).model.eval()

    class ListsOnly(torch.nn.Module):
        def recommend(self, *arguments):
            return model.recommend(*arguments)

    asked = Asked(max_length=32)
    scored = evaluate(model, data.valid, asked, torch.device("cpu"))
    listed = evaluate(ListsOnly(), data.valid, asked, torch.device("cpu"))
    assert {name: listed[name] for name in ("recall@5", "ndcg@20")} == {
        name: scored[name] for name in ("recall@5", "ndcg@20")
    }


def test_a_diverged_model_is_told(ratings):
    run = of_ratings(ratings)
    data = load_data(run)
    model = LumTrainer(run, data).model
    torch.nn.init.constant_(model.item_tables.embeddings["item"].weight, torch.nan)
    with pytest.raises(ModelError, match="NaN"):
        evaluate(model, data.valid, Asked(max_length=32), torch.device("cpu"))


def test_evenly_takes_some_of_all():
    class Ten:
        def __len__(self):
            return 10

    assert evenly(Ten(), 0).tolist() == evenly(Ten(), 99).tolist() == list(range(10))
    assert evenly(Ten(), 4).tolist() == [0, 3, 6, 9]


# -- batches ----------------------------------------------------------------------------------------------------------


def test_windows_hold_every_event_once(ratings):
    train = load_data(of_ratings(ratings)).train
    rows, users = cut_windows(train, max_length=7)
    assert rows.lengths.max() == 7
    assert rows.lengths.min() > 0
    assert np.array_equal(rows.items, train.items)
    assert np.array_equal(users[rows.owners], train.owners)
    last = np.append(np.flatnonzero(np.diff(users)), len(users) - 1)
    assert (rows.lengths[last] == np.minimum(train.lengths[train.lengths > 0], 7)).all()


@pytest.mark.parametrize("seed", [None, 1])
def test_packs_hold_every_row_once_within_the_budget(seed):
    lengths = np.random.default_rng(0).integers(0, 9, 50)
    found = packs(lengths, max_events=12, max_rows=4, seed=seed)
    assert sorted(np.concatenate(found).tolist()) == np.flatnonzero(lengths).tolist()
    assert all(lengths[rows].sum() <= 12 and len(rows) <= 4 for rows in found)
    later = [rows.tolist() for rows in packs(lengths, max_events=12, max_rows=4, seed=seed, epoch=1)]
    assert (later == [rows.tolist() for rows in found]) == (seed is None)
    assert packs(np.zeros(3, np.int64), max_events=5) == []


# -- efficiency -------------------------------------------------------------------------------------------------------


def test_flops_are_those_counted_by_hand():
    model = make_model({"full": True})
    rows, length, items = 3, 4, 9 + 1  # the unknown item has a vector, too
    batch = make_batch_of([length] * rows)
    state = torch.get_rng_state()
    flops = loss_flops(model, batch)
    assert torch.equal(state, torch.get_rng_state())
    events, features, hidden, width, layers = rows * length, 2 * 8, 8, 6, 2
    inner = model.encoder.stack.blocks[0].down.in_features
    tokens = 2 * events
    token_wise = hidden * 3 * hidden + hidden * hidden + hidden * 2 * inner + inner * hidden
    attention = 2 * rows * (2 * length) ** 2 * hidden  # query x key, and weights x value
    vectors = features * hidden + hidden * width
    expected = events * features * hidden + layers * (tokens * token_wise + attention) + events * hidden * width
    assert flops == 2 * (expected + items * vectors + events * (items - 1) * width)
