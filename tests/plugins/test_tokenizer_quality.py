"""The quality report against loops, on cases whose answer is known, and on published codes."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_adapters.item_codes import ItemCodes
from genrec_plugins.tokenizers.quality import QualityReport, comparison, gini, measure
from genrec_plugins.tokenizers.quality_plot import write_plot
from genrec_registry import DataError

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "amazon"


def codes_of(rows: list[list[int]], sizes: tuple[int, ...]) -> ItemCodes:
    array = np.array(rows, np.int32).reshape(-1, len(sizes))
    return ItemCodes(items=tuple(f"i{n}" for n in range(len(array))), codes=array, sizes=sizes)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1), st.integers(0, 3)), min_size=2, max_size=20),
    seed=st.integers(0, 9),
)
def test_every_number_is_that_of_a_loop(rows, seed):
    codes, k = codes_of([list(row) for row in rows], (3, 2, 4)), 3
    embeddings = np.random.default_rng(seed).normal(size=(len(rows), 2)).astype(np.float32)
    report = measure(codes, codes.items, embeddings, embeddings * 0.5, neighbours=k)
    n = len(rows)
    near = [
        sorted(
            (other for other in range(n) if other != one), key=lambda o: ((embeddings[one] - embeddings[o]) ** 2).sum()
        )
        for one in range(n)
    ]
    for length, level in enumerate(report.levels, start=1):
        used = Counter(row[length - 1] for row in rows)
        assert level.used == len(used)
        assert level.counts == tuple(sorted(used.values(), reverse=True))
        assert level.perplexity == pytest.approx(math.exp(-sum(c / n * math.log(c / n) for c in used.values())))
        every = [used[code] for code in range(level.size)]
        spread = sum(abs(a - b) for a in every for b in every) / len(every) ** 2
        assert level.gini == pytest.approx(spread / (2 * n / len(every)))
        prefixes = Counter(row[:length] for row in rows)
        assert (level.prefixes, level.largest) == (len(prefixes), max(prefixes.values()))
        pairs = [rows[a][:length] == rows[b][:length] for a, b in itertools.permutations(range(n), 2)]
        assert level.chance == pytest.approx(sum(pairs) / len(pairs))
        hits = [rows[one][:length] == rows[other][:length] for one in range(n) for other in near[one][:k]]
        assert level.hit_rate == pytest.approx(sum(hits) / len(hits))
    groups = Counter(rows)
    assert (report.unique_ids, report.largest_group) == (len(groups), max(groups.values()))
    assert report.collision_rate == pytest.approx(1 - len(groups) / n)
    centred = embeddings - embeddings.mean(axis=0)
    assert report.reconstruction_error == pytest.approx(0.25 * (embeddings**2).sum() / (centred**2).sum(), rel=1e-4)


def test_perfect_and_worst_codes():
    embeddings = np.repeat(np.eye(4), 5, axis=0).astype(np.float32)
    embeddings += np.random.default_rng(0).normal(size=embeddings.shape).astype(np.float32) * 0.01
    by_cluster = codes_of([[n // 5] for n in range(20)], (4,))
    perfect = measure(by_cluster, by_cluster.items, embeddings, neighbours=4)
    assert perfect.levels[0].hit_rate == 1.0
    assert perfect.levels[0].perplexity == pytest.approx(4)
    assert perfect.levels[0].gini == pytest.approx(0, abs=1e-12)
    against = codes_of([[n % 5] for n in range(20)], (5,))
    assert measure(against, against.items, embeddings, neighbours=4).levels[0].hit_rate == 0.0
    one = codes_of([[0]] * 20, (8,))
    same = measure(one, one.items, embeddings)
    assert same.levels[0].hit_rate == same.levels[0].chance == 1.0
    assert same.levels[0].perplexity == pytest.approx(1)
    assert same.levels[0].gini == pytest.approx(7 / 8)


def test_random_codes_hit_as_often_as_chance():
    generator = np.random.default_rng(0)
    codes = codes_of(generator.integers(0, 4, (3000, 2)).tolist(), (4, 4))
    report = measure(codes, codes.items, generator.normal(size=(3000, 8)).astype(np.float32))
    for level in report.levels:
        assert level.hit_rate == pytest.approx(level.chance, abs=0.01)
    assert report.queries == 2000


def test_equal_embeddings_are_neighbours_and_no_item_is_its_own():
    codes = codes_of([[n] for n in range(12)], (12,))
    report = measure(codes, codes.items, np.zeros((12, 3), np.float32), neighbours=5)
    assert report.levels[0].hit_rate == 0.0


def test_a_sample_of_queries_estimates_the_whole_and_is_drawn_by_seed():
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(8, 4))
    cluster = generator.integers(0, 8, 1500)
    embeddings = (centres[cluster] + generator.normal(size=(1500, 4)) * 0.5).astype(np.float32)
    codes = codes_of(cluster[:, None].tolist(), (8,))
    whole = measure(codes, codes.items, embeddings).levels[0].hit_rate
    some = [
        measure(codes, codes.items, embeddings, max_queries=400, seed=seed).levels[0].hit_rate for seed in (0, 0, 1)
    ]
    assert some[0] == some[1] != some[2]
    assert some[0] == pytest.approx(whole, abs=0.05)


def test_items_without_codes_are_counted_and_left_out():
    codes = codes_of([[0], [1], [0]], (2,))
    embeddings = np.array([[9.0], [0.0], [5.0], [0.1]], np.float32)
    report = measure(codes, ("new", "i0", "i1", "i2"), embeddings, neighbours=1)
    assert (report.items, report.without_codes) == (3, 1)
    assert report.levels[0].hit_rate == pytest.approx(2 / 3)  # i1's nearest is i2, of another code
    with pytest.raises(DataError, match="none of 1 items has codes, expected some; the codes' items are i0, i1, i2"):
        measure(codes, ("new",))
    with pytest.raises(DataError, match="embeddings have 3 rows for 4 items"):
        measure(codes, ("new", "i0", "i1", "i2"), embeddings[:3])


def test_without_embeddings_there_is_no_neighbour():
    report = measure(codes_of([[0], [1]], (2,)))
    assert (report.levels[0].hit_rate, report.reconstruction_error, report.neighbours) == (None, None, 0)
    one = codes_of([[0]], (2,))
    assert measure(one, one.items, np.zeros((1, 2), np.float32)).levels[0].chance == 0.0


def test_more_codes_than_fit_64_bits_are_no_trouble():
    sizes = (2**20,) * 4
    codes = codes_of([[2**20 - 1, 0, 5, 2**20 - 1], [0, 2**20 - 1, 5, 7], [2**20 - 1, 0, 5, 7]], sizes)
    assert [level.prefixes for level in measure(codes).levels] == [2, 2, 2, 3]


def test_gini_of_uneven_use():
    assert gini(np.array([1, 3])) == pytest.approx(0.25)


def reports() -> dict[str, list[QualityReport]]:
    generator = np.random.default_rng(0)
    embeddings = generator.normal(size=(40, 3)).astype(np.float32)
    made: dict[str, list[QualityReport]] = {}
    for name, levels, seeds in (("mine", 2, 3), ("published", 3, 1)):
        for _ in range(seeds):
            codes = codes_of(generator.integers(0, 4, (40, levels)).tolist(), (4,) * levels)
            made.setdefault(name, []).append(measure(codes, codes.items, embeddings))
    return made


def test_several_seeds_become_mean_and_deviation():
    made = reports()
    header, rows = comparison(made)
    assert header == ["measure", "mine", "published"]
    cells = {row[0]: row[1:] for row in rows}
    collisions = [report.collision_rate for report in made["mine"]]
    assert cells["collision rate"] == [
        f"{np.mean(collisions):.4f} ± {np.std(collisions, ddof=1):.4f}",
        f"{made['published'][0].collision_rate:.4f}",
    ]
    assert cells["codes used, level 3"] == ["", "4 of 4"]
    assert cells["items"] == ["40", "40"]  # no deviation where there is none
    assert "reconstruction error" not in cells  # no set of codes has it


def test_the_report_is_json():
    data = json.loads(json.dumps(reports()["mine"][0].as_json()))
    assert data["items"] == 40
    assert [level["size"] for level in data["levels"]] == [4, 4]
    assert "counts" not in data["levels"][0]


def test_the_plot_is_a_picture_of_all_levels(tmp_path):
    import matplotlib.image

    made = {name: several[0] for name, several in reports().items()}
    write_plot(made, tmp_path / "sub" / "a.png")
    both = matplotlib.image.imread(tmp_path / "sub" / "a.png")
    write_plot({"mine": made["mine"]}, tmp_path / "b.png")
    assert both.shape[1] > matplotlib.image.imread(tmp_path / "b.png").shape[1]  # one level more
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="name another --plot"):
        write_plot(made, tmp_path / "file" / "a.png")


@pytest.mark.parametrize(("name", "levels"), [("beauty", 4), ("office_products", 3)])
def test_published_codes_are_measured(name, levels):
    path = DATA / f"{name}.index.json.gz"
    if not path.exists():
        pytest.skip(f"published codes are absent: {path}")
    report = measure(ItemCodes.read(path))
    assert len(report.levels) == levels
    assert all(level.size == 256 for level in report.levels[:3])
    assert report.unique_ids <= report.items
