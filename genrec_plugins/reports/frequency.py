"""Test rows by how often their ids came in the training rows: what a model makes of rare values, and of unseen ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrec_adapters.prepared import Prepared
from genrec_adapters.rows import load_rows
from genrec_plugins.reports.groups import Group, group_of
from genrec_plugins.reports.rows import SplitRows
from genrec_plugins.reports.values import SHARED, WITH_SHARED_ID
from genrec_plugins.training.metrics import Floats

#: first count of each bucket
EDGES = (0, 1, 10, 100, 1_000, 10_000, 100_000)
BUCKETS = (SHARED, "unseen", "1 to 9", "10 to 99", "100 to 999", "1,000 to 9,999", "10,000 to 99,999", "100,000 up")
PARTS = 5


@dataclass(frozen=True, kw_only=True)
class Frequencies:
    """Both ways to look at it.

    Args:
        fields: one-id feature -> its test rows by bucket of their id's training rows; in the order of ``BUCKETS``,
            without those that have no rows.
        parts: all test rows in ``PARTS`` equal groups, from the rarest ids to the most common.
    """

    fields: Mapping[str, tuple[Group, ...]]
    parts: tuple[Group, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        fields = {name: [group.as_dict() for group in groups] for name, groups in self.fields.items()}
        return {"fields": fields, "parts": [group.as_dict() for group in self.parts]}


def training_counts(prepared: Prepared) -> dict[str, NDArray[np.int64]]:
    """One-id feature -> training rows of each id, ``[num_embeddings]``; features with dynamic ids are left out.

    Reads the training shards one at a time.

    Raises:
        DataError: a shard cannot be read.
    """
    single = [feature for feature in prepared.sparse_features if feature.max_length == 1]
    counts = {one.name: np.zeros(one.num_embeddings, dtype=np.int64) for one in single if one.dynamic is None}
    shards = prepared.manifest.splits["train"].shards
    for path, shard in zip(prepared.shard_paths("train"), shards, strict=True):
        rows = load_rows([path], [shard.rows], prepared.sparse_features, prepared.dense_features)
        for column, feature in enumerate(single):
            if feature.name in counts:
                counts[feature.name] += np.bincount(rows.ids[:, column], minlength=feature.num_embeddings)
    return counts


def by_frequency(
    split: SplitRows, labels: Floats, probabilities: Floats, counts: Mapping[str, NDArray[np.int64]]
) -> Frequencies:
    """Measure the rows by the training rows of their ids.

    Id 0 of the types in ``WITH_SHARED_ID`` has a bucket of its own: its row of the table was trained, but by other
    values. For ``parts`` it counts as never seen.

    Args:
        split: the rows that were predicted.
        labels: ``[N]``.
        probabilities: ``[N]``.
        counts: :func:`training_counts`.
    """
    shared = {field.name for field in split.prepared.fields if field.type in WITH_SHARED_ID}
    fields: dict[str, tuple[Group, ...]] = {}
    commonness = np.zeros(len(labels))
    for name, known in counts.items():
        ids = split.ids(name)
        seen = known[ids]
        place = np.searchsorted(EDGES, seen, side="right")
        if name in shared:
            place[ids == 0], seen[ids == 0] = 0, 0
        commonness += np.log1p(seen)
        groups = ((BUCKETS[number], place == number) for number in np.unique(place))
        fields[name] = tuple(group_of(bucket, labels[mask], probabilities[mask]) for bucket, mask in groups)
    return Frequencies(fields=fields, parts=_parts(commonness, labels, probabilities) if counts else ())


def _parts(commonness: NDArray[np.float64], labels: Floats, probabilities: Floats) -> tuple[Group, ...]:
    order = np.argsort(commonness, kind="stable")
    pieces = [piece for piece in np.array_split(order, PARTS) if piece.size]
    names = [f"{number} of {len(pieces)}" for number in range(1, len(pieces) + 1)]
    return tuple(group_of(name, labels[part], probabilities[part]) for name, part in zip(names, pieces, strict=True))
