"""Knowledge by key: LMDB and Redis answer as the Parquet store does, and serve a model."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import fakeredis
import polars as pl
import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_adapters.knowledge import KnowledgeStore
from genrec_plugins.serving import key_values
from genrec_plugins.serving.exported import Exported
from genrec_plugins.serving.key_values import LmdbValues, RedisValues, load_knowledge, open_knowledge, redis_prefix
from genrec_plugins.serving.knowledge_store import KeyValueKnowledge, key_of, pairs_of
from genrec_plugins.serving.problems import Problem
from genrec_plugins.serving.served import Served
from genrec_plugins.serving.wire import Asked
from genrec_registry import ConfigError, DataError
from tests.plugins.knowledge_cases import ROWS, export_with_knowledge, write_store
from tests.plugins.serve_cases import served
from tests.plugins.test_serve_http import run

LONG = "u" * 700
CONFIG = {"user": "user", "item": "item", "time": "time"}


SNAPSHOTS = [(None, None), ("a", None), ("a", 10), ("a", 20), ("b", 15), ("ü", None), (LONG, 1), ("c", -5), ("c", 0)]


@pytest.fixture(params=["cold", "no cold", "redis"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[KnowledgeStore, KeyValueKnowledge]:
    store = write_store(tmp_path / "store", SNAPSHOTS[1:] if request.param == "no cold" else SNAPSHOTS)
    if request.param == "redis":
        values: Any = RedisValues("redis://x", redis_prefix(store), fakeredis.FakeRedis())
        values.put_many(pairs_of(store))
        return store, KeyValueKnowledge(store, values, CONFIG)
    return store, open_knowledge(tmp_path / "store", f"lmdb:{tmp_path / 'kv'}", CONFIG)


def test_every_lookup_is_that_of_the_parquet_store(pair: tuple[KnowledgeStore, KeyValueKnowledge]) -> None:
    store, by_key = pair
    times = [None, -1e18, -5, -4, 0, 0.5, 1, 2, 10, 10.5, 11, 15, 16, 20, 21, 1e18]
    users = [None, "", "a", "b", "ü", LONG, LONG + "x", "c", "new"]
    cases = [(user, time) for user in users for time in times]
    items = ["i0", "i3", "ä" * 300, "", None, "i9"]
    for held in (False, True):
        refused = 0
        for number, (user, time) in enumerate(cases):
            item = items[number % len(items)]
            if held:
                rows = {"user": [user], "item": [item], "time": [time]}
                kinds = {"user": pl.String, "item": pl.String, "time": pl.Float64}
                by_key.hold(pl.DataFrame(rows, schema=kinds).to_arrow())
            try:
                expected = store.lookup([user], [time], [item])
            except DataError as error:
                with pytest.raises(DataError, match=re.escape(str(error).split("; ")[0])):
                    by_key.lookup([user], [time], [item])
                refused += "would see their future" in str(error)
                continue
            given = by_key.lookup([user], [time], [item])
            for name in ("vectors", "similarities", "item_vectors", "known_users", "known_items"):
                assert (getattr(given, name) == getattr(expected, name)).all(), (user, time, item, name)
        assert refused > 10


_NAMES = st.text("abcé", max_size=2)


@settings(max_examples=20, deadline=None)
@given(
    snapshots=st.lists(st.tuples(st.none() | _NAMES, st.none() | st.integers(-9, 9)), unique=True, max_size=12),
    asked=st.lists(st.tuples(_NAMES, st.none() | st.integers(-10, 10)), min_size=1, max_size=8),
)
def test_any_store_by_key(tmp_path_factory: Any, snapshots: list[Any], asked: list[Any]) -> None:
    kept = [(user, time) for user, time in snapshots if user is not None or time is None]
    kept = sorted(kept, key=lambda one: (one[0] is not None, one[0] or "", one[1] is not None, one[1] or 0))
    folder = tmp_path_factory.mktemp("any")
    store = write_store(folder / "store", kept)
    by_key = open_knowledge(folder / "store", f"lmdb:{folder}", CONFIG)
    users, times = [user for user, _ in asked], [time for _, time in asked]
    try:
        expected = store.user_rows(users, times)
    except DataError:
        with pytest.raises(DataError):
            by_key.user_rows(users, times)
        return
    found = by_key.user_rows(users, times)
    assert (found == expected).all()
    assert (by_key.is_cold(found) == store.is_cold(expected)).all()
    assert (by_key.query_vectors("buy", found) == store.query_vectors("buy", expected)).all()


def test_held_rows_are_read_in_two_steps(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", SNAPSHOTS)
    calls = []

    class Counting(LmdbValues):
        def get_many(self, keys: Any) -> Any:
            calls.append(len(keys))
            return super().get_many(keys)

    LmdbValues.write(tmp_path / "a.lmdb", pairs_of(store))
    by_key = KeyValueKnowledge(store, Counting(tmp_path / "a.lmdb"), CONFIG)
    rows = pl.DataFrame({"user": ["a", "b", "a", "?"], "item": ["i0", "i1", "i0", "?"], "time": [30, 30, 15, 30]})
    calls.clear()
    by_key.hold(rows.to_arrow())
    assert calls == [1 + 3 + 3, 4 + 2]  # the digest, users and items; rows (the cold one, too) and item vectors
    by_key.lookup(rows["user"], rows["time"], rows["item"])
    assert len(calls) == 2


def test_many_users_outgrow_the_first_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_values, "_FIRST_MAP", 2**16)
    store = write_store(tmp_path / "store", [(f"u{number:05}", None) for number in range(3000)])
    path = Path(load_knowledge(store, str(tmp_path / "kv")))
    by_key = KeyValueKnowledge(store, LmdbValues(path), CONFIG)
    rows = by_key.user_rows(["u00000", "u02999", "u03000"], [1, 1, 1])
    assert rows.tolist() == [0, 2999, -1]
    assert (by_key.query_vectors("like", rows) == store.query_vectors("like", rows)).all()


def test_what_is_missing_or_broken_says_so(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", SNAPSHOTS)
    client = fakeredis.FakeRedis()
    values = RedisValues("redis://:secret@host:1/0", redis_prefix(store), client)
    with pytest.raises(DataError, match=r"redis://host:1/0 does not have this knowledge; run 'genrec knowledge load'"):
        KeyValueKnowledge(store, values, CONFIG)
    values.put_many(pairs_of(store))
    by_key = KeyValueKnowledge(store, values, CONFIG)
    rows = pl.DataFrame({"user": ["a"], "item": ["i0"], "time": [30]})
    client.delete(redis_prefix(store) + key_of(b"r", 3))  # what a full Redis may have thrown out
    with pytest.raises(Problem, match="has lost vectors"):
        by_key.hold(rows.to_arrow())
    client.delete(redis_prefix(store) + key_of(b"u", "a"))
    by_key.hold(rows.to_arrow())
    assert by_key.lookup(["a"], [30], ["i0"]).known_users.tolist() == [False]
    gone = RedisValues("redis://127.0.0.1:1", b"x")
    with pytest.raises(Problem, match="does not answer") as found:
        gone.get_many([b"m"])
    assert (found.value.status, found.value.retry_after) == (503, 1)
    with pytest.raises(DataError, match="does not answer"):
        open_knowledge(tmp_path / "store", "redis://127.0.0.1:1", CONFIG)
    with pytest.raises(ConfigError, match="expected redis://"):
        RedisValues("redis://host:port/x", b"")
    (tmp_path / f"{store.digest[:32]}.lmdb").write_bytes(b"no")
    with pytest.raises(DataError, match="delete it"):
        open_knowledge(tmp_path / "store", f"lmdb:{tmp_path}", CONFIG)


def test_two_models_of_one_store_share_its_file(tmp_path: Path) -> None:
    """As old and new do while one takes the other's place: LMDB opens a file once a process."""
    store = write_store(tmp_path / "store", SNAPSHOTS)
    old = open_knowledge(tmp_path / "store", f"lmdb:{tmp_path}", CONFIG)
    new = open_knowledge(tmp_path / "store", f"lmdb:{tmp_path}", CONFIG)
    expected = store.user_rows(["a"], [30])
    assert (old.user_rows(["a"], [30]) == expected).all()
    del old
    assert (new.user_rows(["a"], [30]) == expected).all()
    del new
    again = open_knowledge(tmp_path / "store", f"lmdb:{tmp_path}", CONFIG)
    assert (again.user_rows(["a"], [30]) == expected).all()
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [f"{store.digest[:32]}.lmdb"]


