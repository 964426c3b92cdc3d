"""The knowledge store: the as-of join against a loop, leaks refused, files that were changed or are wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_adapters.knowledge import KnowledgeFacts, KnowledgeStore
from genrec_registry import DataError

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
