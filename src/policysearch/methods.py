"""The named methods: each is explore + credit + direction + step, with defaults by `defaults.Problem`.

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
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import msgspec
import numpy as np

from policysearch import settings
from policysearch.credit import PREDICTING, CostToGo, Elites, Saturation, TopPairs, TotalCost
from policysearch.defaults import Problem
from policysearch.direction import Euclidean, LeastSquares, Natural
from policysearch.explore import MOST, ActionNoise, Coordinates, ParameterNoise
from policysearch.method import Method
from policysearch.specification import Continuous, Specification
from policysearch.step import KLStep, LearningRate, Refit, Step


def finite_differences(given: settings.FiniteDifferences, problem: Problem) -> Method:
    """Forward or central differences (18.18): d + 1 or 2d rollouts a repeat."""
    step = given.step or problem.effect
    rate = given.learning_rate
    repeats = given.repeats or (1 if problem.specification.deterministic else 2)
    return Method(
        Coordinates(step, given.central, _either(given.common_random_numbers, problem.common), repeats),
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
    top = given.top or (-(-directions // 2) if given.version.endswith("-t") else directions)
    if top > directions:
        raise ValueError(f"top is {top} of {directions} directions; ask for at most as many as there are.")
    return Method(
        ParameterNoise(directions, std, given.shape, True, _either(given.common_random_numbers, problem.common)),
        TopPairs(top),
        Euclidean(),
        LearningRate(2 * step * std),
    )


def pgpe(given: settings.PGPE, problem: Problem) -> Method:
    """Gradients of the search distribution's own mean and spread, along its exact natural direction."""
    directions = given.directions or problem.directions
    std, common = given.std or problem.effect, _either(given.common_random_numbers, problem.common)
    rates = np.repeat([given.step, given.std_step or 1e-30], problem.d)
    return Method(
        ParameterNoise(directions, std, "gaussian", True, common, learned=True),
        TotalCost("leave_one_out", normalise=True),
        Natural(fisher="analytic"),
        LearningRate(rates),
    )


def cem(given: settings.CEM, problem: Problem) -> Method:
    """The best rollouts become the next search distribution."""
    rollouts = given.rollouts or 4 * problem.directions
    std = given.std or 3 * problem.effect
    return Method(
        ParameterNoise(rollouts, std, "gaussian", False, learned=True),
        Elites(max(2, round(given.elites * rollouts))),
        Natural(fisher="analytic"),
        Refit(given.smoothing, given.extra, given.extra_updates),
    )


def reinforce(given: settings.Reinforce, problem: Problem) -> Method:
    """Total cost of the rollout times the sum of its scores."""
    return Method(
        _action_noise(given, problem),
        TotalCost(given.baseline),
        Euclidean(),
        _action_step(given, problem),
    )


def gpomdp(given: settings.GPOMDP, problem: Problem) -> Method:
    """Each score times the cost that follows it."""
    return Method(
        _action_noise(given, problem),
        _cost_to_go(given, problem),
        Euclidean(),
        _action_step(given, problem),
    )


def natural_gradient(given: settings.NaturalGradient, problem: Problem) -> Method:
    """S⁺a, stepped by KL."""
    damping, fisher, solver = _either(given.damping, problem.damping), given.fisher or problem.fisher, given.solver
    if solver == "auto" and fisher == "analytic" and damping and given.cutoff is None and problem.d > DECOMPOSED:
        solver = "conjugate_gradient"
    return Method(
        _action_noise(given, problem),
        _cost_to_go(given, problem),
        Natural(given.cutoff, damping, solver, fisher),
        _action_step(given, problem),
    )


def trpo(given: settings.TRPO, problem: Problem) -> Method:
    """The natural gradient, each step of it tried on the samples before it is taken."""
    problem = problem._replace(biased=True)
    plain = natural_gradient(given, problem)
    return eqx.tree_at(lambda method: method.step, plain, _action_step(given, problem, line_search=True))


def enac(given: settings.ENAC, problem: Problem) -> Method:
    """Total costs regressed on whole rollouts' scores and a constant.

    The constant makes any baseline void; the one here is for what is reported of the gradient.
    """
    return Method(
        _action_noise(given, problem),
        TotalCost("leave_one_out"),
        Natural(given.cutoff, given.damping or 0.0, intercept=True),
        _action_step(given, problem),
    )


