"""Memory while it trains: seconds in the short form, minutes in the long one. A leak must be seen, else nothing is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from genrec_plugins.benchmarks.memory_watch import Soaked, Watch
from genrec_plugins.benchmarks.soak import Streamed, soak, soak_stream
from tests import faults

QUICK = {"batch_size": 256, "checkpoint_every": 5, "threads": 1}


class Leak(Watch):
    """Keeps a tensor of every step."""

    kept: list[torch.Tensor]

    def step(self, **facts: int | float) -> None:  # type: ignore[override]
        self.kept = getattr(self, "kept", [])
        self.kept.append(torch.zeros(1 << 18))
        super().step(**facts)  # type: ignore[arg-type]


def soaked(folder: Path, leak: bool) -> Soaked:
    """Twelve epochs of ten steps, a sample at the end of each."""
    watch = (Leak if leak else Watch)(120, 10, by_steps=True)
    return soak(watch, folder, rows=3000, changes=QUICK)


def streamed(folder: Path) -> tuple[Soaked, Streamed]:
    """Sixteen files of five steps, a sample at the end of each."""
    return soak_stream(
        Watch(80, 5, by_steps=True), folder, rows=640, full_every=4, changes={"batch_size": 128, "threads": 1}
    )


def streamed_for(folder: Path, seconds: float) -> tuple[Soaked, Streamed]:
    return soak_stream(Watch(seconds, 2.0), folder, changes={"threads": 1})


def soaked_for(folder: Path, seconds: float) -> Soaked:
    return soak(Watch(seconds, 2.0), folder, changes={"threads": 1})


def test_nothing_piles_up(tmp_path: Path) -> None:
    found = faults.run(soaked, tmp_path, False)
    assert not found.crash + found.sentence, found
    result: Soaked = found.value
    assert [sample.step for sample in result.samples] == list(range(10, 121, 10))
    assert result.tensors <= 0, [sample.tensors for sample in result.samples]


def test_a_leak_is_seen(tmp_path: Path) -> None:
    found = faults.run(soaked, tmp_path, True)
    assert not found.crash + found.sentence, found
    assert found.value.tensors >= 30
    assert not found.value.steady


def test_nothing_piles_up_while_a_stream_is_followed(tmp_path: Path) -> None:
    """Ids are evicted, every file is scored, and full checkpoints and deltas are written, or the soak says nothing."""
    found = faults.run(streamed, tmp_path)
    assert not found.crash + found.sentence, found
    result, stream = found.value
    assert [sample.step for sample in result.samples] == list(range(5, 81, 5))
    assert result.tensors <= 0, [sample.tensors for sample in result.samples]
    assert (stream.files, stream.rows) == (15, 15 * 640)  # the last step of the sixteenth ended it
    assert stream.rowless > 50
    assert stream.open_rows == 0
    assert (stream.full, stream.deltas) == (2, 6)
    assert stream.auc > 0.6


@pytest.mark.long
def test_memory_is_steady_for_ten_minutes_of_a_stream(tmp_path: Path) -> None:
    found = faults.run(streamed_for, tmp_path, 600.0, timeout=1200)
    assert not found.crash + found.sentence, found
    result, stream = found.value
    assert result.steady, (result.growth_mib, result.bound_mib, result.tensors)
    assert stream.files > 20
    assert stream.rowless > 500


@pytest.mark.long
def test_memory_is_steady_for_ten_minutes(tmp_path: Path) -> None:
    found = faults.run(soaked_for, tmp_path, 600.0, timeout=1200)
    assert not found.crash + found.sentence, found
    assert found.value.steady, (found.value.growth_mib, found.value.bound_mib, found.value.tensors)
