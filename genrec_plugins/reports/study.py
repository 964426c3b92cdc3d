"""Everything a report says about one run, computed: predictions, slices, importance, and what FAT learned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from genrec_adapters.rows import Rows
from genrec_plugins.lum.run import LumRun
from genrec_plugins.reports.curves import LearningCurve, learning_curve
from genrec_plugins.reports.fat import Routes, field_routes, pair_table
from genrec_plugins.reports.frequency import Frequencies, by_frequency, training_counts
from genrec_plugins.reports.groups import Group, group_of
from genrec_plugins.reports.importance import Importance, batches_of, permutation_importance
from genrec_plugins.reports.pretrained import Answered, study_answers
from genrec_plugins.reports.rows import SplitRows
from genrec_plugins.reports.runs import RunFacts
from genrec_plugins.reports.slices import FieldSlices, field_slices
from genrec_plugins.reports.values import value_names
from genrec_plugins.training.evaluation import score
from genrec_plugins.training.metrics import Floats, calibration_curve
from genrec_plugins.training.reporter import Quiet, Reporter
from genrec_plugins.training.run import TrainedRun
from genrec_plugins.training.trainer import pick_device
from genrec_registry import GenrecError, Split

#: why importance is not there when it was not asked for
NOT_ASKED = "left out, as --shuffles is 0"


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """How much to compute.

    Args:
        shuffles: of each field, for its importance; 0 leaves it out.
        max_rows: rows whose fields are shuffled, at most.
        slices: values a field that get a slice of their own.
        seed: of shuffles and draws.
    """

    shuffles: int = 3
    max_rows: int = 20_000
    slices: int = 5
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """A model's predictions, and the groups they were cut into.

    Args:
        split: of the rows; ``test`` unless there are none.
        labels: ``[N]``.
        probabilities: ``[N]``.
        overall: all rows.
        slices: by field.
        frequencies: by training rows of the ids.
        importance: of the fields, or why it is not there.
        pairs: FAT's field-pair table, or why there is none.
        routes: FAT's routes, or why there are none.
        tokens: names of the tokens.
    """

    split: Split
    labels: Floats
    probabilities: Floats
    overall: Group
    slices: Sequence[FieldSlices]
    frequencies: Frequencies
    importance: Importance | str
    pairs: dict[str, Any] | str
    routes: list[Routes] | str
    tokens: Sequence[str]

    @property
    def calibration(self) -> tuple[Floats, Floats, Any]:
        """Mean prediction, observed rate and rows of bins of equal row counts."""
        return calibration_curve(self.labels, self.probabilities)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        predicted, observed, rows = (part.tolist() for part in self.calibration)
        found: dict[str, Any] = {"split": self.split, "overall": self.overall.as_dict()}
        found["calibration"] = {"predicted": predicted, "observed": observed, "rows": rows}
        found["slices"] = [one.as_dict() for one in self.slices]
        found["frequency"] = self.frequencies.as_dict()
        found["importance"] = None if isinstance(self.importance, str) else self.importance.as_dict()
        found["pairs"] = None if isinstance(self.pairs, str) else self.pairs
        routes = [] if isinstance(self.routes, str) else self.routes
        found["routes"] = [{"layer": one.layer, "kind": one.kind, "shares": one.shares.tolist()} for one in routes]
        return found


@dataclass(frozen=True, kw_only=True)
class RunStudy:
    """One run.

    Args:
        facts: what its directory says.
        curve: how it learned.
        predicted: what a ranker does; None where ``problem`` says why.
        answered: what a pre-training run does, in its place.
        problem: why neither is there.
    """

    facts: RunFacts
    curve: LearningCurve
    predicted: Predicted | None = None
    answered: Answered | None = None
    problem: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        found: dict[str, Any] = {"run": self.facts.as_dict(), "curve": self.curve.as_dict(), "problem": self.problem}
        found["answered"] = self.answered.as_dict() if self.answered else None
        return found | {"predicted": self.predicted.as_dict() if self.predicted else None}


def study_run(facts: RunFacts, options: StudyOptions | None = None, reporter: Reporter | None = None) -> RunStudy:
    """Look into a run; what is wrong with it becomes a sentence, as other runs are to be seen beside it.

    Args:
        facts: of :func:`~genrec_plugins.reports.runs.read_run`.
        options: how much to compute.
        reporter: told of progress.
    """
    reporter = reporter or Quiet()
    curve = learning_curve(facts)
    if facts.status == "broken":
        return RunStudy(facts=facts, curve=curve, problem=facts.note)
    if facts.kind == "other":
        return RunStudy(facts=facts, curve=curve, problem="neither of 'genrec train' nor of 'genrec lum pretrain'")
    options = options or StudyOptions()
    reporter.message(f"{facts.name}: predictions")
    try:
        if facts.kind == "lum":
            return RunStudy(facts=facts, curve=curve, answered=_answered(facts, options, reporter))
        predicted = _predicted(TrainedRun.open(facts.directory), options, reporter)
    except GenrecError as error:
        return RunStudy(facts=facts, curve=curve, problem=str(error))
    if predicted is None:
        return RunStudy(facts=facts, curve=curve, problem="neither test nor validation rows were split off")
    return RunStudy(facts=facts, curve=curve, predicted=predicted)


def _predicted(trained: TrainedRun, options: StudyOptions, reporter: Reporter) -> Predicted | None:
    prepared, settings = trained.prepared, trained.run.config.train
    splits: tuple[Split, ...] = ("test", "valid")
    split = next((name for name in splits if prepared.rows(name)), None)
    if split is None:
        return None
    model, device = trained.model(), pick_device(settings.device)
    loaded = SplitRows.load(prepared, split)

    def probabilities_of(rows: Rows) -> Floats:
        batches = batches_of(rows, prepared, settings.eval_batch_size)
        return score(model, batches, settings, device, name=f"{split} split")[1]

    labels, probabilities = loaded.rows.labels, probabilities_of(loaded.rows)
    importance: Importance | str = NOT_ASKED
    if options.shuffles:
        importance = permutation_importance(
            prepared,
            probabilities_of,
            split=split,
            shuffles=options.shuffles,
            max_rows=options.max_rows,
            seed=options.seed,
            reporter=reporter,
        )
    names = value_names(prepared, trained.run.registry)
    return Predicted(
        split=split,
        labels=labels,
        probabilities=probabilities,
        overall=group_of("all", labels, probabilities),
        slices=field_slices(loaded, labels, probabilities, names, options.slices),
        frequencies=by_frequency(loaded, labels, probabilities, training_counts(prepared)),
        importance=importance,
        pairs=pair_table(model.model),
        routes=field_routes(model.model),
        tokens=list(model.model.token_names),
    )


def _answered(facts: RunFacts, options: StudyOptions, reporter: Reporter) -> Answered:
    return study_answers(
        LumRun.open(facts.directory),
        shuffles=options.shuffles,
        max_rows=options.max_rows,
        values=options.slices,
        seed=options.seed,
        reporter=reporter,
    )


def comparable(studies: Sequence[RunStudy]) -> list[RunStudy]:
    """The studies whose rows, in their order, are those of the first that predicted any; the best AUC first."""
    with_rows = [one for one in studies if one.predicted is not None]
    if not with_rows:
        return []
    first = with_rows[0]
    alike = [one for one in with_rows if _same_rows(one, first)]
    return sorted(alike, key=lambda one: -_auc(one))


def _same_rows(one: RunStudy, other: RunStudy) -> bool:
    assert one.predicted is not None
    assert other.predicted is not None
    same = (one.facts.identity, one.predicted.split) == (other.facts.identity, other.predicted.split)
    return same and np.array_equal(one.predicted.labels, other.predicted.labels)


def _auc(study: RunStudy) -> float:
    assert study.predicted is not None
    auc = study.predicted.overall.auc
    return auc if math.isfinite(auc) else -math.inf
