"""The named methods: each is explore + credit + direction + step, built from settings that leave nothing open.

method               explore                    credit                     direction       step
finite_differences   coordinates                difference to g(θ)         least squares   learning rate
weight_perturbation  parameter noise            baseline                   euclidean       learning rate
ars                  parameter noise, ±         best pairs ÷ their spread  euclidean       learning rate
pgpe                 parameter noise, learned   baseline ÷ their spread    natural         learning rate
cem                  parameter noise, learned   elites                     natural         refit
reinforce            action noise               total cost − baseline      euclidean       KL step
gpomdp               action noise               cost-to-go − baseline      euclidean       KL step
natural_gradient     action noise               cost-to-go − baseline      natural         KL step
trpo                 action noise               cost-to-go − baseline      natural         KL step, line search
enac                 action noise               total cost − baseline      natural, const  KL step
"""

from __future__ import annotations

import math
from typing import Any

import equinox as eqx
import numpy as np

from policysearch.core.credit import ActionLimitPenalty, CostToGo, Elites, TopPairs, TotalCost
from policysearch.core.direction import Euclidean, LeastSquares, Natural
from policysearch.core.explore import MOST, ActionNoise, Coordinates, ParameterNoise
from policysearch.core.method import Method
from policysearch.core.specification import Continuous, Specification
from policysearch.core.step import KLStep, LearningRate, Refit, Step
from policysearch.methods.rule import Problem
from policysearch.methods.settings import PREDICTING, MethodSettings

#: settings in which the rule left nothing open; the types of their fields cannot express that
Resolved = Any
#: about how many rollouts the first update on a simulator has that is to take so many stages, and the fewest of any
FIRST, LEAST = 16, 4
#: updates that a shrinking step looks back on: about 1/(1 − memory)
SHRINK_MEMORY = 0.8


def build(given: MethodSettings, problem: Problem) -> Method:
    """The method that settings describe; those left open are resolved first.

    Raises:
        ValueError: settings that do not go together.
    """
    method: Method = globals()[given.label()](given.resolved(problem), problem)
    return method


def finite_differences(given: Resolved, problem: Problem) -> Method:
    """Forward or central differences (18.18): d + 1 or 2d rollouts per repeat."""
    epsilon, rate = given.epsilon, given.learning_rate
    return Method(
        Coordinates(epsilon, given.central, given.common_random_numbers, given.repeats),
        TotalCost("none" if given.central else "reference", normalise=rate is None),
        LeastSquares(),
        LearningRate(given.step_size * epsilon**2 if rate is None else rate),
    )


