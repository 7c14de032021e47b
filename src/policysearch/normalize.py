"""Observation scaling o' = (o − shift) / scale as part of a policy: fixed, or by running mean and deviation.

It is frozen from asking for trials to telling their results, and updated once after that. p observations.
"""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float


class Scaling(eqx.Module):
    """Mean and spread of p observations, as sufficient statistics that merge exactly (Chan, Golub & LeVeque 1983).

    Args:
        count: number of observations behind the statistics, ().
        mean: (p,).
        m2: sum of squared deviations from the mean, (p,).
        running: statistics follow the data; otherwise they stay as given.
    """

    count: Float[Array, ""]
    mean: Float[Array, " p"]
    m2: Float[Array, " p"]
    running: bool = eqx.field(static=True, default=False)

    @classmethod
    def fixed(cls, scale: Float[np.ndarray, " p"] | tuple[float, ...]) -> Scaling:
        """Divide by `scale` (p,), shift by nothing."""
        values = np.asarray(scale, float)
        # squares of what lies outside would overflow or vanish in float32
        if not np.all((values > 1e-18) & (values < 1e18)):
            raise ValueError(f"Observation scales must lie between 1e-18 and 1e18; got {tuple(scale)}.")
        return cls(jnp.asarray(np.ones(())), jnp.asarray(np.zeros(values.shape)), jnp.asarray(values**2))

    @classmethod
    def follow(cls, size: int) -> Scaling:
        """Running statistics of `size` observations; the identity until two have been seen."""
        zeros = jnp.asarray(np.zeros(size))
        return cls(jnp.asarray(np.zeros(())), zeros, zeros, running=True)

    @property
    def shift(self) -> Float[Array, " p"]:
        """What is subtracted, (p,)."""
        return self.mean

    @property
    def scale(self) -> Float[Array, " p"]:
        """What is divided by, (p,): the deviation; 1 where an observation has not varied."""
        deviation = jnp.sqrt(self.m2 / jnp.maximum(self.count, 1.0))
        return jnp.where(deviation > (1e-6 if self.running else 0.0), deviation, 1.0)

    def __call__(self, observation: Float[Array, "*b p"]) -> Float[Array, "*b p"]:
        """Scaled observation, same shape."""
        return (observation - self.shift) / self.scale

    def merge(self, count: Array, mean: Array, m2: Array) -> Scaling:
        """Statistics of both sets together; unchanged if not running or if the others are empty or not finite."""
        if not self.running:
            return self
        total = self.count + count
        share = count / jnp.maximum(total, 1.0)
        delta = mean - self.mean
        merged = Scaling(total, self.mean + delta * share, self.m2 + m2 + delta**2 * self.count * share, running=True)
        usable = (count > 0) & jnp.all(jnp.isfinite(mean)) & jnp.all(jnp.isfinite(m2))
        keep = lambda new, old: jnp.where(usable, new, old)  # noqa: E731
        return Scaling(
            keep(merged.count, self.count),
            keep(merged.mean, self.mean),
            keep(merged.m2, self.m2),
            running=True,
        )


def statistics(
    observations: Float[Array, "n T p"], mask: Bool[Array, "n T"]
) -> tuple[Float[Array, ""], Float[Array, " p"], Float[Array, " p"]]:
    """Count, mean (p,) and sum of squared deviations (p,) over the stages where `mask` is True."""
    weight = mask[..., None].astype(observations.dtype)
    count = weight.sum()
    safe = jnp.where(mask[..., None], observations, 0.0)
    mean = safe.sum((0, 1)) / jnp.maximum(count, 1.0)
    m2 = (weight * (safe - mean) ** 2).sum((0, 1))
    return count, mean, m2
