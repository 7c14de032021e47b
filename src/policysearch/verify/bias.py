"""Measures the bias of gradient estimates: many batches of a method on a problem, against its estimand.

B batches, d parameters. z_j = (mean estimate − estimand)_j / standard error_j; `Method.estimate` runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import equinox as eqx
import jax
import msgspec
import numpy as np
import scipy.stats
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from policysearch.core import baselines
from policysearch.core.credit import CostToGo, TotalCost
from policysearch.core.direction import Euclidean, LeastSquares
from policysearch.core.explore import ActionNoise, Coordinates, Explore, ParameterNoise
from policysearch.core.method import Method, State
from policysearch.core.policies import Policy
from policysearch.core.rollouts import Rollouts
from policysearch.core.step import LearningRate
from policysearch.runners import native
from policysearch.tasks.task import Function, Task
from policysearch.verify.closed_forms import Problem, estimand

if TYPE_CHECKING:
    pass


#: rollouts per batch, so few that a bias of 1/n shows
ROLLOUTS = 10
#: fewest and most batches per row; batches held in memory at a time, also those of a pilot
LEAST, MOST, CHUNK = 10_000, 400_000, 2_000
#: target and largest standard error, as a share of the gradient's norm; largest |z|
WANTED, LOOSEST, FARTHEST = 0.017, 0.02, 4.0
#: rounding in float32, as a share of the gradient's norm
ROUNDING = 1e-5


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One method on one problem.

    Args:
        problem, method, variant, baseline: what was checked.
        estimand: what the mean must be, in words.
        batches: how many were averaged.
        z: bias in standard errors, (d,).
        names: of the d parameters.
        bias, error: largest |bias| and standard error (root of the summed squares), as shares of the gradient's norm.
        probability: of so large a χ², over all coordinates together, if there is no bias.
        snr: signal-to-noise ratio of one batch, ‖∇J‖²/tr Cov.
        cosine: mean cosine between one batch's estimate and the estimand.
    """

    problem: str
    method: str
    variant: str
    baseline: str
    estimand: str
    batches: int
    names: list[str]
    z: list[float]
    bias: float
    error: float
    probability: float
    snr: float
    cosine: float

    @property
    def worst(self) -> float:
        """Largest |z|."""
        return max(abs(value) for value in self.z)

    @property
    def complaint(self) -> str:
        """What is wrong, in words; "" if nothing is."""
        label = " ".join(filter(None, (self.method, self.variant, self.baseline)))
        if not self.error <= LOOSEST:
            return (
                f"{label} on {self.problem}: the standard error is {100 * self.error:.2g} % of the gradient after "
                f"{self.batches} batches, more than {100 * LOOSEST:g} %, so a bias could be missed. Run more batches."
            )
        if not self.worst <= FARTHEST:
            name = self.names[int(np.argmax(np.abs(self.z)))]
            return (
                f"{label} on {self.problem}: {name} is biased by {self.worst:.1f} standard errors against the "
                f"{self.estimand}, {100 * self.bias:.2g} % of the gradient's norm."
            )
        return ""


