"""The numbers of a report against slow and obvious computations on the raw rows."""

from __future__ import annotations

import csv
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_plugins.reports.frequency import BUCKETS, by_frequency, training_counts
from genrec_plugins.reports.groups import MIN_OF_A_CLASS, auc_difference, auc_error, group_of, placements
from genrec_plugins.reports.importance import batches_of, permutation_importance
from genrec_plugins.reports.rows import SplitRows
from genrec_plugins.reports.slices import REST, field_slices
from genrec_plugins.reports.values import MISSING, SHARED, value_names
from genrec_plugins.training.evaluation import score
from genrec_plugins.training.metrics import evaluate_predictions
from genrec_plugins.training.run import TrainedRun
from tests.plugins.report_cases import raw_rows, train

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    return train(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def predicted(trained: TrainedRun) -> tuple[np.ndarray, np.ndarray]:
    return trained.predict("test")


def folder_of(trained: TrainedRun) -> Path:
    return trained.directory.parent


def slow_auc(labels, scores) -> float:
    pairs = [
        (p, n) for p, y in zip(scores, labels, strict=True) if y for n, z in zip(scores, labels, strict=True) if not z
    ]
    return sum((p > n) + 0.5 * (p == n) for p, n in pairs) / len(pairs)


def slow_logloss(labels, scores) -> float:
    return -sum(math.log(p if y else 1 - p) for y, p in zip(labels, scores, strict=True)) / len(labels)


def check_group(group, labels, scores) -> None:
    """A group against its rows."""
    labels, scores = [int(y) for y in labels], [float(p) for p in scores]
    assert (group.rows, group.positives) == (len(labels), sum(labels))
    if min(sum(labels), len(labels) - sum(labels)) >= MIN_OF_A_CLASS:
        assert group.auc == pytest.approx(slow_auc(labels, scores), abs=1e-12)
    else:
        assert not group.measured
    assert group.logloss == pytest.approx(slow_logloss(labels, scores), abs=1e-9)
    if sum(labels):
        assert group.calibration == pytest.approx(sum(scores) / sum(labels), rel=1e-9)


# -- the AUC's error --------------------------------------------------------------------------------------------------


def slow_placements(labels, scores):
    positives = [p for p, y in zip(scores, labels, strict=True) if y]
    negatives = [p for p, y in zip(scores, labels, strict=True) if not y]
    above = [sum((p > n) + 0.5 * (p == n) for n in negatives) / len(negatives) for p in positives]
    below = [sum((p > n) + 0.5 * (p == n) for p in positives) / len(positives) for n in negatives]
    return above, below


def slow_error(above, below) -> float:
    def variance(values):
        mean = sum(values) / len(values)
        return sum((value - mean) ** 2 for value in values) / (len(values) - 1)

    return math.sqrt(variance(above) / len(above) + variance(below) / len(below))


rows_of_two_classes = st.lists(
    st.tuples(st.booleans(), st.integers(0, 6), st.integers(0, 6)), min_size=4, max_size=30
).filter(lambda rows: 2 <= sum(y for y, _, _ in rows) <= len(rows) - 2)


@settings(deadline=None, max_examples=60)
@given(rows_of_two_classes)
def test_auc_error_and_difference_are_delongs(rows) -> None:
    labels, ours, theirs = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    above, below = slow_placements(labels, ours)
    others = slow_placements(labels, theirs)
    fast = placements(labels, ours)
    assert fast[0].tolist() == pytest.approx(above)
    assert fast[1].tolist() == pytest.approx(below)
    assert auc_error(labels, ours) == pytest.approx(slow_error(above, below))
    difference, error = auc_difference(labels, ours, theirs)
    assert difference == pytest.approx(slow_auc(labels, ours) - slow_auc(labels, theirs))
    apart = [
        [a - b for a, b in zip(mine, other, strict=True)] for mine, other in zip((above, below), others, strict=True)
    ]
    assert error == pytest.approx(slow_error(*apart))


def test_the_error_is_the_spread_of_the_auc_over_samples() -> None:
    source = np.random.default_rng(5)
    labels = np.array([0] * 120 + [1] * 40)
    samples = [source.normal(loc=labels, size=labels.size) for _ in range(200)]
    aucs = [evaluate_predictions(labels, 1 / (1 + np.exp(-sample))).auc for sample in samples]
    errors = [auc_error(labels, sample) for sample in samples]
    assert np.mean(errors) == pytest.approx(np.std(aucs), rel=0.15)


def test_groups_of_too_few_rows_have_no_auc() -> None:
    labels = np.array([1] * (MIN_OF_A_CLASS - 1) + [0] * 50)
    group = group_of("few", labels, np.linspace(0.1, 0.9, labels.size))
    assert not group.measured
    assert group.logloss > 0
    none = group_of("none", np.zeros(3), np.full(3, 0.1))
    assert math.isnan(none.calibration)


# -- values and slices ------------------------------------------------------------------------------------------------


def known_values(trained: TrainedRun, split: str) -> dict[str, list[str]]:
    """What a person would call the value of each row: rare ones are those seen fewer than min_count times in train."""
    folder = folder_of(trained)
    counts = {field: Counter(row[field] for row in raw_rows(folder, "train")) for field in ("a", "b", "k")}
    rows = raw_rows(folder, split)

    def bucket(text: str) -> int:
        number = float(text)
        return math.floor(math.log(number) ** 2) if number > 2 else int(number)

    buckets = {bucket(text) for text in counts["k"]}
    return {
        "a": [(row["a"] if row["a"] in counts["a"] else SHARED) if row["a"] else MISSING for row in rows],
        "b": [row["b"] if counts["b"][row["b"]] >= 3 else SHARED for row in rows],
        "k": [f"bucket {bucket(row['k'])}" if bucket(row["k"]) in buckets else SHARED for row in rows],
    }


@pytest.mark.parametrize("split", ["train", "test"])
def test_ids_are_called_by_their_raw_values(split, trained: TrainedRun) -> None:
    names = value_names(trained.prepared, trained.run.registry)
    rows = SplitRows.load(trained.prepared, split)
    for feature, expected in known_values(trained, split).items():
        assert [names[feature][int(index)] for index in rows.ids(feature)] == expected


def test_quantile_buckets_are_called_by_their_edges(tmp_path: Path) -> None:
    from genrec_adapters.preprocess import prepare
    from genrec_registry import default_registry

    path = tmp_path / "rows.csv"
    path.write_text("label,x\n" + "".join(f"{i % 2},{'' if i == 3 else i}\n" for i in range(40)))
    fields = {"x": {"type": "numeric-bucket", "method": "quantile", "num_buckets": 4}}
    dataset = {"type": "csv", "train": str(path), "label": "label", "numbers": ["x"]}
    prepared = prepare(dataset, tmp_path / "prepared", fields=fields)
    names = value_names(prepared, default_registry())["x"]
    low, middle, high = (float(part) for part in (names[1].split()[-1], names[2].split()[-1], names[4].split()[-1]))
    assert names[0] == MISSING
    assert names[3] == f"{middle:.4g} to {high:.4g}"
    for number, index in enumerate(SplitRows.load(prepared, "train").ids("x")):
        place = 1 + sum(number > edge for edge in (low, middle, high))
        expected = MISSING if number == 3 else names[place]
        assert names[int(index)] == expected


def test_slices_of_values_hold_their_rows(trained: TrainedRun, predicted) -> None:
    labels, scores = predicted
    names = value_names(trained.prepared, trained.run.registry)
    split = SplitRows.load(trained.prepared, "test")
    found = {one.field: one for one in field_slices(split, labels, scores, names, most=3)}
    assert list(found) == ["a", "b", "x", "k", "words"]
    for field, values in known_values(trained, "test").items():
        counts = Counter(values)
        groups = {group.name: group for group in found[field].groups}
        most = [name for name in groups if name != REST]
        assert sorted(counts[name] for name in most) == sorted(sorted(counts.values())[-3:])
        for name, group in groups.items():
            chosen = [i for i, value in enumerate(values) if (value not in most if name == REST else value == name)]
            check_group(group, labels[chosen], scores[chosen])
        measured = [group for group in groups.values() if group.measured]
        within = sum(g.auc * g.rows for g in measured) / sum(g.rows for g in measured)
        assert found[field].within == pytest.approx(within)


def test_slices_of_numbers_and_lists_are_quarters(trained: TrainedRun, predicted) -> None:
    labels, scores = predicted
    split = SplitRows.load(trained.prepared, "test")
    found = {one.field: one.groups for one in field_slices(split, labels, scores, {})}
    rows = raw_rows(folder_of(trained))
    known = sorted((row for row in range(len(rows)) if rows[row]["x"]), key=lambda row: float(rows[row]["x"]))
    order = known + [row for row in range(len(rows)) if not rows[row]["x"]]
    start = 0
    for group in found["x"]:
        chosen = order[start : start + group.rows]
        check_group(group, labels[chosen], scores[chosen])
        start += group.rows
    assert start == len(rows)
    assert found["x"][-1].name == MISSING
    assert found["x"][-1].rows == len(rows) - len(known) > 0
    assert max(group.rows for group in found["x"]) <= len(rows) // 4 + 2
    lengths = [len(row["words"].split()) for row in rows]
    assert sum(group.rows for group in found["words"]) == len(rows)
    for group in found["words"]:
        bounds = [float(part) for part in group.name.removeprefix("length ").split(" to ")]
        chosen = [row for row, length in enumerate(lengths) if bounds[0] <= length <= bounds[-1]]
        check_group(group, labels[chosen], scores[chosen])


# -- frequency --------------------------------------------------------------------------------------------------------


def test_training_counts_are_those_of_the_raw_rows(trained: TrainedRun) -> None:
    names = value_names(trained.prepared, trained.run.registry)
    counts = training_counts(trained.prepared)
    for feature, values in known_values(trained, "train").items():
        expected = Counter(values)
        assert sum(counts[feature]) == len(values)
        for index, name in names[feature].items():
            assert counts[feature][index] == expected[name], (feature, name)


def test_frequency_buckets_hold_their_rows(trained: TrainedRun, predicted) -> None:
    labels, scores = predicted
    split = SplitRows.load(trained.prepared, "test")
    found = by_frequency(split, labels, scores, training_counts(trained.prepared))
    train_values, test_values = known_values(trained, "train"), known_values(trained, "test")
    counts = {field: Counter(values) for field, values in train_values.items()}

    def bucket(field: str, value: str) -> str:
        if value == SHARED and field != "k":
            return SHARED
        seen = counts[field][value]
        return BUCKETS[1] if seen == 0 else BUCKETS[1 + len(str(seen))]

    for field, values in test_values.items():
        places = [bucket(field, value) for value in values]
        assert [group.name for group in found.fields[field]] == [name for name in BUCKETS if name in places]
        for group in found.fields[field]:
            chosen = [row for row, place in enumerate(places) if place == group.name]
            check_group(group, labels[chosen], scores[chosen])

    def common(row: int) -> float:
        seen = [counts[f][v[row]] for f, v in test_values.items() if not (v[row] == SHARED and f != "k")]
        return sum(math.log1p(count) for count in seen)

    order = sorted(range(len(labels)), key=lambda row: (round(common(row), 9), row))
    start = 0
    for group in found.parts:
        chosen = order[start : start + group.rows]
        check_group(group, labels[chosen], scores[chosen])
        start += group.rows
    assert [group.rows for group in found.parts] == [90] * 5


# -- importance -------------------------------------------------------------------------------------------------------


def test_importance_is_what_shuffled_raw_files_lose(trained: TrainedRun, predicted, tmp_path: Path) -> None:
    labels, scores = predicted
    model, settings = trained.model(), trained.run.config.train

    def fast(rows):
        batches = batches_of(rows, trained.prepared, 64)
        import torch

        return score(model, batches, settings, torch.device("cpu"), name="rows")[1]

    found = permutation_importance(trained.prepared, fast, shuffles=2, seed=7)
    assert (found.rows, found.of) == (450, 450)
    assert found.auc == pytest.approx(slow_auc(labels, scores), abs=1e-12)
    source = np.random.default_rng(7)
    orders = [source.permutation(450) for _ in range(2)]
    rows = raw_rows(folder_of(trained))
    for one in found.fields:
        for shuffle, order in enumerate(orders):
            path = tmp_path / f"{one.field}-{shuffle}.csv"
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, fieldnames=list(rows[0]))
                writer.writeheader()
                writer.writerows(
                    {**row, one.field: rows[other][one.field]} for row, other in zip(rows, order, strict=True)
                )
            same, shuffled = trained.predict_file(str(path))
            assert same.tolist() == labels.tolist()
            lost = slow_auc(labels, scores) - slow_auc(labels, shuffled)
            assert one.auc_drops[shuffle] == pytest.approx(lost, abs=1e-6)
            assert one.logloss_rises[shuffle] == pytest.approx(
                slow_logloss(labels, shuffled.astype(float)) - slow_logloss(labels, scores.astype(float)), abs=1e-6
            )
    drops = {one.field: one.auc_drop for one in found.fields}
    assert drops["x"][0] == max(mean for mean, _ in drops.values())
    assert drops["b"][0] < drops["a"][0] / 2
    assert drops["x"][1] == pytest.approx(abs(np.subtract(*found.fields[2].auc_drops)) / math.sqrt(2))


def test_a_field_that_the_model_ignores_has_no_importance(trained: TrainedRun) -> None:
    column = SplitRows.load(trained.prepared, "test").id_columns["a"]
    found = permutation_importance(trained.prepared, lambda rows: 0.1 + 0.1 * (rows.ids[:, column] % 3), shuffles=1)
    drops = {one.field: one.auc_drops[0] for one in found.fields}
    assert {name for name, drop in drops.items() if drop == 0.0} == {"b", "x", "k", "words"}


def test_importance_of_a_draw_scores_so_many_rows(trained: TrainedRun) -> None:
    sizes = []

    def count(rows):
        sizes.append(len(rows))
        return np.linspace(0.1, 0.9, len(rows))

    found = permutation_importance(trained.prepared, count, shuffles=1, max_rows=100)
    assert (found.rows, found.of) == (100, 450)
    assert sizes == [100] * 6
