"""Laws fitted to points with known constants; intervals that cover them; what is said where nothing can be fitted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import curve_fit

from genrec_plugins.scaling.curve import fit_curve
from genrec_plugins.scaling.fits import fit_law
from genrec_plugins.scaling.laws import Law, predict, solve
from genrec_registry import DataError

#: Recall@10 over parameters, as LUM reports it (arXiv 2502.08309)
LUM_SLOPE, LUM_INTERCEPT = 0.0068, 0.1741
SIZES = np.geomspace(1e3, 1e6, 5)


def values_of(law: Law, constants: list[float], x: np.ndarray) -> np.ndarray:
    return predict(law, np.array([constants]), x)[0]


@given(a=st.floats(0.01, 3), b=st.floats(0.1, 50), c=st.floats(0.05, 2))
@settings(max_examples=30, deadline=None)
def test_power_law_is_found_again(a, b, c):
    x = np.geomspace(1, 1e3, 6)
    y = a + b * x**-c
    found = solve("power", x, y[None])[0]
    assert np.abs(values_of("power", found.tolist(), x) - y).max() < 1e-4 * np.ptp(y)
    np.testing.assert_allclose(found, [a, b, c], rtol=0.05, atol=0.01)


def test_power_law_is_scipys_where_scipy_starts_at_the_truth():
    """The law by a grid and a golden section against the slow way, on noisy points."""
    rng = np.random.default_rng(0)
    x = np.repeat(SIZES, 3)
    for _ in range(5):
        y = 2 + 4 * x**-0.3 + rng.normal(0, 0.01, len(x))
        slow, _ = curve_fit(lambda size, a, b, c: a + b * size**-c, x, y, p0=(2, 4, 0.3), bounds=(0, 10))
        fast = solve("power", x, y[None])[0]
        np.testing.assert_allclose(fast, slow, rtol=1e-3)


@given(slope=st.floats(-5, 5), intercept=st.floats(-5, 5))
@settings(max_examples=30, deadline=None)
def test_log_law_is_numpys_line(slope, intercept):
    y = slope * np.log(SIZES) + intercept + np.sin(np.arange(len(SIZES)))
    np.testing.assert_allclose(solve("log", SIZES, y[None])[0], np.polyfit(np.log(SIZES), y, 1), atol=1e-9)


@given(scale=st.floats(1e-3, 1e6), factor=st.floats(0.1, 10), offset=st.floats(0, 5))
@settings(max_examples=30, deadline=None)
def test_units_do_not_matter(scale, factor, offset):
    """Rescaled sizes leave a and c; rescaled values scale a and b; the fitted values follow."""
    y = np.array([3.1, 2.6, 2.5, 2.33, 2.31])
    base, moved = solve("power", SIZES, y[None])[0], solve("power", SIZES * scale, (y * factor + offset)[None])[0]
    assert moved[2] == pytest.approx(base[2], rel=1e-3)
    before, after = values_of("power", base.tolist(), SIZES), values_of("power", moved.tolist(), SIZES * scale)
    np.testing.assert_allclose(after, before * factor + offset, rtol=1e-5)


def test_constants_of_a_power_law_stay_above_zero():
    falling_to_below_zero = 1 - 0.2 * np.log(SIZES / 1e3)
    a, b, c = solve("power", SIZES, falling_to_below_zero[None])[0]
    assert a == 0
    assert b > 0
    assert 0.01 <= c <= 10
    assert solve("power", SIZES, (1 + 0.1 * np.log(SIZES))[None])[0][1] == 0


@pytest.mark.parametrize(
    ("law", "constants", "sigma", "seeds"),
    [("log", [LUM_SLOPE, LUM_INTERCEPT], 0.002, 2), ("power", [2.0, 4.0, 0.3], 0.02, 3)],
)
def test_intervals_cover_the_truth_as_often_as_they_say(law, constants, sigma, seeds):
    """95 % intervals over 120 repetitions: a rate below 0.88 or above 0.995 would have a chance of about 1 %."""
    rng = np.random.default_rng(3)
    x = np.repeat(SIZES[:4], seeds)
    repeats, hits = 120, np.zeros(len(constants) + 1)
    truth = values_of(law, constants, x)
    for repeat in range(repeats):
        fit = fit_law(law, x, truth + rng.normal(0, sigma, len(x)), draws=300, seed=repeat)
        assert fit.intervals is not None
        inside = [low <= true <= high for true, (low, high) in zip(constants, fit.intervals.values(), strict=True)]
        low, high = fit.band(x[-1:])
        hits += [*inside, low[0] <= truth[-1] <= high[0]]
    rates = hits / repeats
    assert (rates > 0.88).all(), rates
    assert (rates < 0.995).all(), rates


def test_the_law_that_made_the_points_is_preferred():
    rng = np.random.default_rng(1)
    x = np.repeat(SIZES, 3)
    loss = fit_curve(x, 2 + 4 * x**-0.3 + rng.normal(0, 0.01, len(x)), metric="loss", size="P")
    assert "loss falls with P" in loss.says[0]
    assert any("power law describes the points better" in sentence for sentence in loss.says)
    assert any("miss the log law" in sentence for sentence in loss.says)
    recall = LUM_SLOPE * np.log(x) + LUM_INTERCEPT + rng.normal(0, 0.001, len(x))
    curve = fit_curve(x, recall, metric="recall@10", size="P", rising=True)
    power, log = curve.fits
    assert "recall@10 rises with P" in curve.says[0]
    assert any("log law describes the points better" in sentence for sentence in curve.says)
    assert log.constants["slope"] == pytest.approx(LUM_SLOPE, rel=0.05)
    assert power.complement
    np.testing.assert_allclose(power.at(SIZES), log.at(SIZES), atol=0.005)
    assert abs(log.holdout_error) < 0.003


def test_noise_around_a_constant_is_called_no_trend():
    says = [
        fit_curve(np.repeat(SIZES, 2), 0.75 + np.random.default_rng(seed).normal(0, 0.002, 10), metric="auc").says[0]
        for seed in range(20)
    ]
    assert sum("no trend of auc" in sentence for sentence in says) >= 17


def test_the_same_seed_gives_the_same_intervals():
    y = 2 + 4 * SIZES**-0.3 + np.array([0.01, -0.02, 0.015, 0, -0.01])
    first, again, other = (fit_law("power", SIZES, y, seed=seed, draws=200).intervals for seed in (1, 1, 2))
    assert first == again
    assert first != other


@pytest.mark.parametrize(
    ("x", "y", "sentence"),
    [
        ([1, 1, 1], [0.4, 0.5, 0.6], "1 size of depth do not show a law; give at least 3"),
        ([1, 2, 2], [0.4, 0.5, 0.6], "2 sizes of depth do not show a law; give at least 3"),
        ([0, 1, 2], [0.4, 0.5, 0.6], "depth is 0 at its smallest; both laws need sizes above 0"),
        ([1, 2, 4], [0.5, 0.5, 0.5], "auc is 0.5 at every size: there is no curve to fit"),
    ],
)
def test_what_cannot_be_fitted_is_said(x, y, sentence):
    curve = fit_curve(x, y, metric="auc", size="depth")
    assert curve.says == (sentence,)
    assert curve.fits == ()


def test_three_points_have_a_line_but_no_power_law_to_compare():
    curve = fit_curve([1, 2, 4], [3.0, 2.5, 2.3], metric="loss")
    power, log = curve.fits
    assert power.intervals is None
    assert power.band([1, 2]) is None
    assert log.intervals is not None
    assert power.r2 == pytest.approx(1)
    assert power.holdout_error is None
    assert log.holdout_error == pytest.approx(2.0 - 2.3)
    pairs = fit_curve([1, 1, 2, 2, 4, 4], [3.0, 3.01, 2.5, 2.51, 2.2, 2.21], metric="loss")
    assert any("three sizes fix the three constants" in sentence for sentence in pairs.says)


def test_diverged_runs_are_refused():
    with pytest.raises(DataError, match="diverged"):
        fit_curve([1, 2, 4], [0.5, float("nan"), 0.4])
    with pytest.raises(DataError, match="sizes above 0"):
        fit_law("log", [0, 1, 2], [1, 2, 3])
    with pytest.raises(DataError, match="equally many"):
        fit_law("log", [1, 2, 3], [1, 2])
