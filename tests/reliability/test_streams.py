"""Streams that meet a full disk, damaged checkpoints, another config, or a loss that is NaN: a sentence, and they go on
to the end of a stream that met nothing."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from genrec_plugins.training.follow import LOG, Follower, FollowOptions
from genrec_plugins.training.run import prepare_run
from genrec_registry import ModelError
from tests import faults
from tests.plugins.test_follow import FILES, TORCHREC, follow, make_run, records, rows, same
from tests.reliability import cases


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As in the other tests of streams, with one user for all rows and fewer of them."""
    root = tmp_path_factory.mktemp("streams")
    (root / "stream").mkdir()
    rows(0).write_parquet(root / "base.parquet")
    for number in range(1, FILES + 1):
        rows(number, 150).write_parquet(root / "stream" / f"part-{number}.parquet")
    prepare_run(make_run(root), root / "prepared")
    return root


def follow_at(root: str, out: str) -> dict[str, Any]:
    torch.set_num_threads(1)
    said = cases.Listening()
    report = follow(Path(root), Path(out), reporter=said)
    return report | {"said": said.lines}


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    follow(folder, out)
    return out


def goes_on(folder: Path, out: Path, whole: Path) -> faults.Outcome:
    """The same command again: it ends as the stream that met nothing."""
    again = faults.run(follow_at, str(folder), str(out))
    assert not again.crash + again.sentence, again
    same(whole, out)
    assert not cases.half_files(out)
    return again


@pytest.mark.parametrize("leave", [0.3, 0.6, pytest.param(0.45, marks=pytest.mark.long)])
def test_full_disk(leave: float, folder: Path, whole: Path, tmp_path: Path) -> None:
    needed = sum(len(content) for content in faults.files(whole).values()) // 1024
    with faults.small_disk(tmp_path / "disk", 16 * needed) as disk:
        ballast = faults.fill(disk, leave_kib=int(leave * needed))
        full = faults.run(follow_at, str(folder), str(disk / "run"))
        assert not full.crash, full.crash
        assert "cannot be written (No space left on device)" in full.sentence
        assert "free space" in full.sentence
        assert not cases.half_files(disk / "run")
        ballast.unlink()
        goes_on(folder, disk / "run", whole)


@pytest.mark.parametrize("size", [1500, 9000])
def test_no_room_for_a_file(size: int, folder: Path, whole: Path, tmp_path: Path) -> None:
    full = faults.run(follow_at, str(folder), str(tmp_path / "run"), fault=faults.FileLimit(size))
    assert not full.crash, full.crash
    assert "cannot be written (File too large)" in full.sentence
    assert not cases.half_files(tmp_path / "run")
    assert not list((tmp_path / "run").rglob("*partial*"))
    goes_on(folder, tmp_path / "run", whole)


def damage(checkpoint: Path, how: Callable[[bytes], bytes]) -> None:
    for path in checkpoint.rglob("*.distcp"):
        path.write_bytes(how(path.read_bytes()))


DAMAGES = {"cut": lambda data: data[:-100], "flipped": lambda data: data[:-9] + bytes([data[-9] ^ 4]) + data[-8:]}


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_full_checkpoint_costs_the_files_after_it(
    how: str, folder: Path, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    damage(out / "stream" / "step-0000000006", DAMAGES[how])
    again = goes_on(folder, out, whole)
    assert again.value["said"][0].startswith("going on after file 5; cannot be read: step-0000000006 (")
    assert [line["number"] for line in again.value["progressive"]] == [6]


def test_without_a_sound_checkpoint_it_stops(folder: Path, whole: Path, tmp_path: Path) -> None:
    """The deltas alone are none, and a stream does not begin anew without saying so."""
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    for checkpoint in (out / "stream").glob("step-*"):
        damage(checkpoint, DAMAGES["cut"])
    before = faults.files(out)
    with pytest.raises(ModelError, match=r"stream: no checkpoint can be read: step-0000000006 \(.*pass --restart"):
        follow(folder, out)
    assert faults.files(out) == before


def test_checkpoints_of_another_run_are_refused(folder: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    before = faults.files(out)
    with pytest.raises(ModelError, match="was written by a run with another config or other data"):
        follow(folder, out, train=TORCHREC.replace("0.1", "0.2"))
    assert faults.files(out) == before


def test_full_checkpoints_that_are_gone_are_not_made_up(folder: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    for checkpoint in (out / "stream").glob("step-*"):
        shutil.rmtree(checkpoint)
    before = faults.files(out)
    with pytest.raises(ModelError, match="stream: has deltas, and no full checkpoint that they follow"):
        follow(folder, out)
    assert faults.files(out) == before


# -- NaN -----------------------------------------------------------------------------------------------------------


def dense_run(root: Path, **train: Any) -> Any:
    from genrec_plugins.config import parse_run

    return parse_run(
        {
            "dataset": {"type": "parquet", "path": f"{root}/base.parquet", "label": "y"},
            "fields": {"item": {"type": "dynamic-id", "rows": 40}, "x": {"type": "numeric-dense"}},
            "model": {"embedding_dim": 8, "over_arch": [16], "interaction": {"type": "dcn"}},
            "train": {"batch_size": 64, "embedding_lr": 0.1, "dense_lr": 0.01, "threads": 1, "eval_batch_size": 100},
        }
    )


@pytest.fixture
def follower(tmp_path: Path) -> Follower:
    def numbers(count: int) -> pl.Series:
        return pl.Series("x", [math.sin(row) for row in range(count)])

    (tmp_path / "stream").mkdir()
    rows(0).with_columns(numbers(300)).write_parquet(tmp_path / "base.parquet")
    one = rows(1).with_columns(numbers(300))
    one.write_parquet(tmp_path / "stream" / "part-1.parquet")
    one[250, "x"] = 3e38
    one.write_parquet(tmp_path / "stream" / "part-2.parquet")
    run = dense_run(tmp_path)
    prepared = prepare_run(run, tmp_path / "prepared")
    return Follower(run, tmp_path / "run", prepared, FollowOptions(folder=tmp_path / "stream", until_idle=0.0))


def test_predictions_that_are_not_finite_are_told_with_file_batch_and_field(follower: Follower, tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        follower.follow()
    assert str(caught.value).startswith(
        f"{tmp_path}/stream/part-2.parquet, batch 3: 1 of 100 predictions are not finite"
    )
    assert re.search(
        r"; the output of '[a-z._]+' is the first that is nan; dense field 'x' reaches 3\.4e\+38 in this batch",
        str(caught.value),
    )
    assert [line["file"] for line in records(tmp_path / "run")] == ["part-1.parquet"]
    assert not cases.half_files(tmp_path / "run")


def test_a_loss_that_is_not_finite_is_told_with_file_batch_and_table(
    follower: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = follower._train

    def broken(*arguments: Any) -> float:
        weights = follower.trainer.recipe.model.state_dict()
        name = next(name for name in weights if name.endswith("t_item.weight"))
        weights[name].local_shards()[0].tensor.fill_(math.nan)
        return train(*arguments)

    monkeypatch.setattr(follower, "_train", broken)
    with pytest.raises(
        ModelError, match=r"part-1\.parquet, batch 1: the loss is nan; table 't_item' is not finite in "
    ):
        follower.follow()
    assert follower.progress["files"] == []
    assert not (follower.directory / LOG).exists()
