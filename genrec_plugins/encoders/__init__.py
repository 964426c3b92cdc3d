"""Behaviour-sequence encoders: events to user tokens. Importing this loads no torch."""

from __future__ import annotations

from genrec_registry import EncoderRecord

RECORDS: tuple[EncoderRecord, ...] = ()
