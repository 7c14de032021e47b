"""Baselines that are numbers: what is subtracted from costs, without a look at the sample that it is subtracted from.

n rollouts, T stages. For those that predict costs from observations see `value` and `value_network`.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from policysearch.core.explore import Layout

#: relative differences between costs, in units of the last digit, that are mere rounding
ROUNDING = 4


def reference(total: Array, used: Array, layout: Layout) -> tuple[Array, Array]:
    """Cost of θ for each trial: its own pair's reference where there is one, else the mean of all; and whether any."""
    pair = jnp.asarray(layout.pair)
    is_reference = (jnp.asarray(layout.reference) & used).astype(total.dtype)
    sums = jnp.zeros(layout.pairs).at[pair].add(is_reference * total)
    counts = jnp.zeros(layout.pairs).at[pair].add(is_reference)
    overall = (is_reference * total).sum() / jnp.maximum(is_reference.sum(), 1)
    own = jnp.where(counts > 0, sums / jnp.maximum(counts, 1), overall)
    return own[pair], (is_reference.sum() > 0).astype(total.dtype)


def leave_pair_out(values: Array, weight: Array, pair: Array, pairs: int) -> tuple[Array, Array]:
    """Mean over the other pairs, shaped like `values`, and the weight behind it."""
    weighted = weight * values
    own_sum, own_weight = weighted, weight
    if pairs < values.shape[0]:
        shape = (pairs, *values.shape[1:])
        own_sum = jnp.zeros(shape, values.dtype).at[pair].add(weighted)[pair]
        own_weight = jnp.zeros(shape, values.dtype).at[pair].add(weight)[pair]
    others = weight.sum(0) - own_weight
    mean = (weighted.sum(0) - own_sum) / jnp.maximum(others, 1)
    return mean, others


class Running(NamedTuple):
    """A running baseline, NaN before the first cost: () or (T,); `level` of the costs that it stands beside."""

    baseline: Array
    level: Float[Array, ""]

    def at(self, level: Array) -> Running:
        """The same beside costs of another level."""
        return Running(self.baseline + (self.level - level), level)

    def head(self, T: int) -> Running:
        """Of the first T stages."""
        return Running(self.baseline[:T], self.level)

    def with_head(self, head: Running) -> Running:
        """With other first stages."""
        return Running(jnp.concatenate([head.baseline, self.baseline[len(head.baseline) :]]), head.level)


class Moments(NamedTuple):
    """Σ ‖s‖²G and Σ ‖s‖² of earlier updates, decayed: () or (T,). Their ratio is the least-variance baseline.

    Of Σ_k s_k (G_k − b_k) the trace of the covariance is least at b_k = E[s_k·Σ_j s_j G_j]/E‖s_k‖². The terms j ≠ k, as
    small as the gradient itself and noisy, are left out where a row is a stage. One number serves all parameters, since
    one advantage does; one for each (Peters & Schaal 2008) would lower the variance further.
    """

    numerator: Array
    denominator: Array
    level: Float[Array, ""]

    def at(self, level: Array) -> Moments:
        """The same of costs of another level."""
        return Moments(self.numerator + (self.level - level) * self.denominator, self.denominator, level)

    def ratio(self, numerator: Array, denominator: Array) -> Array:
        """The baseline from these sums of the batch and from memory; 0 where there is nothing to go by."""
        whole = self.denominator + denominator
        return jnp.where(whole > 0, (self.numerator + numerator) / jnp.where(whole > 0, whole, 1.0), 0.0)

    def after(self, numerator: Array, denominator: Array, rate: Array) -> Moments:
        """What is remembered after a batch with these sums."""
        return Moments((1 - rate) * self.numerator + numerator, (1 - rate) * self.denominator + denominator, self.level)

    def head(self, T: int) -> Moments:
        """Of the first T stages."""
        return Moments(self.numerator[:T], self.denominator[:T], self.level)

    def with_head(self, head: Moments) -> Moments:
        """With other first stages."""
        T = len(head.numerator)
        join = lambda new, old: jnp.concatenate([new, old[T:]])  # noqa: E731
        return Moments(join(head.numerator, self.numerator), join(head.denominator, self.denominator), head.level)


def running(values: Array, weight: Array, layout: Layout, start: Running, rate: Array) -> tuple[Array, Running]:
    """(18.25) over the pairs in index order: each is compared with the baseline of those before it."""
    pair = jnp.asarray(layout.pair)
    shape = (layout.pairs, *values.shape[1:])
    weights = jnp.zeros(shape, values.dtype).at[pair].add(weight)
    means = jnp.zeros(shape, values.dtype).at[pair].add(weight * values) / jnp.maximum(weights, 1)

    def step(baseline: Array, item: tuple[Array, Array]) -> tuple[Array, Array]:
        mean, seen = item
        before = jnp.where(jnp.isnan(baseline), mean, baseline)
        after = jnp.where(seen > 0, rate * mean + (1 - rate) * before, baseline)
        return after, before

    end, before = jax.lax.scan(step, start.baseline.astype(values.dtype), (means, weights))
    return before[pair], start._replace(baseline=end)


def differ(outcomes: Array, weight: Array) -> Array:
    """Whether outcomes (n,) or (n, T) of rollouts differ at any stage by more than rounding; yes of fewer than two."""
    n = jnp.maximum(weight.sum(0), 1)
    mean = (weight * outcomes).sum(0) / n
    spread = jnp.sqrt((weight * (outcomes - mean) ** 2).sum(0) / n)
    rounding = ROUNDING * jnp.finfo(outcomes.dtype).eps * jnp.max(weight * jnp.abs(outcomes))
    alone = jnp.sum(weight.reshape(len(weight), -1).any(1)) < 2
    return jnp.any(spread > rounding) | alone


def spread(total: Array, counted: Array) -> Array:
    """Standard deviation of the costs that count; infinite where it is mere rounding, so that advantages vanish."""
    weight = counted.astype(total.dtype)
    n = jnp.maximum(weight.sum(), 1)
    mean = (weight * total).sum() / n
    std = jnp.sqrt((weight * (total - mean) ** 2).sum() / n)
    rounding = ROUNDING * jnp.finfo(total.dtype).eps * jnp.max(weight * jnp.abs(total))
    return jnp.where(std > rounding, std, jnp.inf)
