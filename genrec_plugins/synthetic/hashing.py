"""Random numbers as a pure function of (key, counter): rows do not depend on how they are cut into blocks.

The mixer is the finaliser of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
OOPSLA 2014), run on a counter.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

U64 = NDArray[np.uint64]

_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def key_of(*parts: object) -> np.uint64:
    """A 64-bit key for names and seeds, the same on every machine.

    Args:
        parts: anything with a stable ``str``.

    Example::

        >>> int(key_of("C1", 0)) == int(key_of("C1", 0)), int(key_of("C1", 0)) == int(key_of("C1", 1))
        (True, False)
    """
    return np.uint64(int.from_bytes(hashlib.sha256(repr(tuple(map(str, parts))).encode()).digest()[:8], "little"))


def mix(counters: U64, key: np.uint64) -> U64:
    """Independent uniform 64-bit numbers, one for each counter.

    Args:
        counters: ``[N]`` unsigned integers.
        key: the stream.

    Example::

        >>> bits = mix(np.arange(4, dtype=np.uint64), key_of("stream"))
        >>> bool((bits[2:] == mix(np.arange(2, 4, dtype=np.uint64), key_of("stream"))).all())
        True
    """
    with np.errstate(over="ignore"):
        z = counters * _GAMMA
        z += key
        z ^= z >> np.uint64(30)
        z *= np.uint64(0xBF58476D1CE4E5B9)
        z ^= z >> np.uint64(27)
        z *= np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return z


def high_uniform(bits: U64) -> NDArray[np.float64]:
    """The upper 40 bits as floats in [0, 1); independent of :func:`low_uniform`."""
    return (bits >> np.uint64(24)).astype(np.float64) * 2.0**-40


def low_uniform(bits: U64) -> NDArray[np.float64]:
    """The lower 24 bits as floats in [0, 1)."""
    return (bits & np.uint64(0xFFFFFF)).astype(np.float64) * 2.0**-24


def scramble32(values: U64, key: np.uint64) -> NDArray[np.uint32]:
    """A permutation of the 32-bit integers (MurmurHash3's finaliser after adding a key): ids without collisions.

    Args:
        values: ``[N]`` integers below 2**32.
        key: chooses the permutation.

    Example::

        >>> ids = scramble32(np.arange(100_000, dtype=np.uint64), key_of("C1"))
        >>> len(np.unique(ids))
        100000
    """
    with np.errstate(over="ignore"):
        h = values.astype(np.uint32)
        h += np.uint32(int(key) & 0xFFFFFFFF)
        h ^= h >> np.uint32(16)
        h *= np.uint32(0x85EBCA6B)
        h ^= h >> np.uint32(13)
        h *= np.uint32(0xC2B2AE35)
        h ^= h >> np.uint32(16)
    return h
