"""The quality report as a picture: how each level's codes are used, and how deep neighbours agree."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from genrec_plugins.files import written_aside
from genrec_plugins.tokenizers.quality import QualityReport

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_plot(reports: Mapping[str, QualityReport], path: Path) -> None:
    """Write :func:`figure_of` as PNG.

    Args:
        reports: by the name that the legend shows.
        path: the file.

    Raises:
        DataError: it cannot be written.

    Example::

        >>> import numpy as np, tempfile
        >>> from genrec_adapters.item_codes import ItemCodes
        >>> from genrec_plugins.tokenizers.quality import measure
        >>> codes = ItemCodes(items=tuple("abc"), codes=np.array([[0], [1], [1]], np.int32), sizes=(2,))
        >>> path = Path(tempfile.mkdtemp()) / "quality.png"
        >>> write_plot({"mine": measure(codes)}, path)
        >>> path.read_bytes()[1:4]
        b'PNG'
    """
    with written_aside(path, instead="name another --plot") as partial:
        figure_of(reports).savefig(partial, format="png", dpi=120, metadata={"Software": None})


def figure_of(reports: Mapping[str, QualityReport]) -> Figure:
    """A panel of rank against items for each level, and one of the neighbours that share a prefix.

    Args:
        reports: by the name that the legend shows.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    depth = max(len(report.levels) for report in reports.values())
    with_hits = any(level.hit_rate is not None for report in reports.values() for level in report.levels)
    panels = depth + with_hits
    figure = Figure(figsize=(3.4 * panels, 3.4), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    colours = {name: f"C{index % 10}" for index, name in enumerate(reports)}
    for level in range(depth):
        for name, report in reports.items():
            if level < len(report.levels):
                counts = report.levels[level].counts
                axes[level].plot(range(1, len(counts) + 1), counts, color=colours[name], label=name)
        axes[level].set(title=f"level {level + 1}", xlabel="code, most used first", ylabel="items")
        used = [
            count for report in reports.values() if level < len(report.levels) for count in report.levels[level].counts
        ]
        if max(used) > 10 * max(1, min(used)):
            axes[level].set_yscale("log")
        else:
            axes[level].set_ylim(bottom=0)
        axes[level].xaxis.set_major_locator(MaxNLocator(integer=True))
    if with_hits:
        for name, report in reports.items():
            lengths = range(1, len(report.levels) + 1)
            rates = [level.hit_rate for level in report.levels if level.hit_rate is not None]
            if rates:
                axes[-1].plot(lengths, rates, marker="o", color=colours[name], label=name)
                chances = [level.chance for level in report.levels]
                axes[-1].plot(lengths, chances, linestyle=":", color=colours[name])
        axes[-1].set(title="neighbours (dotted: chance)", xlabel="length of prefix", ylabel="share that has it too")
        axes[-1].set_xticks(range(1, depth + 1))
    axes[-1].legend(fontsize=8)
    for one in axes:
        one.grid(alpha=0.3)
    return figure
