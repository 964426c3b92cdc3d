"""The wheel, installed into a folder of its own, works away from the repository."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
PACKAGES = {
    "genrec_plugins": ROOT / "genrec_plugins",
    "genrec_registry": ROOT / "registry" / "genrec_registry",
    "genrec_adapters": ROOT / "adapters" / "genrec_adapters",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [*PIP, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder), str(ROOT)],
        check=True,
        timeout=300,
    )
    [built] = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    subprocess.run(
        [*PIP, "install", "--no-deps", "--no-index", "--target", str(folder), str(wheel)], check=True, timeout=300
    )
    return folder


def _genrec(site: Path, cwd: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, str(site / "bin" / "genrec"), *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_has_every_file_of_the_packages_and_no_other(wheel):
    with zipfile.ZipFile(wheel) as archive:
        shipped = {name for name in archive.namelist() if ".dist-info/" not in name}
    present = {
        f"{package}/{path.relative_to(folder).as_posix()}"
        for package, folder in PACKAGES.items()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert shipped == present


def test_the_copy_is_what_runs(site, tmp_path):
    code = "import genrec_plugins, genrec_registry, genrec_adapters as a; print(genrec_plugins.__file__, a.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.count(str(site)) == 2


def test_help_and_version_from_elsewhere(site, tmp_path):
    assert "Commands:" in _genrec(site, tmp_path, "--help")
    assert _genrec(site, tmp_path, "--version").startswith("genrec-plugins ")


def test_plugins_and_schema_from_elsewhere(site, tmp_path):
    listed = json.loads(_genrec(site, tmp_path, "plugins", "list", "--json"))
    builtin = {row["name"] for row in listed if row["origin"].startswith("genrec-plugins ")}
    assert {"fat", "dot", "criteo-kaggle", "avazu", "categorical"} <= builtin
    assert json.loads(_genrec(site, tmp_path, "schema"))["type"] == "object"


def test_generated_rows_from_elsewhere(site, tmp_path):
    _genrec(site, tmp_path, "generate", "avazu", "--rows", "20", "--out", "train.csv")
    assert len((tmp_path / "train.csv").read_text().splitlines()) == 21
