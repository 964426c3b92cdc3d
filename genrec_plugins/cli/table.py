"""Tables on the terminal, the same data as JSON for machines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import typer


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, title: str = "") -> None:
    """Print rows under a header; wide cells are folded on a terminal and left whole in a pipe.

    Args:
        columns: the header.
        rows: cells, shown with ``str``.
        title: a line above.

    Example::

        >>> print_table(["name", "AUC"], [["fat", 0.77]])  # doctest: +NORMALIZE_WHITESPACE
        name  AUC
        fat   0.77
    """
    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        console = Console(markup=False, highlight=False, emoji=False, width=10_000)
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    if title:
        typer.echo(title)
    console.print(table)


def print_json(data: Mapping[str, Any] | Sequence[Any]) -> None:
    """Print data as JSON.

    Args:
        data: what ``json`` can write.

    Example::

        >>> print_json({"rows": 2})
        {
          "rows": 2
        }
    """
    typer.echo(json.dumps(data, indent=2, ensure_ascii=False))
