"""Semantic IDs as a tree of prefixes: how items spread over the codes of each level."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from genrec_adapters.item_codes import ItemCodes


@dataclass(frozen=True, kw_only=True)
class Prefix:
    """All items that begin with the same codes.

    Args:
        codes: the prefix.
        items: how many have it.
        start: items drawn before it at its level, when those of a parent stand together and large ones first.
    """

    codes: tuple[int, ...]
    items: int
    start: int


def prefix_tree(codes: ItemCodes, depth: int = 3, least: int = 1) -> list[Prefix]:
    """The prefixes of up to ``depth`` codes, parents before children, large ones first.

    Args:
        codes: of the catalogue.
        depth: levels.
        least: items of a prefix at least; smaller ones are left out, and so are their children.

    Example::

        >>> pairs = np.array([[0, 0], [1, 0], [1, 1], [1, 1]], np.int32)
        >>> tree = prefix_tree(ItemCodes(items=tuple("abcd"), codes=pairs, sizes=(2, 2)))
        >>> [(one.codes, one.items, one.start) for one in tree]
        [((1,), 3, 0), ((0,), 1, 3), ((1, 1), 2, 0), ((1, 0), 1, 2), ((0, 0), 1, 3)]
    """
    found: list[Prefix] = []
    level = [Prefix(codes=(), items=len(codes.items), start=0)]
    for length in range(1, min(depth, len(codes.sizes)) + 1):
        values, counts = np.unique(codes.codes[:, :length], axis=0, return_counts=True)
        children: dict[tuple[int, ...], list[tuple[int, tuple[int, ...]]]] = {}
        for value, count in zip(map(tuple, values.tolist()), counts.tolist(), strict=True):
            children.setdefault(value[:-1], []).append((-count, value))
        below = []
        for parent in level:
            start = parent.start
            for negative, value in sorted(children[parent.codes]):
                if -negative >= least:
                    below.append(Prefix(codes=value, items=-negative, start=start))
                start -= negative
        found += below
        level = below
    return found


def code_paths(config: Mapping[str, Any]) -> dict[str, Path]:
    """Field -> where its semantic IDs were read from, in a run's config; ``items`` of a pre-training run.

    Example::

        >>> code_paths({"fields": {"item": {"type": "semantic-id", "codes": "sid"}, "C1": {"type": "categorical"}}})
        {'item': PosixPath('sid')}
        >>> code_paths({"items": {"codes": "sid"}})
        {'items': PosixPath('sid')}
    """
    fields, items = config.get("fields") or {}, config.get("items")
    of_items = items.get("codes") if isinstance(items, Mapping) else None
    own = {"items": Path(of_items)} if isinstance(of_items, str) else {}
    return own | {
        name: Path(field["codes"])
        for name, field in fields.items()
        if isinstance(field, Mapping) and field.get("type") == "semantic-id" and "codes" in field
    }
