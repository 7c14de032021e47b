"""Fitted value baseline: ridge regression of the cost-to-go on polynomial features of observation and time.

Cross-fitted: a rollout's baseline comes from the other folds and does not depend on that rollout. n, T, p; f features.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

#: folds of the cross-fit; penalty relative to the mean square of the features; most observations for all products
FOLDS, RIDGE, MOST_PRODUCTS = 5, 1e-4, 16


def features(observations: Float[Array, "n T p"]) -> Float[Array, "n T f"]:
    """1, time, its square and cube, each (scaled) observation and their products; squares only where p is large."""
    n, T, p = observations.shape
    o = jnp.clip(observations, -10.0, 10.0)
    time = jnp.broadcast_to(jnp.linspace(0.0, 1.0, T, dtype=o.dtype)[:, None], (n, T, 1))
    if p <= MOST_PRODUCTS:
        i, j = jnp.triu_indices(p)
        products = o[..., i] * o[..., j]
    else:
        products = o**2
    return jnp.concatenate([jnp.ones_like(time), time, time**2, time**3, o, products], axis=-1)


def fitted(
    observations: Float[Array, "n T p"], to_go: Float[Array, "n T"], weight: Float[Array, "n T"], fold: Array
) -> Float[Array, "n T"]:
    """Predicted cost-to-go of every stage, from rollouts of other folds.

    Args:
        observations: scaled, (n, T, p).
        to_go: what is predicted, (n, T).
        weight: 1 for stages that count, 0 for others.
        fold: (n,) number of each rollout's fold, 0 to `FOLDS` − 1.
    """
    F = features(observations)
    member = jax.nn.one_hot(fold, FOLDS, axis=0, dtype=F.dtype)
    weighted = F * weight[..., None]
    gram = jnp.einsum("kn,ntf,ntg->kfg", member, weighted, F)
    right = jnp.einsum("kn,ntf,nt->kf", member, weighted, to_go)
    others, others_right = gram.sum(0) - gram, right.sum(0) - right
    # each feature has unit mean square over the other folds, so that one penalty suits all
    count = member @ weight.sum(1)
    total = jnp.maximum(count.sum() - count, 1.0)
    scale = jnp.sqrt(jnp.maximum(jnp.diagonal(others, axis1=1, axis2=2), 0.0) / total[:, None])
    scale = jnp.where(scale > 0, scale, 1.0)

    def solve(matrix: Array, b: Array, unit: Array, n: Array) -> Array:
        scaled = matrix / (unit[:, None] * unit) + RIDGE * n * jnp.eye(len(unit), dtype=matrix.dtype)
        return jnp.linalg.solve(scaled, (b / unit)[:, None])[:, 0] / unit

    coefficients = jax.vmap(solve)(others, others_right, scale, total)
    return jnp.einsum("ntf,nf->nt", F, coefficients[fold])
