"""The dataset suite over every built-in dataset, and over adapters that break one rule each."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from genrec_adapters.datasets import RECORDS
from genrec_adapters.datasets.avazu import CATEGORIES
from genrec_plugins.testing import ConformanceError, dataset_suite
from genrec_plugins.testing import datasets as checks
from genrec_registry import DataError, ErrorPolicy, SourceFile


def _criteo(rows: int, *, bad: bool = False) -> bytes:
    lines = [f"{i % 2}" + f"\t{i}" * 13 + f"\tc{i % 3}" * 26 for i in range(rows)]
    return "\n".join(lines + ["2\tx"] * bad).encode() + b"\n"


def kaggle(folder: Path, *, bad: bool = False) -> dict[str, Any]:
    (folder / "train.txt.gz").write_bytes(gzip.compress(_criteo(9, bad=bad)))
    return {"path": str(folder / "train.txt.gz")}


def terabyte(folder: Path, *, bad: bool = False) -> dict[str, Any]:
    (folder / "days").mkdir()
    for day in range(24):
        (folder / "days" / f"day_{day}").write_bytes(_criteo(3, bad=bad and day == 5))
    return {"path": str(folder / "days")}


def avazu(folder: Path, *, bad: bool = False) -> dict[str, Any]:
    names = ["id", "click", "hour", *CATEGORIES]
    rows = [[str(i), str(i % 2), "14102105", *["a"] * len(CATEGORIES)] for i in range(6)] + [["7"]] * bad
    (folder / "train.csv").write_text("\n".join(",".join(row) for row in [names, *rows]) + "\n")
    return {"path": str(folder / "train.csv")}


def table(folder: Path, *, bad: bool = False) -> dict[str, Any]:
    (folder / "t.csv").write_text('y,num,text\n1,1.5,"a,b"\n0,,c\n' + "0,zz,c\n" * bad)
    return {"path": str(folder / "t.csv"), "label": "y", "numbers": ["num"]}


def parquet(folder: Path, *, bad: bool = False) -> dict[str, Any]:
    frame = pl.DataFrame({"y": [0, 1, 2 if bad else 1], "t": ["a", None, "b"], "n": [1, 2, None], "l": [[1], [], None]})
    frame.write_parquet(folder / "t.parquet")
    return {"path": str(folder / "t.parquet"), "label": "y"}


def movielens(folder: Path, *, bad: bool = False) -> dict[str, Any]:
    rows = [f"{user},{item},{1 + item / 2},{item % 3}" for user in (1, 2) for item in range(1, 9)]
    lines = ["userId,movieId,rating,timestamp", *rows, *["1,2,good,7"] * bad]
    (folder / "ratings.csv").write_text("\n".join(lines) + "\n")
    (folder / "movies.csv").write_text("movieId,title,genres\n1,Heat (1995),Action|Crime\n2,Up,Drama\n")
    return {"path": str(folder)}


def amazon(folder: Path, *, bad: bool = False) -> dict[str, Any]:
    users = {"u": [4, 2, 7], "v": [2, 5], **({"w": 3} if bad else {})}
    (folder / "inter.json.gz").write_bytes(gzip.compress(json.dumps(users).encode()))
    return {"path": str(folder / "inter.json.gz"), "negatives": 1}


def taobao(folder: Path, *, bad: bool = False) -> dict[str, Any]:
    actions = ["pv", "buy", "cart", "fav"]
    rows = [f"{user},{i % 5},{i % 2},{actions[i % 4]},{1511544070 + i // 2}" for user in (1, 2) for i in range(9)]
    (folder / "UserBehavior.csv").write_text("\n".join([*rows, *["1,2,3,look,1511544070"] * bad]) + "\n")
    return {"path": str(folder / "UserBehavior.csv"), "history": "positive"}


def kuairand(folder: Path, *, bad: bool = False) -> dict[str, Any]:
    signals = "is_click,is_like,is_follow,is_comment,is_forward,is_hate,long_view"
    names = f"user_id,video_id,date,hourmin,time_ms,{signals},play_time_ms,duration_ms,is_rand,tab"
    rows = [
        f"{i % 2},{i % 5},20220411,800,{1649640000000 + 700 * i},{i % 3 % 2},0,0,0,0,0,0,9,9,0,1" for i in range(12)
    ]
    for name, part in (("4_08_to_4_21", rows[:6]), ("4_22_to_5_08", rows[6:] + ["0,1,1,1,late"] * bad)):
        (folder / f"log_standard_{name}_pure.csv").write_text("\n".join([names, *part]) + "\n")
    return {"path": str(folder)}


MAKERS: dict[str, Callable[..., dict[str, Any]]] = {
    "criteo-kaggle": kaggle,
    "criteo-1tb": terabyte,
    "avazu": avazu,
    "csv": table,
    "parquet": parquet,
    "movielens": movielens,
    "amazon-reviews": amazon,
    "taobao-userbehavior": taobao,
    "kuairand": kuairand,
}


def _damaged(maker: Callable[..., dict[str, Any]]) -> Callable[[Path], dict[str, Any]]:
    return lambda folder: maker(folder, bad=True)


for _name, _maker in MAKERS.items():
    globals()[f"Test[{_name}]"] = dataset_suite(_name, _maker, damaged=_damaged(_maker))


def test_every_built_in_dataset_is_examined() -> None:
    assert {record.name for record in RECORDS} == set(MAKERS)


class Sound:
    """A dataset in memory that keeps the contract; the ones below break one rule each."""

    label = "y"
    columns: Mapping[str, Any] = {"t": "string", "n": "number"}

    def sources(self) -> Sequence[SourceFile]:
        return [SourceFile(path=__file__)]

    def default_fields(self) -> Mapping[str, Any]:
        return {"t": {"type": "categorical"}}

    def scan(self, source: SourceFile, policy: ErrorPolicy) -> Iterator[pl.DataFrame]:
        yield pl.DataFrame({"y": [0, 1], "t": ["a", "b"], "n": [1, 2]}, schema_overrides={"y": pl.Int8})


class WideLabel(Sound):
    def scan(self, source: SourceFile, policy: ErrorPolicy) -> Iterator[pl.DataFrame]:
        yield pl.DataFrame({"y": [0, 1], "t": ["a", "b"], "n": [1, 2]})


class OddLabel(Sound):
    def scan(self, source: SourceFile, policy: ErrorPolicy) -> Iterator[pl.DataFrame]:
        yield pl.DataFrame({"y": [0, 2], "t": ["a", "b"], "n": [1, 2]}, schema_overrides={"y": pl.Int8})


class LostColumn(Sound):
    def scan(self, source: SourceFile, policy: ErrorPolicy) -> Iterator[pl.DataFrame]:
        yield pl.DataFrame({"y": [0, 1], "t": ["a", "b"]}, schema_overrides={"y": pl.Int8})


class WrongKind(Sound):
    columns: Mapping[str, Any] = {"t": "string", "n": "string"}


class ChangingType(Sound):
    def scan(self, source: SourceFile, policy: ErrorPolicy) -> Iterator[pl.DataFrame]:
        for number in (1, 1.5):
            yield pl.DataFrame({"y": [0], "t": ["a"], "n": [number]}, schema_overrides={"y": pl.Int8})


class OtherOrder(Sound):
    turn = 0

    def scan(self, source: SourceFile, policy: ErrorPolicy) -> Iterator[pl.DataFrame]:
        self.turn += 1
        values = ["a", "b"] if self.turn % 2 else ["b", "a"]
        yield pl.DataFrame({"y": [0, 1], "t": values, "n": [1, 2]}, schema_overrides={"y": pl.Int8})


class NoFile(Sound):
    def sources(self) -> Sequence[SourceFile]:
        return [SourceFile(path="/no/such/file")]


class SilentlySkipping(Sound):
    def scan(self, source: SourceFile, policy: ErrorPolicy) -> Iterator[pl.DataFrame]:
        frame = next(super().scan(source, policy))
        yield frame.head(1) if policy.on_error == "skip" else frame


class NamelessError(Sound):
    def scan(self, source: SourceFile, policy: ErrorPolicy) -> Iterator[pl.DataFrame]:
        if policy.on_error == "stop":
            raise DataError("something is wrong")
        policy.bad_row(source.path, 1, "y", "bad")
        yield from super().scan(source, policy)


def test_the_checks_pass_a_sound_dataset() -> None:
    sound = Sound()
    for check in (checks.check_sources, checks.check_chunks, checks.check_two_scans, checks.check_default_fields):
        check(sound)
    checks.check_skip(sound)


@pytest.mark.parametrize(
    ("broken", "check", "problem"),
    [
        (WideLabel(), checks.check_chunks, "expected Int8"),
        (OddLabel(), checks.check_chunks, "values beside 0 and 1"),
        (LostColumn(), checks.check_chunks, "without the declared column 'n'"),
        (WrongKind(), checks.check_chunks, "declared as string, but its type is Int64"),
        (ChangingType(), checks.check_chunks, "give one type"),
        (OtherOrder(), checks.check_two_scans, "two scans differ"),
        (NoFile(), checks.check_sources, "which is no file"),
        (SilentlySkipping(), checks.check_skip, "skipping left out"),
    ],
)
def test_the_checks_fail_a_broken_dataset(broken: Sound, check: Callable[[Any], None], problem: str) -> None:
    with pytest.raises(ConformanceError, match=problem):
        check(broken)


def test_errors_must_name_the_file_and_bad_rows_be_counted() -> None:
    with pytest.raises(ConformanceError, match="does not name the file"):
        checks.check_skip(Sound(), NamelessError())
    with pytest.raises(ConformanceError, match="has no bad row"):
        checks.check_skip(Sound(), Sound())
