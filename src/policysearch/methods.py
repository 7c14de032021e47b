"""The named methods: each is explore + credit + direction + step, with defaults by `defaults.Problem`.

method               explore                    credit                     direction       step
finite_differences   coordinates                difference to g(θ)         least squares   learning rate
weight_perturbation  parameter noise            baseline                   euclidean       learning rate
ars                  parameter noise, ±         best pairs ÷ their spread  euclidean       learning rate
reinforce            action noise               total cost − baseline      euclidean       KL step
gpomdp               action noise               cost-to-go − baseline      euclidean       KL step
natural_gradient     action noise               cost-to-go − baseline      natural         KL step
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from policysearch import settings
from policysearch.credit import CostToGo, TopPairs, TotalCost
from policysearch.defaults import Problem
from policysearch.direction import Euclidean, LeastSquares, Natural
from policysearch.explore import ActionNoise, Coordinates, ParameterNoise
from policysearch.method import Method
from policysearch.step import KLStep, LearningRate, Step


def finite_differences(given: settings.FiniteDifferences, problem: Problem) -> Method:
    """Forward or central differences (18.18): d + 1 or 2d rollouts a repeat."""
    step = given.step or problem.effect
    rate = given.learning_rate
    return Method(
        Coordinates(step, given.central, _either(given.common_random_numbers, problem.common), given.repeats),
        TotalCost("none" if given.central else "reference", normalise=rate is None),
        LeastSquares(),
        LearningRate(given.trust * step**2 if rate is None else rate),
    )


def weight_perturbation(given: settings.WeightPerturbation, problem: Problem) -> Method:
    """Random perturbations with a baseline (18.20, 18.24), one- or two-sided."""
    std = given.std or problem.effect
    sides = 2 if given.two_sided else 1
    rollouts = given.rollouts or 2 * problem.directions
    if rollouts % sides:
        raise ValueError(f"rollouts is {rollouts}; two-sided perturbations come in pairs, so ask for an even number.")
    baseline = given.baseline or ("none" if given.two_sided else "leave_one_out")
    common = _either(given.common_random_numbers, problem.common)
    rate = given.learning_rate
    # one reference serves all where nothing is random; else each β is compared on its own seed
    each = common and not problem.specification.deterministic
    reference = "none" if baseline != "reference" else ("each" if each else "one")
    return Method(
        ParameterNoise(rollouts // sides, std, given.shape, given.two_sided, common, reference),
        TotalCost(baseline, normalise=rate is None),
        Euclidean(),
        LearningRate(given.step * std**2 if rate is None else rate),
    )


def ars(given: settings.ARS, problem: Problem) -> Method:
    """Augmented random search; its α/(b σ_R) Σ (r⁺ − r⁻) δ is 2ασ times Sᵀa/n."""
    directions = given.directions or problem.directions
    std = given.std or problem.effect
    step = given.step or 0.7 * std
    top = given.top or -(-directions // 2)
    if top > directions:
        raise ValueError(f"top is {top} of {directions} directions; ask for at most as many as there are.")
    return Method(
        ParameterNoise(directions, std, "gaussian", True, _either(given.common_random_numbers, problem.common)),
        TopPairs(top),
        Euclidean(),
        LearningRate(2 * step * std),
    )


def reinforce(given: settings.Reinforce, problem: Problem) -> Method:
    """Total cost of the rollout times the sum of its scores."""
    return Method(
        ActionNoise(given.rollouts or problem.rollouts),
        TotalCost(given.baseline),
        Euclidean(),
        _action_step(given, problem),
    )


def gpomdp(given: settings.GPOMDP, problem: Problem) -> Method:
    """Each score times the cost that follows it."""
    return Method(
        ActionNoise(given.rollouts or problem.rollouts),
        CostToGo(given.baseline),
        Euclidean(),
        _action_step(given, problem),
    )


def natural_gradient(given: settings.NaturalGradient, problem: Problem) -> Method:
    """S⁺a, stepped by KL."""
    return Method(
        ActionNoise(given.rollouts or problem.rollouts),
        CostToGo(given.baseline),
        Natural(given.cutoff, _either(given.damping, problem.damping), given.solver),
        _action_step(given, problem),
    )


FACTORIES: dict[str, Callable[[Any, Problem], Method]] = {
    "finite_differences": finite_differences,
    "weight_perturbation": weight_perturbation,
    "ars": ars,
    "reinforce": reinforce,
    "gpomdp": gpomdp,
    "natural_gradient": natural_gradient,
}

#: methods that vary parameters; the others vary actions
PARAMETER_SPACE = frozenset({"finite_differences", "weight_perturbation", "ars"})


def build(given: settings.Settings, problem: Problem) -> Method:
    """The method that settings describe."""
    return FACTORIES[given.label()](given, problem)


def _action_step(given: Any, problem: Problem) -> Step:
    rate = getattr(given, "learning_rate", None)
    if rate is not None:
        return LearningRate(rate)
    return KLStep(given.kl or problem.kl, memory=problem.memory)


def _either(value: Any, default: Any) -> Any:
    return default if value is None else value
