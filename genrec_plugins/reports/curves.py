"""Learning curves: the training loss that TensorBoard was told, and the evaluations that the run kept."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genrec_plugins.reports.runs import RunFacts

Points = tuple[tuple[int, float], ...]


@dataclass(frozen=True, kw_only=True)
class LearningCurve:
    """One run's.

    Args:
        name: of the run.
        loss: (step, training loss of that step's batch), every ``train.log_every`` steps.
        mean_loss: (step, mean training loss of the epoch that ended there).
        valid: metric -> (step, its value on the validation rows).
        best_step: where the weights that were kept come from.
    """

    name: str
    loss: Points
    mean_loss: Points
    valid: Mapping[str, Points]
    best_step: int | None

    @property
    def steps(self) -> int:
        """The last step there is anything of."""
        return max(
            (step for points in (self.loss, self.mean_loss, *self.valid.values()) for step, _ in points), default=0
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        found: dict[str, Any] = {"loss": self.loss, "mean_loss": self.mean_loss}
        return found | {"valid": dict(self.valid), "best_step": self.best_step}


def learning_curve(run: RunFacts) -> LearningCurve:
    """What is known of how a run learned; empty where nothing was written.

    Args:
        run: finished or not.
    """
    best = run.facts.get("best_epoch")
    return LearningCurve(
        name=run.name,
        loss=logged_scalars(run.directory / "tensorboard", "train/loss"),
        mean_loss=_points(run.history, lambda entry: entry.get("train_loss")),
        valid={
            name: points
            for name in ("auc", "logloss", "ne", "calibration", "recall@10", "ndcg@10", "mrr")
            if (points := _points(run.history, lambda entry, name=name: (entry.get("valid") or {}).get(name)))
        },
        best_step=next((entry.get("step") for entry in run.history if entry.get("epoch") == best), None),
    )


def _points(history: Sequence[Mapping[str, Any]], value: Any) -> Points:
    pairs = ((entry.get("step"), value(entry)) for entry in history)
    return tuple((step, float(found)) for step, found in pairs if isinstance(step, int) and isinstance(found, float))


def logged_scalars(directory: Path, tag: str) -> Points:
    """A scalar's points in TensorBoard's files, in order of steps; a step that was logged again counts once, the last.

    Args:
        directory: the files' folder; folders in it are others'.
        tag: the scalar.
    """
    if not any(directory.glob("events.out.tfevents.*")):
        return ()
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(directory), size_guidance={"scalars": 0})
    events.Reload()
    if tag not in events.Tags()["scalars"]:
        return ()
    last = {event.step: event for event in sorted(events.Scalars(tag), key=lambda event: event.wall_time)}
    return tuple((step, float(last[step].value)) for step in sorted(last))
