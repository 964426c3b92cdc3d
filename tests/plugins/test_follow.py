"""Streaming: files once and in order, scored before they are trained on; kills, deltas, and what cannot be read."""

from __future__ import annotations

import json
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from genrec_adapters.prepared import Prepared
from genrec_adapters.raw import raw_batches
from genrec_plugins.config import LoadedRun, parse_run
from genrec_plugins.models.dynamic_ids import settle
from genrec_plugins.training.checkpoints import plain_weights
from genrec_plugins.training.delta_checkpoints import DeltaStore, _tensors
from genrec_plugins.training.follow import DONE, LOG, FollowOptions, follow_run
from genrec_plugins.training.metrics import evaluate_predictions
from genrec_plugins.training.reporter import Quiet
from genrec_plugins.training.run import TrainedRun, prepare_run, train_run
from genrec_plugins.training.trainer import Trainer
from genrec_registry import ConfigError, DataError
from tests import faults
from tests.plugins.interrupt import Interrupt

FILES = 6
TORCHREC = "{batch_size: 64, embedding_lr: 0.1, dense_lr: 0.01, threads: 1}"
BARS = "{preset: bars, epochs: 1, batch_size: 64, lr: 0.01, embedding_l2: 0, threads: 1}"


def rows(seed: int, count: int = 300) -> pl.DataFrame:
    """Rows of 600 users and of items of which each file has new ones; the label depends on the item."""
    source = np.random.default_rng(seed)
    item = source.integers(0, 30, count) + 20 * seed
    label = source.random(count) < np.where(item % 2 == 0, 0.85, 0.15)
    user = [f"u{i}" for i in np.minimum(source.geometric(0.01, count), 600)]
    return pl.DataFrame({"y": label.astype(int), "item": [f"i{i}" for i in item], "user": user})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``base.parquet``, ``stream/part-N.parquet``, ``prepared``."""
    root = tmp_path_factory.mktemp("follow")
    (root / "stream").mkdir()
    users = pl.DataFrame({"y": [0, 1] * 300, "item": ["i0", "i1"] * 300, "user": [f"u{i}" for i in range(600)]})
    pl.concat([rows(0), users]).write_parquet(root / "base.parquet")
    for number in range(1, FILES + 1):
        rows(number).write_parquet(root / "stream" / f"part-{number + 6}.parquet")  # part-10 comes after part-9
    prepare_run(make_run(root), root / "prepared")
    return root


def make_run(root: Path, train: str = TORCHREC) -> LoadedRun:
    return parse_run(
        f"""
