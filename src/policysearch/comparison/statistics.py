"""Statistics over the seeds of a comparison, with bootstrap intervals by SciPy. No JAX.

The interquartile mean (IQM) leaves out the best and the worst quarter of the seeds: less luck than a mean, less noise
than a median (Agarwal et al. 2021). All intervals are 95 % percentile intervals from resampled seeds.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

#: bootstrap samples, of a number in a table; of each point of a curve
RESAMPLES, CURVE_RESAMPLES = 5000, 1000
LEVEL = 0.95


class Estimate(NamedTuple):
    """A number and its interval; the limits are NaN where there are too few seeds."""

    value: float
    low: float
    high: float


def iqm(values: ArrayLike, axis: int = -1) -> np.ndarray:
    """Mean of the values between the quartiles, along an axis; infinite values count as the worst there are.

    Example:
        >>> float(iqm([0.0, 1.0, 2.0, 99.0]))
        1.5
    """
    from scipy.stats import trim_mean

    return trim_mean(np.asarray(values, float), 0.25, axis=axis)


def iqm_estimate(values: ArrayLike, resamples: int = RESAMPLES) -> Estimate:
    """IQM of values (S,) and its interval, percentiles of resampled seeds."""
    values = np.asarray(values, float)
    middle = float(iqm(values))
    if len(values) < 2 or not np.isfinite(values).all() or np.ptp(values) == 0:
        # of seeds that all agree the bootstrap has nothing to say; of failed ones no interval is honest
        edge = middle if len(values) > 1 and np.isfinite(values).all() else math.nan
        return Estimate(middle, edge, edge)
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


def _better(first: np.ndarray, second: np.ndarray, axis: int = -1) -> np.ndarray:
    """Share of pairs in which the first is less, ties half, along the last axis of both."""
    a, b = first[..., :, None], second[..., None, :]
    return (0.5 * (a == b) + (a < b)).mean((-2, -1))


def improvement(first: ArrayLike, second: ArrayLike) -> Estimate:
    """P(a seed of the first is better than one of the second), ties half, and its interval over seeds of both.

    Args:
        first, second: what is the less the better, (S,) and (S',); infinite for seeds that failed.

    Example:
        >>> improvement([1.0, 2.0], [3.0, 4.0]).value
        1.0
    """
    a, b = np.asarray(first, float), np.asarray(second, float)
    value = float(_better(a, b))
    if min(len(a), len(b)) < 2:
        return Estimate(value, math.nan, math.nan)
    from scipy.stats import bootstrap

    found = bootstrap(
        (a, b),
        _better,
        n_resamples=RESAMPLES,
        confidence_level=LEVEL,
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(0),
    )
    return Estimate(value, float(found.confidence_interval.low), float(found.confidence_interval.high))


def success(solved: int, seeds: int) -> Estimate:
    """Share of seeds that succeeded, with its interval by Wilson's score."""
    from scipy.stats import binomtest

    interval = binomtest(solved, seeds).proportion_ci(LEVEL, method="wilson")
    return Estimate(solved / seeds, float(interval.low), float(interval.high))
