"""Behaviour-sequence encoders: events to user tokens. Importing this loads no torch."""

from __future__ import annotations

from genrec_registry import EncoderRecord

_HERE = "genrec_plugins.encoders"
_NEXT_ITEM = frozenset({"next-item"})

RECORDS = (
    EncoderRecord(
        name="lum",
        config=f"{_HERE}.configs:LumConfig",
        factory=f"{_HERE}.lum:Lum",
        summary="LUM: condition and item tokens under a causal transformer, group query",
        aliases=("large-user-model",),
        capabilities=_NEXT_ITEM | {"conditional"},
        since="0.1.0",
    ),
)
