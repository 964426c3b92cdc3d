"""Training that is killed, runs out of disk, or finds damaged checkpoints: it ends with the weights of an unbroken run,
or stops with one sentence; it never begins anew without saying so, and nothing half-written has a final name."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import faults
from tests.reliability import cases

PRESETS = {"torchrec": cases.TORCHREC, "bars": cases.BARS}
#: one side of what is done to a file of a checkpoint
DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "missing": lambda data: None,
    "empty": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "longer": lambda data: data + b"\0",
}


@dataclass(frozen=True)
class Run:
    """A run, and what it comes to when nothing happens to it."""

    config: dict[str, Any]
    prepared: Path
    whole: Path
    unbroken: faults.Outcome

    def train(self, out: Path, fault: faults.Fault = None, **changes: Any) -> faults.Outcome:
        """Train, or go on."""
        found = faults.run(cases.train, self.config | changes, self.prepared, out, fault=fault)
        assert not found.crash, f"{fault}: {found.crash}"
        return found

    def is_whole(self, out: Path, found: faults.Outcome) -> bool:
        """Whether a run ended as the unbroken one did."""
        weights = [(path / "model.safetensors").read_bytes() for path in (out, self.whole)]
        return weights[0] == weights[1] and found.value["test"] == self.unbroken.value["test"]


@pytest.fixture(scope="module", params=["torchrec", pytest.param("bars", marks=pytest.mark.long)])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp(request.param)
    config = cases.run_config(cases.write_table(folder / "rows.csv"), PRESETS[request.param])
    prepared = faults.run(cases.prepare, config, folder / "prepared")
    assert not prepared.crash, prepared.crash
    unbroken = faults.run(cases.train, config, folder / "prepared", folder / "whole")
    assert not unbroken.crash, unbroken.crash
    assert cases.steps_in(folder / "whole") == [12, 14]
    return Run(config, folder / "prepared", folder / "whole", unbroken)


def survives(run: Run, folder: Path, killed_by: Iterable[faults.Fault]) -> None:
    """Kill a run by each fault, then let it go on."""
    for fault in killed_by:
        out = folder / "run"
        shutil.rmtree(out, ignore_errors=True)
        run.train(out, fault)
        assert not cases.half_files(out), fault
        steps = cases.steps_in(out)
        resumed = run.train(out)
        assert not resumed.sentence, f"{fault}: {resumed.sentence}"
        if steps:
            assert resumed.value["said"][0] == f"going on from step {steps[-1]}", fault
        assert run.is_whole(out, resumed), fault
        assert not list(out.rglob("*partial*")), fault


def test_killed_run_goes_on_to_the_same_weights(run: Run, tmp_path: Path) -> None:
    survives(run, tmp_path, faults.draw(run.unbroken, 3, seed=1, sizes=(500, 150_000)))


@pytest.mark.long
def test_killed_50_times(run: Run, tmp_path: Path) -> None:
    survives(run, tmp_path, faults.draw(run.unbroken, 50, seed=2, sizes=(500, 150_000)))


@pytest.mark.long
def test_killed_before_each_change(run: Run, tmp_path: Path) -> None:
    survives(run, tmp_path, [faults.KillAt(change) for change in range(1, run.unbroken.changes + 1)])


@pytest.mark.long
def test_killed_over_and_over(run: Run, tmp_path: Path) -> None:
    """The same run, killed again and again: each time it gets a little further, or stays where it is."""
    last = 0
    for fault in faults.draw(run.unbroken, 50, seed=3, sizes=(500, 150_000)):
        run.train(tmp_path, fault)
        steps = cases.steps_in(tmp_path)
        assert (steps or [0])[-1] >= last
        last = (steps or [0])[-1]
    assert run.is_whole(tmp_path, run.train(tmp_path))


def damage(path: Path, how: Callable[[bytes], bytes | None]) -> None:
    data = how(path.read_bytes())
    path.unlink()
    if data is not None:
        path.write_bytes(data)


def files_of(checkpoint: Path) -> list[str]:
    return [str(path.relative_to(checkpoint)) for path in sorted(checkpoint.rglob("*")) if path.is_file()]


def flip(seed: int) -> Callable[[bytes], bytes]:
    """Flip one bit, anywhere."""

    def flipped(data: bytes) -> bytes:
        place = random.Random(seed).randrange(len(data) * 8)
        changed = bytearray(data)
        changed[place // 8] ^= 1 << place % 8
        return bytes(changed)

    return flipped


def reads_alike(before: bytes, path: Path) -> bool:
    """Whether JSON says the same after a bit of it was flipped: the last digits of a number can round to the same."""
    try:
        return bool(json.loads(path.read_bytes()) == json.loads(before))
    except (OSError, ValueError):
        return False


def falls_back(run: Run, folder: Path, damages: Iterable[tuple[str, Callable[[bytes], bytes | None]]]) -> None:
    """Damage the newest checkpoint in each way; the one before is taken, and the user is told."""
    for number, (file, how) in enumerate(damages):
        out = folder / "run"
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(run.whole, out)
        newest = sorted((out / "checkpoints").iterdir())[-1]
        before = (newest / file).read_bytes()
        damage(newest / file, how)
        expected = "going on from step 12; cannot be read: step-0000000014 ("
        if file == "trainer.json" and reads_alike(before, newest / file):
            expected = "going on from step 14"
        resumed = run.train(out)
        assert not resumed.sentence, f"{number}, {file}: {resumed.sentence}"
        assert resumed.value["said"][0].startswith(expected), (number, file)
        assert run.is_whole(out, resumed), (number, file)


def test_a_damaged_checkpoint_is_told_and_the_one_before_taken(run: Run, tmp_path: Path) -> None:
    files = files_of(sorted((run.whole / "checkpoints").iterdir())[-1])
    assert files == ["state/.metadata", "state/__0_0.distcp", "trainer.json"]
    hows = [DAMAGES["missing"], flip(1), flip(2)]
    falls_back(run, tmp_path, zip(files, hows, strict=True))


@pytest.mark.long
def test_any_damage_to_any_file(run: Run, tmp_path: Path) -> None:
    files = files_of(sorted((run.whole / "checkpoints").iterdir())[-1])
    falls_back(run, tmp_path, [(file, how) for file in files for how in DAMAGES.values()])
    falls_back(run, tmp_path, [(file, flip(seed)) for file in files for seed in range(20)])


def test_a_kill_before_the_oldest_is_removed_leaves_none_too_many(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.whole, tmp_path, dirs_exist_ok=True)
    newest = sorted((tmp_path / "checkpoints").iterdir())[-1]
    shutil.copytree(tmp_path / "checkpoints" / "step-0000000012", tmp_path / "checkpoints" / "step-0000000009")
    assert run.is_whole(tmp_path, run.train(tmp_path))
    assert [path.name for path in sorted((tmp_path / "checkpoints").iterdir())] == ["step-0000000012", newest.name]


def test_without_a_sound_checkpoint_it_stops(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.whole / "checkpoints", tmp_path / "checkpoints")
    for path in tmp_path.rglob("*.distcp"):
        damage(path, DAMAGES["cut"])
    found = run.train(tmp_path)
    assert "no checkpoint can be read: step-0000000014 (" in found.sentence
    assert "pass --restart to train from scratch here" in found.sentence
    assert not (tmp_path / "model.safetensors").exists()


def test_a_checkpoint_of_another_run_is_refused(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.whole, tmp_path, dirs_exist_ok=True)
    found = run.train(tmp_path, seed=4)
    assert "was written by a run with another config or other data" in found.sentence
    assert faults.files(tmp_path / "checkpoints") == faults.files(run.whole / "checkpoints")


@pytest.mark.parametrize("how", ["missing", "cut"])
def test_lost_best_weights_are_told(how: str, run: Run, tmp_path: Path) -> None:
    """A finished run cannot make them again: the checkpoint has the last weights, which need not be the best."""
    shutil.copytree(run.whole, tmp_path, dirs_exist_ok=True)
    damage(tmp_path / "model.safetensors", DAMAGES[how])
    found = run.train(tmp_path)
    assert "model.safetensors: the best weights so far cannot be read" in found.sentence
    assert "pass --restart" in found.sentence


def test_no_room_for_a_file(run: Run, tmp_path: Path) -> None:
    """Wherever a write fails the run stops with a sentence, and goes on when there is room again."""
    largest = max(len(data) for data in faults.files(run.whole).values())
    for number, (size, every) in enumerate([(5000, 0), (largest // 4, 3), (largest - 100, 3)]):
        out = tmp_path / str(number)
        full = run.train(out, faults.FileLimit(size), train=run.config["train"] | {"checkpoint_every": every})
        assert "cannot be written (File too large)" in full.sentence, size
        assert not list(out.rglob("*partial*")), size
        cases.steps_in(out)
        assert run.is_whole(out, run.train(out)), size


def test_full_disk(run: Run, tmp_path: Path) -> None:
    needed = sum(len(data) for data in faults.files(run.whole).values()) // 1024
    with faults.small_disk(tmp_path / "disk", 16 * needed) as disk:
        ballast = faults.fill(disk, leave_kib=needed // 2)
        full = run.train(disk / "run")
        assert "cannot be written (No space left on device)" in full.sentence
        assert "free space or name another" in full.sentence
        cases.steps_in(disk / "run")
        ballast.unlink()
        assert run.is_whole(disk / "run", run.train(disk / "run"))
