"""The planted model: a field-aware logit over latent vectors that are hashed, not stored.

Every id of every categorical field has a latent vector ``v`` of LATENT signed bytes and a weight ``w``, both made on
the fly from a hash of (field, id), so that a vocabulary of ten million costs nothing; those of a number are a line and
a parabola in its standard score. With a sign for each dimension of each planted field pair,

    logit = bias + a * sum_f w_f + b * sum_{(i, j)} strength_ij * sum_d sign_ijd * v_id * v_jd

which is a field-weighted factorisation machine (Pan et al., "Field-weighted Factorization Machines for Click-Through
Rate Prediction in Display Advertising", WWW 2018, eq. 4) with a diagonal matrix in place of each pair's scalar (Sun
et al., "FM2: Field-matrixed Factorization Machines for Recommender Systems", WWW 2021). The same id therefore acts
with another sign on each partner field: one inner product for all pairs cannot express it.

The pair sum is a sum of integers in float32 below 2**24, hence exact in any order: labels do not depend on the machine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genrec_plugins.synthetic.fields import Categorical, Field, Format, Numeric
from genrec_plugins.synthetic.hashing import key_of, mix

LATENT = 2
#: standard deviations of the two parts of the logit
MAIN_SIGMA = 0.7
PAIR_SIGMA = 1.1

#: a standard score in fiftieths is clipped here; MISSING lies outside, and is no rank either
NUMERIC_LIMIT = 100
MISSING = -(2**31)

Floats = NDArray[np.float64]
Values = Mapping[str, NDArray[np.int64]]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A planted field pair: names and an integer strength."""

    first: str
    second: str
    strength: int


class PlantedModel:
    """Labels' true probabilities, for ids in a format's fields.

    Args:
        layout: the format.
        seed: chooses latent vectors, weights and pairs.
        num_pairs: planted field pairs.

    Example::

        >>> from genrec_plugins.synthetic.fields import AVAZU
        >>> model = PlantedModel(AVAZU, seed=0)
        >>> len(model.pairs), model.pairs == PlantedModel(AVAZU, seed=0).pairs
        (8, True)
    """

    def __init__(self, layout: Format, *, seed: int, num_pairs: int = 8) -> None:
        self.layout = layout
        self._keys = {field.name: key_of("latent", layout.name, seed, field.name) for field in layout.fields}
        rng = np.random.Generator(np.random.PCG64(int(key_of("pairs", layout.name, seed))))
        self.pairs = _choose_pairs(layout.fields, num_pairs, rng)
        self.paired = sorted({name for pair in self.pairs for name in (pair.first, pair.second)})
        self._signs = [
            (pair.strength * rng.choice([-1, 1], size=(LATENT, 1))).astype(np.float32) for pair in self.pairs
        ]
        self.weights = {
            field.name: float(rng.choice([-1, 1]) * rng.uniform(0.4, 1.0)) * _learnable(field)
            for field in layout.fields
        }
        self.main_scale = self.pair_scale = 1.0
        self.bias = 0.0

    def calibrate(self, values: Values) -> None:
        """Set the two scales and the bias on pilot rows, so that the click rate is the format's.

        Args:
            values: as for :meth:`logits`.
        """
        main, pair = self._parts(values)
        self.main_scale = MAIN_SIGMA / float(main.std())
        self.pair_scale = PAIR_SIGMA / float(pair.std())
        raw = self.main_scale * main + self.pair_scale * pair
        low, high = -30.0, 30.0
        while high - low > 1e-9:  # the mean probability rises with the bias
            self.bias = (low + high) / 2
            if float(sigmoid(raw + self.bias).mean()) < self.layout.ctr:
                low = self.bias
            else:
                high = self.bias

    def logits(self, values: Values) -> Floats:
        """True logits.

        Args:
            values: field name -> ``[B]`` integers: for a categorical field its rank + 1, for a numeric one its
                standard score in fiftieths, clipped to +-NUMERIC_LIMIT; MISSING for a missing value.

        Returns:
            ``[B]`` logits.
        """
        main, pair = self._parts(values)
        return self.bias + self.main_scale * main + self.pair_scale * pair

    def _parts(self, values: Values) -> tuple[Floats, Floats]:
        main: Floats = np.zeros(len(next(iter(values.values()))))
        latent: dict[str, NDArray[np.float32]] = {}
        for field in self.layout.fields:
            name, column = field.name, values[field.name]
            if isinstance(field, Numeric):
                absent = column == MISSING
                score = np.where(absent, 0, column).astype(np.float64) / 50.0
                main += self.weights[name] * (score + 0.3 * score * score - 0.5 * absent)
                if name in self.paired:
                    # a straight line in the standard score; a missing value has no part in any pair
                    latent[name] = np.where(absent, 0, column).astype(np.float32) * self._directions(name)
                continue
            bits = mix(column.view(np.uint64), self._keys[name])
            if name in self.paired:
                latent[name] = bits.view(np.int8).reshape(-1, 8)[:, :LATENT].T.astype(np.float32, order="C")
            weight = (mix(bits, self._keys[name]) >> np.uint64(56)).astype(np.float64)
            main += (self.weights[name] / 74.0) * (weight - 127.5)
        # integers below 2**24 in float32, hence exact; no BLAS, whose threads would fight with the writer's
        products: NDArray[np.float32] = np.zeros((LATENT, len(main)), dtype=np.float32)
        for pair, signs in zip(self.pairs, self._signs, strict=True):
            product = latent[pair.first] * latent[pair.second]
            product *= signs
            products += product
        return main, products.sum(axis=0, dtype=np.float64)

    def _directions(self, name: str) -> NDArray[np.float32]:
        bits = mix(np.arange(LATENT, dtype=np.uint64), self._keys[name])
        return np.where(bits & np.uint64(1), 1, -1).astype(np.float32)[:, None]


