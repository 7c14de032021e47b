"""How good a gradient estimate is: standard error and signal-to-noise ratio, from group gradients of the same batch.

m group gradients z_j of d parameters, ĝ = mean z_j, Cov(ĝ) = Cov(z)/m.
"""

from __future__ import annotations

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
    """power: ‖ĝ‖². noise: tr Cov(ĝ), what of the power is expected to be noise; NaN for a single group."""

    power: Float[Array, ""]
    noise: Float[Array, ""]

    @property
    def snr(self) -> Float[Array, ""]:
        """‖∇J‖²/(tr Cov ĝ), the numerator freed of its own bias; NaN where the noise was not measured.

        From m groups it is uncertain by about ±√(2/(m − 1)) of the noise alone.
        """
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
    noise = jnp.sum((groups - mean) ** 2) / (m - 1) / m if m > 1 else jnp.full((), jnp.nan)
    return Quality(jnp.sum(mean**2), noise)
