"""Damaged input files: a sentence of ours, or every row is used or reported: rows in = rows out + rows reported."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from genrec_adapters.datasets.amazon_formats import Pairs
from genrec_registry import ErrorPolicy, GenrecError, default_registry, parse_component
from tests.reliability.mutations import damaged

SHORT, LONG = 25, 1500
CRITEO = b"".join(
    b"%d\t" % (row % 2) + b"\t".join([b"%d" % (row * 7 % 50)] * 13 + [b"%08x" % (row * 77)] * 26) + b"\n"
    for row in range(4)
)
AVAZU_HEADER = "id,click,hour,C1,banner_pos,site_id,site_domain,site_category,app_id,app_domain,app_category,device_id,"
AVAZU_HEADER += "device_ip,device_model,device_type,device_conn_type,C14,C15,C16,C17,C18,C19,C20,C21"
AVAZU = "\n".join([AVAZU_HEADER, *(f"{row},{row % 2},141021{row:02}" + ",x7" * 21 for row in range(5))]).encode()
CSV = b'y,a,x\n1,b,2.5\n0,"c,d",\n1,,7\n0,"say ""hi""",-1e3\n'
REVIEW = '{{"reviewerID": "u{0}", "asin": "i{1}", "overall": {2}.0, "unixReviewTime": {3}}}\n'
REVIEWS = "".join(REVIEW.format(row % 3, row % 4, row % 5 + 1, 1000 + row) for row in range(6)).encode()
RATINGS = b"user_id,parent_asin,rating,timestamp\nu1,i1,5.0,1000\nu1,i2,2.0,1001\nu2,i1,4.0,1600000000000\n"
TARGETS = b'user_id,history_item_id,item_id\nu,"[4, 2]",7\nu,"[2, 7]",4\nv,"[1]",2\n'
KUAIRAND = (
    b"user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,is_hate,long_view,"
    b"play_time_ms,duration_ms,profile_stay_time,comment_stay_time,is_profile_enter,is_rand,tab\n"
    + b"".join(b"%d,%d,20220408,1200,16494%05d,%d,0,0,0,0,0,1,5,9,0,0,0,0,1\n" % (r % 3, r, r, r % 2) for r in range(5))
)
ATOMIC = b"user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t2\t5\t881250949\n1\t3\t2\t881250950\n"


@dataclass(frozen=True)
class Format:
    """One file format: a sound file, the dataset that reads it, and how many rows a damaged one has."""

    name: str
    sound: bytes
    config: dict[str, Any]
    header: int = 0
    events: bool = False

    def lines(self, data: bytes) -> int:
        """Rows of a file of lines."""
        text = data.removeprefix(b"\xef\xbb\xbf").rstrip(b"\r\n")
        return text.count(b"\n") + 1 - self.header if text else 0


ML_CSV = b"userId,movieId,rating,timestamp\n1,2,3.5,97\n2,2,4.0,98\n"
TAOBAO = b"1,2,3,pv,15115\n1,4,3,buy,15116\n2,2,3,fav,15\n"
FORMATS = {
    "criteo": Format("train.txt", CRITEO, {"type": "criteo-kaggle"}),
    "avazu": Format("train.csv", AVAZU, {"type": "avazu"}, header=1),
    "csv": Format("rows.csv", CSV, {"type": "csv", "label": "y", "numbers": ["x"]}, header=1),
    "taobao": Format("UserBehavior.csv", TAOBAO, {"type": "taobao-userbehavior"}, events=True),
    "kuairand": Format("log_standard_a.csv", KUAIRAND, {"type": "kuairand"}, header=1, events=True),
    "ml-atomic": Format("small.inter", ATOMIC, {"type": "movielens"}, header=1, events=True),
    "ml-dat": Format("ratings.dat", b"1::2::5::97\n1::3::4::98\n2::2::1::99\n", {"type": "movielens"}, events=True),
    "ml-csv": Format("ratings.csv", ML_CSV, {"type": "movielens"}, header=1, events=True),
    "ml-tabs": Format("u.data", b"1\t2\t5\t97\n1\t3\t4\t98\n2\t2\t1\t99\n", {"type": "movielens"}, events=True),
    "reviews": Format("reviews.json", REVIEWS, {"type": "amazon-reviews"}, events=True),
    "ratings": Format("ratings.csv", RATINGS, {"type": "amazon-reviews"}, header=1, events=True),
}


