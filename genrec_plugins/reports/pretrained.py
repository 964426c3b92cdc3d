"""What a report says about a pre-training run: the ranks of the right items, cut into groups, and what each part of a
question is worth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from genrec_adapters.behaviour.splits import EvalSet
from genrec_plugins.lum.data import evenly
from genrec_plugins.lum.evaluate import metrics_of, question_ranks
from genrec_plugins.lum.run import LumRun
from genrec_plugins.lum.trainer import asked_of
from genrec_plugins.reports.frequency import BUCKETS, EDGES
from genrec_plugins.training.reporter import Reporter
from genrec_plugins.training.trainer import pick_device

Ranks = npt.NDArray[np.float64]
#: K of what is told
K = 10
#: history lengths: the first of each bucket
LENGTHS = (0, 1, 3, 6, 11, 21, 51, 101, 201, 501)
#: a question costs a forward over a whole history: one stands for so many of the rows that may be shuffled
ROWS_A_QUESTION = 20


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Some questions, and how well they are answered.

    Args:
        name: which questions.
        questions: how many.
        recall: share of them whose right item is among the first ``K``.
        recall_error: its standard error.
        ndcg: NDCG@K.
        mrr: mean of 1 / place.
    """

    name: str
    questions: int
    recall: float
    recall_error: float
    ndcg: float
    mrr: float


@dataclass(frozen=True, kw_only=True)
class Loss:
    """What is lost when a part of the questions is shuffled, once a shuffle.

    Args:
        part: ``items``, ``order``, ``event NAME`` or ``asked NAME``.
        recall_drops: of recall@K.
        ndcg_drops: of NDCG@K.
    """

    part: str
    recall_drops: tuple[float, ...]
    ndcg_drops: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Answered:
    """A pre-training run's answers.

    Args:
        split: of the questions.
        targets: ``[N]`` catalogue rows of the right items.
        ranks: ``[N]``, 0 is best.
        overall: all questions.
        groups: what they were cut by -> the groups that have questions.
        losses: of the parts of a question; empty if they were not asked for.
        shuffled: questions that were asked for ``losses``.
    """

    split: str
    targets: npt.NDArray[Any]
    ranks: Ranks
    overall: Answers
    groups: Mapping[str, Sequence[Answers]]
    losses: Sequence[Loss]
    shuffled: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        found: dict[str, Any] = {"split": self.split, "overall": asdict(self.overall), "shuffled": self.shuffled}
        found["groups"] = {title: [asdict(one) for one in groups] for title, groups in self.groups.items()}
        return found | {"losses": [asdict(one) for one in self.losses]}


def answers_of(name: str, ranks: Ranks) -> Answers:
    """Measure some questions.

    Args:
        name: which.
        ranks: ``[M]``, at least one.

    Example::

        >>> answers_of("all", np.array([0.0, 99.0, 1.0, 50.0])).recall
        0.5
    """
    found = metrics_of(ranks, (K,))
    recall = found[f"recall@{K}"]
    return Answers(
        name=name,
        questions=len(ranks),
        recall=recall,
        recall_error=math.sqrt(recall * (1 - recall) / len(ranks)),
        ndcg=found[f"ndcg@{K}"],
        mrr=found["mrr"],
    )


def recall_difference(ours: Ranks, theirs: Ranks) -> tuple[float, float]:
    """Recall@K less that of other ranks for the same questions, and its standard error.

    Args:
        ours: ``[M]``.
        theirs: ``[M]``.

    Example::

        >>> recall_difference(np.array([0.0, 99.0, 1.0]), np.array([0.0, 99.0, 99.0]))[0]
        0.3333333333333333
    """
    gained = (ours < K).astype(np.float64) - (theirs < K)
    return float(gained.mean()), float(gained.std(ddof=1) / math.sqrt(len(gained))) if len(gained) > 1 else math.nan


