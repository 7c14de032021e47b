"""A running mean over updates and pairs (18.25), used before it is updated and started from the first cost."""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from policysearch.core.baselines._base import Number, Sample
from policysearch.core.explore import share


class State(NamedTuple):
    """A running baseline, NaN before the first cost: () or (T,); `level` of the costs that it stands beside."""

    baseline: Array
    level: Float[Array, ""]

    def at(self, level: Array) -> State:
        """The same beside costs of another level."""
        return State(self.baseline + (self.level - level), level)

    def head(self, shape: tuple[int, ...]) -> State:
        """Of an outcome of this shape, () or the first (T,) stages."""
        return State(self.baseline[: shape[0]], self.level) if shape else self

    def with_head(self, head: State) -> State:
        """With other first stages."""
        if not head.baseline.ndim:
            return head
        return State(jnp.concatenate([head.baseline, self.baseline[len(head.baseline) :]]), head.level)


class Running(Number):
    """One number, or one per stage.

    Args:
        rate: at which it forgets, 0 to 1.
    """

    rate: ArrayLike = eqx.field(converter=jnp.asarray, default=0.1)

    def __check_init__(self):
        """Refuse a rate that is not a share."""
        share("rate", self.rate)

    def init(self, shape: tuple[int, ...], observations: int) -> State:
        """Nothing known yet."""
        return State(jnp.full(shape, jnp.nan), jnp.zeros(()))

    def __call__(self, sample: Sample, state: State) -> tuple[Array, Array, State]:
        """Each pair, in index order, is compared with the baseline of those before it."""
        values, weight, layout, pair = sample.outcome, sample.weight, sample.layout, sample.pair
        state = state.at(sample.level)
        start = state.head(values.shape[1:])
        rate = jnp.asarray(self.rate)
        shape = (layout.pairs, *values.shape[1:])
        weights = jnp.zeros(shape, values.dtype).at[pair].add(weight)
        means = jnp.zeros(shape, values.dtype).at[pair].add(weight * values) / jnp.maximum(weights, 1)

        def step(baseline: Array, item: tuple[Array, Array]) -> tuple[Array, Array]:
            mean, seen = item
            before = jnp.where(jnp.isnan(baseline), mean, baseline)
            after = jnp.where(seen > 0, rate * mean + (1 - rate) * before, baseline)
            return after, before

        end, before = jax.lax.scan(step, start.baseline.astype(values.dtype), (means, weights))
        return before[pair], weight, state.with_head(start._replace(baseline=end))
