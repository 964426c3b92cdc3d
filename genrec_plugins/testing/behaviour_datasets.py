"""Checks of datasets of users' events: what a dataset whose record has the capability ``events`` promises besides."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any, cast

import polars as pl
from polars.testing import assert_frame_equal

from genrec_plugins.testing.errors import ConformanceError
from genrec_registry.contracts import BehaviourDataset, Dataset, ErrorPolicy


def check_events(dataset: BehaviourDataset) -> None:
    """The events have the promised columns and types, no gaps, and stand in the promised order.

    Raises:
        ConformanceError: they do not.
    """
    events = dataset.events()
    strings = ("user", "item", *dataset.conditions)
    wanted: dict[str, Any] = {**dict.fromkeys(strings, pl.String), "time": pl.Int64, "label": pl.Int8}
    for name, dtype in wanted.items():
        if name not in events.columns:
            raise ConformanceError(f"events() has no column '{name}', expected {', '.join(wanted)}; add it")
        if events.schema[name] != dtype:
            raise ConformanceError(f"events() has '{name}' as {events.schema[name]}, expected {dtype}; cast it")
        if events[name].null_count():
            raise ConformanceError(f"events() has nulls in '{name}'; report such rows to the policy")
    further = set(events.columns) - set(wanted) - {"split"}
    if further:
        raise ConformanceError(f"events() has the column '{min(further)}', which is no condition; name it or drop it")
    if events.is_empty():
        raise ConformanceError("events() is empty; raise DataError for an input without events")
    if not events["label"].is_in([0, 1]).all():
        raise ConformanceError("events() has labels beside 0 and 1")
    if not events.select("user", "time").equals(events.select("user", "time").sort("user", "time")):
        raise ConformanceError("events() are not sorted by user, then time; sort them, ties in file order")
    try:
        assert_frame_equal(events, dataset.events(ErrorPolicy(on_error="skip")))
    except AssertionError as error:
        raise ConformanceError(f"two calls of events() differ: {error}; read in a fixed order") from error


def check_items(dataset: BehaviourDataset) -> None:
    """The items' content has the promised columns, one row an item.

    Raises:
        ConformanceError: it has not.
    """
    items = dataset.items()
    wanted: dict[str, Any] = {"item": pl.String, "text": pl.String, "categories": pl.List(pl.String)}
    for name in (*wanted, *items.columns):
        if name not in items.columns:
            raise ConformanceError(f"items() has no column '{name}'; add it, empty where nothing is known")
        dtype = wanted.get(name, pl.String)
        if items.schema[name] != dtype:
            raise ConformanceError(f"items() has '{name}' as {items.schema[name]}, expected {dtype}; cast it")
        if name in wanted and items[name].null_count():
            raise ConformanceError(f"items() has nulls in '{name}'; give an empty text or list instead")
    if items["item"].n_unique() != items.height:
        raise ConformanceError("items() has an item twice; give each one row")


def check_rows_of_events(dataset: BehaviourDataset) -> None:
    """The rows of ``scan`` are the events, each with the history strictly before it; further rows are negatives.

    Compared with a plain reading of the rule, event by event: a history is a tail of what the user did at earlier
    times (all of it, or what has label 1), its items and conditions side by side, and is not empty where there is
    something to list.

    Raises:
        ConformanceError: a row is missing, out of order, or sees what it must not.
    """
    for name in ("user", "item", "time", "history_item", *(f"history_{name}" for name in dataset.conditions)):
        if name not in dataset.columns:
            raise ConformanceError(f"columns has no '{name}'; give it in scan(), and declare it")
    events = dataset.events()
    by_user: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for event in events.iter_rows(named=True):
        by_user[event["user"]].append(event)
    wanted = Counter(events.select("user", "item", "time", "label").iter_rows())
    for source in dataset.sources():
        last: int | None = None
        for chunk in dataset.scan(source, ErrorPolicy()):
            for row in chunk.iter_rows(named=True):
                if last is not None and row["time"] < last:
                    raise ConformanceError(f"scan() gives time {row['time']} after {last}; give rows in time order")
                last = row["time"]
                key = (row["user"], row["item"], row["time"], row[dataset.label])
                if wanted[key]:
                    wanted[key] -= 1
                elif row[dataset.label]:
                    raise ConformanceError(f"scan() gives a row with label 1 that is no event: {key}")
                _check_history(row, by_user[row["user"]], dataset.conditions)
    missing = next(iter(wanted.elements()), None)
    if missing is not None:
        raise ConformanceError(f"scan() gives no row for the event (user, item, time, label) {missing}")


def _check_history(row: dict[str, Any], events: list[dict[str, Any]], conditions: tuple[str, ...]) -> None:
    names = ("item", *conditions)
    columns = [row[f"history_{name}"] for name in names]
    where = f"user '{row['user']}' at time {row['time']}"
    if len({len(column) for column in columns}) != 1:
        raise ConformanceError(f"the history lists of {where} are not equally long")
    listed = list(zip(*columns, strict=True))
    earlier = [event for event in events if event["time"] < row["time"]]
    for kept in (earlier, [event for event in earlier if event["label"] == 1]):
        tail = [tuple(event[name] for name in names) for event in kept][-len(listed) :] if listed else []
        if tail == listed and (listed or not kept):
            return
    raise ConformanceError(
        f"the history of {where} is {listed[-5:]}, expected the last of its user's events before that time; leave out "
        "the row's own event and those at the same time"
    )


class BehaviourChecks:
    """The checks as pytest tests, for a suite that has the fixture ``dataset``."""

    def test_events(self, dataset: Dataset) -> None:
        """Columns, types and order of ``events()``."""
        check_events(cast(BehaviourDataset, dataset))

    def test_items(self, dataset: Dataset) -> None:
        """Columns and types of ``items()``."""
        check_items(cast(BehaviourDataset, dataset))

    def test_rows_of_events(self, dataset: Dataset) -> None:
        """Rows are events with the history strictly before them."""
        check_rows_of_events(cast(BehaviourDataset, dataset))
