"""The likelihood-ratio gradient of any distribution p_θ(x): ∂E[g(x)]/∂θ = E[g(x) ∂log p_θ(x)/∂θ] (18.5–18.10)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PyTree

from policysearch.core.explore import choice


class Estimate(NamedTuple):
    """gradient and standard_error, both shaped like θ, in cost units per unit of θ."""

    gradient: PyTree
    standard_error: PyTree


def scores(log_prob: Callable[[PyTree, PyTree], Array], samples: PyTree, theta: PyTree) -> PyTree:
    """Rows ∂log p_θ(x_i)/∂θ, shaped like θ with a leading axis n (18.5).

    Args:
        log_prob: (θ, x) → log p_θ(x), a scalar in nats, differentiable in θ.
        samples: x_1 … x_n, any pytree with a leading axis n.
        theta: any pytree of floats.
    """
    return jax.vmap(jax.grad(log_prob), (None, 0))(theta, samples)


def likelihood_ratio_gradient(
    log_prob: Callable[[PyTree, PyTree], Array],
    cost: Float[Array, " n"] | Callable[[PyTree], Array],
    samples: PyTree,
    theta: PyTree,
    baseline: str | ArrayLike = "leave_one_out",
) -> Estimate:
    """Gradient of E[g(x)], x ~ p_θ, from samples and their costs alone (18.10).

    Neither g nor the support of p_θ may depend on θ: U(0, θ) has no such gradient.

    Args:
        log_prob: (θ, x) → log p_θ(x), a scalar in nats, differentiable in θ.
        cost: g of each sample, (n,), or a function of one sample.
        samples: x_1 … x_n drawn from p_θ, any pytree with a leading axis n.
        theta: θ, any pytree of floats.
        baseline: a number (n or ()) that does not depend on its own sample; "none"; "mean" of all costs, which shrinks
            the estimate by exactly 1 − 1/n; "leave_one_out", the mean of the others, which does not.

    Returns:
        The estimate and its standard error, which assumes independent rows.

    Raises:
        ValueError: fewer than two samples, costs of another length, or an unknown baseline.

    Example:
        >>> log_prob = lambda theta, x: -0.5 * (x - theta) ** 2
        >>> samples = 2.0 + jax.random.normal(jax.random.key(0), (10_000,))
        >>> found = likelihood_ratio_gradient(log_prob, lambda x: x**2, samples, 2.0)
        >>> bool(abs(found.gradient - 4.0) < 3 * found.standard_error)
        True
    """
    n = len(jax.tree.leaves(samples)[0])
    costs = jax.vmap(cost)(samples) if callable(cost) else jnp.asarray(cost)
    if costs.shape != (n,) or n < 2:
        raise ValueError(
            f"{n} samples were given with costs of shape {costs.shape}; give one cost for each of 2 or more samples."
        )
    if isinstance(baseline, str):
        choice("baseline", baseline, ("none", "mean", "leave_one_out"))
        mean = costs.mean()
        levels = {"none": jnp.zeros(()), "mean": mean, "leave_one_out": (n * mean - costs) / (n - 1)}
        level = levels[baseline]
    else:
        level = jnp.asarray(baseline)
        if level.shape not in ((), (n,)):
            raise ValueError(f"baseline has shape {level.shape}; give one number, or one for each of {n} samples.")
    a = costs - level
    theta = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), theta)
    rows = jax.tree.map(lambda row: a.reshape(n, *[1] * (row.ndim - 1)) * row, scores(log_prob, samples, theta))
    return Estimate(
        jax.tree.map(lambda row: row.mean(0), rows),
        jax.tree.map(lambda row: row.std(0, ddof=1) / jnp.sqrt(n), rows),
    )
