"""Vocabularies, hashes, id lists and text against slow references, and against chunks cut at random."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_adapters.field_types import vocabulary
from genrec_adapters.field_types.categorical import Categorical, Cross
from genrec_adapters.field_types.configs import (
    CategoricalConfig,
    CrossConfig,
    MultiHotConfig,
    SequenceConfig,
    TextHashConfig,
)
from genrec_adapters.field_types.hashing import hash_texts
from genrec_adapters.field_types.id_lists import MultiHot, Sequence
from genrec_adapters.field_types.short_texts import count_short_texts, short_texts
from genrec_adapters.field_types.text_hash import TextHash
from genrec_registry import ConfigError, default_registry, parse_component

few = settings(max_examples=60, deadline=None)
texts = st.lists(
    st.one_of(st.none(), st.sampled_from(["", "a", "b", "ab", "é", "z\x00", "nine long"]), st.text(max_size=4)),
    max_size=40,
)
cuts = st.lists(st.integers(0, 40), max_size=5)


def pieces(rows: pl.DataFrame, at: list[int]) -> list[pl.DataFrame]:
    inner = sorted(min(cut, rows.height) for cut in at)
    return [rows[start:end] for start, end in zip([0, *inner], [*inner, rows.height], strict=True)]


def fit(field: Any, chunks: list[pl.DataFrame]) -> Any:
    fitter = field.fitter()
    for chunk in chunks:
        fitter.update(chunk)
    return fitter.finish()


def slow_vocabulary(values: list[str], min_count: int = 1, max_size: int | None = None) -> dict[str, int]:
    kept = [(-count, value.encode(), value) for value, count in Counter(values).items() if count >= min_count]
    return {value: place for place, (_, _, value) in enumerate(sorted(kept)[:max_size])}


def slow_hash(value: str, seed: int = 0) -> int:
    """FNV-1a with 64 bits, then MurmurHash3's fmix64, on Python integers."""
    state = 0xCBF29CE484222325 ^ seed
    for byte in value.encode():
        state = ((state ^ byte) * 0x100000001B3) % 2**64
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        state = ((state ^ (state >> 33)) * factor) % 2**64
    return state ^ (state >> 33)


@few
@given(
    texts,
    cuts,
    st.integers(1, 3),
    st.sampled_from([None, 1, 3]),
    st.sampled_from(["value", "own", "oov"]),
    st.randoms(),
)
def test_a_vocabulary_is_what_counting_in_a_loop_gives(
    values: list[str | None], at: list[int], min_count: int, max_size: int | None, missing: str, random: Any
) -> None:
    rows = pl.DataFrame({"x": pl.Series(values, dtype=pl.String)})
    config = CategoricalConfig(min_count=min_count, max_size=max_size, missing=missing)  # type: ignore[arg-type]
    fitted = fit(Categorical("x", config), pieces(rows, at))
    filled = [value or "" for value in values]
    counted = filled if missing == "value" else [value for value in filled if value]
    known = slow_vocabulary(counted, min_count, max_size)
    first = 2 if missing == "own" else 1

    def slow_id(value: str) -> int:
        if not value and missing != "value":
            return 1 if missing == "own" else 0
        return known[value] + first if value in known else 0

    probe = [*filled, "never seen", "", "a"]
    encoded = pl.DataFrame({"x": probe}).select(fitted.encode())["x"]
    assert encoded.to_list() == [slow_id(value) for value in probe]
    assert fitted.spec.sparse[0].num_embeddings == len(known) + first
    shuffled = rows.sample(fraction=1.0, shuffle=True, seed=random.randrange(1000))
    assert (
        fit(Categorical("x", config), [shuffled])
        .state()
        .tables["vocabulary"]
        .equals(fitted.state().tables["vocabulary"])
    )


@pytest.mark.parametrize("size", [254, 255, 256, 257, 65_535, 65_537])
def test_ids_do_not_wrap_where_the_enum_gets_a_wider_type(size: int) -> None:
    values = pl.Series([f"{index:06d}" for index in range(size)])
    ids = vocabulary.VocabularyIds(values, first=2)
    encoded = pl.DataFrame({"x": values}).select(ids.of(pl.col("x")))["x"]
    assert encoded.dtype == pl.Int32
    assert encoded.to_list() == list(range(2, size + 2))
    assert ids.end == size + 2


