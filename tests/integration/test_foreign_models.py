"""docs/foreign-models.md: layers of torch-rechub and FuxiCTR as interactions, in under 30 lines, held to the kit.

Neither is a requirement of this project. The long form installs them into environments of their own; in the default
form the page's plugins run over stand-ins that are written here from the papers.
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
RECHUB = ("torch-rechub==0.9.0",)
FUXICTR = ("fuxictr==2.3.10", "h5py==3.16.0")
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


class MachineOfThePaper(nn.Module):
    """Elementary symmetric polynomials of the tokens by Newton's identities, mapped to 1."""

    def __init__(self, width: int, order: int) -> None:
        super().__init__()
        self.order, self.out = order, nn.Linear(order * width, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        powers = [tokens.pow(k + 1).sum(1) for k in range(self.order)]
        found = [torch.ones_like(powers[0])]
        for k in range(1, self.order + 1):
            terms = [(-1) ** (i - 1) * found[k - i] * powers[i - 1] for i in range(1, k + 1)]
            found.append(sum(terms) / k)
        return self.out(torch.cat(found[1:], dim=1))


#: plugin on the page -> the library's module, the layer, its stand-in, and what the plugin defines
PLUGINS = {
    "rechub_cin.py": ("torch_rechub.basic.layers", "CIN", CinOfThePaper, ("CinConfig", "CinInteraction")),
    "fuxictr_machine.py": (
        "fuxictr.pytorch.layers", "InteractionMachine", MachineOfThePaper, ("MachineConfig", "MachineInteraction"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("page", PLUGINS)
def test_the_plugin_has_fewer_than_thirty_lines(page: str) -> None:
    code, (_, layer, _, classes) = BLOCKS[page], PLUGINS[page]
    assert f"import {layer}" in code
    assert len(code.splitlines()) < 30
    names = {node.name for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    assert names == {*classes, "__init__", "forward", "genrec_interactions"}


@pytest.mark.parametrize("page", PLUGINS)
def test_the_plugin_conforms_over_a_stand_in(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the page writes is right, whatever the library's layer does: every check of this process."""
    library, layer, stand_in, (config, interaction) = PLUGINS[page]
    parts = library.split(".")
    for end in range(1, len(parts) + 1):
        name = ".".join(parts[:end])
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    setattr(sys.modules[library], layer, stand_in)
    name = page.removesuffix(".py")
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / page).write_text(BLOCKS[page])
    module = importlib.import_module(name)
    monkeypatch.setitem(sys.modules, name, module)  # goes away with the stand-in
    subject = testing.interaction_suite(getattr(module, interaction), getattr(module, config)()).subject
    if page == "rechub_cin.py":
        space: dict[str, Any] = {}
        exec(BLOCKS["test_rechub_cin.py"], space)
        subject = space["TestCin"].subject
    for check in ("shapes", "batch_independence", "gradients", "fx", "torchscript", "export"):
        getattr(testing, f"check_{check}")(subject.build(), subject.context)
    for check in ("meta_device", "state_dict", "determinism"):
        getattr(testing, f"check_{check}")(subject.build, subject.context)
    if page == "rechub_cin.py":
        exec(BLOCKS["notebook"], {})


def environment_with(packages: tuple[str, ...], folder: Path) -> Environment:
    environment = Environment(folder / "venv")
    done = environment.pip_install(*packages, index=True, cwd=folder)
    if done.returncode:
        pytest.skip(
            f"{packages[0]} cannot be installed here: {(done.stderr.strip().splitlines() or ['no reason'])[-1]}"
        )
    return environment


@pytest.fixture(scope="module")
def with_rechub(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return environment_with(RECHUB, tmp_path_factory.mktemp("rechub"))


@pytest.fixture(scope="module")
def with_fuxictr(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return environment_with(FUXICTR, tmp_path_factory.mktemp("fuxictr"))


@pytest.mark.long
@pytest.mark.distributed
def test_the_page_runs_with_torch_rechub(with_rechub: Environment, tmp_path: Path) -> None:
    """The plugin, the notebook, and the kit with two ranks."""
    for name in ("rechub_cin.py", "test_rechub_cin.py", "notebook"):
        (tmp_path / name.replace("notebook", "notebook.py")).write_text(BLOCKS[name])
    shown = with_rechub.run("-m", "pytest", "-q", "-p", "no:cacheprovider", "test_rechub_cin.py", cwd=tmp_path)
    assert re.search(r"\b12 passed, 1 skipped", shown), shown
    with_rechub.run("notebook.py", cwd=tmp_path)


@pytest.mark.long
@pytest.mark.distributed
def test_the_page_runs_with_fuxictr(with_fuxictr: Environment, tmp_path: Path) -> None:
    (tmp_path / "fuxictr_machine.py").write_text(BLOCKS["fuxictr_machine.py"])
    (tmp_path / "test_machine.py").write_text(
        "from fuxictr_machine import MachineConfig, MachineInteraction\n"
        "from genrec_plugins.testing import interaction_suite\n"
        "TestMachine = interaction_suite(MachineInteraction, MachineConfig(order=5))\n"
    )
    shown = with_fuxictr.run("-m", "pytest", "-q", "-p", "no:cacheprovider", "test_machine.py", cwd=tmp_path)
    assert re.search(r"\b12 passed, 1 skipped", shown), shown


def said_on_the_page(heading: str) -> dict[str, str]:
    """Layer (or variant) -> what the table below a line says the kit finds."""
    table = PAGE.read_text().partition(heading)[2].partition("\n\n")[2].partition("\n\n")[0]
    rows = [line.split("|")[1:4] for line in table.splitlines()]
    return {name: verdict for names, verdict, _ in rows for name in re.findall(r"`(\w+)`", names)}


def found_by_the_kit(environment: Environment, library: str) -> dict[str, list[str]]:
    script = str(Path(__file__).with_name("foreign_layers.py"))
    found: dict[str, list[str]] = json.loads(environment.run(script, library, cwd=ROOT).splitlines()[-1])
    return found


TRACED = ["fx", "torchscript"]
#: what CrossNetMix of either fails
MIX = ["shapes", "batch_independence", *TRACED, "export", "meta_device"]


@pytest.mark.long
def test_other_layers_of_torch_rechub_fail_where_the_page_says(with_rechub: Environment) -> None:
    found, said = (
        found_by_the_kit(with_rechub, "torch_rechub"),
        said_on_the_page("`torch_rechub.basic.layers` (0.9.0):"),
    )
    assert set(found) == set(said)
    assert {name for name in said if "passes" in said[name]} == {name for name in found if not found[name]}
    assert found == {
        **{name: [] for name in ("CIN", "FM", "InteractingLayer")},
        **{name: ["meta_device"] for name in ("CrossNetwork", "CrossNetV2")},
        "CrossNetMix": MIX,
        "SENETLayer": ["torchscript"],
        "BiLinearInteractionLayer": TRACED,
        "field_each": ["gradients", *TRACED],
        "MLP": ["batch_independence", "torchscript"],
    }


@pytest.mark.long
def test_other_layers_of_fuxictr_fail_where_the_page_says(with_fuxictr: Environment) -> None:
    found = found_by_the_kit(with_fuxictr, "fuxictr")
    said = said_on_the_page("`fuxictr.pytorch.layers` (2.3.10):")
    assert set(found) == set(said)
    fine = {"CrossNetV2", "CompressedInteractionNet", "InteractionMachine", "InnerProductInteraction", "MLP_Block"}
    assert {name for name in found if not found[name]} == fine
    assert fine - {"InnerProductInteraction"} == {name for name in said if "passes" in said[name]}, "one has two rows"
    lost = ("CrossNet", "inner_product", "elementwise_product", "BilinearInteractionV2", "HolographicInteraction")
    assert found == {
        **{name: [] for name in fine},
        **{name: ["meta_device"] for name in lost},
        "CrossNetMix": MIX,
        "BilinearInteraction": TRACED,
        "SqueezeExcitation": ["torchscript"],
    }
