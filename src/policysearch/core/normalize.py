"""Observation scaling o' = (o − shift) / scale as part of a policy: fixed, or by running statistics.

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
        centred: the mean is subtracted and the deviation divides; otherwise nothing is subtracted and the root mean
            square divides, so that a law without a constant, u = K o', has none in o either.
    """

    count: Float[Array, ""]
    mean: Float[Array, " p"]
    m2: Float[Array, " p"]
    running: bool = eqx.field(static=True, default=False)
    centred: bool = eqx.field(static=True, default=True)

    @classmethod
    def fixed(cls, scale: Float[np.ndarray, " p"] | tuple[float, ...]) -> Scaling:
        """Divide by `scale` (p,), shift by nothing."""
        values = np.asarray(scale, float)
        # squares of what lies outside would overflow or vanish in float32
        if not np.all((values > 1e-18) & (values < 1e18)):
            raise ValueError(f"Observation scales must lie between 1e-18 and 1e18; got {tuple(scale)}.")
        return cls(jnp.asarray(np.ones(())), jnp.asarray(np.zeros(values.shape)), jnp.asarray(values**2))

    @classmethod
    def follow(cls, size: int, *, centred: bool = True) -> Scaling:
        """Running statistics of `size` observations; the identity until some have been seen."""
        zeros = jnp.asarray(np.zeros(size))
        return cls(jnp.asarray(np.zeros(())), zeros, zeros, running=True, centred=centred)

    @property
    def shift(self) -> Float[Array, " p"]:
        """What is subtracted, (p,): the mean, or nothing."""
        return self.mean if self.centred else jnp.zeros_like(self.mean)

    @property
    def scale(self) -> Float[Array, " p"]:
        """What is divided by, (p,): deviation, or root mean square; 1 where an observation has not varied, or is 0."""
        spread = jnp.sqrt(self.m2 / jnp.maximum(self.count, 1.0))
        if not self.centred:
            spread = jnp.hypot(spread, self.mean)
        return jnp.where(spread > (1e-6 if self.running else 0.0), spread, 1.0)

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
        merged = (total, self.mean + delta * share, self.m2 + m2 + delta**2 * self.count * share)
        usable = (count > 0) & jnp.all(jnp.isfinite(mean)) & jnp.all(jnp.isfinite(m2))
        now = (self.count, self.mean, self.m2)
        count, mean, m2 = (jnp.where(usable, *pair) for pair in zip(merged, now, strict=True))
        return Scaling(count, mean, m2, running=True, centred=self.centred)


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
