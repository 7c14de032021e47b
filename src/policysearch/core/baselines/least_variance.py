"""The number for which the gradient's covariance has the least trace, from the other pairs and earlier updates."""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from policysearch.core.baselines._base import Number, Sample
from policysearch.core.explore import share


class State(NamedTuple):
    """Σ ‖s‖²G and Σ ‖s‖² of earlier updates, decayed: () or (T,). Their ratio is the least-variance baseline.

    Of Σ_k s_k (G_k − b_k) the trace of the covariance is least at b_k = E[s_k·Σ_j s_j G_j]/E‖s_k‖². The terms j ≠ k, as
    small as the gradient itself and noisy, are left out where a row is a stage. One number serves all parameters, since
    one advantage does; one for each (Peters & Schaal 2008) would lower the variance further.
    """

    numerator: Array
    denominator: Array
    level: Float[Array, ""]

    def at(self, level: Array) -> State:
        """The same of costs of another level."""
        return State(self.numerator + (self.level - level) * self.denominator, self.denominator, level)

    def ratio(self, numerator: Array, denominator: Array) -> Array:
        """The baseline from these sums of the batch and from memory; 0 where there is nothing to go by."""
        whole = self.denominator + denominator
        return jnp.where(whole > 0, (self.numerator + numerator) / jnp.where(whole > 0, whole, 1.0), 0.0)

    def after(self, numerator: Array, denominator: Array, rate: Array) -> State:
        """What is remembered after a batch with these sums."""
        return State((1 - rate) * self.numerator + numerator, (1 - rate) * self.denominator + denominator, self.level)

    def head(self, shape: tuple[int, ...]) -> State:
        """Of the first (T,) stages."""
        T = shape[0]
        return State(self.numerator[:T], self.denominator[:T], self.level)

    def with_head(self, head: State) -> State:
        """With other first stages."""
        T = len(head.numerator)
        join = lambda new, old: jnp.concatenate([new, old[T:]])  # noqa: E731
        return State(join(head.numerator, self.numerator), join(head.denominator, self.denominator), head.level)


class LeastVariance(Number):
    """One number, or per stage the mean weighted by the squared length of the score; see `State`.

    Args:
        rate: at which it forgets, 0 to 1.
    """

    rate: ArrayLike = eqx.field(converter=jnp.asarray, default=0.1)

    def __check_init__(self):
        """Refuse a rate that is not a share."""
        share("rate", self.rate)

    def init(self, shape: tuple[int, ...], observations: int) -> State:
        """Nothing known yet."""
        return State(jnp.zeros(shape), jnp.zeros(shape), jnp.zeros(()))

    def __call__(self, sample: Sample, state: State) -> tuple[Array, Array, State]:
        """Moments of the others, and of earlier updates."""
        outcome, weight, score, rate = sample.outcome, sample.weight, sample.score, jnp.asarray(self.rate)
        state = state.at(sample.level)
        if sample.total:
            with_costs = score.group_gradients(weight * outcome, sample.layout.pairs)
            alone = score.group_gradients(weight, sample.layout.pairs)
            numerator, denominator = (with_costs * alone).sum(1), (alone * alone).sum(1)
            baseline = state.ratio(numerator.sum() - numerator, denominator.sum() - denominator)[sample.pair]
            return baseline, weight, state.after(numerator.sum(), denominator.sum(), rate)
        squares = weight * score.squares()
        sums, whole = (jnp.sum(x, 0) for x in (squares * outcome, squares))
        head = state.head(outcome.shape[1:])
        baseline = head.ratio(sums - squares * outcome, whole - squares)
        return baseline, weight, state.with_head(head.after(sums, whole, rate))
