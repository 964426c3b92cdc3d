"""``genrec report`` of pre-training runs: ranks, groups and losses against slow computations, and the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genrec_plugins.lum.run import LumRun, pretrain
from genrec_plugins.reports.page import Report, make_report
from genrec_plugins.reports.pretrained import K, losses_of, recall_difference
from genrec_plugins.reports.study import StudyOptions
from tests.plugins.item_cases import write_index
from tests.plugins.lum_cases import run_of, write_ratings
from tests.plugins.test_report_page import by_key

QUICK = StudyOptions(shuffles=2, max_rows=20 * 30)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs over the same questions; one knows items by their codes, too."""
    folder = tmp_path_factory.mktemp("pretrained")
    dataset = {"type": "movielens", "path": str(write_ratings(folder / "ratings"))}
    write_index(folder / "index.json.gz")
    pretrain(run_of(dataset, train={"log_every": 1}), folder / "lum")
    pretrain(run_of(dataset, items={"codes": str(folder / "index.json.gz")}, train={"epochs": 1}), folder / "coded")
    return folder


@pytest.fixture(scope="module")
def report(folder: Path) -> Report:
    return make_report([folder / "lum", folder / "coded"], options=QUICK)


def test_answers_are_those_of_evaluation(report: Report, folder: Path) -> None:
    found = report.studies[0].answered
    assert found is not None
    measured = LumRun.open(folder / "lum").evaluate("test")
    assert found.overall.recall == pytest.approx(measured[f"recall@{K}"])
    assert (found.overall.ndcg, found.overall.mrr) == pytest.approx((measured[f"ndcg@{K}"], measured["mrr"]))
    assert found.overall.questions == measured["questions"]
    for groups in found.groups.values():
        assert sum(one.questions for one in groups) == len(found.ranks)
        hits = sum(one.recall * one.questions for one in groups)
        assert hits == pytest.approx(found.overall.recall * len(found.ranks))


def test_groups_are_cut_by_what_they_say(report: Report, folder: Path) -> None:
    found, data = report.studies[0].answered, LumRun.open(folder / "lum").data
    assert found is not None
    few = [rank for rank, item in zip(found.ranks, data.test.targets, strict=True) if 10 <= data.counts[item] <= 99]
    (group,) = (one for one in found.groups["training events of the right item"] if one.name == "10 to 99")
    assert (group.questions, group.recall) == (len(few), pytest.approx(np.mean(np.array(few) < K)))
    lengths = data.test.histories.lengths
    (group,) = (one for one in found.groups["events of the history"] if one.name == "3 to 5")
    assert group.questions == ((lengths >= 3) & (lengths <= 5)).sum()
    (name,) = data.conditions
    texts = [data.conditions[name].values[value] for value in data.test.target_conditions[name]]
    assert {one.name: one.questions for one in found.groups[f"{name} of the right item"]} == {
        text: texts.count(text) for text in set(texts)
    }


def test_the_parts_of_a_question_are_shuffled_one_at_a_time(folder: Path) -> None:
    questions = LumRun.open(folder / "lum").data.test
    (name,) = questions.target_conditions
    before, seen = np.zeros(len(questions)), []

    def ranks_of(changed: Any) -> Any:
        seen.append(changed)
        return before + 99

    found = list(losses_of(questions, before, ranks_of, 2, 0, own=True))
    assert [one.part for one in found] == ["items", "order", f"event {name}", f"asked {name}"]
    assert all(one.recall_drops == (1.0, 1.0) for one in found)
    assert all(np.array_equal(one.targets, questions.targets) for one in seen)
    items, order, event, asked = seen[::2]
    old = questions.histories
    assert sorted(items.histories.items) == sorted(old.items)
    assert not np.array_equal(items.histories.items, old.items)
    assert np.array_equal(items.histories.conditions[name], old.conditions[name])
    pairs = [list(zip(one.items, one.conditions[name], strict=True)) for one in (old, order.histories)]
    assert pairs[0] != pairs[1]
    for start, stop in zip(old.offsets, old.offsets[1:], strict=False):
        assert sorted(pairs[0][start:stop]) == sorted(pairs[1][start:stop])
    assert np.array_equal(event.histories.items, old.items)
    assert not np.array_equal(event.histories.conditions[name], old.conditions[name])
    assert np.array_equal(asked.histories.items, old.items)
    assert not np.array_equal(asked.target_conditions[name], questions.target_conditions[name])
    assert "asked" not in " ".join(one.part for one in losses_of(questions, before, ranks_of, 1, 0, own=False))


def test_the_page_has_every_part_of_a_pre_training_run(report: Report) -> None:
    found = by_key(report.sections)
    assert [plot.caption.partition(":")[0] for plot in found["learning"].plots] == ["Pre-training"]
    assert len(found["run-1-answers"].plots) == 3
    assert found["run-1-parts"].plots
    assert "30 test questions, evenly chosen from" in found["run-1-parts"].says[0]
    assert "ranks items" in found["calibration"].missing
    assert found["codes"].plots, "the codes that the second run reads"
    metrics, paired = found["runs"].tables[:2]
    cells = dict(zip(metrics.header, metrics.rows[0], strict=True))
    assert cells["test recall@10"] == f"{report.studies[0].answered.overall.recall:.5f}"  # type: ignore[union-attr]
    assert "." not in cells["test questions"]
    assert cells["rows/s"]
    ours, theirs = (study.answered for study in report.studies)
    assert ours is not None
    assert theirs is not None
    gained = abs(recall_difference(ours.ranks, theirs.ranks)[0])
    assert paired.rows[0][1] == f"{-gained:+.5f}"
    page = report.html()
    assert page.count("<svg") == sum(len(section.plots) for section in report.sections)
    assert "NaN" not in str(report.as_dict())


def test_a_run_whose_data_are_gone_is_told_beside_the_others(folder: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(folder / "lum", tmp_path / "lum")
    path = tmp_path / "lum" / "run.json"
    path.write_text(path.read_text().replace(str(folder / "ratings"), str(tmp_path / "gone")))
    made = make_report([folder / "lum", tmp_path / "lum"], options=StudyOptions(shuffles=0))
    assert "gone" in made.studies[1].problem
    assert by_key(made.sections)["run-1-parts"].missing == "left out, as --shuffles is 0"
