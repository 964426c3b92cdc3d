"""Behaviour-sequence encoders: events to user tokens. Importing this loads no torch."""

from __future__ import annotations

from genrec_registry import EncoderRecord

_HERE = "genrec_plugins.encoders"


def _record(name: str, module: str, stem: str, summary: str, *aliases: str, can: set[str]) -> EncoderRecord:
    return EncoderRecord(
        name=name,
        config=f"{_HERE}.configs:{stem}Config",
        factory=f"{_HERE}.{module}:{stem}",
        summary=summary,
        aliases=aliases,
        capabilities=frozenset(can),
        since="0.1.0",
    )


RECORDS = (
    _record(
        "lum",
        "lum",
        "Lum",
        "LUM: condition and item tokens, causal transformer, group query",
        "large-user-model",
        can={"next-item", "conditional"},
    ),
    _record("hstu", "hstu", "Hstu", "HSTU: gated pointwise attention, relative positions", can={"next-item"}),
    _record("sasrec", "sasrec", "SasRec", "SASRec: causal self-attention, learned positions", can={"next-item"}),
    _record("mean-pool", "mean_pool", "MeanPool", "Mean of the events' vectors", can={"next-item"}),
    _record("din", "din", "Din", "DIN: events weighted by the target", can={"target-aware"}),
)
