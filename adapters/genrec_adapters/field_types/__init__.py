"""Built-in field types: each a record whose config and factory are imported on first use."""

from __future__ import annotations

from genrec_registry import FieldTypeRecord

_HERE = "genrec_adapters.field_types"

RECORDS: tuple[FieldTypeRecord, ...] = (
    FieldTypeRecord(
        name="categorical",
        config=f"{_HERE}.configs:CategoricalConfig",
        factory=f"{_HERE}.categorical:Categorical",
        summary="One id a row: a vocabulary with min_count and out-of-vocabulary id, or a hash",
        since="0.1.0",
    ),
    FieldTypeRecord(
        name="cross",
        config=f"{_HERE}.configs:CrossConfig",
        factory=f"{_HERE}.categorical:Cross",
        summary="One id a row for the pair of two columns' values",
        since="0.1.0",
    ),
    FieldTypeRecord(
        name="numeric-bucket",
        config=f"{_HERE}.configs:NumericBucketConfig",
        factory=f"{_HERE}.numeric_bucket:NumericBucket",
        summary="A number to the id of its bucket: Criteo's floor(ln(x)^2), quantile or uniform",
        since="0.1.0",
    ),
)
