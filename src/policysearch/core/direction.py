"""From (S, a) to a direction w of ascent in θ: Sᵀa/n, or S⁺a (natural gradient), or B⁺a (finite differences).

n rollouts, T stages, d parameters. The natural direction solves S w ≈ a by least squares with least norm (18.35–18.40).
"""

from __future__ import annotations

import abc
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PyTree

from policysearch.core.credit import Info
from policysearch.core.explore import choice, positive, positive_number
from policysearch.core.quality import Quality, measure
from policysearch.core.score import PerturbationScore, PolicyScore, Score

#: largest side of a matrix that `Natural` decomposes
LARGEST_SIDE = 500
#: largest number of stages that the policy's own Fisher matrix is taken from
FISHER_STAGES = 4096
#: iterations that the error estimate looks ahead
DELAY = 3
#: why a natural direction was not the requested solution, by `fallback` in an update's report
FALLBACKS = {
    1: "the natural direction was not finite or led uphill: the gradient itself was followed",
    2: "conjugate gradients met negative curvature: they stopped at the last iterate",
}

Product = Callable[[Array], Array]


class Direction(eqx.Module):
    """Solves for w; descending means moving along −w."""

    @abc.abstractmethod
    def __call__(self, score: Score, a: Array, groups: Float[Array, "m d"]) -> tuple[Float[Array, " d"], Quality, Info]:
        """w (d,) for advantages `a`, how much of it is noise, and what to report.

        Args:
            score: S.
            a: advantages, (n, T) or (n,).
            groups: gradient estimates of independent groups of the batch, whose mean is Sᵀa/n. The quality is that of
                their mean in the metric in which w is steepest.
        """


class Euclidean(Direction):
    """The gradient estimate itself, Sᵀa/n (18.10)."""

    def __call__(self, score: Score, a: Array, groups: Array) -> tuple[Float[Array, " d"], Quality, Info]:
        """w = Sᵀa/n."""
        return groups.mean(0), measure(groups), {}


class LeastSquares(Direction):
    """w = B⁺a for perturbations B: finite differences (18.18), any set of directions that spans θ."""

    def __call__(self, score: Score, a: Array, groups: Array) -> tuple[Float[Array, " d"], Quality, Info]:
        """Minimum-norm least-squares solution of B w ≈ a."""
        # a score divides β by σ²; least squares want β itself
        rows = score.dense(per_stage=False) * getattr(score, "variance", 1.0)
        w, _, rank, _ = jnp.linalg.lstsq(rows, jnp.where(score.counted, a, 0.0))
        return w, measure(groups), {"rank": rank}


