"""Exact metrics over a whole split: AUC, logloss, normalised entropy, calibration. No windows, no buckets."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from genrec_registry import DataError

Floats = NDArray[np.floating]


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """What one evaluation found.

    Args:
        auc: area under the ROC curve; ties count half. NaN if only one class is present.
        logloss: mean binary cross-entropy, nats.
        ne: normalised entropy (He et al. 2014, "Practical lessons from predicting clicks on ads at Facebook", eq. 3):
            logloss over that of the constant base-rate predictor. Below 1 is better than knowing the base rate.
        calibration: sum of predictions over sum of labels; 1 is calibrated, above 1 predicts too much.
        rows: rows evaluated.
    """

    auc: float
    logloss: float
    ne: float
    calibration: float
    rows: int

    def as_dict(self) -> dict[str, float]:
        """The metrics by name."""
        return asdict(self)

    def named(self, split: str) -> dict[str, float]:
        """The metrics as trackers know them, as ``valid/auc``; without the rows."""
        return {f"{split}/{name}": value for name, value in asdict(self).items() if name != "rows"}


def evaluate_predictions(labels: Floats, probabilities: Floats) -> Metrics:
    """Exact metrics of predictions.

    Args:
        labels: ``[N]`` of 0 and 1.
        probabilities: ``[N]`` in [0, 1]; computed in float64, clipped to [1e-15, 1 - 1e-15] in the logarithms.

    Raises:
        DataError: there are no rows, the lengths differ, or a prediction is NaN or infinite.

    Example::

        >>> found = evaluate_predictions(np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8]))
        >>> round(found.auc, 4), round(found.logloss, 4), round(found.calibration, 4)
        (0.75, 0.4723, 0.825)
    """
    labels = np.asarray(labels, dtype=np.float64)
    probabilities = np.asarray(probabilities, dtype=np.float64)
    if labels.shape != probabilities.shape or labels.ndim != 1 or labels.size == 0:
        raise DataError(
            f"metrics: found {labels.shape} labels and {probabilities.shape} predictions, expected as many of both"
        )
    bad = ~np.isfinite(probabilities)
    if bad.any():
        raise DataError(
            f"metrics: {bad.sum()} of {bad.size} predictions are NaN or infinite, the first at row {bad.argmax() + 1}; "
            "the model diverged, lower the learning rate"
        )
    clipped = np.clip(probabilities, 1e-15, 1 - 1e-15)
    logloss = float(-np.mean(np.where(labels > 0, np.log(clipped), np.log1p(-clipped))))
    rate = float(labels.mean())
    both = 0 < rate < 1
    entropy = -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate)) if both else float("nan")
    auc = float("nan")
    if both:
        from sklearn.metrics import roc_auc_score

        auc = float(roc_auc_score(labels, probabilities))
    total = float(labels.sum())
    return Metrics(
        auc=auc,
        logloss=logloss,
        ne=float(logloss / entropy),
        calibration=float(probabilities.sum() / total) if total else float("nan"),
        rows=int(labels.size),
    )


def calibration_curve(labels: Floats, probabilities: Floats, bins: int = 20) -> tuple[Floats, Floats, NDArray[np.intp]]:
    """Mean prediction and observed rate in bins of equal row counts.

    Args:
        labels: ``[N]``.
        probabilities: ``[N]``.
        bins: number of bins.

    Returns:
        Mean prediction, observed rate and rows of each bin, in order of prediction.

    Example::

        >>> labels, probabilities = np.array([0, 1, 0, 1]), np.array([0.1, 0.2, 0.7, 0.9])
        >>> predicted, observed, rows = calibration_curve(labels, probabilities, bins=2)
        >>> predicted.round(2).tolist(), observed.tolist(), rows.tolist()
        ([0.15, 0.8], [0.5, 0.5], [2, 2])
    """
    order = np.argsort(probabilities, kind="stable")
    parts = [part for part in np.array_split(order, min(bins, len(order))) if part.size]
    predicted = np.array([np.mean(probabilities[part], dtype=np.float64) for part in parts])
    observed = np.array([np.mean(labels[part], dtype=np.float64) for part in parts])
    return predicted, observed, np.array([part.size for part in parts])
