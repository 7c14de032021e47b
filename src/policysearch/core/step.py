"""From a direction w to new parameters: a learning rate (any optax optimiser) or a step of a stated KL.

kl = mean over visited stages of KL(π_old ‖ π_new), nats per stage (18.37, 18.38).
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PyTree

from policysearch.core.credit import Info
from policysearch.core.explore import positive_number
from policysearch.core.quality import Quality
from policysearch.core.rollouts import Rollouts
from policysearch.core.score import PolicyScore, Score

#: signal-to-noise ratio above which a gradient estimate counts as clear
CLEAR = 3.0


#: new θ (d,), the next state, and what is reported
Moved = tuple[Float[Array, " d"], PyTree, Info]
#: attempts to shorten a step that goes too far
MOST_SHRINKS = 20


class Estimate(NamedTuple):
    """What the rollouts of an update say about its policy; made by `Method.estimate`.

    score: S. advantages: a. gradient: Sᵀa/n (d,). quality: how much of it is noise, in the metric of the direction that
    is followed. direction: w (d,). groups: gradients of groups of rollouts (m, d), of which
    `gradient` is the mean. rollouts: with failures charged. credit: the next state of that part. info: what credit and
    direction report.
    """

    score: Score
    advantages: Array
    gradient: Float[Array, " d"]
    quality: Quality
    direction: Float[Array, " d"]
    groups: Float[Array, "m d"]
    rollouts: Rollouts
    credit: PyTree
    info: Info


class Step(eqx.Module):
    """Moves θ against w."""

    def init(self, theta: Float[Array, " d"]) -> PyTree:
        """State that must persist between updates."""
        return ()

    @abc.abstractmethod
    def __call__(self, theta: Array, w: Array, estimate: Estimate, state: PyTree) -> Moved:
        """New θ (d,), the next state, and what to report."""


class LearningRate(Step):
    """θ ← θ − η w (18.19).

    Args:
        rate: η, scalar or (d,).
    """

    # a float, so that rate 1 and rate 1.0 are one program
    rate: ArrayLike = eqx.field(converter=lambda rate: jnp.asarray(rate, float))

    def __check_init__(self):
        """Refuse rates that are not positive and finite."""
        positive_number("learning rate", self.rate)

    def __call__(self, theta: Array, w: Array, estimate: Estimate, state: PyTree) -> Moved:
        """θ − η w."""
        return theta - self.rate * w, state, {}


class Refit(Step):
    """Fit the search distribution anew to the best rollouts: the cross-entropy method's step (Rubinstein 1999).

    Along the natural direction w of (θ, log σ) of equally weighted best rollouts, θ − w is their mean and
    σ²(1 − 2w) − (mean − θ)² their variance. Szita & Lőrincz (2006) add noise at first to keep it from settling early.

    Args:
        smoothing: share of the old mean and std that is kept, 0 to 1 (exclusive).
        extra: std that is added to the fitted one in squares, as a share of the first std.
        updates: over which `extra` falls linearly to zero.
    """

    smoothing: ArrayLike = eqx.field(converter=jnp.asarray, default=0.0)
    extra: ArrayLike = eqx.field(converter=jnp.asarray, default=0.5)
    updates: ArrayLike = eqx.field(converter=jnp.asarray, default=50.0)

    def __check_init__(self):
        """Refuse a smoothing, extra noise or number of updates that makes no sense."""
        positive_number("smoothing", self.smoothing, zero=True)
        positive_number("extra", self.extra, zero=True)
        positive_number("updates", self.updates)
        if not isinstance(self.smoothing, jax.core.Tracer) and np.any(np.asarray(self.smoothing) >= 1):
            raise ValueError(f"smoothing is {np.asarray(self.smoothing).tolist()}; it must lie in 0 ≤ smoothing < 1.")

    def init(self, theta: Float[Array, " D"]) -> PyTree:
        """The first std (d,), and how many updates were made."""
        return jnp.exp(theta[theta.size // 2 :]), jnp.zeros(())

    def __call__(self, theta: Array, w: Array, estimate: Estimate, state: PyTree) -> Moved:
        """The distribution's new (mean, log σ)."""
        first, count = state
        d = theta.size // 2
        std = jnp.exp(theta[d:])
        shift = -w[:d]
        fitted = jnp.sqrt(jnp.maximum(std**2 * (1 - 2 * w[d:]) - shift**2, 0.0))
        keep = self.smoothing
        extra = self.extra * first * jnp.maximum(1 - count / self.updates, 0.0)
        smoothed = keep * std + (1 - keep) * fitted
        # a spread of zero would end the search for good
        new = jnp.maximum(jnp.sqrt(smoothed**2 + extra**2), 1e-6 * first)
        return jnp.concatenate([theta[:d] + (1 - keep) * shift, jnp.log(new)]), (first, count + 1), {}


class Optimizer(Step):
    """Any optax optimiser on the direction w.

    Args:
        transformation: an `optax.GradientTransformation`, such as `optax.adam(1e-2)`.
        preconditions: it rescales directions by their history (Adam does, momentum does not); such an optimiser is
            refused after a natural direction.
    """

    transformation: Any = eqx.field(static=True)
    preconditions: bool = eqx.field(static=True, default=True)

    def init(self, theta: Float[Array, " d"]) -> PyTree:
        """The optimiser's own state."""
        return self.transformation.init(theta)

    def __call__(self, theta: Array, w: Array, estimate: Estimate, state: PyTree) -> Moved:
        """θ plus the optimiser's update."""
        change, state = self.transformation.update(w, state, theta)
        return theta + change, state, {}


