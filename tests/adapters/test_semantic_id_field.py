"""The field type ``semantic-id`` and the numbering of code n-grams under it."""

from __future__ import annotations

import itertools
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_adapters.code_ngrams import CodeNgrams
from genrec_adapters.item_codes import ItemCodes
from genrec_adapters.preprocess import prepare
from genrec_plugins.testing import field_type_suite
from genrec_registry import ConfigError, DataError, FieldState, default_registry, parse_component


def write_index(path: Path, seed: int = 0) -> Path:
    codes = np.random.default_rng(seed).integers(0, 4, (12, 3)).tolist()
    index = {
        f"i{n}": [f"<{letter}_{c}>" for letter, c in zip("abc", code, strict=True)] for n, code in enumerate(codes)
    }
    path.write_text(json.dumps(index))
    return path


_FOLDER = tempfile.TemporaryDirectory(prefix="genrec-codes-")  # kept until the process ends
INDEX = str(write_index(Path(_FOLDER.name) / "index.json"))
ROWS = pl.DataFrame({"item": [*(f"i{n % 14}" for n in range(20)), None, "", "unheard of", "i3"]})

TestPrefix = field_type_suite("semantic-id", {"codes": INDEX, "column": "item"}, ROWS)
TestLevels = field_type_suite("semantic-id", {"codes": INDEX, "column": "item", "ngrams": "level"}, ROWS)
TestHashed = field_type_suite("semantic-id", {"codes": INDEX, "column": "item", "num_buckets": 5}, ROWS)
TestOneLevel = field_type_suite("semantic-id", {"codes": INDEX, "column": "item", "depth": 1}, ROWS)


def build(**options: Any) -> Any:
    registry = default_registry()
    config = parse_component(registry, "field-type", {"type": "semantic-id", "codes": INDEX, **options})
    return registry.create("field-type", config, "item")


def random_codes(rows: list[list[int]], sizes: tuple[int, ...]) -> ItemCodes:
    array = np.array(rows, np.int32).reshape(-1, len(sizes))
    return ItemCodes(items=tuple(str(n) for n in range(len(array))), codes=array, sizes=sizes)


SIZES = (3, 2, 4)
CODES = st.lists(st.tuples(*(st.integers(0, size - 1) for size in SIZES)), min_size=1, max_size=30)


@settings(max_examples=60, deadline=None)
@given(rows=CODES, depth=st.integers(1, 3), kind=st.sampled_from(["prefix", "level"]))
def test_two_items_share_the_ids_of_the_ngrams_they_share_and_no_others(rows, depth, kind):
    codes = random_codes([list(row) for row in rows], SIZES)
    ngrams = CodeNgrams.of(codes, kind=kind, depth=depth)
    ids = ngrams.ids(codes.codes)
    assert ids.shape == (len(rows), depth)
    for (a, ids_a), (b, ids_b) in itertools.combinations(zip(rows, ids, strict=True), 2):
        for level in range(depth):
            same = a[: level + 1] == b[: level + 1] if kind == "prefix" else a[level] == b[level]
            assert (ids_a[level] == ids_b[level]) == same
    # the rows of the table are those that occur, and row 0
    assert sorted(set(ids.ravel().tolist())) == list(range(1, ngrams.num_ids))


@settings(max_examples=60, deadline=None)
@given(rows=CODES, buckets=st.integers(1, 6), seed=st.integers(0, 3))
def test_hashed_ngrams_stay_in_the_block_of_their_length(rows, buckets, seed):
    codes = random_codes([list(row) for row in rows], SIZES)
    ngrams = CodeNgrams.of(codes, num_buckets=buckets, seed=seed)
    ids = ngrams.ids(codes.codes)
    first = 1
    for level in range(3):
        distinct = len({tuple(row[: level + 1]) for row in rows})
        block = min(distinct, buckets)
        assert ((ids[:, level] >= first) & (ids[:, level] < first + block)).all()
        if distinct <= buckets:
            assert len(set(ids[:, level].tolist())) == distinct
        first += block
    assert ngrams.num_ids == first
    assert (ngrams.ids(codes.codes) == CodeNgrams.of(codes, num_buckets=buckets, seed=seed).ids(codes.codes)).all()


def test_the_hash_spreads_and_depends_on_the_seed():
    rows = [[a, b] for a in range(64) for b in range(64)]
    codes = random_codes(rows, (64, 64))
    ids = [CodeNgrams.of(codes, num_buckets=256, seed=seed).ids(codes.codes)[:, 1] for seed in (0, 1)]
    counts = np.bincount(ids[0] - ids[0].min(), minlength=256)
    assert counts.max() < 2.5 * counts.mean()
    assert (ids[0] != ids[1]).mean() > 0.9


