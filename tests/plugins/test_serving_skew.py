"""Served rows get the ids that training would have given them, whatever is in them; and bad rows are named."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torchrec.datasets.utils import Batch

from genrec_adapters.knowledge import KnowledgeStore
from genrec_adapters.loader import BatchLoader
from genrec_adapters.raw import raw_batches
from genrec_adapters.splits import assigner
from genrec_plugins.serving.export import export_run
from genrec_plugins.serving.exported import Exported
from genrec_plugins.serving.schema import RawColumn, RawSchema, RowError
from genrec_plugins.serving.tables import Tables
from genrec_plugins.training.run import TrainedRun, prepare_run
from genrec_registry import DataError, default_registry
from tests.plugins.serving_cases import (
    FIELDS,
    FIRST_TIME,
    HISTORY,
    OTHERS,
    ROWS,
    arrow,
    make_run,
    raw_rows,
    trained,
    untrained,
    write_store,
)

MODEL = "interaction: {type: dot}\n  encoder: {type: din}"
EVERYTHING = FIELDS + HISTORY + OTHERS


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    folder = tmp_path_factory.mktemp("skew")
    prepared = prepare_run(make_run(folder, MODEL, EVERYTHING), folder / "prepared")
    return TrainedRun.open(untrained(folder, "run", MODEL, prepared, EVERYTHING))


@pytest.fixture(scope="module")
def exported(run: TrainedRun) -> Exported:
    export_run(run.directory, run.directory.parent / "out", formats=[])
    return Exported.open(run.directory.parent / "out")


def expect_same(found: Batch, expected: Batch) -> None:
    assert found.sparse_features.keys() == expected.sparse_features.keys()
    assert found.sparse_features.values().dtype == expected.sparse_features.values().dtype
    assert torch.equal(found.sparse_features.lengths(), expected.sparse_features.lengths())
    assert torch.equal(found.sparse_features.values(), expected.sparse_features.values())
    assert torch.equal(found.dense_features, expected.dense_features)


def test_every_built_in_field_type_is_tried(run: TrainedRun) -> None:
    built_in = {component.name for component in default_registry().components("field-type")}
    assert {spec.type for spec in run.prepared.fields} == built_in


def test_ids_of_the_training_rows_are_those_that_were_trained_on(run: TrainedRun, exported: Exported) -> None:
    """The prepared shards, which training read, hold the rows of a split in file order."""
    count = run.prepared.rows("train")
    train = assigner(run.run.config.split, rows=ROWS)(0, ROWS) == 0
    assert train.sum() == count > ROWS / 2
    batch = next(iter(BatchLoader(run.prepared, "train", count)))
    expect_same(exported.ids(arrow(raw_rows().filter(pl.Series(train)))), batch)


@pytest.mark.parametrize("tables", ["fp32", "int8"])
def test_a_model_of_every_field_type_scores_as_its_run_does(tmp_path: Path, tables: Tables) -> None:
    """Trained, so that the dynamic ids have rows."""
    run = trained(tmp_path, "run", MODEL, EVERYTHING)
    card = export_run(run, tmp_path / "out", tables=tables, formats=["torchscript"])
    assert card["left_out"] == {}
    expected = TrainedRun.open(run).predict_file(str(tmp_path / "rows.parquet"))[1]
    assert expected.std() > 0.01
    rows = arrow(raw_rows())
    eager, plain, script = (
        Exported.open(tmp_path / "out", runtime=runtime).score(rows) for runtime in ("eager", "plain", "script")
    )
    assert np.abs(eager - expected).max() < (1e-6 if tables == "fp32" else 1e-2)
    assert np.abs(plain - eager).max() < 1e-6
    assert np.abs(script - eager).max() < 1e-6


TEXTS = st.one_of(
    st.none(), st.sampled_from(["", "red", "blue", "w1 w2", "i3", "u1", "buy", "t4", "nan", "7", "7.0"]), st.text()
).filter(lambda text: text is None or "\x00" not in text)
WHOLE = st.one_of(st.none(), st.integers(0, 20), st.integers(-(2**63), 2**63 - 1))
DECIMAL = st.one_of(st.none(), st.floats(-3, 3), st.floats(allow_nan=False))
#: rows before the users' knowledge would see their future, and are refused: another test
TIMES = st.one_of(st.none(), st.integers(FIRST_TIME, FIRST_TIME + 10**7), st.integers(FIRST_TIME, 2**62))


@st.composite
def rows(draw: st.DrawFn) -> dict[str, Any]:
    past = draw(st.lists(st.tuples(TEXTS, TEXTS), max_size=7))
    return {
        "colour": draw(TEXTS),
        "shop": draw(WHOLE),
        "age": draw(WHOLE),
        "price": draw(DECIMAL),
        "tags": draw(st.none() | st.lists(TEXTS, max_size=5)),
        "seen": draw(st.none() | st.lists(WHOLE, max_size=5)),
        "image": draw(st.none() | st.lists(DECIMAL, max_size=4) | st.lists(st.floats(-1, 1), min_size=3, max_size=3)),
        "when": draw(TIMES),
        "title": draw(TEXTS),
        "user": draw(TEXTS),
        "item": draw(TEXTS),
        "past": [item for item, _ in past],
        "past_action": [action for _, action in past],
    }


SCHEMA = raw_rows(2).schema


def expect_the_ids_of_training(run: TrainedRun, exported: Exported, path: Path, given_rows: list[Any]) -> None:
    """As JSON, and as Arrow, against the path of preprocessing from a file of the run's format."""
    frame = pl.DataFrame([row | {"label": 0} for row in given_rows], schema=SCHEMA)
    frame.write_parquet(path)
    dataset = {"type": "parquet", "path": str(path), "label": "label"}
    expected = next(raw_batches(run.prepared, dataset, run.run.registry, len(given_rows)))
    expect_same(exported.ids(exported.schema.table(given_rows)), expected)
    expect_same(exported.ids(arrow(frame)), expected)
    expect_scores(exported.score(arrow(frame)), given_rows)


