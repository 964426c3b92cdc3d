"""Files of an export for other runtimes; at length, every interaction and encoder in every format."""

from __future__ import annotations

import importlib.util
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from genrec_adapters.prepared import Prepared
from genrec_plugins.serving.export import export_run
from genrec_plugins.serving.exported import Exported
from genrec_plugins.serving.formats import FORMATS
from genrec_plugins.training.run import TrainedRun, prepare_run
from genrec_registry import SetupError, default_registry
from tests.plugins.serving_cases import FAT, FIELDS, HISTORY, arrow, make_run, raw_rows, trained, untrained

COMPILER = shutil.which(os.environ.get("CXX", "g++"))
INTERACTIONS = [component.name for component in default_registry().components("interaction")]
ENCODERS = [component.name for component in default_registry().components("encoder")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("formats")


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    return trained(folder, "run", FAT)


@pytest.fixture(scope="module")
def prepared(run: Path) -> Prepared:
    return TrainedRun.open(run).prepared


@pytest.fixture(scope="module")
def with_history(folder: Path) -> Prepared:
    run = make_run(folder, "interaction: {type: dot}\n  encoder: {type: din}", FIELDS + HISTORY)
    return prepare_run(run, folder / "history")


def test_onnx_of_quantised_tables_gives_the_same_scores(run: Path, folder: Path) -> None:
    card = export_run(run, folder / "onnx", tables="int4", formats=["onnx"])
    assert set(card["formats"]) == {"onnx"}
    rows = arrow(raw_rows(50, seed=9))
    expected = Exported.open(folder / "onnx", runtime="eager").score(rows)
    assert np.abs(Exported.open(folder / "onnx", runtime="onnx").score(rows) - expected).max() < 1e-6


def test_files_for_other_runtimes_give_the_same_scores(run: Path, folder: Path) -> None:
    """Each file is read as a client of its runtime would, from the layout that export.json states."""
    out = folder / "formats"
    card = export_run(run, out, tables="int8", formats=["export", "torchscript"])
    assert set(card["formats"]) == {"export", "torchscript"}
    exported = Exported.open(out, runtime="eager")
    rows = arrow(raw_rows(50, seed=9))
    expected = exported.score(rows)
    dense, ids = by_layout(exported, rows)
    program = torch.export.load(out / "model.pt2").module()
    script = torch.jit.load(out / "model.ts")
    for count in (1, 50):
        given = {"dense_features": dense[:count], "ids": ids[:count]}
        for found in (program(**given), script(**given)):
            assert np.abs(found.detach().numpy() - expected[:count]).max() < 1e-6


def by_layout(exported: Exported, rows: pa.Table) -> tuple[torch.Tensor, torch.Tensor]:
    """The plain inputs, value by value: slow, and obviously what ``inputs`` of export.json says."""
    batch, layout = exported.ids(rows), exported.facts.inputs
    ids = torch.full((rows.num_rows, layout["ids"]["width"]), layout["ids"]["absent"])
    for name, (begin, end) in layout["ids"]["columns"].items():
        found = batch.sparse_features[name]
        for row in range(rows.num_rows):
            start, stop = found.offsets()[row] - found.offsets()[0], found.offsets()[row + 1] - found.offsets()[0]
            values = found.values()[start:stop]
            assert len(values) <= end - begin
            ids[row, begin : begin + len(values)] = values
    assert layout["dense_features"]["width"] == batch.dense_features.shape[1]
    return batch.dense_features, ids


def test_no_row_of_the_data_is_in_the_files(run: Path, folder: Path) -> None:
    """torch.export would pickle the rows it was traced with."""
    with zipfile.ZipFile(folder / "formats" / "model.pt2") as archive:
        samples = [entry for entry in archive.infolist() if "sample_inputs" in entry.filename]
    assert all(entry.file_size == 0 for entry in samples)


@pytest.mark.long
@pytest.mark.skipif(COMPILER is None, reason="AOTInductor needs a C++ compiler")
@pytest.mark.parametrize("name", INTERACTIONS)
def test_every_interaction_in_every_format(name: str, folder: Path, prepared: Prepared) -> None:
    """The table of docs/export.md: a format that cannot be written would be in ``left_out``."""
    run = untrained(folder, f"i-{name}", f"interaction: {{type: {name}}}", prepared)
    expect_every_format(run, folder / f"i-{name}-out")


@pytest.mark.long
@pytest.mark.skipif(COMPILER is None, reason="AOTInductor needs a C++ compiler")
@pytest.mark.parametrize("name", ENCODERS)
def test_every_encoder_in_every_format(name: str, folder: Path, with_history: Prepared) -> None:
    model = f"interaction: {{type: fat, num_heads: 2}}\n  encoder: {{type: {name}}}"
    run = untrained(folder, f"e-{name}", model, with_history, FIELDS + HISTORY)
    expect_every_format(run, folder / f"e-{name}-out")


def expect_every_format(run: Path, out: Path) -> None:
    card = export_run(run, out, formats=FORMATS)
    assert card["left_out"] == {}
    assert {name: found["max_difference"] < 1e-6 for name, found in card["formats"].items()} == dict.fromkeys(
        FORMATS, True
    )


@pytest.mark.long
@pytest.mark.skipif(COMPILER is None, reason="AOTInductor needs a C++ compiler")
@pytest.mark.parametrize("tables", ["fp32", "fp16", "int8", "int4"])
def test_aotinductor_of_quantised_tables(tables: str, run: Path, folder: Path) -> None:
    """Read as a client would, and a folded hypernetwork."""
    out = folder / f"aoti-{tables}"
    card = export_run(run, out, tables=tables, formats=["aoti"])
    assert card["left_out"] == {}
    exported = Exported.open(out, runtime="eager")
    rows = arrow(raw_rows(50, seed=9))
    dense, ids = exported.plain_inputs(exported.ids(rows))
    program = torch._inductor.aoti_load_package(str(out / "model.aoti.pt2"))
    for count in (1, 50):
        found = program(dense_features=dense[:count], ids=ids[:count])
        assert np.abs(found.numpy() - exported.score(rows)[:count]).max() < 1e-6


def test_without_a_compiler_aotinductor_is_left_out(run: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    card = export_run(run, folder / "no-compiler", formats=["aoti"])
    assert card["formats"] == {}
    assert "needs a C++ compiler, and there is no 'no-such-compiler'" in card["left_out"]["aoti"]
    assert not (folder / "no-compiler" / "model.aoti.pt2").exists()


def test_without_onnx_it_is_refused_if_asked_for_and_left_out_if_not(
    run: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "onnxscript" else find(name, *a))
    with pytest.raises(SetupError, match=r'pip install "genrec-plugins\[export\]"'):
        export_run(run, folder / "no-onnx", formats=["onnx"])
    monkeypatch.setattr("genrec_plugins.serving.export.DEFAULT", ("torchscript", "onnx"))
    card = export_run(run, folder / "no-onnx")
    assert set(card["formats"]) == {"torchscript"}
    assert "genrec-plugins[export]" in card["left_out"]["onnx"]