def read(layout: Format, path: Path, policy: ErrorPolicy) -> int:
    """Rows that a dataset gives."""
    registry = default_registry()
    dataset: Any = registry.create("dataset", parse_component(registry, "dataset", layout.config | {"path": str(path)}))
    if layout.events:
        return int(dataset.events(policy).height)
    return sum(frame.height for source in dataset.sources() for frame in dataset.scan(source, policy))


def holds(layout: Format, folder: Path, data: bytes, *, zipped: bool) -> None:
    path = folder / layout.name
    path.write_bytes(gzip.compress(data, 1) if zipped else data)
    policy = ErrorPolicy(on_error="skip")
    try:
        rows = read(layout, path, policy)
    except GenrecError:
        rows = None
    if rows is not None:
        assert rows + policy.skipped == layout.lines(data)
    try:
        assert read(layout, path, ErrorPolicy()) == rows
    except GenrecError:
        assert rows is None or policy.skipped, "nothing was wrong with it before"
    else:
        assert not policy.skipped


def fuzz(examples: int, check: Callable[[st.DataObject], None]) -> None:
    """Run a check on so many examples, the same ones each time; GENREC_FUZZ_SEED draws others."""
    other = os.environ.get("GENREC_FUZZ_SEED")
    options = settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=other is None,
        suppress_health_check=list(HealthCheck),
    )
    test = given(st.data())(options(check))
    (test if other is None else seed(int(other))(test))()


def lines_hold(name: str, folder: Path, examples: int) -> None:
    layout = FORMATS[name]
    holds(layout, folder, layout.sound, zipped=False)

    def check(data: st.DataObject) -> None:
        holds(layout, folder, data.draw(damaged(layout.sound)), zipped=data.draw(st.booleans()))

    fuzz(examples, check)


#: what fuzzing has found
REVIEW_START = b'{"reviewerID": "u", "asin": "i", "overall": 1.0, "unixReviewTime": '
FOUND = [
    ("csv", b'\r"",-1e3\n'),
    ("reviews", REVIEW_START + b"[" * 100_000),
    ("reviews", REVIEW_START + b"9" * 30 + b"}"),
    # a block of lines that begins as gzip, zlib or zstd data do is text all the same
    ("taobao", b"\x1f\x8b1,2,3,pv,15115\n1,4,3,buy,15116\n"),
    ("taobao", b"x^,2,3,pv,15115\n1,4,3,buy,15116\n"),
    ("taobao", b"x\x01,2,3,pv,15115\n1,4,3,buy,15116\n"),
    ("taobao", zlib.compress(b"1,2,3,pv,15115\n", 1) + b"\n"),
    ("taobao", b"\x28\xb5\x2f\xfd,2,3,pv,15115\n1,4,3,buy,15116\n"),
    ("csv", b"y,a,x\nx^,a,1\n1,b,2\n"),
    ("reviews", gzip.compress(REVIEW_START + b"1}\n")),
    ("reviews", REVIEW_START.replace(b'"i"', b'"\\ud800"') + b"1}\n{}\n"),
]


@pytest.mark.parametrize(("name", "data"), FOUND)
def test_what_was_found_holds(name: str, data: bytes, tmp_path: Path) -> None:
    holds(FORMATS[name], tmp_path, data, zipped=False)


@pytest.mark.parametrize("name", FORMATS)
def test_no_row_is_lost_and_nothing_crashes(name: str, tmp_path: Path) -> None:
    lines_hold(name, tmp_path, SHORT)


@pytest.mark.long
@pytest.mark.parametrize("name", FORMATS)
def test_no_row_is_lost_and_nothing_crashes_long(name: str, tmp_path: Path) -> None:
    lines_hold(name, tmp_path, LONG)


# -- formats whose rows are not lines --------------------------------------------------------------------------------


