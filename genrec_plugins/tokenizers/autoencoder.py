"""Autoencoder tokenizers without torch: what RQ-VAE and FSQ do with trained MLPs.

Only the training needs torch (see ``autoencoder_training``). Encoding runs in float64: there a matrix product still
rounds differently for one row and for a thousand, but by so little that no code depends on it.
"""

from __future__ import annotations

from abc import abstractmethod
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from genrec_plugins.tokenizers.base import Arrays, BaseTokenizer
from genrec_plugins.tokenizers.configs import AutoencoderConfig
from genrec_plugins.tokenizers.inputs import Floats

Doubles = npt.NDArray[np.float64]


def mlp(arrays: Arrays, name: str, inputs: npt.NDArray[np.floating]) -> Doubles:
    """A trained MLP with ReLUs between its layers, ``[N, D_in] -> [N, D_out]``, in float64.

    Args:
        arrays: layer i is ``{name}_{i}_weight`` ``[D_out, D_in]`` and ``{name}_{i}_bias``.
        name: which MLP.
        inputs: the rows.

    Example::

        >>> layer = {"encoder_0_weight": np.array([[2.0, 0.0]]), "encoder_0_bias": np.array([1.0])}
        >>> mlp(layer, "encoder", np.array([[3.0, 9.0]])).tolist()
        [[7.0]]
    """
    hidden, layer = inputs.astype(np.float64), 0
    while f"{name}_{layer}_weight" in arrays:
        if layer:
            hidden = np.maximum(hidden, 0.0)
        hidden = hidden @ arrays[f"{name}_{layer}_weight"].T.astype(np.float64) + arrays[f"{name}_{layer}_bias"]
        layer += 1
    return hidden


class AutoencoderTokenizer(BaseTokenizer):
    """A tokenizer between a trained encoder and a trained decoder.

    Embeddings are centred, and scaled as a whole to unit variance, before they are encoded.

    Args:
        config: the MLPs and their training.
        sizes: codes of each level.
        latent_dim: Z.
    """

    def __init__(self, config: AutoencoderConfig, sizes: tuple[int, ...], latent_dim: int) -> None:
        super().__init__(sizes)
        self.autoencoder = config
        self.latent_dim = latent_dim

    def _fit(self, embeddings: Floats) -> Arrays:
        center = embeddings.mean(axis=0, dtype=np.float64).astype(np.float32)
        scale = np.float32(max(float(np.sqrt(np.square(embeddings - center).mean(dtype=np.float64))), 1e-12))
        learned = self._train((embeddings - center) / scale)
        return {"center": center, "scale": scale.reshape(1), **learned}

    @abstractmethod
    def _train(self, vectors: Floats) -> Arrays:
        """Train on standardised embeddings."""

    def latents(self, embeddings: Floats) -> Doubles:
        """What the encoder makes of embeddings, ``[N, E] -> [N, Z]``."""
        vectors = (embeddings.astype(np.float64) - self.arrays["center"]) / self.arrays["scale"]
        return mlp(self.arrays, "encoder", vectors)

    def decoded(self, latents: npt.NDArray[np.floating]) -> Floats:
        """What the decoder makes of latent vectors, ``[N, Z] -> [N, E]``."""
        vectors = mlp(self.arrays, "decoder", latents) * self.arrays["scale"] + self.arrays["center"]
        return vectors.astype(np.float32)

    def _shapes(self, width: int) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {"center": (width,), "scale": (1,)}
        widths = (width, *self.autoencoder.hidden_sizes, self.latent_dim)
        for name, sizes in (("encoder", widths), ("decoder", widths[::-1])):
            for layer, (fan_in, fan_out) in enumerate(pairwise(sizes)):
                shapes |= {f"{name}_{layer}_weight": (fan_out, fan_in), f"{name}_{layer}_bias": (fan_out,)}
        return shapes
