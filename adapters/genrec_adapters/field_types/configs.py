"""Configs of the built-in field types. Imports neither polars nor torch: runs are validated before either is loaded."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveFloat, model_validator

from genrec_registry import Config
from genrec_registry.sizes import Count, Length, Rows, Width

Missing = Literal["value", "own", "oov"]
TimestampFormat = Literal["epoch-seconds", "epoch-milliseconds", "iso", "yymmddhh"]
TimestampPart = Literal["hour", "weekday", "weekend", "cyclic"]
KnowledgePart = Literal["vectors", "similarities", "item-vector"]

_COLUMN = "raw column; the field's own name if left out"


class ColumnConfig(Config):
    """Base of the types that read one column."""

    column: str | None = Field(default=None, min_length=1, description=_COLUMN)


class ValuesConfig(Config):
    """Base of the types whose values become ids: a vocabulary learned from the data, or a hash."""

    mode: Literal["vocabulary", "hash"] = Field(
        default="vocabulary", description="'vocabulary' learns the values from the training rows; 'hash' learns nothing"
    )
    min_count: Count = Field(
        default=1, description="vocabulary: a value seen fewer times than this is out of vocabulary (id 0)"
    )
    max_size: Rows | None = Field(
        default=None, description="vocabulary: keep this many of the most frequent values; all if left out"
    )
    num_buckets: Rows | None = Field(
        default=None, description="hash: number of buckets; needed by mode 'hash' and by no other"
    )
    seed: int = Field(default=0, ge=0, lt=2**63, description="hash: another seed gives other collisions")

    @model_validator(mode="after")
    def _mode_fits(self) -> Self:
        if self.mode == "hash" and self.num_buckets is None:
            raise ValueError("mode 'hash' needs num_buckets; set it, or use mode 'vocabulary'")
        if self.mode == "vocabulary" and self.num_buckets is not None:
            raise ValueError("num_buckets goes with mode 'hash'; use max_size to bound a vocabulary")
        return self


class IdConfig(ValuesConfig):
    """Base of the types whose ids may look up another field's table."""

    table: str = Field(
        default="",
        description="hash: name of the field whose embedding table is used as well; both must be hashed into tables "
        "of one size with one seed. The field's own table if left out",
    )

    @model_validator(mode="after")
    def _table_fits(self) -> Self:
        if self.mode == "vocabulary" and self.table:
            raise ValueError("table goes with mode 'hash': ids of two vocabularies do not mean the same")
        return self


class CategoricalConfig(ColumnConfig, IdConfig):
    """One id a row from a text or integer column."""

    missing: Missing = Field(
        default="value",
        description="null or empty text: 'value' makes it an ordinary value, subject to min_count (as BARS does); "
        "'own' gives it an id of its own, always; 'oov' gives it id 0",
    )


class CrossConfig(IdConfig):
    """One id a row from the pair of two columns' values."""

    columns: tuple[str, str] = Field(description="the two raw columns")


class DynamicIdConfig(ColumnConfig):
    """One id a row whose values need not be known beforehand: a table of fixed size, given out while training."""

    rows: Rows = Field(ge=2, description="rows of the table; the last is shared by ids that have none")
    eviction: Literal["lru", "lfu", "distance-lfu"] = Field(
        default="lru",
        description="which ids lose their row when there are more: 'lru' those not seen for longest; 'lfu' those seen "
        "least often; 'distance-lfu' by count over time since last seen",
    )
    interval: Count = Field(
        default=1, description="steps between two times of giving out rows; larger is faster, and admits ids later"
    )
    seed: int = Field(default=0, ge=0, lt=2**63, description="of the hash of the values")


class IdListConfig(ColumnConfig, IdConfig):
    """Base of the types that read several ids a row."""

    separator: str | None = Field(
        default=None, min_length=1, description="splits a text column; a list column is expected if left out"
    )
    max_length: Length = Field(default=32, ge=2, description="ids kept a row")
    pooling: Literal["sum", "mean"] = Field(default="mean", description="how the ids' vectors become one token")


