"""Finite scalar quantisation: a learned projection, rounded (Mentzer et al. 2023, arXiv 2309.15505)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from genrec_adapters.item_codes import Codes
from genrec_plugins.tokenizers.autoencoder import AutoencoderTokenizer, Doubles
from genrec_plugins.tokenizers.base import Arrays
from genrec_plugins.tokenizers.configs import FsqConfig
from genrec_plugins.tokenizers.inputs import Floats

_EPSILON = 1e-3


def bounds(levels: Sequence[int] | np.ndarray) -> tuple[Doubles, Doubles, Doubles, Doubles]:
    """What bounds a latent number z before it is rounded: ``round(tanh(z + shift) * half - offset)``.

    The result is one of ``levels`` integers around 0; an even number of them has one more below 0 than above, and the
    shift sees to it that z = 0 still becomes 0.

    Args:
        levels: values of each of the Z latent numbers.

    Returns:
        ``half``, ``offset``, ``shift``, and ``middle``, which is the integer that stands for -1: ``[Z]`` each.

    Example::

        >>> half, offset, shift, middle = bounds([3, 4])
        >>> [np.round(np.tanh(z + shift) * half - offset).tolist() for z in (-9, 0, 9)]
        [[-1.0, -2.0], [0.0, 0.0], [1.0, 1.0]]
    """
    values = np.asarray(levels, dtype=np.float64)
    half = (values - 1.0) * (1.0 + _EPSILON) / 2.0
    offset = np.where(values % 2 == 0, 0.5, 0.0)
    return half, offset, np.arctanh(offset / half), values // 2


class Fsq(AutoencoderTokenizer):
    """An autoencoder whose Z latent numbers are rounded to a few values each; a level's code is made of some of them.

    There are no codebooks, so that none can collapse. Levels stand side by side: a later one does not refine an
    earlier one.

    Args:
        config: the values of each number, grouped by level; MLPs and training.

    Example::

        >>> vectors = np.random.default_rng(0).standard_normal((64, 4)).astype(np.float32)
        >>> items = [str(row) for row in range(64)]
        >>> tokenizer = Fsq(FsqConfig(levels=((3, 3), (4,)), hidden_sizes=(8,), epochs=2))
        >>> tokenizer.fit(vectors, items)
        >>> tokenizer.codebook_sizes, tokenizer.encode(vectors, items).shape
        ((9, 4), (64, 2))
    """

    def __init__(self, config: FsqConfig) -> None:
        self.levels = np.array([values for group in config.levels for values in group])
        super().__init__(config, config.sizes, len(self.levels))
        self.config = config
        self.starts = np.cumsum([0, *(len(group) for group in config.levels[:-1])])

    def _train(self, vectors: Floats) -> Arrays:
        from genrec_plugins.tokenizers.autoencoder_training import RoundedLatents, train_autoencoder

        return train_autoencoder(vectors, self.config, self.latent_dim, RoundedLatents(tuple(self.levels.tolist())))

    def _encode(self, embeddings: Floats, item_ids: Sequence[str]) -> Codes:
        half, offset, shift, middle = bounds(self.levels)
        digits = np.round(np.tanh(self.latents(embeddings) + shift) * half - offset) + middle
        return np.add.reduceat(digits.astype(np.int32) * self._places(), self.starts, axis=1)

    def _reconstruct(self, codes: Codes) -> Floats:
        group = np.repeat(np.arange(len(self.starts)), np.diff([*self.starts, len(self.levels)]))
        digits = codes[:, group] // self._places() % self.levels
        middle = self.levels // 2
        return self.decoded((digits - middle) / middle)

    def _places(self) -> np.ndarray:
        """What a digit counts in the code of its level, ``[Z]``: the first digit of a level counts most."""
        places = [np.cumprod([1, *group[:0:-1]])[::-1] for group in self.config.levels]
        return np.concatenate(places).astype(np.int32)
