"""Collision policies against the plain rule: suffix counts, knn-cap keeps its cap, and both have room for new items."""

from __future__ import annotations

from collections import Counter
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_plugins.tokenizers.collisions import CollisionPolicy, make_policy, parse_collisions
from genrec_plugins.tokenizers.neighbours import Neighbours
from genrec_registry import ConfigError, DataError


class Grid:
    """A tokenizer whose codes are whole numbers, and stand for themselves: level l counts ``10 ** (L - 1 - l)``."""

    def __init__(self, sizes: tuple[int, ...], says_something: bool = True) -> None:
        self.codebook_sizes = sizes
        self.says_something = says_something

    def reconstruct(self, codes):
        weights = 10.0 ** np.arange(len(self.codebook_sizes))[::-1]
        return (codes @ weights)[:, None].astype(np.float32) if self.says_something else None


def policy_of(config, sizes=(3, 4), says_something=True) -> CollisionPolicy:
    return make_policy(parse_collisions(config), Grid(sizes, says_something))


def names(count: int) -> tuple[str, ...]:
    return tuple(f"i{row}" for row in range(count))


def catalogue(count: int, seed: int, sizes=(3, 4)):
    """Codes that pile up on low paths, and embeddings near what they stand for."""
    generator = np.random.default_rng(seed)
    codes = np.stack([generator.binomial(size - 1, 0.3, size=count) for size in sizes], axis=1).astype(np.int32)
    near = Grid(sizes).reconstruct(codes) + generator.uniform(-0.5, 0.5, (count, 1))
    return codes, near.astype(np.float32)


def groups(ids: np.ndarray) -> Counter[tuple[int, ...]]:
    return Counter(map(tuple, ids.tolist()))


# -- suffix ------------------------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(count=st.integers(1, 60), headroom=st.integers(0, 5), seed=st.integers(0, 99))
def test_suffixes_count_within_a_group(count, headroom, seed):
    codes, vectors = catalogue(count, seed)
    policy = policy_of({"type": "suffix", "headroom": headroom})
    ids = policy.fit(codes, vectors, names(count))
    assert (ids[:, :2] == codes).all()
    assert policy.sizes == (3, 4, max(groups(codes).values()) + headroom)
    for path, size in groups(codes).items():
        assert ids[(codes == path).all(axis=1), 2].tolist() == list(range(size))  # in the items' order


@settings(max_examples=50, deadline=None)
@given(count=st.integers(1, 40), new=st.integers(1, 40), headroom=st.integers(0, 3), seed=st.integers(0, 99))
def test_new_items_get_the_next_free_suffix_or_another_path(count, new, headroom, seed):
    codes, vectors = catalogue(count + new, seed)
    policy = policy_of({"type": "suffix", "headroom": headroom})
    ids = policy.fit(codes[:count], vectors[:count], names(count))
    sizes, taken = policy.sizes, groups(codes[:count])
    added = []
    for row in range(count, count + new):
        try:
            found = policy.add(codes[row : row + 1], vectors[row : row + 1])[0]
        except DataError:
            assert all(taken[path] == sizes[2] for path in product(range(3), range(4)))
            break
        path, wanted = tuple(found[:2].tolist()), tuple(codes[row].tolist())
        assert found[2] == taken[path] < sizes[2]
        assert path == wanted or taken[wanted] == sizes[2]
        taken[path] += 1
        added.append(found)
    everything = np.concatenate([ids, np.array(added, dtype=np.int32).reshape(-1, 3)])
    assert max(groups(everything).values()) == 1
    assert policy.sizes == sizes  # it never grows: a model's tables have this size


# -- knn-cap -----------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 60),
    cap=st.integers(1, 6),
    seed=st.integers(0, 99),
    content=st.booleans(),
    part=st.floats(0, 1),
)
def test_no_id_has_more_items_than_the_cap(count, cap, seed, content, part):
    codes, vectors = catalogue(count, seed)
    policy = policy_of({"type": "knn-cap", "cap": cap}, says_something=content)
    old = max(1, int(count * part))
    if count > 12 * cap:
        with pytest.raises(DataError, match=f"all 12 IDs have {cap} items"):
            policy.fit(codes, vectors, names(count))
        return
    ids = np.concatenate([policy.fit(codes[:old], vectors[:old], names(old)), policy.add(codes[old:], vectors[old:])])
    assert max(groups(ids).values()) <= cap
    kept = (ids == codes).all(axis=1)
    for path, size in groups(codes).items():
        stayed = int(kept[(codes == path).all(axis=1)].sum())
        assert stayed == min(size, cap) or old < count  # a new item may find its place taken by one that moved
    assert policy.sizes == (3, 4)