def test_a_new_item_keeps_the_ngrams_it_shares_with_known_ones():
    ngrams = CodeNgrams.of(random_codes([[0, 0, 0], [1, 1, 3]], SIZES))
    known = ngrams.ids(np.array([[1, 1, 3]]))[0]
    new = ngrams.ids(np.array([[1, 1, 2], [1, 0, 3], [2, 1, 3], [1, 1, 9], [-1, -1, -1]]))
    assert new[0].tolist() == [known[0], known[1], 0]
    assert new[1].tolist() == [known[0], 0, 0]
    assert new[2].tolist() == [0, 0, 0]
    assert new[3].tolist() == [known[0], known[1], 0]  # 9 is outside the codebook, and no alias of another prefix
    assert new[4].tolist() == [0, 0, 0]


def test_wrong_depths_and_too_many_prefixes_are_told():
    codes = random_codes([[0, 0, 0]], SIZES)
    with pytest.raises(ConfigError, match=r"depth is 4, the codes have 3 levels; expected 1\.\.3"):
        CodeNgrams.of(codes, depth=4)
    wide = random_codes([[0, 0, 0]], (2**21, 2**21, 2**21))
    with pytest.raises(DataError, match="more than 2\\^63 prefixes; set a lower depth"):
        CodeNgrams.of(wide)
    assert CodeNgrams.of(wide, depth=2).num_ids == 3


def test_the_state_needs_no_codes(tmp_path):
    path = write_index(tmp_path / "index.json")
    field = build(codes=str(path))
    fitted = field.fitter().finish()
    state = fitted.state()
    path.unlink()
    restored = field.restore(FieldState(json=dict(state.json), tables=dict(state.tables)))
    assert ROWS.select(restored.encode()).equals(ROWS.select(fitted.encode()))


def test_ids_are_the_ngrams_of_the_published_codes():
    fitted = build().fitter().finish()
    codes = ItemCodes.read(INDEX)
    expected = CodeNgrams.of(codes).ids(codes.of([item or "" for item in ROWS["item"].to_list()]))
    assert ROWS.select(fitted.encode())["item"].to_list() == expected.tolist()
    assert expected[-1].tolist() == expected[3].tolist()
    assert expected[-2].tolist() == [0, 0, 0]


def test_numbers_are_read_as_text(tmp_path):
    path = tmp_path / "index.json"
    path.write_text(json.dumps({"7": ["<a_0>"], "8": ["<a_1>"]}))
    fitted = build(codes=str(path)).fitter().finish()
    assert pl.DataFrame({"item": [8, 7, 9, None]}).select(fitted.encode())["item"].to_list() == [2, 1, 0, 0]


def test_missing_codes_are_told(tmp_path):
    with pytest.raises(DataError, match=r"absent\.json"):
        build(codes=str(tmp_path / "absent.json")).fitter()


def test_prepared_rows_are_made_again_when_the_codes_change(tmp_path):
    codes = write_index(tmp_path / "index.json")
    pl.DataFrame({"y": [0, 1] * 10, "item": [f"i{n % 12}" for n in range(20)]}).write_csv(tmp_path / "t.csv")
    dataset = {"type": "csv", "train": str(tmp_path / "t.csv"), "label": "y"}
    fields = {"item": {"type": "semantic-id", "codes": str(codes)}}

    def prepared() -> Any:
        return prepare(dataset, tmp_path / "prepared", fields=fields)

    first = prepared()
    assert not first.reused
    assert prepared().reused
    write_index(codes, seed=1)
    again = prepared()
    assert not again.reused
    assert again.sparse_features != first.sparse_features or again.manifest != first.manifest


def test_codes_are_read_from_a_file_that_stands_alone(tmp_path):
    path = tmp_path / "codes.parquet"
    frame = pl.DataFrame({"item": ["a", "b"], "codes": [[0, 1], [2, 0]]}, schema_overrides={"codes": pl.List(pl.Int32)})
    frame.write_parquet(path, metadata={"genrec.sizes": "[3, 4]"})
    codes = ItemCodes.read(path)
    assert (codes.items, codes.codes.tolist(), codes.sizes) == (("a", "b"), [[0, 1], [2, 0]], (3, 4))
    frame.write_parquet(path)
    with pytest.raises(DataError, match="holds no item codes"):
        ItemCodes.read(path)
