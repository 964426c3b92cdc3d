"""The example scripts and the notebook: FAT takes two lines, all train, and the notebook prints what it shows."""

from __future__ import annotations

import ast
import contextlib
import difflib
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import DATA

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
STOCK, FAT = EXAMPLES / "dlrm_torchrec.py", EXAMPLES / "dlrm_fat.py"
NOTEBOOK = EXAMPLES / "swap_in_fat.ipynb"
SMALL = ["--steps", "60", "--batch-size", "256", "--num-embeddings", "40"]


def run(*command: str) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def losses() -> dict[str, list[list[float]]]:
    """Losses of both scripts' ``main``, on planted and on real rows, in one process."""
    cases = {"planted": SMALL}
    sample = DATA / "criteo" / "train_sample.txt.gz"
    if sample.exists():
        cases["real"] = ["--criteo", str(sample), "--steps", "30", "--num-embeddings", "2000"]
    code = f"""
import json, runpy
mains = [runpy.run_path(path)["main"] for path in {[str(STOCK), str(FAT)]!r}]
print(json.dumps({{name: [main(options) for main in mains] for name, options in {cases!r}.items()}}))
"""
    found: dict[str, list[list[float]]] = json.loads(run("-c", code).splitlines()[-1])
    return found


def test_fat_is_two_lines_more() -> None:
    lines = [path.read_text().splitlines() for path in (STOCK, FAT)]
    changed = [line for line in difflib.ndiff(*lines) if line[:2] in ("+ ", "- ") and line[2:].strip()]
    assert [line.strip() for line in changed] == [
        "+ from genrec_plugins.models import swap_interaction",
        '+     swap_interaction(dlrm, "fat")',
    ]


def test_the_stock_script_knows_nothing_of_this_project() -> None:
    imported = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(STOCK.read_text()))
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [])
    }
    assert "torchrec" in imported
    assert not {name for name in imported if name.startswith("genrec")}


def test_both_learn_the_planted_rows(losses: dict[str, list[list[float]]]) -> None:
    stock, fat = losses["planted"]
    for found in (stock, fat):
        assert len(found) == 60
        assert sum(found[-10:]) / 10 < sum(found[:5]) / 5 - 0.1
    assert stock != fat


def test_both_learn_real_rows(losses: dict[str, list[list[float]]], criteo_sample: Path) -> None:
    for found in losses["real"]:
        assert len(found) == 30
        assert sum(found[-10:]) / 10 < sum(found[:5]) / 5 - 0.03


@pytest.mark.long
@pytest.mark.distributed
@pytest.mark.parametrize("script", [STOCK, FAT], ids=lambda path: path.stem)
def test_it_trains_on_two_ranks(script: Path, criteo_sample: Path) -> None:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for options in (SMALL, ["--criteo", str(criteo_sample), "--steps", "30", "--num-embeddings", "2000"]):
        shown = run(*torchrun, str(script), *options)
        means = [float(value) for value in re.findall(r"last ten (\S+)", shown)]
        assert len(means) == int(options[options.index("--steps") + 1]) // 10
        assert means[-1] < means[0]


@pytest.fixture(scope="module")
def cells() -> list[dict[str, object]]:
    notebook = json.loads(NOTEBOOK.read_text())
    assert (notebook["nbformat"], notebook["metadata"]["kernelspec"]["language"]) == (4, "python")
    identities = [cell["id"] for cell in notebook["cells"]]
    assert len(set(identities)) == len(identities)
    return notebook["cells"]


def test_the_notebook_runs_and_prints_what_it_shows(cells, monkeypatch, tmp_path) -> None:
    """Cell by cell, in one namespace; numbers with decimals may differ on another machine."""
    monkeypatch.chdir(tmp_path)
    space: dict[str, object] = {"__name__": "__main__"}
    for cell in cells:
        if cell["cell_type"] != "code":
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile("".join(cell["source"]), f"{NOTEBOOK.name}:{cell['id']}", "exec"), space)
        shown = "".join(line for output in cell["outputs"] for line in output["text"])
        decimals = re.compile(r"\d+\.\d+")
        assert decimals.sub("#", printed.getvalue()) == decimals.sub("#", shown)
    assert space["fat"] < space["untrained"] - 0.1
    assert space["stock"] < space["untrained"] - 0.1
    assert list(tmp_path.iterdir()) == []


def test_the_notebook_swaps_in_two_lines(cells) -> None:
    lines = [line.strip() for cell in cells if cell["cell_type"] == "code" for line in cell["source"]]
    assert "from genrec_plugins.models import swap_interaction" in lines
    assert 'swap_interaction(dlrm, "fat", {"num_heads": 2})' in lines
