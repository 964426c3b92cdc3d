"""The preprocess engine: rows are neither lost nor doubled, runs are reused or replaced whole, errors are sentences."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genrec_adapters.manifest import LABEL_COLUMN, Manifest
from genrec_adapters.prepared import Prepared
from genrec_adapters.preprocess import PrepareOptions, Progress, prepare
from genrec_adapters.preprocess.swap import Swap
from genrec_adapters.preprocess.writer import SplitWriter
from genrec_plugins.testing.datasets import build_dataset, scan_all
from genrec_registry import ConfigError, DataError, ErrorPolicy, GenrecError, default_registry
from genrec_registry.contracts import SPLITS

FIELDS = {"c": {"type": "categorical"}, "n": {"type": "numeric-dense", "transform": "none"}}


def write_csv(path: Path, rows: int = 40, *, bad: tuple[int, ...] = ()) -> dict[str, Any]:
    """A small table; row i has n = i; returns its dataset config."""
    lines = [f"{i % 2 if i not in bad else 'x'},v{i % 5},{i}" for i in range(rows)]
    path.write_text("y,c,n\n" + "\n".join(lines) + "\n")
    return {"type": "csv", "path": str(path), "label": "y", "numbers": ["n"]}


def encoded(prepared: Prepared, split: str) -> pl.DataFrame:
    """All encoded rows of a split."""
    read = pl.read_ipc if prepared.manifest.storage == "arrow" else pl.read_parquet
    frames = [read(path) for path in prepared.shard_paths(split)]
    return pl.concat(frames) if frames else pl.DataFrame()


@pytest.mark.parametrize("storage", ["arrow", "parquet"])
@pytest.mark.parametrize("cache_mib", [0, 64])
@pytest.mark.parametrize("split", ["random", "shuffled", "time"])
def test_every_row_is_in_exactly_one_split(tmp_path: Path, storage: Any, cache_mib: int, split: str) -> None:
    config = write_csv(tmp_path / "t.csv", 200, bad=(3, 150))
    options = PrepareOptions(on_error="skip", storage=storage, cache_mib=cache_mib, shard_rows=30)
    prepared = prepare(config, tmp_path / "out", fields=FIELDS, split=split, options=options)
    # The dense field gives the number itself and a missing indicator.
    found = {name: encoded(prepared, name)["n"].arr.first().to_list() for name in SPLITS}
    assert sorted(number for rows in found.values() for number in rows) == [i for i in range(200) if i not in (3, 150)]
    assert {name: len(rows) for name, rows in found.items()} == {name: prepared.rows(name) for name in SPLITS}
    assert all(rows == sorted(rows) for rows in found.values()), "rows of a split keep their order"
    if split != "random":
        assert [prepared.rows(name) for name in SPLITS] == [158, 19, 21]
    if split == "time":
        assert max(found["train"]) < min(found["valid"]) < max(found["valid"]) < min(found["test"])
    assert all(shard.rows <= 30 for shard in prepared.manifest.splits["train"].shards)
    assert (prepared.manifest.rows_read, prepared.manifest.rows_skipped) == (200, 2)
    assert prepared.manifest.skipped_examples[0].endswith("row 4, column y: found 'x', expected 0 or 1")
    prepared.verify()


def test_vocabulary_is_fitted_on_training_rows_only(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("y,c\n" + "".join(f"{i % 2},{'old' if i < 8 else 'new'}\n" for i in range(10)))
    config = {"type": "csv", "path": str(path), "label": "y"}
    fields = {"c": {"type": "categorical"}}
    prepared = prepare(config, tmp_path / "out", fields=fields, split={"type": "time"})
    assert prepared.sparse_features[0].num_embeddings == 2
    assert encoded(prepared, "train")["c"].unique().to_list() == [1]
    assert encoded(prepared, "test")["c"].to_list() == [0]
    assert prepared.label_mean("train") == 0.5


LINES = ["1,a,2", "0,b,", "x,a,2", "1,a", "0,b,2,3", "", "1,a,z", "0,\0,1"]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lines=st.lists(st.sampled_from(["1,a,2", "0,b,", "x,a,2", "1,a", "0,b,2,3", "", "1,a,z", "0,\0,1"]), max_size=30)
)
def test_rows_in_are_rows_out_and_skipped(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> None:
    tmp_path = tmp_path_factory.mktemp("rows")
    (tmp_path / "t.csv").write_text("\n".join(["y,c,n", "1,a,1", *lines, "1,b,1"]) + "\n")
    config = {"type": "csv", "path": str(tmp_path / "t.csv"), "label": "y", "numbers": ["n"]}
    options = PrepareOptions(on_error="skip")
    prepared = prepare(config, tmp_path / "out", fields=FIELDS, split={"type": "time"}, options=options)
    manifest = prepared.manifest
    assert manifest.rows_read == len(lines) + 2
    assert sum(prepared.rows(name) for name in SPLITS) + manifest.rows_skipped == manifest.rows_read
    assert manifest.rows_skipped == sum(line not in ("1,a,2", "0,b,") for line in lines)


def test_real_criteo_end_to_end(tmp_path: Path, criteo_sample: Path) -> None:
    """Encoded rows, and rows encoded by the restored fields, equal the raw rows looked up in the vocabularies."""
    config = {"type": "criteo-kaggle", "path": str(criteo_sample)}
    split = {"type": "shuffled", "seed": 1}
    prepared = prepare(config, tmp_path / "out", split=split)
    assert [prepared.rows(name) for name in SPLITS] == [87_779, 10_972, 10_973]
    assert [feature.name for feature in prepared.sparse_features] == [
        *(f"I{i}" for i in range(1, 14)),
        *(f"C{i}" for i in range(1, 27)),
    ]
    raw = scan_all(build_dataset("criteo-kaggle", {"path": str(criteo_sample)}))
    order = np.random.default_rng(1).permutation(raw.height)
    test = raw[np.sort(order[87_779 + 10_972 :])]
    found = encoded(prepared, "test")
    assert found[LABEL_COLUMN].to_list() == test["label"].to_list()
    words = pl.read_parquet(tmp_path / "out" / "vocab" / "C3.vocabulary.parquet")["value"].to_list()
    ids = {value: index for index, value in enumerate(words, 1)}
    assert found["C3"].to_list() == [ids.get(value or "", 0) for value in test["C3"]]
    restored = prepared.restore_fields(default_registry())
    again = test.select([expr for field in restored.values() for expr in field.encode()])
    assert again.equals(found.drop(LABEL_COLUMN))


def test_real_avazu_has_24_fields(tmp_path: Path, avazu_sample: Path) -> None:
    prepared = prepare({"type": "avazu", "path": str(avazu_sample)}, tmp_path / "out")
    assert len(prepared.sparse_features) == 24
    assert sum(prepared.rows(name) for name in SPLITS) == 14_077


def test_stock_dlrm_shape(tmp_path: Path, criteo_sample: Path) -> None:
    config = {"type": "criteo-kaggle", "path": str(criteo_sample), "shape": "stock"}
    prepared = prepare(config, tmp_path / "out")
    assert [feature.name for feature in prepared.dense_features] == [f"I{i}" for i in range(1, 14)]
    assert {feature.width for feature in prepared.dense_features} == {1}
    assert len(prepared.sparse_features) == 26


# -- running again ----------------------------------------------------------------------------------------------------


def _stamp(out: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_ino, p.stat().st_mtime_ns) for p in out.rglob("*") if p.is_file()}


def test_running_again_does_nothing_until_something_changes(tmp_path: Path) -> None:
    source, out = tmp_path / "t.csv", tmp_path / "out"
    config = write_csv(source)
    assert not prepare(config, out, fields=FIELDS).reused
    before = _stamp(out)
    stages: list[str] = []
    again = prepare(config, out, fields=FIELDS, progress=lambda p: stages.append(p.stage))
    assert again.reused
    assert stages == ["reused"]
    assert _stamp(out) == before
    os.utime(source, (1, 1))  # another time, the same content
    assert prepare(config, out, fields=FIELDS).reused
    assert _stamp(out) == before
    assert not prepare(config, out, fields=dict(reversed(FIELDS.items()))).reused, "the order of fields counts"
    assert not prepare(config, out, fields=FIELDS, split={"type": "random", "seed": 2}).reused
    source.write_text(source.read_text().replace("v1", "w1"))  # the same size, another content
    changed = prepare(config, out, fields=FIELDS, split={"type": "random", "seed": 2})
    assert not changed.reused
    assert "w1" in pl.read_parquet(out / "vocab" / "c.vocabulary.parquet")["value"].to_list()


def test_damaged_output_is_made_again(tmp_path: Path) -> None:
    config = write_csv(tmp_path / "t.csv")
    shard = prepare(config, tmp_path / "out", fields=FIELDS).shard_paths("train")[0]
    shard.write_bytes(shard.read_bytes()[:-10])
    assert not prepare(config, tmp_path / "out", fields=FIELDS).reused
    prepare(config, tmp_path / "out", fields=FIELDS).verify()


def test_equal_runs_give_equal_bytes(tmp_path: Path) -> None:
    config = write_csv(tmp_path / "t.csv", 300)
    one = prepare(config, tmp_path / "a", fields=FIELDS).manifest
    two = prepare(config, tmp_path / "b", fields=FIELDS, options=PrepareOptions(cache_mib=0, threads=1)).manifest
    assert one == two


KILLED = """
import sys, time
from genrec_adapters.preprocess import PrepareOptions, prepare
from genrec_adapters.preprocess.swap import Swap
from genrec_adapters.preprocess.writer import SplitWriter
path, out, stage = sys.argv[1:]
if stage == "swap":
    def stop(self):
        self.target.rename(self.old)
        print("there", flush=True)
        time.sleep(60)
    Swap.commit = stop
