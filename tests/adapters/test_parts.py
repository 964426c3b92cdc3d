"""Files read in parts give the rows, row numbers and counts of the whole file, wherever they are cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genrec_adapters.datasets.parts import PartedDataset
from genrec_plugins.testing.datasets import build_dataset, scan_all
from genrec_registry import DataError, ErrorPolicy
from genrec_registry.contracts import SourceFile


def in_parts(dataset: Any, source: SourceFile, size: int, policy: ErrorPolicy) -> tuple[pl.DataFrame | None, int]:
    """The rows of a file read in parts, and the number of parts."""
    assert isinstance(dataset, PartedDataset)
    frames, before = [], 0
    parts = dataset.parts(source, size)
    for part in parts:
        frames += list(dataset.scan_part(source, part, policy, before))
        before += dataset.count_part(source, part)
    return (pl.concat(frames) if frames else None), len(parts)


LINES = ["1,a,2", "0,b,", "x,a,2", "1,a", '0,"b,c",3', "", "1,\0,1", "0,é,7"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lines=st.lists(st.sampled_from(LINES), max_size=20),
    size=st.integers(1, 60),
    end=st.sampled_from(["\n", "\r\n"]),
    tail=st.sampled_from(["", "\n", "\n\n", "\r\n\r\n"]),
    mark=st.sampled_from(["", "\ufeff"]),
)
def test_text_in_parts_is_the_whole_file(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], size: int, end: str, tail: str, mark: str
) -> None:
    path = tmp_path_factory.mktemp("parts") / "t.csv"
    path.write_bytes((mark + end.join(["y,c,n", "1,a,1", *lines, "1,b,1"]) + tail).encode())
    config = {"path": str(path), "label": "y", "numbers": ["n"], "quote": '"'}
    whole_policy, policy = ErrorPolicy(on_error="skip"), ErrorPolicy(on_error="skip", max_examples=10)
    dataset = build_dataset("csv", config)
    source = dataset.sources()[0]
    whole = pl.concat(list(dataset.scan(source, whole_policy)))
    found, parts = in_parts(dataset, source, size, policy)
    if not parts:
        return
    assert found is not None
    assert found.equals(whole)
    assert policy == whole_policy, "bad rows have the numbers they have in the whole file"


@pytest.mark.parametrize("size", [1 << 20, 5 << 20])
def test_real_criteo_in_parts(tmp_path: Path, criteo_sample: Path, size: int) -> None:
    import gzip

    path = tmp_path / "train.txt"
    path.write_bytes(gzip.decompress(criteo_sample.read_bytes()))
    dataset = build_dataset("criteo-kaggle", {"path": str(path)})
    found, parts = in_parts(dataset, dataset.sources()[0], size, ErrorPolicy())
    assert parts == -(-path.stat().st_size // size)
    assert found is not None
    assert found.equals(scan_all(dataset))
    zipped = build_dataset("criteo-kaggle", {"path": str(criteo_sample)})
    assert list(zipped.parts(zipped.sources()[0], size)) == []  # type: ignore[attr-defined]


@pytest.mark.parametrize("size", [1, 1000, 3000])
def test_parquet_in_parts(tmp_path: Path, size: int) -> None:
    path = tmp_path / "t.parquet"
    labels: list[Any] = [row % 2 for row in range(500)]
    labels[333] = 7
    table = pl.DataFrame(
        {"y": labels, "c": [f"v{row}" for row in range(500)], "l": [["a"] * (row % 3) for row in range(500)]}
    )
    table.write_parquet(path, row_group_size=50)
    dataset = build_dataset("parquet", {"path": str(path), "label": "y"})
    policy, whole_policy = ErrorPolicy(on_error="skip"), ErrorPolicy(on_error="skip")
    whole = pl.concat(list(dataset.scan(dataset.sources()[0], whole_policy)))
    found, parts = in_parts(dataset, dataset.sources()[0], size, policy)
    assert 1 < parts <= 10
    assert found is not None
    assert found.equals(whole)
    assert policy == whole_policy
    assert policy.examples[0].startswith(f"{path}, row 334")


def test_what_is_no_plain_text_has_no_parts(tmp_path: Path) -> None:
    import tarfile

    (tmp_path / "rows.csv").write_text("y,c\n" + "1,a\n" * 5000)
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        tar.add(tmp_path / "rows.csv", "rows.csv")
    dataset = build_dataset("csv", {"path": str(tmp_path / "t.tar"), "label": "y"})
    assert list(dataset.parts(dataset.sources()[0], 1000)) == []  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="is a tar archive"):
        list(dataset.scan(dataset.sources()[0], ErrorPolicy()))


def test_a_part_that_vanished_is_told(tmp_path: Path) -> None:
    path = tmp_path / "train.txt"
    path.write_text("1\t" * 39 + "a\n" * 100)
    dataset = build_dataset("criteo-kaggle", {"path": str(path)})
    source = dataset.sources()[0]
    parts = dataset.parts(source, 100)  # type: ignore[attr-defined]
    path.unlink()
    with pytest.raises(DataError, match=r"train\.txt: cannot be read \(No such file"):
        list(dataset.scan_part(source, parts[1], ErrorPolicy(), 0))  # type: ignore[attr-defined]
