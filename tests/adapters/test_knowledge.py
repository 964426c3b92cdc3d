"""The knowledge store: the as-of join against a loop, leaks refused, files that were changed or are wrong."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchrec.models.dlrm import DLRMTrain

from genrec_adapters.knowledge import KnowledgeFacts, KnowledgeStore
from genrec_adapters.loader import BatchLoader
from genrec_adapters.preprocess import prepare
from genrec_adapters.raw import raw_batches
from genrec_plugins.config import parse_run
from genrec_plugins.models import build_dlrm
from genrec_plugins.testing import field_type_suite
from genrec_registry import ConfigError, DataError, default_registry, parse_component

D = 3
FACTS = KnowledgeFacts(model="m" * 64, trained_until=100, queries=("like", "buy"), dim=D)


def vectors(rows: int, seed: int = 0) -> pl.Series:
    values = np.random.default_rng(seed).normal(size=(rows, D)).astype(np.float32)
    return pl.Series(values, dtype=pl.Array(pl.Float32, D))


def user_frame(snapshots: list[tuple[str | None, int | None]]) -> pl.DataFrame:
    frame = pl.DataFrame(snapshots, schema={"user": pl.String, "last_event": pl.Int64}, orient="row")
    return frame.with_columns(like=vectors(len(snapshots), 1), buy=vectors(len(snapshots), 2))


ITEMS = pl.DataFrame({"item": ["b", "a"], "vector": vectors(2, 3)})
SNAPSHOTS = [(None, None), ("u", None), ("u", 10), ("u", 20), ("v", 10), ("w", None)]


@pytest.fixture
def store(tmp_path: Path) -> KnowledgeStore:
    return KnowledgeStore.write(tmp_path / "store", [user_frame(SNAPSHOTS)], ITEMS, FACTS)


def test_rows_get_the_newest_snapshot_strictly_before_them(store: KnowledgeStore) -> None:
    users = ["u", "u", "u", "u", "v", "w", "new", None, "u", "w"]
    times = [10, 11, 20, 10**9, 10.5, -5, 3, 3, None, None]
    assert store.user_rows(users, times).tolist() == [1, 2, 2, 3, 4, 5, 0, 0, 1, 5]
    found = store.lookup(users, times, ["a"] * 10)
    assert found.known_users.tolist() == [True] * 6 + [False] * 2 + [True] * 2
    expected = user_frame(SNAPSHOTS)
    for row, place in enumerate(store.user_rows(users, times)):
        np.testing.assert_array_equal(found.vectors[row, 0], expected["like"].to_numpy()[place])
        np.testing.assert_array_equal(found.vectors[row, 1], expected["buy"].to_numpy()[place])


def test_a_row_that_would_see_its_future_is_refused(store: KnowledgeStore) -> None:
    with pytest.raises(
        DataError, match=r"1 of 2 rows would see their future: user 'v' has a row at 10, and the earl.* 10;"
    ):
        store.lookup(["u", "v"], [10, 10], ["a", "a"])
    assert store.user_rows(["v"], [None]).tolist() == [0], "without a time nothing is proven: the cold-start row"
    assert store.user_rows(["w"], [0]).tolist() == [5], "what was made from no event leaks nothing"


users_st = st.sampled_from([None, "u", "v", "w", "x"])
times_st = st.none() | st.integers(-3, 6)


@settings(max_examples=150, deadline=None)
@given(
    snapshots=st.sets(st.tuples(st.sampled_from(["u", "v", "w"]), times_st), max_size=9),
    cold=st.booleans(),
    rows=st.lists(st.tuples(users_st, st.none() | st.floats(-4, 7)), min_size=1, max_size=8),
)
def test_the_join_equals_a_loop(
    tmp_path_factory: pytest.TempPathFactory, snapshots: set, cold: bool, rows: list[tuple]
) -> None:
    order = sorted(snapshots, key=lambda one: (one[0], one[1] is not None, one[1] or 0))
    order = [(None, None), *order] if cold else order
    folder = tmp_path_factory.mktemp("join")
    store = KnowledgeStore.write(folder / "s", [user_frame(order)], ITEMS, FACTS)
    expected, leaks = [], False
    for user, time in rows:
        own = [place for place, one in enumerate(order) if user is not None and one[0] == user]
        allowed = [place for place in own if order[place][1] is None or (time is not None and order[place][1] < time)]
        leaks |= bool(own) and not allowed and time is not None
        expected.append(allowed[-1] if allowed else (0 if cold else -1))
    users, times = [user for user, _ in rows], [time for _, time in rows]
    if leaks:
        with pytest.raises(DataError, match="would see their future"):
            store.user_rows(users, times)
    else:
        assert store.user_rows(users, times).tolist() == expected


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_similarities_and_unknown_items(similarity: str, tmp_path: Path) -> None:
    facts = KnowledgeFacts(**{**FACTS.__dict__, "similarity": similarity, "temperature": 0.1})
    store = KnowledgeStore.write(tmp_path / "s", [user_frame([("u", None)])], ITEMS, facts)
    found = store.lookup(["u", "u", "nobody"], [1, 1, 1], ["b", "?", "a"])
    assert found.known_items.tolist() == [True, False, True]
    left, right = found.vectors[0, 1], found.item_vectors[0]
    expected = float(left @ right) / (np.linalg.norm(left) * np.linalg.norm(right) if similarity == "cosine" else 1)
    assert found.similarities[0, 1] == pytest.approx(expected, rel=1e-5)
    assert not found.item_vectors[1].any()
    assert found.similarities[1].tolist() == [0.0, 0.0]
    assert not found.vectors[2].any(), "no cold-start row: zeros"
    np.testing.assert_array_equal(right, ITEMS["vector"].to_numpy()[0], "items are found wherever they stood")


def test_frames_are_streamed_and_replace_an_older_store(store: KnowledgeStore) -> None:
    frame = user_frame(SNAPSHOTS)
    again = KnowledgeStore.write(store.directory, (frame[at : at + 1] for at in range(6)), ITEMS, FACTS)
    assert pl.read_parquet(store.directory / "users.parquet").equals(frame)
    assert again.user_rows(["u"], [11]).tolist() == [2]
    assert sorted(path.name for path in store.directory.parent.iterdir()) == ["store"]
    other = KnowledgeStore.write(store.directory, [frame], ITEMS[:1], FACTS)
    assert other.digest != again.digest
    assert KnowledgeStore.open(store.directory).digest == other.digest


@pytest.mark.parametrize(
    ("snapshots", "problem"),
    [
        ([("v", None), ("u", None)], "user 'u' and last_event None does not come after"),
        ([("u", 5), ("u", None)], "user 'u' and last_event None does not come after"),
        ([("u", 5), ("u", 5)], "give each pair once"),
        ([("u", 5), (None, None)], "user None and last_event None does not come after"),
        ([(None, 3), ("u", 5)], "a cold-start row is made from no event"),
    ],
)
@pytest.mark.parametrize("step", [1, 2])
def test_rows_out_of_order_are_refused(snapshots: list, problem: str, step: int, tmp_path: Path) -> None:
    frame = user_frame(snapshots)
    with pytest.raises(DataError, match=problem):
        KnowledgeStore.write(tmp_path / "s", [frame[at : at + step] for at in range(0, 2, step)], ITEMS, FACTS)
    assert list(tmp_path.iterdir()) == [], "nothing half-written stays"


def test_wrong_tables_are_refused(tmp_path: Path) -> None:
    good = user_frame(SNAPSHOTS)
    wrong = {
        "was given the columns": (good.drop("buy"), ITEMS),
        "of other types": (good.with_columns(like=pl.Series([[1.0]] * 6, dtype=pl.Array(pl.Float32, 1))), ITEMS),
        "not finite": (good.with_columns(like=vectors(6) * float("inf")), ITEMS),
        "item 'a' stands there twice": (good, pl.concat([ITEMS, ITEMS[1:]])),
        "has 1 nulls": (good, ITEMS.with_columns(item=pl.Series(["a", None]))),
    }
    for problem, (users, items) in wrong.items():
        with pytest.raises(DataError, match=problem):
            KnowledgeStore.write(tmp_path / "s", [users], items, FACTS)
    facts = KnowledgeFacts(**{**FACTS.__dict__, "queries": ("like", "like")})
    with pytest.raises(DataError, match="all different"):
        KnowledgeStore.write(tmp_path / "s", [good], ITEMS, facts)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").touch()
    with pytest.raises(DataError, match="exists and is no knowledge store"):
        KnowledgeStore.write(tmp_path / "other", [good], ITEMS, FACTS)
    assert (tmp_path / "other" / "thesis.txt").exists()


def test_a_changed_or_foreign_directory_is_told(store: KnowledgeStore) -> None:
    path = store.directory / "users.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(DataError, match=r"users\.parquet: has sha256"):
        KnowledgeStore.open(store.directory).user_rows(["u"], [11])
    path.unlink()
    with pytest.raises(DataError, match=r"users\.parquet: cannot be read"):
        KnowledgeStore.open(store.directory).user_rows(["u"], [11])
    manifest = store.directory / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "version": 9}))
    with pytest.raises(DataError, match="has format version 9, this program reads 1"):
        KnowledgeStore.open(store.directory)
    for text in ("{", "[]", "{}", json.dumps({"format": "genrec-prepared"})):
        manifest.write_text(text)
        with pytest.raises(DataError, match="is no knowledge store"):
            KnowledgeStore.open(store.directory)
    with pytest.raises(DataError, match="is no knowledge store"):
        KnowledgeStore.open(store.directory / "absent")


def test_rows_in_the_time_of_training_are_refused(store: KnowledgeStore, tmp_path: Path) -> None:
    store.check_rows([101, 500], "rows of the split 'test'")
    store.check_rows([])
    with pytest.raises(
        DataError, match=r"trained on events until 100, and 2 of 3 rows are not after that.*first is at 100"
    ):
        store.check_rows([101, 100, 7])
    with pytest.raises(DataError, match="one has no time"):
        store.check_rows([None, 101])
    facts = KnowledgeFacts(**{**FACTS.__dict__, "trained_until": None})
    unknown = KnowledgeStore.write(tmp_path / "u", [user_frame([])], ITEMS, facts)
    with pytest.raises(DataError, match="does not say until when its weights were trained"):
        unknown.check_rows([101])
    assert unknown.user_rows(["u"], [1]).tolist() == [-1]


# -- the field type ---------------------------------------------------------------------------------------------------

FOLDER = Path(tempfile.mkdtemp(prefix="genrec-knowledge-"))
STORE = KnowledgeStore.write(FOLDER / "store", [user_frame(SNAPSHOTS)], ITEMS, FACTS)
ROWS = pl.DataFrame(
    {
        "user": ["u", "u", "v", "w", None, "new", "u", "v", "", "u"] * 2,
        "item": ["a", "b", "?", "a", "b", None, "a", "b", "a", ""] * 2,
        "time": [11, 500, 12, 7, 3, None, 10, 10**6, 8, 30] * 2,
    }
)

TestLumKnowledge = field_type_suite("lum-knowledge", {"store": str(STORE.directory)}, ROWS)
TestLumKnowledgeParts = field_type_suite(
    "lum-knowledge",
    {
        "store": str(STORE.directory),
        "parts": ["similarities", "vectors"],
        "queries": ["buy"],
        "normalise": False,
        "standardise": False,
    },
    ROWS,
)


def rows_file(folder: Path, times: list[int], **columns: list) -> dict[str, str]:
    """A Parquet table of rows at these times, all of user w, whose knowledge comes from no event."""
    count = len(times)
    frame = {"label": [0, 1] * (count // 2), "user": ["w"] * count, "item": ["a", "b"] * (count // 2), "time": times}
    pl.DataFrame(frame | columns).write_parquet(folder / "rows.parquet")
    return {"type": "parquet", "path": str(folder / "rows.parquet"), "label": "label"}


TIME_SPLIT = {"type": "time", "train": 0.5, "valid": 0.25, "test": 0.25}


def knowledge_field(store: KnowledgeStore, **config: object) -> dict:
    return {"lum": {"type": "lum-knowledge", "store": str(store.directory), **config}, "item": {"type": "categorical"}}


def test_prepared_rows_have_the_stores_numbers(store: KnowledgeStore, tmp_path: Path) -> None:
    dataset = rows_file(tmp_path, [*range(97, 101), *range(101, 105)])
    prepared = prepare(dataset, tmp_path / "p", fields=knowledge_field(store, normalise=False), split=TIME_SPLIT)
    assert [(feature.name, feature.width) for feature in prepared.dense_features] == [
        ("lum.vector.like", D),
        ("lum.vector.buy", D),
        ("lum.similarity.like", 2),
        ("lum.similarity.buy", 2),
        ("lum.item", D),
    ]
    batch = next(iter(BatchLoader(prepared, "test", 2)))
    found = store.lookup(["w", "w"], [103, 104], ["a", "b"])
    dense = batch.dense_features.numpy()
    np.testing.assert_array_equal(dense[:, :D], found.vectors[:, 0])
    np.testing.assert_array_equal(dense[:, -D:], found.item_vectors)
    facts = prepared.restore_fields(default_registry())["lum"].state().json
    mean, scale = facts["similarities"]["buy"]
    np.testing.assert_allclose(dense[:, 2 * D + 2], (found.similarities[:, 1] - mean) / scale, rtol=1e-5)
    train = store.lookup(["w"] * 4, [97, 98, 99, 100], ["a", "b"] * 2).similarities[:, 1]
    assert (mean, scale) == (pytest.approx(train.mean(), rel=1e-5), pytest.approx(train.std(), rel=1e-5))


def test_validation_rows_from_the_time_of_training_are_refused(store: KnowledgeStore, tmp_path: Path) -> None:
    dataset = rows_file(tmp_path, [95, 96, 97, 98, 100, 101, 102, 103])
    with pytest.raises(DataError, match=r"fields\.lum: .*until 100, and 1 of 2 valid rows are not after that") as told:
        prepare(dataset, tmp_path / "p", fields=knowledge_field(store), split=TIME_SPLIT)
    assert "weights: any" in str(told.value)
    assert not (tmp_path / "p").exists()
    prepare(dataset, tmp_path / "p", fields=knowledge_field(store, weights="any"), split=TIME_SPLIT)
    shuffled = {"type": "shuffled", "train": 0.5, "valid": 0.25, "test": 0.25}
    with pytest.raises(DataError, match="not after that"):
        prepare(rows_file(tmp_path, [*range(96, 104)]), tmp_path / "q", fields=knowledge_field(store), split=shuffled)


def test_a_leak_is_told_in_one_sentence(store: KnowledgeStore, tmp_path: Path) -> None:
    dataset = rows_file(tmp_path, [9] * 8, user=["v"] * 8)
    with pytest.raises(DataError, match="would see their future: user 'v' has a row at 9") as told:
        prepare(dataset, tmp_path / "p", fields=knowledge_field(store, weights="any"), split=TIME_SPLIT)
    assert "\n" not in str(told.value)
    unmeasured = knowledge_field(store, weights="any", parts=["vectors"])
    with pytest.raises(DataError, match="would see their future: user 'v' has a row at 9") as told:
        prepare(dataset, tmp_path / "p", fields=unmeasured, split=TIME_SPLIT)
    assert "\n" not in str(told.value), "polars' own addition is taken off"


def test_raw_rows_are_encoded_as_prepared_ones_and_refused_alike(store: KnowledgeStore, tmp_path: Path) -> None:
    dataset = rows_file(tmp_path, [*range(101, 109)])
    prepared = prepare(dataset, tmp_path / "p", fields=knowledge_field(store), split=TIME_SPLIT)
    expected = next(iter(BatchLoader(prepared, "train", 4)))
    raw = next(iter(raw_batches(prepared, dataset, default_registry(), batch_size=4)))
    assert torch.equal(raw.dense_features, expected.dense_features)
    dataset = rows_file(tmp_path, [9] * 8, user=["v"] * 8)
    with pytest.raises(DataError, match="would see their future: user 'v' has a row at 9") as told:
        list(raw_batches(prepared, dataset, default_registry(), batch_size=4))
    assert "\n" not in str(told.value)


def test_another_store_makes_other_rows_and_fits_no_old_ones(store: KnowledgeStore, tmp_path: Path) -> None:
    dataset = rows_file(tmp_path, [*range(101, 109)])
    fields = knowledge_field(store)
    first = prepare(dataset, tmp_path / "p", fields=fields, split=TIME_SPLIT)
    assert prepare(dataset, tmp_path / "p", fields=fields, split=TIME_SPLIT).reused
    KnowledgeStore.write(
        store.directory, [user_frame(SNAPSHOTS)], ITEMS.reverse().with_columns(item=ITEMS["item"]), FACTS
    )
    with pytest.raises(DataError, match=r"fields\.lum: .* is another knowledge store than the rows were prepared with"):
        first.restore_fields(default_registry())
    again = prepare(dataset, tmp_path / "p", fields=fields, split=TIME_SPLIT)
    assert not again.reused
    again.restore_fields(default_registry())


def test_knowledge_mistakes_are_told(store: KnowledgeStore, tmp_path: Path) -> None:
    dataset = rows_file(tmp_path, [*range(101, 109)])
    with pytest.raises(ConfigError, match=r"fields\.lum\.queries: .*no query 'lke', did you mean 'like'"):
        prepare(dataset, tmp_path / "p", fields=knowledge_field(store, queries=["lke"]), split=TIME_SPLIT)
    fields = {"lum": {"type": "lum-knowledge", "store": str(tmp_path / "absent")}}
    with pytest.raises(DataError, match=r"absent/manifest\.json: does not exist.*fields\.lum"):
        prepare(dataset, tmp_path / "p", fields=fields, split=TIME_SPLIT)
    with pytest.raises(ConfigError, match="has no column 'when'"):
        prepare(dataset, tmp_path / "p", fields=knowledge_field(store, time="when"), split=TIME_SPLIT)


@pytest.mark.parametrize("name", sorted(one.record.name for one in default_registry().components("interaction")))
def test_every_interaction_takes_knowledge(name: str, store: KnowledgeStore, tmp_path: Path) -> None:
    prepared = prepare(rows_file(tmp_path, [*range(101, 109)]), tmp_path / "p", fields=knowledge_field(store))
    dataset = {"type": "csv", "path": "rows.csv", "label": "label"}
    run = parse_run({"dataset": dataset, "model": {"embedding_dim": 8, "interaction": name}})
    model = build_dlrm(run.config.model, prepared.fields, run.registry)
    assert model.token_names[:5] == tuple(feature.name for feature in prepared.dense_features)
    loss, (_, logits, _) = DLRMTrain(model)(next(iter(BatchLoader(prepared, "train", 4))))
    loss.backward()
    assert torch.isfinite(logits).all()
    for module in model.dense_arch.modules_by_type:
        assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in module.parameters())


def test_expressions_read_no_file(store, monkeypatch):
    """All is loaded when the field is made: a file read inside an expression can deadlock with polars' threads."""
    config = parse_component(default_registry(), "field-type", {"type": "lum-knowledge", "store": str(store.directory)})
    fitted = default_registry().create("field-type", config, "k").fitter().finish()
    monkeypatch.setattr(pl, "read_parquet", lambda *args, **kwargs: pytest.fail("read a file inside an expression"))
    rows = pl.DataFrame({"user": ["u", None], "item": ["i", "?"], "time": [99, 99]})
    assert rows.select(fitted.encode()).height == 2
