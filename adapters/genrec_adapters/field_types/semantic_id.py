"""Field type ``semantic-id``: an item's value to the n-grams of its codes, so that content takes the hash's place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl

from genrec_adapters.code_ngrams import CodeNgrams
from genrec_adapters.field_types.base import Fitted
from genrec_adapters.field_types.columns import text
from genrec_adapters.field_types.semantic_id_config import SemanticIdConfig
from genrec_adapters.field_types.vocabulary import VocabularyIds
from genrec_adapters.item_codes import FILE, ItemCodes
from genrec_registry import FieldFitter, FieldSpec, FieldState, SparseFeature
from genrec_registry.contracts import ColumnKind


class SemanticId:
    """One token an item, the sum of the vectors of its code n-grams: implements ``FieldType``.

    The codes are read when fitting begins and become part of the field's state: prepared rows and trained models need
    the tokenizer no more. An item without codes, or a missing one, has id 0 in every place.

    Args:
        name: field name.
        config: see :class:`~genrec_adapters.field_types.semantic_id_config.SemanticIdConfig`.

    Example::

        >>> import json, tempfile, pathlib
        >>> index = pathlib.Path(tempfile.mkdtemp()) / "index.json"
        >>> _ = index.write_text(json.dumps({"7": ["<a_0>", "<b_1>"], "8": ["<a_0>", "<b_0>"]}))
        >>> fitted = SemanticId("item", SemanticIdConfig(codes=str(index))).fitter().finish()
        >>> fitted.spec.sparse[0].num_embeddings
        4
        >>> pl.DataFrame({"item": [8, 7, None]}).select(fitted.encode())["item"].to_list()
        [[1, 2], [1, 3], [0, 0]]
    """

    def __init__(self, name: str, config: SemanticIdConfig) -> None:
        self.name = name
        self.config = config
        self.column = config.column or name

    @property
    def columns(self) -> Mapping[str, ColumnKind]:
        """The one column, read as text."""
        return {self.column: "string"}

    @property
    def files(self) -> tuple[str, ...]:
        """What else the encoding depends on: prepared rows are made again when the codes change."""
        path = Path(self.config.codes)
        return (str(path / FILE), str(path / "tokenizer.json")) if path.is_dir() else (str(path),)

    def fitter(self) -> FieldFitter:
        """Reads the codes; learns nothing from the rows.

        Raises:
            DataError: the codes cannot be read.
            ConfigError: they have fewer levels than ``depth``.
        """
        codes = ItemCodes.read(self.config.codes)
        ngrams = CodeNgrams.of(
            codes,
            kind=self.config.ngrams,
            depth=self.config.depth,
            num_buckets=self.config.num_buckets,
            seed=self.config.seed,
        )
        ids = pl.Series("ids", ngrams.ids(codes.codes), dtype=pl.Array(pl.Int32, ngrams.depth))
        table = pl.DataFrame({"item": pl.Series(codes.items, dtype=pl.String), "ids": ids})
        return _Known(self.restore(FieldState(json={"num_ids": ngrams.num_ids}, tables={"items": table})))

    def restore(self, state: FieldState) -> Fitted:
        """The field with the items and ids of ``state``."""
        table = state.tables["items"]
        depth = table.schema["ids"].shape[0]  # type: ignore[attr-defined]
        ids = np.concatenate([np.zeros((1, depth), np.int32), table["ids"].to_numpy().reshape(-1, depth)])
        rows = VocabularyIds(table["item"], first=1).of(text(self.column))
        by_row = pl.Series(ids[:, 0]) if depth == 1 else pl.Series(ids).cast(pl.List(pl.Int32))
        feature = SparseFeature(
            name=self.name,
            num_embeddings=int(state.json["num_ids"]),
            max_length=depth,
            table=self.config.table,
        )
        return Fitted(
            spec=FieldSpec(name=self.name, type="semantic-id", sparse=(feature,)),
            expressions=(pl.lit(by_row).gather(rows),),
            field_state=state,
        )


class _Known:
    """Fitter of a field that is known before the first row."""

    def __init__(self, fitted: Fitted) -> None:
        self._fitted = fitted

    def update(self, chunk: pl.DataFrame) -> None:
        """Look at nothing."""

    def partial(self) -> FieldState:
        """Nothing."""
        return FieldState()

    def absorb(self, partial: FieldState) -> None:
        """Take nothing."""

    def finish(self) -> Fitted:
        """The field."""
        return self._fitted
