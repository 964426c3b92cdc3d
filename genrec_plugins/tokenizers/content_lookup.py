"""Vectors that are looked up by item id: from co-occurrence in histories, and from a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import polars as pl

from genrec_adapters.behaviour.histories import Histories, Vocabulary
from genrec_adapters.state import read_parquet
from genrec_plugins.tokenizers.content_config import CoOccurrenceSource, Empty, TableSource
from genrec_plugins.tokenizers.inputs import Floats
from genrec_registry import DataError

if TYPE_CHECKING:
    import scipy.sparse as sp


class Lookup:
    """One vector for each known item.

    Args:
        vocabulary: the known items, by row from 1.
        vectors: ``[len(vocabulary), width]``; row 0 is not read.
        empty: what an unknown item, or one with the zero vector, is: an error, or zeros.
        reason: what such an item lacks, for the message.

    Example::

        >>> lookup = Lookup(Vocabulary.of(["a"]), np.array([[9.0], [2.0]], np.float32), "zeros", "is not known")
        >>> lookup.embed(pl.DataFrame({"item": ["?", "a"]})).tolist()
        [[0.0], [2.0]]
    """

    def __init__(self, vocabulary: Vocabulary, vectors: Floats, empty: Empty, reason: str) -> None:
        self.vocabulary, self.vectors = vocabulary, vectors
        self._empty: Empty = empty
        self._reason = reason

    @property
    def width(self) -> int:
        """Dimensions."""
        return int(self.vectors.shape[1])

    def embed(self, items: pl.DataFrame) -> Floats:
        """``[N, width]``.

        Raises:
            DataError: an item has no vector, and that is an error.
        """
        rows = self.vocabulary.encode(items["item"])
        found = np.where(rows[:, None] > 0, self.vectors[rows], np.float32(0)).astype(np.float32)
        if self._empty == "error":
            lacking = np.flatnonzero(~found.any(axis=1))
            if len(lacking):
                raise DataError(
                    f"item '{items['item'][int(lacking[0])]}': {self._reason} ({len(lacking)} such items); "
                    "give it a vector, leave it out, or set empty: zeros"
                )
        return found

    def arrays(self) -> dict[str, np.ndarray]:
        """Items and vectors."""
        return {"items": np.array(self.vocabulary.values[1:], dtype=np.str_), "vectors": self.vectors}

    @classmethod
    def of_arrays(cls, arrays: dict[str, np.ndarray], empty: Empty, reason: str) -> Self:
        """What :meth:`arrays` gave."""
        return cls(Vocabulary(values=("", *arrays["items"].tolist())), arrays["vectors"], empty, reason)


NO_EVENTS = "stands near no other item in the histories"


def co_occurrence(config: CoOccurrenceSource, histories: Histories, vocabulary: Vocabulary) -> Lookup:
    """Item vectors from which items stand near each other.

    Args:
        config: window, smoothing, dimensions.
        histories: training events only, already cut: what they hold is learned.
        vocabulary: which item is which catalogue row of the histories.

    Raises:
        DataError: no two events of a user are about different items.

    Example::

        >>> histories = Histories(
        ...     users=("u", "v"), offsets=np.array([0, 2, 4]), items=np.array([1, 2, 3, 4], np.int32),
        ...     times=np.array([1, 2, 1, 2]), labels=np.ones(4, np.int8),
        ... )
        >>> lookup = co_occurrence(CoOccurrenceSource(dim=4), histories, Vocabulary.of(list("abcd")))
        >>> vectors = lookup.embed(pl.DataFrame({"item": list("abcd")}))
        >>> [round(abs(float(product)), 2) for product in vectors @ vectors[0]]  # a and b were seen together
        [0.69, 0.69, 0.0, 0.0]
    """
    counts = pair_counts(histories, len(vocabulary), config.window)
    if not counts.nnz:
        raise DataError("co-occurrence: no user has events of two items within the window, expected some; widen it")
    ppmi = _ppmi(counts, config.smoothing, config.shift)
    from sklearn.utils.extmath import randomized_svd

    rank = min(config.dim, max(1, len(vocabulary) - 1))
    left, singular, right = randomized_svd(ppmi, n_components=rank, random_state=config.seed)
    # Item and context vectors together: alone, two items that only met each other would be orthogonal.
    vectors = np.ascontiguousarray((left + right.T) / 2 * np.sqrt(singular), dtype=np.float32)
    lengths = np.linalg.norm(vectors, axis=1)
    vectors[lengths < 1e-5 * lengths.max()] = 0  # rounding errors of an item that nothing is known of
    return Lookup(vocabulary, vectors, config.empty, NO_EVENTS)


def pair_counts(histories: Histories, num_items: int, window: int) -> sp.csr_matrix:
    """How often two different items stand at most ``window`` events apart in one history, ``[num_items, num_items]``.

    Symmetric; the unknown item, row 0, counts for nothing.
    """
    import scipy.sparse as sp

    owners, items = histories.owners, histories.items
    left, right = [], []
    for distance in range(1, window + 1):
        a, b = items[:-distance], items[distance:]
        keep = (owners[:-distance] == owners[distance:]) & (a != b) & (a > 0) & (b > 0)
        left.append(a[keep])
        right.append(b[keep])
    rows, columns = np.concatenate(left), np.concatenate(right)
    counted = sp.coo_matrix((np.ones(len(rows)), (rows, columns)), shape=(num_items, num_items)).tocsr()
    return (counted + counted.T).tocsr()


def _ppmi(counts: sp.csr_matrix, smoothing: float, shift: float) -> sp.csr_matrix:
    """max(0, log(p(i, j) / (p(i) q(j))) - log(shift)), q the smoothed distribution of context items."""
    import scipy.sparse as sp

    totals = np.asarray(counts.sum(axis=1)).ravel()
    smooth = totals**smoothing
    pairs = counts.tocoo()
    information = np.log(pairs.data * smooth.sum() / (totals[pairs.row] * smooth[pairs.col])) - np.log(shift)
    positive = information > 0
    kept = (information[positive], (pairs.row[positive], pairs.col[positive]))
    return sp.coo_matrix(kept, shape=counts.shape).tocsr()


NOT_IN_FILE = "is not in the table of embeddings"


def read_table(config: TableSource) -> Lookup:
    """Ready embeddings.

    Raises:
        DataError: the file cannot be read, is no table of embeddings, names an item twice, or holds NaN (names the
            item).
    """
    items, vectors = _read_npy(config) if config.ids is not None else _read_parquet(config.path)
    vocabulary = Vocabulary(values=("", *items))
    if len(set(items)) < len(items):
        twice = pl.Series(items).filter(pl.Series(items).is_duplicated())[0]
        raise DataError(f"{config.path}: item '{twice}' stands twice; give each item one row")
    broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(broken):
        raise DataError(
            f"{config.path}: item '{items[int(broken[0])]}': its embedding has NaN or infinity ({len(broken)} such "
            "items); mend it, or leave the item out"
        )
    zeros = np.zeros((1, vectors.shape[1]), dtype=np.float32)
    return Lookup(vocabulary, np.concatenate([zeros, vectors]), config.empty, NOT_IN_FILE)


def _read_npy(config: TableSource) -> tuple[list[str], Floats]:
    try:
        vectors = np.load(config.path, allow_pickle=False)
        items = Path(str(config.ids)).read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise DataError(f"{config.path}, {config.ids}: cannot be read ({error}), expected [N, E] and N ids") from error
    items = [line.rstrip("\r") for line in items]
    if items and not items[-1]:
        items.pop()
    if vectors.ndim != 2 or len(vectors) != len(items):
        raise DataError(f"{config.path}: has shape {vectors.shape} for the {len(items)} ids of {config.ids}")
    if not np.issubdtype(vectors.dtype, np.floating):
        raise DataError(f"{config.path}: holds {vectors.dtype}, expected floats")
    return items, vectors.astype(np.float32)


def _read_parquet(path: str) -> tuple[list[str], Floats]:
    try:
        frame = read_parquet(path, ["item", "embedding"])
        items = frame["item"].cast(pl.String).to_list()
        lists = frame["embedding"].cast(pl.List(pl.Float32))
        widths = lists.list.len().unique().to_list()
        if len(widths) != 1 or not widths[0] or lists.null_count():
            raise DataError(f"{path}: embeddings have the widths {widths}, expected one width for all")
        vectors = np.array(lists.explode().fill_null(np.nan).to_numpy(), dtype=np.float32)
    except (OSError, pl.exceptions.PolarsError) as error:
        problem = str(error).splitlines()[0]
        raise DataError(
            f"{path}: is no table of embeddings ({problem}); expected columns item and embedding"
        ) from error
    return items, vectors.reshape(len(items), -1)
