"""A DLRM that reads a history: tokens, both recipes, resume, raw rows, two ranks, and mistakes told in a sentence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file
from torchrec.datasets.utils import Batch
from torchrec.models.dlrm import DLRMTrain

from genrec_adapters.loader import BatchLoader
from genrec_adapters.prepared import Prepared
from genrec_adapters.splits import assigner, parse_split
from genrec_plugins.models import FieldDLRM, StockDLRM, build_dlrm, load_stock_checkpoint, swap_interaction
from genrec_plugins.profiling.flops import forward_flops
from genrec_plugins.training.checkpoints import plain_weights
from genrec_plugins.training.run import TrainedRun, prepare_run, train_run
from genrec_plugins.training.trainer import Trainer
from genrec_registry import (
    SPLITS,
    ConfigError,
    ModelError,
    default_registry,
)
from tests.plugins.behaviour_cases import BARS, REGISTRY, ROWS, TORCHREC, make_run, write_table
from tests.plugins.interrupt import Interrupt

TABLES = ("t_past_item", "t_past_action")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_table(tmp_path_factory.mktemp("table") / "rows.parquet")


@pytest.fixture(scope="module")
def prepared(table: Path) -> Prepared:
    return prepare_run(make_run(table), table.parent / "prepared")


@pytest.mark.parametrize("train", [TORCHREC, BARS], ids=["torchrec", "bars"])
def test_training_learns_from_the_history(train: str, table: Path, prepared: Prepared) -> None:
    run = make_run(table, train.replace("epochs: 2", "epochs: 10"))
    trainer = Trainer(run.config, prepared, run.registry)
    assert trainer.model.token_names == ("x", "target", "past.user_1", "past.user_2")
    assert trainer.model.inter_arch.context.token_names == trainer.model.token_names
    before = plain_weights(trainer.recipe.model)
    result = trainer.fit()
    assert max(entry["valid"]["auc"] for entry in result.history) > 0.75, "without the history it is 0.5"
    moved = {name for name, value in before.items() if not torch.equal(value, result.weights[name])}
    assert moved >= {f"behaviour_arch.embedding_collection.embeddings.{table}.weight" for table in TABLES}
    assert moved == set(before), "every parameter is trained"


@pytest.mark.parametrize("train", [TORCHREC, BARS], ids=["torchrec", "bars"])
def test_resumed_run_ends_with_the_weights_of_an_unbroken_one(
    train: str, table: Path, prepared: Prepared, tmp_path: Path
) -> None:
    run = make_run(table, train.replace("epochs", "checkpoint_every: 2, epochs"))
    whole = train_run(run, tmp_path / "whole", prepared)
    with pytest.raises(KeyboardInterrupt):
        train_run(run, tmp_path / "broken", prepared, Interrupt(12))
    resumed = train_run(run, tmp_path / "broken", prepared)
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("broken", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert resumed["test"] == whole["test"]


def test_raw_rows_are_scored_as_the_prepared_ones(table: Path, prepared: Prepared, tmp_path: Path) -> None:
    run = make_run(table)
    train_run(run, tmp_path / "run", prepared)
    trained = TrainedRun(directory=tmp_path / "run", run=run, prepared=prepared)
    split = parse_split(prepared.manifest.config["split"])
    chosen = assigner(split, ROWS)(0, ROWS) == SPLITS.index("test")
    pl.read_parquet(table).filter(pl.Series(chosen)).write_parquet(tmp_path / "test.parquet")
    labels, probabilities = trained.predict_file(str(tmp_path / "test.parquet"))
    expected_labels, expected = trained.predict("test")
    np.testing.assert_array_equal(labels, expected_labels)
    np.testing.assert_array_equal(probabilities, expected)


def test_fused_update_of_an_unpooled_table_equals_its_definition(table: Path, prepared: Prepared) -> None:
    run = make_run(table)
    trainer = Trainer(run.config, prepared, run.registry)
    assert len(trainer.recipe.model.fused_optimizer.params) == 3, "no table may fall back to the dense optimizer"
    name = "behaviour_arch.embedding_collection.embeddings.t_past_item.weight"
    start = plain_weights(trainer.recipe.model)
    batch = next(iter(trainer.loader))
    plain = build_dlrm(run.config.model, prepared.fields, run.registry)
    plain.load_state_dict(start)
    torch.manual_seed(5)
    DLRMTrain(plain)(batch)[0].backward()
    gradient = plain.get_parameter(name).grad
    expected = start[name] - 0.1 * gradient / (gradient.square().mean(dim=1).sqrt() + 1e-8)[:, None]
    torch.manual_seed(5)
    trainer.recipe.optimizer.zero_grad()
    trainer.recipe.model(batch)[0].backward()
    torch.testing.assert_close(plain_weights(trainer.recipe.model)[name], expected, atol=1e-6, rtol=1e-5)


def test_bars_penalty_covers_both_kinds_of_tables(table: Path, prepared: Prepared) -> None:
    run = make_run(table, BARS.replace("lr: 0.01", "lr: 0.01, embedding_l2: 0.5, net_l2: 0.25"))
    trainer = Trainer(run.config, prepared, run.registry)
    names = ("sparse_arch.", "behaviour_arch.embedding_collection.")
    parameters = dict(trainer.model.named_parameters())
    tables = [value for name, value in parameters.items() if name.startswith(names)]
    rest = [value for name, value in parameters.items() if not name.startswith(names)]
    assert len(tables) == 3
    expected = 0.25 * sum((p**2).sum() for p in tables) + 0.125 * sum((p**2).sum() for p in rest)
    torch.testing.assert_close(trainer.recipe.penalty(), expected)


def test_encoder_has_its_own_learning_rate(table: Path, prepared: Prepared) -> None:
    run = make_run(table, TORCHREC.replace("epochs: 2", "epochs: 1, encoder_lr: 1.0e-12"))
    trainer = Trainer(run.config, prepared, run.registry)
    before = plain_weights(trainer.recipe.model)
    after = trainer.fit().weights
    still = {name for name in before if torch.allclose(before[name], after[name], atol=1e-9)}
    assert still == {"behaviour_arch.encoder.weight"}


@pytest.fixture(scope="module")
def batch(prepared: Prepared) -> Batch:
    return next(iter(BatchLoader(prepared, "train", 7)))


def build(table: Path, prepared: Prepared, model: str) -> FieldDLRM:
    torch.manual_seed(0)
    return build_dlrm(make_run(table, model=model).config.model, prepared.fields, REGISTRY)


@pytest.mark.parametrize(
    "name", sorted(component.record.name for component in default_registry().components("interaction"))
)
def test_every_interaction_takes_user_tokens(name: str, table: Path, prepared: Prepared, batch: Batch) -> None:
    model = build(table, prepared, f"encoder: tiny, interaction: {{type: {name}}}")
    loss, (_, logits, _) = DLRMTrain(model)(batch)
    loss.backward()
    assert logits.shape == (7,)
    for part in (model.behaviour_arch.encoder.weight, *model.behaviour_arch.tables()):
        assert part.grad is not None
        assert part.grad.abs().max() > 0


def test_interaction_sees_the_encoders_tokens_after_all_others(table: Path, prepared: Prepared, batch: Batch) -> None:
    model = build(table, prepared, "encoder: {type: tiny, tokens: 3}, interaction: mlp").eval()
    seen = {}
    model.inter_arch.register_forward_pre_hook(lambda _, __, named: seen.update(named), with_kwargs=True)
    model(batch.dense_features, batch.sparse_features)
    tokens = torch.cat([seen["dense_features"].unsqueeze(1), seen["sparse_features"]], dim=1)
    assert model.token_names == ("x", "target", "past.user_1", "past.user_2", "past.user_3")
    torch.testing.assert_close(tokens[:, 2:], model.behaviour_arch(batch.sparse_features))
    torch.testing.assert_close(tokens[:, :1], model.dense_arch(batch.dense_features))


def test_stock_shape_takes_user_tokens(table: Path, prepared: Prepared, batch: Batch) -> None:
    model = build(table, prepared, "encoder: tiny, dense: mlp, dense_arch: [5], interaction: dot")
    assert type(model) is StockDLRM
    assert model.token_names == ("dense", "target", "past.user_1", "past.user_2")
    assert model(batch.dense_features, batch.sparse_features).shape == (7, 1)


def test_encoder_may_be_wider_than_the_tables(table: Path, prepared: Prepared, batch: Batch) -> None:
    model = build(table, prepared, "encoder: tiny, encoder_dim: 12, encoder_feature_dim: 6, interaction: dot")
    assert {one.embedding_dim for one in model.behaviour_arch.embedding_collection.embedding_configs()} == {6}
    assert model.behaviour_arch.encoder.context.embedding_dim == 12
    assert model.behaviour_arch(batch.sparse_features).shape == (7, 2, 8)
    wide = build(table, prepared, "encoder: tiny, interaction: {type: ffm, pair_dim: 2}")
    assert wide.sparse_arch.D == 2 * 4, "pair embeddings count user tokens too"


def test_rows_without_history_and_other_rows_do_not_matter(table: Path, prepared: Prepared) -> None:
    model = build(table, prepared, "encoder: tiny").eval()
    whole = next(iter(BatchLoader(prepared, "train", 40)))
    lengths = whole.sparse_features["past.item"].lengths()
    assert (lengths == 0).any()
    logits = model(whole.dense_features, whole.sparse_features)
    assert torch.isfinite(logits).all()
    pieces = [model(one.dense_features, one.sparse_features) for one in BatchLoader(prepared, "train", 1)]
    torch.testing.assert_close(logits, torch.cat(pieces[:40]))


def test_traces_with_fx_and_torchscript(table: Path, prepared: Prepared, batch: Batch) -> None:
    from torchrec.fx import symbolic_trace

    model = build(table, prepared, "encoder: tiny, interaction: dot").eval()
    arch = symbolic_trace(model.behaviour_arch, leaf_modules=["Tiny"])
    torch.testing.assert_close(arch(batch.sparse_features), model.behaviour_arch(batch.sparse_features))


def test_swap_and_stock_checkpoints_keep_the_history(table: Path, prepared: Prepared, batch: Batch) -> None:
    model = build(table, prepared, "encoder: tiny, interaction: dot")
    names = ("sparse_arch.", "dense_arch.", "behaviour_arch.")
    kept = {name: value.clone() for name, value in model.state_dict().items() if name.startswith(names)}
    swap_interaction(model, "fat", {"num_heads": 2})
    assert model.inter_arch.context.token_names == ("x", "target", "past.user_1", "past.user_2")
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in kept.items())
    assert model(batch.dense_features, batch.sparse_features).shape == (7, 1)
    other = build(table, prepared, "encoder: tiny, interaction: mlp")
    assert set(load_stock_checkpoint(other, model.state_dict()).loaded) >= set(kept)


def test_flops_count_the_encoder(table: Path, prepared: Prepared, batch: Batch) -> None:
    arguments = (batch.dense_features, batch.sparse_features)
    flops = [
        forward_flops(build(table, prepared, f"encoder: {{type: tiny, tokens: {n}}}, interaction: dot"), *arguments)
        for n in (1, 2)
    ]
    assert flops[1] >= flops[0] + 2 * 7 * 2 * 8 * 8


def test_mistakes_are_told_in_a_sentence(table: Path, prepared: Prepared) -> None:
    with pytest.raises(ConfigError, match=r"model\.encoder is missing: the field 'past' is a history.*encoder: din"):
        build(table, prepared, "encoder: null")
    no_history = [field for field in prepared.fields if field.behaviour is None]
    config = make_run(table).config.model
    with pytest.raises(ConfigError, match=r"model\.encoder is 'tiny', but no field is a history"):
        build_dlrm(config, no_history, REGISTRY)
    with pytest.raises(ConfigError, match="'past' and 'past' are both histories"):
        build_dlrm(config, [*prepared.fields, prepared.fields[-1]], REGISTRY)
    with pytest.raises(ConfigError, match="go with an encoder"):
        make_run(table, model="encoder_dim: 4")
    with pytest.raises(ConfigError, match=r"'model.encoder.type' is 'tinny', did you mean 'tiny'\?"):
        make_run(table, model="encoder: tinny")
    with pytest.raises(ConfigError, match=r"unknown key 'model.encoder.token', did you mean 'tokens'\?"):
        make_run(table, model="encoder: {type: tiny, token: 1}")
    run = make_run(table, model="encoder: tiny, encoder_feature_dim: 6")
    with pytest.raises(ConfigError, match=r"table 't_past_item' has width 6, the fused kernels .* multiples of 4"):
        Trainer(run.config, prepared, REGISTRY)
    past = prepared.fields[-1]
    clash = replace(past, sparse=(*past.sparse[:-1], replace(past.sparse[-1], num_embeddings=3)))
    with pytest.raises(ModelError, match="table 'past_item' is shared by"):
        build_dlrm(config, [*no_history, clash], REGISTRY)


@pytest.fixture(scope="module")
def two_ranks(table: Path, prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What two gloo ranks report that trained the model from a build on the meta device."""
    folder = tmp_path_factory.mktemp("ranks")
    facts = {"config": make_run(table).config.model_dump(mode="json"), "prepared": str(prepared.directory)}
    (folder / "run.json").write_text(json.dumps(facts))
    script = Path(__file__).with_name("behaviour_ranks.py")
    environment = os.environ | {"PYTHONPATH": str(script.parents[2]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), str(folder)]
    workers = [
        subprocess.Popen([*command, str(rank)], stderr=subprocess.PIPE, text=True, env=environment) for rank in range(2)
    ]
    errors = [worker.communicate(timeout=120)[1] for worker in workers]
    assert all(worker.returncode == 0 for worker in workers), "\n".join(errors)
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]


