"""docs/foreign-models.md: a layer of torch-rechub as an interaction, in under 30 lines, held to the conformance kit.

torch-rechub is no requirement of this project. The long form installs it into an environment of its own; in the default
form the page's plugin runs over a stand-in that is written here from the paper.
"""

from __future__ import annotations

import ast
import importlib
import json
import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from genrec_plugins import testing
from tests.integration.environment import Environment
from tests.test_docs import blocks_of

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "foreign-models.md"
RECHUB = "torch-rechub==0.9.0"
#: the page's python blocks by the name in their first line
BLOCKS = {
    block.code.splitlines()[0].removeprefix("# "): block.code + "\n"
    for block in blocks_of(PAGE)
    if block.language == "python"
}


class CinOfThePaper(nn.Module):
    """Every layer's maps: weighted sums of products of a map before and a field; summed over D and mapped to 1."""

    def __init__(self, fields: int, sizes: list[int]) -> None:
        super().__init__()
        before = [fields, *sizes[:-1]]
        self.layers = nn.ModuleList(nn.Linear(fields * h, size) for h, size in zip(before, sizes, strict=True))
        self.out = nn.Linear(sum(sizes), 1)

    def forward(self, tokens: Tensor) -> Tensor:
        maps, pooled = tokens, []
        for layer in self.layers:
            products = (tokens.unsqueeze(1) * maps.unsqueeze(2)).flatten(1, 2)
            maps = torch.relu(layer(products.transpose(1, 2)).transpose(1, 2))
            pooled.append(maps.sum(2))
        return self.out(torch.cat(pooled, dim=1))


def test_the_plugin_has_fewer_than_thirty_lines() -> None:
    code = BLOCKS["rechub_cin.py"]
    assert "import CIN" in code
    assert len(code.splitlines()) < 30
    names = {node.name for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    assert names == {"CinConfig", "CinInteraction", "__init__", "forward", "genrec_interactions"}


def test_the_plugin_conforms_over_a_stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the page writes is right, whatever the library's layer does: every check of this process."""
    stand_in: Any = types.ModuleType("torch_rechub.basic.layers")
    stand_in.CIN = CinOfThePaper
    for name in ("torch_rechub", "torch_rechub.basic"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, stand_in.__name__, stand_in)
    monkeypatch.delitem(sys.modules, "rechub_cin", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "rechub_cin.py").write_text(BLOCKS["rechub_cin.py"])
    module = importlib.import_module("rechub_cin")
    monkeypatch.setitem(sys.modules, "rechub_cin", module)  # goes away with the stand-in
    space: dict[str, Any] = {}
    exec(BLOCKS["test_rechub_cin.py"], space)
    subject = space["TestCin"].subject
    for check in ("shapes", "batch_independence", "gradients", "fx", "torchscript", "export"):
        getattr(testing, f"check_{check}")(subject.build(), subject.context)
    for check in ("meta_device", "state_dict", "determinism"):
        getattr(testing, f"check_{check}")(subject.build, subject.context)
    exec(BLOCKS["notebook"], {})


@pytest.fixture(scope="module")
def with_rechub(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    folder = tmp_path_factory.mktemp("rechub")
    environment = Environment(folder / "venv")
    done = environment.pip_install(RECHUB, index=True, cwd=folder)
    if done.returncode:
        pytest.skip(f"{RECHUB} cannot be installed here: {(done.stderr.strip().splitlines() or ['no reason'])[-1]}")
    return environment


@pytest.mark.long
@pytest.mark.distributed
def test_the_page_runs_with_the_library(with_rechub: Environment, tmp_path: Path) -> None:
    """Every block, and the kit with two ranks."""
    for name, code in BLOCKS.items():
        (tmp_path / name.replace("notebook", "notebook.py")).write_text(code)
    shown = with_rechub.run("-m", "pytest", "-q", "-p", "no:cacheprovider", "test_rechub_cin.py", cwd=tmp_path)
    assert re.search(r"\b12 passed, 1 skipped", shown), shown
    with_rechub.run("notebook.py", cwd=tmp_path)


@pytest.mark.long
def test_other_layers_fail_where_the_page_says(with_rechub: Environment) -> None:
    script = str(Path(__file__).with_name("rechub_layers.py"))
    found = json.loads(with_rechub.run(script, cwd=ROOT).splitlines()[-1])
    rows = [line.split("|")[1:4] for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    said = {name: verdict for names, verdict, _ in rows for name in re.findall(r"`(\w+)`", names)}
    assert set(found) == set(said)
    assert {name for name in said if "passes" in said[name]} == {name for name in found if not found[name]}
    traced = ["fx", "torchscript"]
    assert found == {
        **{name: [] for name in ("CIN", "FM", "InteractingLayer")},
        **{name: ["meta_device"] for name in ("CrossNetwork", "CrossNetV2")},
        "CrossNetMix": ["shapes", "batch_independence", *traced, "export", "meta_device"],
        "SENETLayer": ["torchscript"],
        "BiLinearInteractionLayer": traced,
        "field_each": ["gradients", *traced],
        "MLP": ["batch_independence", "torchscript"],
    }
