"""Dataset adapters on bad input: one sentence with file, row and column; skipped rows are counted."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genrec_adapters.datasets import blocks
from genrec_adapters.datasets.files import find_files
from genrec_plugins.testing.datasets import scan_all
from genrec_registry import ConfigError, DataError, ErrorPolicy
from tests.adapters.criteo_cases import criteo_line, dataset

# -- bad rows ---------------------------------------------------------------------------------------------------------

Change = Callable[[bytes], bytes]
BAD_ROWS: dict[str, tuple[Change, str, str]] = {
    "short": (lambda line: line.rsplit(b"\t", 1)[0], "C26", "found 39 columns, expected 40"),
    "long": (lambda line: line + b"\tx", "C26", "found 41 columns, expected 40"),
    "empty-line": (lambda line: b"", "label", "the line is empty, expected 40 columns"),
    "label": (lambda line: b"2" + line[1:], "label", "found '2', expected 0 or 1"),
    "no-label": (lambda line: line[1:], "label", "found an empty value, expected 0 or 1"),
    "number": (lambda line: line.replace(b"\t-3\t", b"\t3x\t"), "I2", "found '3x', expected an integer"),
    "fraction": (lambda line: line.replace(b"\t-3\t", b"\t3.5\t"), "I2", "found '3.5', expected an integer"),
    "nul": (lambda line: line.replace(b"\t-3\t", b"\t-\x003\t"), "I2", "found a NUL byte"),
    "not-utf8": (lambda line: line.replace(b"49d6", b"49\xff6"), "C26", "byte 0xff is not UTF-8"),
}


@pytest.mark.parametrize("fault", BAD_ROWS)
def test_bad_row_is_named(tmp_path: Path, fault: str) -> None:
    change, column, problem = BAD_ROWS[fault]
    lines = [criteo_line(index) for index in range(6)]
    sound = b"\n".join(lines[:3] + lines[4:]) + b"\n"
    lines[3] = change(lines[3])
    path = tmp_path / "train.txt"
    path.write_bytes(b"\n".join(lines) + b"\n")
    built = dataset("criteo-kaggle", path=str(path))
    with pytest.raises(DataError) as caught:
        scan_all(built)
    message = str(caught.value)
    assert message.startswith(f"{path}, row 4, column {column}: ")
    assert problem in message
    assert "\n" not in message
    policy = ErrorPolicy(on_error="skip")
    assert scan_all(built, policy).rows() == _slow_criteo(sound)
    assert policy.skipped == 1


def test_rows_count_from_one_in_every_block_and_without_the_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = blocks.read_blocks
    monkeypatch.setattr(blocks, "_READ_BYTES", 16)
    monkeypatch.setattr("genrec_adapters.datasets.delimited.read_blocks", lambda path: reader(path, 30))
    path = tmp_path / "t.csv"
    path.write_text("y,x\n" + "".join(f"{'7' if i in (3, 41) else '1'},{i}\n" for i in range(1, 50)))
    policy = ErrorPolicy(on_error="skip")
    found = scan_all(dataset("csv", path=str(path), label="y"), policy)
    assert [example.split(", ")[1] for example in policy.examples] == ["row 3", "row 41"]
    assert found["x"].to_list() == [str(i) for i in range(1, 50) if i not in (3, 41)]


@pytest.mark.parametrize("columns", [None, ["a"]])
@pytest.mark.parametrize("lines", ["1,2\n1,2,3,4", "1,2,3,4\n1,2", "1,2,3,4,5\n"])
def test_a_line_too_long_does_not_make_up_for_one_too_short(
    tmp_path: Path, lines: str, columns: list[str] | None
) -> None:
    """The sum of the separators is right."""
    path = tmp_path / "t.csv"
    path.write_text(f"y,a,b\n1,2,3\n{lines}\n0,4,5\n")
    policy = ErrorPolicy(on_error="skip")
    found = scan_all(dataset("csv", path=str(path), label="y", columns=columns), policy)
    assert found.select("y", "a").rows() == [(1, "2"), (0, "4")]
    assert [example.split(", ")[1] for example in policy.examples] == ["row 2", "row 3"]


@pytest.mark.parametrize("long", [9, 40, 200])
def test_lines_longer_than_pieces_and_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, long: int) -> None:
    monkeypatch.setattr(blocks, "_READ_BYTES", 16)
    lines = [b"a" * (long if index % 3 else 2) for index in range(20)]
    (tmp_path / "t.txt").write_bytes(b"\n".join(lines))
    for size in (1, 16, 50, 1000):
        found = list(blocks.read_blocks(str(tmp_path / "t.txt"), size))
        assert b"".join(found) == b"\n".join(lines) + b"\n"
        assert all(block.endswith(b"\n") for block in found)


def test_open_quote_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('y,x\n1,"a\nb"\n0,c\n')
    policy = ErrorPolicy(on_error="skip")
    assert scan_all(dataset("csv", path=str(path), label="y"), policy).rows() == [(0, "c")]
    assert policy.examples[0].endswith("a quoted value does not end on its line; line breaks in values need Parquet")


_CORRUPTIONS = st.sampled_from([*BAD_ROWS])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(faults=st.dictionaries(st.integers(0, 11), _CORRUPTIONS, max_size=8))
def test_rows_in_are_rows_out_and_skipped(tmp_path: Path, faults: dict[int, str]) -> None:
    lines = [criteo_line(index) for index in range(12)]
    for index, fault in faults.items():
        lines[index] = BAD_ROWS[fault][0](lines[index])
    data = b"\n".join(lines) + b"\n"
    path = tmp_path / "train.txt"
    # A last line without content is no row; one in the middle is.
    rows = len(data.rstrip(b"\n").split(b"\n"))
    path.write_bytes(data)
    policy = ErrorPolicy(on_error="skip", max_examples=99)
    built = dataset("criteo-kaggle", path=str(path))
    out = sum(chunk.height for source in built.sources() for chunk in built.scan(source, policy))
    assert out + policy.skipped == rows
    assert out == len(lines) - len(faults)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=st.text(alphabet="0123456789+-. eExn_", max_size=6))
def test_both_paths_agree_on_what_a_number_is(tmp_path: Path, value: str) -> None:
    """A number is accepted or not whatever else its block holds: alone, or beside a row that needs the careful path."""
    kept = []
    for other in (b"0\tok\t1\n", b"0\tok\n"):
        path = tmp_path / "t.tsv"
        path.write_bytes(other + f"1\tx\t{value}\n".encode())
        policy = ErrorPolicy(on_error="skip")
        config = {"separator": "\t", "header": False, "names": ["y", "s", "n"], "numbers": ["n"], "quote": None}
        built = dataset("csv", path=str(path), label="y", **config)
        chunks = [c.filter(pl.col("y") == 1) for s in built.sources() for c in built.scan(s, policy)]
        kept.append([str(row) for chunk in chunks for row in chunk.rows()])
    assert kept[0] == kept[1]


def _slow_criteo(data: bytes) -> list[tuple[Any, ...]]:
    rows = []
    for line in data.decode().splitlines():
        label, *others = line.split("\t")
        numbers = [int(value) if value else None for value in others[:13]]
        rows.append((int(label), *numbers, *(value or None for value in others[13:])))
    return rows


# -- bad files --------------------------------------------------------------------------------------------------------


def _gz(rows: int = 3000) -> bytes:
    return gzip.compress(b"\n".join(criteo_line(index * 7919) for index in range(rows)) + b"\n")


BAD_FILES = {
    "empty": (b"", r"is empty \(0 bytes\)"),
    "empty-gz": (gzip.compress(b""), "has no rows"),
    "only-newlines": (b"\n\n", "has no rows"),
    "truncated-gz": (_gz()[:-4000], r"gzip stream that is cut off after row \d{4}, expected a complete file"),
    "header-only-gz": (_gz()[:5], "gzip stream that is cut off after row 0"),
    "corrupt-gz": (_gz()[:9000] + b"\xff" * 2000 + _gz()[11000:], "corrupt gzip stream"),
    "zip": (b"PK\x03\x04 and so on", "is a zip archive"),
    "tar": (b"train.txt".ljust(257, b"\0") + b"ustar" + b"\0" * 300, "is a tar archive"),
    "binary": (bytes(range(256)) * 40, "row 1, column "),
}


@pytest.mark.parametrize("fault", BAD_FILES)
def test_bad_file_is_named(tmp_path: Path, fault: str) -> None:
    data, problem = BAD_FILES[fault]
    path = tmp_path / "train.txt"
    path.write_bytes(data)
    with pytest.raises(DataError, match=problem) as caught:
        scan_all(dataset("criteo-kaggle", path=str(path)))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_truncated_gzip_stops_even_when_rows_may_be_skipped(tmp_path: Path) -> None:
    path = tmp_path / "train.txt.gz"
    path.write_bytes(_gz()[:-3000])
    with pytest.raises(DataError, match="cut off after row"):
        scan_all(dataset("criteo-kaggle", path=str(path)), ErrorPolicy(on_error="skip"))


def test_missing_files(tmp_path: Path) -> None:
    for path, problem in ((tmp_path / "no.txt", "does not exist"), (tmp_path / "*.gz", "matches no file")):
        with pytest.raises(DataError, match=problem):
            dataset("criteo-kaggle", path=str(path)).sources()
    with pytest.raises(DataError, match="folder without files"):
        dataset("criteo-kaggle", path=str(tmp_path)).sources()


def test_natural_order(tmp_path: Path) -> None:
    for name in ("day_10", "day_9", ".hidden", "_SUCCESS"):
        (tmp_path / name).write_text("x")
    assert [Path(path).name for path in find_files(str(tmp_path), key="dataset.path")] == ["day_9", "day_10"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("y,x\n", "has a header but no rows"),
        ("x,z\n1,2\n", "there is no column 'y'"),
        ("y,x,x\n1,2,3\n", "header has the column 'x' twice"),
    ],
)
def test_bad_csv_header(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises((DataError, ConfigError), match=problem):
        scan_all(dataset("csv", path=str(path), label="y"))


def test_avazu_header_must_have_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    path.write_text("id,clck,hour\n1,0,14102100\n")
    with pytest.raises(DataError, match="header has no column 'click', did you mean 'clck'"):
        scan_all(dataset("avazu", path=str(path)))


def test_parquet_faults(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    path.write_bytes(b"not parquet at all")
    with pytest.raises(DataError, match="is not a readable Parquet file"):
        scan_all(dataset("parquet", path=str(path), label="y"))
    pl.DataFrame({"y": [0, 2, None], "x": ["a", "b", "c"]}).write_parquet(path)
    with pytest.raises(DataError, match="row 2, column y: found 2, expected 0 or 1"):
        scan_all(dataset("parquet", path=str(path), label="y"))
    policy = ErrorPolicy(on_error="skip")
    assert scan_all(dataset("parquet", path=str(path), label="y"), policy).rows() == [(0, "a")]
    assert policy.skipped == 2
    with pytest.raises(ConfigError, match="there is no column 'z'"):
        dataset("parquet", path=str(path), label="z").columns  # noqa: B018
    with pytest.raises(ConfigError, match=r"dataset\.columns: there is no column 'w'"):
        dataset("parquet", path=str(path), label="y", columns=["w"]).columns  # noqa: B018


QUOTED = ['1,"a"', '0,"a""b"', "1,c", '"0",d', '1,"x,y"', '1,"a', "1", '1,a"b', ""]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.lists(st.sampled_from(QUOTED), max_size=9))
def test_quoted_block_at_once_equals_line_by_line(tmp_path: Path, lines: list[str]) -> None:
    """The quick reading of a block with quotes, and the careful one of each of its lines, give the same rows."""
    path = tmp_path / "t.csv"

    def read(some: list[str]) -> tuple[list[Any], int]:
        path.write_text("\n".join(["y,x", '0,"first"', *some, "1,last"]) + "\n")
        policy = ErrorPolicy(on_error="skip")
        return scan_all(dataset("csv", path=str(path), label="y"), policy).rows()[1:-1], policy.skipped

    together = read(lines)
    apart = [read([line]) for line in lines]
    assert together == ([row for rows, _ in apart for row in rows], sum(skipped for _, skipped in apart))
