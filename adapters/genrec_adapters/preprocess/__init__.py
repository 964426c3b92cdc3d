"""Streaming preprocessing: raw rows to encoded shards, vocabularies and a manifest."""

from __future__ import annotations

from genrec_adapters.preprocess.engine import prepare
from genrec_adapters.preprocess.options import PrepareOptions, Progress

__all__ = ["PrepareOptions", "Progress", "prepare"]
