"""Imports go one way: genrec_registry <- genrec_adapters <- genrec_plugins; and files stay small."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {
    "genrec_registry": ROOT / "registry" / "genrec_registry",
    "genrec_adapters": ROOT / "adapters" / "genrec_adapters",
    "genrec_plugins": ROOT / "genrec_plugins",
}
#: what a package must not import, anywhere in it
FORBIDDEN = {
    "genrec_registry": {"genrec_adapters", "genrec_plugins", "torch", "torchrec", "fbgemm_gpu"},
    "genrec_adapters": {"genrec_plugins"},
    "genrec_plugins": set(),
}
MAX_LINES = 400


def _imports(path: Path) -> Iterator[tuple[str, int]]:
    """Every absolute import of a file, also those inside functions and under TYPE_CHECKING."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module, node.lineno


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_go_one_way(package):
    files = sorted(PACKAGES[package].rglob("*.py"))
    assert files
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in files
        for name, line in _imports(path)
        if name.split(".")[0] in FORBIDDEN[package]
    ]
    assert wrong == []


def test_the_check_sees_lazy_imports(tmp_path):
    sample = tmp_path / "sample.py"
    sample.write_text("def f():\n    import torch.nn as nn\n    from genrec_plugins.x import y\n")
    assert [name for name, _ in _imports(sample)] == ["torch.nn", "genrec_plugins.x"]


def test_files_stay_small():
    folders = [*PACKAGES.values(), ROOT / "tests", ROOT / "examples"]
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for f in folders for path in f.rglob("*.py")}
    long = [f"{path.relative_to(ROOT)}: {lines} lines" for path, lines in sorted(lengths.items()) if lines > MAX_LINES]
    assert long == [], f"split what has more than {MAX_LINES} lines"
