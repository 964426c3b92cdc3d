"""Streaming preprocessing: raw rows to encoded shards, vocabularies and a manifest.

``prepare`` is loaded on first use, so that its options can be read without polars.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from genrec_adapters.preprocess.options import PrepareOptions, Progress

if TYPE_CHECKING:
    from genrec_adapters.preprocess.engine import prepare

__all__ = ["PrepareOptions", "Progress", "prepare"]


def __getattr__(name: str) -> Any:
    if name != "prepare":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from genrec_adapters.preprocess.engine import prepare

    return prepare
