"""A ranker's run file as the subject of a sweep: test AUC, logloss and normalised entropy."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from genrec_adapters.prepared import Prepared
from genrec_plugins.config import LoadedRun, parse_run
from genrec_plugins.scaling.sweep import Measured
from genrec_plugins.training.reporter import Reporter
from genrec_registry import ConfigError, digest
from genrec_registry.yaml_source import YamlSource

#: the key of an axis over training rows, which no run file has
ROWS = "rows"


@dataclass(kw_only=True)
class RankerSubject:
    """Trains a run file's model with ``genrec bench``'s cells.

    Beside the keys of the run file there is ``rows``: how many of the training rows to use, drawn at random; the
    vocabularies, the validation rows and the test rows stay.

    Args:
        source: the run file.
        overrides: ``dotted.key -> YAML value`` for all cells.
        prepared_root: where prepared rows are kept.
    """

    metrics: ClassVar[Mapping[str, bool]] = {"auc": True, "logloss": False, "ne": False}

    source: YamlSource
    overrides: Mapping[str, str]
    prepared_root: Path
    _prepared: dict[Path, Prepared] = field(default_factory=dict)

    def plan(self, setting: Mapping[str, Any], seed: int) -> RankerPlan:
        """One run; see :class:`genrec_plugins.scaling.sweep.Subject`."""
        keys = {key: json.dumps(value) for key, value in setting.items() if key != ROWS}
        run = parse_run(self.source, {**self.overrides, **keys, "seed": str(seed)})
        rows = setting.get(ROWS)
        if rows is not None and (not isinstance(rows, int) or rows < 1):
            raise ConfigError(f"--axis {ROWS}: {rows!r}, expected a number of training rows")
        return RankerPlan(subject=self, run=run, rows=rows)

    def prepared(self, run: LoadedRun, rows: int | None, reporter: Reporter | None) -> Prepared:
        """A run's rows, prepared once for all cells that share them."""
        from genrec_plugins.scaling.fewer_rows import take_training_rows
        from genrec_plugins.training.run import prepare_run, prepared_directory

        directory = prepared_directory(run, self.prepared_root)
        if directory not in self._prepared:
            self._prepared[directory] = prepare_run(run, directory, reporter=reporter)
        if rows is None:
            return self._prepared[directory]
        fewer = directory.with_name(f"{directory.name}-rows{rows}")
        if fewer not in self._prepared:
            self._prepared[fewer] = take_training_rows(self._prepared[directory], rows, fewer)
        return self._prepared[fewer]


@dataclass(frozen=True, kw_only=True)
class RankerPlan:
    """One run of a ranker."""

    subject: RankerSubject
    run: LoadedRun
    rows: int | None

    def identity(self) -> str:
        """Digest of config and rows."""
        prepared = self.subject.prepared(self.run, self.rows, None)
        return digest({"run": self.run.config.model_dump(mode="json"), "data": prepared.identity})

    def measure(self, reporter: Reporter) -> Measured:
        """Train, and evaluate the weights that the validation rows chose on the test rows."""
        from genrec_plugins.benchmarks.cell import run_cell

        prepared = self.subject.prepared(self.run, self.rows, reporter)
        if not prepared.rows("test"):
            raise ConfigError("the test split has no rows; give 'split' a share of them")
        cell = run_cell("scale", self.run.config, prepared, self.run.registry, reporter)
        return Measured(
            metrics={name: float(cell.test[name]) for name in self.subject.metrics},
            parameters=cell.parameters,
            dense_parameters=cell.dense_parameters,
            flops_per_row=cell.flops_per_row,
            seconds=cell.train_seconds,
        )
