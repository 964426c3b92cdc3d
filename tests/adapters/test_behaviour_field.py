"""The ``behaviour`` field type: conformance, ids, and lists that stay in step."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_adapters.field_types.behaviour import Behaviour
from genrec_adapters.field_types.configs import AttributeConfig, BehaviourConfig
from genrec_adapters.loader import BatchLoader
from genrec_adapters.preprocess import prepare
from genrec_plugins.testing import ConformanceError, field_subject, field_type_suite
from genrec_plugins.testing.field_cases import expect_valid
from genrec_plugins.testing.field_checks import check_spec
from genrec_registry import BehaviourSpec, ConfigError, DataError, FieldSpec, FieldTypeRecord, SparseFeature

ROWS = pl.DataFrame(
    {
        "item": ["a", "b", None, "a", "", "c", "a", "z", "b", "d"] * 2,
        "brand": [1, 2, None, 2, 7, 7, 7, -1, 0, 3] * 2,
        "history_item": [["a", "b"], [], None, ["b"], ["a", None, "", "c"], ["c"] * 5, ["a"], ["x"], ["d", "a"], []]
        * 2,
        "history_brand": [[1, 2], [], [3], None, [7, 7, 7, 7], [7] * 5, [], [None], [3, 7], [1]] * 2,
        "history_action": [["v", "b"], [], None, ["v"], ["v", "b", "v", "b"], ["v"] * 3, [], [None], ["b", ""], []] * 2,
        "scene": [["s", "t"], [], None, ["s"], ["s", "s", "t", "t"], ["s"] * 5, ["s"], ["u"], ["t", "t"], []] * 2,
        "joined": ["a|b", "", None, "b", "a||c", "c|c|c|c|c", "a", "x", "d|a", "|"] * 2,
    }
)

TestBehaviour = field_type_suite("behaviour", {"max_length": 3, "conditions": ["history_action", "scene"]}, ROWS)
TestBehaviourAttributes = field_type_suite(
    "behaviour", {"attributes": {"brand": {"target": "brand", "history": "history_brand"}}, "min_count": 2}, ROWS
)
TestBehaviourHash = field_type_suite(
    "behaviour", {"mode": "hash", "num_buckets": 9, "conditions": ["scene"], "max_size": None}, ROWS
)
TestBehaviourText = field_type_suite("behaviour", {"history": "joined", "separator": "|", "max_length": 2}, ROWS)


FOLDER = Path(tempfile.mkdtemp(prefix="genrec-behaviour-"))
pl.DataFrame({"item": ["", "a", "b", "c", "x"], "sid_1": [0, 1, 1, 2, None]}).write_parquet(FOLDER / "items.parquet")
FROM_ITEMS = {"sid_1": {"items": str(FOLDER / "items.parquet")}}

TestBehaviourItems = field_type_suite("behaviour", {"attributes": FROM_ITEMS, "conditions": ["scene"]}, ROWS)
TestBehaviourItemsHash = field_type_suite(
    "behaviour", {"attributes": FROM_ITEMS, "mode": "hash", "num_buckets": 7, "max_length": 2}, ROWS
)


def fitted(rows: pl.DataFrame, **settings: object) -> object:
    fitter = Behaviour("past", BehaviourConfig(**settings)).fitter()
    fitter.update(rows)
    return fitter.finish()


def test_history_and_target_share_ids_and_a_table() -> None:
    field = fitted(ROWS)
    event, target = field.spec.sparse
    assert event.table == target.table == "past_item"
    assert event.num_embeddings == target.num_embeddings == 1 + len({"a", "b", "c", "d", "x", "z"})


def test_one_vocabulary_counts_both_columns() -> None:
    rows = pl.DataFrame({"item": ["a", "b"], "history_item": [["b", "c", "c", "c"], ["b"]]})
    field = fitted(rows)
    assert field.state().tables["item"].rows() == [("b", 3), ("c", 3), ("a", 1)]
    assert rows.select(field.encode()).rows() == [([1, 2, 2, 2], 3), ([1], 1)]
    assert fitted(rows, min_count=2).spec.sparse[0].num_embeddings == 3


def test_conditions_are_named_without_their_prefix() -> None:
    spec = fitted(ROWS, conditions=("history_action", "scene")).spec
    assert spec.behaviour == BehaviourSpec(
        items=("past.item",),
        conditions=("past.action", "past.scene"),
        targets=("past.item.target",),
        max_length=50,
    )
    assert spec.num_tokens == 0, "an encoder makes tokens of it, the field itself none"
    with pytest.raises(ValueError, match="two features of an event are called 'action'"):
        BehaviourConfig(conditions=("action", "history_action"))
    with pytest.raises(ValueError, match="called 'item'"):
        BehaviourConfig(attributes={"item": AttributeConfig(target="x", history="y")})


texts = st.sampled_from(["a", "b", "c", "", None, "new"])
lists = st.none() | st.lists(texts, max_size=7)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(texts, lists, lists), min_size=1, max_size=6), length=st.integers(2, 5))
def test_encoding_equals_a_loop_over_events(rows: list[tuple], length: int) -> None:
    schema = {"item": pl.String, "history_item": pl.List(pl.String), "history_action": pl.List(pl.String)}
    frame = pl.DataFrame(rows, schema=schema, orient="row")
    train = frame.with_columns(
        pl.col("item").replace("new", None),
        pl.col("history_item").list.eval(pl.element().replace("new", None)),
        pl.col("history_action").list.eval(pl.element().replace("new", None)),
    )
    field = fitted(train, conditions=("history_action",), max_length=length)
    ids = {
        name: {value: place + 1 for place, value in enumerate(table["value"].to_list())}
        for name, table in field.state().tables.items()
    }
    expected = []
    for item, history, actions in rows:
        padded = [*(actions or []), *([None] * len(history or []))]
        events = [(one, action) for one, action in zip(history or [], padded, strict=False) if one]
        events = events[-length:]
        expected.append(
            (
                [ids["item"].get(one, 0) for one, _ in events],
                [ids["action"].get(action, 0) for _, action in events],
                ids["item"].get(item, 0),
            )
        )
    assert frame.select(field.encode()).rows() == expected


def test_prepared_rows_carry_the_lists_as_ragged_keys(tmp_path: Path) -> None:
    ROWS.with_columns(y=pl.Series([0, 1] * 10)).write_parquet(tmp_path / "rows.parquet")
    dataset = {"type": "parquet", "path": str(tmp_path / "rows.parquet"), "label": "y"}
    fields = {"past": {"type": "behaviour", "conditions": ["history_action"]}, "brand": {"type": "categorical"}}
    prepared = prepare(
        dataset, tmp_path / "prepared", fields=fields, split={"type": "time", "train": 1.0, "valid": 0, "test": 0}
    )
    batch = next(iter(BatchLoader(prepared, "train", 20)))
    sparse = batch.sparse_features
    assert sparse.keys() == ["past.item", "past.action", "past.item.target", "brand"]
    assert sparse["past.item"].lengths().tolist() == [2, 0, 0, 1, 2, 5, 1, 1, 2, 0] * 2
    assert sparse["past.action"].lengths().tolist() == sparse["past.item"].lengths().tolist()
    with pytest.raises(ConfigError, match="column 'item' holds text, but type 'behaviour' needs lists"):
        prepare(dataset, tmp_path / "other", fields={"past": {"type": "behaviour", "history": "item"}})


class _Given:
    """Field type, fitter and fitted field in one, whose spec is given."""

    def __init__(self, spec: FieldSpec) -> None:
        self.spec, self.columns = spec, {"c": "string"}

    def fitter(self) -> _Given:
        return self

    def update(self, chunk: pl.DataFrame) -> None: ...

    def finish(self) -> _Given:
        return self

    def encode(self) -> tuple[pl.Expr, ...]:
        return ()


def _sparse(name: str, length: int, table: str = "t", pooling: str = "none") -> SparseFeature:
    return SparseFeature(name=name, num_embeddings=4, max_length=length, pooling=pooling, table=table)


@pytest.mark.parametrize(
    ("sparse", "problem"),
    [
        (
            (_sparse("field.i", 3), _sparse("field.c", 3, "c"), _sparse("field.t", 1, "other")),
            "one id a row of the table",
        ),
        ((_sparse("field.i", 3, pooling="sum"), _sparse("field.c", 3, "c"), _sparse("field.t", 1)), "must be the same"),
        ((_sparse("field.i", 9), _sparse("field.c", 3, "c"), _sparse("field.t", 1)), "has max_length 9"),
    ],
)
def test_the_suite_finds_a_broken_behaviour(sparse: tuple[SparseFeature, ...], problem: str) -> None:
    behaviour = BehaviourSpec(items=("field.i",), conditions=("field.c",), targets=("field.t",), max_length=3)

    def factory(name: str, config: object) -> _Given:
        own = tuple(replace(feature, name=feature.name.replace("field", name)) for feature in sparse)
        return _Given(FieldSpec(name=name, type="broken", sparse=own, behaviour=behaviour))

    record = FieldTypeRecord(name="broken", config=BehaviourConfig, factory=factory, summary="")
    with pytest.raises(ConformanceError, match=problem):
        check_spec(field_subject(record, {}, pl.DataFrame({"c": ["x"]})))


def test_lists_out_of_step_are_found() -> None:
    behaviour = BehaviourSpec(items=("i",), conditions=("c",), max_length=3)
    spec = FieldSpec(name="f", type="x", sparse=(_sparse("i", 3), _sparse("c", 3)), behaviour=behaviour)
    rows = pl.DataFrame(
        {"i": [[1], [2, 3]], "c": [[1], [2]]}, schema_overrides={"i": pl.List(pl.Int32), "c": pl.List(pl.Int32)}
    )
    with pytest.raises(ConformanceError, match="lists of other lengths in row 1"):
        expect_valid(spec, rows)


def test_attributes_may_come_from_a_table_of_items() -> None:
    rows = pl.DataFrame({"item": ["a", "x"], "history_item": [["c", None, "b", "new"], []]})
    field = fitted(rows, attributes=FROM_ITEMS)
    assert field.spec.behaviour.items == ("past.item", "past.sid_1")
    assert field.state().tables["sid_1"].rows() == [("1", 2), ("2", 1)]
    encoded = rows.select(field.encode())
    assert encoded["past.sid_1"].to_list() == [[2, 1, 0], []], "item 'new' is in no table"
    assert encoded["past.sid_1.target"].to_list() == [1, 0], "the table has no value for item 'x'"


def test_a_changed_table_of_items_prepares_rows_again(tmp_path: Path) -> None:
    ROWS.with_columns(y=pl.Series([0, 1] * 10)).write_parquet(tmp_path / "rows.parquet")
    dataset = {"type": "parquet", "path": str(tmp_path / "rows.parquet"), "label": "y"}
    table = pl.read_parquet(FOLDER / "items.parquet")
    table.write_parquet(tmp_path / "items.parquet")
    fields = {"past": {"type": "behaviour", "attributes": {"sid_1": {"items": str(tmp_path / "items.parquet")}}}}
    assert not prepare(dataset, tmp_path / "p", fields=fields).reused
    assert prepare(dataset, tmp_path / "p", fields=fields).reused
    table.with_columns(sid_1=pl.col("sid_1").reverse()).write_parquet(tmp_path / "items.parquet")
    assert not prepare(dataset, tmp_path / "p", fields=fields).reused


@pytest.mark.parametrize(
    ("frame", "problem"),
    [
        ({"item": ["a"], "sid": [1]}, "has no column 'sid_1', did you mean 'sid'"),
        ({"item": ["a", "a"], "sid_1": [1, 2]}, "item 'a' stands there twice"),
        ({"item": ["a"], "sid_1": [[1]]}, "expected one value an item"),
        (None, "cannot be read"),
    ],
)
def test_wrong_tables_of_items_are_told(frame: dict | None, problem: str, tmp_path: Path) -> None:
    if frame is not None:
        pl.DataFrame(frame).write_parquet(tmp_path / "t")
    with pytest.raises(DataError, match=rf"{problem}.*fields\.past\.attributes\.sid_1"):
        fitted(ROWS, attributes={"sid_1": {"items": str(tmp_path / "t")}})
    for wrong in ({}, {"target": "a"}, {"target": "a", "history": "b", "items": "c"}):
        with pytest.raises(ValueError, match="an attribute has 'target' and 'history', or 'items'"):
            AttributeConfig(**wrong)