FACTORIES: dict[str, Callable[[Any, Problem], Method]] = {
    "finite_differences": finite_differences,
    "weight_perturbation": weight_perturbation,
    "ars": ars,
    "pgpe": pgpe,
    "cem": cem,
    "reinforce": reinforce,
    "gpomdp": gpomdp,
    "natural_gradient": natural_gradient,
    "trpo": trpo,
    "enac": enac,
}

#: parameters from which on a damped analytic Fisher matrix is not decomposed: conjugate gradients take less time
DECOMPOSED = 64
#: about how many rollouts the first update on a simulator has that is to take so many stages, and the fewest of any
FIRST, LEAST = 16, 4
#: updates that a shrinking step looks back on: about 1/(1 − memory)
SHRINK_MEMORY = 0.8

#: methods that vary parameters; the others vary actions
PARAMETER_SPACE = frozenset({"finite_differences", "weight_perturbation", "ars", "pgpe", "cem"})


def build(given: settings.Settings, problem: Problem) -> Method:
    """The method that settings describe."""
    return FACTORIES[given.label()](given, problem)


def resolved(given: settings.Settings | Method, method: Method, problem: Problem) -> dict[str, Any]:
    """Every number that the search uses, for the record."""
    chosen = {} if isinstance(given, Method) else msgspec.structs.asdict(given)
    chosen["parameters"] = problem.d
    for part in (method.explore, method.credit, method.direction, method.step):
        for name, value in vars(part).items():
            if isinstance(value, (bool, int, float, str)):
                chosen[name] = value
            elif isinstance(value, (jax.Array, np.ndarray)) and value.ndim == 0:
                # float32 read as float64 would show digits that nobody chose
                chosen[name] = float(f"{float(value):.7g}")
    return chosen


def _action_noise(given: settings.SampledActions, problem: Problem) -> ActionNoise:
    if given.rollouts and given.stages:
        raise ValueError(
            f"rollouts is {given.rollouts} and stages is {given.stages}; set one of them, the other follows from it."
        )
    if given.rollouts:
        return ActionNoise(given.rollouts)
    if stages := given.stages or problem.stages:
        horizon = problem.specification.draws
        least = int(np.clip(math.ceil(stages / horizon), LEAST, MOST))
        # nobody knows how early the first rollouts of a simulator end; all others last to the horizon
        length = stages / FIRST if problem.specification.reward else horizon
        return ActionNoise(least, stages, least).sized(length)
    return ActionNoise(problem.rollouts)


def _cost_to_go(given: settings.Advantages, problem: Problem) -> CostToGo:
    baseline = given.baseline or problem.baseline
    predicting = baseline in PREDICTING
    if given.gae_lambda not in (None, 1.0) and not predicting:
        raise ValueError(
            f"gae_lambda is {given.gae_lambda} with baseline {baseline}; it needs the baseline "
            f"{' or '.join(PREDICTING)}."
        )
    discount = given.discount or problem.discount
    gae_lambda = given.gae_lambda or (problem.gae_lambda if predicting else 1.0)
    biased = problem.biased or problem.specification.reward
    bootstrap = _either(given.bootstrap, biased and discount < 1 and predicting)
    plain = discount == 1 and gae_lambda == 1 and not bootstrap
    return CostToGo(
        baseline,
        discounting=None if plain else (discount, gae_lambda),
        bootstrap=bootstrap,
        saturation=_saturation(given.saturation, problem.specification) if given.saturation else None,
    )


def _saturation(weight: float, specification: Specification) -> Saturation:
    action = specification.action
    if not isinstance(action, Continuous) or not np.isfinite([*action.low, *action.high]).all():
        raise ValueError(
            f"saturation is {weight:g}; it charges for action beyond its limits, and {specification.name} has none "
            "with two limits each: leave it 0."
        )
    half = np.asarray(action.half_range)
    return Saturation(weight, np.asarray(action.centre), half, specification.discount)


def _action_step(given: settings.SampledActions, problem: Problem, line_search: bool = False) -> Step:
    if given.learning_rate is not None:
        if line_search:
            raise ValueError("A line search shortens the step that kl gives; learning_rate leaves nothing to shorten.")
        return LearningRate(given.learning_rate)
    memory = SHRINK_MEMORY if _either(given.shrink, problem.shrink) else None
    settle = math.inf if given.settle is None else float(given.settle)
    return KLStep(given.kl or problem.kl, memory=memory, settle=settle, line_search=line_search)


def _either(value: Any, default: Any) -> Any:
    return default if value is None else value
