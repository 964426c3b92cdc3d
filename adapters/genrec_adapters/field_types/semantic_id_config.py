"""Config of the field type ``semantic-id``. Imports neither numpy nor torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from genrec_adapters.field_types.configs import ColumnConfig
from genrec_registry.sizes import Layers, Rows


class SemanticIdConfig(ColumnConfig):
    """An item's semantic ID instead of its hash: the n-grams of its codes, summed to one token."""

    codes: str = Field(
        min_length=1,
        description="a directory that 'genrec tokenize fit' wrote, a codes.parquet of 'genrec tokenize encode', or a "
        "published index (item -> tokens, .json or .json.gz)",
    )
    ngrams: Literal["prefix", "level"] = Field(
        default="prefix",
        description="'prefix': the first 1, 2, ... depth codes, one row each; 'level': each code by itself",
    )
    depth: Layers | None = Field(default=None, description="levels used, from the first; all if left out")
    num_buckets: Rows | None = Field(
        default=None,
        le=2**27,
        description="hash the n-grams of a length into this many rows where more of them occur; never if left out",
    )
    seed: int = Field(default=0, ge=0, lt=2**32, description="hash: another seed gives other collisions")
    table: str = Field(
        default="", description="name of a semantic-id field with the same codes whose table is used as well"
    )
