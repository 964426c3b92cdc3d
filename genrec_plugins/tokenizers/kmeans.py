"""k-means, plain (faiss) and balanced (faiss assigns, prices balance)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from genrec_plugins.tokenizers.inputs import Floats
from genrec_plugins.tokenizers.nearest import nearest

#: of the mean squared distance: how far the first round of settling moves a code's price
_STEP = 0.01
_SETTLING_ROUNDS = 30
_TURNS = 6


def fit_kmeans(
    vectors: Floats, size: int, *, iterations: int = 25, tolerance: float = 0.0, max_points: int = 256, seed: int = 0
) -> Floats:
    """Codes of plain k-means.

    Args:
        vectors: ``[N, E]``.
        size: K, at most N.
        iterations: most Lloyd iterations.
        tolerance: stop where an iteration lowers the error by less than this share; 0 runs them all.
        max_points: a sample of ``size * max_points`` vectors is used if there are more.
        seed: of the sample and of the first codes.

    Returns:
        ``[K, E]``.

    Example::

        >>> sorted(fit_kmeans(np.array([[0.0], [0.5], [5.0], [5.5]], np.float32), 2).ravel().tolist())
        [0.25, 5.25]
    """
    import faiss

    options: dict[str, float | int | bool] = {"niter": iterations, "seed": seed, "max_points_per_centroid": max_points}
    options["min_points_per_centroid"] = 1  # a small catalogue is no reason for a warning
    if hasattr(faiss.ClusteringParameters(), "early_stop_threshold"):  # older ones run all iterations
        options["early_stop_threshold"] = tolerance
    kmeans = faiss.Kmeans(vectors.shape[1], size, **options)
    kmeans.train(vectors)
    return np.asarray(kmeans.centroids, dtype=np.float32)


def fit_balanced_kmeans(
    vectors: Floats, size: int, *, iterations: int = 25, tolerance: float = 0.0, max_points: int = 256, seed: int = 0
) -> tuple[Floats, Floats]:
    """Codes of k-means that are used about equally often, and their prices.

    A vector takes the code with the smallest squared distance plus price. The prices are the dual variables of the
    transport problem "every code takes N / K vectors at the least squared distance", whose optimal assignment has just
    this form (Aurenhammer et al. 1998, power diagrams with capacities). From the codes of plain k-means, two moves
    take turns: settle the prices, then put each code on the mean of its vectors. A price rises while its code has more
    than its share and sinks while it has less, by steps that grow while they go one way and halve when they turn.

    Prices and not a hard limit of ``ceil(N / K)``, because an item's code must depend on that item alone. So new items
    are spread as the old ones were, and the largest code may be somewhat over its share.

    Args:
        vectors: ``[N, E]``.
        size: K, at most N.
        iterations: most iterations of plain k-means, which comes first.
        tolerance: see :func:`fit_kmeans`.
        max_points: a sample of ``size * max_points`` vectors is used if there are more.
        seed: of the sample and of the first codes.

    Returns:
        Codes ``[K, E]`` and prices ``[K]``, the lowest 0.

    Example::

        >>> skewed = np.random.default_rng(0).exponential(size=(1000, 1)).astype(np.float32)
        >>> bool(np.bincount(assign_priced(skewed, *fit_balanced_kmeans(skewed, 4))).max() < 260)
        True
        >>> bool(np.bincount(nearest(skewed, fit_kmeans(skewed, 4))).max() > 400)
        True
    """
    if len(vectors) > size * max_points:
        sample = np.random.default_rng(seed).choice(len(vectors), size * max_points, replace=False)
        vectors = vectors[np.sort(sample)]
    codes = fit_kmeans(vectors, size, iterations=iterations, tolerance=tolerance, max_points=max_points, seed=seed)
    prices = np.zeros(size, dtype=np.float32)
    difference = vectors - codes[nearest(vectors, codes)]
    step = _STEP * float(np.einsum("ne,ne->n", difference, difference).mean())
    for turn in range(_TURNS):
        if turn:
            codes = _means(vectors, assign_priced(vectors, codes, prices), codes)
        prices = _settled(vectors, codes, prices, step)
    return codes, prices


def assign_priced(vectors: Floats, codes: Floats, prices: npt.NDArray[np.floating]) -> npt.NDArray[np.int32]:
    """Index of the code with the smallest squared distance plus price, ``[N]``.

    Example::

        >>> codes = np.array([[0.1], [1.0]], np.float32)
        >>> assign_priced(np.zeros((1, 1), np.float32), codes, np.array([2.0, 0.0])).tolist()
        [1]
    """
    return nearest(*with_prices(vectors, codes, prices))


def with_prices(vectors: Floats, codes: Floats, prices: npt.NDArray[np.floating]) -> tuple[Floats, Floats]:
    """Vectors and codes with one more dimension, in which their squared distance is what it was plus the price."""
    paid = np.sqrt(prices - prices.min()).astype(np.float32)
    return np.pad(vectors, ((0, 0), (0, 1))), np.concatenate([codes, paid[:, None]], axis=1)


def _settled(vectors: Floats, codes: Floats, prices: Floats, step: float) -> Floats:
    """The prices, of those tried, with the fewest vectors over the capacity ``ceil(N / K)``."""
    import faiss

    share, capacity = len(vectors) / len(codes), -(-len(vectors) // len(codes))
    steps, last = np.full(len(codes), step, dtype=np.float32), np.zeros(len(codes), dtype=np.float32)
    best, least = prices, len(vectors) + 1
    for _ in range(_SETTLING_ROUNDS):
        _, assigned = faiss.knn(*with_prices(vectors, codes, prices), 1)
        counts = np.bincount(assigned[:, 0], minlength=len(codes))
        over = int(np.maximum(counts - capacity, 0).sum())
        if over < least:
            best, least = prices, over
        if over == 0:
            break
        sign = np.sign(counts - share).astype(np.float32)
        steps *= np.where(sign * last > 0, 1.2, np.where(sign * last < 0, 0.5, 1.0)).astype(np.float32)
        prices, last = prices + steps * sign, sign
    return best - best.min()


def _means(vectors: Floats, assigned: npt.NDArray[np.int32], codes: Floats) -> Floats:
    """Mean vector of each code; the old one where nothing is assigned."""
    from scipy.sparse import csr_matrix

    counts = np.bincount(assigned, minlength=len(codes))[:, None]
    ones, rows = np.ones(len(vectors), np.float32), np.arange(len(vectors))
    members = csr_matrix((ones, (assigned, rows)), shape=(len(codes), len(vectors)))
    return np.where(counts > 0, (members @ vectors) / np.maximum(counts, 1), codes).astype(np.float32)
