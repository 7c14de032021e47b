"""How good a gradient estimate is: its noise and signal-to-noise ratio, from group gradients of the same batch.

m group gradients z_j of d parameters, ĝ = mean z_j, Cov(ĝ) = Cov(z)/m.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

#: most groups that a batch is divided into
GROUPS = 32
#: most numbers of all group gradients together
LARGEST = 8_000_000


def group_count(samples: int, d: int = 1) -> int:
    """How many groups to divide independent samples into: equal ones where 8 to `GROUPS` can be.

    Of so many parameters d that group gradients would fill the memory, fewer.
    """
    most = min(samples, GROUPS, max(4, LARGEST // d))
    equal = max(groups for groups in range(1, most + 1) if samples % groups == 0)
    return equal if equal >= min(8, most) else most


class Quality(NamedTuple):
    """What m group gradients say of their mean ĝ.

    Args:
        power: ‖ĝ‖². noise: tr Cov(ĝ), what of the power is expected to be noise; NaN for a single group.
        uncertainty: standard error of `snr`, by jackknife over groups, which is right for a clear signal and up to √2
            too large for none; NaN of fewer than 3.
        cosine: between the means of the first and of the second half of the groups; 0 of a single one.
        effective: share of the groups that carry the estimate, (Σ‖z‖)²/(m Σ‖z‖²): 1 where all are alike, 1/m where
            one decides.
    """

    power: Float[Array, ""]
    noise: Float[Array, ""]
    uncertainty: Array | float = math.nan
    cosine: Array | float = math.nan
    effective: Array | float = math.nan

    @property
    def snr(self) -> Float[Array, ""]:
        """‖∇J‖²/(tr Cov ĝ), the numerator freed of its own bias; NaN where the noise was not measured."""
        noisy = self.noise > 0
        exact = jnp.where(self.power > 0, jnp.inf, 0.0)
        ratio = jnp.where(noisy, self.power / jnp.where(noisy, self.noise, 1.0) - 1, exact)
        return jnp.where(jnp.isnan(self.noise), jnp.nan, ratio)

    @property
    def error(self) -> Float[Array, ""]:
        """Standard error of the estimate, √(tr Cov ĝ)."""
        return jnp.sqrt(self.noise)


def measure(groups: Float[Array, "m d"]) -> Quality:
    """Quality of the mean of independent estimates (m, d)."""
    m = groups.shape[0]
    mean = groups.mean(0)
    away = jnp.sum((groups - mean) ** 2, 1)
    noise = away.sum() / (m - 1) / m if m > 1 else jnp.full((), jnp.nan)
    power = jnp.sum(mean**2)
    half = m // 2
    first, second = groups[:half].sum(0), groups[half:].sum(0)
    lengths = jnp.linalg.norm(first) * jnp.linalg.norm(second)
    norms = jnp.sqrt(jnp.sum(groups**2, 1))
    squares = jnp.sum(norms**2)
    return Quality(
        power,
        noise,
        _jackknife(away, (groups - mean) @ mean, power),
        jnp.where(lengths > 0, first @ second / jnp.where(lengths > 0, lengths, 1.0), 0.0),
        jnp.where(squares > 0, norms.sum() ** 2 / (m * jnp.where(squares > 0, squares, 1.0)), 1.0),
    )


def _jackknife(away: Float[Array, " m"], along: Float[Array, " m"], power: Float[Array, ""]) -> Float[Array, ""]:
    """Standard error of the SNR from what it would be without each group.

    Args:
        away: ‖z_j − ĝ‖². along: (z_j − ĝ)·ĝ. power: ‖ĝ‖².
    """
    m = len(away)
    if m < 3:
        return jnp.full((), jnp.nan)
    powers = power - 2 * along / (m - 1) + away / (m - 1) ** 2
    noises = (away.sum() - away * m / (m - 1)) / ((m - 2) * (m - 1))
    noisy = jnp.all(noises > 0)
    # the ratio of m − 1 groups is that of m times (m − 1)/m
    ratios = m / (m - 1) * (powers / jnp.where(noisy, noises, 1.0) - 1)
    spread = jnp.sqrt((m - 1) / m * jnp.sum((ratios - ratios.mean()) ** 2))
    return jnp.where(noisy, spread, 0.0)
