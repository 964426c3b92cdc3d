"""The parts of the page: each has tables and plots, or one line that says why it has none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from genrec_plugins.reports import plots
from genrec_plugins.reports.groups import Z95, auc_difference
from genrec_plugins.reports.layout import Section, Table, draw
from genrec_plugins.reports.pretrained_sections import answered_sections, paired_answers, pretraining_curves
from genrec_plugins.reports.runs import differences, same_rows
from genrec_plugins.reports.study import Predicted, RunStudy, comparable
from genrec_plugins.reports.tables import GROUP_HEADER, auc_text, group_cells, metric_table


def runs_section(studies: Sequence[RunStudy]) -> Section:
    """Metrics of all runs, their differences on the same rows, and how their configs differ."""
    facts = [study.facts for study in studies]
    header, rows = metric_table(facts)
    tables = [Table(header=header, rows=rows)]
    alike = comparable(studies)
    if len(alike) > 1 and _of(alike[0]).overall.measured:
        tables.append(_paired(alike))
    tables += paired_answers(studies)
    for kind in dict.fromkeys(run.kind for run in facts):
        alike_facts = [run for run in facts if run.kind == kind]
        changed = differences(alike_facts)
        if changed:
            body = [[key, *values] for key, values in changed.items()]
            header = ["config", *(run.name for run in alike_facts)]
            caption = f"What differs: {len(body)} config key{'s' * (len(body) > 1)}"
            tables.append(Table(header=header, rows=body, caption=caption, folded=len(body) > 8))
    says = [f"{run.name}: {run.status}, {run.note}." for run in facts if run.note]
    if not same_rows(facts):
        says.append("Not all runs were trained on the same rows: their metrics cannot be compared.")
    return Section(key="runs", title="Runs", says=says, tables=tables)


def _paired(alike: Sequence[RunStudy]) -> Table:
    """Each run's AUC against the best one's, on the same rows."""
    best = _of(alike[0])
    rows = []
    for study in alike[1:]:
        difference, error = auc_difference(best.labels, _of(study).probabilities, best.probabilities)
        low, high = difference - Z95 * error, difference + Z95 * error
        told = "yes" if low > 0 or high < 0 else "no"
        rows.append([study.facts.name, f"{difference:+.5f}", f"{low:+.5f} to {high:+.5f}", told])
    header = ["run", f"AUC less that of {alike[0].facts.name}", "95 % interval", "told apart"]
    caption = "On the same test rows (DeLong); a run with another seed may differ by more"
    return Table(header=header, rows=rows, caption=caption)


def _of(study: RunStudy) -> Predicted:
    assert study.predicted is not None
    return study.predicted


def learning_section(studies: Sequence[RunStudy]) -> Section:
    """Learning curves of all rankers in one figure, and of all pre-training runs in another."""
    curves = [study.curve for study in studies if study.curve.steps and study.facts.kind != "lum"]
    pretrained = [study.curve for study in studies if study.curve.steps and study.facts.kind == "lum"]
    title = "Learning curves"
    if not curves and not pretrained:
        return Section(key="learning", title=title, missing="no run has a history or TensorBoard's files")
    says = [
        f"{curve.name} wrote no training loss for single steps." for curve in (*curves, *pretrained) if not curve.loss
    ]
    drawn = [draw("learning", "Logloss and AUC while training", plots.learning_figure, curves)] if curves else []
    return Section(key="learning", title=title, says=says, plots=[*drawn, *pretraining_curves(pretrained)])


def calibration_section(studies: Sequence[RunStudy]) -> Section:
    """Calibration of all runs in one figure, and the bins of each."""
    curves = {study.facts.name: _of(study).calibration for study in studies if study.predicted}
    if not curves:
        return Section(key="calibration", title="Calibration", missing=_problems(studies))
    tables = [
        Table(
            header=["bin", "rows", "mean prediction", "observed rate"],
            rows=[
                [str(number), f"{count:,}", f"{mean:.4f}", f"{rate:.4f}"]
                for number, (mean, rate, count) in enumerate(zip(*curve, strict=True), start=1)
            ],
            caption=f"Bins of {name}",
            folded=True,
        )
        for name, curve in curves.items()
    ]
    pairs = {name: (predicted, observed) for name, (predicted, observed, _) in curves.items()}
    return Section(
        key="calibration",
        title="Calibration",
        says=["Rows in bins of equal size, in order of prediction."],
        plots=[draw("calibration", "Observed rate against prediction", plots.calibration_figure, pairs)],
        tables=tables,
    )


def _problems(studies: Sequence[RunStudy]) -> str:
    answers = "a pre-training run ranks items, and predicts no rates"
    return "; ".join(f"{study.facts.name}: {study.problem or answers}" for study in studies)


def slices_section(found: Predicted, key: str) -> Section:
    """AUC within the values of each field."""
    title = "AUC by field slice"
    measured = [one for one in found.slices if one.measured]
    if not measured:
        missing = "no slice has 10 rows of either class"
        return Section(key=f"{key}-slices", title=title, level=3, missing=missing)
    rows = []
    for one in measured:
        worst = min(one.measured, key=lambda group: group.auc)
        best = max(one.measured, key=lambda group: group.auc)
        places = [f"{worst.name}: {auc_text(worst)}", f"{best.name}: {auc_text(best)}"]
        rows.append([one.field, str(len(one.groups)), f"{one.within:.4f}", *places])
    details = [[one.field, group.name, *group_cells(group)] for one in found.slices for group in one.groups]
    return Section(
        key=f"{key}-slices",
        title=title,
        level=3,
        says=[
            f"The {found.split} rows with one value of a field. Below the AUC of all rows, {auc_text(found.overall)}, "
            "is normal: within a slice the field itself tells nothing. ± is half a 95 % interval."
        ],
        plots=[draw(f"{key}-slices", "Slices of each field", plots.slices_figure, measured, found.overall.auc)],
        tables=[
            Table(
                header=["field", "slices", "mean AUC within", "worst slice", "best slice"],
                rows=rows,
                caption="Fields, with their worst and best slice",
                folded=True,
            ),
            Table(header=["field", "value", *GROUP_HEADER], rows=details, caption="All slices", folded=True),
        ],
    )


def frequency_section(found: Predicted, key: str) -> Section:
    """AUC by how often ids were seen."""
    frequencies, title = found.frequencies, "AUC by frequency of the ids"
    if not frequencies.fields:
        missing = "no field has one id a row whose training rows can be counted"
        return Section(key=f"{key}-frequency", title=title, level=3, missing=missing)
    details = [
        [name, group.name, *group_cells(group)] for name, groups in frequencies.fields.items() for group in groups
    ]
    drawn = [draw(f"{key}-parts", "Rows of rare ids, rows of common ids", plots.parts_figure, frequencies.parts)]
    if any(group.measured for groups in frequencies.fields.values() for group in groups):
        drawn.append(draw(f"{key}-frequency", "Field by field", plots.frequency_figure, frequencies))
    return Section(
        key=f"{key}-frequency",
        title=title,
        level=3,
        says=["How often the ids of a row came in training: the mean over its fields (left), and one field (right)."],
        plots=drawn,
        tables=[
            Table(header=["fifth", *GROUP_HEADER], rows=[[one.name, *group_cells(one)] for one in frequencies.parts]),
            Table(header=["field", "training rows", *GROUP_HEADER], rows=details, caption="Each field", folded=True),
        ],
    )


def importance_section(found: Predicted, key: str) -> Section:
    """What the model loses without a field."""
    importance, title = found.importance, "Field importance by permutation"
    if isinstance(importance, str):
        return Section(key=f"{key}-importance", title=title, level=3, missing=importance)
    rows = [
        [one.field, "{:+.5f} ± {:.5f}".format(*one.auc_drop), "{:+.5f} ± {:.5f}".format(*one.logloss_rise)]
        for one in sorted(importance.fields, key=lambda one: -one.auc_drop[0])
    ]
    shuffles = len(importance.fields[0].auc_drops)
    drawn = "" if importance.rows == importance.of else f", drawn from {importance.of:,}"
    return Section(
        key=f"{key}-importance",
        title=title,
        level=3,
        says=[
            f"One field at a time is dealt out anew over {importance.rows:,} {found.split} rows{drawn}; "
            f"mean and standard deviation over {shuffles} shuffle{'s' * (shuffles > 1)}. "
            "A field can be missed without loss because another one says the same."
        ],
        plots=[draw(f"{key}-importance", "AUC lost without a field", plots.importance_figure, importance)],
        tables=[Table(header=["field", "AUC lost", "logloss gained"], rows=rows, folded=True, caption="All fields")],
    )


def pairs_section(found: Predicted, key: str) -> Section:
    """FAT's field-pair table."""
    from genrec_plugins.benchmarks.plots import pair_figure

    title = "Field pairs"
    if isinstance(found.pairs, str):
        return Section(key=f"{key}-pairs", title=title, level=3, missing=found.pairs)
    names, values = found.pairs["names"], found.pairs["values"]
    centre = 1.0 if abs(sum(map(sum, values)) / len(values) ** 2 - 1) < 0.5 else 0.0
    cells = [(value, i, j) for i, row in enumerate(values) for j, value in enumerate(row)]
    strongest = sorted(cells, key=lambda cell: -abs(cell[0] - centre))[:15]
    return Section(
        key=f"{key}-pairs",
        title=title,
        level=3,
        says=[f"FAT's table of field pairs, mean over layers and heads; it began at {centre:g}."],
        plots=[draw(f"{key}-pairs", "How much a field lets another through", pair_figure, found.pairs)],
        tables=[
            Table(
                header=["attending", "attended", "weight"],
                rows=[[names[i], names[j], f"{value:.4f}"] for value, i, j in strongest],
                caption="The pairs that moved most",
                folded=True,
            )
        ],
    )


