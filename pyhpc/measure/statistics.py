"""Distribution-free confidence intervals of quantiles, from order statistics.

For a sorted sample x(1) ≤ … ≤ x(n) of any distribution, the number of values below the q-quantile is binomial(n, q). So

    P(x(l) ≤ quantile) ≥ P(B ≥ l)      and      P(quantile ≤ x(u)) ≥ P(B ≤ u − 1),      B ~ binomial(n, q)

and the interval takes the largest l and the smallest u whose error is at most α/2 on each side (David & Nagaraja, Order
Statistics, 3rd ed., 7.1; asked for by Hoefler & Belli, SC15, rules 5 to 7: timings are not normal). Nothing is assumed
but that the samples are independent and alike. Where n is too small for a side, that side is None, never a guess: at
95 % the median needs 6 samples, p05 and p95 need 72 for both sides.

Pure Python: the judge uses it on any laptop.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Literal

from pyhpc.errors import MeasurementError
from pyhpc.measure.measurement import Record

Statistic = Literal["median", "p05", "p25", "p75", "p95", "min", "max"]
QUANTILES: dict[str, float] = {"p05": 0.05, "p25": 0.25, "median": 0.50, "p75": 0.75, "p95": 0.95}


class Interval(Record):
    """A statistic with its confidence interval, in the unit of the values it came from."""

    value: float
    low: float | None  # None: the samples are too few to bound this side at this confidence
    high: float | None
    samples: int
    statistic: str
    confidence: float  # P(low ≤ statistic of the distribution ≤ high); for min and max see `interval`

    @property
    def relative_width(self) -> float | None:
        """(high − low) / |value|, or None while a side is unbounded or the value is 0."""
        if self.low is None or self.high is None or self.value == 0:
            return None
        return (self.high - self.low) / abs(self.value)


def interval(values: Sequence[float], statistic: Statistic = "median", confidence: float = 0.95) -> Interval:
    """The statistic of `values` and its two-sided confidence interval.

    `min` and `max` have no distribution-free interval (the tail beyond the sample is unknown). They are reported as
    what they are, a fact about these samples and not an estimate: low = high = value. `content` says how much of the
    distribution such an extreme bounds.

    Raises:
        MeasurementError: no values, a value that is not finite, an unknown statistic or a confidence outside (0, 1).
    """
    if not values:
        raise MeasurementError("no samples: a statistic needs at least one")
    if not all(math.isfinite(value) for value in values):
        raise MeasurementError("a sample is not a finite number")
    if not 0 < confidence < 1:
        raise MeasurementError(f"a confidence lies between 0 and 1, not {confidence}")
    ordered = sorted(values)
    count = len(ordered)
    if statistic in ("min", "max"):
        extreme = ordered[0] if statistic == "min" else ordered[-1]
        low: float | None = extreme
        high: float | None = extreme
        value = extreme
    elif statistic in QUANTILES:
        fraction = QUANTILES[statistic]
        below, above = interval_ranks(count, fraction, confidence)
        low = None if below is None else ordered[below - 1]
        high = None if above is None else ordered[above - 1]
        value = _quantile(ordered, fraction)
    else:
        raise MeasurementError(f"unknown statistic {statistic!r}; there are {', '.join([*QUANTILES, 'min', 'max'])}")
    return Interval(value=value, low=low, high=high, samples=count, statistic=statistic, confidence=confidence)


def ratio(
    values: Sequence[float], reference: Sequence[float], statistic: Statistic = "median", confidence: float = 0.95
) -> Interval:
    """The statistic of `values` divided by the median of `reference` (a measured ceiling, or the best peer).

    Both intervals are taken at 1 − α/2, so that both hold together with probability 1 − α whatever their dependence
    (Bonferroni); the ratio then lies between low/high and high/low.

    Raises:
        MeasurementError: as `interval`; or a reference that is not positive, or a negative value.
    """
    if any(value <= 0 for value in reference) or any(value < 0 for value in values):
        raise MeasurementError("a ratio needs a positive reference and values that are not negative")
    each = (1 + confidence) / 2
    upper, lower = interval(values, statistic, each), interval(reference, "median", each)
    return Interval(
        value=upper.value / lower.value,
        low=None if upper.low is None or lower.high is None else upper.low / lower.high,
        high=None if upper.high is None or lower.low is None else upper.high / lower.low,
        samples=min(upper.samples, lower.samples),
        statistic=statistic,
        confidence=confidence,
    )


def content(samples: int, confidence: float = 0.95) -> float:
    """The fraction of the distribution that lies beyond an observed extreme, at least, with this confidence.

    With n samples, P(at least a fraction f lies above the smallest one) = 1 − fⁿ (Wilks 1941), so
    f = (1 − confidence)^(1/n): the minimum of 59 samples is below 95 % of what comes next, at 95 % confidence.
    """
    if samples < 1:
        raise MeasurementError("no samples: a statistic needs at least one")
    return float((1 - confidence) ** (1 / samples))


@functools.lru_cache(maxsize=4096)
def interval_ranks(count: int, fraction: float, confidence: float) -> tuple[int | None, int | None]:
    """The 1-based ranks (l, u) whose order statistics bound the `fraction`-quantile; None where no rank will do."""
    error = (1 - confidence) / 2
    below: int | None = None
    above: int | None = None
    cumulated = 0.0  # P(B ≤ k) after step k
    for k, probability in enumerate(_binomial(count, fraction)):
        cumulated += probability
        if cumulated <= error and k + 1 <= count:
            below = k + 1  # P(B ≤ l − 1) ≤ α/2
        if above is None and k + 1 <= count and 1 - cumulated <= error:
            above = k + 1  # P(B ≥ u) ≤ α/2
    return below, above


def _binomial(count: int, fraction: float) -> list[float]:
    """P(B = k) for k = 0 … count, through logarithms: 0.5⁶⁰⁰⁰ is no double."""
    whole, hit, miss = math.lgamma(count + 1), math.log(fraction), math.log1p(-fraction)
    return [
        math.exp(whole - math.lgamma(k + 1) - math.lgamma(count - k + 1) + k * hit + (count - k) * miss)
        for k in range(count + 1)
    ]


def _quantile(ordered: Sequence[float], fraction: float) -> float:
    """Inverse of the empirical distribution, averaged where it jumps (Hyndman & Fan 1996, type 2): the usual median."""
    position = len(ordered) * fraction
    nearest = round(position)
    if 0 < nearest < len(ordered) and math.isclose(position, nearest, rel_tol=1e-12):
        return (ordered[nearest - 1] + ordered[nearest]) / 2
    return ordered[min(len(ordered), math.ceil(position)) - 1]
