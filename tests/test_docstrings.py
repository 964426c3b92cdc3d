"""Every ``>>>`` example in the docstrings of the three packages runs and prints what it says."""

from __future__ import annotations

import doctest
import importlib
import io
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = (ROOT / "registry", ROOT / "adapters", ROOT)
PACKAGES = ("genrec_registry", "genrec_adapters", "genrec_plugins")
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE

MODULES = sorted(
    ".".join(path.relative_to(room).with_suffix("").parts).removesuffix(".__init__")
    for room, package in zip(ROOMS, PACKAGES, strict=True)
    for path in (room / package).rglob("*.py")
    if path.name != "__main__.py" and ">>>" in path.read_text(encoding="utf-8")
)


def run_examples(module: object) -> tuple[int, str]:
    """How many examples of a module were tried, and the report of those that failed."""
    report = io.StringIO()
    runner = doctest.DocTestRunner(optionflags=FLAGS, verbose=False)
    for test in doctest.DocTestFinder(exclude_empty=True).find(module):
        runner.run(test, out=report.write)
    return runner.tries, report.getvalue()


@pytest.mark.parametrize("name", MODULES)
def test_examples(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tried, report = run_examples(importlib.import_module(name))
    assert report == "", report
    assert tried, f"{name} has '>>>' where doctest does not find it"


def test_a_wrong_example_is_reported():
    module = ModuleType("fake")
    exec('def wrong():\n    """Say so.\n\n    >>> 1 + 1\n    3\n    """', module.__dict__)
    tried, report = run_examples(module)
    assert tried == 1
    assert "Expected:\n    3\nGot:\n    2" in report
