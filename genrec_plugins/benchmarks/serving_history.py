"""What it is worth to encode a user's history once: candidates of one user beside the same rows one by one.

::

    python -m genrec_plugins.benchmarks.serving_history export --candidates 10,100,500

Processor time from a request's body to its scores, without HTTP, in turns.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from genrec_plugins.benchmarks.runner import run, whole_numbers
from genrec_plugins.benchmarks.speed.paired import Timed, race


def races(model: Any, candidates: int, events: int, turns: int = 5, seed: int = 0) -> list[Timed]:
    """A request with candidates, the same without sharing, and whole rows, in turns.

    Args:
        model: a :class:`~genrec_plugins.serving.served.Served` whose history is shared, or not.
        candidates: of the request.
        events: of the user's history.
        turns: that count.
        seed: of the values.
    """
    from pydantic_core import to_json

    from genrec_plugins.serving.wire import JSON, rows_of

    source = np.random.default_rng(seed)
    lists = [column for column in model.schema.columns if column.kind == "list"]
    others = [column for column in model.schema.columns if column.kind != "list"]
    user = {column.name: [_value(column, number) for number in source.integers(0, 1000, events)] for column in lists}
    rows = [
        {column.name: _value(column, int(number)) for column in others}
        for number in source.integers(0, 1000, candidates)
    ]
    short, whole = to_json({"user": user, "candidates": rows}), to_json({"rows": [user | row for row in rows]})

    def way(body: bytes, shared: frozenset[str]) -> Callable[[], float]:
        def score() -> float:
            began = time.process_time()
            model.score([rows_of(body, JSON, model.schema, max_rows=candidates, shared=shared)])
            return time.process_time() - began

        return score

    ways = {
        "candidates, history encoded once": way(short, model.shared),
        "candidates, each encoded": way(short, frozenset()),
        "whole rows": way(whole, frozenset()),
    }
    return race(f"{candidates} candidates", ways, amount=candidates, unit="rows/s", turns=turns)


def _value(column: Any, number: int) -> Any:
    return f"i{number}" if column.values == "text" else number


def main(
    export: Annotated[Path, typer.Argument(help="An export whose model reads a history.")],
    candidates: Annotated[str, typer.Option(help="How many, comma-separated.")] = "10,100,500",
    events: Annotated[int, typer.Option(min=1, help="Of the history.")] = 50,
    turns: Annotated[int, typer.Option(min=1, help="Turns that count.")] = 5,
) -> None:
    """Race the ways and print the ratios: above 1, the shared history is faster."""
    from genrec_plugins.cli.logs import load_torchrec
    from genrec_plugins.cli.table import print_table

    counts = whole_numbers(candidates, "--candidates")
    load_torchrec()
    import torch

    from genrec_plugins.serving.served import Served

    torch.set_num_threads(1)
    model = Served.open(export)
    found = [one for count in counts for one in races(model, count, events, turns)]
    cells = [
        [one.part, one.what, round(one.rate), round(one.ratio, 2), round(one.least, 2), round(one.most, 2)]
        for one in found
    ]
    print_table(
        ["request", "way", "rows/s", "shared / this", "least", "most"], cells, title=f"history: {model.history}"
    )


if __name__ == "__main__":
    run(main)
