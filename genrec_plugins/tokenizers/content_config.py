"""Configs of the sources of item content. Imports neither numpy nor torch."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveFloat, model_validator

from genrec_registry import Config
from genrec_registry.sizes import Count, Length, Rows, Width

Empty = Literal["error", "zeros"]
_SEED = Field(default=0, ge=0, lt=2**31, description="of the random start of the SVD")


class Source(Config):
    """What all sources share: one vector an item, of length 1 times ``weight``."""

    weight: PositiveFloat = Field(default=1.0, description="length of this source's part of an embedding")


class TextSource(Source):
    """What sources of text share."""

    columns: tuple[str, ...] = Field(
        default=("text",), min_length=1, description="text columns of the items, read one after the other"
    )
    categories: bool = Field(default=True, description="read the items' categories, too")
    empty: Empty = Field(
        default="error", description="an item without any text: stop and name it, or give it the zero vector"
    )


class TfidfSource(TextSource):
    """Hashed words and categories, weighted by TF-IDF, to few dimensions by a truncated SVD."""

    type: Literal["tfidf"] = "tfidf"
    dim: Width = Field(default=128, description="dimensions; fewer where items or words are")
    words: int = Field(default=2, ge=1, le=5, description="count runs of 1 to this many words")
    num_buckets: Rows = Field(default=2**18, le=2**30, description="words are hashed into this many buckets")
    min_items: Count = Field(default=2, description="leave out words that stand in fewer items")
    seed: int = _SEED


class SentenceEncoderSource(TextSource):
    """A small sentence encoder (all-MiniLM-L6-v2, 384 dimensions) that comes with the extra [text], without network."""

    type: Literal["sentence-encoder"] = "sentence-encoder"
    max_tokens: int = Field(default=128, ge=1, le=512, description="word pieces read of an item; the rest is cut off")
    batch_size: Count = Field(default=32, description="items a forward")


class CoOccurrenceSource(Source):
    """Items that stand near each other in histories: positive pointwise mutual information, then an SVD.

    With what Levy, Goldberg and Dagan (TACL 2015) found good: smoothed context counts (section 3.2), square roots of
    the singular values, and item and context vectors added up (section 3.3). An item without events has the zero
    vector.
    """

    type: Literal["co-occurrence"] = "co-occurrence"
    dim: Width = Field(default=64, description="dimensions; fewer where items are")
    window: Length = Field(default=5, description="two events of a user count if they are at most this far apart")
    smoothing: float = Field(default=0.75, gt=0, le=1, description="exponent of the context items' counts")
    shift: PositiveFloat = Field(default=1.0, description="log(shift) is subtracted from the mutual information")
    empty: Empty = Field(
        default="zeros", description="an item that stands near no other: give it the zero vector, or stop and name it"
    )
    seed: int = _SEED


class TableSource(Source):
    """Ready embeddings from a file, looked up by item id."""

    type: Literal["table"] = "table"
    path: str = Field(
        min_length=1,
        description="Parquet with the columns item and embedding (a list of floats), or .npy of [N, E] floats",
    )
    ids: str | None = Field(default=None, description=".npy: text file with the item id of each row, one a line")
    empty: Empty = Field(default="error", description="an item that is not in the file: stop, or the zero vector")

    @model_validator(mode="after")
    def _npy_needs_ids(self) -> Self:
        if self.path.endswith(".npy") == (self.ids is None):
            raise ValueError("'ids' goes with a path that ends in .npy, and such a path needs it; mend one of the two")
        return self


ContentSource = Annotated[
    TfidfSource | SentenceEncoderSource | CoOccurrenceSource | TableSource, Field(discriminator="type")
]
