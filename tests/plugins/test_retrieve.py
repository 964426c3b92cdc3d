"""Dense retrieval against sorting every inner product, and ``genrec retrieve`` on small runs."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from genrec_plugins.cli import main
from genrec_plugins.lum.batches import make_batch
from genrec_plugins.lum.config import parse_lum
from genrec_plugins.lum.dense_index import DenseIndex
from genrec_plugins.lum.query import query_run
from genrec_plugins.lum.retrieve import Request, recommend
from genrec_plugins.lum.run import LumRun, pretrain
from genrec_registry.errors import DataError


def sorted_products(vectors, rows, queries, k, exclude):
    """For each query, all items by falling inner product, then by position; excluded ones left out."""
    found = []
    for at, query in enumerate(queries):
        barred = {row for who, row in exclude if who == at}
        order = sorted(range(len(vectors)), key=lambda place: (-float(vectors[place] @ query), place))
        kept = [place for place in order if int(rows[place]) not in barred][:k]
        found.append([(int(rows[place]), float(vectors[place] @ query)) for place in kept])
    return found


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_exact_search_is_sorting_every_product(data):
    small = st.integers(-3, 3).map(float)  # exact in float32, so that ties are ties
    count, width, asked = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 3)), data.draw(st.integers(0, 4))
    table = st.lists(small, min_size=width, max_size=width)
    vectors = np.array(data.draw(st.lists(table, min_size=count, max_size=count)), np.float32)
    queries = np.array(data.draw(st.lists(table, min_size=asked, max_size=asked)), np.float32).reshape(asked, width)
    rows = np.array(data.draw(st.permutations(range(1, count + 1))))
    pairs = st.tuples(st.integers(0, max(asked - 1, 0)), st.integers(1, count))
    exclude = data.draw(st.lists(pairs, max_size=8)) if asked else []
    k = data.draw(st.integers(1, 14))
    barred = (np.array([who for who, _ in exclude], int), np.array([row for _, row in exclude], int))
    found, scores = DenseIndex(vectors, rows).search(queries, k, exclude=barred)
    assert found.shape == scores.shape == (asked, k)
    for at, expected in enumerate(sorted_products(vectors, rows, queries, k, exclude)):
        empty = k - len(expected)
        assert scores[at].tolist() == [score for _, score in expected] + [-np.inf] * empty
        # those that tie for the last place may be others of the same score
        above = sum(score > expected[-1][1] for _, score in expected)
        assert found[at, :above].tolist() == [row for row, _ in expected[:above]]
        assert found[at, k - empty :].tolist() == [0] * empty
        tied = dict(zip(rows.tolist(), vectors @ queries[at], strict=True))
        kept = found[at, : k - empty].tolist()
        assert [float(tied[row]) for row in kept] == scores[at, : k - empty].tolist()
        assert len(set(kept)) == len(kept)
        assert not {(at, row) for row in kept} & set(exclude)


def test_the_graph_finds_nearly_all_that_exact_search_finds():
    draw = np.random.default_rng(0)
    vectors = draw.standard_normal((2000, 16)).astype(np.float32)
    queries = draw.standard_normal((50, 16)).astype(np.float32)
    seen = (np.repeat(np.arange(50), 3), draw.integers(0, 2000, 150))
    exact, _ = DenseIndex(vectors).search(queries, 10, exclude=seen)
    graph, scores = DenseIndex(vectors, kind="hnsw").search(queries, 10, exclude=seen)
    shared = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(exact, graph, strict=True)])
    assert shared > 0.95
    assert (np.diff(scores, axis=1) <= 0).all()
    assert not any(row in set(seen[1][seen[0] == at]) for at in range(50) for row in graph[at])


def test_a_table_that_cannot_be_searched_is_refused():
    with pytest.raises(DataError, match="NaN"):
        DenseIndex(np.array([[1.0, np.nan]], np.float32))
    with pytest.raises(DataError, match="empty"):
        DenseIndex(np.zeros((0, 3), np.float32))


# -- genrec retrieve --------------------------------------------------------------------------------------------------

USERS = {f"u{at}": [f"i{(at + step * (1 + at % 2)) % 8}" for step in range(5)] for at in range(10)}
COMMON = {
    "max_length": 8,
    "embedding_dim": 8,
    "evaluation": {"max_valid": 4},
    "train": {"epochs": 1, "threads": 1, "warmup_steps": 1, "peak_flops": 1e9, "device": "cpu"},
}
INFO_NCE = {"encoder": {"type": "lum", "hidden": 8, "num_layers": 1}, "objective": {"negatives": {"sampled": 4}}}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two small runs on the same events: dense and generative."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "events.json").write_text(json.dumps(USERS))
    index = {f"i{at}": [f"<a_{at // 4}>", f"<b_{at % 4 // 2}>"] for at in range(8)}  # two items an ID
    (folder / "index.json").write_text(json.dumps(index))
    dataset = {"dataset": {"type": "amazon-reviews", "path": str(folder / "events.json")}}
    semantic = {"type": "semantic-id", "codes": str(folder / "index.json"), "hidden": 8, "layers": 1, "heads": 2}
    both = semantic | {"knowledge": 0.5}
    for name, part in (("dense", INFO_NCE), ("beam", {"objective": semantic}), ("both", {"objective": both})):
        pretrain(parse_lum(dataset | COMMON | part), folder / name)
    return folder


def genrec(*words: object) -> int:
    with pytest.raises(SystemExit) as stopped:
        main.run([str(word) for word in words])
    return int(stopped.value.code or 0)


@pytest.mark.parametrize("method", ["beam", "dense"])
@pytest.mark.parametrize("exclude", [False, True])
def test_every_user_gets_what_the_model_ranks_first(runs, method, exclude, tmp_path, capsys):
    options = ["--exclude-seen"] if exclude else []
    assert genrec("retrieve", runs / method, "-k", 6, "--out", tmp_path / "recs.parquet", *options) == 0
    found = pl.read_parquet(tmp_path / "recs.parquet")
    assert found.schema == {"user": pl.String, "rank": pl.Int32, "item": pl.String, "score": pl.Float32}
    assert found["user"].unique(maintain_order=True).to_list() == sorted(USERS)
    assert "u0" in capsys.readouterr().out
    run = LumRun.open(runs / method)
    histories, model = run.histories(), run.model()
    for at, user in enumerate(histories.users):
        batch = make_batch(histories, np.array([at]), 8)
        rows = model.recommend(batch, 6, exclude, None)[0].tolist()
        expected = [run.catalogue.items.values[row] for row in rows if row]
        if exclude:
            expected = [item for item in expected if item not in USERS[user]]  # dense lists fill up with barred ones
        mine = found.filter(pl.col("user") == user)
        assert mine["item"].to_list() == expected
        assert mine["rank"].to_list() == list(range(1, len(expected) + 1))
        assert mine["score"].is_sorted(descending=True)
        assert not exclude or not set(expected) & set(USERS[user])


def test_some_users_in_the_order_they_are_named(runs, tmp_path, capsys):
    (tmp_path / "users.txt").write_text("u7\n\nu2\n")
    out = tmp_path / "recs.parquet"
    words = [
        "retrieve",
        runs / "beam",
        "-k",
        2,
        "--user",
        "u5",
        "--users",
        tmp_path / "users.txt",
        "--out",
        out,
        "--json",
    ]
    assert genrec(*words) == 0
    assert json.loads(capsys.readouterr().out) == {"out": str(out), "method": "beam", "users": 3, "rows": 6}
    assert pl.read_parquet(out)["user"].to_list() == ["u5", "u5", "u7", "u7", "u2", "u2"]


def test_a_store_says_what_its_model_says(runs, tmp_path, capsys):
    run = LumRun.open(runs / "dense")
    query_run(run, tmp_path / "store", ["now"])
    stored = recommend(run, Request(k=4, store=tmp_path / "store", query="now", exclude_seen=True))
    assert_frame_equal(stored, recommend(run, Request(k=4, exclude_seen=True)), abs_tol=1e-6)
    query_run(run, tmp_path / "store", ["now", "later"])
    assert genrec("retrieve", runs / "dense", "--store", tmp_path / "store") != 0
    assert "--query is missing" in capsys.readouterr().err
    assert genrec("retrieve", runs / "dense", "--store", tmp_path / "store", "--query", "nwo") != 0
    assert "has the queries now, later" in capsys.readouterr().err
    manifest = tmp_path / "store" / "manifest.json"
    manifest.write_text(manifest.read_text().replace(run.digest, "0" * 64))
    assert genrec("retrieve", runs / "dense", "--store", tmp_path / "store", "--query", "now") != 0
    assert "was written by model 0000000000000000.." in capsys.readouterr().err


def test_a_graph_finds_the_same_on_a_small_catalogue(runs):
    run = LumRun.open(runs / "dense")
    assert_frame_equal(recommend(run, Request(k=3)), recommend(run, Request(k=3, index="hnsw")), abs_tol=1e-6)


def test_a_run_with_both_losses_is_asked_both_ways(runs):
    run = LumRun.open(runs / "both")
    beam, dense = (recommend(run, Request(k=8, method=method), ["u1"]) for method in ("beam", "dense"))
    assert_frame_equal(recommend(run, Request(k=8), ["u1"]), beam)
    assert sorted(beam["item"]) == sorted(dense["item"]) == sorted(run.catalogue.items.values[1:])
    assert beam["score"].max() < 0, "log-probabilities"
    assert dense["score"].abs().max() <= 1 + 1e-6, "cosines"
    batch = make_batch(run.histories(), np.array([1]), 8)
    model = run.model()
    answers = model.answers(batch, torch.tensor([0]), batch.lengths)
    expected = (answers @ model.catalogue_vectors().T)[0, run.catalogue.items.encode(dense["item"])]
    assert dense["score"].to_list() == pytest.approx(expected.tolist(), abs=1e-6)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["beam", "--method", "dense"], "objective semantic-id without knowledge; expected --method beam"),
        (["dense", "--method", "beam"], "objective info-nce; expected --method dense"),
        (["dense", "--method", "dens"], "did you mean 'dense'"),
        (["dense", "--index", "ivf"], "known: flat, hnsw"),
        (["dense", "--user", "u99"], "1 of 1 users have no events in the run's dataset, as 'u99'; expected users"),
        (["dense", "--condition", "like"], "expected NAME=VALUE"),
        (["dense", "--condition", "action=like"], "there is no condition 'action'"),
        (["dense", "--query", "like"], "add --store, or ask by --condition"),
        (["beam", "--store", "store"], "--store goes with dense retrieval"),
        (["dense", "--store", "absent"], "absent: is no knowledge store"),
        (["dense", "--users", "absent.txt"], "cannot be read"),
        (["absent"], "is not the directory of a pre-training run"),
    ],
)
def test_a_users_mistake_is_one_sentence(runs, words, message, capsys):
    assert genrec("retrieve", runs / words[0], *words[1:]) != 0
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_weights_do_not_go_with_other_codes(runs, tmp_path, capsys):
    index = json.loads((runs / "index.json").read_text())
    text = (runs / "index.json").read_text()
    try:
        (runs / "index.json").write_text(json.dumps(index | {"i0": index["i7"], "i7": index["i0"]}))
        assert genrec("retrieve", runs / "beam", "--out", tmp_path / "recs.parquet") != 0
    finally:
        (runs / "index.json").write_text(text)
    assert "not those the weights were trained on" in capsys.readouterr().err
