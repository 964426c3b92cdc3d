"""Dense retrieval against sorting every inner product, and ``genrec retrieve`` on small runs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_plugins.lum.dense_index import DenseIndex
from genrec_registry.errors import DataError


def sorted_products(vectors, rows, queries, k, exclude):
    """For each query, all items by falling inner product, then by position; excluded ones left out."""
    found = []
    for at, query in enumerate(queries):
        barred = {row for who, row in exclude if who == at}
        order = sorted(range(len(vectors)), key=lambda place: (-float(vectors[place] @ query), place))
        kept = [place for place in order if int(rows[place]) not in barred][:k]
        found.append([(int(rows[place]), float(vectors[place] @ query)) for place in kept])
    return found


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_exact_search_is_sorting_every_product(data):
    small = st.integers(-3, 3).map(float)  # exact in float32, so that ties are ties
    count, width, asked = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 3)), data.draw(st.integers(0, 4))
    table = st.lists(small, min_size=width, max_size=width)
    vectors = np.array(data.draw(st.lists(table, min_size=count, max_size=count)), np.float32)
    queries = np.array(data.draw(st.lists(table, min_size=asked, max_size=asked)), np.float32).reshape(asked, width)
    rows = np.array(data.draw(st.permutations(range(1, count + 1))))
    pairs = st.tuples(st.integers(0, max(asked - 1, 0)), st.integers(1, count))
    exclude = data.draw(st.lists(pairs, max_size=8)) if asked else []
    k = data.draw(st.integers(1, 14))
    barred = (np.array([who for who, _ in exclude], int), np.array([row for _, row in exclude], int))
    found, scores = DenseIndex(vectors, rows).search(queries, k, exclude=barred)
    assert found.shape == scores.shape == (asked, k)
    for at, expected in enumerate(sorted_products(vectors, rows, queries, k, exclude)):
        empty = k - len(expected)
        assert scores[at].tolist() == [score for _, score in expected] + [-np.inf] * empty
        # those that tie for the last place may be others of the same score
        above = sum(score > expected[-1][1] for _, score in expected)
        assert found[at, :above].tolist() == [row for row, _ in expected[:above]]
        assert found[at, k - empty :].tolist() == [0] * empty
        tied = dict(zip(rows.tolist(), vectors @ queries[at], strict=True))
        kept = found[at, : k - empty].tolist()
        assert [float(tied[row]) for row in kept] == scores[at, : k - empty].tolist()
        assert len(set(kept)) == len(kept)
        assert not {(at, row) for row in kept} & set(exclude)


def test_the_graph_finds_nearly_all_that_exact_search_finds():
    draw = np.random.default_rng(0)
    vectors = draw.standard_normal((2000, 16)).astype(np.float32)
    queries = draw.standard_normal((50, 16)).astype(np.float32)
    seen = (np.repeat(np.arange(50), 3), draw.integers(0, 2000, 150))
    exact, _ = DenseIndex(vectors).search(queries, 10, exclude=seen)
    graph, scores = DenseIndex(vectors, kind="hnsw").search(queries, 10, exclude=seen)
    shared = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(exact, graph, strict=True)])
    assert shared > 0.95
    assert (np.diff(scores, axis=1) <= 0).all()
    assert not any(row in set(seen[1][seen[0] == at]) for at in range(50) for row in graph[at])


def test_a_table_that_cannot_be_searched_is_refused():
    with pytest.raises(DataError, match="NaN"):
        DenseIndex(np.array([[1.0, np.nan]], np.float32))
    with pytest.raises(DataError, match="empty"):
        DenseIndex(np.zeros((0, 3), np.float32))
