"""Ids beyond their table: an error that names field, ids, table and file, on every way to a look-up; never row 0."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from genrec_adapters.loader import BatchLoader
from genrec_adapters.prepared import Prepared
from genrec_plugins.config import parse_run
from genrec_plugins.training.run import TrainedRun, prepare_run, train_run
from genrec_plugins.training.trainer import Trainer
from genrec_registry import DataError
from tests.conftest import ROOT
from tests.reliability import cases

PRESETS = {"torchrec": cases.TORCHREC, "bars": cases.BARS}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cases.write_table(tmp_path_factory.mktemp("ids") / "rows.csv", rows=300)


@pytest.fixture(scope="module")
def prepared(table: Path) -> Prepared:
    return prepare_run(parse_run(cases.run_config(table)), table.parent / "prepared")


@pytest.mark.parametrize("bad", [5, 99, -1])
@pytest.mark.parametrize("preset", PRESETS)
def test_training_refuses_them_before_the_first_step(
    preset: str, bad: int, table: Path, prepared: Prepared, tmp_path: Path
) -> None:
    changed = cases.change_rows(prepared, tmp_path / "prepared", "b", [7], bad)
    rows = next(feature.num_embeddings for feature in prepared.sparse_features if feature.name == "b")
    assert rows == 5
    run = parse_run(cases.run_config(table, PRESETS[preset]))
    with pytest.raises(DataError, match=rf"train/part-00000\.arrow: feature 'b' has ids .*{bad}.*, expected 0\.\.4; "):
        train_run(run, tmp_path / "run", changed)
    with pytest.raises(DataError, match="feature 'b' has ids"):
        next(iter(BatchLoader(changed, "train", 64)))


@pytest.mark.parametrize("preset", PRESETS)
def test_a_batch_of_ones_own_making_is_refused(preset: str, table: Path, prepared: Prepared) -> None:
    """Stock TorchRec looks up row 0 here, and only logs it, once tables are sharded."""
    run = parse_run(cases.run_config(table, PRESETS[preset]))
    trainer = Trainer(run.config, prepared, run.registry)
    batch = next(iter(trainer.loader))
    batch.sparse_features["b"].values()[3] = 99
    with pytest.raises(RuntimeError, match=r"num_rows|not in the valid range"):
        trainer.recipe.model(batch)


LAYOUTS = {
    "table_wise": {"type": "table_wise"},
    "column_wise": {"type": "column_wise", "columns": 4},
    "data_parallel": {"type": "data_parallel"},
}


@pytest.mark.distributed
@pytest.mark.parametrize("bad", [99, pytest.param(-1, marks=pytest.mark.long)])
@pytest.mark.parametrize(
    "layout", ["table_wise", *(pytest.param(name, marks=pytest.mark.long) for name in ("column_wise", "data_parallel"))]
)
def test_sharded_tables_refuse_them(layout: str, bad: int, table: Path, prepared: Prepared, tmp_path: Path) -> None:
    """Two ranks; one asks for a row that no rank has. The rank with the table says so, and rank 0 gets no row."""
    config = cases.run_config(table, cases.TORCHREC | {"sharding": LAYOUTS[layout]})
    job = {"config": config, "prepared": str(prepared.directory), "feature": "b", "id": bad, "out": str(tmp_path)}
    (tmp_path / "job.json").write_text(json.dumps(job))
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.reliability.bad_ids", str(tmp_path / "job.json")]
    ranks = [
        subprocess.Popen(
            command, cwd=ROOT, env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        said = [rank.communicate(timeout=300)[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    found = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("rank*.json"))]
    assert found, said
    assert all(one["sound"] for one in found)
    assert any(re.search(r"num_rows|not in the valid range|is out of bounds", one["error"]) for one in found), (
        found,
        said,
    )
    first = tmp_path / "rank0.json"
    assert not first.exists() or not json.loads(first.read_text())["looked_up"]


def test_a_table_of_another_size_is_refused(table: Path, prepared: Prepared, tmp_path: Path) -> None:
    """The rows were prepared anew, with more values, after the run was trained."""
    run = parse_run(cases.run_config(table))
    train_run(run, tmp_path / "run", prepared)
    trained = TrainedRun.open(tmp_path / "run")
    other = cases.write_table(tmp_path / "other.csv", rows=300, seed=5)
    text = other.read_text().replace(",a1,", ",a77,", 20)
    other.write_text(text)
    more = prepare_run(parse_run(cases.run_config(other)), tmp_path / "more")
    swapped = TrainedRun(directory=trained.directory, run=trained.run, prepared=more)
    with pytest.raises(Exception, match="weights cannot be loaded"):
        swapped.predict("test")


def test_rows_prepared_anew_are_not_taken_for_those_of_the_training(table: Path, tmp_path: Path) -> None:
    """Vocabularies of the same sizes: nothing but the digest tells that the ids mean something else."""
    rows, directory = tmp_path / "rows.csv", tmp_path / "prepared"
    rows.write_text(table.read_text())
    run = parse_run(cases.run_config(rows))
    train_run(run, tmp_path / "run", prepare_run(run, directory))
    assert TrainedRun.open(tmp_path / "run").prepared.directory == directory
    rows.write_text(table.read_text().replace("a1", "z1"))
    prepare_run(run, directory)
    with pytest.raises(DataError, match="prepared anew since this run was trained"):
        TrainedRun.open(tmp_path / "run")
