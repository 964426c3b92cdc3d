"""The nearest code of each vector, the same whatever other vectors are asked for beside it.

A matrix product rounds differently for 1 row and for 1,000, so that a vector half way between two codes could change
its code with the batch. faiss finds the two nearest codes; where their distances are closer than float32 rounding can
tell, the row is decided in float64, code by code, and an exact tie goes to the lower code.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from genrec_plugins.tokenizers.inputs import CHUNK_ROWS, Floats, chunks

Rows = npt.NDArray[np.int32]
#: relative to the largest squared norm: what rounding could add up to in 128 dimensions, and far above what it does
_MARGIN = 2e-5


def nearest(vectors: Floats, codes: Floats) -> Rows:
    """Index of the code with the smallest squared distance, ``[N, E], [K, E] -> [N]``.

    Example::

        >>> nearest(np.array([[0.1], [0.5], [0.9]], np.float32), np.array([[0.0], [1.0]], np.float32)).tolist()
        [0, 0, 1]
    """
    found = np.zeros(len(vectors), dtype=np.int32)
    if len(codes) == 1:
        return found
    import faiss

    largest_code = float(np.einsum("ke,ke->k", codes, codes).max())
    for part in chunks(len(vectors), CHUNK_ROWS):
        distances, indices = faiss.knn(vectors[part], codes, 2)
        norms = np.einsum("ne,ne->n", vectors[part], vectors[part])
        margin = _MARGIN * np.maximum(norms, largest_code)
        unsure = np.flatnonzero(distances[:, 1] - distances[:, 0] <= margin)
        found[part] = indices[:, 0]
        decided: dict[bytes, int] = {}  # where many are unsure they are mostly equal: residuals of zero
        for row in part.start + unsure:
            key = vectors[row].tobytes()
            if key not in decided:
                decided[key] = _exact(vectors[row], codes)
            found[row] = decided[key]
    return found


def _exact(vector: Floats, codes: Floats) -> int:
    difference = codes.astype(np.float64) - vector
    return int((difference * difference).sum(axis=1).argmin())