def list_holds(folder: Path, text: bytes) -> None:
    """Users of a JSON object: each has events, or an empty list, or is reported."""
    path = folder / "lists.json"
    path.write_bytes(text)
    policy = ErrorPolicy(on_error="skip")
    registry = default_registry()
    config = parse_component(registry, "dataset", {"type": "amazon-reviews", "path": str(path)})
    try:
        users = set(registry.create("dataset", config).events(policy)["user"])
    except GenrecError:
        return
    pairs = json.loads(text.removeprefix(b"\xef\xbb\xbf"), object_pairs_hook=Pairs)
    first = dict(reversed(pairs))
    empty = sum(type(items) is list and not items for items in first.values())
    assert len(users) + policy.skipped + empty == len(pairs)


def lists_hold(folder: Path, examples: int) -> None:
    sound = json.dumps({"u1": ["a", "b"], "u2": ["b"], "u3": ["c", 4, "a"]}, indent=1).encode()
    fuzz(examples, lambda data: list_holds(folder, data.draw(damaged(sound))))


@pytest.mark.parametrize(
    "text",
    [
        b'{"u": ["a"], "u": ["b"], "v": []}',
        b'{"v": ["x"], "u\\ud800": ["a"]}',
        b'{"v": ["x"], "u": ["\\ud800", 1]}',
        b'{"v": ["x"], "u": {}, "w": [true], "x": {"a": 1}}',
    ],
)
def test_lists_that_are_none_are_reported(text: bytes, tmp_path: Path) -> None:
    list_holds(tmp_path, text)


def test_lists_of_items_hold(tmp_path: Path) -> None:
    lists_hold(tmp_path, SHORT)


@pytest.mark.long
def test_lists_of_items_hold_long(tmp_path: Path) -> None:
    lists_hold(tmp_path, LONG)


MOVIELENS = {"type": "movielens"}
FLAGS = b"|".join([b"0"] * 18 + [b"1"])
ITEMS = b"item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n2\tToy\t1995\tA B\n"
META = b'{"asin": "i1", "title": "T", "categories": [["A", "B"]], "price": 2.5, "brand": "x"}\n'
META += b"{'asin': 'i2', 'title': \"it's\"}\n"
#: the damaged file, its sound content, the file of events beside it, that one's content, the dataset
SIDES: dict[str, tuple[str, bytes, str, bytes, dict[str, Any]]] = {
    "targets": ("t.csv", TARGETS, "", b"", {"type": "amazon-reviews"}),
    "movies.dat": ("movies.dat", b"2::Toy (1995)::A|B\n3::Heat::\n", "ratings.dat", b"1::2::5::97\n", MOVIELENS),
    "u.item": ("u.item", b"2|Toy (1995)|01-Jan-1995||http://x|" + FLAGS, "u.data", b"1\t2\t5\t97\n", MOVIELENS),
    "movies.csv": ("movies.csv", b'movieId,title,genres\n2,"Toy, A (1995)",A|B\n', "ratings.csv", ML_CSV, MOVIELENS),
    "small.item": ("small.item", ITEMS, "small.inter", ATOMIC, MOVIELENS),
    "meta": ("meta.json", META, "reviews.json", REVIEWS, {"type": "amazon-reviews"}),
}


def sides_hold(name: str, folder: Path, examples: int) -> None:
    """A damaged file of items (or of targets): a sentence, or the events, the items and the rows can be read."""
    file, sound, other, events, config = SIDES[name]
    if other:
        (folder / other).write_bytes(events)
    given_paths = {"path": str(folder / file)} if not other else {"path": str(folder)}
    if name == "meta":
        given_paths = {"path": str(folder / other), "meta": str(folder / file)}
    registry = default_registry()
    chosen = parse_component(registry, "dataset", config | given_paths)

    def check(data: st.DataObject) -> None:
        (folder / file).write_bytes(data.draw(damaged(sound)))
        for policy in (ErrorPolicy(on_error="skip"), ErrorPolicy()):
            try:
                dataset: Any = registry.create("dataset", chosen)
                dataset.events(policy)
                dataset.items()
                for source in dataset.sources():
                    list(dataset.scan(source, policy))
            except GenrecError:
                pass

    fuzz(examples, check)


@pytest.mark.parametrize("name", SIDES)
def test_damaged_content_is_told(name: str, tmp_path: Path) -> None:
    sides_hold(name, tmp_path, SHORT)


@pytest.mark.long
@pytest.mark.parametrize("name", SIDES)
def test_damaged_content_is_told_long(name: str, tmp_path: Path) -> None:
    sides_hold(name, tmp_path, LONG)
