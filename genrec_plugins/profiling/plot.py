"""Profiles as a picture: the roofline with the components on it, and a bar for each component's MFU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from genrec_plugins.files import written_aside
from genrec_registry import ConfigError

if TYPE_CHECKING:
    from genrec_plugins.profiling.measure import Profile

FORMATS = (".svg", ".png", ".pdf")


def check_plot_path(path: Path) -> None:
    """Refuse a file that matplotlib would not know how to write.

    Raises:
        ConfigError: its ending is none of :data:`FORMATS`.
    """
    if path.suffix not in FORMATS:
        raise ConfigError(f"{path}: ends in '{path.suffix}', expected one of {', '.join(FORMATS)}; name another file")


def plot_profiles(profiles: Sequence[Profile], path: Path, title: str = "") -> None:
    """Write the picture.

    Left: FLOP/s over arithmetic intensity, under the peak, of those that have matrix products. Right: MFU.

    Args:
        profiles: at least one.
        path: an SVG, PNG or PDF file.
        title: above both.

    Raises:
        ConfigError: the file has another ending.
    """
    from matplotlib.figure import Figure

    check_plot_path(path)
    figure = Figure(figsize=(11, max(4.0, 1.5 + 0.28 * len(profiles))), layout="constrained")
    roofline, bars = figure.subplots(1, 2)
    with_flops = [profile for profile in profiles if profile.flops]
    for index, profile in enumerate(with_flops):
        marker = "o" if profile.kind == "interaction" else "s"
        colour = f"C{index % 10}" if index < 10 else "none"
        edge = {"markeredgecolor": f"C{index % 10}", "markerfacecolor": colour}
        rate = profile.flops / profile.seconds / 1e9
        roofline.plot(profile.intensity, rate, marker, label=profile.name, linestyle="none", **edge)
    peak = max(profile.peak_flops for profile in profiles) / 1e9
    roofline.axhline(peak, color="grey", linestyle=":", label=f"peak, {peak:,.0f} GFLOP/s")
    roofline.set_xscale("log")
    roofline.set_yscale("log")
    roofline.set_xlabel("FLOPs a byte (operators as launched)")
    roofline.set_ylabel("model GFLOP/s")
    roofline.legend(fontsize=8, ncols=2)
    roofline.grid(alpha=0.3)
    order = sorted(profiles, key=lambda profile: profile.mfu)
    bars.barh(range(len(order)), [100 * profile.mfu for profile in order], color="C0")
    bars.set_yticks(range(len(order)), [f"{profile.name} ({profile.part})" for profile in order], fontsize=8)
    bars.set_xlabel("MFU, %")
    bars.grid(alpha=0.3, axis="x")
    figure.suptitle(title, fontsize=10)
    with written_aside(path) as partial:
        figure.savefig(partial, format=path.suffix[1:], metadata={"Date": None} if path.suffix == ".svg" else None)
