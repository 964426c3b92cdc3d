"""A field type from another package: installed, found through its entry point, and held to the contract."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "examples" / "genrec-geo-field"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment variables of a process that has the package installed; this process does not."""
    target = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*command, "--target", target, PACKAGE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not (PACKAGE / "build").exists(), "the build leaves something behind in the source"
    return {**os.environ, "PYTHONPATH": str(target), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def run(environment: dict[str, str], *command: str) -> str:
    done = subprocess.run(
        [sys.executable, *command], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_registry_finds_it(environment: dict[str, str]) -> None:
    code = """
import sys
from genrec_registry import Registry, parse_component
registry = Registry()
component = registry.get("field-type", "geohash")
print(component.qualified_name, component.version, component.plugin, len(registry.failures))
print("genrec_geo_field.config" in sys.modules, "polars" in sys.modules, "torch" in sys.modules)
print(parse_component(registry, "field-type", {"type": "geohash", "precisions": [2, 4]}).precisions)
"""
    assert run(environment, "-c", code).splitlines() == [
        "genrec-geo-field/geohash 0.1.0 geo 0",
        "False False False",
        "(2, 4)",
    ]


def test_it_is_listed_with_its_origin(environment: dict[str, str]) -> None:
    listed = run(environment, "-m", "genrec_plugins.cli.main", "plugins", "list")
    lines = [line for line in listed.splitlines() if "geohash" in line]
    assert len(lines) == 1
    assert "genrec-geo-field 0.1.0" in lines[0]
    without = {**environment, "GENREC_DISABLE_PLUGINS": "genrec-geo-field"}
    shown = run(without, "-c", "from genrec_registry import Registry; print(Registry().names('field-type'))")
    assert "categorical" in shown
    assert "geohash" not in shown


def test_a_wrong_option_is_explained(environment: dict[str, str]) -> None:
    code = """
from genrec_registry import ConfigError, default_registry, parse_component
try:
    parse_component(default_registry(), "field-type", {"type": "geohash", "precision": [2, 4]})
except ConfigError as error:
    print(error)
"""
    assert "precisions" in run(environment, "-c", code)


def test_it_passes_the_suite_that_its_author_runs(environment: dict[str, str]) -> None:
    shown = run(environment, "-m", "pytest", "-p", "no:cacheprovider", str(PACKAGE / "tests"))
    assert "failed" not in shown


def test_a_run_trains_with_it_and_learns_where_the_clicks_are(environment: dict[str, str], tmp_path: Path) -> None:
    """Clicks come from one place only; without the geohash field the rows carry no signal at all."""
    source = np.random.default_rng(0)
    where = source.integers(0, 2, 4000)
    latitude = np.where(where == 1, 48.2, 40.7) + source.normal(0, 0.01, 4000)
    longitude = np.where(where == 1, 16.4, -74.0) + source.normal(0, 0.01, 4000)
    label = (source.random(4000) < np.where(where == 1, 0.8, 0.2)).astype(int)
    rows = zip(label, latitude, longitude, source.integers(0, 5, 4000), strict=True)
    text = "\n".join(["label,lat,lon,noise", *(f"{y},{a:.5f},{b:.5f},n{n}" for y, a, b, n in rows)])
    (tmp_path / "rows.csv").write_text(text + "\n")
    (tmp_path / "run.yaml").write_text("""
dataset: {type: csv, path: rows.csv, label: label, numbers: [lat, lon]}
split: {type: shuffled, seed: 1}
fields:
  noise: {type: categorical, min_count: 1}
  place: {type: geohash, latitude: lat, longitude: lon, precisions: [2, 4], min_count: 1}
model: {embedding_dim: 4, over_arch: [8], interaction: {type: fat, num_heads: 2}}
train: {batch_size: 256, epochs: 3, threads: 1, embedding_lr: 0.1, dense_lr: 0.01}
""")
    command = ["-m", "genrec_plugins.cli.main", "train", str(tmp_path / "run.yaml"), "--json", "--quiet"]
    options = ["--out", str(tmp_path / "run"), "--prepared", str(tmp_path / "prepared")]
    path = f"dataset.path={tmp_path / 'rows.csv'}"
    report = json.loads(run(environment, *command, *options, "--set", path))
    assert report["test"]["auc"] > 0.75  # the true probabilities score 0.8
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["tokens"] == ["noise", "place_2", "place_4"]


def test_this_process_does_not_have_it() -> None:
    from genrec_registry import PluginError, Registry

    with pytest.raises(PluginError, match="unknown field-type 'geohash'"):
        Registry().get("field-type", "geohash")