def expect_scores(scores: np.ndarray, given_rows: list[dict[str, Any]]) -> None:
    """The interaction multiplies the price's token by the image's: their product may be too large for float32."""
    moderate = [
        all(number is None or abs(number) < 1e15 for number in (row["price"], *(row["image"] or ())))
        for row in given_rows
    ]
    assert np.isfinite(scores[moderate]).all()


# Many rows in few files: a file costs a quarter of a second.
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(given_rows=st.lists(rows(), min_size=16, max_size=32))
def test_random_rows_have_the_ids_that_training_would_give_them(
    run: TrainedRun, exported: Exported, tmp_path: Path, given_rows: list[dict[str, Any]]
) -> None:
    expect_the_ids_of_training(run, exported, tmp_path / "rows.parquet", given_rows)


@pytest.mark.long
@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(given_rows=st.lists(rows(), min_size=1, max_size=24))
def test_many_random_rows_have_the_ids_that_training_would_give_them(
    run: TrainedRun, exported: Exported, tmp_path: Path, given_rows: list[dict[str, Any]]
) -> None:
    expect_the_ids_of_training(run, exported, tmp_path / "rows.parquet", given_rows)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(given_rows=st.lists(rows(), min_size=2, max_size=8))
def test_a_row_is_scored_the_same_alone(exported: Exported, given_rows: list[dict[str, Any]]) -> None:
    expect_the_same_alone(exported, given_rows)


def expect_the_same_alone(exported: Exported, given_rows: list[dict[str, Any]]) -> list[float]:
    together = exported.score(exported.schema.table(given_rows))
    alone = [float(exported.score(exported.schema.table([row]))[0]) for row in given_rows]
    np.testing.assert_allclose(together, alone, atol=1e-6, rtol=0, equal_nan=True)
    expect_scores(together, given_rows)
    return alone


