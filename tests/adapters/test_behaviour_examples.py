"""CTR rows of events: against a plain reading of the rule, and against changes of what comes later."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec_adapters.behaviour.events import EventTable
from genrec_adapters.behaviour.examples import examples
from genrec_adapters.behaviour.negatives import with_negatives
from genrec_registry import DataError

# user, item, time, action: few of each, so that ties and repeats are common
EVENT = st.tuples(st.sampled_from("uvw"), st.sampled_from("abcde"), st.integers(0, 6), st.sampled_from(["buy", "view"]))
EVENTS = st.lists(EVENT, min_size=1, max_size=25)
Event = tuple[str, str, int, str]


def table_of(events: Sequence[Event], cut: int = 0) -> EventTable:
    """The table of events, in one chunk or in two."""
    frame = pl.DataFrame(events, schema=["user", "item", "time", "action"], orient="row")
    frame = frame.with_columns((pl.col("action") == "buy").cast(pl.Int8).alias("label"))
    return EventTable.of([part for part in (frame[:cut], frame[cut:]) if part.height], ["action"])


def rows_of(events: Sequence[Event], **options: Any) -> list[dict[str, Any]]:
    frames = examples(table_of(events), conditions=["action"], **options)
    return pl.concat(frames).rows(named=True)


def plain_rows(events: Sequence[Event], max_history: int, kind: str) -> list[dict[str, Any]]:
    """The rule, event by event."""
    rows = []
    for user, item, time, action in sorted(events, key=lambda event: event[2]):  # stable: ties in file order
        past = sorted((e for e in events if e[0] == user and e[2] < time), key=lambda event: event[2])
        past = [e for e in past if kind == "all" or e[3] == "buy"][-max_history:]
        rows.append(
            {
                "user": user,
                "item": item,
                "time": time,
                "history_item": [e[1] for e in past],
                "history_action": [e[3] for e in past],
                "label": int(action == "buy"),
            }
        )
    return rows


@given(EVENTS, st.integers(1, 6), st.sampled_from(["all", "positive"]), st.integers(1, 30))
def test_rows_are_those_of_the_plain_rule(events, max_history, kind, chunk_rows):
    found = rows_of(events, max_history=max_history, kind=kind, chunk_rows=chunk_rows)
    assert found == plain_rows(events, max_history, kind)


@given(EVENTS, st.integers(0, 7), st.randoms(use_true_random=False), st.data())
def test_later_events_do_not_change_a_row(events, now, shuffler, data):
    """What comes at or after ``now`` may be lost, reordered or replaced: rows up to ``now`` stay as they are."""
    before = [event for event in events if event[2] < now]
    later = [event for event in events if event[2] >= now]
    shuffler.shuffle(later)
    others = data.draw(st.lists(EVENT.filter(lambda event: event[2] >= now), max_size=5))
    changed = before + later[: shuffler.randint(0, len(later))] + others
    if not changed:
        return
    rows, kept = ([row for row in rows_of(e, max_history=4) if row["time"] < now] for e in (events, changed))
    assert rows == kept
    # A row at ``now`` itself does not see what came with it, either.
    seen = {(r["user"], tuple(r["history_item"])) for r in rows_of(changed, max_history=4) if r["time"] == now}
    plain = plain_rows(events, 4, "all")
    known = {r["user"]: tuple(r["history_item"]) for r in plain if r["time"] == now}
    assert all(history == known[user] for user, history in seen if user in known)


@given(EVENTS, st.integers(0, 25))
def test_chunks_do_not_matter(events, cut):
    whole, halves = table_of(events), table_of(events, cut)
    for name in ("user", "item", "time", "label", "rank"):
        assert getattr(whole, name).tolist() == getattr(halves, name).tolist()
    assert whole.frame(["action"]).equals(halves.frame(["action"]))


def test_side_columns_come_from_the_row_of_the_user_and_item():
    table = table_of([("v", "b", 1, "buy"), ("u", "a", 2, "view")])
    side = pl.DataFrame({"title": [f"title of {item}" for item in table.items]})
    profile = pl.DataFrame({"age": [f"age of {user}" for user in table.users]})
    rows = pl.concat(examples(table, item_side=side, user_side=profile, context=["action"]))
    assert rows.select("user", "age", "item", "title", "action").rows() == [
        ("v", "age of v", "b", "title of b", "buy"),
        ("u", "age of u", "a", "title of a", "view"),
    ]


@given(EVENTS.filter(lambda events: any(event[3] == "buy" for event in events)), st.integers(1, 3), st.integers(0, 5))
def test_negatives_are_items_that_the_user_never_had(events, count, seed):
    # One more item, so that nobody has all.
    table = table_of([*events, ("x", "f", 6, "view")])
    for sampling in ("uniform", "popularity"):
        rows, items, labels = with_negatives(table, table.by_time, count, sampling, seed)
        positive = labels == 1
        assert positive.sum() == (table.label == 1).sum()
        assert len(rows) == len(table) + count * positive.sum()
        assert (np.diff(table.time[rows]) >= 0).all()
        own = {(int(user), int(item)) for user, item in zip(table.user, table.item, strict=True)}
        sampled = np.ones(len(rows), dtype=bool)
        sampled[np.unique(rows, return_index=True)[1]] = False  # the event stands before its negatives
        assert (items[~sampled] == table.item[rows[~sampled]]).all()
        drawn = zip(table.user[rows[sampled]].tolist(), items[sampled].tolist(), strict=True)
        assert not own & set(drawn)
        assert (labels[sampled] == 0).all()
        again = with_negatives(table, table.by_time, count, sampling, seed)
        assert (again[1] == items).all()


def test_popularity_looks_at_earlier_events_only():
    """Item "a" was popular, item "z" will be: before that, it is not drawn."""
    early = [(f"e{index}", "a", index, "view") for index in range(60)]
    asking = [(f"q{index}", "b", 100, "buy") for index in range(60)]
    late = [(f"l{index}", "z", 200, "view") for index in range(500)]
    table = table_of(random.Random(1).sample(early + asking + late, 620))
    rows, items, labels = with_negatives(table, table.by_time, 5, "popularity", seed=3)
    drawn = table.items.gather(items[(table.time[rows] == 100) & (labels == 0)])
    assert set(drawn) == {"a"}
    uniform = with_negatives(table, table.by_time, 5, "uniform", seed=3)[1]
    assert set(table.items.gather(uniform[(table.time[rows] == 100) & (labels == 0)])) == {"a", "z"}


def test_a_user_with_almost_everything_gets_what_is_left_and_one_with_everything_an_error():
    many = [("u", f"i{index:04}", index, "buy") for index in range(2000)]
    table = table_of([*many, ("v", "rest", 0, "view")])
    rows, items, _ = with_negatives(table, table.by_time, 1, seed=1)
    sampled = items[1:][rows[1:] == rows[:-1]]
    assert set(table.items.gather(sampled)) == {"rest"}
    full = table_of(many)
    with pytest.raises(DataError, match="user 'u' has events with every one of 2000 items"):
        with_negatives(full, full.by_time, 1)


def test_there_must_be_events():
    with pytest.raises(DataError, match=r"log\.csv: has no usable event"):
        EventTable.of([], name="log.csv")
