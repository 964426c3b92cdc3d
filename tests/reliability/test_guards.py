"""A loss that is not finite: the message names the field and its rows, the table and its row, or the module."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from genrec_adapters.loader import BatchLoader
from genrec_adapters.prepared import Prepared
from genrec_plugins.config import parse_run
from genrec_plugins.training.checkpoints import plain_weights
from genrec_plugins.training.evaluation import evaluate_split, score
from genrec_plugins.training.guards import why_not_finite
from genrec_plugins.training.run import prepare_run
from genrec_plugins.training.trainer import Trainer
from genrec_registry import ModelError
from tests.reliability import cases

PRESETS = {"torchrec": cases.TORCHREC, "bars": cases.BARS}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cases.write_table(tmp_path_factory.mktemp("guards") / "rows.csv", rows=300)


@pytest.fixture(scope="module")
def prepared(table: Path) -> Prepared:
    return prepare_run(parse_run(cases.run_config(table)), table.parent / "prepared")


def trainer_of(table: Path, prepared: Prepared, preset: str, **train: float) -> Trainer:
    run = parse_run(cases.run_config(table, PRESETS[preset] | train))
    return Trainer(run.config, prepared, run.registry)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_bad_number_is_told_with_its_field_and_rows(
    preset: str, value: float, table: Path, prepared: Prepared, tmp_path: Path
) -> None:
    bad = cases.change_rows(prepared, tmp_path / "bad", "x", [4, 100], value)
    trainer = trainer_of(table, bad, preset)
    before = plain_weights(trainer.recipe.model)
    with pytest.raises(ModelError) as caught:
        trainer.fit()
    found = re.fullmatch(
        rf"epoch 1, step (\d+): the loss is nan; dense field 'x' is {value} in row (\d+) of this batch \(2 of the "
        r"training rows, the first is row 5 of .*part-00000\.arrow\); mend the input and run 'genrec preprocess' again",
        str(caught.value),
    )
    assert found, str(caught.value)
    step, row = int(found.group(1)), int(found.group(2))
    batch = next(iter(trainer.loader.skip(step - 1)))
    assert not torch.isfinite(batch.dense_features[row - 1, 0])
    after = plain_weights(trainer.recipe.model)
    assert all(torch.isfinite(weight).all() for weight in after.values()), "the step was not taken"
    assert step == 1 or any(not torch.equal(before[name], after[name]) for name in after)


def test_predictions_that_are_not_finite_are_told_with_their_split_batch_and_field(
    table: Path, prepared: Prepared
) -> None:
    trainer = trainer_of(table, prepared, "bars", eval_batch_size=20)
    batches = list(BatchLoader(prepared, "valid", 20))
    batches[1].dense_features[3, 0] = math.inf
    given = (trainer.settings, trainer.device)
    with pytest.raises(ModelError) as caught:
        score(trainer.recipe.model, batches, *given, name="valid split", dense=prepared.dense_features)
    assert str(caught.value) == (
        "valid split, batch 2: 1 of 20 predictions are not finite; dense field 'x' is inf in row 4 of this batch; mend "
        "the input"
    )
    with torch.no_grad():
        next(trainer.model.over_arch.parameters())[0] = math.nan
    with pytest.raises(
        ModelError, match=r"^valid split, batch 1: 20 of 20 .*; the weight 'over_arch\.[a-z0-9_.]+' is not"
    ):
        evaluate_split(trainer.recipe.model, prepared, "valid", *given)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_broken_table_row_is_told(preset: str, table: Path, prepared: Prepared) -> None:
    trainer = trainer_of(table, prepared, preset)
    name = next(name for name in trainer.recipe.model.state_dict() if "t_b.weight" in name)
    weight = trainer.recipe.model.state_dict()[name]
    weight = weight.local_shards()[0].tensor if hasattr(weight, "local_shards") else weight
    with torch.no_grad():
        weight[2] = math.nan
    with pytest.raises(ModelError, match=r"the loss is nan; table 't_b' is not finite in 1 row, the first is row 2, "):
        trainer.fit()


@pytest.mark.parametrize("preset", PRESETS)
def test_a_broken_weight_is_told(preset: str, table: Path, prepared: Prepared) -> None:
    trainer = trainer_of(table, prepared, preset)
    with torch.no_grad():
        next(trainer.model.over_arch.parameters())[0] = math.inf
    with pytest.raises(ModelError, match=r"the weight 'over_arch\.[a-z0-9_.]+' is not finite, since an earlier step"):
        trainer.fit()


@pytest.mark.parametrize(("preset", "rates"), [("bars", {"lr": 1e30}), ("torchrec", {"dense_lr": 1e30})])
def test_divergence_names_the_module(preset: str, rates: dict[str, float], table: Path, prepared: Prepared) -> None:
    with pytest.raises(
        ModelError, match=r"the output of '[a-z0-9_.]+' is the first that is -?(inf|nan); lower the lea"
    ):
        trainer_of(table, prepared, preset, **rates).fit()


def test_after_the_step_weights_say_nothing(table: Path, prepared: Prepared) -> None:
    trainer = trainer_of(table, prepared, "bars")
    batch = next(iter(trainer.loader))
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.fill_(math.nan)
    found = why_not_finite(trainer.recipe.model, batch, prepared, stepped=True)
    assert found == "lower the learning rates, or look for extreme values in the dense fields"
    batch.dense_features[3, 0] = 1e30
    found = why_not_finite(trainer.recipe.model, batch, prepared, stepped=True)
    assert found.startswith("dense field 'x' reaches 1e+30 in this batch")
    batch.labels[1] = math.nan
    assert why_not_finite(trainer.recipe.model, batch, prepared).startswith("the label is nan in row 2 of this batch;")


def test_the_surest_cause_of_any_rank_is_told(table: Path, prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other rank's share has the bad row; both tell of it."""
    from genrec_plugins.training import guards

    def gather(told: list[object], mine: object) -> None:
        told[:] = [mine, (0, "dense field 'y' is nan")]

    monkeypatch.setattr(guards, "world_size", lambda: 2)
    monkeypatch.setattr(guards.dist, "all_gather_object", gather)
    trainer = trainer_of(table, prepared, "bars")
    batch = next(iter(trainer.loader))
    assert why_not_finite(trainer.recipe.model, batch, prepared, stepped=True) == "dense field 'y' is nan"


