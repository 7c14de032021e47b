"""A bandit: one stage, k arms, cost = means[arm] + std·noise; closed forms for p = softmax(logits).

The observation is the constant 1, so a linear softmax policy's weights are the logits.
"""

from __future__ import annotations

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray
from numpy.typing import ArrayLike

from policysearch.core.specification import Discrete, Specification
from policysearch.tasks.task import Task


class Bandit(Task):
    """Choose the cheapest of k arms from noisy costs.

    Args:
        means: expected cost of each arm, (k,).
        std: of one observed cost, ≥ 0.

    Raises:
        ValueError: fewer than two arms, or a number that is not finite.

    Example:
        >>> Bandit(means=(1.0, 0.0)).expected_cost([0.0, 0.0])
        0.5
    """

    summary: ClassVar[str] = "choose the cheapest of a few arms from noisy costs"

    means: tuple[float, ...] = eqx.field(static=True, default=(1.0, 0.7, 0.4, 0.0))
    std: float = eqx.field(static=True, default=0.5)

    def __check_init__(self):
        if len(self.means) < 2 or not np.all(np.isfinite((*self.means, self.std))) or self.std < 0:
            raise ValueError(
                f"Bandit(means={self.means!r}, std={self.std!r}): give two or more finite means and a std ≥ 0"
            )

    @property
    def specification(self) -> Specification:
        """Sizes; the horizon is one stage."""
        return Specification(
            name="bandit",
            action=Discrete(len(self.means)),
            observation_size=1,
            observation_scale=(1.0,),
            observation_names=("one",),
            action_names=("arm",),
            horizon=1,
            deterministic=self.std == 0,
            solved="the cheapest arm chosen in 95 of 100 rollouts",
        )

    def reset(self, key: PRNGKeyArray) -> Float[Array, ""]:
        """Draw this rollout's noise, the same for every arm."""
        return self.std * jax.random.normal(key)

    def step(self, x: Float[Array, ""], u: Int[Array, ""], w: None) -> Float[Array, ""]:
        """Nothing changes."""
        return x

    def cost(self, x: Float[Array, ""], u: Int[Array, ""]) -> Float[Array, ""]:
        """means[u] plus this rollout's noise."""
        return jnp.asarray(self.means)[u] + x

    def observe(self, x: Float[Array, ""]) -> Float[Array, " 1"]:
        """Return the constant 1."""
        return jnp.ones((1,))

    def success(self, states: Array, actions: Int[Array, " 1"]) -> Bool[Array, ""]:
        """Whether the arm drawn has the lowest mean."""
        means = jnp.asarray(self.means)
        return means[jnp.ravel(actions)[0]] <= means.min()

    def expected_cost(self, logits: ArrayLike) -> float:
        """J = Σ_i p_i means_i of the softmax policy with these logits, (k,) (18.1)."""
        return float(self._probabilities(logits) @ np.asarray(self.means))

    def gradient(self, logits: ArrayLike) -> Float[np.ndarray, " k"]:
        """∂J/∂logits_i = p_i (means_i − J) (18.9)."""
        p = self._probabilities(logits)
        means = np.asarray(self.means)
        return p * (means - p @ means)

    def fisher(self, logits: ArrayLike) -> Float[np.ndarray, "k k"]:
        """diag(p) − p pᵀ, singular along the all-ones shift (18.36, 18.40)."""
        p = self._probabilities(logits)
        return np.diag(p) - np.outer(p, p)

    def _probabilities(self, logits: ArrayLike) -> np.ndarray:
        array = np.asarray(logits, np.float64)
        if array.shape != (len(self.means),):
            raise ValueError(f"logits have shape {array.shape}; one for each of the {len(self.means)} arms is needed")
        return scipy.special.softmax(array)
