"""Field type ``dynamic-id``: values become hashes here, and rows of a table in the model, while it trains."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl

from genrec_adapters.field_types.base import Fitted, NothingToFit
from genrec_adapters.field_types.columns import text
from genrec_adapters.field_types.configs import DynamicIdConfig
from genrec_adapters.field_types.hashing import hash_texts
from genrec_registry import DynamicRows, FieldFitter, FieldSpec, FieldState, SparseFeature
from genrec_registry.contracts import ColumnKind

_LARGEST = np.uint64(2**63 - 2)  # 2**63 - 1 marks a row without an id in TorchRec's tables


class DynamicId:
    """One hashed id a row, for which the model finds a row: implements ``FieldType``.

    Nothing is learned from the data. A missing value counts as the empty text, which is a value like any other.

    Args:
        name: field name.
        config: see :class:`~genrec_adapters.field_types.configs.DynamicIdConfig`.

    Example::

        >>> field = DynamicId("item", DynamicIdConfig(rows=1000, eviction="lru"))
        >>> encoded = pl.DataFrame({"item": ["x", "y", "x"]}).select(field.fitter().finish().encode())["item"]
        >>> encoded.dtype, encoded[0] == encoded[2], encoded[0] == encoded[1]
        (Int64, True, False)
    """

    def __init__(self, name: str, config: DynamicIdConfig) -> None:
        self.name = name
        self.config = config
        self.column = config.column or name

    @property
    def columns(self) -> Mapping[str, ColumnKind]:
        """The one column."""
        return {self.column: "string"}

    def fitter(self) -> FieldFitter:
        """Learns nothing."""
        return NothingToFit(self.restore)

    def restore(self, state: FieldState) -> Fitted:
        """The field; ``state`` is empty."""
        config = self.config

        def hashes(texts: pl.Series) -> pl.Series:
            ids = np.minimum(hash_texts(texts, config.seed) >> np.uint64(1), _LARGEST)
            return pl.Series(texts.name, ids.astype(np.int64))

        feature = SparseFeature(
            name=self.name,
            num_embeddings=config.rows,
            dynamic=DynamicRows(eviction=config.eviction, interval=config.interval),
        )
        return Fitted(
            spec=FieldSpec(name=self.name, type="dynamic-id", sparse=(feature,)),
            expressions=(text(self.column).map_batches(hashes, return_dtype=pl.Int64, is_elementwise=True),),
            field_state=state,
        )
