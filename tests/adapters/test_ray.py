"""Preprocessing on a Ray of two workers: the local engine's files, and our own sentences where something goes wrong."""

from __future__ import annotations

import gzip
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from genrec_adapters.preprocess import PrepareOptions, prepare
from genrec_adapters.preprocess.on_ray import ray_session
from genrec_registry import ConfigError, DataError, PluginError, SetupError, explain
from tests.adapters.fragile_table import FragileTable
from tests.adapters.spread_cases import every_field, write_rows

pytest.importorskip("ray", reason='Ray is not installed: pip install "genrec-plugins[ray]"')
ROOT = Path(__file__).resolve().parents[2]  # workers import these tests' dataset from there
RAY = PrepareOptions(engine="ray", threads=2, part_mib=1, shard_rows=20_000)


@pytest.fixture(scope="module")
def two_workers() -> Iterator[None]:
    """One Ray for all tests of this file, as a user's own would be: it takes seconds to start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
        with ray_session(RAY):
            yield


@pytest.fixture
def fragile(monkeypatch: pytest.MonkeyPatch) -> None:
    """The dataset type ``parquet`` is a :class:`FragileTable`."""
    monkeypatch.setattr("genrec_adapters.datasets.parquet.ParquetTable", FragileTable)


def test_real_criteo_is_prepared_alike(tmp_path: Path, criteo_sample: Path, two_workers: None) -> None:
    raw = gzip.decompress(criteo_sample.read_bytes()).splitlines(keepends=True)[:40_000]
    (tmp_path / "train.txt").write_bytes(b"".join(raw))
    config = {"type": "criteo-kaggle", "path": str(tmp_path / "train.txt")}
    local = prepare(config, tmp_path / "local", options=PrepareOptions(shard_rows=20_000))
    stages: list[str] = []
    found = prepare(config, tmp_path / "ray", options=RAY, progress=lambda progress: stages.append(progress.stage))
    assert found.manifest == local.manifest
    found.verify()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["local", "ray", "train.txt"]
    assert sorted(path.name for path in (tmp_path / "ray").iterdir()) == [
        "manifest.json",
        "test",
        "train",
        "valid",
        "vocab",
    ]
    assert list(dict.fromkeys(stages)) == ["count", "fit", "encode", "done"]
    assert stages.count("fit") == -(-(tmp_path / "train.txt").stat().st_size // (1 << 20)), "a task for each MiB"


def test_every_field_type_and_a_split_of_exact_sizes(tmp_path: Path, two_workers: None, fragile: None) -> None:
    config, fields = write_rows(tmp_path / "t.parquet"), every_field(tmp_path)
    local = prepare(config, tmp_path / "local", fields=fields, split="shuffled", options=PrepareOptions(shard_rows=999))
    options = RAY.model_copy(update={"shard_rows": 999})
    assert (
        prepare(config, tmp_path / "ray", fields=fields, split="shuffled", options=options).manifest == local.manifest
    )


def test_a_killed_worker_is_made_good(
    tmp_path: Path, two_workers: None, fragile: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, fields = write_rows(tmp_path / "t.parquet"), {"short": {"type": "categorical", "min_count": 3}}
    options = RAY.model_copy(update={"shard_rows": 500})
    local = prepare(config, tmp_path / "local", fields=fields, options=PrepareOptions(shard_rows=500))
    monkeypatch.setattr(FragileTable, "next_trouble", ("dies once", tmp_path / "died"))
    found = prepare(config, tmp_path / "ray", fields=fields, options=options)
    assert (tmp_path / "died").exists()
    assert found.manifest == local.manifest


@pytest.mark.parametrize(
    ("trouble", "kind", "sentence"),
    [
        ("bug", PluginError, r"failed on a Ray worker \(ZeroDivisionError: of the plugin's own\); mend the plugin"),
        pytest.param(
            "dies", SetupError, r"Ray's workers died 3 times at the same piece of work", marks=pytest.mark.long
        ),
    ],
)
def test_trouble_on_a_worker_is_one_sentence(
    tmp_path: Path,
    two_workers: None,
    fragile: None,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    trouble: str,
    kind: type[Exception],
    sentence: str,
) -> None:
    config = write_rows(tmp_path / "t.parquet")
    monkeypatch.setattr(FragileTable, "next_trouble", (trouble, tmp_path / "died"))
    with pytest.raises(kind, match=sentence) as caught:
        prepare(config, tmp_path / "out", fields={"short": {"type": "categorical"}}, options=RAY)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
    assert "Traceback" not in "".join(capfd.readouterr())


def test_a_bad_row_is_told_as_by_the_local_engine(
    tmp_path: Path, two_workers: None, capfd: pytest.CaptureFixture[str]
) -> None:
    lines = [f"{row % 2},v{row % 9},{'x' * 40}" for row in range(60_000)]
    lines[50_000] = "2,v1,x"
    (tmp_path / "t.csv").write_text("\n".join(["y,c,d", *lines]) + "\n")
    config = {"type": "csv", "path": str(tmp_path / "t.csv"), "label": "y"}
    told = []
    for options in (PrepareOptions(), RAY):
        with pytest.raises(DataError, match=r"t\.csv, row 50001, column y: found '2', expected 0 or 1") as caught:
            prepare(config, tmp_path / "out", options=options)
        told.append(str(caught.value))
    assert told[0] == told[1]
    assert not (tmp_path / "out").exists()
    assert "Traceback" not in "".join(capfd.readouterr())


@pytest.mark.long
def test_the_command_says_one_sentence_and_nothing_of_ray(tmp_path: Path) -> None:
    lines = [f"{row % 2},v{row % 9}" for row in range(300)]
    lines[200] = "2,v1"
    (tmp_path / "t.csv").write_text("\n".join(["y,c", *lines]) + "\n")
    run = {
        "dataset": {"type": "csv", "path": str(tmp_path / "t.csv"), "label": "y"},
        "model": {"interaction": {"type": "dot"}},
    }
    (tmp_path / "run.yaml").write_text(json.dumps(run))
    command = [sys.executable, "-m", "genrec_plugins.cli", "preprocess", str(tmp_path / "run.yaml")]
    done = subprocess.run(
        [*command, "--engine", "ray", "--threads", "2", "--out", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == DataError.exit_code, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert "t.csv, row 201, column y: found '2', expected 0 or 1" in last
    for word in ("Traceback", "WARNING", "ray."):
        assert word not in done.stderr


# -- without a session ------------------------------------------------------------------------------------------------


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has not connected to Ray yet."""
    monkeypatch.setattr("ray.is_initialized", lambda: False)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.mark.parametrize(
    "address", ["127.0.0.1:{port}", "ray://127.0.0.1:{port}", "somewhere", "no.such.host.invalid:1"]
)
def test_an_address_without_ray_is_one_sentence(tmp_path: Path, no_ray: None, address: str) -> None:
    config = write_rows(tmp_path / "t.parquet", rows=50)
    options = PrepareOptions(engine="ray", ray_address=address.format(port=_free_port()))
    began = time.monotonic()
    with pytest.raises(SetupError, match=r"Ray cannot be reached at '.*ray start --head") as caught:
        prepare(config, tmp_path / "out", options=options)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - began < 60, "Ray's own patience is longer"
    assert not (tmp_path / "out").exists()


def test_an_address_with_something_else_is_one_sentence(
    tmp_path: Path, no_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(**_: Any) -> None:
        raise ConnectionError("This is no Ray.\nTraceback and more")

    monkeypatch.setattr("ray.init", refuses)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{server.getsockname()[1]}")
        with pytest.raises(SetupError, match=r"cannot be reached at '127\.0\.0\.1:\d+' \(This is no Ray\.\)"):
            prepare(write_rows(tmp_path / "t.parquet", rows=50), tmp_path / "out", options=PrepareOptions(engine="ray"))


def test_an_address_for_the_local_engine_is_told() -> None:
    with pytest.raises(ConfigError, match=r"ray_address is '1\.2\.3\.4:5', but engine is 'local'; set engine to ray"):
        explain(PrepareOptions, {"ray_address": "1.2.3.4:5"}, where="options")


def test_without_the_package_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SetupError, match=r'pip install "genrec-plugins\[ray\]"'):
        prepare(write_rows(tmp_path / "t.parquet", rows=50), tmp_path / "out", options=PrepareOptions(engine="ray"))
