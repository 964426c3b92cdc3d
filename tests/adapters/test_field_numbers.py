"""Numbers and moments against slow references, and against chunks cut at random."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_adapters.field_types.configs import (
    NumericBucketConfig,
    NumericDenseConfig,
    NumericEmbeddingConfig,
    TimestampConfig,
    VectorConfig,
)
from genrec_adapters.field_types.histogram import Histogram, quantiles
from genrec_adapters.field_types.numeric_bucket import NumericBucket
from genrec_adapters.field_types.numeric_dense import NumericDense
from genrec_adapters.field_types.numeric_embedding import NumericEmbedding
from genrec_adapters.field_types.timestamp import Timestamp
from genrec_adapters.field_types.vector import Vector

few = settings(max_examples=60, deadline=None)
ordinary = st.one_of(st.floats(-1e6, 1e6), st.integers(-5, 100).map(float))
numbers = st.lists(st.one_of(st.none(), st.just(math.nan), ordinary), max_size=40)
any_numbers = st.lists(st.one_of(st.none(), st.floats()), max_size=40)
cuts = st.lists(st.integers(0, 40), max_size=5)


def frame(values: list[float | None]) -> pl.DataFrame:
    return pl.DataFrame({"x": pl.Series(values, dtype=pl.Float64)})


def fit(field: Any, rows: pl.DataFrame, at: list[int]) -> Any:
    fitter = field.fitter()
    inner = sorted(min(cut, rows.height) for cut in at)
    for start, end in zip([0, *inner], [*inner, rows.height], strict=True):
        fitter.update(rows[start:end])
    return fitter.finish()


def present(values: list[float | None]) -> list[float]:
    return [value for value in values if value is not None and not math.isnan(value)]


# -- buckets ----------------------------------------------------------------------------------------------------------


def slow_criteo(value: float | None) -> str:
    if value is None or math.isnan(value):
        return ""
    return str(math.floor(math.log(value) ** 2)) if value > 2 else str(int(value))


@few
@given(numbers, cuts, st.integers(1, 3), st.sampled_from([None, 0.0, 50.0]))
def test_criteo_buckets(values: list[float | None], at: list[int], min_count: int, fill_na: float | None) -> None:
    config = NumericBucketConfig(min_count=min_count, fill_na=fill_na)
    fitted = fit(NumericBucket("x", config), frame(values), at)
    filled = [fill_na if value is None or math.isnan(value) else value for value in values]
    buckets = [slow_criteo(value) for value in filled]
    kept = sorted((-n, value.encode(), value) for value, n in Counter(buckets).items() if n >= min_count)
    ids = {value: place for place, (_, _, value) in enumerate(kept, start=1)}
    assert frame(values).select(fitted.encode())["x"].to_list() == [ids.get(bucket, 0) for bucket in buckets]
    assert fitted.spec.sparse[0].num_embeddings == len(ids) + 1


WHOLE = {pl.Int64: 2**63 - 1, pl.Int32: 2**31 - 1, pl.UInt16: 2**16 - 1, pl.Int8: 127, pl.UInt64: 2**64 - 1}
edge_numbers = st.sampled_from([-(2**63), -257, -256, -1, 0, 2, 3, 65_279, 65_280, 65_281, 2**31, 2**63 - 1])
whole_numbers = st.one_of(st.none(), st.integers(-300, 70_000), st.integers(-(2**63), 2**63 - 1), edge_numbers)


@few
@given(st.lists(whole_numbers, max_size=40), cuts, st.sampled_from([*WHOLE]), st.sampled_from([None, -1.0, 1e6]))
def test_criteo_buckets_of_whole_numbers(
    values: list[int | None], at: list[int], dtype: type[pl.DataType], fill_na: float | None
) -> None:
    """The table, its ends and what lies beyond them, by the rule in a loop."""
    lowest = -WHOLE[dtype] - 1 if dtype.is_signed_integer() else 0
    fitting = [None if value is None or not lowest <= value <= WHOLE[dtype] else value for value in values]
    rows = pl.DataFrame({"x": pl.Series(fitting, dtype=dtype)})
    fitted = fit(NumericBucket("x", NumericBucketConfig(fill_na=fill_na)), rows, at)
    # As floats, and no further down than 2^62, as documented.
    filled = [fill_na if value is None else max(float(value), -(2.0**62)) for value in fitting]
    buckets = [slow_criteo(value) for value in filled]
    kept = sorted((-n, value.encode(), value) for value, n in Counter(buckets).items())
    ids = {value: place for place, (_, _, value) in enumerate(kept, start=1)}
    assert dict(fitted.state().tables["vocabulary"].iter_rows()) == dict(Counter(buckets))
    assert rows.select(fitted.encode())["x"].to_list() == [ids[bucket] for bucket in buckets]
    restored = NumericBucket("x", NumericBucketConfig(fill_na=fill_na)).restore(fitted.state())
    assert rows.select(restored.encode()).equals(rows.select(fitted.encode()))


def test_no_whole_number_is_at_the_edge_of_a_criteo_bucket() -> None:
    """So that a logarithm that is off by a few ulps, as another machine's may be, gives the same ids."""
    squares = np.log(np.arange(3, 1 << 20, dtype=np.float64)) ** 2
    assert np.abs(squares - np.round(squares)).min() > 1e-8