class Natural(Direction):
    """Natural gradient M⁺∇J with a Fisher matrix M (18.35).

    Args:
        fisher: "empirical": SᵀS/n of the same rows (18.40), so that w solves S w ≈ a; "analytic": the distribution's
            own matrix, averaged over actions exactly. For sampled actions that is the policy's, on the visited states
            (18.39): it has no action noise, so it needs fewer stages. For perturbed parameters it is that of their
            normal distribution, diagonal, and nothing is solved.
        rcond: eigenvalues below this share of the largest count as zero; None for 1e-5 in float32, 1e-12 in float64.
        damping: κ relative to M's mean eigenvalue: (M + κI)⁻¹∇J; 0 for the pseudo-inverse.
        solver: "auto"; "parameter": eigenvalues of M (d × d); "sample": of SSᵀ (rows × rows), empirical only;
            "conjugate_gradient": neither is formed; needs damping, of which at least 1e-3 is used.
        tolerance: estimated relative error in the Fisher norm that ends conjugate gradients: 0.1 shortens the predicted
            improvement of a step of stated KL by 0.1²/2, half a percent.
        iterations: of conjugate gradients, at most.
        intercept: fit a constant beside S w, with one row per rollout: it absorbs the mean cost, as a baseline would;
            the episodic natural actor-critic (Peters & Schaal 2008).

    A solution that is not finite, or that would raise the cost to first order, is not followed: `fallback` in the
    report says what was (`FALLBACKS`).
    """

    rcond: float | None = eqx.field(static=True, default=None)
    damping: ArrayLike = eqx.field(converter=jnp.asarray, default=0.0)
    solver: str = eqx.field(static=True, default="auto")
    fisher: str = eqx.field(static=True, default="empirical")
    tolerance: float = eqx.field(static=True, default=0.1)
    iterations: int = eqx.field(static=True, default=50)
    intercept: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        """Refuse unknown solvers, and meaningless cut-offs and damping."""
        choice("solver", self.solver, ("auto", "parameter", "sample", "conjugate_gradient"))
        choice("fisher", self.fisher, ("empirical", "analytic"))
        if self.rcond is not None and not 0 <= self.rcond < 1:
            raise ValueError(f"rcond is {self.rcond}; it is a share of the largest eigenvalue, 0 ≤ rcond < 1.")
        if self.fisher == "analytic" and self.solver == "sample":
            raise ValueError("The analytic Fisher matrix has no rows of samples; use solver 'parameter' or 'auto'.")
        if self.intercept and (self.fisher == "analytic" or self.solver == "conjugate_gradient"):
            raise ValueError("A constant is fitted to explicit rows of samples: intercept needs fisher 'empirical'.")
        positive_number("damping", self.damping, zero=True)
        positive_number("tolerance", self.tolerance)
        positive("iterations", self.iterations)

    def chosen(self, rows: int, d: int) -> str:
        """The solver for `rows` score rows and d parameters."""
        if self.solver != "auto":
            return self.solver
        if self.fisher == "analytic":
            return "parameter" if d <= LARGEST_SIDE else "conjugate_gradient"
        if min(rows, d) > LARGEST_SIDE and not self.intercept:
            return "conjugate_gradient"
        return "parameter" if d <= rows else "sample"

    def __call__(self, score: Score, a: Array, groups: Array) -> tuple[Float[Array, " d"], Quality, Info]:
        """w = M⁺∇J; quality in the norm √(gᵀM⁺g), which does not depend on the parametrisation."""
        gradient, rows = groups.mean(0), None
        if self.fisher == "analytic" and isinstance(score, PerturbationScore):
            fisher = score.fisher(gradient.size // (1 + score.learned))
            return gradient / fisher, measure(groups / jnp.sqrt(fisher)), {}
        if self.intercept:
            rows, a = _centred(score, score.dense(per_stage=False), a)
            gradient = rows.T @ a / score.count
        w, whitened, info = self._solve(score, a, gradient, groups, rows)
        downhill = jnp.all(jnp.isfinite(w)) & ((jnp.sum(w * gradient) > 0) | jnp.all(gradient == 0))
        fallback = jnp.where(downhill, info.pop("fallback", 0), 1)
        return jnp.where(downhill, w, gradient), measure(whitened), {**info, "fallback": fallback}

    def _solve(
        self, score: Score, a: Array, gradient: Array, groups: Array, rows: Array | None
    ) -> tuple[Array, Array, Info]:
        """w; the groups where M is the identity; info. Conjugate gradients leave the groups as they are."""
        per_stage = a.ndim == 2
        solver = self.chosen(a.size, gradient.size)
        analytic = self.fisher == "analytic"
        if solver == "conjugate_gradient":
            products = score.fisher_root(FISHER_STAGES) if analytic else score.products(per_stage)
            w, info = self._conjugate_gradient(*products, score.count, gradient)
            return w, groups, info
        if analytic:
            matrix, right = score.fisher_gram(FISHER_STAGES), score.count * gradient
        elif solver == "parameter":
            matrix = gram(score, per_stage) if rows is None else rows.T @ rows
            right = score.count * gradient
        else:
            rows = score.dense(per_stage) if rows is None else rows
            matrix, right = rows @ rows.T, a.ravel()
        values, vectors = jnp.linalg.eigh(matrix)
        rcond = self.rcond if self.rcond is not None else (1e-5 if matrix.dtype == jnp.float32 else 1e-12)
        keep = values > rcond * jnp.maximum(values[-1], jnp.finfo(matrix.dtype).tiny)
        shift = self.damping * jnp.trace(matrix) / gradient.size
        inverse = jnp.where(keep, 1.0 / jnp.where(keep, values + shift, 1.0), 0.0)
        parts = vectors.T @ right
        solution = vectors @ (inverse * parts)
        # components along the eigenvectors: Vᵀg, which is Uᵀ(S g)/√λ for S = UΣVᵀ
        samples = rows if solver == "sample" else None
        if samples is None:
            w, parallel = solution, groups @ vectors
        else:
            w, parallel = samples.T @ solution, groups @ samples.T @ vectors / jnp.sqrt(jnp.where(keep, values, 1.0))
        whitened = parallel * jnp.sqrt(score.count * inverse)
        smallest = jnp.min(jnp.where(keep, values, jnp.inf))
        info = {
            "rank": keep.sum(),
            "condition": jnp.where(jnp.isfinite(smallest), values[-1] / smallest, 1.0),
        }
        if analytic:
            # the part of the gradient's square outside the Fisher matrix's range, which the step leaves out
            power = jnp.sum(parts**2)
            info["outside"] = jnp.sum(jnp.where(keep, 0.0, parts**2)) / jnp.where(power > 0, power, 1.0)
        return w, whitened, info

    def _conjugate_gradient(
        self, forward: Product, transposed: Product, n: Array, gradient: Array
    ) -> tuple[Array, Info]:
        fisher = lambda v: transposed(forward(v)) / n  # noqa: E731
        # mean eigenvalue of M from a fixed probe of random signs (Hutchinson)
        probe = jax.random.rademacher(jax.random.key(0), gradient.shape, gradient.dtype)
        mean_eigenvalue = jnp.sum(forward(probe) ** 2) / n / gradient.size
        shift = jnp.maximum(self.damping, 1e-3) * mean_eigenvalue
        w, residual, count, convex = conjugate_gradient(
            lambda v: fisher(v) + shift * v, gradient, self.tolerance, self.iterations
        )
        return w, {"residual": residual, "iterations": count, "fallback": jnp.where(convex, 0, 2)}


def _centred(score: Score, rows: Float[Array, "n d"], a: Float[Array, " n"]) -> tuple[Array, Array]:
    """Rows and advantages less their means over the rollouts: the least-squares fit of a constant absorbs those."""
    weight = score.counted.astype(rows.dtype)
    a = jnp.where(score.counted, a, 0.0)
    return weight[:, None] * (rows - rows.sum(0) / score.count), weight * (a - a.sum() / score.count)


def conjugate_gradient(
    product: Product, b: Float[Array, " d"], tolerance: float, iterations: int
) -> tuple[Float[Array, " d"], Array, Array, Array]:
    """Solve A x = b for symmetric positive definite A (Hestenes & Stiefel 1952), from x = 0.

    Iteration i shortens the squared error in the norm of A by a known amount, so the last few amounts estimate how
    large it was before them (Strakoš & Tichý 2002); it was too small by half for a condition of 1e4 without damping.
    JAX's own solver forms A(0) first; compiled around a Jacobian product, XLA gave that as NaN or garbage on CPUs.

    Args:
        product: v → A v.
        b: right-hand side.
        tolerance: relative error in the norm of A, as it was `DELAY` iterations ago, that ends it.
        iterations: at most this many.

    Returns:
        x, its relative residual, the iterations made, and whether A was positive along each of them; an iteration where
        it was not is the last, and is left out of x.
    """
    target = jnp.sum(b * b)

    def unsolved(carry: PyTree) -> Array:
        _, _, _, squared, count, total, last, convex = carry
        rough = (count < DELAY) | (jnp.sum(last) > tolerance**2 * total)
        return rough & (squared > jnp.finfo(b.dtype).eps ** 2 * target) & (count < iterations) & convex

    def step(carry: PyTree) -> PyTree:
        x, r, p, squared, count, total, last, _ = carry
        moved = product(p)
        curvature = jnp.sum(p * moved)
        convex = curvature > 0
        length = jnp.where(convex, squared / jnp.where(convex, curvature, 1.0), 0.0)
        x, r = x + length * p, r - length * moved
        now = jnp.sum(r * r)
        gained = length * squared
        last = jnp.concatenate([last[1:], gained[None]])
        return x, r, r + now / squared * p, now, count + 1, total + gained, last, convex

    none = jnp.zeros((), b.dtype)
    start = (jnp.zeros_like(b), b, b, target, jnp.zeros((), int), none, jnp.zeros(DELAY, b.dtype), jnp.ones((), bool))
    x, _, _, squared, count, _, _, convex = jax.lax.while_loop(unsolved, step, start)
    relative = jnp.sqrt(squared / jnp.where(target > 0, target, 1.0))
    return x, relative, count, convex


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
