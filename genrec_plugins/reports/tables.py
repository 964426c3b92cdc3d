"""Numbers as text, for the terminal and for the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from genrec_plugins.reports.runs import RunFacts

if TYPE_CHECKING:
    from genrec_plugins.reports.groups import Group


def number(metrics: Mapping[str, float], name: str) -> str:
    """A metric as text, empty where there is none.

    Example::

        >>> number({"auc": 0.7712345}, "auc"), number({}, "auc")
        ('0.77123', '')
    """
    if name not in metrics:
        return ""
    return f"{metrics[name]:,}" if isinstance(metrics[name], int) else f"{metrics[name]:.5f}"


#: of the many metrics of a pre-training run, those that a table has room for
OF_LUM = ("recall@10", "ndcg@10", "recall@50", "mrr", "loss", "questions")


def metric_table(runs: Sequence[RunFacts]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: a row a run, a column for each metric that one of them has (:data:`OF_LUM` of pre-training).

    Args:
        runs: in the order of the rows.
    """
    names = [name for run in runs for name in run.test if name != "rows" and (run.kind != "lum" or name in OF_LUM)]
    names = list(dict.fromkeys(names))
    monitored = [name for name in ("auc", "logloss", "recall@10", "ndcg@10") if any(name in run.valid for run in runs)]
    header = ["run", "status", "model", *(f"test {name}" for name in names), *(f"valid {name}" for name in monitored)]
    header += ["parameters", "best epoch", "rows/s"]
    rows = []
    for run in runs:
        cells = [run.name, run.status, run.model, *(number(run.test, name) for name in names)]
        cells += [number(run.valid, name) for name in monitored]
        rows.append([*cells, *facts_of(run)])
    return header, rows


def facts_of(run: RunFacts) -> list[str]:
    """Parameters, best epoch of all, rows (events of a pre-training run) a second: as text."""
    parameters, best = run.facts.get("parameters"), run.facts.get("best_epoch")
    speed = run.facts.get("rows_per_second", run.facts.get("events_per_second"))
    return [
        f"{parameters:,}" if isinstance(parameters, int) else "",
        f"{best} of {run.epochs}" if best is not None else "",
        f"{speed:,.0f}" if isinstance(speed, (int, float)) else "",
    ]


GROUP_HEADER = ("rows", "share of 1", "AUC", "logloss", "calibration")


def group_cells(group: Group) -> list[str]:
    """A group in the columns of ``GROUP_HEADER``; the AUC with half its 95 % interval."""
    return [
        f"{group.rows:,}",
        f"{group.positives / group.rows:.4f}",
        auc_text(group),
        f"{group.logloss:.4f}",
        f"{group.calibration:.3f}" if math.isfinite(group.calibration) else "-",
    ]


def auc_text(group: Group) -> str:
    """``0.7712 ± 0.0031``, half a 95 % interval; a dash where there are too few rows."""
    from genrec_plugins.reports.groups import Z95

    return f"{group.auc:.4f} ± {Z95 * group.auc_error:.4f}" if group.measured else "-"
