"""A law fitted to points of several seeds: constants with intervals, and what tells one law from the other.

Intervals are percentiles of a bootstrap over points: residuals of the fit, enlarged by what the fit took of them
(leverage) and by Student's t over the normal, since points are few, are dealt out again over the points of all seeds,
and the law is refitted. Drawing from the two or three seeds of each size instead would halve their spread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from genrec_plugins.scaling.laws import CONSTANTS, EXPONENTS, Floats, Law, jacobian, predict, solve
from genrec_registry import DataError

Interval = tuple[float, float]
#: so many different sizes are needed before anything is fitted
MIN_SIZES = 3


@dataclass(frozen=True, kw_only=True)
class Fit:
    """One law through the points.

    Args:
        law: ``power`` or ``log``.
        constants: by name; a power law of a metric that should rise is one of ``1 - metric``.
        intervals: of each constant; None where points and constants are equally many.
        complement: whether the law is of ``1 - metric``.
        confidence: of the intervals.
        r2: share of the points' variance that the law explains.
        rmse: root of the mean squared distance.
        aicc: Akaike's criterion with its correction for few points; only differences on the same points mean anything.
            None where there are too few points for it.
        holdout_error: prediction at the largest size of the law fitted without it, less the mean measured there; None
            where the rest does not determine the law.
        lack_of_fit: p value of the F test that the sizes' means lie on the law; None with one seed a size.
        draws: ``[B, p]`` constants of the bootstrap.
    """

    law: Law
    constants: Mapping[str, float]
    intervals: Mapping[str, Interval] | None
    complement: bool
    confidence: float
    r2: float
    rmse: float
    aicc: float | None
    holdout_error: float | None
    lack_of_fit: float | None
    draws: Floats = field(repr=False, compare=False)

    def at(self, x: Sequence[float] | Floats) -> Floats:
        """The metric at sizes, ``[m] -> [m]``."""
        return self._metric(np.array([list(self.constants.values())]), x)[0]

    def band(self, x: Sequence[float] | Floats) -> tuple[Floats, Floats] | None:
        """Interval of the curve (not of new points) at sizes, ``[m]`` each; None where there are no draws."""
        if not len(self.draws):
            return None
        low, high = np.quantile(self._metric(self.draws, x), self._levels, axis=0)
        return low, high

    @property
    def _levels(self) -> tuple[float, float]:
        return (1 - self.confidence) / 2, (1 + self.confidence) / 2

    def _metric(self, constants: Floats, x: Sequence[float] | Floats) -> Floats:
        values = predict(self.law, constants, np.asarray(x, dtype=np.float64))
        return 1 - values if self.complement else values

    @property
    def formula(self) -> str:
        """The law with its constants.

        Example::

            >>> fit_law("log", [1, 10, 100, 1000], [0.1, 0.2, 0.3, 0.4]).formula
            'y = 0.04343 ln(x) + 0.1'
        """
        value = self.constants
        left = "1 - y" if self.complement else "y"
        if self.law == "log":
            return f"{left} = {value['slope']:.4g} ln(x) {'-' if value['intercept'] < 0 else '+'} " + (
                f"{abs(value['intercept']):.4g}"
            )
        return f"{left} = {value['a']:.4g} + {value['b']:.4g} x^-{value['c']:.4g}"

    def as_dict(self) -> dict[str, Any]:
        """For JSON, without the draws."""
        names = ("law", "complement", "confidence", "r2", "rmse", "aicc", "holdout_error", "lack_of_fit")
        facts = {
            "formula": self.formula,
            "constants": dict(self.constants),
            "intervals": None if self.intervals is None else dict(self.intervals),
        }
        return {**facts, **{name: getattr(self, name) for name in names}}


def fit_law(
    law: Law,
    x: Sequence[float] | Floats,
    y: Sequence[float] | Floats,
    *,
    rising: bool = False,
    draws: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Fit:
    """Fit one law.

    Args:
        law: ``power`` or ``log``.
        x: ``[n]`` sizes above 0; a size comes once for each of its seeds.
        y: ``[n]`` the metric.
        rising: more is better: the power law is then of ``1 - y``.
        draws: refits of the bootstrap.
        confidence: of the intervals.
        seed: of the bootstrap; the same points and seed give the same intervals.

    Raises:
        DataError: a size is not above 0, a value is not finite, the arrays differ in length, or there are fewer than
            three different sizes. :func:`genrec_plugins.scaling.curve.fit_curve` says it without raising.

    Example::

        >>> sizes = [1e3, 1e3, 1e4, 1e4, 1e5, 1e5, 1e6, 1e6]
        >>> fit = fit_law("power", sizes, [2.51, 2.49, 2.26, 2.24, 2.14, 2.12, 2.08, 2.06])
        >>> {name: round(value, 2) for name, value in fit.constants.items()}
        {'a': 2.01, 'b': 4.23, 'c': 0.31}
        >>> low, high = fit.intervals["a"]
        >>> low < 2.0 < high
        True
    """
    sizes, values = checked(x, y)
    complement = rising and law == "power"
    target = 1 - values if complement else values
    constants = solve(law, sizes, target[None])
    fitted = predict(law, constants, sizes)[0]
    residual = target - fitted
    free, count = len(CONSTANTS[law]), len(sizes)
    squared, total = float(residual @ residual), float(((target - target.mean()) ** 2).sum())
    drawn = _bootstrap(
        law, constants[0], sizes, fitted, residual, free=free, draws=draws, seed=seed, confidence=confidence
    )
    return Fit(
        law=law,
        constants=dict(zip(CONSTANTS[law], constants[0].tolist(), strict=True)),
        intervals=_intervals(law, drawn, confidence),
        complement=complement,
        confidence=confidence,
        r2=1 - squared / total if total > 0 else float("nan"),
        rmse=float(np.sqrt(squared / count)),
        aicc=_aicc(squared, count, free + 1),
        holdout_error=_holdout(law, sizes, target, -1.0 if complement else 1.0),
        lack_of_fit=_lack_of_fit(sizes, target, squared, free),
        draws=drawn,
    )


def checked(x: Sequence[float] | Floats, y: Sequence[float] | Floats) -> tuple[Floats, Floats]:
    """Points as arrays.

    Raises:
        DataError: see :func:`fit_law`.
    """
    sizes, values = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if sizes.ndim != 1 or sizes.shape != values.shape:
        raise DataError(f"found sizes of shape {sizes.shape} and values of {values.shape}; expected equally many")
    if not np.isfinite(values).all() or not np.isfinite(sizes).all():
        raise DataError("a size or value is not finite; leave out runs that diverged")
    if (sizes <= 0).any():
        raise DataError(f"a size is {sizes.min():g}; a law is fitted over sizes above 0")
    if len(np.unique(sizes)) < MIN_SIZES:
        raise DataError(f"{len(np.unique(sizes))} different sizes do not show a law; give at least {MIN_SIZES}")
    return sizes, values


def _bootstrap(
    law: Law,
    constants: Floats,
    x: Floats,
    fitted: Floats,
    residual: Floats,
    *,
    free: int,
    draws: int,
    seed: int,
    confidence: float,
) -> Floats:
    spare = len(x) - free
    if spare < 1 or draws < 1:
        return np.zeros((0, free))
    basis = np.linalg.qr(jacobian(law, constants, x))[0]
    leverage = np.minimum((basis**2).sum(axis=1), 1 - 1 / len(x))
    pool = residual / np.sqrt(1 - leverage)
    pool = (pool - pool.mean()) * _widening(spare, confidence)
    order = np.random.default_rng(seed).integers(0, len(x), size=(draws, len(x)))
    return solve(law, x, fitted + pool[order])


def _widening(spare: int, confidence: float) -> float:
    """How much further out Student's t with this many degrees of freedom stands than the normal."""
    from scipy import stats

    level = (1 + confidence) / 2
    return float(stats.t.ppf(level, spare) / stats.norm.ppf(level))


