"""Training on a small table: both recipes, resume to the same weights, early stop, guards, metrics."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from genrec_adapters.prepared import Prepared
from genrec_adapters.splits import assigner, parse_split
from genrec_plugins.config import LoadedRun, parse_run
from genrec_plugins.training.checkpoints import plain_weights
from genrec_plugins.training.metrics import calibration_curve, evaluate_predictions
from genrec_plugins.training.optimizers import schedule_factor
from genrec_plugins.training.reporter import Quiet
from genrec_plugins.training.run import TrainedRun, prepare_run, train_run
from genrec_plugins.training.trainer import Trainer
from genrec_registry import SPLITS, ConfigError, DataError, ErrorPolicy, ModelError
from tests.plugins.interrupt import Interrupt

ROWS = 600
TORCHREC = "train: {preset: torchrec, batch_size: 64, epochs: 3, embedding_lr: 0.1, dense_lr: 0.01, threads: 1}"
BARS = "train: {preset: bars, batch_size: 64, epochs: 3, lr: 0.01, threads: 1}"


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows whose label depends on a pair of fields and a number."""
    source = np.random.default_rng(0)
    a, b = source.integers(0, 5, ROWS), source.integers(0, 4, ROWS)
    x = source.normal(size=ROWS)
    label = (source.random(ROWS) < 1 / (1 + np.exp(-(2.0 * ((a + b) % 2) - 1 + x)))).astype(int)
    path = tmp_path_factory.mktemp("table") / "rows.csv"
    lines = ["label,a,b,x", *(f"{y},a{i},b{j},{v:.4f}" for y, i, j, v in zip(label, a, b, x, strict=True))]
    path.write_text("\n".join(lines) + "\n")
    return path


def make_run(
    table: Path, train: str = TORCHREC, interaction: str = "{type: fat, num_heads: 2}", seed: int = 3
) -> LoadedRun:
    return parse_run(
        f"""
seed: {seed}
dataset: {{type: csv, path: {table}, label: label, numbers: [x]}}
split: {{type: shuffled, seed: 1, train: 0.7, valid: 0.15, test: 0.15}}
fields:
  "{{a,b}}": {{type: categorical, min_count: 1}}
  x: {{type: numeric-dense}}
model: {{embedding_dim: 8, over_arch: [16], dropout: 0.1, interaction: {{type: fat, num_heads: 2}}}}
{train}
"""
    )


@pytest.fixture(scope="module")
def prepared(table: Path) -> Prepared:
    return prepare_run(make_run(table), table.parent / "prepared")


@pytest.mark.parametrize("train", [TORCHREC, BARS], ids=["torchrec", "bars"])
def test_training_learns_and_is_the_same_for_the_same_seed(train: str, table: Path, prepared: Prepared) -> None:
    results = []
    for seed in (3, 3, 4):
        run = make_run(table, train, seed=seed)
        results.append(Trainer(run.config, prepared, run.registry).fit())
    losses = [entry["train_loss"] for entry in results[0].history]
    assert losses[-1] < losses[0] - 0.02
    assert all(torch.equal(results[0].weights[name], results[1].weights[name]) for name in results[0].weights)
    assert any(not torch.equal(results[0].weights[name], results[2].weights[name]) for name in results[0].weights)


