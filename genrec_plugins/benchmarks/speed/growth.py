"""What the measurements of growth share: a process's memory, the exponent of a curve, and the plot."""

from __future__ import annotations

import re
import resource
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np


class OnCurve(Protocol):
    """A measurement that stands on a curve."""

    @property
    def curve(self) -> str:
        """What was measured."""

    @property
    def axis(self) -> str:
        """What grew."""

    @property
    def x(self) -> int:
        """Its size."""


P = TypeVar("P", bound=OnCurve)


def slope(points: Iterable[tuple[float, float]]) -> float:
    """Exponent of the power law through the points by least squares of logarithms: 1 is linear.

    Example::

        >>> round(slope([(1, 2), (10, 20), (100, 200)]), 3)
        1.0
    """
    x, y = np.log(np.array(list(points), dtype=np.float64)).T
    return float(np.polyfit(x, y, 1)[0])


def peak_mib() -> float:
    """Largest resident memory so far in MiB; on Linux by the kernel's own mark, as rusage counts the parent's too."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1]) / 1024  # type: ignore[index]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def growth_svg(points: Sequence[P], values: Mapping[str, Callable[[P], float]]) -> str:
    """SVG of logarithmic panels, a column an axis and a row a value; the grey line is linear growth.

    Args:
        points: those of a curve in order of x.
        values: label of a row -> the value of a point; one that is not positive is drawn at 1e-12.
    """
    from matplotlib.figure import Figure

    from genrec_plugins.figures import svg_text

    axes = list(dict.fromkeys(one.axis for one in points))
    names = list(dict.fromkeys(one.curve for one in points))
    figure = Figure(figsize=(3.6 * len(axes), 3.2 * len(values)), layout="constrained")
    panels = figure.subplots(len(values), len(axes), squeeze=False)
    for column, axis in enumerate(axes):
        here = [one for one in points if one.axis == axis]
        for row, (label, value) in enumerate(values.items()):
            panel = panels[row][column]
            drawn = [(one.curve, one.x, max(value(one), 1e-12)) for one in here]
            for curve in dict.fromkeys(one.curve for one in here):
                line = [(x, y) for name, x, y in drawn if name == curve]
                panel.plot(*zip(*line, strict=True), marker="o", color=f"C{names.index(curve)}", label=curve)
            low, high = min(x for _, x, _ in drawn), max(x for _, x, _ in drawn)
            start = min(y for _, _, y in drawn)
            panel.plot([low, high], [start, start * high / low], color="grey", linestyle=":")
            panel.set(xscale="log", yscale="log", xlabel=axis, ylabel=label)
            panel.grid(alpha=0.3)
            panel.legend(fontsize=7)
    return svg_text(figure)
