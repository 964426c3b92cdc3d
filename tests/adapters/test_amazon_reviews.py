"""Amazon reviews in each of their forms, and the real Beauty and Office Products."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from genrec_adapters.behaviour.build import build_histories, published_split
from genrec_adapters.behaviour.splits import leave_one_out
from genrec_adapters.datasets.amazon_reviews import AmazonReviews
from genrec_adapters.datasets.behaviour_configs import AmazonReviewsConfig
from genrec_adapters.item_codes import ItemCodes
from genrec_registry import ConfigError, DataError, ErrorPolicy, parse_component
from genrec_registry.contracts import SPLITS
from genrec_registry.manager import default_registry

OLD = [
    {"reviewerID": "A1", "asin": "B1", "helpful": [0, 0], "overall": 5.0, "unixReviewTime": 1252800000},
    {"overall": 2, "reviewerID": "A1", "asin": "B2", "unixReviewTime": 1252000000, "style": {"Size:": "L"}},
]
NEW = [
    {
        "rating": 5.0,
        "title": "t",
        "images": [],
        "asin": "C1",
        "parent_asin": "B1",
        "user_id": "A1",
        "timestamp": 1252800000123,
    },
    {"rating": 2.0, "asin": "B2", "parent_asin": "B2", "user_id": "A1", "timestamp": 1252000000000},
]
EVENTS = [("A1", "B2", 1252000000, "dislike", 0), ("A1", "B1", 1252800000, "like", 1)]


def lines(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def review(**values: Any) -> bytes:
    return lines([{"reviewerID": "A", "asin": "B", "overall": 5, "unixReviewTime": 1, **values}])


def reviews(**options: Any) -> AmazonReviews:
    return AmazonReviews(AmazonReviewsConfig(**options))


@pytest.mark.parametrize("name", ["old", "image-first", "new", "csv", "gzipped"])
def test_reviews_of_every_year_give_the_same_events(name, tmp_path):
    path = tmp_path / "reviews.json"
    first = {"image": ["http://x"], **OLD[0]}
    text = b"user_id,parent_asin,rating,timestamp\nA1,B1,5.0,1252800000123\nA1,B2,2.0,1252000000000\n"
    content = {"old": lines(OLD), "image-first": lines([first, OLD[1]]), "new": lines(NEW), "csv": text}
    path.write_bytes(gzip.compress(lines(OLD)) if name == "gzipped" else content[name])
    dataset = reviews(path=str(path))
    assert dataset.events().rows() == EVENTS
    assert dataset.conditions == ("action",)
    assert reviews(path=str(path), like_at=2).events()["label"].to_list() == [1, 1]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"{bad\n", r"row 3, column \(whole line\): is not JSON"),
        (b"\n", r"row 3, column \(whole line\): is not JSON"),
        (b"[1]\n", r"row 3, column \(whole line\): holds a JSON list"),
        (review(overall="good"), "row 3, column overall: found 'good', expected a number"),
        (review(overall=True), "column overall: found True"),
        (review(unixReviewTime=1.5), "column unixReviewTime: found 1.5, expected an integer"),
        (b'{"reviewerID": "A", "overall": 5, "unixReviewTime": 1}\n', "column asin: found nothing, expected a text"),
        (b'{"user_id": "", "asin": "B", "rating": 5, "timestamp": 1}\n', "column user_id: found '', expected a text"),
    ],
)
def test_a_bad_review_is_told_or_left_out(line, problem, tmp_path):
    path = tmp_path / "reviews.json"
    path.write_bytes(lines(OLD) + line + lines(OLD[:1]))
    with pytest.raises(DataError, match=f"reviews.json, {problem}" if problem.startswith("row") else problem):
        reviews(path=str(path)).events()
    policy = ErrorPolicy(on_error="skip")
    assert reviews(path=str(path)).events(policy).height == 3
    assert policy.skipped == 1


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"a;b\n1;2\n", "expected a JSON object user -> items, reviews as JSON lines, or a CSV"),
        (b'{"u": [1, 2], \n', "is not JSON"),
        (b'{"u": 3}\n', r"row 1, column reviewerID: found nothing"),
        (b'{"u": [[1]]}\n', "row 1, column u: found '\\[\\[1\\]\\]', expected a list of items"),
        (b'{"u": []}\n', "has no usable event"),
    ],
)
def test_files_of_something_else(content, problem, tmp_path):
    path = tmp_path / "f.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=problem):
        reviews(path=str(path)).events()


def test_lists_take_their_places_as_time_and_have_no_condition(tmp_path):
    path = tmp_path / "inter.json"
    path.write_text(json.dumps({"10": [3, 1, 3], "9": ["x"]}, indent=1))
    dataset = reviews(path=str(path), negatives=2, max_history=2)
    assert dataset.events().rows() == [("10", "3", 0, 1), ("10", "1", 1, 1), ("10", "3", 2, 1), ("9", "x", 0, 1)]
    assert dataset.conditions == ()
    rows = pl.concat(dataset.scan(dataset.sources()[0], ErrorPolicy()))
    assert rows["label"].to_list() == [1, 0, 0] * 4
    mine = rows.filter(pl.col("user") == "10")
    assert mine["item"].to_list() == ["3", "x", "x", "1", "x", "x", "3", "x", "x"]
    assert mine["history_item"].to_list() == [[]] * 3 + [["3"]] * 3 + [["3", "1"]] * 3


def test_leave_one_out_binds_rows_to_splits(tmp_path):
    path = tmp_path / "inter.json"
    path.write_text(json.dumps({"u": [3, 1, 4, 5], "v": [9, 8]}))
    dataset = reviews(path=str(path), leave_one_out=True)
    assert [source.split for source in dataset.sources()] == list(SPLITS)
    found = {
        source.split: pl.concat(dataset.scan(source, ErrorPolicy())).select("user", "item", "history_item").rows()
        for source in dataset.sources()
    }
    assert sorted(found["train"]) == [("u", "1", ["3"]), ("u", "3", []), ("v", "8", ["9"]), ("v", "9", [])]
    assert found["valid"] == [("u", "4", ["3", "1"])]
    assert found["test"] == [("u", "5", ["3", "1", "4"])]
    histories, catalogue, _ = build_histories(dataset)
    split = leave_one_out(histories)
    assert [catalogue.items.values[item] for item in split.test.targets] == ["5"]


META_2014 = (  # Python, not JSON
    "{'asin': 'B1', 'title': \"L'eau\", 'price': 12.5, 'categories': [['Beauty', 'Skin'], ['Beauty', 'Sun']], "
    "'brand': 'X'}\n"
)
META_2018 = {
    "asin": "B2",
    "title": "Soap &amp; more",
    "category": ["Beauty", "Soap"],
    "brand": "Y",
    "price": "$1,012.99",
    "description": ["Very <b>soft</b>.", ""],
}
META_2023 = {
    "parent_asin": "B3",
    "title": "T",
    "categories": [],
    "store": "Z",
    "price": None,
    "main_category": "All Beauty",
}


def test_items_of_every_year(tmp_path):
    (tmp_path / "inter.json").write_text('{"u": ["B1", "B2", "B3", "B4"]}')
    (tmp_path / "meta.json").write_bytes(META_2014.encode() + lines([META_2018, META_2023, META_2018]))
    dataset = reviews(path=str(tmp_path / "inter.json"), meta=str(tmp_path / "meta.json"))
    assert dataset.items().rows() == [
        ("B1", "L'eau", ["Beauty", "Skin", "Sun"], "L'eau", "X", "12.5", ""),
        ("B2", "Soap & more. Very soft .", ["Beauty", "Soap"], "Soap & more", "Y", "1012.99", "Very soft ."),
        ("B3", "T", ["All Beauty"], "T", "Z", None, ""),
    ]
    rows = pl.concat(dataset.scan(dataset.sources()[0], ErrorPolicy()))
    assert rows.select("item", "brand", "price", "categories").rows() == [
        ("B1", "X", 12.5, ["Beauty", "Skin", "Sun"]),
        ("B2", "Y", 1012.99, ["Beauty", "Soap"]),
        ("B3", "Z", None, ["All Beauty"]),
        ("B4", None, None, []),
    ]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (lines([META_2018]) + b"{broken\n", r"meta.json, row 2, column \(whole line\): found"),
        (lines([META_2018, {"title": "x"}]), "row 2, column asin: found nothing"),
        (b'{"1": 5}', r"row 1, column \(whole line\): found '5', expected an object"),
        (b"[1, 2]", "holds a JSON list, expected an object, item -> content"),
        (b"{", "is not JSON"),
    ],
)
def test_bad_items_are_told(content, problem, tmp_path):
    (tmp_path / "inter.json").write_text('{"u": ["B1"]}')
    (tmp_path / "meta.json").write_bytes(content)
    with pytest.raises(DataError, match=problem):
        reviews(path=str(tmp_path / "inter.json"), meta=str(tmp_path / "meta.json")).items()


HEADER = "user_id,history_item_title,item_title,history_item_id,item_id,history_item_sid,item_sid\n"


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ('u,"[\'a\']",b,7,8,x,y\n', "valid.csv, row 2, column history_item_id: found '7', expected a list of items"),
        ("u,\"['a']\",b,[],8,x,y\n", "row 2, column history_item_id: found '\\[\\]', expected a list"),
        ("u,\"['a']\",b,[5],8,x,y\n", r"found \['5'\], expected the end of this user's items so far \(..., 1, 2, 3\)"),
        ("u,\"['a']\",b,[3],,x,y\n", "row 2, column item_id: found an empty value"),
    ],
)  # fmt: skip
def test_rows_of_targets_must_go_together(row, problem, tmp_path):
    (tmp_path / "valid.csv").write_text(HEADER + "u,\"['a, a', 'b']\",c,\"[1, 2]\",3,x,y\n" + row)
    (tmp_path / "test.csv").write_text(HEADER + "u,['c'],d,[3],4,x,y\n")
    files = {"valid": str(tmp_path / "valid.csv"), "test": str(tmp_path / "test.csv")}
    with pytest.raises(DataError, match=problem):
        reviews(**files).events()
    policy = ErrorPolicy(on_error="skip")
    assert reviews(**files).events(policy)["item"].to_list() == ["1", "2", "3", "4"]
    assert policy.skipped == 1


def test_the_training_rows_join_where_they_are_given(tmp_path):
    for name, row in (
        ("train", "u,x,x,[1],2,x,y\n"),
        ("valid", 'u,x,x,"[1, 2]",3,x,y\n'),
        ("test", "v,x,x,[9],3,x,y\n"),
    ):
        (tmp_path / f"{name}.csv").write_text(HEADER + row)
    dataset = reviews(**{name: str(tmp_path / f"{name}.csv") for name in SPLITS})
    assert dataset.events().select("user", "item", "split").rows() == [
        ("u", "1", "train"), ("u", "2", "train"), ("u", "3", "valid"), ("v", "9", "train"), ("v", "3", "test"),
    ]  # fmt: skip
    assert [source.split for source in dataset.sources()] == ["train", "valid", "test", "train", "train"]
    rows = {
        source.split: pl.concat(dataset.scan(source, ErrorPolicy()))["item"].to_list()
        for source in dataset.sources()[:3]
    }
    assert rows == {"train": ["1", "9", "2"], "valid": ["3"], "test": ["3"]}


def test_configs_are_checked(tmp_path):
    registry = default_registry()
    for options in ({}, {"valid": "x"}, {"path": "x", "test": "y"}):
        with pytest.raises(ConfigError, match=r"expected (the events to read|one of the two)"):
            parse_component(registry, "dataset", {"type": "amazon-reviews", **options})
    (tmp_path / "inter.json").write_text('{"u": [1]}')
    (tmp_path / "rows.csv").write_text(HEADER)
    with pytest.raises(ConfigError, match="only MiniOneRec's CSVs carry a split"):
        reviews(valid=str(tmp_path / "inter.json"), test=str(tmp_path / "inter.json")).events()
    with pytest.raises(DataError, match="give files of one form"):
        reviews(path=[str(tmp_path / "inter.json"), str(tmp_path / "rows.csv")]).events()
    with pytest.raises(ConfigError, match="carry a split already"):
        reviews(valid=str(tmp_path / "rows.csv"), test=str(tmp_path / "rows.csv"), leave_one_out=True).sources()


def test_the_real_beauty(amazon_data):
    histories, catalogue, _ = build_histories(
        reviews(path=str(amazon_data / "beauty.inter.json.gz")),
        codes=ItemCodes.read(amazon_data / "beauty.index.json.gz"),
    )
    # As TIGER and S3-Rec state the 5-core Beauty set.
    assert (len(histories.users), len(catalogue) - 1, len(histories.items)) == (22_363, 12_101, 198_502)
    assert len(catalogue.features) == 4
    assert all((ids[1:] > 0).all() for ids in catalogue.features.values())
    split = leave_one_out(histories)
    assert len(split.valid) == len(split.test) == 22_363
    assert len(split.train.items) == 198_502 - 2 * 22_363


def test_the_real_office_products(amazon_data: Path):
    files = {split: str(amazon_data / f"office_products.{split}.csv.gz") for split in ("valid", "test")}
    dataset = reviews(**files, meta=str(amazon_data / "office_products.item.json.gz"))
    split, _, catalogue, _ = published_split(dataset, max_history=10, unseen_items=True)
    assert (len(split.valid), len(split.test), len(catalogue) - 1) == (4_866, 4_866, 3_459)
    # Each published row comes back: its history and its target.
    for name, questions in (("valid", split.valid), ("test", split.test)):
        published = pl.read_csv(gzip.decompress(Path(files[name]).read_bytes()))
        history = published["history_item_id"].str.strip_chars("[]").str.split(", ")
        wanted = sorted(
            zip(published["user_id"], map(tuple, history), published["item_id"].cast(pl.String), strict=True)
        )
        offsets = questions.histories.offsets
        values = catalogue.items.values
        found = sorted(
            (
                questions.histories.users[n],
                tuple(values[item] for item in questions.histories.items[offsets[n] : offsets[n + 1]]),
                values[questions.targets[n]],
            )
            for n in range(len(questions))
        )
        assert found == wanted
