"""The mean of the batch, the sample included: it shrinks the estimate by exactly 1 − 1/n."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, PyTree

from policysearch.core.baselines._base import Mean, Sample


class BatchMean(Mean):
    """One number: the mean of all outcomes."""

    def __call__(self, sample: Sample, state: PyTree) -> tuple[Array, Array, PyTree]:
        """The mean of what counts."""
        weight = sample.weight
        return (weight * sample.outcome).sum() / jnp.maximum(weight.sum(), 1), weight, state
