"""Options of the preprocessing that do not belong to dataset, fields or split. Imports nothing heavy."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal, Self

from pydantic import Field, model_validator

from genrec_registry.config import Config
from genrec_registry.sizes import Count


class PrepareOptions(Config):
    """How to run, and how to write.

    Example::

        >>> PrepareOptions(on_error="skip").storage
        'arrow'
    """

    on_error: Literal["stop", "skip"] = Field(
        default="stop", description="bad rows: stop at the first, or skip and count"
    )
    storage: Literal["arrow", "parquet"] = Field(
        default="arrow",
        description="arrow: memory-mapped, nothing to decode; parquet: a few times smaller, decoded each epoch",
    )
    shard_rows: Count = Field(default=1_000_000, description="rows a file")
    threads: int | None = Field(
        default=None, ge=1, le=4096, description="fields fitted at the same time; the CPU's cores if unset"
    )
    engine: Literal["local", "ray"] = Field(
        default="local", description="local: this process; ray: the workers of a Ray cluster; the result is the same"
    )
    ray_address: str | None = Field(
        default=None,
        description="host:port of a running Ray, or auto; unset: RAY_ADDRESS, or a Ray of this run's own",
    )
    part_mib: int = Field(
        default=64,
        ge=1,
        le=2**20,
        description="MiB of a file that one Ray task reads; more where that would make over 1,000 tasks",
    )
    cache_mib: int = Field(
        default=1024, ge=0, le=2**24, description="parsed rows kept in memory between the passes, if all of them fit"
    )

    @model_validator(mode="after")
    def _address_is_used(self) -> Self:
        if self.ray_address is not None and self.engine != "ray":
            raise ValueError(f"ray_address is '{self.ray_address}', but engine is 'local'; set engine to ray")
        return self

    @property
    def workers(self) -> int:
        """Threads to use."""
        return self.threads or os.cpu_count() or 1


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a run stands.

    Args:
        stage: ``count`` (only for exact splits), ``fit``, ``encode``, ``done``, or ``reused`` (nothing to do).
        rows: usable rows seen in this stage.
        total: rows this stage will see, once known.
        skipped: bad rows so far.
    """

    stage: Literal["count", "fit", "encode", "done", "reused"]
    rows: int
    total: int | None = None
    skipped: int = 0
