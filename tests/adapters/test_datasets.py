"""Dataset adapters: sound files give their rows, whatever their line ends, packing and options."""

from __future__ import annotations

import csv
import gzip
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from genrec_adapters.datasets import RECORDS, blocks
from genrec_plugins.testing.datasets import scan_all
from genrec_registry import ConfigError, DataError, ErrorPolicy, default_registry, parse_component
from tests.adapters.criteo_cases import NAMES, criteo_line, dataset


def test_listing_and_validating_datasets_imports_nothing_heavy() -> None:
    code = (
        "import sys; from genrec_adapters.datasets import RECORDS\n"
        "for record in RECORDS: record.load_config()\n"
        "import genrec_adapters.fields, genrec_adapters.splits, genrec_adapters.preprocess.options\n"
        "print(sorted({'torch', 'polars', 'pyarrow', 'numpy'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
    assert {record.name for record in RECORDS} >= {"criteo-kaggle", "criteo-1tb", "avazu", "parquet", "csv"}


# -- sound files ------------------------------------------------------------------------------------------------------


def _slow_criteo(data: bytes) -> list[tuple[Any, ...]]:
    rows = []
    for line in data.decode().split("\n"):
        if line:
            label, *others = line.rstrip("\r").split("\t")
            numbers = [int(value) if value else None for value in others[:13]]
            rows.append((int(label), *numbers, *(value or None for value in others[13:])))
    return rows


def test_real_criteo_rows_equal_a_plain_reading(criteo_sample: Path) -> None:
    found = scan_all(dataset("criteo-kaggle", path=str(criteo_sample)))
    assert found.height == 109_724
    with gzip.open(criteo_sample) as file:
        head = b"".join(next(file) for _ in range(2000))
    assert found.head(2000).rows() == _slow_criteo(head)
    assert found.schema["label"] == pl.Int8
    assert {found.schema[f"I{i}"] for i in range(1, 14)} == {pl.Int64}


def test_real_avazu_rows_equal_the_csv_module(avazu_sample: Path) -> None:
    found = scan_all(dataset("avazu", path=str(avazu_sample)))
    with gzip.open(avazu_sample, "rt", newline="") as file:
        wanted = list(csv.DictReader(file))
    assert "id" not in found.columns
    assert found.height == len(wanted) == 14_077
    assert found["click"].to_list() == [int(row["click"]) for row in wanted]
    for name in found.columns[1:]:
        assert found[name].to_list() == [row[name] for row in wanted], name


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("last", [True, False], ids=["newline-at-end", "no-newline-at-end"])
@pytest.mark.parametrize("zipped", [True, False], ids=["gz", "plain"])
@pytest.mark.parametrize("block", [100, 1 << 20])
def test_line_ends_compression_and_blocks_do_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: bytes, last: bool, zipped: bool, block: int
) -> None:
    monkeypatch.setattr(blocks, "_READ_BYTES", 64)
    plain_reader = blocks.read_blocks
    monkeypatch.setattr("genrec_adapters.datasets.delimited.read_blocks", lambda path: plain_reader(path, block))
    lines = [criteo_line(index) for index in range(20)]
    data = end.join(lines) + (end if last else b"")
    path = tmp_path / "train.txt"
    path.write_bytes(gzip.compress(data[:700]) + gzip.compress(data[700:]) if zipped else data)
    assert scan_all(dataset("criteo-kaggle", path=str(path))).rows() == _slow_criteo(data)


def test_published_criteo_with_header_and_pandas_floats(tmp_path: Path) -> None:
    rows = [criteo_line(i, label=f"{i % 2}.0", I1=f"{i}.0").replace(b"\t", b",") for i in range(4)]
    path = tmp_path / "train.csv"
    path.write_bytes(b"\n".join([",".join(["Label", *NAMES[1:]]).encode(), *rows]) + b"\n")
    found = scan_all(dataset("criteo-kaggle", train=str(path)))
    assert found["label"].to_list() == [0, 1, 0, 1]
    assert found["I1"].to_list() == [0, 1, 2, 3]
    assert found["I1"].dtype == pl.Int64


def test_csv_with_quotes_equals_the_csv_module(tmp_path: Path) -> None:
    rows = [["0", 'say "hi", now', "1.5"], ["1", "", "-2"], ["1", "plain", ""]]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([["y", "text", "num"], *rows])
    path = tmp_path / "t.csv"
    path.write_text(text.getvalue())
    found = scan_all(dataset("csv", path=str(path), label="y", numbers=["num"]))
    assert found.rows() == [(0, 'say "hi", now', 1.5), (1, None, -2.0), (1, "plain", None)]


def test_csv_options(tmp_path: Path) -> None:
    path = tmp_path / "t.psv"
    path.write_text("a1|NA|7|1\nb|2|8|0\n")
    built = dataset(
        "csv",
        path=str(path),
        label="y",
        separator="|",
        header=False,
        names=["c1", "c2", "c3", "y"],
        columns=["c{1..2}"],
        numbers=["c2"],
        null_values=["NA"],
    )
    assert dict(built.columns) == {"c1": "string", "c2": "number"}
    assert scan_all(built).rows() == [(1, "a1", None), (0, "b", 2.0)]


