"""The benchmark's plots as SVG text, for a page that needs no network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from genrec_plugins.benchmarks.bench import Row
from genrec_plugins.benchmarks.cell import Cell
from genrec_plugins.figures import new_figure, svg_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def _colours(labels: Sequence[str]) -> dict[str, str]:
    """One colour for each label, the same in every plot."""
    return {label: f"C{index % 10}" for index, label in enumerate(sorted(set(labels)))}


def auc_against(rows: Sequence[Row], attribute: str, title: str) -> str:
    """Test AUC with its spread against a cost.

    Args:
        rows: the table.
        attribute: ``dense_parameters`` or ``train_seconds``.
        title: of the x axis.
    """
    figure, axes = new_figure()
    colours = _colours([row.label for row in rows])
    for row in rows:
        x = getattr(row, attribute)
        axes.errorbar(x, row.auc, yerr=row.auc_std, fmt="o", color=colours[row.label], capsize=3)
        axes.annotate(row.label, (x, row.auc), textcoords="offset points", xytext=(6, 4), fontsize=9)
    if attribute == "dense_parameters":
        axes.set_xscale("log")
    axes.margins(x=0.15)  # room for the names
    axes.set_xlabel(title)
    axes.set_ylabel("test AUC, mean and standard deviation")
    axes.grid(alpha=0.3)
    return svg_text(figure)


def calibration(cells: Sequence[Cell]) -> str:
    """Observed rate against mean prediction in bins of equal row counts, first seed of each interaction."""
    figure, axes = new_figure()
    seen: set[str] = set()
    colours = _colours([cell.label for cell in cells])
    top = 0.0
    for cell in cells:
        if cell.label in seen:
            continue
        seen.add(cell.label)
        points = np.array(cell.calibration)
        top = max(top, float(points.max()))
        axes.plot(points[:, 0], points[:, 1], marker=".", label=cell.label, color=colours[cell.label])
    axes.plot([0, top], [0, top], color="grey", linestyle=":", label="calibrated")
    axes.set_xlabel("mean prediction")
    axes.set_ylabel("observed rate")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    return svg_text(figure)


def pair_heat_map(table: dict[str, Any]) -> str:
    """:func:`pair_figure` as SVG."""
    return svg_text(pair_figure(table))


def pair_figure(table: dict[str, Any]) -> Figure:
    """The F x F modulation: how much the row's field lets the column's field through; 1 (or 0) is where it began."""
    values = np.array(table["values"])
    names = table["names"]
    size = max(5.0, 0.2 * len(names))
    figure, axes = new_figure(size + 1.5, size)
    centre = 1.0 if abs(values.mean() - 1) < abs(values.mean()) else 0.0
    reach = float(np.abs(values - centre).max()) or 1.0
    image = axes.imshow(values, cmap="RdBu_r", vmin=centre - reach, vmax=centre + reach)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.set_xlabel("attended field")
    axes.set_ylabel("attending field")
    figure.colorbar(image, ax=axes, shrink=0.7)
    return figure
