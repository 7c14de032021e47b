"""`diagnose`: how good each gradient estimator is at one policy, all with the same number of rollouts.

B batches of n rollouts each give estimates ĝ_b (d,). SNR = ‖∇J‖²/tr Cov(ĝ) of one batch; ‖∇J‖² is taken from the mean
of all batches, corrected for its own noise, so no closed form is needed. Each SNR is about its own estimand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax.numpy as jnp
import msgspec
import numpy as np
from jaxtyping import Array, Float

from policysearch import runners
from policysearch.core.controller import Controller
from policysearch.core.credit import CostToGo, TotalCost
from policysearch.core.direction import Euclidean, LeastSquares
from policysearch.core.explore import ActionNoise, Coordinates, ParameterNoise
from policysearch.core.initial import from_controller
from policysearch.core.method import Method, State
from policysearch.core.policies import Policy
from policysearch.core.rollouts import Rollouts
from policysearch.core.specification import FAILED, LOST, Specification
from policysearch.core.step import LearningRate
from policysearch.methods import start
from policysearch.methods.settings import GPOMDP, WeightPerturbation
from policysearch.search.evaluation import fit
from policysearch.tasks import resolve

if TYPE_CHECKING:
    from policysearch.tasks import AnyTask


#: batches, for simulators on worker processes and for other tasks
BATCHES, COMPILED_BATCHES = 16, 100
#: rollouts per batch
ROLLOUTS = 64
#: names of the variants that the advice looks for
BIASED, SHARED = "biased", "shared seeds"
#: estimator, variants in the order of preference, and baseline of the gradients that methods follow with their defaults
_PAIRS = ("weight_perturbation", (f"two-sided, {SHARED}", "two-sided"), "")
_FOLLOWED = {
    "reinforce": ("reinforce", ("",), "leave_one_out"),
    "enac": ("reinforce", ("",), "leave_one_out"),
    "gpomdp": ("gpomdp", ("",), "value"),
    "natural_gradient": ("gpomdp", ("",), "value"),
    "trpo": ("gpomdp", (BIASED, ""), "value"),
    "finite_differences": ("finite_differences", (SHARED, "central"), ""),
    **dict.fromkeys(("weight_perturbation", "ars", "pgpe"), _PAIRS),
}
#: largest number of parameters whose single errors are kept
COORDINATES = 100
#: completes a method that takes no step
UNUSED = LearningRate(1.0)
#: a ratio of two SNRs that is worth mentioning
WORTH = 1.5


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One estimator at one policy.

    Args:
        estimator, variant, baseline: what it is. space: "action" or "parameter".
        rollouts: per batch. batches: how many were compared.
        snr: signal-to-noise ratio of one batch, corrected for bias; below 0 if no signal was seen.
        snr_error: its standard error, by jackknife over batches.
        cosine: between the estimates of two independent batches, on average.
        norm, norm_error: ‖∇J‖ and the standard error √tr Cov of one batch, in cost units per unit of θ.
        errors: of each coordinate, (d,), for up to `COORDINATES` of them; else empty.
    """

    estimator: str
    variant: str
    baseline: str
    space: str
    rollouts: int
    batches: int
    snr: float
    snr_error: float
    cosine: float
    norm: float
    norm_error: float
    errors: tuple[float, ...] = ()

    @property
    def label(self) -> str:
        """Estimator, variant and baseline together."""
        baseline = self.baseline and f"baseline {self.baseline}"
        return ", ".join(filter(None, (self.estimator, self.variant, baseline)))

    @property
    def least(self) -> int:
        """Rollouts of the smallest batch: a pair; for finite differences a step along each coordinate and back."""
        return 2 * max(1, len(self.errors)) if self.estimator == "finite_differences" else 2

    def needed(self, snr: float = 1.0) -> float:
        """Rollouts for an SNR; infinite if no signal was seen."""
        return self.rollouts * snr / self.snr if self.snr > 0 else math.inf


