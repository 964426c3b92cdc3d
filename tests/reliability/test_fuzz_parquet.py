"""Parquet tables of any types, and damaged Parquet files: a sentence of ours, or every row is used or reported.

Damaged files are read in a process of their own: should Arrow's C++ die on one, the test says so.
"""

from __future__ import annotations

import datetime
import random
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import strategies as st

from genrec_adapters.preprocess import PrepareOptions, prepare
from genrec_registry import DataError, ErrorPolicy, GenrecError, default_registry, parse_component
from tests import faults
from tests.reliability.test_fuzz_rows import fuzz

SHORT, LONG = 40, 2000

MOMENT = datetime.datetime(2024, 2, 29, 12)
#: type -> values of a column
COLUMNS: list[tuple[pa.DataType, list[Any]]] = [
    (pa.int8(), [1, -1, None]),
    (pa.uint64(), [2**64 - 1, 0, None]),
    (pa.int64(), [2**63 - 1, -(2**63), None]),
    (pa.float16(), [1.5, float("inf"), None]),
    (pa.float32(), [1.5, float("nan"), None]),
    (pa.float64(), [1e308, float("-inf"), None]),
    (pa.bool_(), [True, False, None]),
    (pa.string(), ["a", "", None, "\0"]),
    (pa.large_string(), ["a", None]),
    (pa.string_view(), ["a", None]),
    (pa.binary(), [b"\xff", None]),
    (pa.date32(), [MOMENT.date(), None]),
    (pa.timestamp("us", "UTC"), [MOMENT, None]),
    (pa.time64("ns"), [MOMENT.time(), None]),
    (pa.duration("s"), [datetime.timedelta(1), None]),
    (pa.decimal128(20, 3), [Decimal("1.5"), None]),
    (pa.dictionary(pa.int32(), pa.string()), ["a", "b", None]),
    (pa.list_(pa.int64()), [[1, 2], [], None, [None]]),
    (pa.list_(pa.float64()), [[0.5], [float("nan")], None]),
    (pa.list_(pa.float32(), 2), [[0.5, 1.0], None]),
    (pa.large_list(pa.string()), [["a"], [], None, ["", None]]),
    (pa.list_(pa.list_(pa.int64())), [[[1]], None]),
    (pa.struct([("a", pa.int64())]), [{"a": 1}, None]),
    (pa.map_(pa.string(), pa.int64()), [[("a", 1)], None]),
    (pa.null(), [None]),
]
LABELS: list[tuple[pa.DataType, list[Any]]] = [
    (pa.int64(), [0, 1, 1, 0, 2, None]),
    (pa.uint8(), [0, 1]),
    (pa.bool_(), [True, False, None]),
    (pa.float32(), [0.0, 1.0, 0.5, float("nan"), None]),
    (pa.string(), ["0", "1", "x", "1.0", None]),
    (pa.decimal128(5, 1), [Decimal(1), Decimal(0)]),
    (pa.dictionary(pa.int8(), pa.string()), ["0", "1"]),
    (pa.null(), [None]),
    (pa.list_(pa.int64()), [[1], None]),
    (pa.date32(), [MOMENT.date()]),
    (pa.struct([("a", pa.int64())]), [{"a": 1}]),
    (pa.binary(), [b"1"]),
]


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    rows = draw(st.integers(0, 7))
    columns: dict[str, pa.Array] = {}
    label, values = draw(st.sampled_from(LABELS))
    columns["y"] = pa.array([draw(st.sampled_from(values)) for _ in range(rows)], label)
    for name in draw(st.sampled_from(["a", "ab", "abc"])):
        kind, values = draw(st.sampled_from(COLUMNS))
        columns[name] = pa.array([draw(st.sampled_from(values)) for _ in range(rows)], kind)
    return pa.table(columns)


def holds(path: Path, rows: int, out: Path) -> None:
    registry = default_registry()
    policy = ErrorPolicy(on_error="skip")
    try:
        dataset: Any = registry.create(
            "dataset", parse_component(registry, "dataset", {"type": "parquet", "path": str(path), "label": "y"})
        )
        given = sum(frame.height for source in dataset.sources() for frame in dataset.scan(source, policy))
    except GenrecError:
        return
    assert given + policy.skipped == rows
    options = PrepareOptions(on_error="skip", threads=1)
    try:
        done = prepare({"type": "parquet", "path": str(path), "label": "y"}, out, options=options).manifest
    except GenrecError:
        return
    assert sum(split.rows for split in done.splits.values()) + done.rows_skipped == done.rows_read == rows


