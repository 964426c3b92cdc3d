"""Group queries: equal to separate passes, for snapshots that see exactly the past; the store they are written to."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from genrec_adapters.behaviour.histories import Histories
from genrec_adapters.knowledge import KnowledgeStore
from genrec_plugins.cli import main
from genrec_plugins.lum.batches import make_batch, slice_batch
from genrec_plugins.lum.measure import measure
from genrec_plugins.lum.querier import Querier, make_querier, parse_queries, unlearned
from genrec_plugins.lum.query import before, query_run
from genrec_plugins.lum.retrieve import Request, recommend
from genrec_plugins.lum.run import LumRun, pretrain
from genrec_plugins.lum.snapshots import every_snapshot, last_snapshots
from genrec_registry import ConfigError, ModelError
from tests.plugins.lum_cases import SMALL, make_model, run_of, write_lists, write_ratings

QUERIES = ["like:action=like", "dislike:action=dislike", "any"]


def random_histories(seed: int = 0) -> Histories:
    """Users of 0 to 20 events, several of one time."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 21, 12)
    lengths[[3, 11]] = 0
    total = int(lengths.sum())
    times = np.concatenate([np.cumsum(rng.integers(0, 3, length)) for length in lengths]).astype(np.int64)
    return Histories(
        users=tuple(f"u{index:02}" for index in range(12)),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        items=rng.integers(0, 10, total).astype(np.int32),
        times=times,
        labels=rng.integers(0, 2, total).astype(np.int8),
        conditions={"action": rng.integers(0, 3, total).astype(np.int32)},
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A short run on ratings; its events are longer than its windows."""
    folder = tmp_path_factory.mktemp("query")
    write_ratings(folder / "data")
    run = run_of({"type": "movielens", "path": str(folder / "data")}, max_length=12)
    pretrain(run, folder / "run")
    return LumRun.open(folder / "run")


# -- snapshots --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("max_length", "stride"), [(50, 10), (8, 1), (8, 3), (8, 8), (1, 1)])
def test_every_snapshot_sees_the_past_and_nothing_else(max_length, stride):
    histories = random_histories()
    found = every_snapshot(histories, max_length, stride)
    expected = []
    for user in range(12):
        start, stop = histories.offsets[user], histories.offsets[user + 1]
        times = histories.times[start:stop]
        expected += [(user, int(time), int(start + (times <= time).sum())) for time in np.unique(times)]
    users = found.users[found.row]
    ends = found.starts[found.row] + found.prefix
    assert list(zip(users.tolist(), found.times.tolist(), ends.tolist(), strict=True)) == expected
    assert (found.starts >= histories.offsets[found.users]).all()
    assert (found.stops - found.starts <= max_length).all()
    assert (ends <= found.stops[found.row]).all()
    everything = ends - histories.offsets[users]
    least = np.minimum(everything, max_length - stride + 1)
    assert ((found.prefix >= least) & (found.prefix <= max_length)).all()


def test_last_snapshots_are_the_last_of_every_snapshot():
    histories = random_histories()
    last = last_snapshots(histories, 8)
    every = every_snapshot(histories, 8, 1)
    users = every.users[every.row]
    final = np.append(np.flatnonzero(np.diff(users)), len(users) - 1)
    assert np.array_equal(last.users, users[final])
    assert np.array_equal(last.times, every.times[final])
    assert np.array_equal(last.prefix, every.prefix[final])
    assert np.array_equal(last.starts, every.starts[every.row][final])


@pytest.mark.parametrize("max_events", [1, 30, 10_000])
def test_parts_are_the_whole(max_events):
    whole = every_snapshot(random_histories(), 8, 3)
    parts = list(whole.parts(max_events, queries=2))
    assert (len(parts) == 1) == (max_events == 10_000)
    assert np.concatenate([part.users[part.row] for part in parts]).tolist() == whole.users[whole.row].tolist()
    assert np.concatenate([part.starts[part.row] for part in parts]).tolist() == whole.starts[whole.row].tolist()
    assert np.concatenate([part.prefix for part in parts]).tolist() == whole.prefix.tolist()
    for part in parts:
        spent = (part.stops - part.starts).sum() + 2 * len(part)
        assert spent <= max_events or len(part.users) == 1


def test_no_events_no_snapshots():
    empty = random_histories().select(np.zeros(len(random_histories().items), dtype=bool))
    assert len(last_snapshots(empty, 8)) == len(every_snapshot(empty, 8, 2)) == 0
    assert list(every_snapshot(empty, 8, 2).parts(10, 1)) == []


# -- answers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoder", ["lum", "hstu", "sasrec", "mean-pool"])
@pytest.mark.parametrize("which", ["last", "every"])
def test_a_group_query_is_separate_passes(trained, encoder, which, tmp_path):
    data = str(trained.run.config.dataset.path)
    config = SMALL | {"type": encoder} if encoder != "mean-pool" else {"type": encoder}
    run = run_of({"type": "movielens", "path": data}, encoder=config, max_length=12, train={"epochs": 1})
    pretrain(run, tmp_path / "run")
    querier = make_querier(LumRun.open(tmp_path / "run"), QUERIES)
    histories = random_histories()
    asked = last_snapshots(histories, 12) if which == "last" else every_snapshot(histories, 12, 4)
    answers = querier.ask(histories, asked)
    assert answers.shape == (len(asked), 3, 16)
    for index in range(0, len(asked), 5):
        start = asked.starts[asked.row[index]]
        user = asked.users[asked.row[[index]]]
        alone = slice_batch(histories, user, np.array([start]), np.array([start + asked.prefix[index]]))
        for place, query in enumerate(querier.queries):
            conditions = {name: torch.tensor([value]) for name, value in query.conditions.items()}
            with torch.no_grad():
                expected = querier.model.answers(alone, torch.tensor([0]), alone.lengths, conditions)
            np.testing.assert_allclose(answers[index, place], expected[0].numpy(), atol=1e-5)


def test_measured_answers_agree_and_sharing_saves_events():
    model = make_model(conditions={"action": 3}).eval()
    from genrec_plugins.lum.querier import Query

    queries = [Query(name=str(value), conditions={"action": value}) for value in (1, 2)]
    querier = Querier(model, queries, torch.device("cpu"))
    histories = random_histories()
    found = measure(querier, histories, every_snapshot(histories, 16, 4), budget=400)
    assert found.max_difference < 1e-5
    assert found.queries == 2
    assert 0 < found.snapshots < len(every_snapshot(histories, 16, 4))
    assert found.speed_up == found.separate_seconds / found.group_seconds


def test_a_later_event_changes_no_earlier_snapshot(trained):
    querier = make_querier(trained, QUERIES)
    histories = random_histories()
    cut = before(histories, 9)
    assert 0 < len(cut.items) < len(histories.items)
    whole, part = every_snapshot(histories, 12, 12), every_snapshot(cut, 12, 12)
    early = whole.times < 9
    assert np.array_equal(whole.times[early], part.times)
    np.testing.assert_allclose(querier.ask(histories, whole)[early], querier.ask(cut, part), atol=1e-5)


# -- queries ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("texts", "expected"), [
    (["like:action"], "expected NAME:CONDITION=VALUE"),
    ([":action=like"], "expected NAME:CONDITION=VALUE"),
    (["a:scene=home"], "no condition 'scene'"),
    (["a:action=lik"], "no value 'lik', did you mean 'like'"),
    (["a:action=like", "a"], "not all different"),
])  # fmt: skip
def test_wrong_queries_are_explained(trained, texts, expected):
    with pytest.raises(ConfigError, match=expected):
        parse_queries(texts, trained.vocabularies)


def test_an_unknown_condition_that_no_event_has_is_told(trained):
    queries = parse_queries(["any", "like:action=like"], trained.vocabularies)
    assert len(unlearned(queries, trained.histories())) == 1
    assert "query 'any' leaves the condition 'action' unknown" in unlearned(queries, trained.histories())[0]
    assert unlearned(queries, random_histories()) == []


def test_an_unfinished_run_is_not_queried(trained, tmp_path):
    facts = replace(trained.facts, digest="")
    with pytest.raises(ModelError, match="not finished"):
        query_run(replace(trained, facts=facts), tmp_path / "store")


# -- the store --------------------------------------------------------------------------------------------------------


def test_the_store_has_the_state_before_each_event(trained, tmp_path):
    done = query_run(trained, tmp_path / "store", QUERIES, snapshots="every-event", stride=1, max_events=200)
    store = KnowledgeStore.open(tmp_path / "store")
    assert store.digest == done.store.digest
    facts = store.facts
    assert (facts.model, facts.trained_until) == (trained.digest, trained.trained_until)
    assert (facts.queries, facts.dim, facts.similarity) == (("like", "dislike", "any"), 16, "cosine")
    histories = trained.histories()
    events = np.arange(0, len(histories.items), 7)
    users = [histories.users[owner] for owner in histories.owners[events]]
    items = [trained.catalogue.items.values[item] for item in histories.items[events]]
    found = store.lookup(users, histories.times[events], items)
    assert found.known_users.all()
    querier = make_querier(trained, QUERIES)
    for row, event in enumerate(events.tolist()):
        owner = int(histories.owners[event])
        start = int(histories.offsets[owner])
        seen = start + int((histories.times[start : histories.offsets[owner + 1]] < histories.times[event]).sum())
        alone = slice_batch(histories, np.array([owner]), np.array([max(start, seen - 12)]), np.array([seen]))
        with torch.no_grad():
            own = querier.model.answers(alone, torch.tensor([0]), alone.lengths, {"action": torch.tensor([2])})[0]
            vector = querier.model.item_vectors(torch.tensor([int(histories.items[event])]))[0]
        np.testing.assert_allclose(found.vectors[row, 0], own.numpy(), atol=1e-5)
        assert found.similarities[row, 0] == pytest.approx(float(own @ vector), abs=1e-5)


def test_the_store_of_last_snapshots(trained, tmp_path):
    histories = trained.histories()
    until = int(np.median(histories.times))
    done = query_run(trained, tmp_path / "store", ["like:action=like"], until=until)
    users = pl.read_parquet(tmp_path / "store" / "users.parquet")
    active = [name for name, n in zip(histories.users, before(histories, until).lengths, strict=True) if n]
    assert users["user"].to_list() == [None, *active]
    assert users["last_event"].max() < until
    assert done.snapshots == done.users == len(active)
    cold = done.store.lookup(["nobody"], [0], ["i1"])
    assert not cold.known_users[0]
    assert np.isfinite(cold.vectors).all()
    assert len(pl.read_parquet(tmp_path / "store" / "items.parquet")) == len(trained.catalogue) - 1


# -- the commands -----------------------------------------------------------------------------------------------------


def call(*words: str) -> int | str | None:
    with pytest.raises(SystemExit) as stopped:
        main.run(words)
    return stopped.value.code


def test_commands_go_from_file_to_store(tmp_path, capsys):
    write_lists(tmp_path / "users.json")
    (tmp_path / "lum.yaml").write_text(
        f"dataset: {{type: amazon-reviews, path: {tmp_path}/users.json}}\nencoder: {json.dumps(SMALL)}\n"
        "train: {epochs: 2, max_events: 64, threads: 1, device: cpu}\n"
    )
    out = str(tmp_path / "run")
    assert not call("lum", "pretrain", str(tmp_path / "lum.yaml"), "--out", out, "--set", "embedding_dim=8", "--json")
    report = json.loads(capsys.readouterr().out)
    assert not call("lum", "evaluate", out, "--json", "--quiet")
    assert json.loads(capsys.readouterr().out) == report["test"]
    store = str(tmp_path / "store")
    assert not call("lum", "query", out, "--out", store, "--snapshots", "every-event", "--measure", "--json", "-q")
    found = json.loads(capsys.readouterr().out)
    assert found["measured"]["max_difference"] < 1e-5
    assert found["store"] == KnowledgeStore.open(store).digest
    assert not call("lum", "query", out, "--out", store, "--until", "1970-01-01T00:00:05")
    assert "knowledge store" in capsys.readouterr().out


@pytest.mark.parametrize(("words", "expected"), [
    (["evaluate", "nowhere", "--split", "tets"], "--split is 'tets', did you mean 'test'"),
    (["evaluate", "nowhere"], "is not the directory of a pre-training run"),
    (["query", "nowhere", "--out", "x", "--snapshots", "first"], "--snapshots is 'first'"),
    (["query", "nowhere", "--out", "x", "--until", "soon"], "expected epoch seconds or a date"),
])  # fmt: skip
def test_commands_explain_mistakes(words, expected, capsys):
    assert call("lum", *words)
    assert expected in capsys.readouterr().err


def test_one_model_generates_and_answers(tmp_path):
    """A semantic-ID run with knowledge: group queries equal separate ones, and the beam still walks its codes."""
    ratings = {"type": "movielens", "path": str(write_ratings(tmp_path / "ratings"))}
    codes = {f"i{item}": [f"<a_{item // 6}>", f"<b_{item % 6}>"] for item in range(24)}
    (tmp_path / "codes.json").write_text(json.dumps(codes))
    objective = {"type": "semantic-id", "codes": str(tmp_path / "codes.json"), "hidden": 16, "layers": 1, "heads": 2}
    knowing = objective | {"knowledge": 1.0, "condition_contrast": 1.0, "user_buckets": 7}
    pretrain(run_of(ratings, objective=knowing, train={"epochs": 8}), tmp_path / "run")
    run = LumRun.open(tmp_path / "run")
    found = query_run(run, tmp_path / "store", snapshots="every-event")
    assert found.store.facts.dim == 16
    model, histories = run.model(), run.histories()
    batch = make_batch(histories, np.arange(4), 64)
    row, prefix = torch.tensor([0, 0, 2, 3]), torch.tensor([0, 3, 5, 1])
    asked = {"action": torch.tensor([1, 2, 1, 2])}
    with torch.no_grad():
        together = model.answers(batch, row, prefix, asked)
        for at in range(len(row)):
            alone = slice(at, at + 1)
            once = model.answers(batch, row[alone], prefix[alone], {"action": asked["action"][alone]})
            assert torch.allclose(once[0], together[at], atol=1e-5)
    liked = recommend(run, Request(k=3, method="beam", conditions={"action": "like"}), histories.users[:4])
    assert liked["rank"].max() == 3

    pretrain(run_of(ratings, objective=objective, train={"epochs": 1}), tmp_path / "generates")
    with pytest.raises(ModelError, match=r"knowledge 0.*objective.knowledge above 0"):
        query_run(LumRun.open(tmp_path / "generates"), tmp_path / "none")


# -- several runs -----------------------------------------------------------------------------------------------------


def test_several_runs_answer_with_the_mean_of_their_similarities(trained, tmp_path):
    run = run_of(trained.run.config.dataset.model_dump(mode="json"), max_length=12, seed=2)
    pretrain(run, tmp_path / "second")
    second = LumRun.open(tmp_path / "second")
    alone = [query_run(one, tmp_path / f"store-{at}", QUERIES).store for at, one in enumerate((trained, second))]
    together = query_run([trained, second], tmp_path / "both", QUERIES).store
    assert (together.facts.dim, together.facts.queries) == (32, ("like", "dislike", "any"))
    assert together.facts.model not in {store.facts.model for store in alone}
    histories = trained.histories()
    users = [*histories.users, "nobody"]
    items = list(trained.catalogue.items.values[1:])[: len(users)]
    late = [int(histories.times.max()) + 1] * len(items)
    found = [store.lookup(users[: len(items)], late, items).similarities for store in (*alone, together)]
    assert np.abs(found[0] - found[1]).max() > 0.01
    np.testing.assert_allclose(found[2], (found[0] + found[1]) / 2, atol=1e-5)


def test_runs_of_other_items_are_not_asked_together(trained, tmp_path):
    write_ratings(tmp_path / "data", seed=5, items=8)
    run = run_of({"type": "movielens", "path": str(tmp_path / "data")}, max_length=12)
    pretrain(run, tmp_path / "run")
    with pytest.raises(ConfigError, match="have other items"):
        query_run([trained, LumRun.open(tmp_path / "run")], tmp_path / "store", QUERIES)
