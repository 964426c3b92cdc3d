"""A hash that is the same in every process, on every machine and with every version of polars.

Definition: FNV-1a with 64 bits over the UTF-8 bytes of the text, started from its usual offset basis XOR the seed,
followed by the 64-bit finaliser of MurmurHash3 (FNV alone leaves its low bits weak on short texts); the bucket is the
result, as an unsigned number, modulo the number of buckets. It must never change: prepared data and trained tables
depend on it.
"""

from __future__ import annotations

import numpy as np
import polars as pl

_OFFSET_BASIS = np.uint64(0xCBF29CE484222325)
_PRIME = np.uint64(0x100000001B3)


def hash_texts(texts: pl.Series, seed: int = 0) -> np.ndarray:
    """Hash of every text.

    Args:
        texts: String series without nulls, N long.
        seed: in ``[0, 2**63)``.

    Returns:
        uint64 array ``[N]``.

    Example::

        >>> int(hash_texts(pl.Series(["a"]))[0])
        9413272369427828315
    """
    arrow = texts.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())
    _, offsets_buffer, data_buffer = arrow.buffers()
    offsets = np.frombuffer(offsets_buffer, dtype=np.int64)[arrow.offset : arrow.offset + len(arrow) + 1]
    data = np.frombuffer(data_buffer, dtype=np.uint8) if data_buffer else np.zeros(0, np.uint8)
    starts, lengths = offsets[:-1], np.diff(offsets)
    state = np.full(len(texts), _OFFSET_BASIS ^ np.uint64(seed), dtype=np.uint64)
    # One step for the k-th byte of all texts at once; texts are visited longest first, so that those that still have
    # a k-th byte are always a prefix.
    order = np.argsort(-lengths, kind="stable")
    starts, longest_first = starts[order], lengths[order]
    for k in range(int(longest_first[0]) if len(texts) else 0):
        alive = int(np.searchsorted(-longest_first, -k, side="left"))
        state[:alive] ^= data[starts[:alive] + k]
        state[:alive] *= _PRIME
    result = np.empty_like(state)
    result[order] = _finalise(state)
    return result


def _finalise(state: np.ndarray) -> np.ndarray:
    for shift, factor in ((33, 0xFF51AFD7ED558CCD), (33, 0xC4CEB9FE1A85EC53)):
        state = (state ^ (state >> np.uint64(shift))) * np.uint64(factor)
    return np.asarray(state ^ (state >> np.uint64(33)))


def bucket(texts: pl.Expr, num_buckets: int, *, first: int, seed: int) -> pl.Expr:
    """Int32 bucket of every text, in ``[first, first + num_buckets)``; null stays null.

    Args:
        texts: String expression.
        num_buckets: number of buckets.
        first: id of the first bucket.
        seed: see :func:`hash_texts`.
    """

    def of_series(series: pl.Series) -> pl.Series:
        hashes = hash_texts(series.fill_null(""), seed)
        ids = pl.Series(series.name, (hashes % np.uint64(num_buckets)).astype(np.int32) + np.int32(first))
        return (
            ids if series.null_count() == 0 else ids.zip_with(series.is_not_null(), pl.Series([None], dtype=pl.Int32))
        )

    return texts.map_batches(of_series, return_dtype=pl.Int32, is_elementwise=True)
