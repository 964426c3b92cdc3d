"""The pinned lists, pyproject.toml, the Makefile and the doctor agree on versions."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from genrec_plugins import doctor
from genrec_plugins.doctor import Installation, examine

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def _pins(name: str) -> dict[str, str]:
    lines = (ROOT / "requirements" / name).read_text().splitlines()
    pins = {}
    for line in lines:
        if line and not line.startswith("#"):
            package, equals, version = line.partition("==")
            assert equals, f"requirements/{name}: {line} is not pinned"
            pins[canonicalize_name(package)] = version
    return pins


def test_every_requirement_is_pinned_at_a_version_it_accepts():
    pins = _pins("cpu.txt")
    for line in PROJECT["dependencies"]:
        need = Requirement(line)
        assert need.specifier.contains(pins[canonicalize_name(need.name)]), line
    for extra, lines in PROJECT["optional-dependencies"].items():
        pinned = {"test": "dev.txt", "docs": "dev.txt"}.get(extra, "extras.txt")
        for line in lines if extra != "cuda" else ():
            need = Requirement(line)
            assert need.specifier.contains((pins | _pins(pinned))[canonicalize_name(need.name)]), line


def test_no_package_is_pinned_twice():
    names = [name for path in ("cpu.txt", "extras.txt", "dev.txt") for name in _pins(path)]
    assert len(names) == len(set(names))


def test_the_pinned_installation_is_healthy():
    versions = {**_pins("cpu.txt"), "torch": doctor.TORCH}
    facts = Installation(versions=versions, torch_cuda=False, requires=tuple(PROJECT["dependencies"]))
    assert [finding for finding in examine(facts, probe=None) if finding.level != "ok"] == []


def test_the_cuda_extra_is_in_step():
    pins = dict(line.split("==") for line in PROJECT["optional-dependencies"]["cuda"])
    assert pins == {"torch": doctor.TORCH, "torchrec": doctor.TORCHREC, "fbgemm-gpu": doctor.TORCHREC}


@pytest.mark.parametrize("path", ["Makefile", "requirements/cpu.txt"])
def test_texts_name_the_tested_torch(path):
    assert set(re.findall(r"torch==([\d.]+\d)", (ROOT / path).read_text())) == {doctor.TORCH}


def test_python_version_is_the_doctors():
    assert PROJECT["requires-python"] == ">=" + ".".join(map(str, doctor.MIN_PYTHON))