def _intervals(law: Law, drawn: Floats, confidence: float) -> dict[str, Interval] | None:
    if not len(drawn):
        return None
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return {name: (float(low[index]), float(high[index])) for index, name in enumerate(CONSTANTS[law])}


def _aicc(squared: float, count: int, parameters: int) -> float | None:
    """AIC of a normal model with ``parameters`` constants (its variance counted), with the small-sample term."""
    if count - parameters - 1 < 1 or squared <= 0:
        return None
    return float(count * np.log(squared / count) + 2 * parameters * (1 + (parameters + 1) / (count - parameters - 1)))


def _holdout(law: Law, x: Floats, y: Floats, sign: float) -> float | None:
    rest = x < x.max()
    if len(np.unique(x[rest])) < len(CONSTANTS[law]):
        return None
    predicted = predict(law, solve(law, x[rest], y[None, rest]), x[~rest][:1])[0, 0]
    return sign * float(predicted - y[~rest].mean())


def _lack_of_fit(x: Floats, y: Floats, squared: float, free: int) -> float | None:
    from scipy import stats

    sizes, index = np.unique(x, return_inverse=True)
    means = np.bincount(index, weights=y) / np.bincount(index)
    pure = float(((y - means[index]) ** 2).sum())
    above, below = len(sizes) - free, len(x) - len(sizes)
    if above < 1 or below < 1 or pure <= 0:
        return None
    return float(stats.f.sf(max(squared - pure, 0) / above / (pure / below), above, below))


def at_bound(fit: Fit) -> str:
    """What the constants of a power law say when they ran into a bound; empty otherwise.

    Example::

        >>> at_bound(fit_law("power", [1, 2, 4, 8], [1.0, 1.1, 1.2, 1.3]))
        'the loss does not fall with size: b is 0'
    """
    if fit.law != "power":
        return ""
    if fit.constants["b"] <= 0:
        return f"the {'error' if fit.complement else 'loss'} does not fall with size: b is 0"
    low, high = EXPONENTS
    if fit.constants["c"] < low * 1.05:
        return f"c runs to its bound {low:g}: over these sizes the curve is straight in ln(x)"
    if fit.constants["c"] > high / 1.05:
        return f"c runs to its bound {high:g}: the curve is a step, flat from the second size on"
    return ""
