"""Run the fitted fields over chunks and hold them to their contract; write what they learned."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import polars as pl

from genrec_adapters.fields import Field
from genrec_adapters.manifest import LABEL_COLUMN, FieldEntry
from genrec_adapters.preprocess.writer import write_bytes, write_table
from genrec_registry.contracts import DenseFeature, FittedField, SparseFeature
from genrec_registry.errors import ConfigError, GenrecError, PluginError


class Encoder:
    """Turns chunks of raw columns into chunks of features and the label.

    Args:
        fields: the configured fields.
        fitted: the same, fitted.
        label: the label column.

    Raises:
        ConfigError: two fields make a feature of the same name, or two features share a table of unequal size.
        PluginError: a field gives another number of expressions than its spec has features.
    """

    def __init__(self, fields: Sequence[Field], fitted: Sequence[FittedField], label: str) -> None:
        self._features: list[tuple[Field, SparseFeature | DenseFeature]] = []
        expressions: list[pl.Expr] = []
        owner: dict[str, str] = {LABEL_COLUMN: "the label"}
        tables: dict[str, tuple[str, int]] = {}
        for field, one in zip(fields, fitted, strict=True):
            spec = one.spec
            own: list[SparseFeature | DenseFeature] = [*spec.sparse, *spec.dense]
            given = list(one.encode())
            if len(given) != len(own):
                raise PluginError(
                    f"field '{field.name}' (type {field.config.type}) gave {len(given)} expressions, expected "
                    f"{len(own)}, one for each feature of its spec; mend its encode()"
                )
            for feature in own:
                before = owner.setdefault(feature.name, field.name)
                if before != field.name or feature.name in [known.name for _, known in self._features]:
                    raise ConfigError(
                        f"fields '{before}' and '{field.name}' both make a feature '{feature.name}'; rename one field"
                    )
                self._features.append((field, feature))
                if isinstance(feature, SparseFeature):
                    table, size = feature.table or feature.name, feature.num_embeddings
                    other, known_size = tables.setdefault(table, (feature.name, size))
                    if known_size != size:
                        raise ConfigError(
                            f"features '{other}' and '{feature.name}' share the table '{table}', but need {known_size} "
                            f"and {size} rows; give them the same size or different tables"
                        )
            expressions += given
        self._expressions = [*expressions, pl.col(label).alias(LABEL_COLUMN)]

    def encode(self, chunk: pl.DataFrame) -> pl.DataFrame:
        """Encoded features of one chunk, and ``__label__``.

        Raises:
            PluginError: a field broke its contract: column name, type, nulls, NaN, or ids out of range.
            DataError: a field refuses a row.
        """
        try:
            encoded = chunk.select(self._expressions)
        except GenrecError as error:  # polars adds the expression to the message, which says nothing to a user
            raise type(error)(str(error).partition("\n\nThis error occurred")[0]) from None
        for field, feature in self._features:
            problem = _problem(encoded, feature)
            if problem:
                raise PluginError(f"field '{field.name}' (type {field.config.type}): {problem}; mend its encode()")
        return encoded


def _problem(encoded: pl.DataFrame, feature: SparseFeature | DenseFeature) -> str:
    """What is wrong with an encoded column, or the empty string."""
    if feature.name not in encoded.columns:
        return f"gave no column '{feature.name}'"
    column = encoded[feature.name]
    expected: pl.DataType
    if isinstance(feature, SparseFeature):
        id_type = pl.Int32() if feature.dynamic is None else pl.Int64()
        expected = id_type if feature.max_length == 1 else pl.List(id_type)
    else:
        expected = pl.Float32() if feature.width == 1 else pl.Array(pl.Float32, feature.width)
    if column.dtype != expected:
        return f"column '{feature.name}' is {column.dtype}, expected {expected}"
    if column.null_count():
        return f"column '{feature.name}' has {column.null_count()} nulls, expected none"
    if isinstance(feature, SparseFeature):
        ids = column if feature.max_length == 1 else column.explode(empty_as_null=False, keep_nulls=True)
        if feature.max_length > 1 and column.len():
            longest = column.list.len().max()
            if isinstance(longest, int) and longest > feature.max_length:
                return f"column '{feature.name}' has a row of {longest} ids, expected at most {feature.max_length}"
        if ids.null_count():
            return f"column '{feature.name}' has nulls in its lists, expected none"
        low, high = ids.min(), ids.max()
        if isinstance(low, int) and isinstance(high, int) and (low < 0 or high >= feature.num_ids):
            return f"column '{feature.name}' has ids {low}..{high}, expected 0..{feature.num_ids - 1}"
        return ""
    floats = column if feature.width == 1 else column.explode(empty_as_null=False, keep_nulls=True)
    good = floats.is_finite().fill_null(False)
    if not good.all():
        bad = int((~good).arg_max() or 0)
        row = bad // feature.width + 1
        return f"column '{feature.name}' has {floats[bad]} in row {row} of a chunk, expected numbers"
    return ""


def field_entry(root: Path, field: Field, fitted: FittedField, plugin: str) -> FieldEntry:
    """Write what a field learned below ``root/vocab``, and describe it.

    Args:
        root: prepared directory in the making.
        field: the configured field.
        fitted: the same, fitted.
        plugin: distribution and version of its type.
    """
    state = fitted.state()
    name = quote(field.name, safe="")  # a field may be called 'a/b'
    return FieldEntry(
        config=field.config.model_dump(mode="json"),
        plugin=plugin,
        spec=fitted.spec,
        state=write_bytes(root, f"vocab/{name}.json", json.dumps(state.json, sort_keys=True).encode()),
        tables={
            table: write_table(root, f"vocab/{name}.{quote(table, safe='')}.parquet", frame)
            for table, frame in state.tables.items()
        },
    )