@pytest.mark.parametrize("prefix", ["", "a long text "])
def test_counts_are_merged_when_many_wait(monkeypatch: pytest.MonkeyPatch, prefix: str) -> None:
    monkeypatch.setattr(vocabulary, "_WAITING_ROWS", 3)
    counter, values = vocabulary.ValueCounter(), [prefix + str(n * n % 17) for n in range(200)]
    for start in range(0, 200, 7):
        counter.add(pl.Series(values[start : start + 7]))
        assert counter._short.waiting + counter._waiting_rows <= 9, "no more wait than there are values"
    assert dict(counter.counts().iter_rows()) == dict(Counter(values))


@few
@given(st.lists(st.one_of(st.text(max_size=8), st.text("a\0", max_size=9), st.sampled_from(["05db9164", "é"]))))
def test_short_texts_are_counted_as_in_a_loop_or_not_at_all(values: list[str]) -> None:
    for series in (pl.Series(values, dtype=pl.String), pl.Series([*values, *values, "xyz"])[len(values) : -1]):
        counted = count_short_texts(series)
        fit_for_it = all(len(value.encode()) <= 8 and not value.endswith("\0") for value in values)
        assert (counted is not None) == fit_for_it
        if counted is not None:
            keys, counts = counted
            assert dict(zip(short_texts(keys).to_list(), counts.tolist(), strict=True)) == dict(Counter(values))


@few
@given(texts, cuts, st.integers(1, 3), st.sampled_from([None, 2]), st.booleans(), st.booleans())
def test_counts_stand_as_a_sort_puts_them(
    values: list[str | None], at: list[int], least: int, most: int | None, empty: bool, nulls: bool
) -> None:
    counter = vocabulary.ValueCounter()
    for piece in pieces(pl.DataFrame({"x": pl.Series(values, dtype=pl.String)}), at):
        counter.add(piece["x"], nulls=nulls)
    counted = Counter("" if value is None else value for value in values if value is not None or nulls)
    kept = {value: count for value, count in counted.items() if count >= least and (empty or value)}
    expected = sorted(kept.items(), key=lambda one: (-one[1], one[0].encode()))[:most]
    assert counter.counts(min_count=least, max_size=most, empty=empty).rows() == expected


@few
@given(st.lists(st.text(max_size=12), max_size=30), st.integers(0, 2**63 - 1))
def test_the_hash_is_the_one_it_is_documented_to_be(values: list[str], seed: int) -> None:
    series = pl.Series(values, dtype=pl.String)
    assert hash_texts(series, seed).tolist() == [slow_hash(value, seed) for value in values]
    assert hash_texts(series.slice(3, 9), seed).tolist() == [slow_hash(value, seed) for value in values[3:12]]


def test_the_hash_never_changes() -> None:
    found = hash_texts(pl.Series(["", "a", "68fd1e64", "日本語"])).tolist()
    assert found == [17280346270528514342, 9413272369427828315, 12226031434765971675, 16218896763332251880]


@few
@given(texts, st.integers(1, 9), st.sampled_from(["value", "own", "oov"]))
def test_hashed_categories(values: list[str | None], buckets: int, missing: str) -> None:
    config = CategoricalConfig(mode="hash", num_buckets=buckets, seed=3, missing=missing)  # type: ignore[arg-type]
    fitted = fit(Categorical("x", config), [])
    first = 2 if missing == "own" else 1

    def slow_id(value: str) -> int:
        if not value and missing != "value":
            return 1 if missing == "own" else 0
        return slow_hash(value, 3) % buckets + first

    encoded = pl.DataFrame({"x": pl.Series(values, dtype=pl.String)}).select(fitted.encode())["x"]
    assert encoded.to_list() == [slow_id(value or "") for value in values]
    assert fitted.spec.sparse[0].num_embeddings == buckets + first


def test_hashes_spread_evenly() -> None:
    buckets = hash_texts(pl.Series([f"{n:08x}" for n in range(20_000)])) % 16
    counts = Counter(buckets.tolist())
    assert max(counts.values()) - min(counts.values()) < 6 * (20_000 / 16) ** 0.5  # six standard deviations


lists = st.lists(
    st.one_of(st.none(), st.lists(st.one_of(st.none(), st.sampled_from(["", "a", "b", "c", "dd"])), max_size=6))
)


