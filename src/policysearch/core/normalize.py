"""Observation scaling o' = (o − shift) / scale as part of a policy: fixed, or by running statistics.

It is frozen between asking for trials and telling their results, and updated once after that. p observations.
"""

from __future__ import annotations

from collections.abc import Mapping

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from policysearch.core.specification import Specification


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
        """Divide by `scale` (p,), without a shift."""
        values = np.asarray(scale, float)
        # squares of values outside would overflow or vanish in float32
        if not np.all((values > 1e-18) & (values < 1e18)):
            raise ValueError(f"Observation scales must lie between 1e-18 and 1e18; got {tuple(scale)}.")
        return cls(jnp.asarray(np.ones(())), jnp.asarray(np.zeros(values.shape)), jnp.asarray(values**2))

    @classmethod
    def follow(cls, size: int, *, centred: bool = True) -> Scaling:
        """Running statistics of `size` observations; the identity until some have been seen."""
        zeros = jnp.asarray(np.zeros(size))
        return cls(jnp.asarray(np.zeros(())), zeros, zeros, running=True, centred=centred)

    @classmethod
    def of(cls, constants: Mapping[str, np.ndarray]) -> Scaling:
        """From a controller's constants."""
        count, mean, m2 = (jnp.asarray(constants[f"scaling_{name}"]) for name in ("count", "mean", "m2"))
        return cls(
            count,
            mean,
            m2,
            running=bool(constants["scaling_running"]),
            centred=bool(constants.get("scaling_centred", True)),  # older files have no other kind
        )

    def constants(self) -> dict[str, np.ndarray]:
        """As constants of a controller; `of` is the inverse."""
        names = ("shift", "scale", "count", "mean", "m2", "running", "centred")
        return {f"scaling_{name}": np.asarray(getattr(self, name)) for name in names}

    @property
    def shift(self) -> Float[Array, " p"]:
        """The subtracted shift, (p,): the mean, or zero."""
        return self.mean if self.centred else jnp.zeros_like(self.mean)

    @property
    def scale(self) -> Float[Array, " p"]:
        """The divisor, (p,): deviation, or root mean square; 1 where an observation has not varied, or is 0."""
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


def chosen(specification: Specification, wish: str, running: bool | None, *, constant: bool) -> Scaling:
    """The observation scaling of a policy with or without a constant: one without gets none from a running mean.

    Args:
        specification: of the task.
        wish: "auto", "fixed", "running", "rms" or "none".
        running: the method's choice; None to leave it open.
        constant: the policy has a constant.

    Raises:
        ValueError: "fixed" for a task that does not say how large its observations are.
    """
    p = specification.observation_size
    if wish == "auto":
        follows = "running" if constant else "rms"
        known = bool(specification.observation_scale) or specification.one_hot
        wish = ("fixed" if known else follows) if running is None else follows if running else "none"
    if wish in ("running", "rms"):
        return Scaling.follow(p, centred=wish == "running")
    if wish == "fixed" and not specification.one_hot:
        if not specification.observation_scale:
            raise ValueError(
                f"{specification.name} does not say how large its observations are; use scaling running or none."
            )
        return Scaling.fixed(specification.observation_scale)
    return Scaling.fixed((1.0,) * p)