def catalogue(problem: Problem) -> dict[tuple[str, str, str], Method]:
    """(method, variant, baseline) → a method, for every estimator whose expectation on the problem is known."""
    found: dict[tuple[str, str, str], Method] = {}
    gradient, rate = Euclidean(), LearningRate(1.0)
    if "action" in problem.spaces:
        noise = ActionNoise(ROLLOUTS)
        for baseline in baselines.serving("total"):
            if baseline != "reference":
                found["reinforce", "", baseline] = Method(noise, TotalCost(baseline), gradient, rate)
        for baseline in baselines.serving("to_go"):
            found["gpomdp", "", baseline] = Method(noise, CostToGo(baseline), gradient, rate)
    for shape in problem.shapes:
        # all laws one-sided, where an asymmetric one would show; the Gaussian with all baselines
        for baseline in baselines.serving("total") if shape == "gaussian" else ("leave_one_out",):
            reference = "each" if baseline == "reference" else "none"
            one = ParameterNoise(ROLLOUTS, problem.std, shape, two_sided=False, reference=reference)
            found["weight_perturbation", f"{shape}, one-sided", baseline] = Method(
                one, TotalCost(baseline), gradient, rate
            )
        if shape == "gaussian":
            two = ParameterNoise(ROLLOUTS // 2, problem.std, shape)
            found["weight_perturbation", f"{shape}, two-sided", "none"] = Method(two, TotalCost("none"), gradient, rate)
    if problem.smooth:
        for central, baseline in ((True, "none"), (False, "reference")):
            differences = Coordinates(problem.epsilon, central)
            found["finite_differences", "central" if central else "forward", baseline] = Method(
                differences, TotalCost(baseline), LeastSquares(), rate
            )
    return found


def measure(
    problem: Problem,
    methods: Mapping[tuple[str, str, str], Method],
    batches: int | None = None,
    seed: int = 0,
    scale: float = 1.0,
) -> Iterator[Row]:
    """One row per method; methods that explore alike learn from the same rollouts.

    Args:
        problem: with its closed forms.
        methods: by (method, variant, baseline); the gradient of each is checked, whatever its step.
        batches: how many; None for as many as a pilot run requires, at least `LEAST`.
        seed: of all random numbers.
        scale: factor on every estimate, to see whether a wrong one is detected.

    Raises:
        ValueError: a direction that is not a gradient, or a credit without a known expectation.
    """
    groups: dict[object, dict[tuple[str, str, str], Method]] = {}
    for label, method in methods.items():
        if not isinstance(method.direction, (Euclidean, LeastSquares)):
            raise ValueError(
                f"A {type(method.direction).__name__} direction is not a gradient; check it with Euclidean()."
            )
        groups.setdefault(_alike(method.explore), {})[label] = method
    key = jax.random.key(seed)
    for group in groups.values():
        truths = {label: estimand(problem, method) for label, method in group.items()}
        yield from _group(problem, group, truths, batches, key, scale)


def _group(
    problem: Problem,
    methods: Mapping[tuple[str, str, str], Method],
    truths: Mapping[tuple[str, str, str], tuple[str, np.ndarray]],
    batches: int | None,
    key: PRNGKeyArray,
    scale: float,
) -> Iterator[Row]:
    """Rows for methods that explore the same way."""
    task, policy, first = problem.task, problem.policy, next(iter(methods.values()))
    pilot_key, key = jax.random.split(key)
    told = _told(task, first, policy, pilot_key, CHUNK)
    states, needed = {}, {}
    for label, method in methods.items():
        state = method.init(policy, task.specification.horizon)
        if jax.tree.leaves(state.credit):
            # a running baseline starts from a batch that is used for nothing else
            state = eqx.tree_at(lambda s: s.credit, state, _warmed(method, state, *jax.tree.map(lambda x: x[0], told)))
        spread = np.asarray(_estimates(method, state, *told), np.float64).std(0)
        wanted = (np.linalg.norm(spread) / np.linalg.norm(truths[label][1]) / WANTED) ** 2
        states[label], needed[label] = state, batches or int(np.clip(wanted, LEAST, MOST))
    collected: dict[tuple[str, str, str], list[np.ndarray]] = {label: [] for label in methods}
    for index in range(-(-max(needed.values()) // CHUNK)):
        told = _told(task, first, policy, jax.random.fold_in(key, index), CHUNK)
        for label, method in methods.items():
            missing = needed[label] - index * CHUNK
            if missing > 0:
                collected[label].append(np.asarray(_estimates(method, states[label], *told))[:missing])
    for label, method in methods.items():
        estimates = scale * np.concatenate(collected[label]).astype(np.float64)
        yield _row(problem, label, method, truths[label], estimates)


def _alike(explore: Explore) -> object:
    """A key that two explorers share if they make the same trials."""
    leaves, structure = jax.tree.flatten(explore)
    return structure, tuple(np.asarray(leaf).tobytes() for leaf in leaves)


@eqx.filter_jit
def _told(
    task: Task | Function, method: Method, policy: Policy, key: PRNGKeyArray, batches: int
) -> tuple[Array | None, Rollouts]:
    state = method.init(policy, 1)
    return jax.vmap(lambda k: native.batch(task, method, state, k))(jax.random.split(key, batches))


@eqx.filter_jit
def _warmed(method: Method, state: State, offsets: Array | None, rollouts: Rollouts) -> PyTree:
    return method.estimate(state, offsets, rollouts).credit


@eqx.filter_jit
def _estimates(method: Method, state: State, offsets: Array | None, rollouts: Rollouts) -> Float[Array, "B d"]:
    return jax.vmap(lambda offset, rollout: method.estimate(state, offset, rollout).direction)(offsets, rollouts)


def _row(
    problem: Problem,
    label: tuple[str, str, str],
    method: Method,
    truth: tuple[str, np.ndarray],
    estimates: Float[np.ndarray, "B d"],
) -> Row:
    words, exact = truth
    B, norm = len(estimates), float(np.linalg.norm(exact))
    bias = estimates.mean(0) - exact
    covariance = np.atleast_2d(np.cov(estimates.T)) / B + (ROUNDING * norm) ** 2 * np.eye(len(exact))
    z = bias / np.sqrt(np.diag(covariance))
    statistic = float(bias @ np.linalg.solve(covariance, bias))
    variance = float(estimates.var(0, ddof=1).sum())
    lengths = np.linalg.norm(estimates, axis=1) * norm
    name, variant, baseline = label
    return Row(
        problem=problem.name,
        method=name,
        variant=variant,
        baseline=baseline,
        estimand=words,
        batches=B,
        names=problem.policy.parameter_names(method.space),
        z=z.tolist(),
        bias=float(np.abs(bias).max()) / norm,
        error=float(np.sqrt(variance / B)) / norm,
        probability=float(scipy.stats.chi2.sf(statistic, len(exact))),
        snr=norm**2 / variance if variance > (ROUNDING * norm) ** 2 else float("inf"),
        cosine=float(np.mean(estimates @ exact / np.where(lengths > 0, lengths, 1.0))),
    )