def routes_section(found: Predicted, key: str) -> Section:
    """Which bases FAT composes each field's matrices of."""
    title = "Routing of fields to bases"
    if isinstance(found.routes, str):
        return Section(key=f"{key}-routes", title=title, level=3, missing=found.routes)
    layers: dict[int, list[Any]] = {}
    for route in found.routes:
        layers.setdefault(route.layer, []).append(route)
    rows = [
        [str(one.layer), one.kind, f"{one.used} of {one.shares.shape[1]}", str(one.groups), str(one.largest)]
        for one in found.routes
    ]
    header = ["block", "matrix", "bases used", "different sets of bases", "fields of the most used base"]
    drawn = [
        draw(f"{key}-routes-{layer}", f"Block {layer}", plots.routes_figure, routes, found.tokens)
        for layer, routes in layers.items()
    ]
    return Section(key=f"{key}-routes", title=title, level=3, plots=drawn, tables=[Table(header=header, rows=rows)])


def run_sections(study: RunStudy, key: str) -> list[Section]:
    """What is said of one run alone.

    Args:
        study: the run.
        key: unique in the page.
    """
    if study.answered is not None:
        return answered_sections(study.facts, study.answered, key)
    if study.predicted is None:
        return [Section(key=key, title=study.facts.name, missing=study.problem)]
    found = study.predicted
    overall = ", ".join(f"{name} {text}" for name, text in zip(GROUP_HEADER, group_cells(found.overall), strict=True))
    calibrated = math.isfinite(found.overall.calibration)
    says = [f"{study.facts.model}; {found.split} {overall}." if calibrated else f"{study.facts.model}."]
    makers = (slices_section, frequency_section, importance_section, pairs_section, routes_section)
    return [Section(key=key, title=study.facts.name, says=says), *(make(found, key) for make in makers)]