def test_numbers_whose_products_are_too_large_change_no_other_row(exported: Exported) -> None:
    row = {**dict.fromkeys(SCHEMA), "past": [], "past_action": []}
    del row["label"]
    large = [row | {"price": price, "image": [3e38, each, 3e38]} for price in (1e30, -1e30) for each in (3e38, -3e38)]
    alone = expect_the_same_alone(exported, [row, *large, row])
    assert np.isfinite(alone).tolist() == [True, *[False] * len(large), True]


def test_other_arrow_types_of_the_same_values_give_the_same_ids(exported: Exported) -> None:
    frame = raw_rows(30)
    other = frame.with_columns(
        pl.col("colour").cast(pl.Categorical),
        pl.col("shop").cast(pl.Float64),
        pl.col("age").cast(pl.Int8),
        pl.col("seen").cast(pl.List(pl.Float32)),
        pl.col("image").list.to_array(3),
        pl.col("when").cast(pl.UInt64),
    )
    expect_same(exported.ids(other.to_arrow()), exported.ids(frame.to_arrow()))
    nothing = arrow(frame[:2].with_columns(pl.lit(None).alias(name) for name in frame.columns))
    assert nothing.schema.field("shop").type == pa.null()
    typed = frame[:2].with_columns(pl.lit(None, dtype=dtype).alias(name) for name, dtype in frame.schema.items())
    expect_same(exported.ids(nothing), exported.ids(arrow(typed)))


# -- bad rows ---------------------------------------------------------------------------------------------------------


def test_the_schema_lists_raw_columns_with_their_types(exported: Exported) -> None:
    found = {column.name: (column.kind, column.values) for column in exported.schema.columns}
    assert found == {
        "colour": ("string", "text"),
        "shop": ("number", "integer"),
        "title": ("string", "text"),
        "age": ("number", "integer"),
        "tags": ("list", "text"),
        "seen": ("list", "integer"),
        "when": ("number", "integer"),
        "price": ("number", "decimal"),
        "image": ("list", "decimal"),
        "item": ("string", "text"),
        "past": ("list", "text"),
        "past_action": ("list", "text"),
        "user": ("string", "text"),
    }
    assert exported.schema.label == "label"


@pytest.mark.parametrize(
    ("column", "value", "problem"),
    [
        ("colour", 1.5, "found 1.5, expected text"),
        ("colour", True, "found True, expected text"),
        ("colour", "\ud800", "found half of a UTF-16 pair, expected text"),
        ("shop", 1.5, "found 1.5, expected an integer"),
        ("shop", "7", "found '7', expected an integer"),
        ("shop", 2**63, "found 9223372036854775808, expected an integer"),
        ("shop", math.inf, "found inf, expected an integer"),
        ("price", "x", "found 'x', expected a number"),
        ("price", 10**400, "found 1000000000"),
        ("tags", "red", "found 'red', expected a list"),
        ("seen", [1, 2.5], "found 2.5, expected an integer"),
        ("image", [["x"]], r"found \['x'\], expected a number"),
    ],
)
def test_a_bad_value_in_json_is_named(exported: Exported, column: str, value: Any, problem: str) -> None:
    good = raw_rows(3).drop("label").to_dicts()
    with pytest.raises(RowError, match=rf"row 1, column {column}: {problem}") as found:
        exported.schema.table([good[0], good[1] | {column: value}, good[2]])
    assert (found.value.row, found.value.column) == (1, column)


