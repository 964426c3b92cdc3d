"""Semantic-ID tokenizers: item embeddings to short tuples of codes. Importing this loads neither numpy nor torch."""

from __future__ import annotations

from genrec_registry import TokenizerRecord

RECORDS: tuple[TokenizerRecord, ...] = ()
