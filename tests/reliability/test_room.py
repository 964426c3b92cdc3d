"""A model that cannot fit the machine is refused in one sentence, before any memory is taken."""

from __future__ import annotations

import resource
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torchrec.models.dlrm import DLRM
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from genrec_adapters.behaviour.histories import Catalogue, Vocabulary
from genrec_plugins import room
from genrec_plugins.config import parse_run
from genrec_plugins.lum.build import build_model
from genrec_plugins.lum.config import parse_lum
from genrec_plugins.models import FieldDLRM, build_dlrm, swap_interaction
from genrec_plugins.room import check_room, memory_of_machine
from genrec_plugins.tokenizers.autoencoder_training import Bottleneck, train_autoencoder
from genrec_plugins.tokenizers.configs import AutoencoderConfig
from genrec_registry import ConfigError, FieldSpec, GenrecError, SparseFeature, default_registry
from genrec_registry.config import tagged_config

RUN = "{dataset: {type: criteo-kaggle, path: x}, model: {embedding_dim: 16, interaction: fat}}"


def model_of(rows: int = 50, changes: Mapping[str, Any] | None = None, **options: Any) -> FieldDLRM:
    run = parse_run(RUN, {f"model.{key}": str(value) for key, value in (changes or {}).items()})
    names = [f"C{number}" for number in range(12)]
    fields = [
        FieldSpec(name=name, type="categorical", sparse=(SparseFeature(name=name, num_embeddings=rows),))
        for name in names
    ]
    torch.manual_seed(1)
    return build_dlrm(run.config.model, fields, run.registry, **options)


@pytest.mark.parametrize(
    ("rows", "changes", "where"),
    [
        (50, {"interaction": "{type: fat, num_layers: 100, width: 65536}"}, "model.interaction"),
        (50, {"interaction": "{type: fat, num_layers: 8, width: 65536, mode: hyper}"}, "model.interaction"),
        (50, {"over_arch": [65536] * 90}, "model.over_arch"),
        (2**31 - 8, {}, "the fields' tables, rows x model.embedding_dim"),
    ],
)
def test_models(rows: int, changes: dict[str, Any], where: str) -> None:
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ConfigError) as error:
        model_of(rows, changes)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("model: its parameters would take ")
    assert f"most of it in {where}, more than the " in str(error.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400 * 1024  # KiB
    assert time.perf_counter() - start < 30


@pytest.mark.parametrize("width", [2**31 - 1, 2**40])
def test_too_many_bytes_to_count(width: int) -> None:
    with pytest.raises(ConfigError, match=r"mine: one of its parameters would take over 2\*\*63 bytes; choose smaller"):
        check_room(lambda: nn.Linear(width, width), "mine")


def test_tables_without_memory_do_not_count() -> None:
    model = model_of(2**31 - 8, table_device="meta")
    assert all(table.is_meta for table in model.tables())


def test_the_weights_are_those_without_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    checked = model_of().state_dict()
    monkeypatch.setattr("genrec_plugins.models.dlrm.check_room", lambda *args, **options: None)
    for name, value in model_of().state_dict().items():
        assert torch.equal(value, checked[name]), name


def test_swap() -> None:
    tables = [EmbeddingBagConfig(name="t", embedding_dim=8, num_embeddings=10, feature_names=["f"])]
    dlrm = DLRM(EmbeddingBagCollection(tables=tables), 3, [8], [5, 1])
    before = dlrm.inter_arch
    with pytest.raises(ConfigError, match=r"interaction fat: its parameters would take .*; choose smaller sizes"):
        swap_interaction(dlrm, "fat", {"width": 65536, "num_layers": 100})
    assert dlrm.inter_arch is before


def write_codes(folder: Path) -> str:
    (folder / "codes.json").write_text('{"i0": ["<a_1>", "<b_2>"], "i1": ["<a_0>", "<b_3>"]}')
    return str(folder / "codes.json")


@pytest.mark.parametrize("name", ["lum", "hstu", "sasrec", "semantic-id", "knowing"])
@pytest.mark.parametrize("large", [False, True])
def test_pretraining(name: str, large: bool, tmp_path: Path) -> None:
    sizes = {"hidden": 65536 if large else 16, "heads": 2, "layers": 20} | {"codes": write_codes(tmp_path)}
    changes: dict[str, Any] = {"encoder": {"type": name, "hidden": sizes["hidden"], "num_layers": 20}}
    if name in ("semantic-id", "knowing"):
        changes = {"objective": {"type": "semantic-id", "knowledge": float(name == "knowing"), **sizes}}
    run = parse_lum({"dataset": {"type": "movielens", "path": "x"}, **changes})
    catalogue = Catalogue(items=Vocabulary.of(["i0", "i1"]), features={}, sizes={})
    made: list[nn.Module] = []

    def make() -> nn.Module:
        made.append(build_model(run.config, catalogue, {"action": 4}, torch.arange(3), default_registry()))
        return made[0]

    if large:
        with pytest.raises(ConfigError, match=r"the pre-training run: its parameters would take .*; choose smaller"):
            make()
    else:
        assert sum(parameter.numel() for parameter in make().parameters()) > 1000


def test_autoencoders() -> None:
    config = AutoencoderConfig(hidden_sizes=(65536,) * 20)
    with pytest.raises(ConfigError, match=r"tokenizer.hidden_sizes: its parameters would take .*; choose smaller"):
        train_autoencoder(np.ones((4, 8), np.float32), config, 4, Bottleneck(), 1)


def largest_of(name: str) -> dict[str, Any]:
    """The largest value of each number of an interaction, and the longest list of small ones."""
    component = default_registry().get("interaction", name)
    found: dict[str, Any] = {}
    for key, value in tagged_config(default_registry(), component).model_json_schema()["properties"].items():
        for kind in (value, *value.get("anyOf", ())):
            if kind.get("type") == "integer" or key.endswith("_ratio"):
                found[key] = kind["maximum"]
            elif "maxItems" in kind:
                found[key] = [8] * kind["maxItems"]
    return found


@pytest.mark.long
@pytest.mark.parametrize("name", default_registry().names("interaction"))
def test_each_number_at_its_bound(name: str) -> None:
    """It is refused in a sentence, or there is a model: nothing between that crashes or takes memory."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for key, value in largest_of(name).items():
        with suppress(GenrecError):
            model_of(changes={"interaction": f"{{type: {name}, {key}: {value}}}"}, device="meta")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400 * 1024  # KiB


def test_a_module_that_needs_values_is_not_checked() -> None:
    def build() -> nn.Module:
        layer = nn.Linear(2, 2)
        assert layer.weight.abs().max().item() >= 0  # not on the meta device
        return layer

    check_room(build, "mine")


def test_the_limit_of_a_container_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert memory_of_machine() > 2**30
    (limit := tmp_path / "memory.max").write_text("1000\n")
    monkeypatch.setattr(room, "_LIMIT", limit)
    assert memory_of_machine() == 1000
    with pytest.raises(ConfigError, match=r"mine: its parameters would take 2 KB, more than the 1 KB of this machine"):
        check_room(lambda: nn.Linear(499, 1), "mine")
    limit.write_text("max\n")
    assert memory_of_machine() > 2**30
