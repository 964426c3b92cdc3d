"""Built-in interaction archs: records only, so that importing this package imports no torch."""

from __future__ import annotations

from genrec_registry import InteractionRecord

_HERE = "genrec_plugins.interactions"


def _record(
    name: str, module: str, config: str, factory: str, summary: str, *aliases: str, embedding_dim: str | None = None
) -> InteractionRecord:
    return InteractionRecord(
        name=name,
        config=f"{_HERE}.configs:{config}",
        factory=f"{_HERE}.{module}:{factory}",
        summary=summary,
        aliases=aliases,
        embedding_dim=embedding_dim,
        since="0.1.0",
    )


_PAIR_DIM = f"{_HERE}.configs:pair_embedding_dim"

RECORDS = (
    InteractionRecord(
        name="fat",
        config=f"{_HERE}.fat_config:FatConfig",
        factory=f"{_HERE}.fat:Fat",
        summary="FAT: field-aware attention and FFN with pair-wise modulation",
        aliases=("field-aware-transformer",),
        since="0.1.0",
    ),
    _record("dot", "dot", "DotConfig", "DotInteraction", "DLRM: dot products of all token pairs"),
    _record("dcn", "dcn", "DcnConfig", "DcnInteraction", "DCNv2: cross network, low-rank or full", "dcn-v2"),
    _record(
        "projection",
        "projection",
        "ProjectionConfig",
        "ProjectionInteraction",
        "DLRM_Projection: two branches, product",
    ),
    _record("mlp", "mlp", "MlpConfig", "NoInteraction", "No interaction: flattened tokens", "none"),
    _record(
        "transformer",
        "transformer",
        "TransformerConfig",
        "TransformerInteraction",
        "Pre-norm encoder over one row's tokens",
    ),
    _record("autoint", "autoint", "AutoIntConfig", "AutoIntInteraction", "AutoInt: self-attention between fields"),
    _record("fm", "fm", "FmConfig", "FmInteraction", "FM: sum of all pair products (DeepFM if deep)"),
    _record("fwfm", "fwfm", "FwfmConfig", "FwfmInteraction", "FwFM: one weight for each field pair"),
    _record("fmfm", "fmfm", "FmfmConfig", "FmfmInteraction", "FmFM: one matrix for each field pair"),
    _record(
        "ffm", "ffm", "FfmConfig", "FfmInteraction", "FFM: an embedding toward each field", embedding_dim=_PAIR_DIM
    ),
    _record(
        "onn",
        "onn",
        "OnnConfig",
        "OnnInteraction",
        "ONN: FFM's products and own slices",
        "nffm",
        embedding_dim=_PAIR_DIM,
    ),
    _record(
        "final-mlp",
        "final_mlp",
        "FinalMlpConfig",
        "FinalMlpInteraction",
        "FinalMLP: two gated streams, bilinear fusion",
    ),
    _record("masknet", "masknet", "MaskNetConfig", "MaskNetInteraction", "MaskNet: instance-guided mask blocks"),
    _record("wukong", "wukong", "WukongConfig", "WukongInteraction", "Wukong: stacked factorization machines"),
    _record(
        "rankmixer",
        "rankmixer",
        "RankMixerConfig",
        "RankMixerInteraction",
        "RankMixer: token mixing, per-token networks",
    ),
)