def sigmoid(logits: Floats) -> Floats:
    """``1 / (1 + exp(-x))`` without overflow."""
    tail = np.exp(-np.abs(logits))
    return np.where(logits >= 0, 1.0, tail) / (1.0 + tail)


def _choose_pairs(fields: tuple[Field, ...], count: int, rng: np.random.Generator) -> tuple[Pair, ...]:
    """Distinct pairs.

    A field with one dominant id has little to tell; of one with millions of rare ids no model can learn much.
    """
    appeal = np.array([_appeal(field) for field in fields])
    first, second = np.triu_indices(len(fields), k=1)
    weight = appeal[first] * appeal[second]
    chosen = rng.choice(len(first), size=count, replace=False, p=weight / weight.sum())
    return tuple(
        Pair(
            first=fields[first[index]].name,
            second=fields[second[index]].name,
            strength=int(rng.integers(1, 4)),
        )
        for index in sorted(chosen)
    )


def _appeal(field: Field) -> float:
    """How likely a field is to be paired: those whose rows spread over a dozen ids or so are the ones to learn from."""
    if not isinstance(field, Categorical):
        return 0.5
    return 1.0 / (1.0 + (math.log(_effective_ids(field) / 12.0) / 0.6) ** 4)


def _learnable(field: Field) -> float:
    """Shrinks the weights of fields whose ids are so many that no model sees most of them twice."""
    return 1.0 / (1.0 + (math.log(_effective_ids(field)) / 4.0) ** 2) if isinstance(field, Categorical) else 1.0


def _effective_ids(field: Categorical) -> float:
    """Ids that carry the rows: the exponential of the entropy of the Zipf law."""
    ranks = np.arange(1, min(field.vocabulary, 1_000_000) + 1, dtype=np.float64) ** -field.exponent
    share = ranks / ranks.sum()
    return float(np.exp(-(share * np.log(share)).sum()))
