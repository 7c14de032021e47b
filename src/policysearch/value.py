"""Fitted value baseline: ridge regression of the cost-to-go on polynomial features of observation and time.

Cross-fitted: a rollout's baseline comes from the other folds and does not depend on that rollout. n, T, p; f features.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

#: folds of the cross-fit; penalty relative to the mean square of the features; most observations for all products
FOLDS, RIDGE, MOST_PRODUCTS = 5, 1e-4, 16


class End(NamedTuple):
    """How rollouts end that go on beyond their horizon.

    observations: scaled, after the last stage, (n, p).
    cut: 1 where the horizon cut the rollout, 0 where it ended by itself, (n,).
    discount: γ per stage.
    """

    observations: Float[Array, "n p"]
    cut: Float[Array, " n"]
    discount: Float[Array, ""]


def features(observations: Float[Array, "*b p"]) -> Float[Array, "*b f"]:
    """1, each (scaled) observation and their products; squares only where p is large."""
    o = jnp.clip(observations, -10.0, 10.0)
    if o.shape[-1] <= MOST_PRODUCTS:
        i, j = jnp.triu_indices(o.shape[-1])
        products = o[..., i] * o[..., j]
    else:
        products = o**2
    return jnp.concatenate([jnp.ones_like(o[..., :1]), o, products], axis=-1)


def powers_of_time(n: int, T: int, dtype: jnp.dtype) -> Float[Array, "n T 3"]:
    """Time from 0 to 1, its square and its cube."""
    time = jnp.linspace(0.0, 1.0, T, dtype=dtype)[:, None]
    return jnp.broadcast_to(jnp.concatenate([time, time**2, time**3], axis=1), (n, T, 3))


def fitted(
    observations: Float[Array, "n T p"],
    to_go: Float[Array, "n T"],
    weight: Float[Array, "n T"],
    fold: Array,
    end: End | None = None,
) -> tuple[Float[Array, "n T"], Float[Array, " n"]]:
    """Predicted cost-to-go of every stage and after the last, from rollouts of other folds.

    With `end` the prediction V knows no time and solves G_k = V(x_k) − γ^(L−k) V(x_L) by least squares, with G_k what
    was paid within the horizon and V(x_L) only where that cut the rollout. Without it V(x_L) is 0.

    Args:
        observations: scaled, (n, T, p).
        to_go: what is predicted, (n, T).
        weight: 1 for stages that count, 0 for others.
        fold: (n,) number of each rollout's fold, 0 to `FOLDS` − 1.
        end: how rollouts end that go on; None where all end.
    """
    n, T, _ = observations.shape
    F = features(observations)
    if end is None:
        F = jnp.concatenate([F, powers_of_time(n, T, F.dtype)], axis=-1)
        rows = F
    else:
        # stages from k to the end, L − k
        left = jax.lax.cumsum(weight, axis=1, reverse=True)
        last = features(end.observations)
        rows = F - (end.cut[:, None] * end.discount**left)[..., None] * last[:, None]
    member = jax.nn.one_hot(fold, FOLDS, axis=0, dtype=F.dtype)
    weighted = rows * weight[..., None]
    gram = jnp.einsum("kn,ntf,ntg->kfg", member, weighted, rows)
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

    own = jax.vmap(solve)(others, others_right, scale, total)[fold]
    after = jnp.zeros(n, F.dtype) if end is None else end.cut * jnp.einsum("nf,nf->n", last, own)
    return jnp.einsum("ntf,nf->nt", F, own), after
