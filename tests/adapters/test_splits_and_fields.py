"""Split policies and the ``fields`` section."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec_adapters.fields import build_fields, expand_fields
from genrec_adapters.patterns import expand
from genrec_adapters.splits import RandomSplit, ShuffledSplit, TimeSplit, assigner, parse_split, sizes
from genrec_registry import ConfigError, default_registry


@given(rows=st.integers(1, 300), cuts=st.lists(st.integers(0, 300), max_size=5), seed=st.integers(0, 9))
def test_assignment_does_not_depend_on_how_rows_are_cut(rows: int, cuts: list[int], seed: int) -> None:
    edges = sorted({0, rows, *(cut for cut in cuts if cut < rows)})
    for split in (RandomSplit(seed=seed), ShuffledSplit(seed=seed), TimeSplit()):
        assign = assigner(split, rows)
        parts = [assign(low, high - low) for low, high in pairwise(edges)]
        assert np.array_equal(np.concatenate(parts), assign(0, rows))


def test_shuffled_split_is_numpys_permutation() -> None:
    found = assigner(ShuffledSplit(seed=1), 1000)(0, 1000)
    order = np.random.default_rng(1).permutation(1000)
    assert set(found[order[:800]]) == {0}
    assert set(found[order[800:900]]) == {1}
    assert set(found[order[900:]]) == {2}


def test_random_split_is_near_its_shares_and_independent_of_the_seed_before() -> None:
    rows = 200_000
    one, two = (assigner(RandomSplit(seed=seed))(0, rows) for seed in (1, 2))
    shares = np.bincount(one, minlength=3) / rows
    assert np.abs(shares - [0.8, 0.1, 0.1]).max() < 0.005  # six standard deviations
    # Independent seeds agree on a row with probability .8^2 + .1^2 + .1^2.
    assert abs((one == two).mean() - 0.66) < 0.01


@pytest.mark.parametrize(("train", "valid", "test"), [(1, 0, 0), (0.9, 0.1, 0), (0.7, 0, 0.3), (0.3, 0.3, 0.4)])
@pytest.mark.parametrize("kind", ["random", "shuffled", "time"])
def test_a_share_of_zero_gets_no_row(kind: str, train: float, valid: float, test: float) -> None:
    split: Any = parse_split({"type": kind, "train": train, "valid": valid, "test": test})
    counts = np.bincount(assigner(split, 10_007)(0, 10_007), minlength=3)
    assert counts.sum() == 10_007
    assert [bool(count) for count in counts] == [bool(share) for share in (train, valid, test)]


@given(rows=st.integers(0, 10**9))
def test_sizes_add_up_and_are_rounded_down(rows: int) -> None:
    train, valid, test = sizes(TimeSplit(), rows)
    assert (train, valid) == (rows * 8 // 10, rows // 10)
    assert train + valid + test == rows


@pytest.mark.parametrize("pattern", ["C{1..", "C}", "C{}", "C{3..1}", "{a,}_id", "{0..9999999}"])
def test_malformed_patterns(pattern: str) -> None:
    with pytest.raises(ConfigError, match="pattern"):
        expand(pattern)


def test_a_literal_replaces_a_pattern_wherever_it_stands() -> None:
    assert expand_fields({"b": "x", "{a,b}": "y"}) == {"b": "x", "a": "y"}
    assert expand_fields({"{a,b}": "y", "b": "x"}) == {"a": "y", "b": "x"}
    with pytest.raises(ConfigError, match=r"'\{a,b\}' and '\{b,c\}' both name the field 'b'"):
        expand_fields({"{a,b}": "y", "{b,c}": "x"})


def test_fields_read_the_columns_their_configs_name() -> None:
    columns: Any = {"site": "string", "app": "string", "price": "number"}
    fields = {"pair": {"type": "cross", "columns": ["site", "app"]}, "cost": {"type": "categorical", "column": "price"}}
    built = build_fields(fields, columns, default_registry())
    assert [list(field.type.columns) for field in built] == [["site", "app"], ["price"]]
    with pytest.raises(ConfigError, match=r"fields\.pair: the dataset has no column 'ap', did you mean 'app'"):
        build_fields({"pair": {"type": "cross", "columns": ["site", "ap"]}}, columns, default_registry())
