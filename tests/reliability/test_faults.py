"""The fault harness itself: it kills where it says, and tells an error from a crash."""

from __future__ import annotations

from pathlib import Path

import pytest

from genrec_registry import DataError
from tests import faults


def write_three(folder: Path, size: int = 10) -> int:
    for name in "abc":
        (folder / name).write_bytes(b"x" * size)
    (folder / "c").rename(folder / "d")
    return 3


def raise_ours() -> None:
    raise DataError("rows.csv: is bad")


def raise_another() -> None:
    raise KeyError("x")


def test_without_a_fault_the_value_comes_back(tmp_path: Path) -> None:
    found = faults.run(write_three, tmp_path)
    assert (found.value, found.killed, found.changes) == (3, False, 4)


@pytest.mark.parametrize(("change", "left"), [(1, []), (3, ["a", "b"]), (4, ["a", "b", "c"])])
def test_kills_before_the_nth_change(change: int, left: list[str], tmp_path: Path) -> None:
    assert faults.run(write_three, tmp_path, fault=faults.KillAt(change)).killed
    assert sorted(faults.files(tmp_path)) == left


def test_dies_in_the_middle_of_a_file_or_fails_there(tmp_path: Path) -> None:
    assert faults.run(write_three, tmp_path, 100, fault=faults.KillInFile(40)).killed
    assert faults.files(tmp_path) == {"a": b"x" * 40}
    found = faults.run(write_three, tmp_path, 100, fault=faults.FileLimit(40))
    assert "File too large" in found.crash


def test_tells_our_errors_from_others() -> None:
    assert faults.run(raise_ours).sentence == "rows.csv: is bad"
    assert "KeyError: 'x'" in faults.run(raise_another).crash


def test_draws_kills_over_the_whole_run() -> None:
    unbroken = faults.Outcome(changes=9, seconds=2.0)
    drawn = list(faults.draw(unbroken, 300, seed=1, sizes=(1, 50)))
    assert {fault.change for fault in drawn if isinstance(fault, faults.KillAt)} == set(range(1, 10))
    delays = [fault.seconds for fault in drawn if isinstance(fault, faults.KillAfter)]
    assert min(delays) < 0.2
    assert 1.8 < max(delays) < 2.0
    assert len([fault for fault in drawn if isinstance(fault, faults.KillInFile)]) == 100
