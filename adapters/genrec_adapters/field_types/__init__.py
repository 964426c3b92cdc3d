"""Built-in field types: each a record whose config and factory are imported on first use."""

from __future__ import annotations

from genrec_registry import FieldTypeRecord


def _record(name: str, config: str, factory: str, summary: str, tokens: str | None = None) -> FieldTypeRecord:
    here = "genrec_adapters.field_types"
    return FieldTypeRecord(
        name=name,
        config=f"{here}.configs:{config}",
        factory=f"{here}.{factory}",
        token_module=f"{here}.tokens:{tokens}" if tokens else None,
        summary=summary,
        since="0.1.0",
    )


RECORDS: tuple[FieldTypeRecord, ...] = (
    _record(
        "behaviour",
        "BehaviourConfig",
        "behaviour:Behaviour",
        "Past events and the item at hand, unpooled, for a sequence encoder",
    ),
    _record(
        "categorical",
        "CategoricalConfig",
        "categorical:Categorical",
        "One id a row: a vocabulary with min_count and out-of-vocabulary id, or a hash",
    ),
    _record("cross", "CrossConfig", "categorical:Cross", "One id a row for the pair of two columns' values"),
    _record(
        "dynamic-id",
        "DynamicIdConfig",
        "dynamic_id:DynamicId",
        "One id a row without a vocabulary: rows are given out and taken back while the model trains (ZCH)",
    ),
    _record(
        "lum-knowledge",
        "LumKnowledgeConfig",
        "lum_knowledge:LumKnowledge",
        "What a user model knows of user and item: vectors and similarities from a knowledge store",
        tokens="projected",
    ),
    _record("multi-hot", "MultiHotConfig", "id_lists:MultiHot", "A set of ids a row, pooled to one token"),
    _record(
        "numeric-bucket",
        "NumericBucketConfig",
        "numeric_bucket:NumericBucket",
        "A number to the id of its bucket: Criteo's floor(ln(x)^2), quantile or uniform",
    ),
    _record(
        "numeric-dense",
        "NumericDenseConfig",
        "numeric_dense:NumericDense",
        "A number, standardised or log1p, to a token by a projection of its own",
        tokens="projected",
    ),
    _record(
        "numeric-embedding",
        "NumericEmbeddingConfig",
        "numeric_embedding:NumericEmbedding",
        "A number to a token by piecewise linear encoding or AutoDis",
        tokens="numeric_embeddings",
    ),
    FieldTypeRecord(
        name="semantic-id",
        config="genrec_adapters.field_types.semantic_id_config:SemanticIdConfig",
        factory="genrec_adapters.field_types.semantic_id:SemanticId",
        summary="An item's semantic ID in place of its hash: n-grams of its codes, summed to one token",
        since="0.1.0",
    ),
    _record("sequence", "SequenceConfig", "id_lists:Sequence", "Ids in time order, the last max_length of them"),
    _record("text-hash", "TextHashConfig", "text_hash:TextHash", "Words and character n-grams of a text, hashed"),
    _record(
        "timestamp",
        "TimestampConfig",
        "timestamp:Timestamp",
        "Hour, weekday, weekend and cyclic features of a moment",
        tokens="projected",
    ),
    _record(
        "vector",
        "VectorConfig",
        "vector:Vector",
        "A list column of a fixed number of floats, projected to one token",
        tokens="projected",
    ),
)