def test_the_nearest_stay_and_the_others_go_to_the_nearest_place():
    codes = np.array([[1, 1]] * 4 + [[1, 2]], dtype=np.int32)
    vectors = np.array([[11.4], [11.1], [10.7], [11.45], [12.0]], np.float32)
    ids = policy_of({"type": "knn-cap", "cap": 1}).fit(codes, vectors, names(5))
    # 11.1 is nearest and stays. The others, nearest first: 10.7 goes to 10, 11.4 past 12, which is taken, to 13. Then
    # 1x is full for 11.45; 21 is nearer than 01, and of 2x, 20 is nearest.
    assert ids.tolist() == [[1, 3], [1, 1], [1, 0], [2, 0], [1, 2]]


def test_the_result_does_not_depend_on_the_order_of_the_items():
    codes, vectors = catalogue(40, seed=1)
    items = names(40)
    first = policy_of({"type": "knn-cap", "cap": 4}).fit(codes, vectors, items)
    order = np.random.default_rng(0).permutation(40)
    again = policy_of({"type": "knn-cap", "cap": 4}).fit(
        codes[order], vectors[order], tuple(items[row] for row in order)
    )
    assert (first != codes).any()
    assert (again == first[order]).all()


@settings(max_examples=60, deadline=None)
@given(place=st.integers(0, 11), at=st.floats(-5, 40, width=32))
def test_other_paths_come_near_ones_first_and_all_of_them(place, at):
    sizes = (3, 4)
    path, embedding = divmod(place, 4), np.array([at], np.float32)
    paths = list(dict.fromkeys(Neighbours(Grid(sizes)).of(path, embedding)))
    assert set(paths) == set(product(range(3), range(4))) - {path}

    def distance(other):
        return abs(np.float32(10 * other[0] + other[1]) - embedding[0])

    same_prefix, other_prefix = paths[:3], [other for other in paths if other[0] != path[0]]
    assert [other[0] for other in same_prefix] == [path[0]] * 3
    assert [distance(other) for other in same_prefix] == sorted(distance(other) for other in same_prefix)
    assert len({other[0] for other in other_prefix[:4]}) == 1  # one prefix after the other
    nearer, farther = (distance((prefixes[0][0], path[1])) for prefixes in (other_prefix[:4], other_prefix[4:]))
    assert nearer <= farther


def test_three_levels_are_searched_to_the_last_path():
    sizes = (2, 2, 2)
    policy = policy_of({"type": "knn-cap", "cap": 1}, sizes)
    codes, vectors = np.zeros((8, 3), np.int32), np.linspace(0, 111, 8, dtype=np.float32)[:, None]
    ids = policy.fit(codes, vectors, names(8))
    assert set(map(tuple, ids.tolist())) == set(product(range(2), repeat=3))


# -- none, resuming, configs -------------------------------------------------------------------------------------------


def test_none_leaves_codes_as_they_are():
    codes, vectors = catalogue(30, seed=0)
    policy = policy_of("none")
    assert policy.fit(codes, vectors, names(30)) is codes
    assert policy.add(codes[:4], vectors[:4]).tolist() == codes[:4].tolist()
    assert policy.sizes == (3, 4)


@pytest.mark.parametrize("config", ["suffix", {"type": "knn-cap", "cap": 4}, "none"])
def test_a_resumed_policy_goes_on_where_it_stopped(config):
    codes, vectors = catalogue(44, seed=3)
    straight = policy_of(config)
    ids = straight.fit(codes[:30], vectors[:30], names(30))
    resumed = make_policy(parse_collisions(config), Grid((3, 4)), straight.sizes)
    resumed.resume(ids)
    assert resumed.sizes == straight.sizes
    assert resumed.add(codes[30:], vectors[30:]).tolist() == straight.add(codes[30:], vectors[30:]).tolist()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("sufix", "'collisions.type' is 'sufix', did you mean 'suffix'"),
        ({"type": "knn-cap", "cap": 0}, "cap"),
        ({"type": "suffix", "headrom": 1}, "did you mean 'headroom'"),
        ({"cap": 3}, "needs the key 'type'"),
    ],
)
def test_a_wrong_policy_is_a_sentence(config, message):
    with pytest.raises(ConfigError, match=message):
        parse_collisions(config)