def weight_perturbation(given: Resolved, problem: Problem) -> Method:
    """Random perturbations with a baseline (18.20, 18.24), one- or two-sided."""
    std, rate, rollouts = given.std, given.learning_rate, given.rollouts
    sides = 2 if given.two_sided else 1
    if rollouts % sides:
        raise ValueError(f"rollouts is {rollouts}; two-sided perturbations come in pairs, so give an even number.")
    baseline, common = given.baseline, given.common_random_numbers
    # one reference serves all if nothing is random; else each β is compared on its own seed
    each = common and not problem.specification.deterministic
    reference = "none" if baseline != "reference" else ("each" if each else "one")
    return Method(
        ParameterNoise(rollouts // sides, std, given.shape, given.two_sided, common, reference),
        TotalCost(baseline, normalise=rate is None),
        Euclidean(),
        LearningRate(given.step_size * std**2 if rate is None else rate),
    )


def ars(given: Resolved, problem: Problem) -> Method:
    """Augmented random search; its α/(b σ_R) Σ (r⁺ − r⁻) δ is 2ασ times Sᵀa/n."""
    if given.top > given.directions:
        raise ValueError(f"top is {given.top} of {given.directions} directions; give at most as many as there are.")
    return Method(
        ParameterNoise(given.directions, given.std, given.shape, True, given.common_random_numbers),
        TopPairs(given.top),
        Euclidean(),
        LearningRate(2 * given.step_size * given.std),
    )


def pgpe(given: Resolved, problem: Problem) -> Method:
    """Gradients of the search distribution's own mean and spread, along its exact natural direction."""
    rates = np.repeat([given.step_size, given.std_step_size or 1e-30], problem.d)
    return Method(
        ParameterNoise(given.directions, given.std, "gaussian", True, given.common_random_numbers, learned=True),
        TotalCost("leave_one_out", normalise=True),
        Natural(fisher="analytic"),
        LearningRate(rates),
    )


def cem(given: Resolved, problem: Problem) -> Method:
    """The best rollouts become the next search distribution."""
    return Method(
        ParameterNoise(given.rollouts, given.std, "gaussian", False, learned=True),
        Elites(max(2, round(given.elites * given.rollouts))),
        Natural(fisher="analytic"),
        Refit(given.smoothing, given.extra, given.extra_updates),
    )


def reinforce(given: Resolved, problem: Problem) -> Method:
    """Total cost of the rollout times the sum of its scores."""
    return Method(
        _action_noise(given, problem),
        TotalCost(given.baseline),
        Euclidean(),
        _action_step(given),
    )


def gpomdp(given: Resolved, problem: Problem) -> Method:
    """Each score times the cost that follows it."""
    return Method(
        _action_noise(given, problem),
        _cost_to_go(given, problem),
        Euclidean(),
        _action_step(given),
    )


def natural_gradient(given: Resolved, problem: Problem) -> Method:
    """S⁺a, with a KL step."""
    return Method(
        _action_noise(given, problem),
        _cost_to_go(given, problem),
        Natural(given.rcond, given.damping, given.solver, given.fisher),
        _action_step(given),
    )


def trpo(given: Resolved, problem: Problem) -> Method:
    """The natural gradient, with each step tried on the samples before it is taken."""
    plain = natural_gradient(given, problem)
    return eqx.tree_at(lambda method: method.step, plain, _action_step(given, line_search=True))


def enac(given: Resolved, problem: Problem) -> Method:
    """Total costs regressed on whole rollouts' scores and a constant.

    The constant makes any baseline redundant; the one here is for the gradient's reported quality.
    """
    return Method(
        _action_noise(given, problem),
        TotalCost("leave_one_out"),
        Natural(given.rcond, given.damping, intercept=True),
        _action_step(given),
    )


def _action_noise(given: Resolved, problem: Problem) -> ActionNoise:
    if given.rollouts and given.stages:
        raise ValueError(
            f"rollouts is {given.rollouts} and stages is {given.stages}; set one of them, the other follows from it."
        )
    if given.rollouts:
        return ActionNoise(given.rollouts)
    stages, horizon = given.stages, problem.specification.draws
    least = int(np.clip(math.ceil(stages / horizon), LEAST, MOST))
    # how early the first rollouts of a simulator end is unknown; all others last to the horizon
    length = stages / FIRST if problem.specification.ends_early else horizon
    return ActionNoise(least, stages, least).sized(length)


def _cost_to_go(given: Resolved, problem: Problem) -> CostToGo:
    baseline, discount, gae_lambda = given.baseline, given.discount, given.gae_lambda
    if gae_lambda != 1 and baseline not in PREDICTING:
        raise ValueError(
            f"gae_lambda is {gae_lambda} with baseline {baseline}; it needs the baseline {' or '.join(PREDICTING)}."
        )
    plain = discount == 1 and gae_lambda == 1 and not given.bootstrap
    return CostToGo(
        baseline,
        discounting=None if plain else (discount, gae_lambda),
        bootstrap=given.bootstrap,
        action_limit_penalty=_action_limit_penalty(given.action_limit_penalty, problem.specification)
        if given.action_limit_penalty
        else None,
    )


def _action_limit_penalty(weight: float, specification: Specification) -> ActionLimitPenalty:
    action = specification.action
    if not isinstance(action, Continuous) or not np.isfinite([*action.low, *action.high]).all():
        raise ValueError(
            f"action_limit_penalty is {weight:g}; it charges for actions beyond their limits, and "
            f"{specification.name} has none with two limits each: leave it at 0."
        )
    half = np.asarray(action.half_range)
    return ActionLimitPenalty(weight, np.asarray(action.centre), half, specification.discount)


def _action_step(given: Resolved, line_search: bool = False) -> Step:
    if given.learning_rate is not None:
        if line_search:
            raise ValueError("A line search shortens the step set by max_kl; learning_rate leaves nothing to shorten.")
        return LearningRate(given.learning_rate)
    memory = SHRINK_MEMORY if given.shrink else None
    step_decay = math.inf if given.step_decay is None else float(given.step_decay)
    return KLStep(given.max_kl, memory=memory, step_decay=step_decay, line_search=line_search)
