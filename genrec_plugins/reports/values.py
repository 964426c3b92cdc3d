"""The values that ids stand for, for the fields whose state has them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import polars as pl

from genrec_adapters.prepared import Prepared
from genrec_registry import FieldState, Registry

#: types whose id 0 is shared by all values that were too rare for one of their own, or unseen
WITH_SHARED_ID = ("categorical", "cross")
SHARED = "rare or unseen"
MISSING = "missing"


def value_names(prepared: Prepared, registry: Registry) -> dict[str, dict[int, str]]:
    """Feature -> id -> value, of the fields of types ``categorical`` and ``numeric-bucket``.

    Args:
        prepared: the fitted fields.
        registry: finds the field types.

    Raises:
        DataError: a field's state is damaged.
    """
    restored = prepared.restore_fields(registry)
    found: dict[str, dict[int, str]] = {}
    for entry in prepared.manifest.fields:
        name, config = entry.spec.name, entry.config
        state = prepared.field_state(name)
        if entry.spec.type == "categorical":
            column = config.get("column") or name
            found[name] = _encoded(column, restored[name].encode()[0], state) | {0: SHARED}
        elif entry.spec.type == "numeric-bucket":
            found[name] = _intervals(state) if "edges" in state.json else _log_squares(state)
    return found


def _encoded(column: str, expression: Any, state: FieldState) -> dict[int, str]:
    """What the field itself makes of each value of its vocabulary."""
    if "vocabulary" not in state.tables:
        return {}
    values = pl.Series(column, [*state.tables["vocabulary"]["value"], None], dtype=pl.String)
    ids = pl.DataFrame([values]).select(expression).to_series().to_list()
    return {int(index): value or MISSING for index, value in zip(ids, values, strict=True)}


def _intervals(state: FieldState) -> dict[int, str]:
    edges = [f"{edge:.4g}" for edge in state.json["edges"]]
    if not edges:
        return {0: MISSING, 1: "any number"}
    between = [f"{low} to {high}" for low, high in pairwise(edges)]
    return dict(enumerate([MISSING, f"up to {edges[0]}", *between, f"above {edges[-1]}"]))


def _log_squares(state: FieldState) -> dict[int, str]:
    values = state.tables["vocabulary"]["value"].to_list()
    return {0: SHARED} | {row + 1: f"bucket {value}" if value else MISSING for row, value in enumerate(values)}
