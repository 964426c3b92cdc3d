"""Pre-training and sweeps that are killed go on to what an unbroken run comes to."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests import faults
from tests.plugins.lum_cases import write_ratings
from tests.reliability import cases


def pretraining_survives(folder: Path, trials: int, seed: int) -> None:
    config = cases.lum_config(write_ratings(folder / "ratings"))
    whole = faults.run(cases.pretrain, config, folder / "whole")
    assert not whole.crash + whole.sentence, whole
    for fault in faults.draw(whole, trials, seed=seed, sizes=(500, 100_000)):
        out = folder / "run"
        shutil.rmtree(out, ignore_errors=True)
        killed = faults.run(cases.pretrain, config, out, fault=fault)
        assert not killed.crash + killed.sentence, f"{fault}: {killed}"
        steps = cases.steps_in(out)
        resumed = faults.run(cases.pretrain, config, out)
        assert not resumed.crash + resumed.sentence, f"{fault}: {resumed}"
        if steps:
            assert f"going on from step {steps[-1]}" in resumed.value["said"], fault
        assert (resumed.value["digest"], resumed.value["test"]) == (whole.value["digest"], whole.value["test"]), fault


def sweep_survives(folder: Path, trials: int, seed: int) -> None:
    config = cases.run_config(cases.write_table(folder / "rows.csv", rows=300))
    whole = faults.run(cases.bench, config, folder / "whole")
    assert not whole.crash + whole.sentence, whole
    for fault in faults.draw(whole, trials, seed=seed, sizes=(500, 5000)):
        out = folder / "run"
        shutil.rmtree(out, ignore_errors=True)
        killed = faults.run(cases.bench, config, out, fault=fault)
        assert not killed.crash + killed.sentence, f"{fault}: {killed}"
        kept = {path: path.read_bytes() for path in out.rglob("cells/*.json")}
        again = faults.run(cases.bench, config, out)
        assert again.value == whole.value, fault
        assert {path: path.read_bytes() for path in kept} == kept, f"{fault}: a finished cell was trained again"


def test_killed_pretraining_goes_on(tmp_path: Path) -> None:
    pretraining_survives(tmp_path, 3, seed=1)


def test_killed_sweep_goes_on(tmp_path: Path) -> None:
    sweep_survives(tmp_path, 2, seed=1)


@pytest.mark.long
def test_pretraining_killed_50_times(tmp_path: Path) -> None:
    pretraining_survives(tmp_path, 50, seed=2)


@pytest.mark.long
def test_sweep_killed_30_times(tmp_path: Path) -> None:
    sweep_survives(tmp_path, 30, seed=2)
