"""Exported runs: same ids and scores as the run itself, and what becomes of bad rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from genrec_plugins.serving.export import export_run
from genrec_plugins.serving.exported import Exported
from genrec_plugins.serving.schema import RowError
from genrec_plugins.training.run import TrainedRun
from tests.plugins.serving_cases import arrow, raw_rows, trained


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("export"), "run", "interaction: {type: fat, num_heads: 2, mode: hyper}")


@pytest.fixture(scope="module")
def exported(run: Path) -> Exported:
    return Exported.open(export_run(run, run.parent / "exported"))


def test_scores_are_those_of_the_run(run: Path, exported: Exported) -> None:
    _, expected = TrainedRun.open(run).predict_file(str(run.parent / "rows.parquet"))
    found = exported.score(arrow(raw_rows()))
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() < 1e-6
    assert expected.std() > 0.01


def test_the_schema_lists_raw_columns_with_their_types(exported: Exported) -> None:
    schema = {column.name: (column.kind, column.values) for column in exported.schema.columns}
    assert schema == {
        "colour": ("string", "text"),
        "shop": ("number", "integer"),
        "title": ("string", "text"),
        "age": ("number", "integer"),
        "tags": ("list", "text"),
        "seen": ("list", "integer"),
        "when": ("number", "integer"),
        "price": ("number", "decimal"),
        "image": ("list", "decimal"),
    }
    assert exported.schema.label == "label"


def test_a_bad_row_is_named(exported: Exported) -> None:
    rows = arrow(raw_rows(5))
    with pytest.raises(RowError, match=r"column shop: is missing, did you mean 'shops'\?") as missing:
        exported.score(rows.rename_columns(["shops" if name == "shop" else name for name in rows.column_names]))
    assert (missing.value.row, missing.value.column) == (None, "shop")
    broken = rows.set_column(rows.column_names.index("age"), "age", pa.array([1.0, 2.0, 2.5, None, 4.0]))
    with pytest.raises(RowError, match=r"row 2, column age: found 2.5, expected an integer") as found:
        exported.score(broken)
    assert (found.value.row, found.value.column) == (2, "age")
