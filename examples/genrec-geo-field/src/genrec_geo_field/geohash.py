"""Geohashes of many points at once.

A geohash (Gustavo Niemeyer, 2008) halves the range of longitudes [-180, 180] and that of latitudes [-90, 90] in turn,
longitude first, and writes a 1 where the point lies in the upper half; every five bits are one character. So its even
bits are the binary number of the point's column in a regular grid, and its odd bits that of the row.
"""

from __future__ import annotations

import numpy as np

_ALPHABET = np.frombuffer(b"0123456789bcdefghjkmnpqrstuvwxyz", dtype="S1")


def geohash(latitude: np.ndarray, longitude: np.ndarray, length: int) -> np.ndarray:
    """Geohashes of N points.

    Args:
        latitude: degrees north, ``[N]``, in [-90, 90].
        longitude: degrees east, ``[N]``, in [-180, 180].
        length: characters, 1 to 12.

    Returns:
        Byte strings ``[N]``.

    Example::

        >>> geohash(np.array([57.64911]), np.array([10.40744]), 11)
        array([b'u4pruydqqvj'], dtype='|S11')
    """
    num_bits = 5 * length
    columns = _cells(longitude, 360.0, (num_bits + 1) // 2)
    rows = _cells(latitude, 180.0, num_bits // 2)
    digits = np.zeros((len(columns), length), dtype=np.int64)
    for bit in range(num_bits):  # from the last bit of the hash to its first
        from_columns = (num_bits - 1 - bit) % 2 == 0
        source = columns if from_columns else rows
        digits[:, length - 1 - bit // 5] |= (source & 1) << (bit % 5)
        source >>= 1
    return np.asarray(np.ascontiguousarray(_ALPHABET[digits]).view(f"S{length}")[:, 0])


def _cells(degrees: np.ndarray, extent: float, num_bits: int) -> np.ndarray:
    """Which of the ``2**num_bits`` equal cells of [-extent/2, extent/2] each number lies in."""
    count = 2**num_bits
    cells = np.floor(degrees * (count / extent))
    cells -= cells * (extent / count) > degrees  # where the product was rounded up onto a border
    cells += (cells + 1) * (extent / count) <= degrees  # where it was rounded down from one
    return np.asarray(np.clip(cells.astype(np.int64) + count // 2, 0, count - 1))
