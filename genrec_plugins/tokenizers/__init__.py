"""Semantic-ID tokenizers: item embeddings to short tuples of codes. Importing this loads neither numpy nor torch."""

from __future__ import annotations

from genrec_registry import TokenizerRecord

_HERE = "genrec_plugins.tokenizers"


def _record(name: str, module: str, config: str, factory: str, summary: str, *aliases: str) -> TokenizerRecord:
    return TokenizerRecord(
        name=name,
        config=f"{_HERE}.configs:{config}",
        factory=f"{_HERE}.{module}:{factory}",
        summary=summary,
        aliases=aliases,
        since="0.1.0",
    )


RECORDS: tuple[TokenizerRecord, ...] = (
    _record("rq-kmeans", "rq_kmeans", "RqKmeansConfig", "RqKmeans", "Residual k-means, plain or balanced", "rqkmeans"),
    _record(
        "rq-vae", "rq_vae", "RqVaeConfig", "RqVae", "RQ-VAE: autoencoder with a residual-quantised latent", "rqvae"
    ),
    _record("opq", "opq", "OpqConfig", "Opq", "OPQ: learned rotation, then k-means on slices"),
    _record("fsq", "fsq", "FsqConfig", "Fsq", "FSQ: autoencoder whose latent numbers are rounded"),
    _record("hash", "baselines", "HashConfig", "HashCodes", "Baseline: digits of a hash of the item's id"),
    _record("random", "baselines", "RandomConfig", "RandomCodes", "Baseline: a seeded draw for each item and level"),
)