# -- a served model ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_with_knowledge(tmp_path_factory.mktemp("knowledge"))


@pytest.mark.parametrize("way", ["lmdb", "lmdb:FOLDER", "redis://here"])
def test_scores_are_those_of_the_parquet_store(
    directory: Path, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    server = fakeredis.FakeServer()
    monkeypatch.setattr(redis.Redis, "from_url", lambda url, **given: fakeredis.FakeRedis(server=server))
    if way.startswith("redis"):
        load_knowledge(KnowledgeStore.open(directory / "knowledge" / "2"), way)
    exported = Exported.open(directory)
    model = Served.open(directory, knowledge=way.replace("FOLDER", str(tmp_path)))
    assert len(model.knowledge) == 1
    table = exported.schema.table(ROWS)
    assert (model.score([Asked(table=table)]) == exported.score(table)).all()
    assert len(set(exported.score(table).tolist())) > 3
    if way == "lmdb":
        assert len(list((tmp_path / "cache" / "genrec" / "knowledge").glob("*.lmdb"))) == 1

    async def main() -> None:
        async with served(model=model) as client:
            late = await client.post("/score", json={"rows": [ROWS[0], ROWS[0] | {"time": 5}]})
            assert late.status_code == 422
            assert late.json()["row"] == 1
            assert "would see their future" in late.json()["error"]
            if way.startswith("redis"):
                server.connected = False
                down = await client.post("/score", json={"rows": ROWS})
                assert (down.status_code, down.headers["retry-after"]) == (503, "1")
                server.connected = True
            good = await client.post("/score", json={"rows": ROWS})
            assert good.json()["probabilities"] == pytest.approx(exported.score(table).tolist(), abs=1e-6)

    run(main())
