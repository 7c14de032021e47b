"""Statistics over seeds: interquartile means, probabilities of improvement, and their intervals. No JAX.

The interquartile mean (IQM) leaves out the best and the worst quarter of the seeds: less luck than a mean, less noise
than a median (Agarwal et al. 2021). Intervals are 95 %; fewer than `FEWEST` seeds have none.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

#: bootstrap samples for a number in a table, and for each point of a curve
RESAMPLES, CURVE_RESAMPLES = 5000, 1000
LEVEL = 0.95
#: smallest number of seeds with an interval: resampling two or three makes it far too short
FEWEST = 4


class Estimate(NamedTuple):
    """A number and its interval; the limits are NaN if there are too few seeds."""

    value: float
    low: float
    high: float


def iqm(values: ArrayLike, axis: int = -1) -> np.ndarray:
    """Mean of the values between the quartiles, along an axis; a quarter that is not a whole number counts in part.

    Example:
        >>> float(iqm([0.0, 1.0, 2.0, 99.0])), float(iqm([0.0, 4.0, 5.0]))
        (1.5, 3.5)
    """
    ordered = np.sort(np.moveaxis(np.asarray(values, float), axis, -1), axis=-1)
    n = ordered.shape[-1]
    weight = np.clip(np.minimum(np.arange(1, n + 1), np.arange(n, 0, -1)) - n / 4, 0, 1)
    used = weight > 0  # so that nothing infinite is multiplied by 0
    if not used.any():  # one seed
        return ordered.mean(-1)
    return (ordered[..., used] * weight[used]).sum(-1) / weight.sum()


def iqm_estimate(values: ArrayLike, resamples: int = RESAMPLES) -> Estimate:
    """IQM of values (S,), and percentiles of the IQM of resampled seeds."""
    values = np.asarray(values, float)
    middle = float(iqm(values))
    if len(values) < FEWEST or not np.isfinite(values).all() or np.ptp(values) == 0:
        # resampling says nothing about seeds that all agree; for failed ones no interval is honest
        return Estimate(middle, math.nan, math.nan)
    from scipy.stats import bootstrap

    found = bootstrap(
        (values,),
        iqm,
        n_resamples=resamples,
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return Estimate(middle, float(found.confidence_interval.low), float(found.confidence_interval.high))


def improvement(first: ArrayLike, second: ArrayLike) -> Estimate:
    """P(a seed of the first is better than one of the second), ties half, and its interval.

    Newcombe's (2006, method 5) for a Mann-Whitney probability: unlike resampling it has a width even if all pairs
    agree, and for two equal methods it excludes 0.5 in 1 of 20 cases, from four seeds on.

    Args:
        first, second: values, the lower the better, (S,) and (S',); infinite for seeds that failed.

    Example:
        >>> improvement([1.0, 2.0], [3.0, 4.0]).value
        1.0
    """
    a, b = np.asarray(first, float), np.asarray(second, float)
    value = float(((a[:, None] < b) + 0.5 * (a[:, None] == b)).mean())
    if min(len(a), len(b)) < FEWEST:
        return Estimate(value, math.nan, math.nan)
    from scipy.optimize import brentq
    from scipy.stats import norm

    wide, more = norm.ppf((1 + LEVEL) / 2) ** 2 / (len(a) * len(b)), (len(a) + len(b)) / 2 - 1

    def outside(p: float) -> float:
        """Negative where p is within the interval."""
        return (value - p) ** 2 - wide * p * (1 - p) * (1 + more * ((1 - p) / (2 - p) + p / (1 + p)))

    edge = 1e-9
    inside = min(max(value, edge), 1 - edge)
    low = 0.0 if value <= edge else brentq(outside, 1e-12, inside)
    high = 1.0 if value >= 1 - edge else brentq(outside, inside, 1 - 1e-12)
    return Estimate(value, float(low), float(high))


def success(solved: int, seeds: int) -> Estimate:
    """Share of seeds that succeeded, with its interval by Wilson's score."""
    from scipy.stats import binomtest

    interval = binomtest(solved, seeds).proportion_ci(LEVEL, method="wilson")
    return Estimate(solved / seeds, float(interval.low), float(interval.high))
