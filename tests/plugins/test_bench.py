"""The benchmark and the tuning on generated rows: what they train, keep, report, and never look at."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from genrec_adapters.loader import BatchLoader
from genrec_plugins.benchmarks import bench as bench_module
from genrec_plugins.benchmarks import tune as tune_module
from genrec_plugins.benchmarks.ablate import effects_table, run_ablation
from genrec_plugins.benchmarks.bench import BenchResult, run_bench
from genrec_plugins.benchmarks.plan import base_run, interaction_runs, merge, tuned_settings
from genrec_plugins.benchmarks.report import markdown, write_report
from genrec_plugins.benchmarks.tune import draw_settings, load_spaces, run_tuning
from genrec_plugins.profiling.flops import forward_flops, forward_operators, gemm_rate, mfu
from genrec_plugins.synthetic import generate
from genrec_plugins.training.metrics import evaluate_predictions
from genrec_registry import ConfigError, PluginError

ROWS = 3000
SMALL = {"train.batch_size": 512, "train.threads": 1, "model.embedding_dim": 4, "model.over_arch": [8]}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("generated") / "train.txt"
    generate("criteo", ROWS, path, seed=1, with_truth=True)
    return path


@pytest.fixture(scope="module")
def base(rows: Path) -> dict[str, Any]:
    return base_run("criteo", str(rows), overrides=SMALL)


@pytest.fixture(scope="module")
def result(base: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> BenchResult:
    tuned = {"fat": {"model.interaction.num_heads": 2}}
    return run_bench(base, ["fat", "dcn"], [1, 2], tuned, tmp_path_factory.mktemp("bench"))


def test_table_summarises_the_cells(result: BenchResult) -> None:
    assert {row.label for row in result.rows} == {"fat", "dcn"}
    assert result.rows[0].auc >= result.rows[1].auc
    for row in result.rows:
        cells = [cell for cell in result.cells if cell.label == row.label]
        assert [cell.seed for cell in cells] == [1, 2]
        auc = [cell.test["auc"] for cell in cells]
        assert row.auc == pytest.approx(np.mean(auc))
        assert row.auc_std == pytest.approx(abs(auc[0] - auc[1]) / np.sqrt(2))
        assert row.mfu == pytest.approx(3 * row.flops_per_row * row.rows_per_second / result.peak)
    assert {cell.test["rows"] for cell in result.cells} == {ROWS - int(ROWS * 0.8) - int(ROWS * 0.1)}


def test_flops_and_parameters_equal_a_hand_count(result: BenchResult) -> None:
    tokens, d = 39, 4
    dcn = next(row for row in result.rows if row.label == "dcn")
    width = tokens * d
    config = interaction_runs(base_run("criteo", "x"), ["dcn"], {}, 1)["dcn"].config.model.interaction
    cross = config.num_layers * 2 * (2 * width * config.low_rank_dim)
    over = 2 * (width * 8 + 8 * 1)
    numbers = 2 * 13 * (2 * d)  # value and missing indicator, projected to a token
    assert dcn.flops_per_row == cross + over + numbers
    cross_parameters = config.num_layers * (2 * width * config.low_rank_dim + width)
    number_parameters = 13 * (2 * d + d)
    assert dcn.dense_parameters == cross_parameters + width * 8 + 8 + 8 + 1 + number_parameters
    assert dcn.parameters - dcn.dense_parameters == result.protocol["table_rows"] * d


def test_bayes_optimum_is_of_exactly_the_test_rows(result: BenchResult, rows: Path) -> None:
    from genrec_adapters.splits import assigner, parse_split

    truth = pl.read_parquet(f"{rows}.truth.parquet")
    chosen = assigner(parse_split(result.protocol["split"]), ROWS)(0, ROWS) == 2
    test = truth.filter(pl.Series(chosen))
    expected = evaluate_predictions(test["label"].to_numpy(), test["probability"].to_numpy())
    assert result.bayes == expected.as_dict()
    assert result.cells[0].test["calibration"] > 0
    labels = {cell.test["rows"] for cell in result.cells}
    assert labels == {expected.rows}
    assert all(cell.test["auc"] < expected.auc for cell in result.cells)


def test_finished_cells_are_kept_and_changed_ones_trained_again(
    base: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[tuple[str, int]] = []
    real = bench_module.run_cell

    def counting(label: str, config: Any, *rest: Any) -> Any:
        trained.append((label, config.seed))
        return real(label, config, *rest)

    monkeypatch.setattr(bench_module, "run_cell", counting)
    first = run_bench(base, ["mlp"], [1], {}, tmp_path)
    again = run_bench(base, ["mlp"], [1, 2], {}, tmp_path)
    assert trained == [("mlp", 1), ("mlp", 2)]
    assert again.cells[0] == first.cells[0]
    next((tmp_path / "cells").glob("mlp-seed2.json")).write_text('{"identity": ')  # torn
    run_bench(base, ["mlp"], [1, 2], {"mlp": {"train.dense_lr": 0.01}}, tmp_path)
    assert trained[2:] == [("mlp", 1), ("mlp", 2)]


def test_report_stands_alone(result: BenchResult, tmp_path: Path) -> None:
    files = write_report(result, tmp_path, "criteo: fat, dcn")
    page = files[".html"].read_text()
    assert not re.search(r'(src|href)\s*=\s*"https?:', page)
    assert "<script" not in page
    assert page.count("<svg") == 4
    assert "Field-pair modulation of fat" in page
    assert all(f">{name}<" in page or f"-- {name} -->" in page for name in ("I1", "C26"))
    data = json.loads(files[".json"].read_text())
    assert len(data["cells"]) == 4
    assert np.array(data["cells"][0]["pair_table"]["values"]).shape == (39, 39)
    table = markdown(result)
    assert "| (Bayes optimum) |" in table
    assert " ± " in table.splitlines()[2]
    assert 'fat: {"model.interaction.num_heads": 2}' in table


def test_mistakes_are_found_before_anything_is_trained(
    base: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_module, "run_cell", lambda *_: pytest.fail("trained"))
    with pytest.raises((ConfigError, PluginError), match="did you mean 'fat'"):
        run_bench(base, ["mlp", "fatt"], [1], {}, tmp_path)
    with pytest.raises(ConfigError, match="did you mean 'num_heads'"):
        run_bench(base, ["fat"], [1], {"fat": {"model.interaction.num_head": 2}}, tmp_path)
    with pytest.raises(ConfigError, match="settings of 'dcn' change dataset, fields or split"):
        run_bench(base, ["mlp", "dcn"], [1], {"dcn": {"fields": {"C1": "categorical"}}}, tmp_path)
    with pytest.raises(ConfigError, match="unknown benchmark 'criteos', did you mean 'criteo'"):
        base_run("criteos", "x")


def test_three_paths_bind_the_split() -> None:
    run = base_run("avazu", {"train": "a", "valid": "b", "test": "c"}, preset="avazu_x4_001", recipe="bars")
    assert run["split"] == {"type": "files"}
    config = interaction_runs(run, ["dcn"], {}, 1)["dcn"].config
    assert (config.dataset.preset, config.train.preset) == ("avazu_x4_001", "bars")


def test_packaged_settings_are_valid_for_their_interactions() -> None:
    for benchmark in ("criteo", "avazu"):
        tuned = tuned_settings(benchmark)
        assert tuned
        interaction_runs(base_run(benchmark, "x"), list(tuned), tuned, 1)
    spaces = load_spaces()
    for name in set(spaces) - {"shared"}:
        for settings in draw_settings(spaces["shared"], spaces[name], 3, seed=0):
            interaction_runs(base_run("criteo", "x"), [name], {name: settings}, 1)


def test_tuning_gives_everyone_the_same_budget_and_never_reads_test_rows(
    base: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: set[str] = set()
    real = BatchLoader.__init__

    def noting(self: BatchLoader, prepared: Any, split: Any, *rest: Any, **named: Any) -> None:
        read.add(split)
        real(self, prepared, split, *rest, **named)

    monkeypatch.setattr(BatchLoader, "__init__", noting)
    spaces = {
        "shared": {"train.dense_lr": [1e-4, 1e-2], "train.embedding_lr": [0.01, 0.3]},
        "dcn": {"model.interaction.num_layers": [1, 2]},
    }
    options = {"trials": 3, "finalists": 2, "seeds": 2}
    winners = run_tuning(base, ["mlp", "dcn"], spaces, tmp_path, **options)
    assert read == {"train", "valid"}
    assert [winner.trials for winner in winners] == [5, 5]
    lines = [json.loads(line)["trial"] for line in (tmp_path / "trials.jsonl").read_text().splitlines()]
    for winner in winners:
        of_label = [line for line in lines if line["label"] == winner.label]
        by_settings: dict[str, list[float]] = {}
        for line in of_label:
            by_settings.setdefault(json.dumps(line["settings"]), []).append(line["auc"])
        finalists = [np.mean(auc) for auc in by_settings.values() if len(auc) == 2]
        assert winner.auc == pytest.approx(max(finalists))
    monkeypatch.setattr(tune_module, "Trainer", lambda *_: pytest.fail("trained a finished trial again"))
    assert run_tuning(base, ["mlp", "dcn"], spaces, tmp_path, **options) == winners
    assert set(tuned_settings("criteo", tmp_path / "best.yaml")) == {"mlp", "dcn"}


def test_space_of_another_form_is_named(tmp_path: Path) -> None:
    path = tmp_path / "spaces.yaml"
    path.write_text("fat:\n  train.dense_lr: 0.1\n")
    with pytest.raises(ConfigError, match=r"spaces.yaml:2:3: 'fat.train.dense_lr' is 0.1, expected a list"):
        load_spaces(path)


def test_merge_leaves_its_input_alone() -> None:
    run = {"model": {"interaction": {"type": "fat"}}}
    assert merge(run, {"model.interaction.num_heads": 4})["model"]["interaction"] == {"type": "fat", "num_heads": 4}
    assert run == {"model": {"interaction": {"type": "fat"}}}


def test_profiling_counts() -> None:
    import torch
    from torch import nn

    assert forward_flops(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), torch.rand(5, 4)) == 2 * 5 * (32 + 16)
    assert forward_operators(nn.Sequential(nn.ReLU(), nn.ReLU(), nn.ReLU()), torch.rand(2, 2)) == 3
    rate = gemm_rate(size=256, seconds=0.05)
    assert 1e8 < rate < 1e15
    assert mfu(100.0, 50.0, 30_000.0) == pytest.approx(0.5)


def test_ablation_varies_one_factor_with_the_same_seeds(base: dict[str, Any], tmp_path: Path) -> None:
    space = {"model.interaction.num_layers": [1, 2], "train.dense_lr": [1e-3, 1e-2]}
    centre = {"train.dense_lr": 1e-2}
    effects = run_ablation(base, "dcn", centre, space, tmp_path, seeds=[101, 102])
    assert [(effect.factor, effect.value) for effect in effects] == [
        ("", None),
        ("model.interaction.num_layers", 1),
        ("model.interaction.num_layers", 2),
        ("train.dense_lr", 1e-3),
    ], "DCN's default of 3 layers and the centre's own rate are not run again"
    trials = [json.loads(line)["trial"] for line in (tmp_path / "trials.jsonl").read_text().splitlines()]
    assert [trial["seed"] for trial in trials] == [101, 102] * 4
    auc = np.array([trial["auc"] for trial in trials]).reshape(4, 2)
    for effect, own in zip(effects, auc, strict=True):
        assert effect.auc == pytest.approx(own.mean())
        assert effect.difference == pytest.approx((own - auc[0]).mean())
    table = effects_table(effects)
    assert "| num_layers | 1 |" in table
    assert table.count("\n") == 5
