"""Perturbations that are regenerated from their random stream whenever they are needed, instead of being kept.

β_i = sign_i · std · z_i for n trials of d parameters; a pass over them holds `CHUNK` numbers at a time.
"""

from __future__ import annotations

from collections.abc import Iterator

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from policysearch.core.rng import perturbations

#: entries of z in memory at a time
CHUNK = 4_000_000


class Regenerated(eqx.Module):
    """The perturbations of an update's trials, represented by their random stream; the same numbers that workers used.

    Args:
        seed, update: of the stream, ().
        perturbation: (n,) number of each trial's z, −1 for none.
        sign: (n,) of ±1, 0 for none.
        std: of β, () or (d,).
        size: d.
        shape: law of z, see `rng.SHAPES`.
    """

    seed: Array
    update: Array
    perturbation: Array
    sign: Array
    std: Array
    size: int = eqx.field(static=True)
    shape: str = eqx.field(static=True, default="gaussian")

    def sums(self, weights: Float[Array, "k n"], squares: bool = False) -> Float[Array, "r k d"]:
        """Σ_i weight_i β_i for each row of weights, and after it Σ_i weight_i β_i² if `squares`; r is 1 or 2."""
        shape = jax.ShapeDtypeStruct((1 + squares, weights.shape[0], self.size), weights.dtype)

        def host(weights: Array, *parts: Array) -> np.ndarray:
            seed, update, perturbation, sign, std = (np.asarray(part) for part in parts)
            weight, totals = np.asarray(weights, float), np.zeros(shape.shape)
            for chosen, z in _chunks(seed, update, perturbation, self.size, self.shape):
                # partners share z, so it is generated once for both
                member = (perturbation[None, :] == chosen[:, None]) * sign
                totals[0] += weight @ member.T @ z
                if squares:
                    totals[1] += weight @ (member**2).T @ (z * z)
            totals[0] *= std
            if squares:
                totals[1] *= std**2
            return totals.astype(shape.dtype)

        return jax.pure_callback(host, shape, weights, *self._parts(), vmap_method="sequential")

    def dot(self, w: Float[Array, " d"]) -> Float[Array, " n"]:
        """β_iᵀ w for every trial."""
        shape = jax.ShapeDtypeStruct(self.sign.shape, w.dtype)

        def host(w: Array, *parts: Array) -> np.ndarray:
            seed, update, perturbation, sign, std = (np.asarray(part) for part in parts)
            scaled, products = np.asarray(w, float) * std, np.zeros(len(sign))
            for chosen, z in _chunks(seed, update, perturbation, self.size, self.shape):
                member = (perturbation[None, :] == chosen[:, None]) * sign
                products += member.T @ (z @ scaled)
            return products.astype(shape.dtype)

        return jax.pure_callback(host, shape, w, *self._parts(), vmap_method="sequential")

    def dense(self) -> Float[Array, "n d"]:
        """All β, (n, d): for a few trials or parameters only."""
        return self.sums(jnp.eye(self.sign.shape[0]))[0]

    def _parts(self) -> tuple[Array, ...]:
        return self.seed, self.update, self.perturbation, self.sign, self.std


def _chunks(
    seed: np.ndarray, update: np.ndarray, perturbation: np.ndarray, size: int, shape: str
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Numbers of distinct perturbations, a chunk at a time, with their rows z (chunk, d)."""
    distinct = np.unique(perturbation[perturbation >= 0])
    rows = max(1, CHUNK // size)
    for start in range(0, len(distinct), rows):
        chosen = distinct[start : start + rows]
        yield chosen, perturbations(int(seed), int(update), chosen, size, shape)