def test_two_ranks_share_the_tables_and_agree(two_ranks: list[dict]) -> None:
    first, second = two_ranks
    assert first["dense"] == second["dense"]
    assert {"target", "past_item", "past_action"} == {
        name.rpartition(".t_")[2].removesuffix(".weight") for name in first["owned"] + second["owned"]
    }
    assert not set(first["owned"]) & set(second["owned"])
    losses = np.mean([first["losses"], second["losses"]], axis=0)
    assert losses[-4:].mean() < losses[:4].mean() - 0.03


def test_pipeline_looks_histories_up_ahead_of_time(two_ranks: list[dict]) -> None:
    for rank in two_ranks:
        assert rank["messages"] == []
        assert rank["pipelined"] == [
            "model.behaviour_arch.embedding_collection",
            "model.sparse_arch.embedding_bag_collection",
        ]


@pytest.mark.parametrize("name", sorted(one.record.name for one in REGISTRY.components("encoder")))
def test_every_encoder_reads_the_history(name: str, table: Path, prepared: Prepared) -> None:
    model = build(table, prepared, f"encoder: {name}").eval()
    whole = next(iter(BatchLoader(prepared, "train", 40)))
    lengths = whole.sparse_features["past.item"].lengths()
    loss, (_, logits, _) = DLRMTrain(model)(whole)
    loss.backward()
    assert model.behaviour_arch.tables()[0].grad.abs().max() > 0
    with torch.no_grad():
        alone = [model(one.dense_features, one.sparse_features) for one in BatchLoader(prepared, "train", 1)]
    torch.testing.assert_close(logits, torch.cat(alone[:40]).squeeze(1), atol=1e-5, rtol=1e-4)
    assert (lengths == 0).any(), "a row without events, alone a batch without any"