def catalogue(specification: Specification, policy: Policy, rollouts: int) -> dict[tuple[str, str, str], Method]:
    """(estimator, variant, baseline) → a method with about so many rollouts, for every estimator that suits a task."""
    found: dict[tuple[str, str, str], Method] = {}
    if specification.action is not None and policy.stochastic:
        noise = ActionNoise(rollouts)
        for baseline in ("none", "leave_one_out"):
            found["reinforce", "", baseline] = Method(noise, TotalCost(baseline), Euclidean(), UNUSED)
        for baseline in ("none", "leave_one_out", "value"):
            found["gpomdp", "", baseline] = Method(noise, CostToGo(baseline), Euclidean(), UNUSED)
        problem = start.problem(specification, policy, "action")._replace(biased=True)
        if problem.ahead:
            credit = CostToGo("value", discounting=(problem.discount, problem.gae_lambda), bootstrap=True)
            variant = f"γ {problem.discount:.4g}, λ {problem.gae_lambda:g}, {BIASED}"
            found["gpomdp", variant, "value"] = Method(noise, credit, Euclidean(), UNUSED)
    problem = start.problem(specification, policy, "parameter")
    std, d = problem.effect, problem.d
    shared = [True, False] if problem.common and not specification.deterministic else [problem.common]
    one = ParameterNoise(rollouts, std, two_sided=False, common=False)
    found["weight_perturbation", "one-sided", "none"] = Method(one, TotalCost("none"), Euclidean(), UNUSED)
    found["weight_perturbation", "one-sided", "leave_one_out"] = Method(
        one, TotalCost("leave_one_out"), Euclidean(), UNUSED
    )
    for common in shared:
        variant = "two-sided" + (f", {SHARED}" if common and len(shared) > 1 else "")
        pairs = ParameterNoise(max(1, rollouts // 2), std, two_sided=True, common=common)
        found["weight_perturbation", variant, ""] = Method(pairs, TotalCost("none"), Euclidean(), UNUSED)
        if 2 * d <= rollouts:
            central = Coordinates(std, True, common, rollouts // (2 * d))
            variant = variant.replace("two-sided", "central")
            found["finite_differences", variant, ""] = Method(central, TotalCost("none"), LeastSquares(), UNUSED)
    return found


def diagnose(
    task: AnyTask | str,
    policy: Any = None,
    *,
    methods: Mapping[tuple[str, str, str], Method] | None = None,
    rollouts: int = ROLLOUTS,
    batches: int | None = None,
    seed: int = 0,
    workers: int | None = None,
    on_row: Callable[[Row], None] | None = None,
) -> list[Row]:
    """Measure the gradient estimators of a task at one policy.

    Args:
        task: as `Search` takes it; not a bare specification.
        policy: a `Policy` or a `Controller`, settings, or None for where a search would start.
        methods: by (estimator, variant, baseline), whose gradients are compared, whatever their steps; None for all.
        rollouts: per batch; finite differences take as many whole sets as fit, if any.
        batches: per estimator, at least 4; None for 16 on a Gymnasium task, else 100.
        seed: of everything random; estimators that explore alike see the same rollouts.
        workers: processes for Gymnasium tasks.
        on_row: called with each row as soon as it is known.

    Returns:
        One row per estimator, the highest SNR first.

    Raises:
        ValueError: too few batches or rollouts, or a policy that does not fit.

    Example:
        >>> rows = diagnose("bowl", rollouts=32, batches=10)
        >>> rows[0].estimator  # nothing is random there, so differences have no noise
        'finite_differences'
    """
    if (batches is not None and batches < 4) or rollouts < 2:
        raise ValueError(f"{batches} batches of {rollouts} rollouts: give at least 4 batches of 2 rollouts.")
    plant: Any = resolve(task)
    if getattr(plant, "survival_bonus", 0.0) is None:
        plant = plant.with_survival_bonus(0.0)
    specification: Specification = plant.specification
    if isinstance(policy, Controller):
        fit(specification, policy)
        policy = from_controller(policy)
    # the kind of policy that methods which sample actions start from, in both spaces
    sampling = GPOMDP() if specification.action is not None else WeightPerturbation()
    at = start.policy_of(plant, policy, sampling, seed)
    if methods is None:
        methods = catalogue(specification, at, rollouts)
    rows = []
    runner = runners.runner(plant, seed, runners.Resources(workers))
    count = batches or (BATCHES if runner.slow else COMPILED_BATCHES)
    try:
        for (estimator, variant, baseline), method in methods.items():
            plain = eqx.tree_at(lambda m: m.step, method, UNUSED)
            estimates = _estimates(runner, plain, at, specification.draws, count)
            row = _row((estimator, variant, baseline), plain, at, estimates)
            rows.append(row)
            if on_row is not None:
                on_row(row)
    finally:
        runner.close()
    return sorted(rows, key=lambda row: -row.snr)


def _estimates(runner: Any, method: Method, policy: Policy, horizon: int, batches: int) -> Float[np.ndarray, "B d"]:
    state, found = method.init(policy, horizon), []
    # a baseline that is carried from update to update starts from a batch used for nothing else
    for _ in range(batches + 1):
        offsets, rollouts = runner.sample(method, state)
        direction, state, usable = _estimate(method, state, offsets, rollouts)
        if not usable:
            ends = np.asarray(rollouts.outcome)
            failed, lost = np.sum(ends == FAILED), np.sum(ends == LOST)
            raise ValueError(f"A batch had no usable trial ({failed} failed, {lost} lost).")
        found.append(np.asarray(direction, np.float64))
    return np.stack(found[1:])


@eqx.filter_jit
def _estimate(method: Method, state: State, offsets: Array | None, rollouts: Rollouts) -> tuple[Array, State, Array]:
    """The direction of an update, the state after it at the same policy, and whether any trial counts."""
    estimate = method.estimate(state, offsets, rollouts)
    after = State(state.policy, state.explore, estimate.credit, state.step, state.update + 1)
    usable = jnp.all(jnp.isfinite(estimate.direction)) & jnp.any(estimate.score.counted)
    return estimate.direction, after, usable


def _row(words: tuple[str, str, str], method: Method, policy: Policy, estimates: Float[np.ndarray, "B d"]) -> Row:
    B = len(estimates)
    total, squares = estimates.sum(0), (estimates**2).sum(1)

    def ratio(n: int, total: np.ndarray, squared: float) -> tuple[float, float]:
        """SNR of one batch and the trace of its covariance, from n batches of this sum and sum of squares."""
        mean = total / n
        noise = (squared - n * float(mean @ mean)) / (n - 1)
        power = float(mean @ mean) - noise / n
        return (power / noise if noise > 1e-12 * float(mean @ mean) else math.inf), noise

    snr, noise = ratio(B, total, float(squares.sum()))
    rest = float(squares.sum()) - squares
    left = np.array([ratio(B - 1, total - g, float(s))[0] for g, s in zip(estimates, rest, strict=True)])
    error = math.sqrt((B - 1) / B * float(np.sum((left - left.mean()) ** 2))) if np.all(np.isfinite(left)) else 0.0
    units = estimates / np.maximum(np.sqrt(squares), 1e-300)[:, None]
    mean = total / B
    return Row(
        estimator=words[0],
        variant=words[1],
        baseline=words[2],
        space=method.space,
        rollouts=method.layout(policy).size,
        batches=B,
        snr=snr,
        snr_error=error,
        cosine=float((np.sum(units.sum(0) ** 2) - B) / (B * (B - 1))),
        norm=math.sqrt(max(float(mean @ mean) - noise / B, 0.0)),
        norm_error=math.sqrt(max(noise, 0.0)),
        errors=tuple(estimates.std(0, ddof=1).tolist()) if estimates.shape[1] <= COORDINATES else (),
    )


def nearest(rows: Sequence[Row], method: str) -> Row | None:
    """The row whose gradient a named method follows with its defaults, or comes closest to; None without one.

    Args:
        rows: from `diagnose` with all estimators.
        method: such as "trpo", which like the natural gradient turns the gradient of gpomdp.
    """
    estimator, variants, baseline = _FOLLOWED.get(method, (method, ("",), ""))
    for variant in variants:
        for row in rows:
            fits = variant in row.variant if variant else not row.variant
            if fits and row.estimator == estimator and row.baseline == baseline:
                return row
    return None


def advice(rows: Sequence[Row]) -> list[str]:
    """What to do about it, in sentences.

    Args:
        rows: from `diagnose`.
    """
    honest = [row for row in rows if BIASED not in row.variant]
    best = max(honest or rows, key=lambda row: row.snr)
    if best.snr <= 2 * best.snr_error and math.isfinite(best.snr):
        return ["No estimator shows a signal here: the policy may be at an optimum, or every rollout ends alike."]
    said = [f"Clearest: {best.label}, with an SNR of {_number(best.snr)} from {best.rollouts} rollouts."]
    if best.snr < 1:
        said.append(
            f"More noise than signal: use {_number(1 / best.snr)} times the rollouts ({_number(best.needed())}) for an "
            "SNR of 1, or steps that average over many updates."
        )
    elif 4 < best.snr < math.inf and (enough := max(math.ceil(best.needed(2)), best.least)) < best.rollouts:
        said.append(f"Fewer rollouts would do: {enough} give an SNR of 2 or more.")
    biased = [row for row in rows if BIASED in row.variant and row.snr > WORTH * best.snr]
    if biased:
        said.append(
            f"{biased[0].label}: {_number(biased[0].snr / best.snr)} times that SNR, because it estimates a different "
            "gradient, that of nearer costs; if those mislead, so does it."
        )
    for space, what in (("action", "varies actions"), ("parameter", "varies parameters")):
        inside = [row for row in honest if row.space == space]
        if inside and best.space != space:
            other = max(inside, key=lambda row: row.snr)
            said.append(
                f"Best that {what}: {other.label}, SNR {_number(other.snr)} ({_number(other.needed())} rollouts for 1)."
            )
    for name in ("weight_perturbation", "finite_differences"):
        shared = {SHARED in row.variant: row for row in rows if row.estimator == name and "one" not in row.variant}
        if len(shared) == 2 and 0 < WORTH * shared[False].snr < shared[True].snr:
            times = shared[True].snr / shared[False].snr
            said.append(f"Seeds that partners share are worth {_number(times)} times the rollouts of {name}.")
    plain = {row.baseline: row for row in honest if row.estimator == "gpomdp"}
    if {"none", "value"} <= plain.keys() and 0 < WORTH * plain["none"].snr < plain["value"].snr:
        times = plain["value"].snr / plain["none"].snr
        said.append(f"The value baseline is worth {_number(times)} times the rollouts of gpomdp.")
    return said


def _number(value: float) -> str:
    return f"{value:.0f}" if 100 <= value < math.inf else f"{value:.2g}"