dataset: {{type: parquet, path: {root}/base.parquet, label: y}}
split: {{type: shuffled, seed: 1, train: 0.8, valid: 0.1, test: 0.1}}
fields: {{item: {{type: dynamic-id, rows: 40, interval: 2}}, user: {{type: categorical}}}}
model: {{embedding_dim: 8, over_arch: [16], dropout: 0.2, interaction: {{type: fat, num_heads: 2}}}}
train: {train}
"""
    )


def follow(root: Path, out: Path, stream: Path | None = None, train: str = TORCHREC, **options: Any) -> dict[str, Any]:
    chosen = FollowOptions(
        folder=stream or root / "stream", poll=0.01, until_idle=0.0, full_every=options.pop("full_every", 3)
    )
    return follow_run(make_run(root, train), out, Prepared.open(root / "prepared"), chosen, **options)


def same(one: Path, other: Path) -> None:
    """The runs ended with the same weights and records, seconds apart."""
    first, second = (load_file(path / "model.safetensors") for path in (one, other))
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    assert records(one) == records(other)


def records(out: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / LOG).read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def _follow_in_process(root: str, out: str) -> dict[str, Any]:
    torch.set_num_threads(1)
    return follow(Path(root), Path(out))


@pytest.fixture(scope="module")
def unbroken(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, faults.Outcome]:
    """A run that nothing interrupts, and how it went."""
    out = tmp_path_factory.mktemp("whole") / "run"
    found = faults.run(_follow_in_process, str(folder), str(out))
    assert not found.crash + found.sentence, found
    assert found.value["files"] == FILES
    assert found.value["rows"] == FILES * 300
    return out, found


@pytest.fixture(scope="module")
def whole(unbroken: tuple[Path, faults.Outcome]) -> Path:
    return unbroken[0]


def test_each_file_is_scored_before_it_is_trained_on_once_and_in_order(
    folder: Path, whole: Path, tmp_path: Path
) -> None:
    run, prepared = make_run(folder), Prepared.open(folder / "prepared")
    train_run(run, tmp_path / "base", prepared)
    trainer = Trainer(run.config, prepared, run.registry, tmp_path / "base")
    trainer.fit()
    for number, line in enumerate(records(whole), start=7):
        path = str(folder / "stream" / f"part-{number}.parquet")
        assert (line["file"], line["number"]) == (f"part-{number}.parquet", number - 6)
        batches = raw_batches(prepared, {"type": "parquet", "path": path, "label": "y"}, run.registry, 64)
        labels, logits = [], []
        trainer.model.eval()
        kept = list(batches)
        for batch in kept:
            labels.append(batch.labels.numpy())
            logits.append(trainer.model(batch.dense_features, batch.sparse_features).detach().flatten())
        expected = evaluate_predictions(np.concatenate(labels), torch.sigmoid(torch.cat(logits)).numpy())
        assert line["auc"] == pytest.approx(expected.auc, abs=1e-9)
        assert line["logloss"] == pytest.approx(expected.logloss, rel=1e-5)
        assert line["rows"] == 300
        trainer.recipe.model.train()
        for batch in kept:
            trainer.recipe.optimizer.zero_grad()
            trainer.recipe.model(batch)[0].backward()
            trainer.recipe.optimizer.step()
        settle(trainer.recipe.model)
    weights, plain = load_file(whole / "model.safetensors"), plain_weights(trainer.recipe.model)
    assert all(torch.equal(value, weights[name]) for name, value in plain.items())
    assert TrainedRun.open(whole).predict("test")[0].size


@pytest.mark.parametrize("train", [TORCHREC, BARS], ids=["torchrec", "bars"])
def test_an_interrupted_run_ends_as_an_unbroken_one(train: str, folder: Path, tmp_path: Path) -> None:
    follow(folder, tmp_path / "whole", train=train)
    for after in (5, 18, 9, 14):  # in the base, in files 2, 3 and 5
        with pytest.raises(KeyboardInterrupt):
            follow(folder, tmp_path / "broken", train=train, reporter=Interrupt(after))
    report = follow(folder, tmp_path / "broken", train=train)
    assert 0 < len(report["progressive"]) < FILES
    same(tmp_path / "whole", tmp_path / "broken")
    assert follow(folder, tmp_path / "broken", train=train)["progressive"] == []


@pytest.mark.parametrize("trials", [2, pytest.param(40, marks=pytest.mark.long)])
def test_a_killed_run_ends_as_an_unbroken_one(
    trials: int, folder: Path, unbroken: tuple[Path, faults.Outcome], tmp_path: Path
) -> None:
    whole, went = unbroken
    for trial, fault in enumerate(faults.draw(went, trials, seed=trials, sizes=(2_000, 60_000))):
        out = tmp_path / f"killed{trial}"
        killed = faults.run(_follow_in_process, str(folder), str(out), fault=fault)
        assert not killed.crash + killed.sentence, (fault, killed)
        again = faults.run(_follow_in_process, str(folder), str(out))
        assert not again.crash + again.sentence, (fault, again)
        same(whole, out)
        assert not [path for path in out.rglob("*") if "partial" in path.name], fault
        shutil.rmtree(out)


def test_full_checkpoint_and_deltas_restore_every_bit(folder: Path, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    stream = tmp_path / "run" / "stream"
    names = sorted(path.name for path in stream.iterdir())
    assert names == [
        "delta-0000000004.safetensors",
        "delta-0000000005.safetensors",
        "step-0000000003",
        "step-0000000006",
    ]
    follow(folder, tmp_path / "full", full_every=1)
    assert not list((tmp_path / "full" / "stream").glob("delta-*"))
    same(whole, tmp_path / "full")
    size = sum(file.stat().st_size for file in (stream / "step-0000000006").rglob("*"))
    assert (stream / "delta-0000000005.safetensors").stat().st_size < size / 2
    shutil.rmtree(stream / "step-0000000006")
    shutil.copytree(tmp_path / "run", tmp_path / "other")
    follow(folder, tmp_path / "other")  # from delta 5: trains on file 6 again
    same(whole, tmp_path / "other")

    run, prepared = make_run(folder), Prepared.open(folder / "prepared")
    found = []
    for out in (tmp_path / "run", tmp_path / "full"):
        trainer = Trainer(run.config, prepared, run.registry, out)
        assert trainer.store is not None
        torch.manual_seed(int(out.name == "run"))
        store = DeltaStore(out / "stream", trainer.store.config_digest, 3, 2)
        if out.name == "full":
            shutil.rmtree(out / "stream" / "step-0000000006")
        progress = store.load_newest(trainer.recipe)
        assert progress is not None
        assert progress["step"] == 5
        found.append((_tensors(trainer.recipe), progress, torch.get_rng_state()))
    (tensors, progress, random), (others, other_progress, other_random) = found
    del progress["log_bytes"], other_progress["log_bytes"]  # the log has how many seconds each took
    assert progress == other_progress
    assert torch.equal(random, other_random)
    assert tensors.keys() == others.keys()
    assert all(torch.equal(value, others[name]) for name, value in tensors.items())


@pytest.mark.parametrize("damage", ["flip", "cut", "missing"])
def test_a_damaged_delta_costs_the_files_after_it(damage: str, folder: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    shutil.rmtree(out / "stream" / "step-0000000006")
    delta = out / "stream" / "delta-0000000004.safetensors"
    content = bytearray(delta.read_bytes())
    content[-5] ^= 1
    if damage == "missing":
        delta.unlink()
    else:
        delta.write_bytes(content if damage == "flip" else content[:-50])
    told: list[str] = []

    class Told(Quiet):
        def message(self, text: str) -> None:
            told.append(text)

    report = follow(folder, out, reporter=Told())
    assert [line["number"] for line in report["progressive"]] == [4, 5, 6]
    assert any(text.startswith("going on after file 3") for text in told)
    assert any("delta-0000000004.safetensors" in text for text in told) == (damage != "missing")
    same(whole, out)


def test_files_that_come_later_are_waited_for_until_the_end_is_marked(folder: Path, tmp_path: Path) -> None:
    stream = tmp_path / "stream"
    stream.mkdir()
    (stream / ".part-1.parquet").write_bytes(b"half")
    (stream / "_part-2.parquet").write_bytes(b"half")

    def produce() -> None:
        for number in (7, 8):
            time.sleep(0.3)
            shutil.copy(folder / "stream" / f"part-{number}.parquet", stream / "_writing")
            (stream / "_writing").rename(stream / f"part-{number}.parquet")
        (stream / DONE).touch()

    producer = threading.Thread(target=produce)
    producer.start()
    report = follow_run(
        make_run(folder),
        tmp_path / "run",
        Prepared.open(folder / "prepared"),
        FollowOptions(folder=stream, poll=0.05, until_idle=None, full_every=3),
    )
    producer.join()
    assert [line["file"] for line in report["progressive"]] == ["part-7.parquet", "part-8.parquet"]


def test_mistakes_are_told(folder: Path, tmp_path: Path) -> None:
    stream = tmp_path / "stream"
    with pytest.raises(DataError, match="is no folder"):
        follow(folder, tmp_path / "run", stream)
    shutil.copytree(folder / "stream", stream)
    with pytest.raises(ConfigError, match="lr_schedule"):
        follow(folder, tmp_path / "run", train=TORCHREC.replace("64", "64, lr_schedule: linear"))
    (stream / "part-8.parquet").write_bytes((stream / "part-8.parquet").read_bytes()[:-200])
    with pytest.raises(DataError, match=r"part-8.parquet: is not a readable Parquet file"):
        follow(folder, tmp_path / "run", stream)
    assert [line["file"] for line in records(tmp_path / "run")] == ["part-7.parquet"]
    shutil.copy(folder / "stream" / "part-8.parquet", stream / "part-8.parquet")
    rows(9).drop("user").write_parquet(stream / "part-9.parquet")
    with pytest.raises(ConfigError, match="user"):
        follow(folder, tmp_path / "run", stream)
    rows(9).with_columns(y=pl.lit(7)).write_parquet(stream / "part-9.parquet")
    with pytest.raises(DataError, match=r"part-9.parquet.*expected 0 or 1"):
        follow(folder, tmp_path / "run", stream)
    rows(9).write_parquet(stream / "part-8.parquet")
    with pytest.raises(DataError, match=r"part-8.parquet: has .* bytes, and had"):
        follow(folder, tmp_path / "run", stream)