def test_criteo_buckets_by_hand() -> None:
    values = [-3.0, -1.5, 0.0, 0.9, 1.0, 2.0, 2.1, 3.0, 10.0, 1000.0, None]
    fitted = fit(NumericBucket("x", NumericBucketConfig()), frame(values), [])
    vocabulary = fitted.state().tables["vocabulary"]["value"].to_list()
    ids = frame(values).select(fitted.encode())["x"].to_list()
    assert [vocabulary[place - 1] for place in ids] == ["-3", "-1", "0", "0", "1", "2", "0", "1", "5", "47", ""]


@few
@given(numbers, cuts, st.integers(2, 6), st.sampled_from(["quantile", "uniform"]))
def test_quantile_and_uniform_buckets(values: list[float | None], at: list[int], buckets: int, method: str) -> None:
    config = NumericBucketConfig(method=method, num_buckets=buckets)  # type: ignore[arg-type]
    fitted = fit(NumericBucket("x", config), frame(values), at)
    known = present(values)
    edges: list[float] = []
    if known and method == "quantile":
        inner = [k / buckets for k in range(1, buckets)]
        edges = sorted(set(np.quantile(known, inner, method="inverted_cdf").tolist()))
    elif known:
        low, high = min(known), max(known)
        edges = sorted({low + k / buckets * (high - low) for k in range(1, buckets)})
    assert fitted.state().json["edges"] == pytest.approx(edges, rel=1e-12, abs=1e-9)
    edges = fitted.state().json["edges"]

    def slow_id(value: float | None) -> int:
        return 0 if value is None or math.isnan(value) else 1 + sum(edge < value for edge in edges)

    probe = [*values, -1e9, 1e9, math.inf, -math.inf, None]
    assert frame(probe).select(fitted.encode())["x"].to_list() == [slow_id(value) for value in probe]
    assert fitted.spec.sparse[0].num_embeddings == len(edges) + 2


def test_quantile_buckets_hold_equal_counts() -> None:
    values = np.random.default_rng(0).lognormal(size=10_000)
    fitted = fit(
        NumericBucket("x", NumericBucketConfig(method="quantile", num_buckets=8)), frame(values.tolist()), [17]
    )
    counts = frame(values.tolist()).select(fitted.encode())["x"].value_counts()
    assert counts["count"].to_list() == [1250] * 8


# -- the histogram ----------------------------------------------------------------------------------------------------


@few
@given(any_numbers, cuts, st.integers(4, 12), st.randoms())
def test_a_cut_histogram_depends_on_the_numbers_alone(
    values: list[float | None], at: list[int], capacity: int, random: Any
) -> None:
    def build(numbers: list[float | None], at: list[int]) -> pl.DataFrame:
        histogram, inner = Histogram(capacity), sorted(min(cut, len(numbers)) for cut in at)
        for start, end in zip([0, *inner], [*inner, len(numbers)], strict=True):
            histogram.add(pl.Series(numbers[start:end], dtype=pl.Float64))
        return histogram.table()

    table = build(values, at)
    assert table.equals(build(values, []))
    shuffled = list(values)
    random.shuffle(shuffled)
    assert table.equals(build(shuffled, at))
    known = [value for value in present(values) if abs(value) < 1e300]
    assert table["count"].sum() == len(known)
    assert table["value"].is_sorted()
    if known:
        assert (table["value"][0], table["value"][-1]) == (min(known), max(known))


def test_a_cut_histogram_is_bounded_and_close() -> None:
    values = np.random.default_rng(1).normal(1e9, 10.0, 50_000)  # far from zero: few mantissa bits tell values apart
    histogram = Histogram(capacity=1000)
    for part in np.array_split(values, 9):
        histogram.add(pl.Series(part))
    table = histogram.table()
    assert 500 <= table.height <= 1000
    probabilities = np.array([0.01, 0.25, 0.5, 0.75, 0.99])
    exact = np.quantile(values, probabilities)
    assert np.abs(quantiles(table, probabilities) - exact).max() < 0.3  # a cell is 0.125 wide at the least


