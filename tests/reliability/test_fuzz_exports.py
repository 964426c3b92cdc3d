"""Damaged exports, also those whose digests were made to fit: scores, or a sentence of ours."""

from __future__ import annotations

import dataclasses
import json
import shutil
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import strategies as st

from genrec_plugins.serving.export import export_run
from genrec_plugins.serving.exported import Exported
from genrec_plugins.serving.facts import ExportFacts, file_facts
from genrec_registry import GenrecError
from genrec_registry.config import digest
from tests.reliability import cases
from tests.reliability.mutations import as_json, changed, damaged
from tests.reliability.test_fuzz_rows import fuzz

FIELDS = {
    "a": {"type": "categorical", "min_count": 1},
    "b": {"type": "categorical", "mode": "hash", "num_buckets": 7},
    "x": {"type": "numeric-bucket", "method": "quantile", "num_buckets": 4},
}
ROWS = {"a": ["a1", None, "?"], "b": ["b1", None, "?"], "x": [0.5, None, 1e300]}
FILES = (
    "export.json",
    "config.json",
    "weights.safetensors",
    "preprocessing/manifest.json",
    "preprocessing/vocab/a.json",
)


@pytest.fixture(scope="module", params=["fp32", "int8"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    config = cases.run_config(cases.write_table(folder / "rows.csv", rows=60), fields=FIELDS)
    config["train"] |= {"epochs": 1, "checkpoint_every": 0}
    cases.prepare(config, folder / "prepared")
    cases.train(config, folder / "prepared", folder / "run")
    export_run(folder / "run", folder / "export", tables=request.param, formats=())
    return folder / "export"


def score(folder: Path) -> None:
    exported = Exported.open(folder)
    table = pa.table({column.name: ROWS[column.name] for column in exported.schema.columns if column.name in ROWS})
    exported.score(table)


def restate(folder: Path) -> None:
    """Make the digests fit, as someone would who changes a file on purpose."""
    with suppress(GenrecError, OSError, ValueError, KeyError, TypeError):
        path = folder / "export.json"
        data = json.loads(path.read_bytes())
        found = file_facts(folder)
        data["files"] = {name: dataclasses.asdict(found[name]) for name in data["files"]}
        counted = {name: entry["sha256"] for name, entry in data["files"].items()}
        data["digest"] = digest({"files": counted, "schema": data["schema"], "tables": data["tables"]})
        path.write_text(json.dumps(data))


def holds(made: Path, name: str, folder: Path, examples: int) -> None:
    here = folder / "export"
    shutil.copytree(made, here)
    sound = {path: (here / path).read_bytes() for path in (name, "export.json")}
    restate(here)
    assert ExportFacts.read(here).digest == ExportFacts.read(made).digest
    score(here)

    def check(data: st.DataObject) -> None:
        json_too = name.endswith(".json") and data.draw(st.integers(0, 3)) > 0
        damage = as_json(data.draw(changed(json.loads(sound[name])))) if json_too else data.draw(damaged(sound[name]))
        (here / "export.json").write_bytes(sound["export.json"])
        (here / name).write_bytes(damage)
        if data.draw(st.integers(0, 3)):
            restate(here)
        with suppress(GenrecError):
            score(here)

    fuzz(examples, check)


@pytest.mark.parametrize("content", [b"null", b'["a"]', b"1", b"{}"])
def test_a_config_that_is_no_mapping(content: bytes, made: Path, tmp_path: Path) -> None:
    here = tmp_path / "export"
    shutil.copytree(made, here)
    (here / "config.json").write_bytes(content)
    restate(here)
    with pytest.raises(GenrecError):
        score(here)


@pytest.mark.parametrize("name", FILES)
def test_exports(name: str, made: Path, tmp_path: Path) -> None:
    holds(made, name, tmp_path, 15)


@pytest.mark.long
@pytest.mark.parametrize("name", FILES)
def test_exports_long(name: str, made: Path, tmp_path: Path) -> None:
    holds(made, name, tmp_path, 1000)