class KLStep(Step):
    """Δ = −min(η, √(2 max_kl/(wᵀMw))) w, with M the per-stage Fisher matrix of the sampled scores (18.35).

    After the step the exact KL on the same observations is measured; while it exceeds the limit by more than 5 %, the
    step shrinks, because a Fisher matrix estimated from few rows is too small along its own solution.

    A step of constant KL never settles: near the optimum it is all noise. Two remedies, both on the step's length:
    `memory` multiplies it by the share of the gradient estimate that is signal, SNR/(1 + SNR) with the SNR averaged
    over the last updates, as a shrinkage estimator would; `step_decay` multiplies it by 1/(1 + t/step_decay) at update
    t, the rate of Robbins & Monro (1951).

    Args:
        max_kl: largest KL, nats per stage.
        rate: η on w, another cap; inf for no cap.
        memory: weight of the past in that average, 0 to 1; None not to shrink.
        step_decay: updates after which the length is halved; inf for never.
        line_search: shorten the step also while the surrogate cost on the same samples, Σ (π_new/π_old − 1) a/n, does
            not fall; if it falls at no length, θ stays (Schulman et al. 2015).
    """

    max_kl: ArrayLike = eqx.field(converter=jnp.asarray)
    rate: ArrayLike = eqx.field(converter=jnp.asarray, default=jnp.inf)
    memory: float | None = eqx.field(static=True, default=0.8)
    step_decay: ArrayLike = eqx.field(converter=jnp.asarray, default=jnp.inf)
    line_search: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        """Refuse a KL, a rate, a memory or a decay that makes no sense."""
        positive_number("max_kl", self.max_kl)
        positive_number("rate", self.rate, infinite=True)
        positive_number("step_decay", self.step_decay, infinite=True)
        if self.memory is not None and not 0 <= self.memory < 1:
            raise ValueError(f"memory is {self.memory}; it must lie in 0 ≤ memory < 1, or be None.")

    def init(self, theta: Float[Array, " d"]) -> PyTree:
        """The average signal-to-noise ratio, NaN before the first update, and how many updates were made."""
        return jnp.full((), jnp.nan), jnp.zeros(())

    def __call__(self, theta: Array, w: Array, estimate: Estimate, state: PyTree) -> Moved:
        """θ + Δ; θ itself, with `step_scale` 0, if w is zero or not finite."""
        score = estimate.score
        if not isinstance(score, PolicyScore):
            raise TypeError("A KL step needs a policy's action distribution; parameter-space methods have none.")
        stages = jnp.maximum(score.mask.sum(), 1)
        quadratic = jnp.sum(score.mv(w, per_stage=True) ** 2) / stages
        usable = (quadratic > 0) & jnp.isfinite(quadratic)
        scale = jnp.where(usable, jnp.sqrt(2 * self.max_kl / jnp.where(usable, quadratic, 1.0)), 0.0)
        average, count = state
        if self.memory is not None:
            # one clear batch says little about the next, so no single ratio counts for more than CLEAR
            quality = estimate.quality
            snr = jnp.where(jnp.isnan(quality.noise), CLEAR, jnp.minimum(quality.snr, CLEAR))
            average = jnp.where(jnp.isnan(average), snr, self.memory * average + (1 - self.memory) * snr)
            signal = jnp.maximum(average, 0.0)
            scale = scale * signal / (1 + signal)
        scale = jnp.minimum(scale / (1 + count / self.step_decay), self.rate)
        first = jnp.where(usable, scale, 0.0)
        measure = _measure(score, estimate.advantages, theta, w)

        def refused(carry: tuple[Array, Array, Array, Array]) -> Array:
            factor, kl, gain, shrinks = carry
            worse = ~(gain > 0) if self.line_search else jnp.zeros((), bool)
            return (~(kl <= 1.05 * self.max_kl) | worse) & (shrinks < MOST_SHRINKS) & (factor > 0)

        def shrink(carry: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
            factor, kl, _, shrinks = carry
            far = jnp.maximum(jnp.sqrt(self.max_kl / kl), 0.5)
            smaller = factor * jnp.where(kl <= 1.05 * self.max_kl, 0.7, jnp.where(jnp.isfinite(kl), far, 0.5))
            return smaller, *measure(smaller), shrinks + 1

        start = (scale, *measure(scale), jnp.zeros((), int))
        scale, kl, gain, shrinks = jax.lax.while_loop(refused, shrink, start)
        good = jnp.isfinite(kl) & (gain > 0) if self.line_search else jnp.isfinite(kl)
        scale, kl, gain = (jnp.where(good, x, 0.0) for x in (scale, kl, gain))
        info = {
            "kl_predicted": 0.5 * first**2 * jnp.where(usable, quadratic, 0.0),
            "kl": kl,
            "improvement_predicted": first * jnp.sum(estimate.gradient * w),
            "improvement": gain,
            "step_scale": scale,
            "shrinks": shrinks,
        }
        # without a step, θ stays even if w is not finite
        return jnp.where(scale > 0, theta - scale * w, theta), (average, count + 1), info


def _measure(score: PolicyScore, a: Array, theta: Array, w: Array) -> Callable[[Array], tuple[Array, Array]]:
    """A function of η: mean KL from π_θ to π_(θ − η w) on the visited stages, and by how much the surrogate falls."""
    mask, stages, actions = score.mask, jnp.maximum(score.mask.sum(), 1), score.actions
    old = score.policy(score.observations)
    before = old.log_prob(actions)
    weight = jnp.where(mask, a if a.ndim == 2 else a[:, None], 0.0) / score.count

    def measure(factor: Array) -> tuple[Array, Array]:
        new = score.policy.with_theta(theta - factor * w)(score.observations)
        gain = -jnp.sum(jnp.where(weight != 0, weight * jnp.expm1(new.log_prob(actions) - before), 0.0))
        return jnp.sum(jnp.where(mask, old.kl(new), 0.0)) / stages, gain

    return measure
