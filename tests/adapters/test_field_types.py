"""The conformance suite over every built-in field type."""

from __future__ import annotations

import subprocess
import sys

import polars as pl

from genrec_adapters.field_types import RECORDS
from genrec_plugins.testing import field_type_suite

ROWS = pl.DataFrame(
    {
        "text": ["a", "b", None, "a", "", "c", "a", "é", "b", "d"] * 2,
        "code": [1, 2, None, 2, 7, 7, 7, -1, 0, 3] * 2,
        "number": [1.5, None, -2.0, 0.0, 100.0, 7.0, 7.0, float("nan"), 1e6, 2.5] * 2,
        "count": [1, None, 0, -3, 50, 7, 7, 2, 1_000_000, 2] * 2,
        "tags": [["x", "y"], [], None, ["y"], ["x", "x", None], ["z"], ["", "w"], ["y"], ["x"], ["v", "x", "y"]] * 2,
        "joined": ["x|y", "", None, "y", "x||x", "z", "|w", "y", "x", "v|x|y"] * 2,
        "items": [[1, 2, 3, 4], [], None, [2], [None, 5], [1], [1], [2, 3], [9], [4, 4]] * 2,
        "title": ["The Red  Fox", None, "red, RED!", "", "a fox's den", "日本 語", "x", "fox", "the", "Den"] * 2,
        "vector": [[1.0, 2.0, 3.0], None, [0.0] * 3, [1.0], [4.0, None, 1.0], [1.0] * 3, [], [1, 1, 0], [5], [2]] * 2,
        "moment": ["2014-10-21 05:30:00", None, "2014-10-25T23:59", "x", "1999-12-31"] * 4,
        "yymmddhh": ["14102100", "14102523", None, "x", "", "99", "9102100", "14133100", "14102124", "14102605"] * 2,
        "epoch": [1_413_849_600, None, 0, -1, 10**18, 1_413_936_000, 5, 6, 7, 8] * 2,
    }
)  # fmt: skip

TestCategorical = field_type_suite("categorical", {"column": "text", "min_count": 3}, ROWS)
TestCategoricalOwn = field_type_suite("categorical", {"column": "text", "missing": "own", "max_size": 2}, ROWS)
TestCategoricalOov = field_type_suite("categorical", {"column": "code", "missing": "oov"}, ROWS)
TestCategoricalHash = field_type_suite("categorical", {"column": "text", "mode": "hash", "num_buckets": 7}, ROWS)
TestCategoricalHashOwn = field_type_suite(
    "categorical", {"column": "code", "mode": "hash", "num_buckets": 1, "missing": "own", "seed": 5}, ROWS
)
TestCross = field_type_suite("cross", {"columns": ["text", "code"], "min_count": 2}, ROWS)
TestCrossHash = field_type_suite("cross", {"columns": ["text", "code"], "mode": "hash", "num_buckets": 11}, ROWS)
TestDynamicId = field_type_suite("dynamic-id", {"column": "text", "rows": 5, "eviction": "lfu"}, ROWS)
TestMultiHot = field_type_suite("multi-hot", {"column": "tags", "max_length": 2}, ROWS)
TestMultiHotText = field_type_suite("multi-hot", {"column": "joined", "separator": "|", "min_count": 3}, ROWS)
TestSequence = field_type_suite("sequence", {"column": "items", "max_length": 3}, ROWS)
TestSequenceHash = field_type_suite(
    "sequence", {"column": "joined", "separator": "|", "mode": "hash", "num_buckets": 9, "table": "text"}, ROWS
)
TestBucketCriteo = field_type_suite("numeric-bucket", {"column": "count", "min_count": 2}, ROWS)
TestBucketFilled = field_type_suite("numeric-bucket", {"column": "number", "fill_na": 0}, ROWS)
TestBucketQuantile = field_type_suite("numeric-bucket", {"column": "number", "method": "quantile"}, ROWS)
TestBucketUniform = field_type_suite("numeric-bucket", {"column": "count", "method": "uniform"}, ROWS)
TestDense = field_type_suite("numeric-dense", {"column": "number"}, ROWS)
TestDenseLog = field_type_suite("numeric-dense", {"column": "count", "transform": "log1p", "clip": 2.0}, ROWS)
TestDenseBoth = field_type_suite("numeric-dense", {"column": "number", "transform": "log1p-standardise"}, ROWS)
TestDensePlain = field_type_suite("numeric-dense", {"column": "count", "transform": "none"}, ROWS)
TestDenseAlone = field_type_suite("numeric-dense", {"column": "number", "missing_indicator": False}, ROWS)
TestPiecewiseLinear = field_type_suite("numeric-embedding", {"column": "number", "num_bins": 4}, ROWS)
TestAutoDis = field_type_suite("numeric-embedding", {"column": "count", "method": "autodis", "num_bins": 4}, ROWS)
TestTimestampIso = field_type_suite("timestamp", {"column": "moment"}, ROWS)
TestTimestampAvazu = field_type_suite(
    "timestamp", {"column": "yymmddhh", "format": "yymmddhh", "parts": ["cyclic", "hour"]}, ROWS
)
TestTimestampEpoch = field_type_suite(
    "timestamp", {"column": "epoch", "format": "epoch-seconds", "utc_offset_hours": 5.5, "parts": ["cyclic"]}, ROWS
)
TestTextHash = field_type_suite("text-hash", {"column": "title", "num_buckets": 50}, ROWS)
TestTextNgrams = field_type_suite(
    "text-hash", {"column": "title", "num_buckets": 50, "words": False, "ngrams": [2, 3], "max_length": 5}, ROWS
)
TestVector = field_type_suite("vector", {"column": "vector", "width": 3}, ROWS)
TestVectorNormalised = field_type_suite("vector", {"column": "vector", "width": 3, "normalise": True}, ROWS)


#: suites with rows of their own: test_behaviour_field.py, test_knowledge.py, test_semantic_id_field.py
ELSEWHERE = {"TestBehaviour", "TestLumKnowledge", "TestSemanticId"}


def test_every_built_in_field_type_has_a_suite() -> None:
    covered = {name for name in globals() if name.startswith("Test")}
    prefixes = {suite.__name__ for name, suite in globals().items() if name in covered}
    expected = {"Test" + "".join(word.title() for word in record.name.split("-")) for record in RECORDS}
    assert prefixes == expected - ELSEWHERE


def test_records_and_configs_import_neither_polars_nor_torch() -> None:
    code = (
        "import sys; from genrec_adapters.field_types import RECORDS; [r.load_config() for r in RECORDS]; "
        "print(sorted({'polars', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
