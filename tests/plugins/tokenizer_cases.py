"""Catalogues and measures that the tokenizer tests share."""

from __future__ import annotations

import numpy as np


def items(count: int) -> list[str]:
    return [f"item-{row}" for row in range(count)]


def clusters(count: int = 2000, width: int = 16, centres: int = 40, seed: int = 0) -> np.ndarray:
    """Clusters of very unequal sizes."""
    generator = np.random.default_rng(seed)
    owners = generator.choice(centres, size=count, p=generator.dirichlet(np.full(centres, 0.5)))
    places = 2.0 * generator.standard_normal((centres, width))
    return (places[owners] + generator.standard_normal((count, width))).astype(np.float32)


def usage(codes: np.ndarray, sizes: tuple[int, ...]) -> list[int]:
    """Codes used at each level."""
    return [len(np.unique(codes[:, level])) for level in range(len(sizes))]


def perplexity(codes: np.ndarray, size: int) -> float:
    share = np.bincount(codes, minlength=size) / len(codes)
    share = share[share > 0]
    return float(np.exp(-(share * np.log(share)).sum()))


def error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.square(found - expected).sum(axis=1).mean())