def test_parquet_types(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            "y": [True, False],
            "i": pl.Series([1, None], dtype=pl.UInt8),
            "f": pl.Series([1.5, 2.5], dtype=pl.Float32),
            "c": pl.Series(["a", "b"], dtype=pl.Categorical),
            "l": [[1, 2], []],
            "v": pl.Series([[1.0, 2.0], [3.0, 4.0]], dtype=pl.Array(pl.Float32, 2)),
        }
    )
    frame.write_parquet(tmp_path / "t.parquet")
    built = dataset("parquet", path=str(tmp_path / "t.parquet"), label="y")
    assert dict(built.columns) == {"i": "number", "f": "number", "c": "string", "l": "list", "v": "list"}
    assert scan_all(built).rows() == [(1, 1, 1.5, "a", [1, 2], [1.0, 2.0]), (0, None, 2.5, "b", [], [3.0, 4.0])]
    types = {name: field["type"] for name, field in built.default_fields().items()}
    buckets = "numeric-bucket"
    assert types == {"i": buckets, "f": buckets, "c": "categorical", "l": "multi-hot", "v": "vector"}


def test_terabyte_days_and_halves(tmp_path: Path) -> None:
    for day in range(24):
        rows = [criteo_line(day * 10 + i) for i in range(5 if day == 23 else 1)]
        (tmp_path / f"day_{day}").write_bytes(b"\n".join(rows) + b"\n")
    built = dataset("criteo-1tb", path=str(tmp_path))
    by_split: dict[str, list[int]] = {"train": [], "valid": [], "test": []}
    for source in built.sources():
        for chunk in built.scan(source, ErrorPolicy()):
            by_split[str(source.split)] += chunk["I1"].to_list()
    assert by_split["train"] == [day * 10 for day in range(23)]
    assert by_split["valid"] == [230, 231, 232]
    assert by_split["test"] == [233, 234]
    (tmp_path / "day_7").unlink()
    with pytest.raises(DataError, match="found 23 files, expected 24 days"):
        built.sources()
    assert len(dataset("criteo-1tb", path=str(tmp_path), split="none").sources()) == 23


# -- configs and presets ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"type": "criteo-kaggle"}, "neither 'path' nor 'train'"),
        ({"type": "criteo-kaggle", "path": "a", "train": "b"}, "both 'path' and 'train/valid/test'"),
        ({"type": "criteo-kaggle", "path": "a", "preset": "criteo_x4_001", "shape": "stock"}, "all 39 fields"),
        ({"type": "csv", "path": "a", "label": "y", "header": False}, "header: false without 'names'"),
        ({"type": "csv", "path": "a", "label": "y", "separator": "::"}, "separator"),
        ({"type": "avazu", "path": "a", "preset": "criteo_x4_001"}, "preset"),
    ],
)
def test_config_mistakes(config: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        parse_component(default_registry(), "dataset", config)


@pytest.mark.parametrize(
    ("type_name", "preset", "fields", "min_count", "width"),
    [
        ("criteo-kaggle", "criteo_x4_001", 39, 10, 16),
        ("criteo-kaggle", "criteo_x4_002", 39, 2, 40),
        ("avazu", "avazu_x4_001", 24, 2, 16),
        ("avazu", "avazu_x4_002", 24, 1, 40),
    ],
)
def test_presets(type_name: str, preset: str, fields: int, min_count: int, width: int) -> None:
    from genrec_adapters.fields import build_fields

    built = dataset(type_name, path="unread", preset=preset)
    assert built.embedding_dim == width
    configured = build_fields(built.default_fields(), built.columns, default_registry())
    parts = {field.name: len(getattr(field.config, "parts", "x")) for field in configured}
    assert sum(parts.values()) == fields
    counts = {field.config.min_count for field in configured if hasattr(field.config, "min_count")}
    assert counts == {min_count}


def test_published_files_carry_their_md5(tmp_path: Path) -> None:
    for name in ("train", "valid", "test"):
        (tmp_path / f"{name}.csv").write_text("x")
    paths = {name: str(tmp_path / f"{name}.csv") for name in ("train", "valid", "test")}
    sources = dataset("avazu", preset="avazu_x4_001", **paths).sources()
    assert [(s.split, s.md5) for s in sources] == [
        ("train", "de3a27264cdabf66adf09df82328ccaa"),
        ("valid", "33232931d84d6452d3f956e936cab2c9"),
        ("test", "3ebb774a9ca74d05919b84a3d402986d"),
    ]
    off = dataset("avazu", preset="avazu_x4_001", verify_md5=False, **paths).sources()
    assert {s.md5 for s in off} == {None}
    assert {s.md5 for s in dataset("avazu", preset="avazu_x4_001", path=paths["train"]).sources()} == {None}
