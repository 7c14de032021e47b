"""The mean of the batch at each stage, the sample included."""

from __future__ import annotations

from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, PyTree

from policysearch.core.baselines._base import Mean, Sample


class PerStageMean(Mean):
    """One number per stage: the mean over the rollouts that reached it."""

    serves: ClassVar[tuple[str, ...]] = ("to_go",)
    absorbs: ClassVar[bool] = True

    def __call__(self, sample: Sample, state: PyTree) -> tuple[Array, Array, PyTree]:
        """Means (T,) of what counts."""
        weight = sample.weight
        return (weight * sample.outcome).sum(0) / jnp.maximum(weight.sum(0), 1), weight, state
