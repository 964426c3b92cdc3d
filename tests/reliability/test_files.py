"""Files written aside: on disk before they get their name, gone when the block fails, and full disks are told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from genrec_plugins.files import written_aside
from genrec_registry import DataError


def test_a_file_is_on_disk_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    sync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda file: order.append("sync") or sync(file))
    monkeypatch.setattr(Path, "replace", lambda self, to: order.append("rename") or replace(self, to))
    with written_aside(tmp_path / "a.txt") as partial:
        partial.write_text("whole")
    assert order == ["sync", "rename"]


def fail_in_block(path: Path, error: BaseException) -> None:
    with written_aside(path) as partial:
        partial.write_text("half")
        raise error


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt()])
def test_nothing_is_left_of_a_block_that_fails(error: BaseException, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("before")
    with pytest.raises(type(error)):
        fail_in_block(tmp_path / "a.txt", error)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.txt": "before"}


def test_an_error_of_the_system_from_rust_is_told(tmp_path: Path) -> None:
    full = RuntimeError("I/O error: No space left on device (os error 28)")
    with pytest.raises(DataError, match=r"a\.txt: cannot be written \(No space left on device\); name another --out"):
        fail_in_block(tmp_path / "a.txt", full)
    assert not list(tmp_path.iterdir())


def test_a_block_that_writes_nothing_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file or directory"), written_aside(tmp_path / "a.txt"):
        pass