class MultiHotConfig(IdListConfig):
    """A set of ids a row, the first max_length of them kept."""


class SequenceConfig(IdListConfig):
    """Ids in time order a row, the last max_length of them kept."""

    max_length: Length = Field(default=50, ge=2, description="ids kept a row: the last ones, in order")


class NumericBucketConfig(ColumnConfig):
    """A number to the id of its bucket."""

    method: Literal["criteo", "quantile", "uniform"] = Field(
        default="criteo",
        description="'criteo': floor(ln(x)^2) if x > 2, else x cut to an integer, each result one vocabulary value; "
        "'quantile': buckets of equal counts; 'uniform': buckets of equal width between the smallest and largest value",
    )
    num_buckets: int = Field(default=32, ge=2, le=65536, description="quantile and uniform: number of buckets")
    min_count: Count = Field(
        default=1, description="criteo: a bucket with fewer rows than this is out of vocabulary (id 0)"
    )
    fill_na: float | None = Field(
        default=None, description="number that takes a missing value's place (BARS: 0); its own bucket if left out"
    )


class NumericDenseConfig(ColumnConfig):
    """A number to a token: its own direction in the embedding space, scaled by the transformed number."""

    transform: Literal["standardise", "log1p", "log1p-standardise", "none"] = Field(
        default="standardise",
        description="'standardise': (x - mean) / standard deviation; 'log1p': sign(x) ln(1 + |x|); "
        "'log1p-standardise': the one after the other; 'none': x itself",
    )
    clip: PositiveFloat | None = Field(default=None, description="bound on the transformed number's absolute value")
    missing_indicator: bool = Field(
        default=True,
        description="a second float tells missing numbers from average ones; without it there is one float a field, as "
        "the dense arch of a stock DLRM expects",
    )


class NumericEmbeddingConfig(ColumnConfig):
    """A number to a token through a learned embedding of its place in the distribution."""

    method: Literal["piecewise-linear", "autodis"] = Field(
        default="piecewise-linear",
        description="'piecewise-linear': piecewise linear encoding over quantile bins; 'autodis': soft discretisation",
    )
    num_bins: int = Field(
        default=16, ge=1, le=4096, description="piecewise-linear: quantile bins; autodis: meta-embeddings"
    )
    temperature: PositiveFloat = Field(default=1.0, description="autodis: temperature of the softmax over the bins")
    skip: float = Field(default=0.1, ge=0.0, description="autodis: weight of the skip connection")


class TimestampConfig(ColumnConfig):
    """Calendar parts of a moment."""

    format: TimestampFormat = Field(
        default="iso",
        description="'iso': 2014-10-21 00:00:00 or with a T (the clock as written; a zone is not applied); "
        "'epoch-seconds', 'epoch-milliseconds': a number; 'yymmddhh': 14102100 (Avazu)",
    )
    parts: tuple[TimestampPart, ...] = Field(
        default=("hour", "weekday", "weekend"),
        min_length=1,
        description="'hour', 'weekday', 'weekend': one token each from a table; 'cyclic': one token from sine and "
        "cosine of the time of day and of the week",
    )
    utc_offset_hours: float = Field(
        default=0.0, ge=-14, le=14, description="epoch formats: hours added to UTC to get the local clock"
    )

    @model_validator(mode="after")
    def _parts_once(self) -> Self:
        if len(set(self.parts)) != len(self.parts):
            raise ValueError(f"parts names one part twice: {', '.join(self.parts)}; name each once")
        return self


class TextHashConfig(ColumnConfig):
    """Words and character n-grams of a text, hashed."""

    num_buckets: Rows = Field(default=100_000, description="number of hash buckets")
    words: bool = Field(default=True, description="hash each lower-cased word")
    ngrams: tuple[Annotated[int, Field(ge=1, le=1000)], ...] = Field(
        default=(), max_length=100, description="lengths of the character n-grams hashed too; a word is read as <word>"
    )
    max_length: Length = Field(default=64, ge=2, description="hashes kept a row: the first ones")
    seed: int = Field(default=0, ge=0, lt=2**63, description="another seed gives other collisions")

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.words and not self.ngrams:
            raise ValueError("words is off and ngrams is empty, so that no text has a token; turn one of them on")
        return self


