"""Test rows cut by the values of one field at a time: which values a model predicts well, and which not.

A slice is a value of a one-id field, or a quarter of the rows by a number, as the model sees it, or by a list's length.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrec_plugins.reports.groups import Group, group_of
from genrec_plugins.reports.rows import SplitRows
from genrec_plugins.reports.values import MISSING
from genrec_plugins.training.metrics import Floats

REST = "all other values"
#: types whose two floats are a number and 1 where it is missing
WITH_INDICATOR = ("numeric-dense", "numeric-embedding")

Part = tuple[str, NDArray[np.bool_]]


@dataclass(frozen=True, kw_only=True)
class FieldSlices:
    """One field's slices.

    Args:
        field: name of the feature.
        groups: the most frequent values, most frequent first, then :data:`REST`; quarters in ascending order.
    """

    field: str
    groups: tuple[Group, ...]

    @property
    def measured(self) -> tuple[Group, ...]:
        """Those with an AUC."""
        return tuple(group for group in self.groups if group.measured)

    @property
    def within(self) -> float:
        """Mean AUC within the slices, weighted by rows; NaN where no slice has one."""
        rows = sum(group.rows for group in self.measured)
        return sum(group.auc * group.rows for group in self.measured) / rows if rows else math.nan

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"field": self.field, "within": self.within, "groups": [group.as_dict() for group in self.groups]}


def field_slices(
    split: SplitRows,
    labels: Floats,
    probabilities: Floats,
    names: Mapping[str, Mapping[int, str]],
    most: int = 5,
) -> list[FieldSlices]:
    """Every feature's slices, in the order of the fields; a vector has none.

    Args:
        split: the rows that were predicted.
        labels: ``[N]``.
        probabilities: ``[N]``.
        names: feature -> id -> the value that users know.
        most: values a field that get a slice of their own.
    """
    found = []
    for field in split.prepared.fields:
        for name in (*(feature.name for feature in field.sparse), *(feature.name for feature in field.dense)):
            if name in split.id_columns:
                parts = _by_value(split.ids(name), names.get(name, {}), most)
            elif name in split.list_places:
                parts = _by_quarter(split.rows.lists[split.list_places[name]].lengths, prefix="length ")
            else:
                parts = _of_floats(split.rows.dense[:, split.float_columns[name]], field.type)
            groups = tuple(group_of(part, labels[mask], probabilities[mask]) for part, mask in parts)
            if groups:
                found.append(FieldSlices(field=name, groups=groups))
    return found


def _of_floats(block: NDArray[np.float32], kind: str) -> list[Part]:
    """Quarters of a number and those that miss it; nothing for a vector."""
    if block.shape[1] == 1:
        return _by_quarter(block[:, 0])
    if block.shape[1] == 2 and kind in WITH_INDICATOR:
        missing = block[:, 1] > 0
        parts = []
        for name, mask in _by_quarter(block[~missing, 0]) if not missing.all() else []:
            whole = np.zeros(len(block), dtype=np.bool_)
            whole[np.flatnonzero(~missing)[mask]] = True
            parts.append((name, whole))
        return [*parts, (MISSING, missing)] if missing.any() else parts
    return []


def _by_value(ids: NDArray[Any], names: Mapping[int, str], most: int) -> list[Part]:
    values, counts = np.unique(ids, return_counts=True)
    chosen = values[np.argsort(-counts, kind="stable")[:most]]
    parts = [(names.get(int(value), f"id {value}"), ids == value) for value in chosen]
    rest = ~np.isin(ids, chosen)
    return [*parts, (REST, rest)] if rest.any() else parts


def _by_quarter(values: NDArray[Any], prefix: str = "") -> list[Part]:
    """Quarters of the rows by value; equal values stay together, so that there may be fewer."""
    edges = np.unique(np.quantile(values, [0.25, 0.5, 0.75]))
    place = np.searchsorted(edges, values, side="left")
    parts = []
    for number in np.unique(place):
        mask = place == number
        low, high = values[mask].min(), values[mask].max()
        parts.append((f"{prefix}{low:.4g}" if low == high else f"{prefix}{low:.4g} to {high:.4g}", mask))
    return parts
