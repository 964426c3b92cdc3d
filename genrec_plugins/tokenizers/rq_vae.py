"""RQ-VAE: an autoencoder whose latent vector is quantised level by level (TIGER, arXiv 2305.05065, 3.1)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from genrec_adapters.item_codes import Codes
from genrec_plugins.tokenizers.autoencoder import AutoencoderTokenizer
from genrec_plugins.tokenizers.base import Arrays
from genrec_plugins.tokenizers.configs import RqVaeConfig
from genrec_plugins.tokenizers.inputs import Floats
from genrec_plugins.tokenizers.nearest import nearest


class RqVae(AutoencoderTokenizer):
    """Codes of the latent vector z: level l takes the code nearest to ``r_l`` and leaves ``r_{l+1} = r_l - C_l[c_l]``.

    What keeps codebooks from collapsing: latents of unit variance to begin with, k-means of the first batch as the
    first codes, and codes that an epoch hardly used are put on items again.

    Args:
        config: sizes, latent width, losses, MLPs and training.

    Example::

        >>> vectors = np.random.default_rng(0).standard_normal((64, 4)).astype(np.float32)
        >>> items = [str(row) for row in range(64)]
        >>> tokenizer = RqVae(RqVaeConfig(sizes=(8, 4), latent_dim=3, hidden_sizes=(8,), epochs=2))
        >>> tokenizer.fit(vectors, items)
        >>> codes = tokenizer.encode(vectors, items)
        >>> codes.shape, tokenizer.reconstruct(codes).shape
        ((64, 2), (64, 4))
    """

    def __init__(self, config: RqVaeConfig) -> None:
        super().__init__(config, config.sizes, config.latent_dim)
        self.config = config

    def _train(self, vectors: Floats) -> Arrays:
        from genrec_plugins.tokenizers.autoencoder_training import ResidualCodes, train_autoencoder

        config = self.config
        codes = ResidualCodes(self.sizes, self.latent_dim, config.commitment, config.restart_below, config.seed)
        first_rows = 8 * max(self.sizes)  # k-means needs several items a code
        return train_autoencoder(vectors, config, self.latent_dim, codes, first_rows) | codes.arrays()

    def _encode(self, embeddings: Floats, item_ids: Sequence[str]) -> Codes:
        codes = np.empty((len(embeddings), len(self.sizes)), np.int32)
        residual = self.latents(embeddings).astype(np.float32)
        for level in range(len(self.sizes)):
            codes[:, level] = nearest(residual, self.arrays[f"codes_{level}"])
            residual = residual - self.arrays[f"codes_{level}"][codes[:, level]]
        return codes

    def _reconstruct(self, codes: Codes) -> Floats:
        parts = [self.arrays[f"codes_{level}"][codes[:, level]] for level in range(len(self.sizes))]
        return self.decoded(np.sum(parts, axis=0))

    def _shapes(self, width: int) -> dict[str, tuple[int, ...]]:
        codes: dict[str, tuple[int, ...]] = {
            f"codes_{level}": (size, self.latent_dim) for level, size in enumerate(self.sizes)
        }
        return super()._shapes(width) | codes