@pytest.mark.parametrize("train", [TORCHREC, BARS], ids=["torchrec", "bars"])
@pytest.mark.parametrize("after", [3, 7, 9], ids=["first-epoch", "at-the-epochs-end", "second-epoch"])
def test_resumed_run_ends_with_the_weights_of_an_unbroken_one(
    train: str, after: int, table: Path, prepared: Prepared, tmp_path: Path
) -> None:
    run = make_run(table, train.replace("epochs", "checkpoint_every: 2, epochs"))
    whole = train_run(run, tmp_path / "whole", prepared)
    with pytest.raises(KeyboardInterrupt):
        train_run(run, tmp_path / "broken", prepared, Interrupt(after))
    resumed = train_run(run, tmp_path / "broken", prepared)
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("broken", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert resumed["test"] == whole["test"]
    for mine, other in zip(resumed["history"], whole["history"], strict=True):
        assert mine["valid"] == other["valid"]
        assert mine["train_loss"] == pytest.approx(other["train_loss"], abs=1e-12)
    assert not list((tmp_path / "broken" / "checkpoints").glob(".partial*"))


def test_finished_run_is_not_trained_again(table: Path, prepared: Prepared, tmp_path: Path) -> None:
    run = make_run(table)
    first = train_run(run, tmp_path, prepared)
    again = train_run(run, tmp_path, prepared, Interrupt(1))
    assert again["test"] == first["test"]
    assert len(again["history"]) == 3


def test_killed_process_resumes(table: Path, prepared: Prepared, tmp_path: Path) -> None:
    """SIGKILL in the middle of writing a checkpoint; the next run starts from an older, whole one."""
    script = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from genrec_adapters.prepared import Prepared
from genrec_plugins.config import parse_run
from genrec_plugins.training import checkpoints
from genrec_plugins.training.run import TrainedRun, train_run
import json
saves = 0
sync = checkpoints._sync
def dying_sync(path):
    global saves
    saves += path.name.startswith(".partial")
    if saves == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    sync(path)
checkpoints._sync = dying_sync
config = json.loads(Path({str(tmp_path / "config.json")!r}).read_text())
train_run(parse_run(config), {str(tmp_path / "run")!r}, Prepared.open({str(prepared.directory)!r}))
"""
    run = make_run(table, TORCHREC.replace("epochs", "checkpoint_every: 2, epochs"))
    (tmp_path / "config.json").write_text(run.config.model_dump_json())
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert killed.returncode == -9, killed.stderr
    assert len(list((tmp_path / "run" / "checkpoints").glob(".partial*"))) == 1
    resumed = train_run(run, tmp_path / "run", prepared)
    assert resumed["test"] == train_run(run, tmp_path / "whole", prepared)["test"]


def test_damaged_checkpoint_falls_back_and_a_foreign_one_is_refused(
    table: Path, prepared: Prepared, tmp_path: Path
) -> None:
    run = make_run(table)
    whole = train_run(run, tmp_path, prepared)
    newest, older = sorted((tmp_path / "checkpoints").glob("step-*"), reverse=True)
    (newest / "trainer.json").write_text("{")
    messages: list[str] = []
    reporter = Quiet()
    reporter.message = messages.append  # type: ignore[method-assign]
    again = train_run(run, tmp_path, prepared, reporter)
    step = int(older.name.split("-")[1])
    assert messages[0] == f"going on from step {step}; cannot be read: {newest.name} (JSONDecodeError)"
    assert again["test"] == whole["test"]
    with pytest.raises(ModelError, match="was written by a run with another config"):
        train_run(make_run(table, seed=9), tmp_path, prepared)
    restarted = train_run(make_run(table, seed=9), tmp_path, prepared, restart=True)
    assert len(restarted["history"]) == 3
    for path in (tmp_path / "checkpoints").glob("step-*/trainer.json"):
        path.unlink()
    with pytest.raises(ModelError, match=r"no checkpoint can be read: .*pass --restart"):
        train_run(make_run(table, seed=9), tmp_path, prepared)


def test_run_directory_evaluates_and_predicts_without_the_trainer(
    table: Path, prepared: Prepared, tmp_path: Path
) -> None:
    run = make_run(table)
    report = train_run(run, tmp_path, prepared)
    trained = TrainedRun.open(tmp_path)
    assert trained.evaluate("test").as_dict() == report["test"]
    labels, probabilities = trained.predict("valid")
    assert len(labels) == prepared.rows("valid")
    assert evaluate_predictions(labels, probabilities).auc == pytest.approx(report["valid"]["auc"], abs=1e-12)
    facts = json.loads((tmp_path / "run.json").read_text())
    assert facts["tokens"] == ["x", "a", "b"]
    assert list((tmp_path / "tensorboard").glob("events*"))
    with pytest.raises(DataError, match="is not a run directory"):
        TrainedRun.open(tmp_path / "tensorboard")
    (tmp_path / "model.safetensors").write_bytes(b"junk")
    with pytest.raises(ModelError, match="weights cannot be loaded"):
        trained.evaluate("test")


def test_raw_rows_are_scored_as_the_prepared_ones(table: Path, prepared: Prepared, tmp_path: Path) -> None:
    """No train/serve skew: a raw file of exactly the test rows gives the test split's predictions, bit for bit."""
    train_run(make_run(table), tmp_path / "run", prepared)
    trained = TrainedRun.open(tmp_path / "run")
    split = parse_split(prepared.manifest.config["split"])
    chosen = assigner(split, ROWS)(0, ROWS) == SPLITS.index("test")
    header, *lines = table.read_text().splitlines()
    raw = tmp_path / "test.csv"
    raw.write_text("\n".join([header, *(line for line, is_test in zip(lines, chosen, strict=True) if is_test)]) + "\n")
    labels, probabilities = trained.predict_file(str(raw))
    expected_labels, expected = trained.predict("test")
    np.testing.assert_array_equal(labels, expected_labels)
    np.testing.assert_array_equal(probabilities, expected)
    raw.write_text(raw.read_text() + "x,a1,b1,0.0\n1,never-seen,,\n")
    with pytest.raises(DataError, match="row 91, column label"):
        trained.predict_file(str(raw))
    policy = ErrorPolicy(on_error="skip")
    labels, probabilities = trained.predict_file(str(raw), policy)
    assert (len(labels), policy.skipped) == (len(expected) + 1, 1)
    assert 0 < probabilities[-1] < 1


def test_tables_are_updated_by_the_fused_optimizer_and_only_where_looked_up(table: Path, prepared: Prepared) -> None:
    run = make_run(table)
    trainer = Trainer(run.config, prepared, run.registry)
    fused = trainer.recipe.model.fused_optimizer.params
    assert len(fused) == 2, "small tables must not fall back to the dense optimizer"
    before = plain_weights(trainer.recipe.model)
    trainer.fit()
    after = plain_weights(trainer.recipe.model)
    table_a = "sparse_arch.embedding_bag_collection.embedding_bags.t_a.weight"
    moved = (before[table_a] - after[table_a]).abs().sum(dim=1) > 0
    assert moved.tolist() == [False] + [True] * 5, "row 0 is for unknown values, which training rows do not have"


def test_fused_rowwise_adagrad_equals_its_definition(table: Path, prepared: Prepared) -> None:
    run = make_run(table, TORCHREC.replace("epochs: 3", "epochs: 1"))
    trainer = Trainer(run.config, prepared, run.registry)
    name = "sparse_arch.embedding_bag_collection.embedding_bags.t_a.weight"
    expected = plain_weights(trainer.recipe.model)[name].clone()
    state = torch.zeros(len(expected))
    from torchrec.models.dlrm import DLRMTrain

    from genrec_plugins.models import build_dlrm

    batch = next(iter(trainer.loader))
    plain = build_dlrm(run.config.model, prepared.fields, run.registry)
    plain.load_state_dict(plain_weights(trainer.recipe.model))
    torch.manual_seed(5)
    DLRMTrain(plain)(batch)[0].backward()
    gradient = plain.get_parameter(name).grad
    state += gradient.square().mean(dim=1)
    expected -= 0.1 * gradient / (state.sqrt() + 1e-8)[:, None]
    torch.manual_seed(5)
    trainer.recipe.optimizer.zero_grad()
    trainer.recipe.model(batch)[0].backward()
    torch.testing.assert_close(plain_weights(trainer.recipe.model)[name], expected, atol=1e-6, rtol=1e-5)


def test_interaction_has_its_own_learning_rate(table: Path, prepared: Prepared) -> None:
    run = make_run(table, TORCHREC.replace("epochs: 3", "epochs: 1, interaction_lr: 1.0e-12"))
    trainer = Trainer(run.config, prepared, run.registry)
    before = plain_weights(trainer.recipe.model)
    after = trainer.fit().weights
    moved = {name.split(".")[0] for name in before if not torch.allclose(before[name], after[name], atol=1e-9)}
    assert moved == {"sparse_arch", "dense_arch", "over_arch"}


def test_bars_penalty_is_half_lambda_times_every_row_and_has_a_gradient(table: Path, prepared: Prepared) -> None:
    run = make_run(table, BARS.replace("lr: 0.01", "lr: 0.01, embedding_l2: 0.5, net_l2: 0.25"))
    trainer = Trainer(run.config, prepared, run.registry)
    tables = list(trainer.model.sparse_arch.parameters())
    rest = [p for name, p in trainer.model.named_parameters() if not name.startswith("sparse_arch")]
    penalty = trainer.recipe.penalty()
    expected = 0.25 * sum((p**2).sum() for p in tables) + 0.125 * sum((p**2).sum() for p in rest)
    torch.testing.assert_close(penalty, expected)
    penalty.backward()
    for parameter in tables:  # also the rows that no batch looks up
        torch.testing.assert_close(parameter.grad, 0.5 * parameter.detach())


def test_bars_lowers_the_rate_on_a_plateau_stops_and_restores_the_best(
    table: Path, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(table, BARS.replace("epochs: 3", "epochs: 50"))
    trainer = Trainer(run.config, prepared, run.registry)
    series = iter([0.6, 0.7, 0.69, 0.65, 0.9])
    rates, kept = [], []

    def scripted() -> object:
        rates.append(trainer.recipe.optimizer.param_groups[0]["lr"])
        kept.append(plain_weights(trainer.recipe.model))
        return evaluate_predictions(np.array([0.0, 1.0]), np.array([0.4, 0.6])).__class__(
            auc=next(series), logloss=0.5, ne=1.0, calibration=1.0, rows=2
        )

    monkeypatch.setattr(trainer, "_validation", scripted)
    result = trainer.fit()
    assert len(result.history) == 4, "two evaluations without a better AUC end the run"
    assert rates == pytest.approx([0.01, 0.01, 0.01, 0.001])
    assert result.best_epoch == 2
    assert all(torch.equal(result.weights[name], kept[1][name]) for name in result.weights)


def test_gradient_norm_is_clipped(table: Path, prepared: Prepared) -> None:
    run = make_run(table, BARS.replace("lr: 0.01", "lr: 0.01, clip_grad_norm: 0.001"))
    trainer = Trainer(run.config, prepared, run.registry)
    trainer.recipe.model(next(iter(trainer.loader)))[0].backward()
    trainer.recipe.before_step()
    norms = torch.stack([p.grad.norm() for p in trainer.model.parameters() if p.grad is not None])
    assert norms.norm().item() == pytest.approx(0.001, rel=1e-3)


def test_divergence_is_told_in_a_sentence(table: Path, prepared: Prepared) -> None:
    run = make_run(table, BARS.replace("lr: 0.01", "lr: 1.0e+30"))
    with pytest.raises(ModelError, match=r"epoch 1, step \d+: the loss is (nan|inf); .*; lower the learning rates$"):
        Trainer(run.config, prepared, run.registry).fit()


def test_device_and_decay_mistakes() -> None:
    from genrec_plugins.training.trainer import pick_device

    with pytest.raises(ConfigError, match="expected auto, cpu or cuda"):
        pick_device("gpu0")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="torch finds no GPU"):
            pick_device("cuda")


def test_metrics_equal_their_definitions() -> None:
    source = np.random.default_rng(0)
    labels = source.integers(0, 2, 200).astype(float)
    probabilities = np.round(source.random(200), 1) * 0.98 + 0.01  # many ties
    found = evaluate_predictions(labels, probabilities)
    wins = [
        1.0 if p > n else 0.5 if p == n else 0.0 for p in probabilities[labels == 1] for n in probabilities[labels == 0]
    ]
    assert found.auc == pytest.approx(np.mean(wins))
    losses = [-np.log(p if y else 1 - p) for y, p in zip(labels, probabilities, strict=True)]
    assert found.logloss == pytest.approx(np.mean(losses))
    rate = labels.mean()
    assert found.ne == pytest.approx(np.mean(losses) / -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate)))
    assert found.calibration == pytest.approx(probabilities.sum() / labels.sum())
    constant = evaluate_predictions(labels, np.full(200, rate))
    assert (constant.auc, constant.ne) == (0.5, pytest.approx(1.0))


