"""The quality report of a set of item codes: ours, published ones, or random ones, by the same measures.

- by level: how many codes are used, how evenly (perplexity, Gini), how many different prefixes there are
- of whole IDs: how many are unique, how many items share one at most
- against embeddings: how much of them the codes keep, and whether neighbours share prefixes, beside what chance gives
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from genrec_adapters.item_codes import ItemCodes
from genrec_registry import DataError

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class LevelQuality:
    """One level of codes, and the prefixes that end with it.

    Args:
        size: K, codes of the level.
        used: codes that some item has.
        perplexity: exp of the entropy of the codes; K where all are used alike.
        gini: of the items a code over all K codes; 0 where all are used alike, near 1 where one has nearly all items.
        prefixes: different prefixes of this length.
        largest: items of the most common one.
        hit_rate: share of the items' nearest neighbours with which they share it; None without embeddings.
        chance: the same for two items drawn at random.
        counts: items of each used code, most used first.
    """

    size: int
    used: int
    perplexity: float
    gini: float
    prefixes: int
    largest: int
    hit_rate: float | None
    chance: float
    counts: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class QualityReport:
    """What the codes of N items are worth.

    Args:
        items: N.
        without_codes: items that were asked for and have none.
        levels: by level, first level first.
        unique_ids: different IDs.
        collision_rate: 1 - unique_ids / N.
        largest_group: items that share the most common ID.
        reconstruction_error: share of the embeddings' variance that the codes lose; None where they stand for nothing.
        neighbours: k, how many neighbours of an item were looked at; 0 without embeddings.
        queries: how many items' neighbours were looked at.
    """

    items: int
    without_codes: int
    levels: tuple[LevelQuality, ...]
    unique_ids: int
    collision_rate: float
    largest_group: int
    reconstruction_error: float | None
    neighbours: int
    queries: int

    def as_json(self) -> dict[str, Any]:
        """Plain data, without the counts of single codes."""
        data = asdict(self)
        for level in data["levels"]:
            del level["counts"]
        return data


def measure(
    codes: ItemCodes,
    items: Sequence[str] | None = None,
    embeddings: np.ndarray | None = None,
    reconstructed: np.ndarray | None = None,
    *,
    neighbours: int = 10,
    max_queries: int = 2000,
    seed: int = 0,
) -> QualityReport:
    """Measure a set of item codes.

    Args:
        codes: which item has which codes.
        items: the items to look at; all that have codes if None.
        embeddings: ``[len(items), E]``, for the neighbours and the reconstruction; neighbours are the nearest by
            Euclidean distance.
        reconstructed: ``[len(items), E]``, what the codes stand for.
        neighbours: k.
        max_queries: look at the neighbours of this many items at most, drawn at random.
        seed: of that draw.

    Raises:
        DataError: no item has codes, or embeddings go with other items.

    Example::

        >>> pairs = np.array([[0, 0], [0, 1], [1, 0], [1, 0]], np.int32)
        >>> codes = ItemCodes(items=tuple("abcd"), codes=pairs, sizes=(2, 4))
        >>> report = measure(codes, codes.items, np.array([[0.0], [0.1], [5.0], [5.1]], np.float32), neighbours=1)
        >>> [(level.used, round(level.perplexity, 2), level.prefixes, level.hit_rate) for level in report.levels]
        [(2, 2.0, 2, 1.0), (2, 1.75, 3, 0.5)]
        >>> report.unique_ids, report.collision_rate, report.largest_group
        (3, 0.25, 2)
    """
    asked = codes.items if items is None else tuple(items)
    for what, rows in (("embeddings", embeddings), ("reconstructed", reconstructed)):
        if rows is not None and (items is None or len(rows) != len(asked)):
            raise DataError(f"{what} have {len(rows)} rows for {len(asked)} items; give one row for each of 'items'")
    table = codes.of(asked)
    known = table[:, 0] >= 0
    table = table[known]
    if not len(table):
        raise DataError(
            f"none of {len(asked)} items has codes, expected some; the codes' items are "
            f"{', '.join(codes.items[:3])}, ..."
        )
    prefixes = _prefixes(table, codes.sizes)
    pairs, looked_at, reach = None, 0, 0
    if embeddings is not None and len(table) > 1:
        reach = min(neighbours, len(table) - 1)
        pairs = _neighbours(embeddings[known], reach, max_queries, seed)
        looked_at = len(pairs[0])
    levels = tuple(_level(table[:, level], size, prefixes[:, level], pairs) for level, size in enumerate(codes.sizes))
    lost = None
    if reconstructed is not None and embeddings is not None:
        lost = variance_lost(embeddings[known], reconstructed[known])
    return QualityReport(
        items=len(table),
        without_codes=int((~known).sum()),
        levels=levels,
        unique_ids=levels[-1].prefixes,
        collision_rate=1 - levels[-1].prefixes / len(table),
        largest_group=levels[-1].largest,
        reconstruction_error=lost,
        neighbours=reach,
        queries=looked_at,
    )


def _level(codes: npt.NDArray[np.int32], size: int, prefixes: Int64, pairs: tuple[Int64, Int64] | None) -> LevelQuality:
    counts = np.bincount(codes, minlength=size)
    used = np.sort(counts[counts > 0])[::-1]
    shares = used / used.sum()
    groups = np.bincount(prefixes)
    items = len(codes)
    hit_rate = None
    if pairs is not None:
        queries, found = pairs
        hit_rate = float((prefixes[queries][:, None] == prefixes[found]).mean())
    return LevelQuality(
        size=size,
        used=len(used),
        perplexity=float(np.exp(-(shares * np.log(shares)).sum())),
        gini=gini(counts),
        prefixes=len(groups),
        largest=int(groups.max()),
        hit_rate=hit_rate,
        chance=float((groups * (groups - 1.0)).sum() / max(1, items * (items - 1))),
        counts=tuple(used.tolist()),
    )


def gini(counts: npt.NDArray[np.integer]) -> float:
    """Half the mean difference of two counts, over their mean.

    Example::

        >>> gini(np.array([5, 5, 5])), gini(np.array([0, 0, 0, 12]))
        (0.0, 0.75)
    """
    ascending = np.sort(counts).astype(np.float64)
    places = np.arange(1, len(counts) + 1)
    return float(((2 * places - len(counts) - 1) * ascending).sum() / (len(counts) * ascending.sum()))


def _prefixes(codes: npt.NDArray[np.int32], sizes: Sequence[int]) -> Int64:
    """``[N, L]``: a number for each item's prefix of each length, from 0 without gaps."""
    found = np.zeros(codes.shape, dtype=np.int64)
    before: Int64 = np.zeros(len(codes), dtype=np.int64)
    for level, size in enumerate(sizes):
        _, before = np.unique(before * size + codes[:, level], return_inverse=True)
        found[:, level] = before
    return found


