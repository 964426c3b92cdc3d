"""A split's encoded rows in memory, in the order of the predictions: what slices and permutations are taken of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from genrec_adapters.prepared import Prepared
from genrec_adapters.rows import Ragged, Rows, load_rows
from genrec_registry import FieldSpec, Split

Ids = NDArray[np.int32] | NDArray[np.int64]


@dataclass(frozen=True)
class SplitRows:
    """The rows of a split, and where each feature stands in them.

    Args:
        prepared: whose rows.
        rows: all of the split, or a draw of it.
    """

    prepared: Prepared
    rows: Rows

    @classmethod
    def load(cls, prepared: Prepared, split: Split) -> Self:
        """All rows of a split, in the order in which they are predicted.

        Raises:
            DataError: a shard cannot be read.
        """
        counts = [shard.rows for shard in prepared.manifest.splits[split].shards]
        rows = load_rows(prepared.shard_paths(split), counts, prepared.sparse_features, prepared.dense_features)
        return cls(prepared, rows)

    @cached_property
    def id_columns(self) -> Mapping[str, int]:
        """One-id feature -> its column in ``rows.ids``."""
        names = [feature.name for feature in self.prepared.sparse_features if feature.max_length == 1]
        return {name: column for column, name in enumerate(names)}

    @cached_property
    def list_places(self) -> Mapping[str, int]:
        """Feature of several ids -> its place in ``rows.lists``."""
        names = [feature.name for feature in self.prepared.sparse_features if feature.max_length > 1]
        return {name: place for place, name in enumerate(names)}

    @cached_property
    def float_columns(self) -> Mapping[str, slice]:
        """Dense feature -> its columns in ``rows.dense``."""
        found, first = {}, 0
        for feature in self.prepared.dense_features:
            found[feature.name] = slice(first, first + feature.width)
            first += feature.width
        return found

    def ids(self, feature: str) -> Ids:
        """``[N]`` ids of a one-id feature."""
        return self.rows.ids[:, self.id_columns[feature]]

    def take(self, index: NDArray[np.int64]) -> SplitRows:
        """Some of the rows."""
        return SplitRows(self.prepared, self.rows.take(index))

    def with_field_of(self, field: FieldSpec, index: NDArray[np.int64]) -> Rows:
        """The rows, but everything that belongs to ``field`` comes from the rows of ``index``.

        Args:
            field: one of the prepared fields.
            index: ``[N]``; row i gets the field of row ``index[i]``.
        """
        ids, dense, lists = self.rows.ids, self.rows.dense, list(self.rows.lists)
        columns = [self.id_columns[feature.name] for feature in field.sparse if feature.name in self.id_columns]
        if columns:
            ids = ids.copy()
            ids[:, columns] = self.rows.ids[index][:, columns]
        for feature in field.sparse:
            if feature.name in self.list_places:
                place = self.list_places[feature.name]
                taken: Ragged = self.rows.lists[place].take(index)
                lists[place] = taken
        if field.dense:
            dense = dense.copy()
            for wide in field.dense:
                block = self.float_columns[wide.name]
                dense[:, block] = self.rows.dense[index, block]
        return Rows(ids, dense, self.rows.labels, tuple(lists))
