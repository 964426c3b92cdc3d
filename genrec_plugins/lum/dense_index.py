"""Dense retrieval: the items whose vectors have the largest inner product with a query, by faiss."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from genrec_registry.errors import DataError

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]
IndexType = Literal["flat", "hnsw"]


class DenseIndex:
    """Item vectors behind an exact index (``flat``: every item is compared) or a graph (``hnsw``: most are not).

    Args:
        vectors: ``[N, D]``; cosine similarity is the inner product of vectors of length one.
        rows: ``[N]`` what to return for each; 0..N-1 if None.
        kind: ``"flat"`` or ``"hnsw"``.
        links: neighbours of a vector in the graph.
        breadth: vectors that the graph search keeps, when building and (at least so many) when searching.

    Raises:
        DataError: no vectors, or a value that is not finite.

    Example::

        >>> index = DenseIndex(np.array([[1.0, 0.0], [0.0, 1.0], [0.7, 0.7]], np.float32), rows=np.array([5, 6, 7]))
        >>> rows, scores = index.search(np.array([[1.0, 0.1]], np.float32), k=2)
        >>> rows.tolist(), [round(score, 2) for score in scores[0].tolist()]
        ([[5, 7]], [1.0, 0.77])
    """

    def __init__(
        self,
        vectors: Float32,
        rows: Int64 | None = None,
        *,
        kind: IndexType = "flat",
        links: int = 32,
        breadth: int = 200,
    ) -> None:
        import faiss

        vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        if not len(vectors) or not np.isfinite(vectors).all():
            found = "has NaN or infinite values" if len(vectors) else "is empty"
            raise DataError(f"the table of item vectors {found}; train the run again with a lower learning rate")
        self.rows = np.arange(len(vectors)) if rows is None else np.asarray(rows, dtype=np.int64)
        self.kind = kind
        self.breadth = breadth
        self._index: Any
        if kind == "flat":
            self._index = faiss.IndexFlatIP(vectors.shape[1])
        else:
            self._index = faiss.IndexHNSWFlat(vectors.shape[1], links, faiss.METRIC_INNER_PRODUCT)
            self._index.hnsw.efConstruction = breadth
        self._index.add(vectors)

    def search(self, queries: Float32, k: int, *, exclude: tuple[Int64, Int64] | None = None) -> tuple[Int64, Float32]:
        """The k best items of each query, best first; equal scores by position in the index.

        Where several items tie for the last place, faiss picks which of them is in.

        Args:
            queries: ``[M, D]``.
            k: items a query.
            exclude: ``[S]`` queries (0..M-1) and ``[S]`` rows not to return for them.

        Returns:
            ``[M, k]`` rows, 0 where there is none, and ``[M, k]`` inner products, -inf there.
        """
        barred = self._barred(len(queries), exclude)
        # Of the best k + S, at most the S excluded ones are lost.
        most = max((len(rows) for rows in barred.values()), default=0)
        wanted = min(k + most, len(self.rows))
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        if self.kind == "hnsw":
            self._index.hnsw.efSearch = max(self.breadth, wanted)
        scores, places = self._index.search(queries, wanted)
        rows = np.where(places >= 0, self.rows[places], -1)
        # stable sort of the scores, for ties in the order of the index
        order = np.lexsort((places, -scores), axis=1)
        rows, scores = np.take_along_axis(rows, order, 1), np.take_along_axis(scores, order, 1)
        gone = rows < 0
        for query, excluded in barred.items():
            gone[query] |= np.isin(rows[query], excluded)
        kept = np.argsort(gone, axis=1, kind="stable")[:, :k]
        gone = np.take_along_axis(gone, kept, 1)
        found = np.where(gone, 0, np.take_along_axis(rows, kept, 1))
        values = np.where(gone, -np.inf, np.take_along_axis(scores, kept, 1)).astype(np.float32)
        short = k - found.shape[1]
        if short > 0:
            found = np.pad(found, ((0, 0), (0, short)))
            values = np.pad(values, ((0, 0), (0, short)), constant_values=-np.inf)
        return found, values

    @staticmethod
    def _barred(queries: int, exclude: tuple[Int64, Int64] | None) -> dict[int, Int64]:
        if exclude is None:
            return {}
        query, rows = np.asarray(exclude[0]), np.asarray(exclude[1])
        order = np.argsort(query, kind="stable")
        starts = np.searchsorted(query[order], np.arange(queries + 1))
        return {
            at: np.unique(rows[order[starts[at] : starts[at + 1]]])
            for at in range(queries)
            if starts[at] < starts[at + 1]
        }
