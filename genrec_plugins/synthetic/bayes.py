"""The best that any model can reach: metrics of the true probabilities on the labels drawn from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

#: rows up to which the AUC is exact; beyond, it comes from a histogram and its error is bounded
EXACT_ROWS = 4_000_000
BINS = 1 << 20


@dataclass(frozen=True, kw_only=True)
class BayesMetrics:
    """What the true probabilities score on the rows.

    Args:
        rows: number of rows.
        ctr: share of clicks.
        auc: area under the ROC curve.
        auc_method: ``exact``, or ``histogram``.
        auc_error_bound: the exact AUC lies within this distance; 0 if exact.
        logloss: mean cross-entropy in nats.
        normalized_entropy: logloss divided by that of the constant ``ctr``.
    """

    rows: int
    ctr: float
    auc: float
    auc_method: str
    auc_error_bound: float
    logloss: float
    normalized_entropy: float


def bayes_metrics(labels: ArrayLike, probabilities: ArrayLike) -> BayesMetrics:
    """Exact metrics of rows in memory.

    Args:
        labels: ``[N]`` of 0 and 1.
        probabilities: ``[N]`` true probabilities.

    Example::

        >>> bayes_metrics([0, 0, 1, 1], [0.1, 0.6, 0.5, 0.9]).auc
        0.75
    """
    accumulator = BayesAccumulator(exact=True)
    accumulator.update(np.asarray(labels), np.asarray(probabilities, dtype=np.float64))
    return accumulator.finish()


class BayesAccumulator:
    """Metrics over chunks of rows.

    Args:
        exact: keep all rows for an exact AUC (9 bytes a row); otherwise a histogram of BINS bins over the
            probability, whose ties within a bin bound the error.
    """

    def __init__(self, *, exact: bool) -> None:
        self._exact = exact
        self._labels: list[NDArray[np.bool_]] = []
        self._probabilities: list[NDArray[np.float64]] = []
        self._histogram = np.zeros((2, BINS), dtype=np.int64)
        self._rows = self._clicks = 0
        self._loss = 0.0

    def update(self, labels: NDArray[np.generic], probabilities: NDArray[np.float64]) -> None:
        """Add rows.

        Args:
            labels: ``[N]`` of 0 and 1.
            probabilities: ``[N]``.
        """
        clicked = labels.astype(np.bool_)
        self._rows += len(clicked)
        self._clicks += int(clicked.sum())
        self._loss -= float(np.log(np.where(clicked, probabilities, 1.0 - probabilities)).sum())
        if self._exact:
            self._labels.append(clicked)
            self._probabilities.append(probabilities)
        else:
            bins = np.minimum((probabilities * BINS).astype(np.int64), BINS - 1)
            self._histogram[0] += np.bincount(bins[~clicked], minlength=BINS)
            self._histogram[1] += np.bincount(bins[clicked], minlength=BINS)

    def finish(self) -> BayesMetrics:
        """The metrics; AUC is NaN when all labels are equal."""
        negatives, positives = self._ordered_counts()
        pairs = float(negatives.sum()) * float(positives.sum())
        below = np.cumsum(negatives) - negatives
        won = float((positives * (below + 0.5 * negatives)).sum())
        ties = 0.0 if self._exact else float((positives * negatives).sum())
        rate = self._clicks / self._rows if self._rows else float("nan")
        entropy = -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate)) if 0 < rate < 1 else float("nan")
        loss = self._loss / self._rows if self._rows else float("nan")
        return BayesMetrics(
            rows=self._rows,
            ctr=rate,
            auc=won / pairs if pairs else float("nan"),
            auc_method="exact" if self._exact else "histogram",
            auc_error_bound=0.5 * ties / pairs if pairs else 0.0,
            logloss=loss,
            normalized_entropy=float(loss / entropy),
        )

    def _ordered_counts(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Negatives and positives at each distinct probability (or bin), in rising order."""
        if not self._exact:
            return self._histogram[0], self._histogram[1]
        if not self._labels:
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
        clicked = np.concatenate(self._labels)
        distinct, group = np.unique(np.concatenate(self._probabilities), return_inverse=True)
        positives = np.bincount(group[clicked], minlength=len(distinct))
        return np.bincount(group, minlength=len(distinct)) - positives, positives
