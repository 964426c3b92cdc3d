"""Optimised product quantisation: a learned rotation, then k-means on slices (Ge et al., CVPR 2013)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from genrec_adapters.item_codes import Codes
from genrec_plugins.tokenizers.base import Arrays, BaseTokenizer
from genrec_plugins.tokenizers.configs import OpqConfig
from genrec_plugins.tokenizers.inputs import Floats
from genrec_plugins.tokenizers.kmeans import fit_kmeans
from genrec_plugins.tokenizers.nearest import nearest


class Opq(BaseTokenizer):
    """``y = R x`` is cut into L slices of equal width; level l is the nearest code of slice l.

    Levels stand side by side: a later one does not refine an earlier one. A width that L does not divide is filled up
    with zeros.

    Args:
        config: sizes, rotation, iterations.

    Example::

        >>> vectors = np.random.default_rng(0).standard_normal((64, 5)).astype(np.float32)
        >>> items = [str(row) for row in range(64)]
        >>> tokenizer = Opq(OpqConfig(sizes=(8, 4)))
        >>> tokenizer.fit(vectors, items)
        >>> codes = tokenizer.encode(vectors, items)
        >>> codes.shape, tokenizer.reconstruct(codes).shape
        ((64, 2), (64, 5))
    """

    def __init__(self, config: OpqConfig) -> None:
        super().__init__(config.sizes)
        self.config = config

    def _fit(self, embeddings: Floats) -> Arrays:
        most = max(self.sizes) * self.config.max_points_per_code
        if len(embeddings) > most:
            sample = np.random.default_rng(self.config.seed).choice(len(embeddings), most, replace=False)
            embeddings = embeddings[np.sort(sample)]
        padded = self._padded(embeddings)
        arrays = {"rotation": self._rotation(padded)} if self.config.rotation else Arrays()
        for level, part in enumerate(self._slices(padded, arrays)):
            arrays[f"codes_{level}"] = fit_kmeans(
                part,
                self.sizes[level],
                iterations=self.config.iterations,
                max_points=self.config.max_points_per_code,
                seed=self.config.seed + level,
            )
        return arrays

    def _rotation(self, padded: Floats) -> Floats:
        """faiss's OPQ rotation ``[E', E']``; its slices have equal codebooks, of the smallest size's whole bits."""
        import faiss

        width, levels = padded.shape[1], len(self.sizes)
        bits = max(1, min(self.sizes).bit_length() - 1)
        quantizer = faiss.ProductQuantizer(width, levels, bits)
        quantizer.cp.min_points_per_centroid = 1
        matrix = faiss.OPQMatrix(width, levels)
        matrix.niter, matrix.pq = self.config.rotation_iterations, quantizer
        matrix.max_train_points = len(padded)
        matrix.train(padded)
        return faiss.vector_float_to_array(matrix.A).reshape(width, width).astype(np.float32)

    def _padded(self, embeddings: Floats) -> Floats:
        return np.pad(embeddings, ((0, 0), (0, -embeddings.shape[1] % len(self.sizes))))

    def _slices(self, padded: Floats, arrays: Arrays) -> list[Floats]:
        if "rotation" in arrays:  # in float64, so that the result does not depend on how many rows are rotated at once
            padded = (padded.astype(np.float64) @ arrays["rotation"].T.astype(np.float64)).astype(np.float32)
        return [np.ascontiguousarray(part) for part in np.split(padded, len(self.sizes), axis=1)]

    def _encode(self, embeddings: Floats, item_ids: Sequence[str]) -> Codes:
        slices = self._slices(self._padded(embeddings), self.arrays)
        found = [nearest(part, self.arrays[f"codes_{level}"]) for level, part in enumerate(slices)]
        return np.stack(found, axis=1)

    def _reconstruct(self, codes: Codes) -> Floats:
        parts = [self.arrays[f"codes_{level}"][codes[:, level]] for level in range(len(self.sizes))]
        rotated = np.concatenate(parts, axis=1)
        vectors = rotated @ self.arrays["rotation"] if "rotation" in self.arrays else rotated
        return vectors[:, : self.width].astype(np.float32)

    def _shapes(self, width: int) -> dict[str, tuple[int, ...]]:
        padded = width + -width % len(self.sizes)
        part = padded // len(self.sizes)
        shapes: dict[str, tuple[int, ...]] = {"rotation": (padded, padded)} if self.config.rotation else {}
        return shapes | {f"codes_{level}": (size, part) for level, size in enumerate(self.sizes)}