def study_answers(run: LumRun, *, shuffles: int, max_rows: int, values: int, seed: int, reporter: Reporter) -> Answered:
    """Ask a run its test questions (validation questions where there are none), and cut the ranks into groups.

    Args:
        run: the run.
        shuffles: of each part of the questions; 0 leaves the losses out.
        max_rows: ``ROWS_A_QUESTION`` times the questions whose parts are shuffled, at most.
        values: of a condition that get a group of their own.
        seed: of the shuffles.
        reporter: told of progress.

    Raises:
        GenrecError: weights or data are not those of the run, or no questions were split off.
    """
    data, model, device = run.data, run.model(), pick_device(run.run.config.train.device)
    split = "test" if len(data.test) else "valid"
    questions, asked = (data.test if split == "test" else data.valid), asked_of(run.run, data)

    def ranks_of(changed: EvalSet, chosen: npt.NDArray[np.int64] | None = None) -> Ranks:
        return question_ranks(model, changed, asked, device, chosen=chosen, reporter=reporter, name=split)

    ranks = ranks_of(questions)
    groups = {
        "training events of the right item": by_bucket(data.counts[questions.targets], EDGES, BUCKETS[1:], ranks),
        "events of the history": by_bucket(questions.histories.lengths, LENGTHS, _spans(LENGTHS), ranks),
    }
    for name, ids in questions.target_conditions.items():
        texts = ("unknown", *data.conditions[name].values[1:])
        groups[f"{name} of the right item"] = by_value(ids, texts, values, ranks)
    chosen = evenly(questions, max(1, max_rows // ROWS_A_QUESTION))
    losses: list[Loss] = []
    if shuffles:
        own = asked.fixed is None
        losses = list(losses_of(questions, ranks[chosen], lambda one: ranks_of(one, chosen), shuffles, seed, own=own))
    return Answered(
        split=split,
        targets=questions.targets,
        ranks=ranks,
        overall=answers_of("all", ranks),
        groups=groups,
        losses=losses,
        shuffled=len(chosen) if losses else 0,
    )


def _spans(firsts: Sequence[int]) -> list[str]:
    """Names of buckets by their first numbers: ``0``, ``1 to 2``, ..., ``501 up``."""
    ends = [after - 1 for after in firsts[1:]]
    return [str(a) if a == b else f"{a} to {b}" for a, b in zip(firsts, ends, strict=False)] + [f"{firsts[-1]} up"]


def by_bucket(counts: npt.NDArray[Any], firsts: Sequence[int], names: Sequence[str], ranks: Ranks) -> list[Answers]:
    """Questions by a count.

    Args:
        counts: ``[N]``.
        firsts: the first count of each bucket.
        names: of the buckets.
        ranks: ``[N]``.

    Example::

        >>> [(one.name, one.questions) for one in by_bucket(np.array([0, 7, 8]), (0, 1), ("none", "some"), np.zeros(3))]
        [('none', 1), ('some', 2)]
    """
    place = np.searchsorted(firsts, counts, side="right") - 1
    return [answers_of(names[number], ranks[place == number]) for number in np.unique(place).tolist()]


def by_value(ids: npt.NDArray[Any], texts: Sequence[str], most: int, ranks: Ranks) -> list[Answers]:
    """Questions by the most frequent ids, the others together.

    Args:
        ids: ``[N]``.
        texts: of each id.
        most: ids that get a group.
        ranks: ``[N]``.
    """
    known, counts = np.unique(ids, return_counts=True)
    common = known[np.argsort(-counts, kind="stable")][:most].tolist()
    found = [answers_of(texts[value], ranks[ids == value]) for value in common]
    others = ~np.isin(ids, common)
    return [*found, answers_of("others", ranks[others])] if others.any() else found


def losses_of(
    questions: EvalSet, before: Ranks, ranks_of: Callable[[EvalSet], Ranks], shuffles: int, seed: int, *, own: bool
) -> Iterator[Loss]:
    """Shuffle one part of the questions at a time, and measure what is lost.

    Args:
        questions: whose parts are shuffled, over all of them.
        before: ranks of the questions that ``ranks_of`` asks.
        ranks_of: asks.
        shuffles: of each part.
        seed: of the shuffles; all parts see the same.
        own: whether each question is asked under its target's conditions; those are a part, then.
    """
    whole = metrics_of(before, (K,))
    for part, change in _parts(questions, own=own).items():
        found = []
        for number in range(shuffles):
            random = np.random.default_rng((seed, number))
            found.append(metrics_of(ranks_of(change(random)), (K,)))
        recalls, ndcgs = (tuple(whole[f"{m}@{K}"] - one[f"{m}@{K}"] for one in found) for m in ("recall", "ndcg"))
        yield Loss(part=part, recall_drops=recalls, ndcg_drops=ndcgs)


Change = Callable[[np.random.Generator], EvalSet]


def _parts(questions: EvalSet, *, own: bool) -> dict[str, Change]:
    """Name of each part -> questions in which it is shuffled."""
    parts: dict[str, Change] = {"items": partial(_other_items, questions), "order": partial(_other_order, questions)}
    for name in questions.histories.conditions:
        parts[f"event {name}"] = partial(_other_event, questions, name)
    for name in questions.target_conditions if own else ():
        parts[f"asked {name}"] = partial(_other_asked, questions, name)
    return parts


def _other_items(questions: EvalSet, random: np.random.Generator) -> EvalSet:
    histories = questions.histories
    return replace(questions, histories=replace(histories, items=random.permutation(histories.items)))


def _other_order(questions: EvalSet, random: np.random.Generator) -> EvalSet:
    """Events stay in their history."""
    histories = questions.histories
    order = np.lexsort((random.random(len(histories.items)), histories.owners))
    conditions = {name: ids[order] for name, ids in histories.conditions.items()}
    return replace(questions, histories=replace(histories, items=histories.items[order], conditions=conditions))


def _other_event(questions: EvalSet, name: str, random: np.random.Generator) -> EvalSet:
    histories = questions.histories
    conditions = {**histories.conditions, name: random.permutation(histories.conditions[name])}
    return replace(questions, histories=replace(histories, conditions=conditions))


def _other_asked(questions: EvalSet, name: str, random: np.random.Generator) -> EvalSet:
    asked = {**questions.target_conditions, name: random.permutation(questions.target_conditions[name])}
    return replace(questions, target_conditions=asked)
