"""MovieLens in each of its formats: the same few ratings, and the real 100K."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from genrec_adapters.datasets.behaviour_configs import MovieLensConfig
from genrec_adapters.datasets.movielens import MovieLens
from genrec_adapters.preprocess import PrepareOptions, prepare
from genrec_registry import ConfigError, DataError, ErrorPolicy, default_registry, parse_component

RATINGS = [("1", "31", 2.5, 1260759144), ("1", "1029", 4.0, 1260759179), ("2", "31", 5.0, 835355493)]
TITLES = {"31": ("Dangerous Minds", "1995", ["Drama"]), "1029": ("Léon: The Pro", "1994", ["Crime", "Drama"])}
USERS = {"1": ("24", "M", "10", "48067"), "2": ("53", "F", "16", "70072")}


def atomic(folder: Path) -> None:
    ratings = ["\t".join((u, i, f"{r:g}", str(t))) for u, i, r, t in RATINGS]
    movies = ["\t".join((i, title, year, " ".join(genres))) for i, (title, year, genres) in TITLES.items()]
    users = ["\t".join((u, age, gender, job, code)) for u, (age, gender, job, code) in USERS.items()]
    for name, header, lines in (
        ("inter", "user_id:token\titem_id:token\trating:float\ttimestamp:float", ratings),
        ("item", "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq", movies),
        ("user", "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token", users),
    ):
        (folder / f"ml.{name}").write_text("\n".join([header, *lines]) + "\n")


def double_colon(folder: Path, encoding: str = "latin-1") -> None:
    ratings = [f"{u}::{i}::{r:g}::{t}" for u, i, r, t in RATINGS]
    movies = [f"{i}::{title} ({year})::{'|'.join(genres)}" for i, (title, year, genres) in TITLES.items()]
    users = [f"{u}::{gender}::{age}::{job}::{code}" for u, (age, gender, job, code) in USERS.items()]
    for name, lines in (("ratings", ratings), ("movies", movies), ("users", users)):
        (folder / f"{name}.dat").write_bytes(("\n".join(lines) + "\n").encode(encoding))


def csv(folder: Path) -> None:
    ratings = [f"{u},{i},{r},{t}" for u, i, r, t in RATINGS]
    movies = [f'{i},"{title} ({year})",{"|".join(genres)}' for i, (title, year, genres) in TITLES.items()]
    (folder / "ratings.csv.gz").write_bytes(
        gzip.compress("\n".join(["userId,movieId,rating,timestamp", *ratings]).encode())
    )
    (folder / "movies.csv").write_text("\n".join(["movieId,title,genres", *movies]) + "\n")


def tabs(folder: Path) -> None:
    genre_of = ["unknown", *"ABC", "D", "E", "Crime", "F", "Drama", *["G"] * 10]  # u.item: columns 6 to 24
    flags = {i: ["01"[name in genres] for name in genre_of] for i, (_, _, genres) in TITLES.items()}
    (folder / "u.data").write_text("".join(f"{u}\t{i}\t{r:g}\t{t}\n" for u, i, r, t in RATINGS))
    movies = [
        f"{i}|{title} ({year})|01-Jan-{year}||http://x|{'|'.join(flags[i])}" for i, (title, year, _) in TITLES.items()
    ]
    (folder / "u.item").write_bytes(("\n".join(movies) + "\n").encode("latin-1"))
    users = [f"{u}|{age}|{gender}|{job}|{code}" for u, (age, gender, job, code) in USERS.items()]
    (folder / "u.user").write_text("\n".join(users) + "\n")


FORMATS: dict[str, Any] = {
    "atomic": atomic,
    "1m": double_colon,
    "10m": lambda folder: double_colon(folder, "utf-8"),
    "20m": csv,
    "100k": tabs,
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_events_items_and_users(name, tmp_path):
    FORMATS[name](tmp_path)
    dataset = MovieLens(MovieLensConfig(path=str(tmp_path)))
    assert dataset.events().rows() == [
        ("1", "31", 1260759144, "dislike", 0),
        ("1", "1029", 1260759179, "like", 1),
        ("2", "31", 835355493, "like", 1),
    ]
    items = {row["item"]: (row["title"], row["year"], row["categories"]) for row in dataset.items().rows(named=True)}
    assert items == TITLES
    assert dataset.items()["text"].to_list() == [title for title, _, _ in TITLES.values()]
    if name != "20m":
        users = {row[0]: row[1:] for row in dataset.users().select("user", *dataset.user_side).rows()}
        assert users == USERS
    rows = pl.concat(dataset.scan(dataset.sources()[0], ErrorPolicy()))
    assert rows.columns == [*dataset.columns, "label"]
    assert rows["user"].to_list() == ["2", "1", "1"]  # in time order
    assert rows["genres"].to_list() == [["Drama"], ["Drama"], ["Crime", "Drama"]]
    assert rows["history_item"].to_list() == [[], [], ["31"]]
    assert rows["history_action"].to_list() == [[], [], ["dislike"]]
    assert "title" not in dataset.default_fields()


def test_a_file_may_be_named_and_may_have_another_name(tmp_path):
    csv(tmp_path)
    renamed = tmp_path / "mine.txt.gz"
    (tmp_path / "ratings.csv.gz").rename(renamed)
    dataset = MovieLens(MovieLensConfig(path=str(renamed)))
    assert dataset.events().height == 3
    assert dataset.items().height == 2  # movies.csv stands beside it
    assert [Path(source.path).name for source in dataset.sources()] == ["mine.txt.gz", "movies.csv"]


def test_likes_begin_where_the_config_says(tmp_path):
    csv(tmp_path)
    assert MovieLens(MovieLensConfig(path=str(tmp_path), like_at=2.5)).events()["label"].to_list() == [1, 1, 1]
    assert MovieLens(MovieLensConfig(path=str(tmp_path), like_at=5)).events()["label"].to_list() == [0, 0, 1]


def test_titles_that_are_odd(tmp_path):
    csv(tmp_path)
    (tmp_path / "movies.csv").write_text(
        'movieId,title,genres\n31,"American President, The (1995)",(no genres listed)\n1029,Babylon 5,Sci-Fi\n'
        "7,Serial (2006-2008),Drama|War\n"
    )
    items = MovieLens(MovieLensConfig(path=str(tmp_path))).items()
    assert items.select("title", "year", "categories").rows() == [
        ("American President, The", "1995", []),
        ("Babylon 5", None, ["Sci-Fi"]),
        ("Serial", "2006", ["Drama", "War"]),
    ]


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        (
            "ratings.csv",
            "userId,movieId,rating,timestamp\n1,2,3,4\n1,3,good,5\n",
            r"ratings.csv, row 2, column rating: found 'good', expected a number",
        ),
        (
            "ratings.csv",
            "userId,movieId,rating,timestamp\n1,2,nan,4\n",
            r"row 1, column rating: found 'nan', expected a number",
        ),
        ("ratings.csv", "userId,movieId,rating,timestamp\n1,,3,4\n", r"row 1, column item_id: found an empty value"),
        ("ratings.csv", "userId,movieId,rating,timestamp\n1,2,3,\n", r"row 1, column timestamp: found an empty value"),
        ("ratings.csv", "userId,movieId,rating\n1,2,3\n", r"ratings.csv: header has no column 'timestamp'"),
        ("ratings.dat", "1::2::3::4\n1::2::3\n", r"ratings.dat, row 2, column timestamp: found 3 columns, expected 4"),
        ("notes.md", "hello\n", r"has no file of ratings, expected one of"),
    ],
)
def test_what_is_wrong_is_told(name, text, problem, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=problem):
        MovieLens(MovieLensConfig(path=str(tmp_path))).events()


def test_a_file_of_something_else_and_one_that_is_not_there(tmp_path):
    (tmp_path / "x.txt").write_text("a;b\n")
    with pytest.raises(DataError, match="expected ratings of MovieLens"):
        MovieLens(MovieLensConfig(path=str(tmp_path / "x.txt"))).events()
    with pytest.raises(DataError, match="does not exist"):
        MovieLens(MovieLensConfig(path=str(tmp_path / "y.txt"))).sources()


def test_bad_rows_are_counted_once_and_told_again_to_who_asks_again(tmp_path):
    csv(tmp_path)
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,2,x,4\n1,3,4,5\n2,3,4,y\n")
    dataset = MovieLens(MovieLensConfig(path=str(tmp_path)))
    for _ in range(2):
        policy = ErrorPolicy(on_error="skip")
        rows = pl.concat(chunk for source in dataset.sources() for chunk in dataset.scan(source, policy))
        assert rows.height == 1
        assert policy.skipped == len(policy.examples) == 2
    with pytest.raises(DataError, match="row 1, column rating"):
        dataset.events()


def test_a_run_of_rows_by_time(tmp_path):
    """Preprocessing as for any dataset; the rows of each split come after those of the one before."""
    folder = tmp_path / "ml"
    folder.mkdir()
    lines = [f"{i % 7},{i % 11},{1 + i % 5},{1000 + i}" for i in range(100)]
    (folder / "ratings.csv").write_text("\n".join(["userId,movieId,rating,timestamp", *reversed(lines)]) + "\n")
    fields = {
        "user": "categorical",
        "time": {"type": "numeric-dense", "transform": "none", "missing_indicator": False},
        "history_item": {"type": "sequence", "max_length": 8},
    }
    prepared = prepare(
        {"type": "movielens", "path": str(folder), "max_history": 8},
        tmp_path / "prepared",
        fields={name: {"type": field} if isinstance(field, str) else field for name, field in fields.items()},
        split={"type": "time"},
        options=PrepareOptions(storage="parquet"),
    )
    assert [prepared.rows(split) for split in ("train", "valid", "test")] == [80, 10, 10]
    folders = [tmp_path / "prepared" / split for split in ("train", "valid", "test")]
    times = [pl.concat(map(pl.read_parquet, sorted(folder.glob("*.parquet"))))["time"] for folder in folders]
    assert [column.to_list() for column in times] == [
        list(range(1000, 1080)),
        list(range(1080, 1090)),
        list(range(1090, 1100)),
    ]


def test_a_clear_sentence_where_new_rows_lack_what_the_fields_read(tmp_path):
    """A run learned from a folder with users; the new ratings stand alone."""
    from genrec_adapters.fields import build_fields

    atomic(tmp_path)
    with_users = MovieLens(MovieLensConfig(path=str(tmp_path)))
    (tmp_path / "new").mkdir()
    csv(tmp_path / "new")
    alone = MovieLens(MovieLensConfig(path=str(tmp_path / "new" / "ratings.csv.gz")))
    with pytest.raises(ConfigError, match="age"):
        build_fields(with_users.default_fields(), alone.columns, default_registry())


def test_configs_are_checked():
    registry = default_registry()
    with pytest.raises(ConfigError, match="max_history"):
        parse_component(registry, "dataset", {"type": "movielens", "path": "x", "max_history": 0})
    with pytest.raises(ConfigError, match="like_at"):
        parse_component(registry, "dataset", {"type": "movielens", "path": "x", "like_att": 3})


def test_the_real_100k(movielens_100k):
    dataset = MovieLens(MovieLensConfig(path=str(movielens_100k)))
    events = dataset.events()
    assert events.height == 100_000
    assert events["user"].n_unique() == 943
    assert events["item"].n_unique() == 1682
    assert events["label"].sum() == 55_375  # ratings of 4 and 5, as GroupLens counts them
    assert dataset.items().filter(pl.col("item") == "1").select("title", "year").rows() == [("Toy Story", "1995")]
    assert dataset.users().height == 943
    rows = pl.concat(dataset.scan(dataset.sources()[0], ErrorPolicy()))
    assert rows.height == 100_000
    assert rows["time"].is_sorted()
    assert rows["history_item"].list.len().max() == 50
    # Many ratings of a user share a second, so that the first rows of most users see nothing.
    assert rows.filter(pl.col("history_item").list.len() == 0)["user"].n_unique() == 943
