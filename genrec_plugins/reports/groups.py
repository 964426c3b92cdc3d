"""Metrics of groups of rows, with the AUC's standard error, and the difference of two models on the same rows.

The error is DeLong's (DeLong, DeLong and Clarke-Pearson 1988, "Comparing the areas under two or more correlated
receiver operating characteristic curves"), computed from ranks.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrec_plugins.training.metrics import Floats, evaluate_predictions

#: of either class a group needs so many rows, or its AUC is left out
MIN_OF_A_CLASS = 10
#: normal quantile of a 95 % interval
Z95 = 1.959963984540054


@dataclass(frozen=True, kw_only=True)
class Group:
    """Some rows and how well they are predicted.

    Args:
        name: which rows.
        rows: how many.
        positives: rows with label 1.
        auc: NaN with fewer than ``MIN_OF_A_CLASS`` rows of a class.
        auc_error: its standard error (DeLong); NaN as well.
        logloss: mean binary cross-entropy.
        calibration: sum of predictions over sum of labels; NaN without positives.
    """

    name: str
    rows: int
    positives: int
    auc: float
    auc_error: float
    logloss: float
    calibration: float

    @property
    def measured(self) -> bool:
        """Whether there are enough rows of both classes for an AUC."""
        return math.isfinite(self.auc)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def group_of(name: str, labels: Floats, probabilities: Floats) -> Group:
    """Measure some rows.

    Args:
        name: which rows.
        labels: ``[N]``, at least one.
        probabilities: ``[N]``.

    Example::

        >>> labels, scores = np.array([0, 1] * 20), np.array([0.25, 0.5, 0.5, 0.75] * 10)
        >>> group = group_of("all", labels, scores)
        >>> group.rows, group.positives, group.auc, round(group.auc_error, 4)
        (40, 20, 0.875, 0.0406)
    """
    metrics = evaluate_predictions(labels, probabilities)
    positives = int(np.asarray(labels).sum())
    enough = min(positives, metrics.rows - positives) >= MIN_OF_A_CLASS
    return Group(
        name=name,
        rows=metrics.rows,
        positives=positives,
        auc=metrics.auc if enough else math.nan,
        auc_error=auc_error(labels, probabilities) if enough else math.nan,
        logloss=metrics.logloss,
        calibration=metrics.calibration,
    )


def placements(labels: Floats, scores: Floats) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """For each positive the share of negatives below it, for each negative that of positives above it; ties half.

    Both means are the AUC.

    Args:
        labels: ``[N]``, some of either class.
        scores: ``[N]``.

    Example::

        >>> placements(np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8]))
        (array([0.5, 1. ]), array([1. , 0.5]))
    """
    from scipy.stats import rankdata

    positive = np.asarray(labels) > 0
    ranks = rankdata(scores)
    own = {True: rankdata(scores[positive]), False: rankdata(scores[~positive])}
    above = (ranks[positive] - own[True]) / max(1, int((~positive).sum()))
    below = (ranks[~positive] - own[False]) / max(1, int(positive.sum()))
    return above, 1 - below


def auc_error(labels: Floats, scores: Floats) -> float:
    """Standard error of the AUC; NaN with fewer than two rows of a class.

    Args:
        labels: ``[N]``.
        scores: ``[N]``.
    """
    return _error(*placements(labels, scores))


def auc_difference(labels: Floats, scores: Floats, others: Floats) -> tuple[float, float]:
    """AUC of ``scores`` less that of ``others`` on the same rows, and its standard error.

    Args:
        labels: ``[N]``, some of either class.
        scores: ``[N]``.
        others: ``[N]``.

    Example::

        >>> labels = np.array([0, 0, 1, 1])
        >>> auc_difference(labels, np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.1, 0.4, 0.35, 0.8]))
        (0.25, 0.3535533905932738)
    """
    ours, theirs = placements(labels, scores), placements(labels, others)
    positives, negatives = ours[0] - theirs[0], ours[1] - theirs[1]
    return float(positives.mean()), _error(positives, negatives)


def _error(positives: NDArray[np.float64], negatives: NDArray[np.float64]) -> float:
    if min(positives.size, negatives.size) < 2:
        return math.nan
    return float(np.sqrt(positives.var(ddof=1) / positives.size + negatives.var(ddof=1) / negatives.size))
