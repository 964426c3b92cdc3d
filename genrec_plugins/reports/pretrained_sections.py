"""The parts of the page that are about pre-training runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from genrec_plugins.reports import plots
from genrec_plugins.reports.curves import LearningCurve
from genrec_plugins.reports.groups import Z95
from genrec_plugins.reports.layout import Plot, Section, Table, draw
from genrec_plugins.reports.pretrained import Answered, Answers, K, recall_difference
from genrec_plugins.reports.runs import RunFacts

if TYPE_CHECKING:
    from genrec_plugins.reports.study import RunStudy

HEADER = ("questions", f"recall@{K}", f"NDCG@{K}", "MRR")


def pretraining_curves(curves: Sequence[LearningCurve]) -> list[Plot]:
    """The learning curves in one figure; none without curves."""
    caption = "Pre-training: loss, and answers to the validation questions"
    return [draw("pretraining", caption, plots.pretraining_figure, curves)] if curves else []


def answers_cells(answers: Answers) -> list[str]:
    """In the columns of ``HEADER``; the recall with half its 95 % interval."""
    recall = f"{answers.recall:.4f} ± {Z95 * answers.recall_error:.4f}"
    return [f"{answers.questions:,}", recall, f"{answers.ndcg:.4f}", f"{answers.mrr:.4f}"]


def paired_answers(studies: Sequence[RunStudy]) -> list[Table]:
    """Recall of each pre-training run against the best one's, on the same questions; none with fewer than two."""
    asked = [(study.facts.name, study.answered) for study in studies if study.answered is not None]
    alike = [(name, one) for name, one in asked if np.array_equal(one.targets, asked[0][1].targets)]
    if len(alike) < 2:
        return []
    best, *others = sorted(alike, key=lambda pair: -pair[1].overall.recall)
    rows = []
    for name, one in others:
        difference, error = recall_difference(one.ranks, best[1].ranks)
        low, high = difference - Z95 * error, difference + Z95 * error
        told = "yes" if low > 0 or high < 0 else "no"
        rows.append([name, f"{difference:+.5f}", f"{low:+.5f} to {high:+.5f}", told])
    header = ["run", f"recall@{K} less that of {best[0]}", "95 % interval", "told apart"]
    caption = f"On the same {best[1].split} questions; a run with another seed may differ by more"
    return [Table(header=header, rows=rows, caption=caption)]


def answered_sections(facts: RunFacts, found: Answered, key: str) -> list[Section]:
    """What is said of one pre-training run alone.

    Args:
        facts: of its directory.
        found: its answers.
        key: unique in the page.
    """
    cells = ", ".join(f"{name} {text}" for name, text in zip(HEADER, answers_cells(found.overall), strict=True))
    says = [f"{facts.model}; {found.split} {cells}.", "A question: which item comes next, among all of the catalogue?"]
    drawn = [
        draw(f"{key}-answers-{number}", f"By {title}", plots.answers_figure, groups, title)
        for number, (title, groups) in enumerate(found.groups.items())
    ]
    rows = [[title, one.name, *answers_cells(one)] for title, groups in found.groups.items() for one in groups]
    table = Table(header=["by", "group", *HEADER], rows=rows, caption="All groups", folded=True)
    groups = Section(key=f"{key}-answers", title="Answers by group", level=3, plots=drawn, tables=[table])
    return [Section(key=key, title=facts.name, says=says), groups, _losses_section(found, key)]


def _losses_section(found: Answered, key: str) -> Section:
    """What is lost without a part of the questions."""
    title = "Importance of a question's parts, by permutation"
    if not found.losses:
        return Section(key=f"{key}-parts", title=title, level=3, missing="left out, as --shuffles is 0")
    rows = [
        [one.part, _spread(one.recall_drops), _spread(one.ndcg_drops)]
        for one in sorted(found.losses, key=lambda one: -float(np.mean(one.recall_drops)))
    ]
    header = ["part", f"recall@{K} lost", f"NDCG@{K} lost"]
    drawn = "" if found.shuffled == len(found.ranks) else f", evenly chosen from {len(found.ranks):,}"
    says = (
        f"One part at a time is dealt out anew, for {found.shuffled:,} {found.split} questions{drawn}: which items the "
        "histories have, the order of their events, what an event says beside its item, and what is asked for. Mean "
        f"and standard deviation over {len(found.losses[0].recall_drops)} shuffles."
    )
    return Section(
        key=f"{key}-parts",
        title=title,
        level=3,
        says=[says],
        plots=[draw(f"{key}-parts", f"Recall@{K} lost without a part", plots.losses_figure, found.losses)],
        tables=[Table(header=header, rows=rows, caption="All parts", folded=True)],
    )


def _spread(values: Sequence[float]) -> str:
    return f"{float(np.mean(values)):+.5f} ± {float(np.std(values, ddof=1)) if len(values) > 1 else 0.0:.5f}"
