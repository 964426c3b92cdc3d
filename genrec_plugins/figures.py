"""Figures as SVG text that can stand beside others in one page."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ID = re.compile(r'(\bid="|url\(#|href="#)')


def new_figure(width: float = 6.0, height: float = 4.0) -> tuple[Figure, Axes]:
    """A figure with one pair of axes, in inches."""
    from matplotlib.figure import Figure as NewFigure

    figure = NewFigure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


@contextmanager
def svg_settings(key: str) -> Iterator[None]:
    """Matplotlib's settings for a page: text stays text, and equal figures give equal files."""
    import matplotlib

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": key, "font.family": "sans-serif"}):
        yield


def svg_text(figure: Figure) -> str:
    """A figure as an ``<svg>`` element, without what says when and by what it was made.

    Args:
        figure: drawn.

    Example::

        >>> svg_text(new_figure()[0]).startswith("<svg")
        True
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def inline_svg(figure: Figure, key: str, title: str) -> str:
    """A figure as an ``<svg>`` element whose ids no other one of the page has.

    Args:
        figure: drawn.
        key: letters, digits and dashes; unique in the page.
        title: said by screen readers.

    Example::

        >>> figure, axes = new_figure()
        >>> _ = axes.plot([0, 1], [0, 1])
        >>> text = inline_svg(figure, "one", "A line")
        >>> text.startswith("<svg"), 'aria-label="A line"' in text, 'id="one-figure_1"' in text
        (True, True, True)
    """
    with svg_settings(key):
        text = _ID.sub(rf"\1{key}-", svg_text(figure))
    return text.replace("<svg", f'<svg role="img" aria-label="{escape(title, quote=True)}"', 1)
