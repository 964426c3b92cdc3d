"""The report's figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from genrec_plugins.figures import new_figure
from genrec_plugins.reports.codes import Prefix
from genrec_plugins.reports.curves import LearningCurve, Points
from genrec_plugins.reports.frequency import BUCKETS, Frequencies
from genrec_plugins.reports.groups import Z95, Group
from genrec_plugins.reports.importance import Importance
from genrec_plugins.reports.slices import FieldSlices
from genrec_plugins.training.metrics import Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from genrec_plugins.reports.fat import Routes
    from genrec_plugins.reports.pretrained import Answers, Loss

_KINDS = {"q": "W_Q", "k": "W_K", "v": "W_V", "ffn1": "W_1", "ffn2": "W_2"}


def learning_figure(curves: Sequence[LearningCurve]) -> Figure:
    """Training loss and validation logloss over steps on the left, validation AUC on the right."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    losses, aucs = figure.subplots(1, 2)
    for number, curve in enumerate(curves):
        colour = f"C{number % 10}"
        _training_loss(losses, curve, colour)
        _line(losses, curve.valid.get("logloss", ()), colour, f"{curve.name}, validation")
        _line(aucs, curve.valid.get("auc", ()), colour, curve.name)
        _ring(aucs, curve, "auc", colour)
    losses.set(xlabel="step", ylabel="logloss")
    aucs.set(xlabel="step", ylabel="AUC on validation rows; ring: weights kept")
    _finish((losses, aucs))
    return figure


