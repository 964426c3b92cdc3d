"""Residual k-means: each level clusters what the levels before it left over (OneRec, arXiv 2502.18965; FORGE)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from genrec_adapters.item_codes import Codes
from genrec_plugins.tokenizers.base import Arrays, BaseTokenizer
from genrec_plugins.tokenizers.configs import RqKmeansConfig
from genrec_plugins.tokenizers.inputs import Floats
from genrec_plugins.tokenizers.kmeans import fit_balanced_kmeans, fit_kmeans, with_prices
from genrec_plugins.tokenizers.nearest import nearest


class RqKmeans(BaseTokenizer):
    """Level l takes the code nearest to ``r_l`` and leaves ``r_{l+1} = r_l - C_l[c_l]``; codes add up to the item.

    With ``balanced``, a level's codes have prices that even their use out: see
    :func:`~genrec_plugins.tokenizers.kmeans.fit_balanced_kmeans`.

    Args:
        config: sizes, balance, iterations.

    Example::

        >>> vectors = np.array([[0, 0], [0, 1], [9, 0], [9, 1]], np.float32)
        >>> tokenizer = RqKmeans(RqKmeansConfig(sizes=(2, 2)))
        >>> tokenizer.fit(vectors, ["a", "b", "c", "d"])
        >>> codes = tokenizer.encode(vectors, ["a", "b", "c", "d"])
        >>> (codes[:, 0] == codes[0, 0]).tolist(), float(np.abs(tokenizer.reconstruct(codes) - vectors).max())
        ([True, True, False, False], 0.0)
    """

    def __init__(self, config: RqKmeansConfig) -> None:
        super().__init__(config.sizes)
        self.config = config

    def _fit(self, embeddings: Floats) -> Arrays:
        config, residual, arrays = self.config, embeddings, Arrays()
        for level, size in enumerate(self.sizes):
            last = level == len(self.sizes) - 1
            points, seed = config.max_points_per_code, config.seed + level
            iterations, tolerance = config.iterations, config.tolerance
            if config.balanced:
                codes, prices = fit_balanced_kmeans(
                    residual, size, iterations=iterations, tolerance=tolerance, max_points=points, seed=seed
                )
                arrays[f"prices_{level}"] = prices
            else:
                codes = fit_kmeans(
                    residual, size, iterations=iterations, tolerance=tolerance, max_points=points, seed=seed
                )
            arrays[f"codes_{level}"] = codes
            if not last:
                residual = residual - codes[self._nearly_nearest(residual, level, arrays)]
        return arrays

    def _comparable(self, residual: Floats, level: int, arrays: Arrays) -> tuple[Floats, Floats]:
        """Vectors and codes between which the least distance decides."""
        codes = arrays[f"codes_{level}"]
        return with_prices(residual, codes, arrays[f"prices_{level}"]) if self.config.balanced else (residual, codes)

    def _nearly_nearest(self, residual: Floats, level: int, arrays: Arrays) -> np.ndarray:
        """What :func:`nearest` gives, without its second look: the fit does not depend on a few ties."""
        import faiss

        _, found = faiss.knn(*self._comparable(residual, level, arrays), 1)
        return found[:, 0]

    def _encode(self, embeddings: Floats, item_ids: Sequence[str]) -> Codes:
        codes, residual = np.empty((len(embeddings), len(self.sizes)), np.int32), embeddings
        for level in range(len(self.sizes)):
            codes[:, level] = nearest(*self._comparable(residual, level, self.arrays))
            residual = residual - self.arrays[f"codes_{level}"][codes[:, level]]
        return codes

    def _reconstruct(self, codes: Codes) -> Floats:
        vectors = self.arrays["codes_0"][codes[:, 0]]
        for level in range(1, len(self.sizes)):
            vectors = vectors + self.arrays[f"codes_{level}"][codes[:, level]]
        return vectors

    def _shapes(self, width: int) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {f"codes_{level}": (size, width) for level, size in enumerate(self.sizes)}
        if self.config.balanced:
            shapes |= {f"prices_{level}": (size,) for level, size in enumerate(self.sizes)}
        return shapes
