"""Both laws through one curve, and in sentences what the points do and do not say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from genrec_plugins.scaling.fits import MIN_SIZES, Fit, at_bound, fit_law
from genrec_plugins.scaling.laws import Floats
from genrec_registry import DataError

#: differences of AICc below this tell nothing (Burnham and Anderson, Model Selection, 2002, section 2.6)
TOLD_APART = 2.0


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Points of one metric over one size.

    Args:
        x: ``[n]`` sizes.
        y: ``[n]`` the metric.
        fits: the power law and the log law; empty where nothing can be fitted.
        says: what the points say, a sentence each; the reason where nothing was fitted.
    """

    x: tuple[float, ...]
    y: tuple[float, ...]
    fits: tuple[Fit, ...]
    says: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"x": self.x, "y": self.y, "fits": [fit.as_dict() for fit in self.fits], "says": list(self.says)}


def fit_curve(
    x: Sequence[float] | Floats,
    y: Sequence[float] | Floats,
    *,
    metric: str = "y",
    size: str = "x",
    rising: bool = False,
    draws: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Curve:
    """Fit both laws, or say why not.

    Args:
        x: ``[n]`` sizes; a size comes once for each seed.
        y: ``[n]`` the metric.
        metric: its name, for the sentences.
        size: name of x, for the sentences.
        rising: more of the metric is better.
        draws: refits of the bootstrap.
        confidence: of the intervals.
        seed: of the bootstrap.

    Raises:
        DataError: a value is not finite, or the arrays differ in length.

    Example::

        >>> fit_curve([1, 2], [0.5, 0.4], metric="loss", size="num_layers").says
        ('2 sizes of num_layers do not show a law; give at least 3',)
        >>> fit_curve([1, 2, 4], [0.5, 0.5, 0.5], metric="loss").says
        ('loss is 0.5 at every size: there is no curve to fit',)
    """
    sizes, values = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    points = {"x": tuple(sizes.tolist()), "y": tuple(values.tolist())}
    if sizes.shape != values.shape or not np.isfinite(values).all() or not np.isfinite(sizes).all():
        raise DataError(f"{metric} over {size}: points must be finite and equally many; leave out runs that diverged")
    problem = _problem(sizes, values, metric, size)
    if problem:
        return Curve(**points, fits=(), says=(problem,))
    power, log = (
        fit_law(law, sizes, values, rising=rising, draws=draws, confidence=confidence, seed=seed)
        for law in ("power", "log")
    )
    trend, seen = _trend(log, metric, size)
    says = [trend]
    if seen:
        says += [f"power law: {bound}" for bound in (at_bound(power),) if bound]
        says.append(_comparison(power, log, len(np.unique(sizes))))
    for fit in (power, log):
        if fit.lack_of_fit is not None and fit.lack_of_fit < 0.05:
            says.append(
                f"the sizes' means miss the {fit.law} law by more than the seeds' noise explains "
                f"(p = {fit.lack_of_fit:.2g}), so its intervals are too narrow"
            )
    return Curve(**points, fits=(power, log), says=tuple(says))


def _problem(sizes: Floats, values: Floats, metric: str, size: str) -> str:
    different = len(np.unique(sizes))
    if different < MIN_SIZES:
        return f"{different} size{'s' * (different != 1)} of {size} do not show a law; give at least {MIN_SIZES}"
    if sizes.min() <= 0:
        return f"{size} is {sizes.min():g} at its smallest; both laws need sizes above 0"
    if np.ptp(values) <= 1e-12 * max(1.0, float(np.abs(values).max())):
        return f"{metric} is {values[0]:g} at every size: there is no curve to fit"
    return ""


def _trend(log: Fit, metric: str, size: str) -> tuple[str, bool]:
    """The sentence, and whether there is a trend."""
    if log.intervals is None:
        return f"{metric}: as many constants as points, so no interval; give more sizes or seeds", False
    low, high = log.intervals["slope"]
    interval = f"{log.confidence:.0%} interval of the slope in ln({size}): {low:.2g} to {high:.2g}"
    if low <= 0 <= high:
        return f"no trend of {metric} in {size} shows above the noise ({interval})", False
    return f"{metric} {'rises' if low > 0 else 'falls'} with {size} ({interval})", True


def _comparison(power: Fit, log: Fit, sizes: int) -> str:
    if sizes == MIN_SIZES:
        return "three sizes fix the three constants of a power law, so they cannot tell the laws apart"
    if power.aicc is None or log.aicc is None:
        return "too few points to tell the laws apart; give more sizes or seeds"
    better, difference = (power, log.aicc - power.aicc) if power.aicc < log.aicc else (log, power.aicc - log.aicc)
    if difference < TOLD_APART:
        return f"the points do not tell the laws apart (AICc differs by {difference:.1f}, less than {TOLD_APART:g})"
    return f"the {better.law} law describes the points better (AICc smaller by {difference:.1f})"
