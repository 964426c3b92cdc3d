"""A finished sweep as tables, JSON and one plot an axis."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from genrec_plugins.files import written_aside
from genrec_plugins.scaling.curve import Curve
from genrec_plugins.scaling.fits import Fit
from genrec_plugins.scaling.laws import Law
from genrec_plugins.scaling.sweep import Axis, Measured, Point, Swept, size_of, spread
from genrec_registry import DataError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS: dict[Law, str] = {"power": "C0", "log": "C1"}
FIT_COLUMNS = ("law", "fit", "95 % intervals", "R²", "AICc", "held-out error at the largest size")


def columns(swept: Swept) -> tuple[str, ...]:
    """The header of :func:`rows`."""
    others = [name for name in swept.points[0].measured.metrics if name != swept.metric]
    return (swept.axis.key, swept.metric, *others, "parameters", "dense parameters", "FLOPs", "seconds")


def rows(swept: Swept) -> list[tuple[str, ...]]:
    """One row a value: means and sample standard deviations over the seeds, and the cost.

    Args:
        swept: one axis.
    """
    found = []
    for value in swept.axis.values:
        cells = [point.measured for point in swept.points if point.value == value]
        names = [swept.metric, *(name for name in cells[0].metrics if name != swept.metric)]
        metrics = [_spread_text([cell.metrics[name] for cell in cells]) for name in names]
        found.append(
            (
                json.dumps(value) if isinstance(value, list) else str(value),
                *metrics,
                f"{cells[0].parameters:,}",
                f"{cells[0].dense_parameters:,}",
                f"{cells[0].flops_per_row:,.0f}",
                f"{np.median([cell.seconds for cell in cells]):.1f}",
            )
        )
    return found


def _spread_text(values: Sequence[float]) -> str:
    mean, deviation = spread(values)
    return f"{mean:.4f} ± {deviation:.4f}" if len(values) > 1 else f"{mean:.4f}"


def fit_row(fit: Fit) -> tuple[str, ...]:
    """One law in the columns of ``FIT_COLUMNS``."""
    intervals = "-"
    if fit.intervals is not None:
        intervals = ", ".join(f"{name} {low:.3g} to {high:.3g}" for name, (low, high) in fit.intervals.items())
    return (
        fit.law,
        fit.formula,
        intervals,
        f"{fit.r2:.3f}",
        "-" if fit.aicc is None else f"{fit.aicc:.1f}",
        "-" if fit.holdout_error is None else f"{fit.holdout_error:+.4f}",
    )


def markdown(swept: Swept) -> str:
    """Table, laws and sentences of one axis.

    Args:
        swept: one axis.
    """
    seeds = sorted({point.seed for point in swept.points})
    parts = [f"## {swept.axis.key}", _table(columns(swept), rows(swept))]
    parts.append(f"Seeds {', '.join(map(str, seeds))}; mean ± sample standard deviation. x is {swept.size_name}.")
    if swept.curve.fits:
        parts.append(_table(FIT_COLUMNS, [fit_row(fit) for fit in swept.curve.fits]))
    parts.append("\n".join(f"- {sentence}" for sentence in swept.curve.says))
    return "\n\n".join(parts) + "\n"


def _table(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|---" + "|--:" * (len(header) - 1) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(cells) + " |" for cells in body)])


def as_dict(swept: Swept) -> dict[str, Any]:
    """Everything about one axis, for JSON."""
    return {
        "axis": swept.axis.key,
        "values": list(swept.axis.values),
        "metric": swept.metric,
        "x": swept.size_name,
        "points": [asdict(point) for point in swept.points],
        "curve": swept.curve.as_dict(),
    }


def from_dict(data: Mapping[str, Any]) -> Swept:
    """One axis as :func:`as_dict` gave it, for tables and plots; the intervals of the curves are not in it.

    Args:
        data: an entry of ``result.json``.

    Raises:
        DataError: it is something else.
    """
    try:
        axis, size_name = Axis(key=str(data["axis"]), values=tuple(data["values"])), str(data["x"])
        points = tuple(
            Point(value=point["value"], seed=point["seed"], measured=Measured(**point["measured"]))
            for point in data["points"]
        )
        fits = tuple(_fit(found) for found in data["curve"]["fits"])
        curve = Curve(
            x=tuple(data["curve"]["x"]), y=tuple(data["curve"]["y"]), fits=fits, says=tuple(data["curve"]["says"])
        )
        size = "value" if size_name == axis.key else size_name.replace(" ", "-")
        rising = any(fit.complement for fit in fits)
        swept = Swept(axis=axis, points=points, metric=data["metric"], rising=rising, size=size, curve=curve)
        columns(swept), rows(swept), [size_of(point, size) for point in points]
        return swept
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise DataError(f"is no axis of a sweep ({type(error).__name__}: {error}); run 'genrec scale' again") from error


def _fit(data: Mapping[str, Any]) -> Fit:
    facts = {key: value for key, value in data.items() if key not in ("formula", "intervals")}
    pairs = data["intervals"]
    intervals = None if pairs is None else {name: (float(low), float(high)) for name, (low, high) in pairs.items()}
    return Fit(**facts, intervals=intervals, draws=np.empty((0, len(data["constants"]))))


def figure_of(swept: Swept) -> Figure:
    """Points of all seeds, their means, both laws and the intervals of the curves.

    Args:
        swept: one axis.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    x = np.array([size_of(point, swept.size) for point in swept.points])
    y = np.array([point.measured.metrics[swept.metric] for point in swept.points])
    axes.plot(x, y, "o", color="black", alpha=0.5, markersize=4, zorder=3, label="seeds")
    sizes = np.unique(x)
    axes.plot(sizes, [y[x == size].mean() for size in sizes], "k_", markersize=14, zorder=3, label="mean")
    if sizes.min() > 0:
        axes.set_xscale("log")
        axes.set_xticks(sizes, [f"{size:,.4g}" for size in sizes])
        axes.minorticks_off()
        dense = np.geomspace(sizes.min(), sizes.max(), 100)
        for fit in swept.curve.fits:
            axes.plot(dense, fit.at(dense), color=COLOURS[fit.law], label=f"{fit.law}: {fit.formula}")
            band = fit.band(dense)
            if band is not None:
                axes.fill_between(dense, *band, color=COLOURS[fit.law], alpha=0.15, linewidth=0)
    axes.set_xlabel(swept.size_name)
    axes.set_ylabel(swept.metric)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    return figure


def write_plot(swept: Swept, path: Path) -> None:
    """:func:`figure_of` as PNG.

    Args:
        swept: one axis.
        path: the file.
    """
    with written_aside(path) as partial:
        figure_of(swept).savefig(partial, format="png", dpi=150)


def write_report(swept: Sequence[Swept], out: Path, title: str) -> list[Path]:
    """Write ``table.md``, ``result.json`` and a plot for each axis.

    Args:
        swept: the axes.
        out: directory.
        title: of the table.

    Returns:
        The files.

    Raises:
        DataError: a file cannot be written.
    """
    texts = {
        out / "table.md": f"# {title}\n\n" + "\n".join(markdown(one) for one in swept),
        out / "result.json": json.dumps([as_dict(one) for one in swept], indent=1),
    }
    for path, text in texts.items():
        with written_aside(path) as partial:
            partial.write_text(text, encoding="utf-8")
    plots = [out / f"{re.sub(r'[^A-Za-z0-9_.-]+', '_', one.axis.key)}.png" for one in swept]
    for one, path in zip(swept, plots, strict=True):
        write_plot(one, path)
    return [*texts, *plots]