# -- dense and embedded numbers ---------------------------------------------------------------------------------------


@few
@given(
    numbers, cuts, st.sampled_from(["standardise", "log1p", "log1p-standardise", "none"]), st.sampled_from([None, 1.5])
)
def test_dense_numbers(values: list[float | None], at: list[int], transform: str, clip: float | None) -> None:
    config = NumericDenseConfig(transform=transform, clip=clip)  # type: ignore[arg-type]
    encoded = frame(values).select(fit(NumericDense("x", config), frame(values), at).encode())["x"].to_numpy()
    numbers = np.array([math.nan if value is None else value for value in values], dtype=np.float64)
    missing = np.isnan(numbers)
    if transform.startswith("log1p"):
        numbers = np.sign(numbers) * np.log1p(np.abs(numbers))
    mean = numbers[~missing].mean() if (~missing).any() else 0.0
    if transform.endswith("standardise"):
        spread = numbers[~missing].std() if (~missing).any() else 1.0
        numbers = (numbers - mean) / (spread if spread > 1e-9 * (1 + abs(mean)) else 1.0)
        mean = 0.0
    numbers[missing] = mean
    if clip is not None:
        numbers = numbers.clip(-clip, clip)
    assert encoded.shape == (len(values), 2)
    assert encoded[:, 1].tolist() == missing.astype(float).tolist()
    if np.ptp(numbers[~missing]) > 1e-6 if (~missing).any() else True:  # equal numbers: a deviation of rounding errors
        np.testing.assert_allclose(encoded[:, 0], numbers, rtol=1e-4, atol=1e-4)


def test_a_dense_number_without_indicator_is_one_float() -> None:
    values = [1.0, 3.0, None]
    fitted = fit(NumericDense("x", NumericDenseConfig(missing_indicator=False)), frame(values), [])
    assert fitted.spec.dense[0].width == 1
    assert frame(values).select(fitted.encode())["x"].to_list() == [-1.0, 1.0, 0.0]


def slow_piecewise_linear(value: float, edges: list[float]) -> list[float]:
    """Equation 1 of arXiv 2203.05556, with the outer bins bounded too."""
    components = []
    for low, high in itertools.pairwise(edges):
        components.append(0.0 if value < low else 1.0 if value >= high else (value - low) / (high - low))
    return components


@few
@given(numbers, cuts, st.integers(1, 6))
def test_piecewise_linear_positions(values: list[float | None], at: list[int], bins: int) -> None:
    fitted = fit(NumericEmbedding("x", NumericEmbeddingConfig(num_bins=bins)), frame(values), at)
    edges = fitted.state().json["edges"]
    known = present(values)
    if known:
        wanted = np.quantile(known, np.arange(bins + 1) / bins, method="inverted_cdf")
        assert edges == sorted(set(wanted.tolist()))
    probe = [*known, -1e7, 1e7]
    encoded = frame([*probe, None]).select(fitted.encode())["x"].to_numpy()
    for value, (position, missing) in zip(probe, encoded[:-1].tolist(), strict=True):
        components = [min(max(position - t, 0.0), 1.0) for t in range(max(1, len(edges) - 1))]
        expected = slow_piecewise_linear(value, edges) or [0.0]
        assert components == pytest.approx(expected, abs=1e-5)
        assert missing == 0.0
    assert encoded[-1].tolist() == [0.0, 1.0]
    assert fitted.spec.dense[0].params["bins"] == max(1, len(edges) - 1)


@few
@given(
    any_numbers, any_numbers, st.sampled_from(["dense", "piecewise-linear", "autodis", "criteo", "quantile", "uniform"])
)
def test_any_float_at_all_is_finite_and_in_range(
    values: list[float | None], probe: list[float | None], kind: str
) -> None:
    field: Any
    if kind == "dense":
        field = NumericDense("x", NumericDenseConfig())
    elif kind in ("piecewise-linear", "autodis"):
        field = NumericEmbedding("x", NumericEmbeddingConfig(method=kind, num_bins=3))  # type: ignore[arg-type]
    else:
        field = NumericBucket("x", NumericBucketConfig(method=kind, num_buckets=3))  # type: ignore[arg-type]
    fitted = fit(field, frame(values), [3])
    encoded = frame([*values, *probe]).select(fitted.encode())["x"].to_numpy()
    assert np.isfinite(encoded).all()
    if fitted.spec.sparse:
        assert ((encoded >= 0) & (encoded < fitted.spec.sparse[0].num_embeddings)).all()