def pretraining_figure(curves: Sequence[LearningCurve]) -> Figure:
    """Training loss over steps on the left, recall@10 and NDCG@10 on validation questions on the right."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    losses, found = figure.subplots(1, 2)
    for number, curve in enumerate(curves):
        colour = f"C{number % 10}"
        _training_loss(losses, curve, colour)
        _line(losses, curve.mean_loss, colour, f"{curve.name}, mean of an epoch")
        for name, marker in (("recall@10", "o"), ("ndcg@10", "s")):
            points = curve.valid.get(name, ())
            if points:
                steps, values = zip(*points, strict=True)
                found.plot(steps, values, color=colour, marker=marker, markersize=4, label=f"{curve.name}, {name}")
            _ring(found, curve, name, colour)
    losses.set(xlabel="step", ylabel="training loss")
    found.set(xlabel="step", ylabel="validation questions; ring: weights kept")
    _finish((losses, found))
    return figure


def _training_loss(axes: Axes, curve: LearningCurve, colour: str) -> None:
    """Points as they were logged; where there are many, pale, with a smooth line through them."""
    if not curve.loss:
        return
    steps, values = np.array(curve.loss).T
    label = f"{curve.name}, training"
    if len(values) > 20:
        axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
        axes.plot(steps, _smooth(values), color=colour, linewidth=1.2, label=label)
    else:
        axes.plot(steps, values, color=colour, marker=".", linewidth=0.8, label=label)


def _ring(axes: Axes, curve: LearningCurve, metric: str, colour: str) -> None:
    """Around the value at the step whose weights were kept."""
    values = dict(curve.valid.get(metric, ()))
    if curve.best_step in values:
        axes.plot([curve.best_step], [values[curve.best_step]], "o", color=colour, markersize=11, fillstyle="none")


def _finish(panels: Sequence[Axes]) -> None:
    """What learning curves have alike: whole steps, values without an offset, and a legend where there is something."""
    from matplotlib.ticker import MaxNLocator

    for axes in panels:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.ticklabel_format(axis="y", useOffset=False)
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8)


def _smooth(values: Floats) -> Floats:
    """Mean of each point and its neighbours, a twentieth of all points wide."""
    width = max(1, len(values) // 20)
    sums = np.cumsum(np.concatenate([[0.0], values]))
    last = np.minimum(np.arange(len(values)) + width + 1, len(values))
    first = np.maximum(np.arange(len(values)) - width, 0)
    smooth: Floats = (sums[last] - sums[first]) / (last - first)
    return smooth


def _line(axes: Axes, points: Points, colour: str, label: str) -> None:
    if points:
        steps, values = zip(*points, strict=True)
        axes.plot(steps, values, color=colour, marker="o", markersize=4, linestyle="--", label=label)


def calibration_figure(curves: Mapping[str, tuple[Floats, Floats]]) -> Figure:
    """Observed rate against mean prediction, a line a run."""
    figure, axes = new_figure(5.5, 4.5)
    top = 0.0
    for name, (predicted, observed) in curves.items():
        axes.plot(predicted, observed, marker=".", label=name)
        top = max(top, float(predicted.max()), float(observed.max()))
    axes.plot([0, top], [0, top], color="grey", linestyle=":", label="calibrated")
    axes.set(xlabel="mean prediction", ylabel="observed rate")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    return figure


def slices_figure(slices: Sequence[FieldSlices], auc: float) -> Figure:
    """A row a field: a dot for the AUC of each slice, as large as the slice has rows."""
    figure, axes = new_figure(7.5, max(2.5, 0.27 * len(slices) + 1))
    total = max(sum(group.rows for group in one.groups) for one in slices)
    for place, one in enumerate(slices):
        groups = one.measured
        axes.plot([group.auc for group in groups], [place] * len(groups), color="grey", linewidth=0.6, zorder=1)
        sizes = [8 + 120 * group.rows / total for group in groups]
        axes.scatter([group.auc for group in groups], [place] * len(groups), s=sizes, alpha=0.6, color="C0")
        axes.plot([one.within], [place], "k|", markersize=9)
    axes.axvline(auc, color="C3", linestyle="--", linewidth=1, label=f"all rows, {auc:.4f}")
    axes.set_yticks(range(len(slices)), [one.field for one in slices], fontsize=8)
    axes.set_ylim(len(slices) - 0.4, -0.6)
    axes.set_xlabel("AUC within a slice; bar: mean over slices")
    axes.legend(fontsize=8, loc="lower right")
    axes.grid(alpha=0.3, axis="x")
    return figure


def parts_figure(parts: Sequence[Group]) -> Figure:
    """AUC with 95 % intervals, from the rows of rarest ids to those of the most common."""
    figure, axes = new_figure(5.5, 3.6)
    known = [(place, group) for place, group in enumerate(parts) if group.measured]
    errors = [Z95 * group.auc_error for _, group in known]
    axes.errorbar([place for place, _ in known], [group.auc for _, group in known], yerr=errors, fmt="o-", capsize=3)
    axes.set_xticks(range(len(parts)), [group.name for group in parts])
    axes.set(xlabel="fifths of the test rows, rarest ids first", ylabel="AUC, 95 % interval")
    axes.grid(alpha=0.3)
    return figure


def frequency_figure(found: Frequencies) -> Figure:
    """AUC by field (down) and training rows of the id (across); grey: too few rows."""
    measured = [[group for group in groups if group.measured] for groups in found.fields.values()]
    buckets = [name for name in BUCKETS if any(group.name == name for groups in measured for group in groups)]
    values = np.full((len(measured), len(buckets)), np.nan)
    for row, groups in enumerate(measured):
        for group in groups:
            values[row, buckets.index(group.name)] = group.auc
    figure, axes = new_figure(2.2 + 0.8 * len(buckets), max(2.5, 0.24 * len(values) + 1.6))
    axes.set_facecolor("#ddd")
    image = axes.imshow(values, cmap="viridis", aspect="auto")
    for row, column in zip(*np.nonzero(np.isfinite(values)), strict=True):
        dark = values[row, column] < np.nanmean(values)
        text = f"{values[row, column]:.3f}"
        axes.text(column, row, text, ha="center", va="center", fontsize=7, color="white" if dark else "black")
    axes.set_xticks(range(len(buckets)), buckets, rotation=30, ha="right", fontsize=8)
    axes.set_yticks(range(len(values)), list(found.fields), fontsize=8)
    axes.set_xlabel("training rows with the id")
    figure.colorbar(image, ax=axes, label="AUC")
    return figure


def importance_figure(found: Importance) -> Figure:
    """A bar a field, most important first: mean loss of AUC and its standard deviation over the shuffles."""
    fields = sorted(found.fields, key=lambda one: -one.auc_drop[0])
    figure, axes = new_figure(7, max(2.2, 0.24 * len(fields) + 1))
    _bars(axes, {one.field: one.auc_drop for one in fields})
    axes.set_xlabel("AUC lost when the field is shuffled; mean and standard deviation")
    return figure


def _bars(axes: Axes, drops: Mapping[str, tuple[float, float]]) -> None:
    """A bar a name from the top down: what was lost, mean and standard deviation."""
    means, deviations = zip(*drops.values(), strict=True)
    axes.barh(range(len(drops)), means, xerr=deviations, capsize=2, color="C0", error_kw={"linewidth": 0.8})
    axes.set_yticks(range(len(drops)), list(drops), fontsize=8)
    axes.set_ylim(len(drops) - 0.4, -0.6)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.grid(alpha=0.3, axis="x")


def answers_figure(groups: Sequence[Answers], label: str) -> Figure:
    """Recall@10 of groups of questions with 95 % intervals, and how many questions each has."""
    figure, axes = new_figure(5.2, 3.6)
    places = range(len(groups))
    errors = [Z95 * one.recall_error for one in groups]
    axes.errorbar(places, [one.recall for one in groups], yerr=errors, fmt="o", capsize=3)
    names = [f"{one.name}\n({one.questions:,})" for one in groups]
    turned = len(groups) > 5
    axes.set_xticks(places, names, fontsize=8, rotation=45 if turned else 0, ha="right" if turned else "center")
    axes.set_ylim(bottom=0)
    axes.set_xlim(-0.6, len(groups) - 0.4)
    axes.set(xlabel=f"{label} (questions)", ylabel="recall@10, 95 % interval")
    axes.grid(alpha=0.3)
    return figure


def losses_figure(losses: Sequence[Loss]) -> Figure:
    """A bar a part of the questions: mean loss of recall@10 and its standard deviation over the shuffles."""
    losses = sorted(losses, key=lambda one: -float(np.mean(one.recall_drops)))
    figure, axes = new_figure(7, max(2.2, 0.3 * len(losses) + 1))
    _bars(axes, {one.part: (float(np.mean(one.recall_drops)), float(np.std(one.recall_drops))) for one in losses})
    axes.set_xlabel("recall@10 lost when the part is shuffled; mean and standard deviation")
    return figure


def routes_figure(routes: Sequence[Routes], fields: Sequence[str]) -> Figure:
    """One block: for each kind of matrix, fields down and bases across, dark where a field takes much of a base."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.1 * len(routes) + 1, max(2.5, 0.2 * len(fields) + 1)), layout="constrained")
    panels = figure.subplots(1, len(routes), squeeze=False, sharey=True)[0]
    for axes, route in zip(panels, routes, strict=True):
        image = axes.imshow(route.shares, cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
        axes.set(title=_KINDS.get(route.kind, route.kind), xlabel="base")
    panels[0].set_yticks(range(len(fields)), fields, fontsize=7)
    figure.colorbar(image, ax=panels, label="share", shrink=0.7)
    return figure


def tree_figure(tree: Sequence[Prefix], items: int) -> Figure:
    """An icicle: a level a row, a prefix as wide as it has items, below its parent; white: too small to draw."""
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    figure, axes = new_figure(10, 3)
    depth = max(len(prefix.codes) for prefix in tree)
    first = {prefix.codes[0]: place for place, prefix in enumerate(tree) if len(prefix.codes) == 1}
    boxes = [Rectangle((one.start, len(one.codes) - 1), one.items, 1) for one in tree]
    colours = [f"C{first[one.codes[0]] % 10}" for one in tree]
    axes.add_collection(PatchCollection(boxes, facecolors=colours, edgecolors="white", linewidths=0.4, alpha=0.75))
    for one in tree:
        if one.items > items / 40:
            place = (one.start + one.items / 2, len(one.codes) - 0.5)
            axes.text(*place, str(one.codes[-1]), ha="center", va="center", fontsize=7)
    axes.set(xlim=(0, items), ylim=(depth, 0), xlabel="items")
    axes.set_yticks(np.arange(depth) + 0.5, [f"level {level + 1}" for level in range(depth)])
    return figure
