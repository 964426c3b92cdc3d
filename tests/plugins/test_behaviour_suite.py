"""The checks of datasets of events, over a sound dataset in memory and over ones that break one rule each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from genrec_plugins.testing import ConformanceError, dataset_suite
from genrec_plugins.testing import behaviour_datasets as checks
from genrec_registry import DatasetRecord, ErrorPolicy, SourceFile

EVENTS = pl.DataFrame(
    [("u", "a", 1, "x", 1), ("u", "b", 2, "y", 0), ("u", "c", 2, "x", 1), ("u", "a", 3, "x", 1), ("v", "b", 2, "x", 1)],
    schema={"user": pl.String, "item": pl.String, "time": pl.Int64, "action": pl.String, "label": pl.Int8},
    orient="row",
)
ITEMS = pl.DataFrame({"item": ["a", "b"], "text": ["A", ""], "categories": [["k"], []], "brand": ["x", None]})
#: rows in time order: user, item, time, items and actions before, label
ROWS = [
    ("u", "a", 1, [], [], 1),
    ("u", "b", 2, ["a"], ["x"], 0),
    ("u", "c", 2, ["a"], ["x"], 1),
    ("v", "b", 2, [], [], 1),
    ("v", "c", 2, [], [], 0),  # a negative
    ("u", "a", 3, ["b", "c"], ["y", "x"], 1),
]


class Sound:
    """A dataset of events that keeps the contract; the ones below break one rule each."""

    label = "y"
    conditions: tuple[str, ...] = ("action",)
    columns: Mapping[str, Any] = {
        "user": "string", "item": "string", "time": "number", "history_item": "list", "history_action": "list",
    }  # fmt: skip

    def __init__(self, config: Any = None) -> None:
        pass

    def sources(self) -> Sequence[SourceFile]:
        return [SourceFile(path=__file__)]

    def default_fields(self) -> Mapping[str, Any]:
        return {"item": {"type": "categorical"}}

    def rows(self) -> list[tuple[Any, ...]]:
        return list(ROWS)

    def scan(self, source: SourceFile, policy: ErrorPolicy) -> Iterator[pl.DataFrame]:
        text, lists = pl.String, pl.List(pl.String)
        schema = {"user": text, "item": text, "time": pl.Int64, "history_item": lists, "history_action": lists}
        yield pl.DataFrame(self.rows(), schema={**schema, "y": pl.Int8}, orient="row")

    def events(self, policy: ErrorPolicy | None = None) -> pl.DataFrame:
        return EVENTS

    def items(self) -> pl.DataFrame:
        return ITEMS


def events_are(frame: pl.DataFrame) -> Sound:
    dataset = Sound()
    dataset.events = lambda policy=None: frame  # type: ignore[method-assign]
    return dataset


def items_are(frame: pl.DataFrame) -> Sound:
    dataset = Sound()
    dataset.items = lambda: frame  # type: ignore[method-assign]
    return dataset


def rows_are(change: Callable[[list[tuple[Any, ...]]], list[tuple[Any, ...]]]) -> Sound:
    dataset = Sound()
    dataset.rows = lambda: change(list(ROWS))  # type: ignore[method-assign]
    return dataset


def with_row(index: int, row: tuple[Any, ...]) -> Sound:
    return rows_are(lambda rows: [*rows[:index], row, *rows[index + 1 :]])


class Undeclared(Sound):
    columns: Mapping[str, Any] = {"user": "string", "item": "string", "time": "number", "history_item": "list"}


class Restless(Sound):
    turn = 0

    def events(self, policy: ErrorPolicy | None = None) -> pl.DataFrame:
        self.turn += 1
        return EVENTS.with_columns(pl.lit(f"x{self.turn}").alias("action"))


def test_a_sound_dataset_passes():
    for check in (checks.check_events, checks.check_items, checks.check_rows_of_events):
        check(Sound())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("broken", "check", "problem"),
    [
        (events_are(EVENTS.drop("action")), checks.check_events, "no column 'action'"),
        (events_are(EVENTS.with_columns(pl.col("time") * 1.0)), checks.check_events, "'time' as Float64"),
        (
            events_are(EVENTS.with_columns(pl.lit(None, pl.String).alias("item"))),
            checks.check_events,
            "nulls in 'item'",
        ),
        (
            events_are(EVENTS.with_columns(pl.lit("1").alias("age"))),
            checks.check_events,
            "'age', which is no condition",
        ),
        (events_are(EVENTS.head(0)), checks.check_events, "is empty"),
        (events_are(EVENTS.with_columns(pl.lit(2, pl.Int8).alias("label"))), checks.check_events, "beside 0 and 1"),
        (events_are(EVENTS.reverse()), checks.check_events, "not sorted"),
        (Restless(), checks.check_events, "two calls of events"),
        (items_are(ITEMS.drop("text")), checks.check_items, "no column 'text'"),
        (items_are(ITEMS.with_columns(pl.lit(1).alias("price"))), checks.check_items, "'price' as Int32"),
        (items_are(ITEMS.with_columns(pl.lit(None, pl.String).alias("text"))), checks.check_items, "nulls in 'text'"),
        (items_are(pl.concat([ITEMS, ITEMS])), checks.check_items, "an item twice"),
        (Undeclared(), checks.check_rows_of_events, "columns has no 'history_action'"),
        (rows_are(lambda rows: rows[:-1]), checks.check_rows_of_events, "no row for the event"),
        (rows_are(lambda rows: rows[::-1]), checks.check_rows_of_events, "in time order"),
        (rows_are(lambda rows: [*rows, rows[-1]]), checks.check_rows_of_events, "label 1 that is no event"),
        # sees its own event, an event of the same time, a later one; lacks what it should list; other order
        (with_row(0, ("u", "a", 1, ["a"], ["x"], 1)), checks.check_rows_of_events, "expected the last of its user"),
        (with_row(2, ("u", "c", 2, ["a", "b"], ["x", "y"], 1)), checks.check_rows_of_events, "the history of user 'u'"),
        (with_row(3, ("v", "b", 2, ["a"], ["x"], 1)), checks.check_rows_of_events, "the history of user 'v'"),
        (with_row(1, ("u", "b", 2, [], [], 0)), checks.check_rows_of_events, "the history of user 'u' at time 2"),
        (with_row(5, ("u", "a", 3, ["c", "b"], ["x", "y"], 1)), checks.check_rows_of_events, "at time 3"),
        (with_row(5, ("u", "a", 3, ["b", "c"], ["x"], 1)), checks.check_rows_of_events, "not equally long"),
    ],
)
def test_a_broken_dataset_fails(broken, check, problem):
    with pytest.raises(ConformanceError, match=problem):
        check(broken)


def test_a_history_of_positive_events_passes():
    positive = with_row(5, ("u", "a", 3, ["a", "c"], ["x", "x"], 1))
    checks.check_rows_of_events(positive)  # type: ignore[arg-type]


def _lists(folder: Path) -> dict[str, Any]:
    (folder / "inter.json").write_text('{"u": [4, 2, 7, 2], "v": [2, 5], "w": [1, 2, 3]}')
    return {"path": str(folder / "inter.json"), "leave_one_out": True, "negatives": 2, "max_history": 2}


def _targets(folder: Path) -> dict[str, Any]:
    header = "user_id,history_item_id,item_id\n"
    (folder / "valid.csv").write_text(header + 'u,"[4, 2]",7\nv,[1],2\n')
    (folder / "test.csv").write_text(header + 'u,"[4, 2, 7]",1\nw,[3],2\n')
    return {"valid": str(folder / "valid.csv"), "test": str(folder / "test.csv"), "negatives": 1}


TestLeaveOneOut = dataset_suite("amazon-reviews", _lists)
TestPublishedSplit = dataset_suite("amazon-reviews", _targets)


def test_the_suite_asks_more_of_records_with_events():
    def record(*capabilities: str) -> DatasetRecord:
        return DatasetRecord(name="mine", config=dict, factory=Sound, summary="", capabilities=frozenset(capabilities))

    assert hasattr(dataset_suite(record("events"), {}), "test_rows_of_events")
    assert not hasattr(dataset_suite(record(), {}), "test_rows_of_events")