def test_numbers_may_come_as_text() -> None:
    rows = pl.DataFrame({"x": ["1", "2.5", "", None, "n/a", "-3"]})
    fitted = fit(NumericBucket("x", NumericBucketConfig()), rows, [])
    assert fitted.state().tables["vocabulary"]["value"].to_list() == ["", "-3", "0", "1"]


# -- moments ----------------------------------------------------------------------------------------------------------

moments = st.datetimes(datetime(1970, 1, 2), datetime(2068, 12, 31, 23))


@few
@given(st.lists(moments, min_size=1, max_size=20))
def test_calendar_parts_in_every_format(values: list[datetime]) -> None:
    columns = {
        "iso": [value.isoformat(timespec="seconds") for value in values],
        "iso-space": [value.strftime("%Y-%m-%d %H:%M:%S.%f+05:00") for value in values],
        "yymmddhh": [value.strftime("%y%m%d%H") for value in values],
        "epoch-seconds": [int(value.replace(tzinfo=UTC).timestamp()) for value in values],
        "epoch-milliseconds": [int(value.replace(tzinfo=UTC).timestamp() * 1000) for value in values],
    }
    rows = pl.DataFrame(columns)
    for column in columns:
        if column == "yymmddhh" and min(values).year < 2000:
            continue  # two digits of a year
        config = TimestampConfig(
            column=column,
            format=column.removesuffix("-space"),  # type: ignore[arg-type]
            parts=("hour", "weekday", "weekend", "cyclic"),
        )
        encoded = rows.select(Timestamp("t", config).fitter().finish().encode())
        assert encoded["t_hour"].to_list() == [value.hour + 1 for value in values]
        assert encoded["t_weekday"].to_list() == [value.isoweekday() for value in values]
        assert encoded["t_weekend"].to_list() == [1 + (value.isoweekday() > 5) for value in values]
        for value, found in zip(values, encoded["t_cyclic"].to_list(), strict=True):
            exact = timedelta(hours=value.hour) if column == "yymmddhh" else timedelta(seconds=_second_of_day(value))
            day = exact / timedelta(days=1)
            week = (value.weekday() + day) / 7
            waves = [
                math.sin(math.tau * day),
                math.cos(math.tau * day),
                math.sin(math.tau * week),
                math.cos(math.tau * week),
            ]
            assert found == pytest.approx(waves, abs=1e-5)


def _second_of_day(value: datetime) -> int:
    return value.hour * 3600 + value.minute * 60 + value.second


def test_an_offset_moves_the_local_clock() -> None:
    config = TimestampConfig(column="x", format="epoch-seconds", parts=("hour", "weekday"), utc_offset_hours=-1)
    rows = pl.DataFrame({"x": [0, 3600]})  # Thursday 1970-01-01, midnight and 1:00
    assert rows.select(Timestamp("t", config).fitter().finish().encode()).rows() == [(24, 3), (1, 4)]


def test_real_avazu_hours(avazu_sample: Path) -> None:
    rows = pl.read_csv(avazu_sample, columns=["hour"], infer_schema=False)
    config = TimestampConfig(column="hour", format="yymmddhh")
    encoded = rows.select(Timestamp("time", config).fitter().finish().encode()).with_columns(hour=rows["hour"]).unique()
    assert sorted(encoded.select("hour", "time_hour", "time_weekday", "time_weekend").rows()) == [
        ("14102100", 1, 2, 1),  # a Tuesday
        ("14102221", 22, 3, 1),
        ("14102706", 7, 1, 1),
        ("14102816", 17, 2, 1),
    ]


# -- vectors ----------------------------------------------------------------------------------------------------------

vectors = st.lists(st.one_of(st.none(), st.lists(st.one_of(st.none(), st.floats(width=32)), min_size=1, max_size=4)))


@few
@given(vectors, st.booleans())
def test_vectors(values: list[list[float | None] | None], normalise: bool) -> None:
    rows = pl.DataFrame({"x": pl.Series(values, dtype=pl.List(pl.Float32))})
    fitted = Vector("x", VectorConfig(width=3, normalise=normalise)).fitter().finish()
    encoded = rows.select(fitted.encode())["x"].to_numpy()
    expected = np.zeros((len(values), 3))
    for row, value in enumerate(values):
        if value is not None and len(value) == 3:
            expected[row] = [x if x is not None and math.isfinite(x) else 0.0 for x in value]
            largest = np.abs(expected[row]).max()
            if normalise and largest > 0:
                scaled = expected[row] / largest
                expected[row] = scaled / np.linalg.norm(scaled)
    np.testing.assert_allclose(encoded, expected, rtol=1e-5, atol=1e-6 if normalise else 0)
