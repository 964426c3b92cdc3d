"""Histories, catalogues, and what each split lets a model see."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec_adapters.behaviour.build import build_histories, published_split
from genrec_adapters.behaviour.histories import Histories
from genrec_adapters.behaviour.splits import EvalSet, leave_one_out, time_split
from genrec_adapters.item_codes import ItemCodes
from genrec_adapters.splits import TimeSplit, sizes
from genrec_registry import ConfigError, DataError, ErrorPolicy


class InMemory:
    """A dataset of events from a frame."""

    conditions = ("action",)

    def __init__(self, events: pl.DataFrame, items: pl.DataFrame | None = None) -> None:
        self._events, self._items = events, items

    def events(self, policy: ErrorPolicy | None = None) -> pl.DataFrame:
        return self._events

    def items(self) -> pl.DataFrame:
        assert self._items is not None
        return self._items


def dataset(**further: pl.DataFrame) -> InMemory:
    rows = [("u", "a", 1, "x", 1), ("u", "b", 2, "y", 0), ("v", "a", 1, "x", 1), ("w", "c", 5, "y", 1)]
    schema = {"user": pl.String, "item": pl.String, "time": pl.Int64, "action": pl.String, "label": pl.Int8}
    return InMemory(pl.DataFrame(rows, schema=schema, orient="row"), **further)


CONTENT = pl.DataFrame(
    {
        "item": ["b", "a", "new"],
        "text": ["", "", ""],
        "categories": [["war", "sea"], [], ["sea"]],
        "year": ["1995", None, "2001"],
    },
    schema_overrides={"categories": pl.List(pl.String)},
)


def test_histories_have_all_events_by_user():
    histories, catalogue, vocabularies = build_histories(dataset())
    assert histories.users == ("u", "v", "w")
    assert histories.offsets.tolist() == [0, 2, 3, 4]
    assert histories.items.tolist() == [1, 2, 1, 3]
    assert histories.conditions["action"].tolist() == [1, 2, 1, 2]
    assert histories.labels.tolist() == [1, 0, 1, 1]
    assert catalogue.items.values == ("", "a", "b", "c")
    assert vocabularies["action"].values == ("", "x", "y")


def test_events_can_be_left_out():
    assert build_histories(dataset(), min_item_count=2)[0].items.tolist() == [1, 1]
    assert build_histories(dataset(), max_users=1)[0].users == ("u",)
    assert build_histories(dataset(), positive_only=True)[0].lengths.tolist() == [1, 1, 1]
    with pytest.raises(DataError, match="no event is left"):
        build_histories(dataset(), min_item_count=9)


def test_side_features_and_codes_stand_in_the_order_of_the_catalogue():
    codes = ItemCodes(items=("a", "new"), codes=np.array([[0, 3], [1, 0]], np.int32), sizes=(2, 4))
    _, catalogue, vocabularies = build_histories(
        dataset(items=CONTENT), side=("year", "first_category", "categories"), codes=codes
    )
    assert catalogue.items.values == ("", "a", "b", "c")
    assert vocabularies["year"].values == ("", "1995")  # only of items in the catalogue
    assert {name: ids.tolist() for name, ids in catalogue.features.items()} == {
        "year": [0, 0, 1, 0],
        "first_category": [0, 0, 1, 0],
        "categories": [0, 0, 1, 0],
        "sid_1": [0, 1, 0, 0],
        "sid_2": [0, 4, 0, 0],
    }
    assert vocabularies["categories"].values == ("", "war|sea")
    assert catalogue.sizes["sid_1"] == 3
    assert catalogue.sizes["sid_2"] == 5


def test_unseen_items_join_the_catalogue_when_asked():
    histories, catalogue, _ = build_histories(dataset(items=CONTENT), unseen_items=True)
    assert catalogue.items.values == ("", "a", "b", "c", "new")
    assert histories.items.max() == 3


def test_an_unknown_side_column_is_told():
    with pytest.raises(ConfigError, match="no one-valued column 'yaer', did you mean 'year'"):
        build_histories(dataset(items=CONTENT), side=["yaer"])


LISTS = st.lists(st.lists(st.integers(0, 9), max_size=8), min_size=1, max_size=6)


def made(times: list[list[int]]) -> Histories:
    """Histories with these times; the item of an event is its row, so that it can be told from all others."""
    lengths = [len(user) for user in times]
    total = sum(lengths)
    return Histories(
        users=tuple(f"u{index}" for index in range(len(times))),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        items=np.arange(total, dtype=np.int32),
        times=np.array([time for user in times for time in sorted(user)], dtype=np.int64),
        labels=np.ones(total, np.int8),
        conditions={"action": np.arange(total, dtype=np.int32) % 5},
    )


def seen_by(questions: EvalSet) -> Mapping[int, list[int]]:
    """Target -> the items that its question may see."""
    rows = questions.histories
    return {
        int(questions.targets[n]): rows.items[rows.offsets[n] : rows.offsets[n + 1]].tolist()
        for n in range(len(questions))
    }


@given(LISTS)
def test_leave_one_out_against_the_plain_rule(times):
    histories = made(times)
    users = [list(range(a, b)) for a, b in zip(histories.offsets, histories.offsets[1:], strict=False)]
    long = [user for user in users if len(user) >= 3]
    if not long:
        with pytest.raises(DataError, match="expected some to leave one out"):
            leave_one_out(histories)
        return
    split = leave_one_out(histories)
    assert seen_by(split.test) == {user[-1]: user[:-1] for user in long}
    assert seen_by(split.valid) == {user[-2]: user[:-2] for user in long}
    train = [event for user in users for event in (user[:-2] if len(user) >= 3 else user)]
    assert split.train.items.tolist() == train
    assert split.train.users == histories.users
    for part in (split.valid, split.test):
        assert part.target_conditions["action"].tolist() == [target % 5 for target in part.targets.tolist()]
        assert [histories.users[user] for user in part.users] == list(part.histories.users)
        assert part.times.tolist() == histories.times[part.targets].tolist()


@given(
    LISTS.filter(lambda times: sum(map(len, times)) >= 3), st.sampled_from([0.1, 0.25, 0.0]), st.sampled_from([None, 2])
)
def test_time_split_against_the_plain_rule(times, share, max_history):
    histories = made(times)
    moments = sorted(time for user in times for time in user)
    train, valid, _ = sizes(TimeSplit(train=1 - 2 * share, valid=share, test=share), len(moments))
    cuts = [moments[index] if index < len(moments) else moments[-1] + 1 for index in (train, train + valid)]
    if not any(time < cuts[0] for time in moments):
        with pytest.raises(DataError, match="expected a clock that tells them apart"):
            time_split(histories, share, share, max_history=max_history)
        return
    split = time_split(histories, share, share, max_history=max_history)
    assert [split.valid_from, split.test_from] == cuts
    assert split.train.items.tolist() == [event for event in histories.items if histories.times[event] < cuts[0]]
    expected: list[dict[int, list[int]]] = [{}, {}]
    for event, (user, time) in enumerate(zip(histories.owners, histories.times, strict=True)):
        past = [e for e in range(event) if histories.owners[e] == user and histories.times[e] < time]
        if time >= cuts[0]:
            expected[int(time >= cuts[1])][event] = past[-max_history:] if max_history else past
    assert [seen_by(split.valid), seen_by(split.test)] == expected
    # What trains here is a training row of a run that splits the same events by time.
    assert len(split.train.items) <= train


def test_shares_of_a_time_split_are_checked():
    with pytest.raises(ConfigError, match="time split"):
        time_split(made([[1, 2, 3]]), valid=0.6, test=0.6)


ROWS = """user_id,history_item_title,item_title,history_item_id,item_id,history_item_sid,item_sid
u,"['A, a', 'B']",C,"[1, 2]",3,x,y
u,"['B', 'C']",D,"[2, 3]",4,x,y
v,['B'],D,[2],4,x,y
"""
TEST = """user_id,history_item_title,item_title,history_item_id,item_id,history_item_sid,item_sid
u,"['C', 'D']",E,"[3, 4]",5,x,y
u,"['D', 'E']",A,"[4, 5]",1,x,y
w,"['A', 'C']",E,"[1, 3]",5,x,y
"""


def test_a_published_split_does_not_train_on_its_targets(tmp_path: Path):
    from genrec_adapters.datasets.amazon_reviews import AmazonReviews
    from genrec_adapters.datasets.behaviour_configs import AmazonReviewsConfig

    (tmp_path / "valid.csv").write_text(ROWS)
    (tmp_path / "test.csv").write_text(TEST)
    files = {"valid": str(tmp_path / "valid.csv"), "test": str(tmp_path / "test.csv")}
    split, histories, catalogue, _ = published_split(AmazonReviews(AmazonReviewsConfig(**files)))
    name = catalogue.items.values
    assert histories.users == ("u", "v", "w")
    lengths = np.cumsum(split.train.lengths)[:-1]
    assert [[name[i] for i in part] for part in np.split(split.train.items, lengths)] == [["1", "2"], ["2"], ["1", "3"]]

    def asked(questions: EvalSet) -> list[tuple[list[str], str]]:
        rows = questions.histories
        return [
            ([name[i] for i in rows.items[rows.offsets[n] : rows.offsets[n + 1]]], name[questions.targets[n]])
            for n in range(len(questions))
        ]

    assert asked(split.valid) == [(["1", "2"], "3"), (["1", "2", "3"], "4"), (["2"], "4")]
    assert asked(split.test) == [
        (["1", "2", "3", "4"], "5"),
        (["1", "2", "3", "4", "5"], "1"),
        (["1", "3"], "5"),
    ]
    cut = published_split(AmazonReviews(AmazonReviewsConfig(**files)), max_history=2)[0]
    # As the published rows have it.
    assert asked(cut.test)[0] == (["3", "4"], "5")
    with pytest.raises(ConfigError, match="its files carry no split"):
        published_split(AmazonReviews(AmazonReviewsConfig(path=files["valid"])))