class VectorConfig(ColumnConfig):
    """A list column of a fixed number of floats, such as a pre-trained embedding."""

    width: Width = Field(description="floats a row")
    normalise: bool = Field(default=False, description="scale each row to length 1")


class AttributeConfig(Config):
    """One more feature of an item: columns of the row, or a column of a table of items."""

    target: str | None = Field(default=None, min_length=1, description="column of the target's value")
    history: str | None = Field(
        default=None, min_length=1, description="list column of the values of the history's items"
    )
    items: str | None = Field(
        default=None,
        min_length=1,
        description="instead of both: a Parquet table with a column 'item', as a pre-training run's catalogue.parquet",
    )
    column: str | None = Field(
        default=None, min_length=1, description="the table's column; the attribute's name if left out"
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        columns = self.target is not None and self.history is not None
        if columns == (self.items is not None) or (self.target is None) != (self.history is None):
            raise ValueError("an attribute has 'target' and 'history', or 'items'; give the one or the other")
        if self.column is not None and self.items is None:
            raise ValueError("column goes with 'items': it names the table's column")
        return self


class BehaviourConfig(ValuesConfig):
    """A user's past events and the item at hand, kept one by one for a sequence encoder (``model.encoder``)."""

    item: str = Field(default="item", min_length=1, description="column of the target, the item the row is about")
    history: str = Field(
        default="history_item", min_length=1, description="list column of the items before it, oldest first"
    )
    conditions: tuple[str, ...] = Field(
        default=(),
        description="list columns that say under what condition each item of the history came; 'history_action' is "
        "called 'action' by the encoder. Their vocabularies hold all values",
    )
    attributes: dict[str, AttributeConfig] = Field(
        default_factory=dict, description="further item features: name -> where its values stand"
    )
    separator: str | None = Field(
        default=None, min_length=1, description="splits text columns; list columns are expected if left out"
    )
    max_length: Length = Field(default=50, ge=2, description="events kept a row: the last ones, in order")

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = ["item", *self.attributes, *(condition_name(column) for column in self.conditions)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two features of an event are called '{twice[0]}'; rename the attribute or the column")
        return self


def condition_name(column: str) -> str:
    """What a condition is called by the encoder.

    Example::

        >>> condition_name("history_action"), condition_name("scene")
        ('action', 'scene')
    """
    return column.removeprefix("history_") or column


class LumKnowledgeConfig(Config):
    """What a user model knows of the row's user and item, from a store that ``genrec lum query`` wrote."""

    store: str = Field(min_length=1, description="the store's directory")
    user: str = Field(default="user", min_length=1, description="column of the row's user")
    item: str = Field(default="item", min_length=1, description="column of the row's item")
    time: str = Field(
        default="time",
        min_length=1,
        description="column of the row's time: a row gets knowledge made from events strictly before it",
    )
    parts: tuple[KnowledgePart, ...] = Field(
        default=("vectors", "similarities", "item-vector"),
        min_length=1,
        description="'vectors': one token a query, what the user wants under it; 'similarities': one token a query, "
        "how well that goes with the item; 'item-vector': one token, the item as the user model sees it",
    )
    queries: tuple[str, ...] | None = Field(
        default=None, min_length=1, description="queries of the store that are used; all if left out"
    )
    normalise: bool = Field(default=True, description="scale every vector to a root mean square of 1")
    standardise: bool = Field(
        default=True, description="similarities: subtract the training rows' mean, divide by their standard deviation"
    )
    weights: Literal["past", "any"] = Field(
        default="past",
        description="'past' refuses validation and test rows from the time the user model's weights were trained on; "
        "'any' takes them, and the result must say so",
    )

    @model_validator(mode="after")
    def _parts_once(self) -> Self:
        for name, values in (("parts", self.parts), ("queries", self.queries or ())):
            if len(set(values)) != len(values):
                raise ValueError(f"{name} names one twice: {', '.join(values)}; name each once")
        return self
