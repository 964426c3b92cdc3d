"""``train.compile``: the same training by other kernels, resumed and under the pipeline too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from genrec_adapters.prepared import Prepared
from genrec_plugins.config import LoadedRun, parse_run
from genrec_plugins.training.reporter import Quiet
from genrec_plugins.training.run import prepare_run, train_run
from genrec_plugins.training.steps import PipelinedSteps
from genrec_plugins.training.trainer import Trainer
from genrec_registry import SetupError


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 rows of two fields; batches of 64 leave a smaller one."""
    source = np.random.default_rng(0)
    a, b = source.integers(0, 5, 200), source.integers(0, 4, 200)
    path = tmp_path_factory.mktemp("table") / "rows.csv"
    lines = ["label,a,b", *(f"{(i + j) % 2},a{i},b{j}" for i, j in zip(a, b, strict=True))]
    path.write_text("\n".join(lines) + "\n")
    return path


def run_of(table: Path, compiled: bool, **train: Any) -> LoadedRun:
    return parse_run(
        {
            "dataset": {"type": "csv", "path": str(table), "label": "label"},
            "split": {"type": "shuffled", "seed": 1, "train": 0.7, "valid": 0.15, "test": 0.15},
            "fields": {"{a,b}": {"type": "categorical", "min_count": 1}},
            "model": {
                "embedding_dim": 8,
                "over_arch": [16],
                "dropout": 0.1,
                "interaction": {"type": "dcn", "num_layers": 1},
            },
            "train": {
                "preset": "torchrec",
                "batch_size": 64,
                "epochs": 3,
                "embedding_lr": 0.1,
                "dense_lr": 0.01,
                "threads": 1,
                "checkpoint_every": 2,
                "compile": compiled,
                **train,
            },
        }
    )


@pytest.fixture(scope="module")
def prepared(table: Path) -> Prepared:
    return prepare_run(run_of(table, False), table.parent / "prepared")


class Recorder(Quiet):
    """Keeps the losses, and stops the run after a number of steps, as Ctrl-C would."""

    def __init__(self, after: int = 0) -> None:
        self.losses: list[float] = []
        self.after = after

    def step(self, *, loss: float, **facts: object) -> None:
        self.losses.append(loss)
        if len(self.losses) == self.after:
            raise KeyboardInterrupt


def test_compiled_training_learns_the_same(table: Path, prepared: Prepared, tmp_path: Path) -> None:
    """And a run goes on with or without; its kernels do not depend on which batch they were made for."""
    plain, compiled = Recorder(), Recorder()
    train_run(run_of(table, False), tmp_path / "plain", prepared, plain)
    whole = train_run(run_of(table, True), tmp_path / "compiled", prepared, compiled)
    assert compiled.losses == pytest.approx(plain.losses, rel=1e-4)
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("compiled", "plain"))
    assert ours.keys() == theirs.keys()

    for name, compile_again in (("broken", True), ("mixed", False)):
        torch.compiler.reset()
        with pytest.raises(KeyboardInterrupt):
            train_run(run_of(table, True), tmp_path / name, prepared, Recorder(5))
        torch.compiler.reset()
        resumed = Recorder()
        report = train_run(run_of(table, compile_again), tmp_path / name, prepared, resumed)
        assert resumed.losses == pytest.approx(compiled.losses[4:], rel=1e-4)
        if compile_again:
            mine = load_file(tmp_path / name / "model.safetensors")
            assert all(torch.equal(mine[key], ours[key]) for key in ours)
            assert report["test"] == whole["test"]


def test_interaction_is_what_is_compiled(table: Path, prepared: Prepared) -> None:
    run = run_of(table, True)
    trainer = Trainer(run.config, prepared, run.registry)
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    trainer.fit()
    frames = torch._dynamo.utils.counters["frames"]
    assert frames["ok"] == frames["total"] > 0
    # training, evaluation; not one more for the smaller last batch
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2
    assert not torch._dynamo.utils.counters["graph_break"]


def test_pipeline_takes_it(table: Path, prepared: Prepared) -> None:
    """TorchRec's pipeline traces the model down to its tables; one process, on a CPU."""
    losses = []
    for compiled in (False, True):
        run = run_of(table, compiled)
        trainer = Trainer(run.config, prepared, run.registry)
        trainer._steps = PipelinedSteps(trainer.recipe, trainer.device, amp=False)
        recorder = Recorder()
        trainer.reporter = recorder
        trainer.fit()
        losses.append(recorder.losses)
    assert len(losses[0]) == 9
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_want_of_a_compiler_is_one_sentence(table: Path, prepared: Prepared) -> None:
    run = run_of(table, True)
    with (
        torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",)}),
        pytest.raises(SetupError, match=r"needs a C\+\+ compiler and none was found; install g\+\+"),
    ):
        Trainer(run.config, prepared, run.registry)
