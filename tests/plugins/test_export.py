"""Exported runs: same scores as the run itself, whatever the tables, the interaction, the encoder; and bad rows."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from genrec_adapters.prepared import Prepared
from genrec_adapters.raw import raw_batches
from genrec_plugins.cli import main
from genrec_plugins.interactions.fat_weights import HyperWeights
from genrec_plugins.serving.export import export_run
from genrec_plugins.serving.exported import Exported, read_weights
from genrec_plugins.serving.runtimes import eager_score
from genrec_plugins.serving.tables import quantise
from genrec_plugins.training.run import TrainedRun, prepare_run
from genrec_registry import ConfigError, DataError, default_registry
from tests.plugins.serving_cases import FAT, FIELDS, HISTORY, arrow, make_run, raw_rows, trained, untrained


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("export")


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    return trained(folder, "run", FAT)


@pytest.fixture(scope="module")
def prepared(run: Path) -> Prepared:
    return TrainedRun.open(run).prepared


@pytest.fixture(scope="module")
def exported(run: Path) -> Exported:
    export_run(run, run.parent / "exported", formats=[])
    return Exported.open(run.parent / "exported")


def own_scores(run: Path) -> np.ndarray:
    return TrainedRun.open(run).predict_file(str(run.parent / "rows.parquet"))[1]


# -- scores -----------------------------------------------------------------------------------------------------------


def test_scores_are_those_of_the_run(run: Path, exported: Exported) -> None:
    expected = own_scores(run)
    found = exported.score(arrow(raw_rows()))
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() < 1e-6
    assert expected.std() > 0.01


def test_the_hypernetwork_is_folded(run: Path, exported: Exported) -> None:
    assert any(isinstance(module, HyperWeights) for module in TrainedRun.open(run).model().modules())
    assert not any(isinstance(module, HyperWeights) for module in exported.model.modules())
    assert exported.run.config.model.interaction.mode == "full"
    assert not any("bases" in name or "router" in name for name in read_weights(exported.directory))


def scores_with_rounded_tables(run: Path, tables: str) -> np.ndarray:
    """The trained model in fp32, its tables rounded row by row: slow, and in plain formulas."""
    opened = TrainedRun.open(run)
    model = opened.model()
    with torch.no_grad():
        for table in model.model.tables():
            if tables == "fp16":
                table.copy_(table.half())
                continue
            low, high = table.min(dim=1, keepdim=True).values, table.max(dim=1, keepdim=True).values
            low, top = low.half().float(), 2 ** {"int8": 8, "int4": 4}[tables] - 1
            step = ((high - low) / top).half().float()
            codes = torch.where(step > 0, ((table - low) / step).round(), 0.0).clamp(0, top)
            table.copy_(codes * step + low)
    (batch,) = raw_batches(
        opened.prepared,
        opened.run.config.dataset.model_dump(exclude_none=True),
        opened.run.registry,
        len(raw_rows()),
    )
    return eager_score(model.model)(batch)


@pytest.mark.parametrize("tables", ["fp16", "int8", "int4"])
def test_quantised_tables(run: Path, folder: Path, exported: Exported, tables: str) -> None:
    """Every runtime reads the stored rows alike, and they are near those that were trained."""
    card = export_run(run, folder / tables, tables=tables, formats=[])
    rows = arrow(raw_rows())
    eager = Exported.open(folder / tables, runtime="eager").score(rows)
    for runtime in ("plain", "script"):
        assert np.abs(Exported.open(folder / tables, runtime=runtime).score(rows) - eager).max() < 1e-6
    assert np.abs(eager - scores_with_rounded_tables(run, tables)).max() < 1e-6
    cost = card["metrics"]["test"]["max_difference"]
    assert 0 < cost < {"fp16": 1e-3, "int8": 1e-2, "int4": 0.1}[tables]
    stored = read_weights(folder / tables)["sparse_arch.embedding_bag_collection.embedding_bags.t_colour.weight"]
    assert stored.dtype == (torch.float16 if tables == "fp16" else torch.uint8)
    whole = json.loads((exported.directory / "model_card.json").read_text())
    assert card["model"]["bytes"] < whole["model"]["bytes"]
    assert Exported.open(folder / tables).digest != exported.digest


def test_the_same_export_has_the_same_digest(run: Path, folder: Path, exported: Exported) -> None:
    export_run(run, folder / "again", formats=["torchscript"])
    assert Exported.open(folder / "again").digest == exported.digest


INTERACTIONS = [component.name for component in default_registry().components("interaction")]
ENCODERS = [component.name for component in default_registry().components("encoder")]


@pytest.mark.parametrize("name", INTERACTIONS)
def test_every_interaction(name: str, folder: Path, prepared: Prepared) -> None:
    run = untrained(folder, f"i-{name}", f"interaction: {{type: {name}}}", prepared)
    card = export_run(run, folder / f"i-{name}-out", formats=["export", "torchscript"])
    assert card["left_out"] == {}
    assert max(found["max_difference"] for found in card["formats"].values()) < 1e-6
    rows, expected = arrow(raw_rows()), own_scores(run)
    for runtime in ("eager", "plain"):
        assert np.abs(Exported.open(folder / f"i-{name}-out", runtime=runtime).score(rows) - expected).max() < 1e-6


@pytest.fixture(scope="module")
def with_history(folder: Path) -> Prepared:
    run = make_run(folder, "interaction: {type: dot}\n  encoder: {type: din}", FIELDS + HISTORY)
    return prepare_run(run, folder / "history")


@pytest.mark.parametrize("name", ENCODERS)
def test_every_encoder(name: str, folder: Path, with_history: Prepared) -> None:
    model = f"interaction: {{type: dot}}\n  encoder: {{type: {name}}}"
    run = untrained(folder, f"e-{name}", model, with_history, FIELDS + HISTORY)
    rows, expected = arrow(raw_rows()), own_scores(run)
    for tables, near in (("fp32", 1e-6), ("int8", 1e-2)):
        out = folder / f"e-{name}-{tables}"
        card = export_run(run, out, tables=tables, formats=["export", "torchscript"] if tables == "fp32" else [])
        for runtime in ("auto", "plain", "script"):
            assert np.abs(Exported.open(out, runtime=runtime).score(rows) - expected).max() < near
        assert card["left_out"] == {}
        assert max([0.0, *(found["max_difference"] for found in card["formats"].values())]) < 1e-6


def test_an_encoder_without_a_padded_form_is_served_eagerly(
    folder: Path, with_history: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a plugin's may be; the reason is in the card."""
    monkeypatch.setattr("genrec_plugins.serving.plain.padded_form", lambda encoder: None)
    model = "interaction: {type: dot}\n  encoder: {type: hstu}"
    run = untrained(folder, "own", model, with_history, FIELDS + HISTORY)
    card = export_run(run, folder / "own-out", formats=["export", "torchscript"])
    assert set(card["left_out"]) == {"export", "torchscript"}
    assert "the encoder has no padded form" in card["left_out"]["export"]
    assert "the encoder has no padded form" in (folder / "own-out" / "model_card.md").read_text()
    rows, expected = arrow(raw_rows()), own_scores(run)
    for runtime in ("auto", "plain"):
        assert np.abs(Exported.open(folder / "own-out", runtime=runtime).score(rows) - expected).max() < 1e-6
    with pytest.raises(ConfigError, match="runtime 'script': the model cannot be traced"):
        Exported.open(folder / "own-out", runtime="script")


