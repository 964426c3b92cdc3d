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
    table = out.parent / f"table-{version}.csv"
    if not table.exists():
        cases.write_table(table, rows=200, seed=version)
    return cases.prepare(cases.run_config(table), out)


CASES = {
    "preprocess": Case(prepare, cases.open_prepared),
    "tokenizer": Case(cases.save_tokenizer, cases.open_tokenizer),
    "knowledge": Case(cases.write_store, cases.open_store),
}


def survives(name: str, folder: Path, killed_by: Iterable[faults.Fault], *, expect_kills: bool = True) -> None:
    """Write version 2 over version 1 under each fault; then one of them is there, and the next write ends well."""
    case = CASES[name]
    versions = []
    for version in (1, 2):
        (folder / f"whole-{version}").mkdir(parents=True)
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
        left = {path.name for path in trial.iterdir()} - {"table-1.csv", "table-2.csv"}
        assert left == {"out"}, f"{fault} left {left}"


def changes_of(name: str, folder: Path) -> int:
    """Changes to the file system that writing version 2 over version 1 makes."""
    folder.mkdir()
    faults.run(CASES[name].write, folder / "out", 1)
    return faults.run(CASES[name].write, folder / "out", 2).changes


@pytest.mark.parametrize("name", CASES)
def test_killed_in_the_last_moments_of_a_write(name: str, tmp_path: Path) -> None:
    changes = changes_of(name, tmp_path / "count")
    survives(name, tmp_path, [faults.KillAt(change) for change in range(max(1, changes - 9), changes + 1, 2)])


@pytest.mark.long
@pytest.mark.parametrize("name", CASES)
def test_killed_anywhere(name: str, tmp_path: Path) -> None:
    changes = changes_of(name, tmp_path / "count")
    survives(name, tmp_path / "each", [faults.KillAt(change) for change in range(1, changes + 1)])
    unbroken = faults.Outcome(changes=changes, seconds=0.3)
    survives(name, tmp_path / "any", faults.draw(unbroken, 50, seed=1, sizes=(10, 3000)), expect_kills=False)
