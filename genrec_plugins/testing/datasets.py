"""The dataset suite: one line in a plugin's tests runs every check of the contract against a dataset adapter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from genrec_adapters.fields import build_fields
from genrec_plugins.testing.behaviour_datasets import BehaviourChecks
from genrec_plugins.testing.errors import ConformanceError
from genrec_registry import DataError, DatasetRecord, ErrorPolicy, Registry, default_registry, parse_component
from genrec_registry.contracts import SPLITS, Dataset

DatasetConfig = Mapping[str, Any] | Callable[[Path], Mapping[str, Any]]


def build_dataset(
    component: str | DatasetRecord, config: Mapping[str, Any], *, registry: Registry | None = None
) -> Dataset:
    """A dataset from its name (or record) and its options.

    Args:
        component: the dataset's name as in a run's YAML, or its record.
        config: its options, without ``type``.
        registry: where the name is looked up; the installed plugins if None.
    """
    if isinstance(component, DatasetRecord):
        dataset: Dataset = component.load_factory()(component.load_config()(**config))
        return dataset
    registry = registry or default_registry()
    built: Dataset = registry.create("dataset", parse_component(registry, "dataset", {"type": component, **config}))
    return built


def scan_all(dataset: Dataset, policy: ErrorPolicy | None = None) -> pl.DataFrame:
    """All usable rows of all sources."""
    policy = policy or ErrorPolicy()
    return pl.concat([chunk for source in dataset.sources() for chunk in dataset.scan(source, policy)])


def check_sources(dataset: Dataset) -> None:
    """The sources are existing files, each bound to a known split or to none.

    Raises:
        ConformanceError: they are not.
    """
    sources = list(dataset.sources())
    if not sources:
        raise ConformanceError("sources() is empty; raise DataError where there is nothing to read")
    for source in sources:
        if not Path(source.path).is_file():
            raise ConformanceError(f"sources() names {source.path}, which is no file; raise DataError instead")
        if source.split is not None and source.split not in SPLITS:
            raise ConformanceError(f"sources() binds {source.path} to '{source.split}', expected one of {SPLITS}")


def check_chunks(dataset: Dataset) -> None:
    """Every chunk has the declared columns with the declared types, and labels 0 and 1.

    Raises:
        ConformanceError: one does not.
    """
    schema: dict[str, pl.DataType] = {}
    if dataset.label in dataset.columns:
        raise ConformanceError(f"columns has the label '{dataset.label}'; list feature columns only")
    for source in dataset.sources():
        for chunk in dataset.scan(source, ErrorPolicy()):
            for name in (dataset.label, *dataset.columns):
                if name not in chunk.columns:
                    raise ConformanceError(f"scan() gave a chunk without the declared column '{name}'; add it")
                known = schema.setdefault(name, chunk.schema[name])
                if chunk.schema[name] != known:
                    raise ConformanceError(f"'{name}' is {chunk.schema[name]} here, {known} before; give one type")
            _check_types(dataset, chunk)
    if not schema:
        raise ConformanceError("scan() gave no chunk; raise DataError for an input without rows")


def _check_types(dataset: Dataset, chunk: pl.DataFrame) -> None:
    label = chunk[dataset.label]
    if label.dtype != pl.Int8:
        raise ConformanceError(f"label '{dataset.label}' is {label.dtype}, expected Int8; cast it")
    if label.null_count() or not label.is_in([0, 1]).all():
        raise ConformanceError(f"label '{dataset.label}' has values beside 0 and 1; report such rows to the policy")
    for name, kind in dataset.columns.items():
        dtype = chunk.schema[name]
        fits = {
            "string": dtype == pl.String,
            "number": dtype in (pl.Int64, pl.Float64),
            "list": isinstance(dtype, pl.List),
        }
        if not fits[kind]:
            raise ConformanceError(f"column '{name}' is declared as {kind}, but its type is {dtype}; cast it")


def check_two_scans(dataset: Dataset) -> None:
    """Scanning twice gives the same rows in the same order: preprocessing reads the input twice.

    Raises:
        ConformanceError: it does not.
    """
    try:
        assert_frame_equal(scan_all(dataset), scan_all(dataset))
    except AssertionError as error:
        raise ConformanceError(f"two scans differ: {error}; read in a fixed order") from error


def check_default_fields(dataset: Dataset, registry: Registry | None = None) -> None:
    """The default fields are installed types with sound configs over declared columns.

    Raises:
        ConformanceError: there are none.
        ConfigError: one of them is wrong.
    """
    fields = dataset.default_fields()
    if not fields:
        raise ConformanceError("default_fields() is empty; give at least one field, so that a run needs none")
    build_fields(fields, dataset.columns, registry or default_registry())


def check_skip(sound: Dataset, damaged: Dataset | None = None) -> None:
    """Skipping changes nothing on sound input; on damaged input it counts what stopping would stop at.

    Args:
        sound: input without bad rows.
        damaged: input with at least one bad row.

    Raises:
        ConformanceError: a row is lost, a bad one is not counted, or the error does not name its file.
    """
    policy = ErrorPolicy(on_error="skip")
    if scan_all(sound, policy).height != scan_all(sound).height or policy.skipped:
        raise ConformanceError(f"skipping left out {policy.skipped} rows that stopping did not object to")
    if damaged is None:
        return
    policy = ErrorPolicy(on_error="skip")
    scan_all(damaged, policy)
    if not policy.skipped:
        raise ConformanceError("the damaged input has no bad row; report it through policy.bad_row, then leave it out")
    try:
        scan_all(damaged)
    except DataError as error:
        if not any(source.path in str(error) for source in damaged.sources()):
            raise ConformanceError(f"the error does not name the file: {error}") from error
        return
    raise ConformanceError("the damaged input is read without an error; pass bad rows to policy.bad_row")


def dataset_suite(
    component: str | DatasetRecord,
    config: DatasetConfig,
    *,
    damaged: DatasetConfig | None = None,
    registry: Registry | None = None,
) -> type:
    """A class of pytest tests for one dataset adapter with one config.

    A dataset whose record has the capability ``"events"`` is examined as such, too: see
    :mod:`genrec_plugins.testing.behaviour_datasets`.

    Args:
        component: the dataset's name as in a run's YAML, or its record.
        config: its options, or a function that writes a small input below the folder it is given and returns them.
        damaged: the same for an input with at least one bad row; without it only sound input is checked.
        registry: where names are looked up; the installed plugins if None.

    Returns:
        The class; bind it to a name that begins with ``Test`` in a test module.

    Example::

        >>> def small(folder: Path) -> dict[str, str]:
        ...     _ = (folder / "rows.csv").write_text("y,c\\n1,a\\n0,b\\n")
        ...     return {"path": str(folder / "rows.csv"), "label": "y"}
        >>> TestCsv = dataset_suite("csv", small)
    """

    def make(options: DatasetConfig, folder: Path) -> Dataset:
        return build_dataset(component, options(folder) if callable(options) else options, registry=registry)

    class DatasetSuite:
        @pytest.fixture
        def dataset(self, tmp_path: Path) -> Dataset:
            return make(config, tmp_path)

        def test_sources(self, dataset: Dataset) -> None:
            check_sources(dataset)

        def test_chunks(self, dataset: Dataset) -> None:
            check_chunks(dataset)

        def test_two_scans(self, dataset: Dataset) -> None:
            check_two_scans(dataset)

        def test_default_fields(self, dataset: Dataset) -> None:
            check_default_fields(dataset, registry)

        def test_skip(self, dataset: Dataset, tmp_path: Path) -> None:
            folder = tmp_path / "damaged"
            folder.mkdir()
            check_skip(dataset, None if damaged is None else make(damaged, folder))

    record = component if isinstance(component, DatasetRecord) else None
    found = record or (registry or default_registry()).get("dataset", str(component)).record
    if "events" not in found.capabilities:
        return DatasetSuite

    class BehaviourSuite(BehaviourChecks, DatasetSuite):
        pass

    return BehaviourSuite