# -- what is in the directory ---------------------------------------------------------------------------------------


def test_it_needs_nothing_but_its_directory(run: Path, folder: Path, exported: Exported) -> None:
    rows = arrow(raw_rows(20))
    expected = exported.score(rows)
    moved = shutil.copytree(exported.directory, folder / "elsewhere" / "moved")
    hidden = [(path, path.with_name(f"{path.name}-hidden")) for path in (run, folder / "run-prepared")]
    for path, aside in hidden:
        path.rename(aside)
    try:
        assert (Exported.open(moved).score(rows) == expected).all()
    finally:
        for path, aside in hidden:
            aside.rename(path)


def test_the_card_says_what_was_done(run: Path, exported: Exported) -> None:
    card = json.loads((exported.directory / "model_card.json").read_text())
    metrics = json.loads((run / "metrics.json").read_text())
    assert card["metrics"]["test"]["trained"] == pytest.approx(metrics["test"])
    assert card["metrics"]["valid"]["exported"]["auc"] == pytest.approx(card["metrics"]["valid"]["trained"]["auc"])
    assert card["digest"] == exported.digest
    assert card["model"]["folded"].startswith("fat: ")
    source = card["data"]["sources"][0]
    assert source["path"] == "rows.parquet"
    assert source["sha256"] == hashlib.sha256((run.parent / "rows.parquet").read_bytes()).hexdigest()
    text = (exported.directory / "model_card.md").read_text()
    assert source["sha256"] in text
    assert "| price | numbers | price, price2 |" in text


