"""The speed table: its parts run, other Pythons are told from broken ones, growth is measured in bounded memory."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from genrec_plugins.benchmarks.speed import growth_data, other_python, parts, preprocess
from genrec_plugins.benchmarks.speed.__main__ import _chosen, main
from genrec_plugins.benchmarks.speed.options import Options
from genrec_plugins.benchmarks.speed.other_python import OtherPython
from genrec_plugins.benchmarks.speed.paired import race
from genrec_registry import ConfigError, DataError, SetupError


def options(folder: Path, **given: object) -> Options:
    return Options(folder=folder, **{"rows": 3000, "turns": 1, **given})  # type: ignore[arg-type]


# -- racing -----------------------------------------------------------------------------------------------------------


def test_ways_run_in_turns_that_begin_with_another_one_each_and_the_first_is_not_counted() -> None:
    seen: list[str] = []
    given = {"a": iter([9.0, 1.0, 2.0]), "b": iter([9.0, 4.0, 4.0])}

    def way(name: str) -> float:
        seen.append(name)
        return next(given[name])

    found = race("p", {name: lambda name=name: way(name) for name in given}, amount=8, unit="x", turns=2)
    assert "".join(seen) == "abbaab"
    assert [(one.rate, one.ratio, one.least, one.most) for one in found] == [(8 / 1.5, 1, 1, 1), (2, 3, 2, 4)]


def test_processor_time_is_told_of_ways_that_ran_here() -> None:
    here, elsewhere = race("p", {"here": lambda: sum(range(10**6)), "other": lambda: 1.0}, amount=10, unit="x", turns=1)
    assert here.cpu_us is not None
    assert here.cpu_us > 0
    assert elsewhere.cpu_us is None


# -- another Python ---------------------------------------------------------------------------------------------------

SCRIPT = """
import json, sys
print("noise", file=sys.stderr)
print(json.dumps({"version": sys.argv[1]}), flush=True)
for turn, line in enumerate(sys.stdin):
    if turn == 2:
        raise ValueError("out of turns")
    print(json.dumps({"seconds": turn + 0.5}), flush=True)
"""


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(other_python, "SCRIPTS", tmp_path)
    (tmp_path / "own.py").write_text(SCRIPT)
    return "own.py"


def test_another_python_reports_its_own_seconds(script: str) -> None:
    with OtherPython(sys.executable, script, "1.2") as other:
        assert other.facts == {"version": "1.2"}
        assert [other.turn(), other.turn()] == [0.5, 1.5]
        with pytest.raises(SetupError, match=r"failed \(ValueError: out of turns\); mend that Python's packages"):
            other.turn()
    assert other._process.poll() is not None, "no process is left behind"


def test_a_python_that_is_not_there_is_one_sentence(script: str) -> None:
    with pytest.raises(SetupError, match="nowhere/python: cannot be run"):
        OtherPython("nowhere/python", script)


@pytest.mark.parametrize("name", ["fuxictr_preprocess.py", "fuxictr_loader.py"])
def test_a_python_without_fuxictr_is_one_sentence(tmp_path: Path, name: str) -> None:
    """This Python is one."""
    with pytest.raises(SetupError, match="No module named 'fuxictr'"):
        OtherPython(sys.executable, name, tmp_path, tmp_path, 10, "plain")


def test_a_missing_reader_of_torchrecs_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchrec.datasets.criteo import BinaryCriteoUtils

    def missing(*_: object, **__: object) -> None:
        raise ImportError("iopath is required")

    monkeypatch.setattr(BinaryCriteoUtils, "tsv_to_npys", staticmethod(missing))
    with pytest.raises(SetupError, match=r"pip install \"genrec-plugins\[bench\]\""):
        preprocess.torchrecs(options(tmp_path).raw, tmp_path)


# -- the parts --------------------------------------------------------------------------------------------------------


def test_every_part_is_there() -> None:
    for name, target in parts.PARTS.items():
        module, _, function = target.partition(":")
        assert hasattr(__import__(module, fromlist=[function]), function), name


def test_raw_rows_are_generated_read_or_missed(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    generated = options(tmp_path).raw
    assert generated.rows == 3000
    assert len(generated.path.read_bytes().splitlines()) == 3000
    given = options(tmp_path / "own", data=generated.path, rows=None).raw
    assert given.path.read_bytes() == generated.path.read_bytes()
    with pytest.raises(DataError, match=r"no\.txt: does not exist"):
        _ = options(tmp_path, data=tmp_path / "no.txt").raw


def test_the_command_runs_the_data_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import typer

    monkeypatch.setattr("genrec_plugins.benchmarks.speed.loader._ROWS", 3000)
    app = typer.Typer()
    app.command()(main)
    words = ["--parts", "preprocess,loader", "--rows", "3000", "--turns", "1"]
    files = ["--json", str(tmp_path / "s.json"), "--markdown", str(tmp_path / "s.md")]
    result = CliRunner().invoke(app, [*words, *files])
    assert result.exit_code == 0, result.output
    assert "without FuxiCTR" in result.output
    facts = json.loads((tmp_path / "s.json").read_text())
    assert facts["data"] == "3,000 generated rows"
    assert (facts["table"][0]["what"], facts["table"][0]["ratio"]) == ("genrec preprocess", 1.0)
    told = {(row["part"], row["what"].split(",")[0]) for row in facts["table"]}
    assert ("preprocess", "TorchRec tsv_to_npys") in told
    assert ("loader, a further epoch", "training the fastest model on one thread") in told
    assert all(row["rate"] > 0 and row["ratio"] > 0 for row in facts["table"])
    assert (tmp_path / "s.md").read_text().count("\n|") == len(facts["table"]) + 2


def test_unknown_parts_are_refused() -> None:
    with pytest.raises(ConfigError, match="there is no part 'loadr', did you mean 'loader'"):
        _chosen("preprocess,loadr")


# -- growth -----------------------------------------------------------------------------------------------------------


def test_a_point_is_measured_in_a_process_of_its_own(tmp_path: Path) -> None:
    growth_data.write_table(tmp_path / "t.csv", 2000, 3, 50)
    ballast = bytearray(1 << 28)  # must not count
    point = growth_data.measure(
        "prepare", "fields", 3, 6000, "prepare", str(tmp_path / "t.csv"), str(tmp_path / "out"), None, 0
    )
    assert point.seconds > 0
    assert point.base_mib <= point.peak_mib < 256 < len(ballast) / 2**20 + 1
    table = growth_data.table_of([point, replace(point, x=30, seconds=10 * point.seconds)])
    assert [dict(zip(growth_data.COLUMNS, row, strict=True))["exponent"] for row in table] == ["", "1.00"]
    assert growth_data.plot([point]).startswith("<svg")


def test_generated_categories_are_distinct_and_equally_frequent(tmp_path: Path) -> None:
    import polars as pl

    growth_data.write_table(tmp_path / "t.csv", 10_000, 2, 2000)
    column = pl.read_csv(tmp_path / "t.csv", schema_overrides={"c1": pl.String})["c1"]
    assert column.str.contains("^[0-9a-f]{8}$").all()
    assert set(column.value_counts()["count"]) == {5}
