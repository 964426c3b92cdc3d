"""Plugin code comes from installed distributions: no config, state file or folder can name code to be imported."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from genrec_plugins.config import parse_run
from genrec_registry import GenrecError
from tests.reliability import cases
from tests.reliability.test_no_pickle import ROOT, sources

#: where a module is imported by a name that is computed, and where the name comes from
IMPORTS = {
    "registry/genrec_registry/__init__.py": "a table in the file",
    "registry/genrec_registry/lazy.py": "records, which installed plugins give",
    "genrec_plugins/synthetic/__init__.py": "a table in the file",
    "genrec_plugins/cli/main.py": "a table in the file",
    "genrec_plugins/benchmarks/speed/__main__.py": "a table in the file",
    "genrec_plugins/benchmarks/speed/hstu_reference.py": "a constant; the folder is an option of its command",
    "genrec_plugins/testing/worker.py": "the conformance kit's own command line",
}
MARK = "genrec_marked_module"


def test_modules_are_imported_by_computed_names_in_few_places() -> None:
    found = set()
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if called.endswith(("import_module", "spec_from_file_location", "exec_module", "run_path", "run_module")):
                found.add(str(path.relative_to(ROOT)))
    assert found == set(IMPORTS)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("dataset", "type"), f"{MARK}:run"),
        (("fields", "x", "type"), f"{MARK}:run"),
        (("model", "interaction", "type"), f"{MARK}:run"),
        (("model", "interaction", "type"), f"{MARK}/run"),
        (("model", "interaction", "type"), f"./{MARK}.py"),
        (("model", "interaction"), {"_target_": f"{MARK}.run"}),
    ],
)
def test_a_config_cannot_name_code(
    place: tuple[str, ...], value: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"{MARK}.py").write_text("raise SystemExit('was imported')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    config = cases.run_config(tmp_path / "rows.csv")
    part = config
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    with pytest.raises(GenrecError):
        parse_run(config)
    assert MARK not in sys.modules


def test_yaml_cannot_name_code() -> None:
    with pytest.raises(GenrecError):
        parse_run(f"dataset: !!python/object/apply:{MARK}.run []\n")
    assert MARK not in sys.modules


def test_a_module_without_a_distribution_is_no_plugin(tmp_path: Path) -> None:
    """A file that looks like a plugin, in the current folder and on the path, is not loaded."""
    (tmp_path / "genrec_evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    (tmp_path / "plugin.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    code = "from genrec_registry import default_registry as r; print(len(list(r().names('interaction'))))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=120
    )
    assert int(done.stdout) > 5
    assert not (tmp_path / "ran").exists()
