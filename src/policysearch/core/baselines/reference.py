"""The cost of θ itself, measured by trials of it (18.20)."""

from __future__ import annotations

from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, PyTree

from policysearch.core.baselines._base import Number, Sample
from policysearch.core.explore import Coordinates, Explore


class Reference(Number):
    """The cost of the pair's own trial of θ where there is one, else the mean of all such trials."""

    serves: ClassVar[tuple[str, ...]] = ("total",)

    def refuse(self, explore: Explore) -> str:
        """Trials of θ are needed."""
        forward = isinstance(explore, Coordinates) and not explore.central
        if forward or getattr(explore, "reference", "none") != "none":
            return ""
        return (
            "A reference baseline needs trials of θ: ParameterNoise(reference='one' or 'each'), or forward differences."
        )

    def __call__(self, sample: Sample, state: PyTree) -> tuple[Array, Array, PyTree]:
        """Costs (n,) of θ; nothing counts where no trial of θ came back."""
        total, layout, pair = sample.outcome, sample.layout, sample.pair
        is_reference = (jnp.asarray(layout.reference) & sample.rollouts.used).astype(total.dtype)
        sums = jnp.zeros(layout.pairs).at[pair].add(is_reference * total)
        counts = jnp.zeros(layout.pairs).at[pair].add(is_reference)
        overall = (is_reference * total).sum() / jnp.maximum(is_reference.sum(), 1)
        own = jnp.where(counts > 0, sums / jnp.maximum(counts, 1), overall)
        return own[pair], sample.weight * (is_reference.sum() > 0).astype(total.dtype), state
