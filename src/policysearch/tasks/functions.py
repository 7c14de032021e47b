"""Test functions g(θ) of d parameters in JAX: a bowl with closed forms, and Rosenbrock's valley (18.17).

Under perturbations β with mean 0 and covariance σ²I the bowl's smoothed cost is E g(θ+β) = g(θ) + ½σ² tr H.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import ArrayLike

from policysearch.tasks.task import Function


@dataclasses.dataclass(frozen=True)
class Quadratic:
    """θ ↦ ½ Σ_i eigenvalues_i θ_i², callable as `Function` requires."""

    eigenvalues: tuple[float, ...]

    def __call__(self, values: Float[Array, " d"], key: object) -> Float[Array, ""]:
        """Return the cost at `values`."""
        return 0.5 * jnp.sum(jnp.asarray(self.eigenvalues) * values**2)


class Bowl(Function):
    """g(θ) = ½ θᵀHθ, H diagonal with eigenvalues spaced geometrically from 1 to `condition`; starts at ones.

    Args:
        d: number of parameters, ≥ 1.
        condition: ratio of the largest eigenvalue to the smallest, ≥ 1; with d = 1 it is ignored.

    Raises:
        ValueError: d or condition is below 1.

    Example:
        >>> Bowl(d=2, condition=4.0).expected_cost([1.0, 1.0], std=1.0)
        5.0
    """

    def __init__(self, d: int = 10, condition: float = 10.0):
        if not (d >= 1 and 1 <= condition < np.inf):
            raise ValueError(f"Bowl(d={d!r}, condition={condition!r}): both must be finite and at least 1")
        self.cost = Quadratic(tuple(np.geomspace(1.0, condition, d).tolist()))
        self.initial = (1.0,) * d
        self.name = "bowl"
        self.deterministic = True
        self.summary = "a quadratic bowl with closed-form cost and gradient"
        self.threshold = 0.01 * self.expected_cost(np.ones(d))
        self.scale = 1.0

    @property
    def hessian(self) -> Float[np.ndarray, "d d"]:
        """H, (d, d)."""
        return np.diag(self.cost.eigenvalues)

    def expected_cost(self, theta: ArrayLike, std: float = 0.0) -> float:
        """Smoothed cost E g(θ+β), β of mean 0 and covariance std²·I; g(θ) itself for std 0 (18.1)."""
        values = np.asarray(theta, np.float64)
        curvature = np.asarray(self.cost.eigenvalues)
        return float(0.5 * np.sum(curvature * values**2) + 0.5 * std**2 * curvature.sum())

    def gradient(self, theta: ArrayLike) -> Float[np.ndarray, " d"]:
        """H θ: the gradient of g and of its smoothed cost for any std (18.17)."""
        return np.asarray(self.cost.eigenvalues) * np.asarray(theta, np.float64)


def bowl(d: int = 10, condition: float = 10.0) -> Bowl:
    """The built-in `bowl`; see `Bowl`. Solved at 1 % of its initial cost."""
    return Bowl(d, condition)


def _valley(values: Float[Array, " d"], key: object) -> Float[Array, ""]:
    return jnp.sum(100 * (values[1:] - values[:-1] ** 2) ** 2 + (1 - values[:-1]) ** 2)


def rosenbrock(d: int = 2) -> Function:
    """The built-in `rosenbrock`: Σ 100 (θ_{i+1} − θ_i²)² + (1 − θ_i)² from (−1.2, 1, …), minimum 0 at ones.

    Args:
        d: number of parameters, ≥ 2.

    Raises:
        ValueError: d is below 2.

    Example:
        >>> rosenbrock().initial
        (-1.2, 1.0)
    """
    if d < 2:
        raise ValueError(f"rosenbrock(d={d!r}): d must be at least 2")
    return Function(
        cost=_valley,
        initial=tuple(1.0 if i % 2 else -1.2 for i in range(d)),
        name="rosenbrock",
        summary="Rosenbrock's curved valley",
        threshold=0.1,
        scale=0.3,
    )