def test_a_record_without_a_column_is_named(exported: Exported) -> None:
    good = raw_rows(2).drop("label").to_dicts()
    wrong = {("colours" if key == "colour" else key): value for key, value in good[1].items()}
    with pytest.raises(RowError, match=r"row 1, column colour: is missing, did you mean 'colours'\?"):
        exported.schema.table([good[0], wrong])
    with pytest.raises(RowError, match="row 0: found list, expected an object"):
        exported.schema.table([[1]])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("column", "values", "row", "problem"),
    [
        ("age", pa.array([1.0, 2.0, 2.5]), 2, "found 2.5, expected an integer"),
        ("age", pa.array(["a", None, None]), 0, "found 'a', expected an integer"),
        ("price", pa.array([None, "a", "b"]), 1, "found 'a', expected a number"),
        ("colour", pa.array([None, 1.0, 2.0]), 1, "found 1.0, expected text"),
        ("colour", pa.array([None, None, b"x"]), 2, "found b'x', expected text"),
        ("seen", pa.array([[1.0], None, [2.0, 2.5]]), 2, "found 2.5, expected an integer"),
        ("tags", pa.array([None, 3, 4]), 1, "found 3, expected a list"),
        ("shop", pa.array([1, 2, 2**64 - 1], type=pa.uint64()), 2, "found 18446744073709551615, expected an integer"),
        ("age", pa.array([{"a": 1}, None, None]), 0, "found {'a': 1}, expected an integer"),
    ],
)
def test_a_bad_value_in_arrow_is_named(
    exported: Exported, column: str, values: pa.Array, row: int, problem: str
) -> None:
    good = arrow(raw_rows(3))
    with pytest.raises(RowError, match=f"row {row}, column {column}: {problem}") as found:
        exported.score(good.set_column(good.column_names.index(column), column, values))
    assert (found.value.row, found.value.column) == (row, column)


def test_a_missing_and_a_damaged_column_are_named(exported: Exported) -> None:
    good = arrow(raw_rows(3))
    with pytest.raises(RowError, match=r"column shop: is missing.* expected once, with null for what is missing"):
        exported.score(good.drop_columns(["shop"]))
    with pytest.raises(RowError, match="column shop: is there twice"):
        exported.score(good.append_column("shop", good.column("shop")))
    damaged = pa.StringArray.from_buffers(3, pa.py_buffer(np.array([0, 1, 2, 3], np.int32)), pa.py_buffer(b"a\xffb"))
    with pytest.raises(RowError, match="column colour: cannot be read"):
        exported.score(good.set_column(good.column_names.index("colour"), "colour", damaged))


def test_a_row_that_would_see_its_future_is_named(exported: Exported) -> None:
    frame = raw_rows(40).with_columns(pl.lit("nobody").alias("user"))
    frame[23, "user"] = "u1"
    frame[23, "when"] = FIRST_TIME - 1000
    with pytest.raises(RowError, match=r"row 23: .*would see their future") as found:
        exported.score(arrow(frame))
    assert (found.value.row, found.value.column) == (23, None)


def test_no_rows_have_no_scores(exported: Exported) -> None:
    assert exported.score(arrow(raw_rows(3))[:0]).shape == (0,)
    assert exported.schema.table([]).num_rows == 0


def test_words_of_the_files_for_missing_are_missing() -> None:
    schema = RawSchema(columns=(RawColumn(name="a", kind="string", values="text"),), label="y", nulls=("NA",))
    assert schema.frame(pa.table({"a": ["NA", "N", None]}))["a"].to_list() == [None, "N", None]
    assert RawSchema.of(schema.as_dict()) == schema


def test_knowledge_may_come_from_elsewhere(exported: Exported, tmp_path: Path) -> None:
    """Another store that answers the same gives the same scores; one that says something else is refused."""
    (inside,) = (exported.directory / "knowledge").iterdir()
    rows = arrow(raw_rows(20))
    found = Exported.open(exported.directory, stores={"lum": KnowledgeStore.open(inside)})
    assert (found.score(rows) == exported.score(rows)).all()
    write_store(tmp_path, seed=3)
    with pytest.raises(DataError, match="is another knowledge store than the rows were prepared with"):
        Exported.open(exported.directory, stores={"lum": KnowledgeStore.open(tmp_path / "store")})


def test_the_types_of_the_training_rows_matter(exported: Exported) -> None:
    """What the schema is for: the same numbers as decimals would be other categories."""
    columns = [replace(c, values="decimal") if c.name == "shop" else c for c in exported.schema.columns]
    skewed = replace(exported.schema, columns=tuple(columns))
    rows = arrow(raw_rows(20))
    ids = [exported._batch(exported._encoded(schema.frame(rows))) for schema in (exported.schema, skewed)]
    found = [batch.sparse_features["shop"].values() for batch in ids]
    assert not torch.equal(found[0], found[1])
    assert (found[1] == 0).all()
