"""What an export costs: metrics of the trained model and of the exported one on the same rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from genrec_adapters.loader import BatchLoader
from genrec_adapters.prepared import Prepared
from genrec_plugins.serving.runtimes import Score, eager_score
from genrec_plugins.training.metrics import evaluate_predictions
from genrec_registry import Split

#: on which rows the two are compared, where there are any
SPLITS: tuple[Split, ...] = ("valid", "test")


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Metrics of one split before and after.

    Args:
        split: which rows.
        trained: of the trained model, in fp32.
        exported: of the exported one.
        max_difference: largest difference of a row's probability.
    """

    split: str
    trained: dict[str, Any]
    exported: dict[str, Any]
    max_difference: float

    @property
    def auc_cost(self) -> float | None:
        """How much AUC the export loses; None where a split has one class alone."""
        before, after = self.trained["auc"], self.exported["auc"]
        return None if before is None or after is None else before - after

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "trained": self.trained,
            "exported": self.exported,
            "auc_cost": self.auc_cost,
            "max_difference": self.max_difference,
        }


def measure(trained: nn.Module, exported: Score, prepared: Prepared, batch_size: int) -> list[Quality]:
    """Compare two models on validation and test rows.

    Args:
        trained: the bare DLRM in eval mode, on the CPU.
        exported: scores of batches.
        prepared: the rows.
        batch_size: rows scored at a time.
    """
    before = eager_score(trained)
    found = []
    for split in SPLITS:
        if not prepared.rows(split):
            continue
        labels: list[NDArray[np.float32]] = []
        scores: list[NDArray[np.float32]] = []
        for batch in BatchLoader(prepared, split, batch_size):
            labels.append(batch.labels.float().numpy())
            scores.append(np.stack([before(batch), exported(batch)]))
        label, (old, new) = np.concatenate(labels), np.concatenate(scores, axis=1)
        found.append(
            Quality(
                split=split,
                trained=_finite(evaluate_predictions(label, old).as_dict()),
                exported=_finite(evaluate_predictions(label, new).as_dict()),
                max_difference=float(np.abs(old - new).max()),
            )
        )
    return found


def _finite(metrics: dict[str, float]) -> dict[str, Any]:
    """NaN is no JSON."""
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}
