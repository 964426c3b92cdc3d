"""What the page is laid out of: sections with sentences, tables and plots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from genrec_plugins.figures import inline_svg, svg_settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class Table:
    """Cells under a header; ``folded`` ones are opened by a click."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    folded: bool = False


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A figure as SVG text."""

    caption: str
    svg: str


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page.

    Args:
        key: its anchor, unique in the page.
        title: its heading.
        level: of the heading.
        missing: why there is nothing, in one line.
        says: sentences above tables and plots.
        tables: in their order.
        plots: in their order.
    """

    key: str
    title: str
    level: int = 2
    missing: str = ""
    says: Sequence[str] = ()
    tables: Sequence[Table] = ()
    plots: Sequence[Plot] = ()


def draw(key: str, caption: str, make: Callable[..., Figure], *arguments: Any) -> Plot:
    """A figure, drawn with the page's settings.

    Args:
        key: unique in the page.
        caption: above the figure.
        make: draws it.
        arguments: of ``make``.
    """
    with svg_settings(key):
        figure = make(*arguments)
    return Plot(caption=caption, svg=inline_svg(figure, key, caption))
