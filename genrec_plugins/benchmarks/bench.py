"""Run every interaction with every seed under one protocol; finished cells are kept, so that a killed bench goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from genrec_adapters.prepared import Prepared
from genrec_adapters.splits import FileSplit, assigner, parse_split
from genrec_plugins.benchmarks.cell import Cell, run_cell
from genrec_plugins.benchmarks.plan import interaction_runs
from genrec_plugins.benchmarks.store import keep, load_kept
from genrec_plugins.profiling.flops import mfu
from genrec_plugins.profiling.peaks import Peak
from genrec_plugins.training.metrics import evaluate_predictions
from genrec_plugins.training.reporter import Quiet, Reporter
from genrec_plugins.training.run import prepare_run, prepared_directory
from genrec_plugins.training.trainer import pick_device
from genrec_registry import SPLITS, ConfigError, digest


@dataclass(frozen=True, kw_only=True)
class Row:
    """One interaction over all seeds, as the table shows it. Means and sample standard deviations."""

    label: str
    seeds: int
    valid_auc: float
    auc: float
    auc_std: float
    logloss: float
    logloss_std: float
    parameters: int
    dense_parameters: int
    flops_per_row: float
    operators: int
    rows_per_second: float
    mfu: float
    train_seconds: float
    epochs: float


@dataclass(frozen=True, kw_only=True)
class BenchResult:
    """A finished benchmark.

    Args:
        protocol: what all interactions share, for the report's head.
        rows: one for each interaction, best test AUC first.
        cells: all cells.
        peak: the device's GEMM rate measured in the same run, FLOP/s.
        bayes: metrics of the true probabilities on the test rows, where the data is generated and they are known.
    """

    protocol: dict[str, Any]
    rows: list[Row]
    cells: list[Cell]
    peak: float
    bayes: dict[str, float] | None = None


def run_bench(
    base: Mapping[str, Any],
    interactions: Sequence[str],
    seeds: Sequence[int],
    tuned: Mapping[str, Mapping[str, Any]],
    out: Path,
    *,
    prepared_dir: Path | None = None,
    reporter: Reporter | None = None,
) -> BenchResult:
    """Train ``interactions x seeds`` cells and summarise them.

    Seeds run outermost, so that all interactions of a seed meet the machine in the same state.

    Args:
        base: the run all share (:func:`genrec_plugins.benchmarks.plan.base_run`).
        interactions: names.
        seeds: of weights and row order; the split does not change.
        tuned: settings by interaction.
        out: where cells are kept.
        prepared_dir: prepared rows; inside ``out`` if None.
        reporter: told of progress.

    Raises:
        ConfigError: a setting is wrong; found before anything is trained.
    """
    reporter = reporter or Quiet()
    plans = {seed: interaction_runs(base, interactions, tuned, seed) for seed in seeds}
    first = plans[seeds[0]][interactions[0]]
    for label, run in plans[seeds[0]].items():
        if prepared_directory(run) != prepared_directory(first):
            raise ConfigError(
                f"settings of '{label}' change dataset, fields or split, which all interactions of a benchmark share; "
                "set those with --set"
            )
    prepared = prepare_run(first, prepared_dir or out / "prepared", reporter=reporter)
    cells: list[Cell] = []
    device = pick_device(first.config.train.device)
    peak = Peak.of_training(device, first.config.train.amp).look()
    for seed in seeds:
        for label, run in plans[seed].items():
            path = out / "cells" / f"{label.replace('/', '--')}-seed{seed}.json"
            identity = digest({"run": run.config.model_dump(mode="json"), "data": prepared.identity})
            cell = _load_cell(path, identity)
            if cell is None:
                reporter.message(f"{label}, seed {seed}")
                cost = next((known.cost for known in cells if known.label == label), None)
                cell = run_cell(label, run.config, prepared, run.registry, reporter, cost)
                keep(path, identity, cell.as_dict())
                peak.look()  # a shared machine's best moment is its peak
            cells.append(cell)
    protocol = {
        "dataset": first.config.dataset.model_dump(mode="json", exclude_none=True),
        "split": prepared.manifest.config["split"],
        "rows": {name: split.rows for name, split in prepared.manifest.splits.items()},
        "fields": len(prepared.fields),
        "table_rows": sum(feature.num_embeddings for feature in prepared.sparse_features),
        "train": first.config.train.model_dump(mode="json"),
        "seeds": list(seeds),
        "settings": {label: dict(tuned.get(label, {})) for label in interactions},
        "sources": [{"path": s.path, "sha256": s.sha256} for s in prepared.manifest.sources],
    }
    rows = [_summarise([cell for cell in cells if cell.label == label], peak.flops) for label in interactions]
    rows.sort(key=lambda row: -row.auc)
    return BenchResult(protocol=protocol, rows=rows, cells=cells, peak=peak.flops, bayes=bayes_on_test(prepared))


def bayes_on_test(prepared: Prepared) -> dict[str, float] | None:
    """Metrics of the true probabilities on exactly the test rows; None unless generated rows have them beside.

    Args:
        prepared: made from one generated file ``FILE`` with a ``FILE.truth.parquet``.
    """
    manifest = prepared.manifest
    truth = Path(f"{manifest.sources[0].path}.truth.parquet")
    split = parse_split(manifest.config["split"])
    if len(manifest.sources) != 1 or manifest.rows_skipped or isinstance(split, FileSplit) or not truth.exists():
        return None
    frame = pl.read_parquet(truth)
    if frame.height != manifest.rows_read:
        return None
    is_test = assigner(split, frame.height)(0, frame.height) == SPLITS.index("test")
    test = frame.filter(pl.Series(is_test))
    metrics = evaluate_predictions(test["label"].to_numpy(), test["probability"].to_numpy())
    return metrics.as_dict()


def _load_cell(path: Path, identity: str) -> Cell | None:
    kept = load_kept(path, identity)
    try:
        return None if kept is None else Cell.from_dict(kept)
    except TypeError:
        return None  # of another version: train it again


def _summarise(cells: Sequence[Cell], peak: float) -> Row:
    auc = np.array([cell.test["auc"] for cell in cells])
    logloss = np.array([cell.test["logloss"] for cell in cells])
    speed = float(np.median([cell.rows_per_second for cell in cells]))
    spread = 1 if len(cells) > 1 else 0
    return Row(
        label=cells[0].label,
        seeds=len(cells),
        valid_auc=float(np.mean([cell.valid["auc"] for cell in cells])),
        auc=float(auc.mean()),
        auc_std=float(auc.std(ddof=spread)),
        logloss=float(logloss.mean()),
        logloss_std=float(logloss.std(ddof=spread)),
        parameters=cells[0].parameters,
        dense_parameters=cells[0].dense_parameters,
        flops_per_row=cells[0].flops_per_row,
        operators=cells[0].operators,
        rows_per_second=speed,
        mfu=mfu(cells[0].flops_per_row, speed, peak),
        train_seconds=float(np.median([cell.train_seconds for cell in cells])),
        epochs=float(np.mean([cell.epochs for cell in cells])),
    )
