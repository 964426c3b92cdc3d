"""Settings of ``genrec serve``. Torch-free."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from genrec_registry import Config

# bounds that nobody meets: see genrec_registry.sizes
_ROWS, _OPEN, _DAY = 100_000_000, 1_000_000, 86_400.0


class ServeSettings(Config):
    """How a model is served.

    Example::

        >>> ServeSettings(batch_rows=64).batch_wait_ms
        2.0
    """

    max_body_bytes: int = Field(
        default=8 * 2**20, ge=1, le=2**40, description="longest request body; a longer one gets 413"
    )
    max_request_rows: int = Field(default=4096, ge=1, le=_ROWS, description="rows of one request; more get 422")
    batch_rows: int = Field(
        default=512,
        ge=1,
        le=_ROWS,
        description="rows that requests are gathered to, to be scored together; 1 turns it off",
    )
    batch_wait_ms: float = Field(
        default=2.0,
        ge=0,
        le=60_000,
        description="longest time that a request waits for others which are already being read",
    )
    queue_rows: int = Field(default=8192, ge=1, le=_ROWS, description="rows that may wait; beyond it, requests get 503")
    max_requests: int = Field(default=256, ge=1, le=_OPEN, description="requests in the house at once; beyond it, 503")
    refusal_wait_ms: float = Field(
        default=100.0,
        ge=0,
        le=60_000,
        description="a 503 is held back so long: clients that ask again at once would take the processor",
    )
    max_pending_bytes: int = Field(
        default=64 * 2**20, ge=1, le=2**40, description="bytes of all bodies in the house at once; beyond it, 503"
    )
    max_connections: int = Field(default=4096, ge=1, le=_OPEN, description="open connections; beyond it, 503")
    deadline_seconds: float = Field(
        default=5.0,
        gt=0,
        le=_DAY,
        description="a request is answered within it: 408 if its body did not come, 504 otherwise",
    )
    watch_seconds: float = Field(
        default=2.0,
        ge=0,
        le=_DAY,
        description="how often to look for a new export; 0 looks only when asked to (POST /reload)",
    )
    grace_seconds: float = Field(
        default=30.0, gt=0, le=_DAY, description="after SIGTERM, how long requests in flight may take to finish"
    )
    knowledge: str = Field(
        default="lmdb",
        description="where lum-knowledge fields read: 'lmdb' (built in the user's cache folder at first use), "
        "'lmdb:FOLDER' (built there), 'memory' (the whole Parquet store), or redis://HOST:PORT/DB, which "
        "'genrec knowledge load' fills",
    )
    threads: int = Field(default=1, ge=1, le=4096, description="threads of the model's operators")

    @model_validator(mode="after")
    def _known_way(self) -> Self:
        way = self.knowledge
        if way not in ("lmdb", "memory") and not way.startswith(("lmdb:", "redis://", "rediss://", "unix://")):
            raise ValueError(f"knowledge is '{way}', expected lmdb, lmdb:FOLDER, memory or redis://HOST:PORT/DB")
        if self.max_pending_bytes < self.max_body_bytes:
            raise ValueError(
                f"max_pending_bytes is {self.max_pending_bytes}, less than one body of max_body_bytes "
                f"{self.max_body_bytes}; raise it"
            )
        if self.queue_rows < self.max_request_rows:
            raise ValueError(
                f"queue_rows is {self.queue_rows}, less than one request of max_request_rows {self.max_request_rows}; "
                "raise it"
            )
        return self