@few
@given(lists, cuts, st.integers(1, 3), st.integers(2, 4))
def test_id_lists(values: list[list[str | None] | None], at: list[int], min_count: int, max_length: int) -> None:
    rows = pl.DataFrame({"x": pl.Series(values, dtype=pl.List(pl.String))})
    clean = [[item for item in value or [] if item] for value in values]
    known = slow_vocabulary([item for value in clean for item in value], min_count)
    ids = [[known.get(item, -1) + 1 for item in value] for value in clean]
    hot = fit(MultiHot("x", MultiHotConfig(min_count=min_count, max_length=max_length)), pieces(rows, at))
    last = fit(Sequence("x", SequenceConfig(min_count=min_count, max_length=max_length)), pieces(rows, at))
    assert rows.select(hot.encode())["x"].to_list() == [row[:max_length] for row in ids]
    assert rows.select(last.encode())["x"].to_list() == [row[-max_length:] for row in ids]
    joined = pl.DataFrame(
        {"x": [None if value is None else "|".join(item or "" for item in value) for value in values]}
    )
    split = fit(
        Sequence("x", SequenceConfig(min_count=min_count, max_length=max_length, separator="|")),
        [joined.cast(pl.String)],
    )
    assert joined.cast(pl.String).select(split.encode())["x"].to_list() == [row[-max_length:] for row in ids]


def test_a_sequence_shares_the_table_of_a_hashed_category() -> None:
    item = fit(Categorical("item", CategoricalConfig(mode="hash", num_buckets=50)), [])
    config = SequenceConfig(mode="hash", num_buckets=50, table="item")
    history = fit(Sequence("history", config), [])
    rows = pl.DataFrame({"item": ["x", "y"], "history": [["y", "x"], ["x"]]})
    encoded = rows.select(*item.encode(), *history.encode())
    x, y = encoded["item"].to_list()
    assert encoded["history"].to_list() == [[y, x], [x]]
    assert history.spec.sparse[0].table == "item"
    assert history.spec.sparse[0].num_embeddings == item.spec.sparse[0].num_embeddings


def test_a_cross_keeps_its_parts_apart() -> None:
    rows = pl.DataFrame({"a": ["ab", "a", "ab", None], "b": ["c", "bc", "c", "abc"]})
    fitted = fit(Cross("x", CrossConfig(columns=("a", "b"))), [rows])
    assert rows.select(fitted.encode())["x"].to_list() == [1, 3, 1, 2]
    hashed = fit(Cross("x", CrossConfig(columns=("a", "b"), mode="hash", num_buckets=10**6)), [])
    assert rows.select(hashed.encode())["x"].n_unique() == 3


def slow_text(value: str, config: TextHashConfig) -> list[int]:
    words = re.findall(r"\w+", value.lower())
    parts = list(words) if config.words else []
    for length in config.ngrams:
        for word in words:
            marked = f"<{word}>"
            parts += ["\x1f" + marked[start : start + length] for start in range(len(marked) - length + 1)]
    return [slow_hash(part) % config.num_buckets + 1 for part in parts[: config.max_length]]


@few
@given(
    st.lists(st.one_of(st.none(), st.text(alphabet="aB _-é日", max_size=14)), max_size=10),
    st.booleans(),
    st.lists(st.integers(1, 5), max_size=3, unique=True),
    st.integers(2, 12),
)
def test_text_hashes(values: list[str | None], words: bool, ngrams: list[int], max_length: int) -> None:
    config = TextHashConfig(num_buckets=997, words=words or not ngrams, ngrams=tuple(ngrams), max_length=max_length)
    fitted = fit(TextHash("x", config), [])
    encoded = pl.DataFrame({"x": pl.Series(values, dtype=pl.String)}).select(fitted.encode())["x"]
    assert encoded.to_list() == [slow_text(value or "", config) for value in values]


def test_real_categories_are_counted_as_in_a_loop(criteo_sample: Path) -> None:
    rows = pl.read_csv(criteo_sample, separator="\t", has_header=False, n_rows=5000, infer_schema=False)
    field = Categorical("C3", CategoricalConfig(column="column_17", min_count=2))
    fitted = fit(field, pieces(rows, [100, 3000]))
    values = [value or "" for value in rows["column_17"]]
    known = slow_vocabulary(values, min_count=2)
    assert rows.select(fitted.encode())["C3"].to_list() == [known.get(value, -1) + 1 for value in values]
    assert 100 < len(known) < 5000


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"mode": "hash"}, "needs num_buckets"),
        ({"num_buckets": 5}, "goes with mode 'hash'"),
        ({"table": "item"}, "ids of two vocabularies do not mean the same"),
        ({"min_count": 0}, "min_count"),
        ({"min_cuont": 2}, "min_count"),
    ],
)
def test_configs_that_mean_nothing_are_refused(config: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_component(default_registry(), "field-type", {"type": "categorical", **config})
