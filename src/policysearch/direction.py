"""From (S, a) to a direction w of ascent in θ: Sᵀa/n, or S⁺a (natural gradient), or B⁺a (finite differences).

n rollouts, T stages, d parameters. The natural direction solves S w ≈ a by least squares with least norm (18.35–18.40).
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from policysearch.credit import Info
from policysearch.explore import choice, positive_number
from policysearch.score import PerturbationScore, PolicyScore, Score

#: largest side of a matrix that `Natural` decomposes
LARGEST_SIDE = 500
#: conjugate-gradient iterations, and the relative residual that ends them
ITERATIONS, TOLERANCE = 50, 1e-4


class Direction(eqx.Module):
    """Solves for w; descending means moving along −w."""

    @abc.abstractmethod
    def __call__(self, score: Score, a: Array, gradient: Array) -> tuple[Float[Array, " d"], Info]:
        """w (d,) for advantages `a`, whose gradient estimate Sᵀa/n is given; and what is worth reporting."""


class Euclidean(Direction):
    """The gradient estimate itself, Sᵀa/n (18.10)."""

    def __call__(self, score: Score, a: Array, gradient: Array) -> tuple[Float[Array, " d"], Info]:
        """w = Sᵀa/n."""
        return gradient, {}


class LeastSquares(Direction):
    """w = B⁺a for perturbations B: finite differences (18.18), any set of directions that spans θ."""

    def __call__(self, score: Score, a: Array, gradient: Array) -> tuple[Float[Array, " d"], Info]:
        """Minimum-norm least-squares solution of B w ≈ a."""
        # a score divides β by σ²; least squares want β itself
        rows = score.dense(per_stage=False) * getattr(score, "variance", 1.0)
        w, _, rank, _ = jnp.linalg.lstsq(rows, jnp.where(score.counted, a, 0.0))
        return w, {"rank": rank}


class Natural(Direction):
    """Natural gradient M⁺∇J with a Fisher matrix M: the empirical one, SᵀS/n of the same rows (18.35, 18.40).

    Args:
        fisher: "empirical"; or "analytic": the matrix of the perturbations' own normal distribution, which is diagonal
            and known exactly, so that nothing is solved.
        cutoff: eigenvalues below this share of the largest count as zero; None for 1e-5 in float32, 1e-12 in float64.
        damping: κ relative to M's mean eigenvalue: (M + κI)⁻¹∇J; 0 for the pseudo-inverse.
        solver: "auto"; "parameter": eigenvalues of SᵀS (d × d); "sample": of SSᵀ (rows × rows);
            "conjugate_gradient": neither is formed; needs damping.
    """

    cutoff: float | None = eqx.field(static=True, default=None)
    damping: ArrayLike = eqx.field(converter=jnp.asarray, default=0.0)
    solver: str = eqx.field(static=True, default="auto")
    fisher: str = eqx.field(static=True, default="empirical")

    def __check_init__(self):
        """Refuse unknown solvers, and cut-offs and damping that mean nothing."""
        choice("solver", self.solver, ("auto", "parameter", "sample", "conjugate_gradient"))
        choice("fisher", self.fisher, ("empirical", "analytic"))
        if self.cutoff is not None and not 0 <= self.cutoff < 1:
            raise ValueError(f"cutoff is {self.cutoff}; it is a share of the largest eigenvalue, 0 ≤ cutoff < 1.")
        positive_number("damping", self.damping, zero=True)

    def chosen(self, rows: int, d: int) -> str:
        """The solver for `rows` score rows and d parameters."""
        if self.solver != "auto":
            return self.solver
        if min(rows, d) > LARGEST_SIDE:
            return "conjugate_gradient"
        return "parameter" if d <= rows else "sample"

    def __call__(self, score: Score, a: Array, gradient: Array) -> tuple[Float[Array, " d"], Info]:
        """w = M⁺∇J."""
        if self.fisher == "analytic":
            if not isinstance(score, PerturbationScore):
                raise TypeError("The analytic Fisher matrix is that of perturbed parameters; use the empirical one.")
            return gradient / score.fisher(gradient.size // (1 + score.learned)), {}
        per_stage = a.ndim == 2
        solver = self.chosen(a.size, gradient.size)
        if solver == "conjugate_gradient":
            return self._conjugate_gradient(score, gradient, per_stage)
        if solver == "parameter":
            matrix, right = gram(score, per_stage), score.count * gradient
        else:
            rows = score.dense(per_stage)
            matrix, right = rows @ rows.T, a.ravel()
        values, vectors = jnp.linalg.eigh(matrix)
        cutoff = self.cutoff if self.cutoff is not None else (1e-5 if matrix.dtype == jnp.float32 else 1e-12)
        keep = values > cutoff * jnp.maximum(values[-1], jnp.finfo(matrix.dtype).tiny)
        shift = self.damping * jnp.trace(matrix) / gradient.size
        inverse = jnp.where(keep, 1.0 / jnp.where(keep, values + shift, 1.0), 0.0)
        solution = vectors @ (inverse * (vectors.T @ right))
        w = solution if solver == "parameter" else rows.T @ solution
        smallest = jnp.min(jnp.where(keep, values, jnp.inf))
        info = {
            "rank": keep.sum(),
            "condition": jnp.where(jnp.isfinite(smallest), values[-1] / smallest, 1.0),
        }
        return w, info

    def _conjugate_gradient(self, score: Score, gradient: Array, per_stage: bool) -> tuple[Array, Info]:
        n = score.count
        fisher = lambda v: score.rmv(score.mv(v, per_stage)) / n  # noqa: E731
        # mean eigenvalue of M along a fixed probe of random signs (Hutchinson)
        probe = jax.random.rademacher(jax.random.key(0), gradient.shape, gradient.dtype)
        mean_eigenvalue = jnp.sum(score.mv(probe, per_stage) ** 2) / n / gradient.size
        shift = jnp.maximum(self.damping, 1e-3) * mean_eigenvalue
        w, residual, count = conjugate_gradient(lambda v: fisher(v) + shift * v, gradient, TOLERANCE, ITERATIONS)
        return w, {"residual": residual, "iterations": count}


def conjugate_gradient(
    product: Callable[[Array], Array], b: Float[Array, " d"], tolerance: float, iterations: int
) -> tuple[Float[Array, " d"], Array, Array]:
    """Solve A x = b for symmetric positive definite A (Hestenes & Stiefel 1952), from x = 0.

    JAX's own solver forms A(0) first; compiled around a Jacobian product, XLA gave that as NaN or garbage on CPUs.

    Args:
        product: v → A v.
        b: right-hand side.
        tolerance: relative residual that ends it.
        iterations: at most so many.

    Returns:
        x, its relative residual, and the iterations made.
    """
    target = jnp.sum(b * b)

    def unsolved(carry: Any) -> Array:
        return (carry[3] > tolerance**2 * target) & (carry[4] < iterations)

    def step(carry: Any) -> Any:
        x, r, p, squared, count = carry
        moved = product(p)
        length = squared / jnp.maximum(jnp.sum(p * moved), jnp.finfo(b.dtype).tiny)
        x, r = x + length * p, r - length * moved
        now = jnp.sum(r * r)
        return x, r, r + now / squared * p, now, count + 1

    x, _, _, squared, count = jax.lax.while_loop(unsolved, step, (jnp.zeros_like(b), b, b, target, jnp.zeros((), int)))
    relative = jnp.sqrt(squared / jnp.where(target > 0, target, 1.0))
    return x, relative, count


def gram(score: Score, per_stage: bool, limit: int = 4_000_000) -> Float[Array, "d d"]:
    """SᵀS (d, d), formed from at most about `limit` numbers of S at a time."""
    if not isinstance(score, PolicyScore) or not per_stage:
        rows = score.dense(per_stage)
        return rows.T @ rows
    n, T = score.mask.shape
    d = score.policy.theta().size
    size = max(1, min(n, limit // max(1, T * d)))
    chunks = -(-n // size)
    if chunks == 1:
        rows = score.dense(per_stage)
        return rows.T @ rows

    def split(x: Array) -> Array:
        padded = jnp.pad(x, [(0, chunks * size - n)] + [(0, 0)] * (x.ndim - 1))
        return padded.reshape(chunks, size, *x.shape[1:])

    def add(total: Array, part: tuple[Array, Array, Array]) -> tuple[Array, None]:
        observations, actions, mask = part
        chunk = PolicyScore(
            policy=score.policy,
            observations=observations,
            actions=actions,
            mask=mask,
            counted=jnp.ones(size, bool),
        )
        rows = chunk.dense(per_stage)
        return total + rows.T @ rows, None

    zero = jnp.zeros((d, d), score.policy.theta().dtype)
    total, _ = jax.lax.scan(add, zero, (split(score.observations), split(score.actions), split(score.mask)))
    return total
