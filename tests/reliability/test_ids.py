"""Ids beyond their table: an error that names field, ids, table and file, on every way to a look-up; never row 0."""

from __future__ import annotations

from pathlib import Path

import pytest

from genrec_adapters.loader import BatchLoader
from genrec_adapters.prepared import Prepared
from genrec_plugins.config import parse_run
from genrec_plugins.training.run import TrainedRun, prepare_run, train_run
from genrec_plugins.training.trainer import Trainer
from genrec_registry import DataError
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
