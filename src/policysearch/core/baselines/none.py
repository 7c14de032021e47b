"""No baseline: the costs themselves."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, PyTree

from policysearch.core.baselines._base import Number, Sample


class Nothing(Number):
    """Costs as they are, whatever was taken off them."""

    def __call__(self, sample: Sample, state: PyTree) -> tuple[Array, Array, PyTree]:
        """Zero, less what was taken off the costs."""
        # what all rollouts pay cancels in pairs; else it is part of the estimate, as noise
        baseline = jnp.zeros(()) if sample.layout.antithetic else -sample.level
        return baseline, sample.weight, state
