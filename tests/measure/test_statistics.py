"""The intervals: their exactness against the binomial, their coverage by simulation, and what they refuse."""

from __future__ import annotations

import math
import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyhpc.errors import MeasurementError
from pyhpc.measure.statistics import QUANTILES, Interval, content, interval, interval_ranks, ratio

SAMPLERS = {
    "uniform": random.Random.random,
    "exponential": lambda generator: generator.expovariate(1.0),
}
TRUE_MEDIAN = {"uniform": 0.5, "exponential": math.log(2)}


def exact_tail(count: int, fraction: Fraction, at_most: int) -> Fraction:
    """P(B ≤ at_most) in rational arithmetic."""
    return sum(
        (math.comb(count, k) * fraction**k * (1 - fraction) ** (count - k) for k in range(at_most + 1)), Fraction(0)
    )


@pytest.mark.parametrize("count", [1, 5, 6, 7, 10, 59, 100, 301])
@pytest.mark.parametrize(
    "fraction", [Fraction(1, 20), Fraction(1, 4), Fraction(1, 2), Fraction(3, 4), Fraction(19, 20)]
)
def test_ranks_are_the_tightest_the_exact_binomial_allows(count, fraction):
    below, above = interval_ranks(count, float(fraction), 0.95)
    error = Fraction(1, 40)
    if below is None:
        assert exact_tail(count, fraction, 0) > error
    else:
        assert exact_tail(count, fraction, below - 1) <= error < exact_tail(count, fraction, below)
    if above is None:
        assert 1 - exact_tail(count, fraction, count - 1) > error
    else:
        assert 1 - exact_tail(count, fraction, above - 1) <= error
        assert above == 1 or 1 - exact_tail(count, fraction, above - 2) > error


@pytest.mark.parametrize("name", TRUE_MEDIAN)
@pytest.mark.parametrize("count", [6, 15, 60])
def test_median_interval_covers_the_median_as_often_as_stated(name, count):
    generator = random.Random(20240 + count)
    runs = 2000
    covered = 0
    for _ in range(runs):
        found = interval([SAMPLERS[name](generator) for _ in range(count)], "median", 0.95)
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= TRUE_MEDIAN[name] <= found.high
    # at least 95 %, less four standard errors of a simulation of this length
    assert covered / runs >= 0.95 - 4 * math.sqrt(0.95 * 0.05 / runs)


@pytest.mark.parametrize("statistic", ["p05", "p25", "p75", "p95"])
def test_quantile_intervals_cover_their_quantile_as_often_as_stated(statistic):
    generator = random.Random(7)
    runs = 1000
    hits = [
        (found.low or 0) <= QUANTILES[statistic] <= (found.high or 1)
        for found in (interval([generator.random() for _ in range(120)], statistic, 0.9) for _ in range(runs))
    ]
    assert sum(hits) / runs >= 0.9 - 4 * math.sqrt(0.9 * 0.1 / runs)
    assert sum(hits) / runs < 1.0  # an interval that always covers would be useless, and a sign of a wrong tail


def test_too_few_samples_give_no_bounds_instead_of_guessed_ones():
    assert interval([1.0] * 5).low is None
    assert interval([1.0] * 5).high is None
    assert interval([1.0] * 6).low == 1.0
    assert interval([1.0] * 71, "p95").high is None
    assert interval([1.0] * 72, "p95").high == 1.0
    assert interval([1.0] * 71, "p95").low is not None
    assert interval([1.0] * 71, "p05").low is None


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=120), st.sampled_from(sorted([*QUANTILES, "min", "max"])))
def test_the_value_lies_inside_its_interval_and_inside_the_sample(values, statistic):
    found = interval(values, statistic)
    assert min(values) <= found.value <= max(values)
    assert found.low is None or found.low <= found.value
    assert found.high is None or found.value <= found.high
    assert found.samples == len(values)


@given(st.lists(st.floats(0.1, 10), min_size=6, max_size=60), st.floats(0.51, 0.98))
def test_more_confidence_never_narrows_the_interval(values, confidence):
    loose, strict = interval(values, "median", confidence), interval(values, "median", confidence + 0.015)
    if strict.low is not None:
        assert loose.low is not None
        assert strict.low <= loose.low
    if strict.high is not None:
        assert loose.high is not None
        assert strict.high >= loose.high


def test_median_of_an_even_sample_is_the_mean_of_the_middle_two():
    assert interval([4.0, 1.0, 3.0, 2.0]).value == 2.5
    assert interval([3.0, 1.0, 2.0]).value == 2.0
    assert interval([5.0]).value == 5.0


def test_extremes_are_facts_about_the_sample_and_not_estimates():
    assert (interval([3.0, 1.0, 2.0], "min").low, interval([3.0, 1.0, 2.0], "min").high) == (1.0, 1.0)
    assert (interval([3.0, 1.0, 2.0], "max").low, interval([3.0, 1.0, 2.0], "max").high) == (3.0, 3.0)
    assert content(58) < 0.95 <= content(59)


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_missing_and_non_finite_samples_are_refused(values):
    with pytest.raises(MeasurementError):
        interval(values)


def test_wrong_statistic_and_confidence_are_refused():
    with pytest.raises(MeasurementError, match="p99"):
        interval([1.0], "p99")
    with pytest.raises(MeasurementError, match="between 0 and 1"):
        interval([1.0], "median", 1.0)
    with pytest.raises(MeasurementError):
        content(0)


def test_a_ratio_covers_the_true_ratio_as_often_as_stated():
    generator = random.Random(3)
    runs, covered = 1500, 0
    for _ in range(runs):
        found = ratio([2 + generator.random() for _ in range(20)], [4 + generator.random() for _ in range(20)])
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 2.5 / 4.5 <= found.high
    assert covered / runs >= 0.95 - 4 * math.sqrt(0.95 * 0.05 / runs)


def test_a_ratio_is_wider_than_either_of_its_parts():
    over, under = [9.0 + 0.1 * k for k in range(20)], [18.0 + 0.1 * k for k in range(20)]
    found = ratio(over, under)
    assert found.value == pytest.approx(interval(over).value / interval(under).value)
    assert found.low == pytest.approx(interval(over, "median", 0.975).low / interval(under, "median", 0.975).high)
    assert found.high == pytest.approx(interval(over, "median", 0.975).high / interval(under, "median", 0.975).low)
    assert ratio(over, under[:5]).low is None


@pytest.mark.parametrize("reference", [[0.0] * 10, [-1.0] * 10, []])
def test_a_ratio_to_nothing_is_refused(reference):
    with pytest.raises(MeasurementError):
        ratio([1.0] * 10, reference)


def test_an_interval_survives_json():
    found = interval([1.0, 2.0, 3.0])
    assert Interval.model_validate_json(found.model_dump_json()) == found
