"""Fitted value baseline: the cost-to-go from polynomial features of observation and time, by least squares.

Cross-fitted: a rollout's baseline comes from the other folds and does not depend on that rollout. n, T, p; f features.
"""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from policysearch.core.baselines._base import End, Predictor, Sample

#: folds of the cross-fit; most observations for all products
FOLDS, MOST_PRODUCTS = 5, 16
#: penalty relative to the mean square of the features, and the share of it that the constant has
RIDGE, CONSTANT = 1e-4, 1e-3


def features(observations: Float[Array, "*b p"]) -> Float[Array, "*b f"]:
    """1, each (scaled) observation and their products; squares only if p is large."""
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

    Without `end` nothing follows the last stage, and V is a regression of G_k on features φ_k of observation and time.

    With `end` V knows no time and G_k = V(x_k) − γ^(L−k) V(x_L), where G_k is the cost within the horizon and
    V(x_L) counts only if that cut the rollout. The rows φ_k − γ^(L−k) φ_L carry the noise of x_L, so least squares
    on themselves would shrink V. Their instrument is φ_k, which came before that noise: least-squares temporal
    differences with λ = 1 (Bradtke & Barto 1996; Boyan 2002). They are solved as two-stage least squares, which stays
    bounded where few rollouts leave Σ φ_k (φ_k − γ^(L−k) φ_L)ᵀ almost singular.

    Args:
        observations: scaled, (n, T, p).
        to_go: what is predicted, (n, T).
        weight: 1 for stages that count, 0 for others.
        fold: (n,) number of each rollout's fold, 0 to `FOLDS` − 1.
        end: how rollouts that continue end; None if all end.
    """
    n, T, _ = observations.shape
    F = features(observations)
    last = None
    if end is None:
        F = jnp.concatenate([F, powers_of_time(n, T, F.dtype)], axis=-1)
    else:
        last = features(end.observations)
    member = jax.nn.one_hot(fold, FOLDS, axis=0, dtype=F.dtype)
    weighted = F * weight[..., None]

    def others(products: Array) -> Array:
        return products.sum(0) - products

    gram = others(jnp.einsum("kn,ntf,ntg->kfg", member, weighted, F))
    right = others(jnp.einsum("kn,ntf,nt->kf", member, weighted, to_go))
    # each feature has unit mean square over the other folds, so that one penalty suits all
    count = jnp.maximum(others(member @ weight.sum(1)), 1.0)
    scale = jnp.sqrt(jnp.maximum(jnp.diagonal(gram, axis1=1, axis2=2), 0.0) / count[:, None])
    scale = jnp.where(scale > 0, scale, 1.0)
    units = scale[:, :, None] * scale[:, None]
    gram, right = gram / units, right / scale
    # a level common to all costs does not mean overfitting, so the constant is hardly penalised
    penalty = RIDGE * count[:, None, None] * jnp.diag(jnp.ones(F.shape[-1], F.dtype).at[0].set(CONSTANT))
    if end is not None and last is not None:
        # stages from k to the end, L − k
        left = jax.lax.cumsum(weight, axis=1, reverse=True)
        follows = jnp.einsum("ntf,nt->nf", weighted, end.cut[:, None] * end.discount**left)
        rows = gram - others(jnp.einsum("kn,nf,ng->kfg", member, follows, last)) / units
        # the rows, and their right side, as far as the instruments explain them
        explained = jnp.linalg.solve(gram + penalty, rows)
        right = jnp.einsum("kfg,kf->kg", explained, right)
        gram = jnp.einsum("kfg,kfh->kgh", rows, explained)
    gram = gram + penalty
    own = (jnp.linalg.solve(gram, right[..., None])[..., 0] / scale)[fold]
    after = jnp.zeros(n, F.dtype) if end is None else end.cut * jnp.einsum("nf,nf->n", last, own)
    return jnp.einsum("ntf,nf->nt", F, own), after


class Value(Predictor):
    """The cost-to-go of a stage, fitted to the rollouts of the other folds."""

    absorbs: ClassVar[bool] = True

    def predict(
        self, sample: Sample, observations: Float[Array, "n T p"], end: End | None, state: PyTree
    ) -> tuple[Float[Array, "n T"], Float[Array, " n"]]:
        """See `fitted`."""
        return fitted(observations, sample.outcome, sample.weight, sample.pair % FOLDS, end)
