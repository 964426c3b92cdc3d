"""Two real packages, installed by pip into a folder, found and used by a fresh interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PYPROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "{name}"
version = "0.7"
[project.entry-points."genrec.plugins"]
plugin = "{module}"
"""
SOUND = """
from genrec_registry import Config, InteractionRecord, hookimpl

GENREC_PLUGIN_API = ">=1.0,<2"

class CrossConfig(Config):
    num_layers: int = 3

def build(config, context):
    return ("cross", config.num_layers, context)

@hookimpl
def genrec_interactions():
    yield InteractionRecord(name="acme-cross", config="{module}:CrossConfig", factory="{module}:build", summary="Cross")
"""
BROKEN = "raise RuntimeError('this package is broken')\n"


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A folder with ``acme-genrec`` (sound) and ``broken-genrec``, whose entry points have the same name."""
    root = tmp_path_factory.mktemp("packages")
    projects = []
    for name, code in (("acme-genrec", SOUND), ("broken-genrec", BROKEN)):
        module = name.replace("-", "_")
        project = root / name
        project.mkdir()
        (project / "pyproject.toml").write_text(PYPROJECT.format(name=name, module=module))
        (project / f"{module}.py").write_text(code.replace("{module}", module))
        projects.append(str(project))
    target = root / "site"
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    pip = [sys.executable, "-m", "pip", "install", *options, "--target", str(target)]
    subprocess.run([*pip, *projects], check=True, timeout=120)
    return target


def _run(site: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"PYTHONPATH": str(site)} | environment,
        check=False,
    )


def test_found_and_built_through_its_config(site):
    code = (
        "from genrec_registry import default_registry, parse_component\nregistry = default_registry()\n"
        "config = parse_component(registry, 'interaction', {'type': 'acme-cross', 'num_layers': 5})\n"
        "print(registry.create('interaction', config, 'context'))"
    )
    done = _run(site, "-c", code)
    assert done.stdout.strip() == "('cross', 5, 'context')", done.stderr


def test_cli_lists_the_sound_one_and_points_to_the_doctor(site):
    done = _run(site, "-m", "genrec_plugins.cli.main", "plugins", "list", "--kind", "interaction", "--json")
    assert done.returncode == 0
    row = next(row for row in json.loads(done.stdout) if row["name"] == "acme-cross")
    assert row["origin"] == "acme-genrec 0.7"
    done = _run(site, "-m", "genrec_plugins.cli.main", "plugins", "list")
    assert "1 plugin problem; run 'genrec plugins doctor'" in done.stderr


def test_doctor_explains_the_broken_one(site):
    done = _run(site, "-m", "genrec_plugins.cli.main", "plugins", "doctor")
    assert done.returncode == 1
    assert "FAILED    broken-genrec:plugin: cannot be imported: RuntimeError: this package is broken" in done.stdout
    assert "| Traceback (most recent call last):" in done.stdout
    done = _run(site, "-m", "genrec_plugins.cli.main", "plugins", "doctor", GENREC_DISABLE_PLUGINS="broken-genrec")
    assert done.returncode == 0
    assert "DISABLED  broken-genrec:plugin" in done.stdout


def test_strict_mode_ends_with_one_line(site):
    done = _run(site, "-m", "genrec_plugins.cli.main", "plugins", "list", GENREC_STRICT_PLUGINS="1")
    assert done.returncode == 3
    assert done.stderr.startswith("plugin broken-genrec:plugin cannot be imported: RuntimeError")
    assert len(done.stderr.strip().splitlines()) == 1