def test_changed_files_are_told(folder: Path, exported: Exported) -> None:
    broken = shutil.copytree(exported.directory, folder / "broken")
    data = bytearray((broken / "weights.safetensors").read_bytes())
    data[-1] ^= 1
    (broken / "weights.safetensors").write_bytes(data)
    with pytest.raises(DataError, match=r"weights\.safetensors: has sha256"):
        Exported.open(broken)
    (broken / "weights.safetensors").write_bytes(data[:-1])
    with pytest.raises(DataError, match=r"weights\.safetensors: has \d+ bytes, expected"):
        Exported.open(broken)
    (broken / "export.json").write_text("{}")
    with pytest.raises(DataError, match="is no exported model"):
        Exported.open(broken)
    with pytest.raises(DataError, match="is no exported model"):
        Exported.open(folder / "absent")


def test_a_failed_export_leaves_the_old_one(run: Path, folder: Path, exported: Exported, monkeypatch) -> None:
    target = shutil.copytree(exported.directory, folder / "kept")
    monkeypatch.setattr("genrec_plugins.serving.export.measure", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        export_run(run, target, tables="int8", formats=[])
    assert Exported.open(target).digest == exported.digest
    assert [path.name for path in folder.iterdir() if path.name.startswith(".kept")] == []


def test_another_folder_is_not_overwritten(run: Path, folder: Path) -> None:
    (folder / "mine").mkdir()
    (folder / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="is not an exported model"):
        export_run(run, folder / "mine", formats=[])
    assert (folder / "mine" / "thesis.txt").exists()


def test_gone_raw_rows_can_be_replaced(run: Path, folder: Path) -> None:
    rows, elsewhere = folder / "rows.parquet", folder / "others.parquet"
    rows.rename(elsewhere)
    try:
        with pytest.raises(DataError, match=r"name another one of this format with --data"):
            export_run(run, folder / "replaced", formats=[])
        export_run(run, folder / "replaced", formats=[], data=str(elsewhere))
    finally:
        elsewhere.rename(rows)
    assert Exported.open(folder / "replaced").score(arrow(raw_rows(3))).shape == (3,)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--tables=int9", "--tables is 'int9', did you mean 'int8'?"),
        ("--formats=onyx", "--formats has 'onyx', did you mean 'onnx'?"),
        ("--formats=", "--formats has ''"),
    ],
)
def test_wrong_options_are_told(folder: Path, capsys: pytest.CaptureFixture[str], option: str, message: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        main.run(["export", str(folder / "run"), "--to", str(folder / "never"), option])
    assert stopped.value.code == ConfigError.exit_code
    assert capsys.readouterr().err.startswith(message)
    assert not (folder / "never").exists()


def test_an_unfinished_run_is_exported_only_if_asked_for(
    run: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed before it wrote its metrics: the best weights so far lie there."""
    killed = shutil.copytree(run, folder / "killed")
    (killed / "metrics.json").unlink()
    words = ["export", str(killed), "--to", str(folder / "so-far"), "--formats", "none", "--quiet"]
    with pytest.raises(SystemExit) as stopped:
        main.run(words)
    assert stopped.value.code == DataError.exit_code
    assert capsys.readouterr().err.startswith(f"{killed}: is unfinished (stopped after step ")
    assert not (folder / "so-far").exists()
    with pytest.raises(SystemExit) as stopped:
        main.run([*words, "--unfinished"])
    assert not stopped.value.code
    assert Exported.open(folder / "so-far").digest


def test_int4_of_an_odd_width_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'t' has width 6, expected a multiple of 4; take int8"):
        quantise({"t": torch.zeros(2, 6)}, ["t"], "int4")
