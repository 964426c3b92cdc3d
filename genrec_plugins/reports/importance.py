"""How much a model needs a field: what it loses on test rows when the field's values are dealt out anew over the rows.

Breiman 2001, "Random forests", section 10. The field alone is shuffled, over all rows and not within a batch, so that
its own distribution stays and what it says about the row goes. A field that repeats another's news can be missed
without loss: importance is that of this model, not of the data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrec_adapters.loader import BatchMaker
from genrec_adapters.prepared import Prepared
from genrec_adapters.rows import Rows
from genrec_plugins.reports.rows import SplitRows
from genrec_plugins.training.metrics import evaluate_predictions
from genrec_plugins.training.reporter import Quiet, Reporter
from genrec_registry import Split

#: rows -> their probabilities ``[N]``
Score = Callable[[Rows], NDArray[np.floating]]


@dataclass(frozen=True, kw_only=True)
class FieldImportance:
    """One field.

    Args:
        field: its name.
        auc_drops: AUC of the rows as they are less that of the shuffled ones, a value a shuffle.
        logloss_rises: logloss of the shuffled ones less that of the rows as they are, likewise.
    """

    field: str
    auc_drops: tuple[float, ...]
    logloss_rises: tuple[float, ...]

    @property
    def auc_drop(self) -> tuple[float, float]:
        """Mean and sample standard deviation over the shuffles."""
        return _spread(self.auc_drops)

    @property
    def logloss_rise(self) -> tuple[float, float]:
        """Mean and sample standard deviation over the shuffles."""
        return _spread(self.logloss_rises)


@dataclass(frozen=True, kw_only=True)
class Importance:
    """All fields.

    Args:
        fields: in the order of the prepared rows.
        rows: that were scored.
        of: rows of the split.
        auc: of the rows as they are.
        logloss: likewise.
    """

    fields: tuple[FieldImportance, ...]
    rows: int
    of: int
    auc: float
    logloss: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        found: dict[str, Any] = {"rows": self.rows, "of": self.of, "auc": self.auc, "logloss": self.logloss}
        found["fields"] = [
            {"field": one.field, "auc_drops": list(one.auc_drops), "logloss_rises": list(one.logloss_rises)}
            for one in self.fields
        ]
        return found


def _spread(values: tuple[float, ...]) -> tuple[float, float]:
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def permutation_importance(
    prepared: Prepared,
    score: Score,
    *,
    split: Split = "test",
    shuffles: int = 3,
    max_rows: int | None = None,
    seed: int = 0,
    reporter: Reporter | None = None,
) -> Importance:
    """Shuffle one field at a time over the rows of a split, and measure what is lost.

    Scores ``1 + fields * shuffles`` times the rows. All fields see the same shuffles.

    Args:
        prepared: the rows.
        score: the model.
        split: which rows.
        shuffles: of each field, one at least.
        max_rows: score a draw of so many where there are more; all if None.
        seed: of the draw and of the shuffles.
        reporter: told of progress.
    """
    reporter = reporter or Quiet()
    random = np.random.default_rng(seed)
    chosen = SplitRows.load(prepared, split)
    of = len(chosen.rows)
    if max_rows is not None and of > max_rows:
        chosen = chosen.take(np.sort(random.choice(of, max_rows, replace=False)))
    count = len(chosen.rows)
    labels = chosen.rows.labels
    before = evaluate_predictions(labels, score(chosen.rows))
    orders = [random.permutation(count) for _ in range(shuffles)]
    fields = []
    for done, field in enumerate(prepared.fields, start=1):
        shuffled = [evaluate_predictions(labels, score(chosen.with_field_of(field, order))) for order in orders]
        fields.append(
            FieldImportance(
                field=field.name,
                auc_drops=tuple(before.auc - after.auc for after in shuffled),
                logloss_rises=tuple(after.logloss - before.logloss for after in shuffled),
            )
        )
        reporter.rows(stage="importance", rows=done * shuffles * count, total=len(prepared.fields) * shuffles * count)
    return Importance(fields=tuple(fields), rows=count, of=of, auc=before.auc, logloss=before.logloss)


def batches_of(rows: Rows, prepared: Prepared, batch_size: int) -> Iterator[Any]:
    """Rows in batches, in their order.

    Args:
        rows: of ``prepared``'s features.
        prepared: says which features.
        batch_size: rows a batch.
    """
    make = BatchMaker(prepared.sparse_features, batch_size)
    for start in range(0, len(rows), batch_size):
        yield make(rows.take(np.arange(start, min(start + batch_size, len(rows)))))