def test_metrics_of_extreme_and_useless_input() -> None:
    certain = evaluate_predictions(np.array([0.0, 1.0]), np.array([1.0, 0.0]))
    assert np.isfinite(certain.logloss)
    assert np.isnan(evaluate_predictions(np.ones(3), np.full(3, 0.5)).auc)
    with pytest.raises(DataError, match="1 of 2 predictions are NaN or infinite, the first at row 2"):
        evaluate_predictions(np.array([0.0, 1.0]), np.array([0.5, np.nan]))
    with pytest.raises(DataError, match="expected as many of both"):
        evaluate_predictions(np.zeros(0), np.zeros(0))


def test_calibration_curve_covers_every_row() -> None:
    source = np.random.default_rng(1)
    probabilities = source.random(1003)
    labels = (source.random(1003) < probabilities).astype(float)
    predicted, observed, rows = calibration_curve(labels, probabilities, bins=10)
    assert rows.sum() == 1003
    assert (np.diff(predicted) > 0).all()
    assert np.abs(predicted - observed).max() < 0.2
    assert (predicted * rows).sum() == pytest.approx(probabilities.sum())


def test_schedules() -> None:
    assert [schedule_factor("constant", 0, step, 4) for step in range(4)] == [1.0] * 4
    cosine = [schedule_factor("cosine", 0, step, 4) for step in range(4)]
    assert cosine == pytest.approx([1.0, 0.853553, 0.5, 0.146447], abs=1e-6)