def wait(progress):
    if progress.stage == stage:
        print("there", flush=True)
        time.sleep(60)
config = {"type": "csv", "path": path, "label": "y", "numbers": ["n"]}
fields = {"c": {"type": "categorical"}, "n": {"type": "numeric-dense", "transform": "none"}}
prepare(config, out, fields=fields, split={"type": "time"}, progress=wait)
"""


@pytest.mark.parametrize("stage", ["count", "fit", "encode", "done", "swap"])
def test_kill_leaves_nothing_half_valid(tmp_path: Path, stage: str) -> None:
    config, out = write_csv(tmp_path / "t.csv"), tmp_path / "out"
    before = None
    if stage == "swap":  # something is in place already
        before = prepare(config, out, fields=FIELDS).manifest
    command = [sys.executable, "-c", KILLED, str(tmp_path / "t.csv"), str(out), stage]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        with pytest.raises(DataError, match="another run is preparing this folder"):
            prepare(config, out, fields=FIELDS)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not out.exists()
    if before is not None:
        assert prepare(config, out, fields=FIELDS).reused, "what was in place comes back"
        assert Manifest.read(out) == before
    prepared = prepare(config, out, fields=FIELDS, split={"type": "time"})
    assert not prepared.reused
    prepared.verify()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "t.csv"]


def test_failed_run_keeps_what_was_in_place(tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(write_csv(tmp_path / "t.csv"), out, fields=FIELDS)
    before = Manifest.read(out)
    with pytest.raises(DataError, match="row 8, column y"):
        prepare(write_csv(tmp_path / "t.csv", bad=(7,)), out, fields=FIELDS)
    assert Manifest.read(out) == before
    assert not Swap(out).new.exists()


# -- errors -----------------------------------------------------------------------------------------------------------


def test_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Any, data: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("genrec_adapters.preprocess.writer.DigestFile.write", full)
    with pytest.raises(DataError, match="the disk is full; free some space") as caught:
        prepare(write_csv(tmp_path / "t.csv"), tmp_path / "out", fields=FIELDS)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_foreign_folder_is_not_touched(tmp_path: Path) -> None:
    out = tmp_path / "thesis"
    out.mkdir()
    (out / "chapter1.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="exists and is not prepared data"):
        prepare(write_csv(tmp_path / "t.csv"), out, fields=FIELDS)
    assert (out / "chapter1.txt").read_text() == "years of work"


def test_input_changed_between_the_passes(tmp_path: Path) -> None:
    config = write_csv(tmp_path / "t.csv")

    def meddle(progress: Progress) -> None:
        if progress.stage == "fit":
            write_csv(tmp_path / "t.csv", 41)

    with pytest.raises(DataError, match=r"41 rows .* but 40|changed during the run"):
        prepare(config, tmp_path / "out", fields=FIELDS, options=PrepareOptions(cache_mib=0), progress=meddle)


def test_md5_mismatch_names_both(tmp_path: Path, avazu_sample: Path) -> None:
    config = {"type": "avazu", "preset": "avazu_x4_001", "train": str(avazu_sample)}
    with pytest.raises(DataError, match=r"has md5 [0-9a-f]{32}, expected de3a27264cdabf66adf09df82328ccaa"):
        prepare(config, tmp_path / "out")
    prepared = prepare({**config, "verify_md5": False}, tmp_path / "out")
    assert prepared.rows("train") == 14_077


@pytest.mark.parametrize(
    ("fields", "split", "problem"),
    [
        ({"cc": {"type": "categorical"}}, None, r"fields\.cc: the dataset has no column 'cc', did you mean 'c'"),
        ({"c": {"type": "numeric-dense"}}, None, r"fields\.c: column 'c' holds text, but type 'numeric-dense' needs"),
        ({"c": {"type": "categoric"}}, None, r"fields\.c: unknown field-type 'categoric', did you mean 'categorical'"),
        ({"c": {"type": "categorical", "min_cout": 2}}, None, r"fields\.c: .*min_cout.*min_count"),
        ({}, None, "fields: is empty"),
        (FIELDS, "files", "type 'files' needs a dataset whose files carry the split"),
        (FIELDS, {"type": "time", "train": 0.9}, "train \\+ valid \\+ test is 1.1"),
        (FIELDS, {"type": "temporal"}, "split.type"),
        ({"c": {"type": "categorical"}, "{c,n}": {"type": "categorical"}, "{n,c}": "categorical"}, None, "both name"),
    ],
)
def test_config_mistakes(tmp_path: Path, fields: dict[str, Any], split: Any, problem: str) -> None:
    with pytest.raises(GenrecError, match=problem):
        prepare(write_csv(tmp_path / "t.csv"), tmp_path / "out", fields=fields, split=split)


def test_manifest_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        Prepared.open(tmp_path / "no")
    with pytest.raises(DataError, match=r"has no manifest\.json"):
        Prepared.open(tmp_path)
    prepare(write_csv(tmp_path / "t.csv"), tmp_path / "out", fields=FIELDS)
    path = tmp_path / "out" / "manifest.json"
    good = json.loads(path.read_text())
    for change, problem in (
        ({"version": 99}, "has format version 99, this program reads 1"),
        ({"format": "other"}, "is not the manifest of prepared data"),
        ({"fields": 3}, "key 'fields' is damaged"),
    ):
        path.write_text(json.dumps({**good, **change}))
        with pytest.raises(DataError, match=problem):
            Prepared.open(tmp_path / "out")
    path.write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        Prepared.open(tmp_path / "out")


def test_all_rows_bad(tmp_path: Path) -> None:
    config = write_csv(tmp_path / "t.csv", 3, bad=(0, 1, 2))
    with pytest.raises(DataError, match=r"no training rows \(0 usable, 3 skipped\)"):
        prepare(config, tmp_path / "out", fields=FIELDS, options=PrepareOptions(on_error="skip"))


def test_policy_is_not_shared_between_passes(tmp_path: Path) -> None:
    config = write_csv(tmp_path / "t.csv", 30, bad=(1, 2))
    options = PrepareOptions(on_error="skip", cache_mib=0)
    assert prepare(config, tmp_path / "out", fields=FIELDS, options=options).manifest.rows_skipped == 2
    assert ErrorPolicy().skipped == 0


@pytest.mark.parametrize("storage", ["arrow", "parquet"])
def test_shards_do_not_depend_on_the_chunks_that_rows_came_in(
    tmp_path: Path, storage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("genrec_adapters.preprocess.writer.BATCH_ROWS", 7)
    draw = np.random.default_rng(0)
    columns = {
        "id": pl.Series(range(100), dtype=pl.Int32),
        "ids": pl.Series([[1] * (row % 4) for row in range(100)], dtype=pl.List(pl.Int32)),
        "pair": pl.Series([[float(row), 1.0] for row in range(100)], dtype=pl.Array(pl.Float32, 2)),
        LABEL_COLUMN: pl.Series([row % 2 for row in range(100)], dtype=pl.Int8),
    }
    rows = pl.DataFrame(columns)
    found = []
    for trial in range(8):
        writer = SplitWriter(tmp_path / str(trial), "train", storage, 23)
        edges = [0, *sorted(draw.integers(0, 101, trial)), 100]
        for start, stop in pairwise(edges):
            chunk = rows[start:stop]
            # Sometimes with a bitmap of what is not null, though all is there.
            writer.write(chunk.with_columns(pl.when(pl.col("id") >= 0).then("id")) if trial % 2 else chunk)
        found.append(writer.finish())
    assert [shard.rows for shard in found[0].shards] == [23, 23, 23, 23, 8]
    assert all(other == found[0] for other in found[1:])
    read = pl.read_ipc if storage == "arrow" else pl.read_parquet
    there = pl.concat([read(tmp_path / "0" / shard.path) for shard in found[0].shards])
    assert there.equals(rows)
