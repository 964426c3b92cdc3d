"""Prefix tree and beam search: both against slow, obvious ones."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from genrec_plugins.lum.beam import beam_search, best_of_each
from genrec_plugins.lum.prefix_tree import PrefixTree
from genrec_registry.errors import DataError


def slow_mask(codes: Tensor, prefixes: Tensor, size: int) -> Tensor:
    """Every prefix compared with every item."""
    level = prefixes.shape[1]
    allowed = torch.zeros(len(prefixes), size, dtype=torch.bool)
    matches = (codes[None, :, :level] == prefixes[:, None]).all(dim=2)
    for beam, item in matches.nonzero().tolist():
        allowed[beam, codes[item, level]] = True
    return allowed


@st.composite
def catalogues(draw: st.DrawFn) -> tuple[Tensor, tuple[int, ...]]:
    """Codes of up to 40 items, with collisions and with items that have none."""
    sizes = tuple(draw(st.lists(st.integers(1, 6), min_size=1, max_size=4)))
    rows = st.one_of(st.just((-1,) * len(sizes)), st.tuples(*(st.integers(0, size - 1) for size in sizes)))
    codes = draw(st.lists(rows, min_size=1, max_size=40).filter(lambda found: any(row[0] >= 0 for row in found)))
    return torch.tensor(codes), sizes


@settings(max_examples=60, deadline=None)
@given(catalogues())
def test_masks_are_those_of_comparing_with_every_item(catalogue):
    codes, sizes = catalogue
    tree = PrefixTree(codes, sizes)
    known = codes[codes[:, 0] >= 0]
    for level in range(len(sizes)):
        nodes = torch.arange(tree.num_nodes[level])
        prefixes = tree.codes(level, nodes)
        assert {tuple(row) for row in prefixes.tolist()} == {tuple(row) for row in known[:, :level].tolist()}
        assert torch.equal(tree.mask(level, nodes), slow_mask(known, prefixes, sizes[level]))
        assert torch.equal(tree.child_counts(level, nodes), tree.mask(level, nodes).sum(dim=1))


@settings(max_examples=60, deadline=None)
@given(catalogues())
def test_every_prefix_is_found_and_no_other(catalogue):
    codes, sizes = catalogue
    tree = PrefixTree(codes, sizes)
    for level in range(len(sizes) + 1):
        existing = {
            tuple(row): node for node, row in enumerate(tree.codes(level, torch.arange(tree.num_nodes[level])).tolist())
        }
        possible = list(itertools.product(*(range(-1, size + 1) for size in sizes[:level])))[:500]
        found = tree.find(torch.tensor(possible, dtype=torch.int64).reshape(len(possible), level))
        assert found.tolist() == [existing.get(prefix, -1) for prefix in possible]


@settings(max_examples=60, deadline=None)
@given(catalogues(), st.randoms(use_true_random=False))
def test_items_of_an_id_come_by_popularity_then_by_row(catalogue, random):
    codes, sizes = catalogue
    popularity = torch.tensor([random.randint(0, 3) for _ in codes])
    tree = PrefixTree(codes, sizes, popularity)
    leaves = torch.arange(tree.num_nodes[-1])
    owner, item = tree.items(leaves)
    for leaf, code in enumerate(tree.codes(len(sizes), leaves).tolist()):
        rows = [row for row, own in enumerate(codes.tolist()) if own == code]
        expected = sorted(rows, key=lambda row: (-int(popularity[row]), row))
        assert item[owner == leaf].tolist() == expected


def test_64_bits_are_not_overrun_in_silence():
    codes = torch.tensor([[2**16 - 1] * 3])
    assert PrefixTree(codes, (2**16,) * 3).find(codes).tolist() == [0]
    with pytest.raises(DataError, match="63 bits"):
        PrefixTree(torch.zeros(1, 4, dtype=torch.int64), (2**16,) * 4)
    with pytest.raises(DataError, match="no item has codes"):
        PrefixTree(torch.full((3, 2), -1), (4, 4))


# -- beam search ------------------------------------------------------------------------------------------------------


class TableScorer:
    """Logits of the next code that depend on user and whole prefix, drawn once from integers so that ties occur."""

    def __init__(self, users: int, sizes: tuple[int, ...], seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.tables = []
        for level, size in enumerate(sizes):
            shape = (users, *sizes[:level], size)
            self.tables.append(torch.randint(0, 3, shape, generator=generator).float())
        self.asked = 0

    def __call__(self, level: int, row: Tensor, codes: Tensor) -> Tensor:
        self.asked += len(row)
        return self.tables[level][(row, *codes.unbind(dim=1))]


def exhaustive(
    scorer: TableScorer, codes: Tensor, users: int, popularity: Tensor, renormalise: bool, seen: set[tuple[int, int]]
) -> list[list[tuple[int, float]]]:
    """Every item of every user scored on its own, then sorted."""
    items = [row for row in range(len(codes)) if codes[row, 0] >= 0]
    ranking = []
    for user in range(users):
        scored = []
        for item in items:
            score = 0.0
            for level in range(codes.shape[1]):
                prefix = codes[item, :level]
                logits = scorer(level, torch.tensor([user]), prefix[None])[0]
                if renormalise:
                    logits = logits.masked_fill(~slow_mask(codes[items], prefix[None], len(logits))[0], -torch.inf)
                score += float(torch.log_softmax(logits, dim=0)[codes[item, level]])
            if (user, item) not in seen:
                scored.append((item, score))
        # Scores are rounded because their sums run in another order; ties are by ID, then popularity, then row.
        scored.sort(key=lambda pair: (-round(pair[1], 4), codes[pair[0]].tolist(), -int(popularity[pair[0]]), pair[0]))
        ranking.append(scored)
    return ranking


@pytest.mark.parametrize("renormalise", [True, False])
@pytest.mark.parametrize("exclude", [False, True])
def test_a_wide_beam_ranks_the_whole_catalogue_as_scoring_every_item_does(renormalise, exclude):
    users, sizes = 3, (4, 3, 5)
    generator = torch.Generator().manual_seed(1)
    codes = torch.stack([torch.randint(0, size, (30,), generator=generator) for size in sizes], dim=1)
    codes[[0, 7]] = -1
    codes[9] = codes[10] = codes[4]
    popularity = torch.randint(0, 4, (30,), generator=generator)
    scorer = TableScorer(users, sizes, seed=2)
    seen = {(0, 4), (0, 9), (2, 1), (2, 29)} if exclude else set()
    pairs = torch.tensor(sorted(seen), dtype=torch.int64).reshape(-1, 2)
    found = beam_search(
        scorer,
        PrefixTree(codes, sizes, popularity),
        users,
        k=28,
        width=40,
        renormalise=renormalise,
        seen=(pairs[:, 0], pairs[:, 1]),
    )
    for user, expected in enumerate(exhaustive(scorer, codes, users, popularity, renormalise, seen)):
        count = len(expected)
        # Within equal scores (to rounding) the order is free to differ only where the sums differ in the last bit.
        torch.testing.assert_close(found.scores[user, :count], torch.tensor([score for _, score in expected]))
        assert [
            sorted(found.items[user, found.scores[user].sub(score).abs() < 1e-4].tolist()) for _, score in expected
        ] == [sorted(item for item, other in expected if abs(other - score) < 1e-4) for _, score in expected]
        assert found.items[user, count:].tolist() == [0] * (28 - count)
        assert found.scores[user, count:].tolist() == [-torch.inf] * (28 - count)
    if renormalise and not exclude:
        torch.testing.assert_close(_mass_of_ids(found, codes), torch.ones(users))


def _mass_of_ids(found, codes):
    """Probability of all IDs; an ID's items each carry the ID's own probability."""
    share = torch.tensor([1.0 / int((codes == row).all(dim=1).sum()) for row in codes])
    return (found.scores.exp() * share[found.items]).sum(dim=1)


def test_a_narrow_beam_is_the_textbook_one():
    users, sizes, width, k = 4, (5, 5, 5), 3, 4
    generator = torch.Generator().manual_seed(3)
    codes = torch.stack([torch.randint(0, 5, (60,), generator=generator) for _ in sizes], dim=1)
    tables = TableScorer(users, sizes, seed=4)
    tables.tables = [table + torch.rand(table.shape, generator=generator) for table in tables.tables]  # no ties
    tree = PrefixTree(codes, sizes)
    found = beam_search(tables, tree, users, k=k, width=width, renormalise=False)
    for user in range(users):
        beams = [((), 0.0)]
        for level in range(3):
            grown = []
            for prefix, score in beams:
                logits = tables(
                    level, torch.tensor([user]), torch.tensor([prefix], dtype=torch.int64).reshape(1, level)
                )
                gains = torch.log_softmax(logits[0], dim=0)
                options = {tuple(row) for row in codes[:, : level + 1].tolist() if tuple(row[:level]) == prefix}
                grown += [(option, score + float(gains[option[-1]])) for option in options]
            beams = sorted(grown, key=lambda beam: -beam[1])[: width if level < 2 else len(grown)]
        ranked = [(row, score) for code, score in beams for row in range(60) if tuple(codes[row].tolist()) == code]
        assert found.items[user].tolist() == [row for row, _ in ranked[:k]]
        torch.testing.assert_close(found.scores[user], torch.tensor([score for _, score in ranked[:k]]))


def test_prefixes_with_one_child_cost_nothing_when_probability_is_renormalised():
    codes = torch.tensor([[0, 0, 1], [1, 2, 0], [1, 3, 3]])
    tree = PrefixTree(codes, (2, 4, 4))
    asked = {}
    for renormalise in (True, False):
        scorer = TableScorer(1, (2, 4, 4), seed=0)
        beam_search(scorer, tree, 1, k=3, width=3, renormalise=renormalise)
        asked[renormalise] = scorer.asked
    assert asked == {True: 1 + 1 + 0, False: 1 + 2 + 3}


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), max_size=8), min_size=1, max_size=4), st.integers(1, 6))
def test_best_of_each_keeps_the_earlier_of_equal_scores(rows, keep):
    user = torch.tensor([u for u, row in enumerate(rows) for _ in row], dtype=torch.int64)
    score = torch.tensor([float(value) for row in rows for value in row])
    kept = best_of_each(user, score, len(rows), keep).tolist()
    expected, start = [], 0
    for row in rows:
        best = sorted(range(len(row)), key=lambda at: -row[at])[:keep]
        expected += [start + at for at in sorted(best)]
        start += len(row)
    assert kept == expected
