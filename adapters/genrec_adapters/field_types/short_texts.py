"""Texts of at most eight bytes as numbers, which are counted several times faster than texts.

Hashed categories as Criteo's and Avazu's have eight bytes. Polars and Arrow keep a text of up to twelve bytes within
the sixteen bytes of its *view* (length, then the bytes, padded with zeros), so that the number is two shifts away.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

Keys = npt.NDArray[np.uint64]
_LONGEST = 8
# A text has more than k bytes if its number is at least 256^k.
_STARTS = np.uint64(256) ** np.arange(_LONGEST, dtype=np.uint64)


def count_short_texts(texts: pl.Series) -> tuple[Keys, npt.NDArray[np.int64]] | None:
    """The distinct texts as ascending numbers, and how often each occurs; None if the texts are not fit for it.

    A text's number is its bytes, the first one lowest. Texts are fit if none is longer than eight bytes and none ends
    in a NUL, which the padding would swallow.

    Args:
        texts: String series; nulls are not counted.

    Example::

        >>> keys, counts = count_short_texts(pl.Series(["b", "a", "b"]))
        >>> short_texts(keys).to_list(), counts.tolist()
        (['a', 'b'], [1, 2])
        >>> count_short_texts(pl.Series(["nine bytes"])) is None
        True
    """
    views = _views(texts)
    if views is None:
        return None
    lengths, bytes_ = views
    keys, counts = np.unique(bytes_, return_counts=True)
    if lengths.sum(dtype=np.int64) != (_lengths(keys) * counts).sum():
        return None
    return keys, counts


def short_keys(texts: pl.Series) -> Keys | None:
    """The number of each text, nulls left out; None if the texts are not fit for it, see :func:`count_short_texts`.

    Example::

        >>> short_texts(short_keys(pl.Series(["b", "a", "b"]))).to_list()
        ['b', 'a', 'b']
    """
    views = _views(texts)
    if views is None or (_lengths(views[1]) != views[0]).any():
        return None
    return views[1]


def _views(texts: pl.Series) -> tuple[npt.NDArray[np.uint32], Keys] | None:
    """Bytes, and the first eight of them, of each text that is not null; None if one has more than eight."""
    if texts.is_empty():
        return np.empty(0, dtype=np.uint32), np.empty(0, dtype=np.uint64)
    arrow = texts.rechunk().to_arrow(compat_level=pl.CompatLevel.newest())
    if arrow.type != pa.string_view():
        return None
    views = np.frombuffer(arrow.buffers()[1], dtype=np.uint32)[4 * arrow.offset :][: 4 * len(arrow)]
    lengths: npt.NDArray[np.uint32] = views[::4]
    bytes_: Keys = np.ndarray(len(arrow), dtype=np.uint64, buffer=views, offset=4, strides=(16,))
    known = present(arrow)
    if known is not None:
        lengths, bytes_ = lengths[known], bytes_[known]
    return None if lengths.size and lengths.max() > _LONGEST else (lengths, bytes_)


def present(arrow: pa.Array) -> npt.NDArray[np.bool_] | None:
    """Which values are not null; None if all are there.

    Example::

        >>> present(pa.array([1, None, 3])).tolist()
        [True, False, True]
    """
    if not arrow.null_count:
        return None
    bits = np.frombuffer(arrow.buffers()[0], dtype=np.uint8)
    return np.unpackbits(bits, bitorder="little", count=arrow.offset + len(arrow))[arrow.offset :].view(np.bool_)


def _lengths(keys: Keys) -> npt.NDArray[np.int64]:
    """Bytes of each text."""
    return np.searchsorted(_STARTS, keys, side="right")


def short_texts(keys: Keys) -> pl.Series:
    """The texts of :func:`count_short_texts`'s numbers."""
    lengths = _lengths(keys)
    bytes_ = np.ascontiguousarray(keys).view(np.uint8).reshape(-1, _LONGEST)
    data = bytes_[np.arange(_LONGEST) < lengths[:, None]]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return pl.Series(pa.LargeStringArray.from_buffers(keys.size, pa.py_buffer(offsets), pa.py_buffer(data)))


class ShortTextCounts:
    """Counts of short texts over chunks, added up whenever those that wait have become as many as those that are done.

    Args:
        waiting: at least so many wait.
    """

    def __init__(self, waiting: int) -> None:
        self._least = waiting
        self._done: tuple[Keys, npt.NDArray[np.int64]] = np.empty(0, np.uint64), np.empty(0, np.int64)
        self._waiting: list[tuple[Keys, npt.NDArray[np.int64]]] = []
        self.waiting = 0

    def add(self, keys: Keys, counts: npt.NDArray[np.int64]) -> None:
        """Add what :func:`count_short_texts` gave."""
        self._waiting.append((keys, counts))
        self.waiting += keys.size
        if self.waiting > max(self._least, self._done[0].size):
            self.merged()

    def merged(self) -> tuple[Keys, npt.NDArray[np.int64]]:
        """All texts seen, ascending as numbers, and their counts."""
        if self._waiting:
            parts = [self._done, *self._waiting]
            keys, counts = np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])
            order = np.argsort(keys, kind="stable")  # merges runs that are sorted already
            keys = keys[order]
            first = np.flatnonzero(np.append(True, keys[1:] != keys[:-1])[: keys.size])
            self._done = keys[first], np.add.reduceat(counts[order], first) if first.size else counts
            self._waiting, self.waiting = [], 0
        return self._done