def types_hold(folder: Path, examples: int) -> None:
    def check(data: st.DataObject) -> None:
        table = data.draw(tables())
        path = folder / "t.parquet"
        path.unlink(missing_ok=True)
        try:
            pq.write_table(table, path, row_group_size=3)
        except (pa.ArrowException, NotImplementedError):  # not every type can be written
            return
        holds(path, table.num_rows, folder / "out")

    fuzz(examples, check)


def test_tables_of_any_types(tmp_path: Path) -> None:
    types_hold(tmp_path, SHORT)


@pytest.mark.long
def test_tables_of_any_types_long(tmp_path: Path) -> None:
    types_hold(tmp_path, LONG)


def test_lists_of_lists_are_told(tmp_path: Path) -> None:
    table = pa.table({"y": [0, 1], "a": pa.array([[[1]], None], pa.list_(pa.list_(pa.int64())))})
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"column 'a' is list<.*, expected numbers, text, times or lists of these"):
        prepare({"type": "parquet", "path": str(tmp_path / "t.parquet"), "label": "y"}, tmp_path / "out")


def test_names_that_are_not_text_are_told(tmp_path: Path) -> None:
    pq.write_table(pa.table({"y": [0, 1], "s": [["a"], ["b"]]}), tmp_path / "t.parquet")
    data = (tmp_path / "t.parquet").read_bytes()
    assert b"element" in data
    (tmp_path / "t.parquet").write_bytes(data.replace(b"element", b"\xb2lement"))
    with pytest.raises(DataError, match=r"t\.parquet: is not a readable Parquet file \(.*utf-8"):
        prepare({"type": "parquet", "path": str(tmp_path / "t.parquet"), "label": "y"}, tmp_path / "out")


def read_damaged(folder: Path, trials: int, seed: int) -> int:
    """Read a file after each of so many damages; runs in a process of its own."""
    source = random.Random(seed)
    table = pa.table(
        {
            "y": [row % 2 for row in range(50)],
            "a": [f"a{row % 7}" for row in range(50)],
            "x": [row / 3 for row in range(50)],
            "s": [[f"{row}", "b"] for row in range(50)],
        }
    )
    sound = folder / "sound.parquet"
    pq.write_table(table, sound, row_group_size=20)
    data = sound.read_bytes()
    refused, registry = 0, default_registry()
    for trial in range(trials):
        changed = bytearray(data)
        for _ in range(source.choice([1, 1, 2, 8])):
            place = source.randrange(len(changed))
            if source.random() < 0.5:  # the footer is the richest in consequences
                place = source.randrange(len(changed) - 700, len(changed))
            changed[place] = source.randrange(256)
        if source.random() < 0.1:
            changed = changed[: source.randrange(len(changed))]
        path = folder / f"{trial}.parquet"
        path.write_bytes(changed)
        config = parse_component(registry, "dataset", {"type": "parquet", "path": str(path), "label": "y"})
        policy = ErrorPolicy(on_error="skip")
        try:
            dataset: Any = registry.create("dataset", config)
            rows = sum(frame.height for source in dataset.sources() for frame in dataset.scan(source, policy))
            assert rows + policy.skipped == pq.ParquetFile(path).metadata.num_rows, trial
        except GenrecError:
            refused += 1
        path.unlink()
    return refused


def test_damaged_files(tmp_path: Path) -> None:
    found = faults.run(read_damaged, tmp_path, 1500, 101)  # number 1430 has a row group with fewer rows than it had
    assert not found.crash, found.crash
    assert 150 < found.value < 1500


@pytest.mark.long
@pytest.mark.parametrize("seed", range(10))
def test_damaged_files_long(seed: int, tmp_path: Path) -> None:
    found = faults.run(read_damaged, tmp_path, 3000, seed + 100)
    assert not found.crash, found.crash
