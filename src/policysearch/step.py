"""From a direction w to new parameters: a learning rate (any optax optimiser) or a step of a stated KL.

kl = mean over visited stages of KL(π_old ‖ π_new), nats per stage (18.37, 18.38).
"""

from __future__ import annotations

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from policysearch.credit import Info
from policysearch.explore import positive_number
from policysearch.quality import Quality
from policysearch.score import PolicyScore, Score

#: signal-to-noise ratio above which a gradient estimate counts as clear
CLEAR = 3.0


class Step(eqx.Module):
    """Moves θ against w; `quality` says how much of the gradient estimate is noise."""

    def init(self, theta: Float[Array, " d"]) -> Any:
        """State that must persist between updates."""
        return ()

    @abc.abstractmethod
    def __call__(
        self, theta: Array, w: Array, score: Score, quality: Quality, state: Any
    ) -> tuple[Float[Array, " d"], Any, Info]:
        """New θ (d,), the next state, and what is worth reporting."""


class LearningRate(Step):
    """θ ← θ − η w (18.19).

    Args:
        rate: η, scalar or (d,).
    """

    rate: ArrayLike = eqx.field(converter=jnp.asarray)

    def __check_init__(self):
        """Refuse rates that are not positive and finite."""
        positive_number("learning rate", self.rate)

    def __call__(
        self, theta: Array, w: Array, score: Score, quality: Quality, state: Any
    ) -> tuple[Float[Array, " d"], Any, Info]:
        """θ − η w."""
        return theta - self.rate * w, state, {}


class Optimizer(Step):
    """Any optax optimiser on the direction w.

    Args:
        transformation: an `optax.GradientTransformation`, such as `optax.adam(1e-2)`.
        preconditions: it rescales directions by their history (Adam does, momentum does not); such an optimiser is
            refused after a natural direction.
    """

    transformation: Any = eqx.field(static=True)
    preconditions: bool = eqx.field(static=True, default=True)

    def init(self, theta: Float[Array, " d"]) -> Any:
        """The optimiser's own state."""
        return self.transformation.init(theta)

    def __call__(
        self, theta: Array, w: Array, score: Score, quality: Quality, state: Any
    ) -> tuple[Float[Array, " d"], Any, Info]:
        """θ plus the optimiser's update."""
        change, state = self.transformation.update(w, state, theta)
        return theta + change, state, {}


class KLStep(Step):
    """Δ = −min(η, √(2 kl/(wᵀMw))) w, with M the per-stage Fisher matrix of the sampled scores (18.35).

    After the step the exact KL on the same observations is measured; while it exceeds the limit by more than 5 %, the
    step shrinks, because a Fisher matrix estimated from few rows is too small along its own solution.

    A step of constant KL never settles: near the optimum it is all noise. So its length is multiplied by the share of
    the gradient estimate that is signal, SNR/(1 + SNR) with the SNR averaged over the last updates, as a shrinkage
    estimator would; `memory=None` gives steps of exactly `kl`.

    Args:
        kl: largest KL, nats per stage.
        rate: η on w, another cap; inf for none.
        memory: weight of the past in that average, 0 to 1; None not to shrink.
    """

    kl: ArrayLike = eqx.field(converter=jnp.asarray)
    rate: ArrayLike = eqx.field(converter=jnp.asarray, default=jnp.inf)
    memory: float | None = eqx.field(static=True, default=0.8)

    def __check_init__(self):
        """Refuse a KL, a rate or a memory that mean nothing."""
        positive_number("kl", self.kl)
        positive_number("rate", self.rate, infinite=True)
        if self.memory is not None and not 0 <= self.memory < 1:
            raise ValueError(f"memory is {self.memory}; it must lie in 0 ≤ memory < 1, or be None.")

    def init(self, theta: Float[Array, " d"]) -> Any:
        """The average signal-to-noise ratio, NaN before the first update."""
        return jnp.full((), jnp.nan)

    def __call__(
        self, theta: Array, w: Array, score: Score, quality: Quality, state: Any
    ) -> tuple[Float[Array, " d"], Any, Info]:
        """θ + Δ; θ itself, with `step_scale` 0, where w is zero or not finite."""
        if not isinstance(score, PolicyScore):
            raise TypeError("A KL step needs a policy's action distribution; parameter-space methods have none.")
        policy: Any = score.policy
        observations, mask = score.observations, score.mask
        stages = jnp.maximum(mask.sum(), 1)
        quadratic = jnp.sum(score.mv(w, per_stage=True) ** 2) / stages
        usable = (quadratic > 0) & jnp.isfinite(quadratic)
        scale = jnp.where(usable, jnp.sqrt(2 * self.kl / jnp.where(usable, quadratic, 1.0)), 0.0)
        if self.memory is not None:
            # one clear batch says little of the next, so no single ratio counts for more than CLEAR
            snr = jnp.where(jnp.isnan(quality.noise), CLEAR, jnp.minimum(quality.snr, CLEAR))
            state = jnp.where(jnp.isnan(state), snr, self.memory * state + (1 - self.memory) * snr)
            signal = jnp.maximum(state, 0.0)
            scale = scale * signal / (1 + signal)
        scale = jnp.minimum(scale, self.rate)
        predicted = 0.5 * scale**2 * jnp.where(usable, quadratic, 0.0)

        def measure(factor: Array) -> Array:
            moved = policy.with_theta(theta - factor * w)
            kl = policy.kl(moved, observations)
            return jnp.sum(jnp.where(mask, kl, 0.0)) / stages

        def too_far(carry: tuple[Array, Array, Array]) -> Array:
            factor, kl, shrinks = carry
            return ~(kl <= 1.05 * self.kl) & (shrinks < 20) & (factor > 0)

        def shrink(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            factor, kl, shrinks = carry
            ratio = jnp.where(jnp.isfinite(kl), jnp.sqrt(self.kl / jnp.maximum(kl, self.kl)), 0.5)
            smaller = factor * jnp.clip(ratio, 0.5, 0.98)
            return smaller, measure(smaller), shrinks + 1

        scale, kl, shrinks = jax.lax.while_loop(too_far, shrink, (scale, measure(scale), jnp.zeros((), int)))
        scale = jnp.where(jnp.isfinite(kl), scale, 0.0)
        info = {"kl_predicted": predicted, "kl": kl, "step_scale": scale, "shrinks": shrinks}
        return theta - scale * w, state, info
