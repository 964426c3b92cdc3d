"""The benchmarks of the server: what they make of what they measure."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from genrec_plugins.benchmarks.serving_history import races
from genrec_plugins.benchmarks.serving_load import Load, load, summary
from genrec_plugins.serving.schema import RawColumn, RawSchema
from tests.plugins.serve_cases import Ages, put, row
from tests.plugins.test_serve_process import ages


def of(way: str, rate: float, refused: int = 0, cpu: float = 10.0) -> Load:
    return Load(
        way=way,
        rows=1,
        clients=2,
        requests_per_second=rate,
        p50_ms=1.0,
        p99_ms=4.0,
        refused=refused,
        cpu_us_per_row=cpu,
        requests=100,
        answered=100 - refused,
        answered_per_second=rate * (100 - refused) / 100,
        good_p99_ms=5.0,
        memory_mib=cpu * 10,
    )


def test_ratios_are_of_one_turn_and_of_answered_requests() -> None:
    loads = [of("ours", 20.0, cpu=5), of("eager", 10.0), of("eager", 40.0, refused=75), of("ours", 40.0, refused=50)]
    ours, eager = summary(loads)
    assert ours[2:5] == ["ours", 20.0, "1.50 (1.00-2.00)"]
    assert eager[2:5] == ["eager", 10.0, "1.00 (1.00-1.00)"]
    assert ours[8:] == [5, "0.75 (0.50-1.00)", "50 of 200", "50-100"]


@pytest.mark.skipif(shutil.which("ab") is None, reason="ApacheBench is not installed (apt-get install apache2-utils)")
def test_apache_bench_is_understood(tmp_path: Path) -> None:
    from pydantic_core import to_json

    put(tmp_path / "export", "a" * 64)
    (tmp_path / "body").write_bytes(to_json({"rows": [row(5)]}))
    (tmp_path / "bad").write_bytes(to_json({"rows": [row(99)]}))
    with ages(tmp_path / "export", 0.0) as (server, url):
        port = int(url.rpartition(":")[2])
        good = load("ours", (port, server.pid), tmp_path / "body", rows=1, clients=4, seconds=1)
        bad = load("ours", (port, server.pid), tmp_path / "bad", rows=1, clients=4, seconds=1)
    assert good.requests > 10
    assert good.refused == 0
    assert good.answered >= good.requests
    assert good.answered_per_second > 1
    assert good.p99_ms >= good.p50_ms
    assert 0 < good.good_p99_ms < 10_000
    assert good.cpu_us_per_row > 0
    assert 10 < good.memory_mib < 10_000
    assert (bad.refused >= bad.requests, bad.answered) == (True, 0)


def test_histories_are_raced() -> None:
    class Model(Ages):
        shared = frozenset({"seen"})

        def score(self, asked: Any) -> Any:
            leaders.append(asked[0].leader is not None)
            return super().score(asked)

    leaders: list[bool] = []
    model = Model()
    model.schema = RawSchema(
        columns=(
            RawColumn(name="age", kind="number", values="integer"),
            RawColumn(name="seen", kind="list", values="text"),
        ),
        label="y",
    )
    found = races(model, 5, 3, turns=2)
    assert [one.what for one in found] == ["candidates, history encoded once", "candidates, each encoded", "whole rows"]
    assert sum(leaders) == 3
    assert len(leaders) == 9
