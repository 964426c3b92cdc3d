"""What is written as a directory (prepared rows, tokenizer, knowledge store): killed at any point, the old or the new
one is there, whole, and the next run leaves nothing else behind."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import faults
from tests.reliability import cases


@dataclass(frozen=True)
class Case:
    """Something that is written as a directory, in two versions."""

    write: Callable[[Path, int], Any]
    open: Callable[[Path], Any]


def prepare(out: Path, version: int) -> str:
    return cases.prepare(cases.run_config(out.parents[1] / f"table-{version}.csv"), out)


CASES = {
    "preprocess": Case(prepare, cases.open_prepared),
    "tokenizer": Case(cases.save_tokenizer, cases.open_tokenizer),
    "knowledge": Case(cases.write_store, cases.open_store),
}


def survives(name: str, folder: Path, killed_by: Iterable[faults.Fault], *, expect_kills: bool = True) -> None:
    """Write version 2 over version 1 under each fault; then one of them is there, and the next write ends well."""
    case = CASES[name]
    versions = []
    folder.mkdir(exist_ok=True)
    write_tables(folder)
    for version in (1, 2):
        (folder / f"whole-{version}").mkdir()
        written = faults.run(case.write, folder / f"whole-{version}" / "out", version)
        assert not written.crash, written.crash
        versions.append(case.open(folder / f"whole-{version}" / "out"))
    for fault in killed_by:
        trial = folder / "trial"
        shutil.rmtree(trial, ignore_errors=True)
        shutil.copytree(folder / "whole-1", trial)
        found = faults.run(case.write, trial / "out", 2, fault=fault)
        assert not found.crash, f"{fault}: {found.crash}"
        assert found.killed or not expect_kills
        assert case.open(trial / "out") in versions, fault
        again = faults.run(case.write, trial / "out", 2)
        assert not again.crash + again.sentence, f"{fault}: {again}"
        assert case.open(trial / "out") == versions[1], fault
        assert [path.name for path in trial.iterdir()] == ["out"], fault


def write_tables(folder: Path) -> None:
    for version in (1, 2):
        cases.write_table(folder / f"table-{version}.csv", rows=200, seed=version)


def changes_of(name: str, folder: Path) -> int:
    """Changes to the file system that writing version 2 over version 1 makes."""
    (folder / "count").mkdir()
    write_tables(folder)
    faults.run(CASES[name].write, folder / "count" / "out", 1)
    return faults.run(CASES[name].write, folder / "count" / "out", 2).changes


@pytest.mark.parametrize("name", CASES)
def test_killed_in_the_last_moments_of_a_write(name: str, tmp_path: Path) -> None:
    changes = changes_of(name, tmp_path)
    survives(name, tmp_path, [faults.KillAt(change) for change in range(changes - 6, changes + 1, 3)])


@pytest.mark.parametrize("name", CASES)
def test_no_room(name: str, tmp_path: Path) -> None:
    """One sentence, and what was there stays as it was."""
    case, out = CASES[name], tmp_path / "here" / "out"
    write_tables(tmp_path)
    out.parent.mkdir()
    faults.run(case.write, out, 1)
    before = faults.files(tmp_path)
    largest = max(len(data) for path, data in before.items() if path.startswith("here"))
    for size in (10, largest // 2):
        found = faults.run(case.write, out, 2, fault=faults.FileLimit(size))
        assert "out: cannot be written" in found.sentence, f"{size}: {found}"
        assert "File too large" in found.sentence
        assert faults.files(tmp_path) == before


@pytest.mark.long
@pytest.mark.parametrize("name", CASES)
def test_killed_anywhere(name: str, tmp_path: Path) -> None:
    changes = changes_of(name, tmp_path)
    survives(name, tmp_path / "each", [faults.KillAt(change) for change in range(1, changes + 1)])
    unbroken = faults.Outcome(changes=changes, seconds=0.3)
    survives(name, tmp_path / "any", faults.draw(unbroken, 50, seed=1, sizes=(10, 3000)), expect_kills=False)