def test_no_field_may_give_what_is_not_finite(table: Path, tmp_path: Path) -> None:
    """Whatever the numbers in the file, the built-in fields give finite ones; another's are refused at once."""
    lines = table.read_text().splitlines()
    texts = ["inf", "-inf", "nan", "1e308", "-1e308", "1e-320", "NaN", "Infinity", "1e400", ""]
    changed = [f"{line.rpartition(',')[0]},{texts[row % len(texts)]}" for row, line in enumerate(lines[1:])]
    (tmp_path / "rows.csv").write_text("\n".join([lines[0], *changed]) + "\n")
    for number, x in enumerate(
        [
            {"type": "numeric-dense"},
            {"type": "numeric-dense", "transform": "log1p"},
            {"type": "numeric-embedding"},
            {"type": "numeric-bucket"},
        ]
    ):
        config = cases.run_config(tmp_path / "rows.csv", fields={"{a,b}": {"type": "categorical"}, "x": x})
        prepared = prepare_run(parse_run(config), tmp_path / str(number))
        for path in prepared.shard_paths("train"):
            frame = pl.read_ipc(path)
            for feature in prepared.dense_features:
                values = np.stack(frame[feature.name].to_list()).reshape(frame.height, feature.width)
                assert np.isfinite(values).all(), (x, feature.name)


def test_a_field_type_that_gives_nan_is_refused_before_anything_is_trained() -> None:
    from genrec_adapters.preprocess.encoding import _problem
    from genrec_registry import DenseFeature

    one = pl.DataFrame({"x": pl.Series([1.0, math.nan], dtype=pl.Float32)})
    assert _problem(one, DenseFeature(name="x", width=1)).startswith("column 'x' has nan in row 2 of a chunk")
    rows = pl.Series("x", [[1.0, 2.0], [3.0, 4.0], [math.inf, 0.0]], dtype=pl.Array(pl.Float32, 2))
    assert _problem(pl.DataFrame({"x": rows}), DenseFeature(name="x", width=2)).startswith(
        "column 'x' has inf in row 3"
    )
    assert _problem(pl.DataFrame({"x": rows[:2]}), DenseFeature(name="x", width=2)) == ""