def _neighbours(embeddings: np.ndarray, k: int, max_queries: int, seed: int) -> tuple[Int64, Int64]:
    """Some items ``[Q]`` and the k nearest others of each ``[Q, k]``."""
    import faiss

    vectors = np.ascontiguousarray(embeddings, dtype=np.float32)
    queries = np.arange(len(vectors))
    if len(queries) > max_queries:
        queries = np.sort(np.random.default_rng(seed).choice(len(vectors), max_queries, replace=False))
    _, found = faiss.knn(vectors[queries], vectors, k + 1)
    # An item is not its own neighbour; among equal embeddings it need not come first, nor come at all.
    itself = found == queries[:, None]
    itself[~itself.any(axis=1), -1] = True
    return queries, found[~itself].reshape(len(queries), k)


def variance_lost(embeddings: np.ndarray, reconstructed: np.ndarray) -> float:
    """Squared error of the reconstruction over the variance of the embeddings: 0 keeps all, 1 as good as their mean.

    Example::

        >>> vectors = np.array([[0.0, 1.0], [2.0, 1.0]], np.float32)
        >>> variance_lost(vectors, vectors), variance_lost(vectors, np.ones((2, 2), np.float32))
        (0.0, 1.0)
    """
    centred = embeddings - embeddings.mean(axis=0)
    variance = float(np.square(centred, dtype=np.float64).sum())
    return float(np.square(embeddings - reconstructed, dtype=np.float64).sum()) / variance if variance else 0.0


def comparison(reports: Mapping[str, Sequence[QualityReport]]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of one table: a column for each set of codes.

    Args:
        reports: by name; several of one name (fits with other seeds) become mean ± standard deviation.

    Example::

        >>> codes = ItemCodes(items=tuple("ab"), codes=np.array([[0], [1]], np.int32), sizes=(4,))
        >>> header, rows = comparison({"mine": [measure(codes)]})
        >>> header, rows[1]
        (['measure', 'mine'], ['codes used, level 1', '2 of 4'])
    """
    depth = max(len(report.levels) for several in reports.values() for report in several)
    rows = [["items", *(_text(several, lambda report: report.items) for several in reports.values())]]
    rows += [_row(f"codes used, level {level + 1}", reports, level, "used") for level in range(depth)]
    rows += [_row(f"perplexity, level {level + 1}", reports, level, "perplexity") for level in range(depth)]
    rows += [_row(f"Gini, level {level + 1}", reports, level, "gini") for level in range(depth)]
    rows += [_row(f"prefixes of length {level + 1}", reports, level, "prefixes") for level in range(depth)]
    rows += [_row(f"items of the largest, length {level + 1}", reports, level, "largest") for level in range(depth)]
    rows += [
        [title, *(_text(several, lambda report, name=name: getattr(report, name)) for several in reports.values())]
        for title, name in (
            ("unique IDs", "unique_ids"),
            ("collision rate", "collision_rate"),
            ("largest collision group", "largest_group"),
            ("reconstruction error", "reconstruction_error"),
        )
    ]
    for level in range(depth):
        rows.append(_row(f"neighbours sharing length {level + 1}", reports, level, "hit_rate"))
        rows.append(_row(f"  by chance, length {level + 1}", reports, level, "chance"))
    return ["measure", *reports], [row for row in rows if any(row[1:])]


def _row(title: str, reports: Mapping[str, Sequence[QualityReport]], level: int, name: str) -> list[str]:
    def value(report: QualityReport) -> Any:
        return getattr(report.levels[level], name) if level < len(report.levels) else None

    row = [title, *(_text(several, value) for several in reports.values())]
    if name == "used":
        sizes = [
            several[0].levels[level].size if level < len(several[0].levels) else None for several in reports.values()
        ]
        row[1:] = [f"{cell} of {size}" if cell else cell for cell, size in zip(row[1:], sizes, strict=True)]
    return row


def _text(several: Sequence[QualityReport], value: Any) -> str:
    """Mean, and standard deviation where values differ; empty where a report has no such value."""
    values = [value(report) for report in several]
    if any(one is None for one in values):
        return ""
    if min(values) == max(values):
        return str(values[0]) if isinstance(values[0], int) else _short(values[0])
    mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1))
    whole = all(isinstance(one, int) for one in values)
    return f"{mean:.1f} ± {deviation:.1f}" if whole else f"{_short(mean)} ± {_short(deviation)}"


def _short(value: float) -> str:
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.4f}"
