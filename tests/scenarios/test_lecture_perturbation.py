"""One test an equation, (18.17) to (18.28): perturbed parameters; see `docs/lecture.md`.

Statistical claims use fixed seeds and five standard errors of every coordinate.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_lecture import composed, within

from policysearch import train
from policysearch.core.baselines.running import Running
from policysearch.core.credit import TotalCost
from policysearch.core.distributions import Gaussian
from policysearch.core.explore import ParameterNoise
from policysearch.core.likelihood_ratio import likelihood_ratio_gradient
from policysearch.core.policies import Parameters
from policysearch.core.quality import measure
from policysearch.core.rng import SHAPES, shape_rows
from policysearch.core.rollouts import OK, Rollouts
from policysearch.core.score import PerturbationScore
from policysearch.core.specification import Specification
from policysearch.core.step import Estimate, LearningRate
from policysearch.methods.settings import FiniteDifferences, WeightPerturbation
from policysearch.methods.start import problem
from policysearch.methods.table import build
from policysearch.runners import native
from policysearch.tasks.functions import Bowl
from policysearch.tasks.task import Function
from policysearch.verify import closed_forms

#: what a step does not look at: direction, groups, rollouts, credit, info
REST = (None, None, None, (), {})

KEY = jax.random.key(18)


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def slope(error, small=1e-2):
    """The power of the step size with which an error shrinks."""
    return np.log2(error(small) / error(small / 2))


def told(method, values, costs, offsets):
    """θ after one update, from the costs of perturbed trials."""
    policy = Parameters([f"x{i}" for i in range(len(values))], values)
    n = len(costs)
    rollouts = Rollouts(jnp.asarray(costs)[:, None], jnp.ones((n, 1), bool), jnp.full(n, OK))
    state, _ = eqx.filter_jit(method.tell)(method.init(policy, 1), jnp.asarray(offsets), rollouts)
    return np.asarray(state.policy.vector())


def named(given, policy):
    """The method of these settings for a plain cost of named numbers."""
    specification = Specification(name="cost", action=None, observation_size=0, horizon=1, deterministic=True)
    return build(given, problem(specification, policy, "parameter"))


@pytest.mark.parametrize("method", ["finite_differences", "weight_perturbation", "ars"])
def test_18_17_parameter_space_methods_reach_the_minimum_of_a_plain_cost(method):
    result = train("bowl", method, budget=4000)
    found = np.asarray(result.policy.vector())
    bowl = Bowl()
    assert bowl.expected_cost(found) < 0.01 * bowl.expected_cost(np.ones(10))
    assert np.linalg.norm(bowl.gradient(found)) < 0.1 * np.linalg.norm(bowl.gradient(np.ones(10)))
    assert result.evaluation.cost_mean == pytest.approx(bowl.expected_cost(found), rel=1e-4)


def exponential(values, key):
    return jnp.sum(jnp.exp(values))


@pytest.mark.parametrize(("central", "rollouts", "order"), [(False, 4, 1), (True, 6, 2)])
def test_18_18_forward_differences_err_by_the_step_and_central_ones_by_its_square(central, rollouts, order):
    task, policy = Function(exponential, (0.0,) * 3), Parameters(["a", "b", "c"], [0.3, -0.2, 0.1])

    def error(step):
        method = named(FiniteDifferences(epsilon=step, central=central, repeats=1, learning_rate=1.0), policy)
        assert method.layout(policy).size == rollouts
        state, _ = native.compiled_update(task, method, method.init(policy, 1), KEY)
        return np.linalg.norm(-state.policy.theta() - np.exp([0.3, -0.2, 0.1]))

    assert slope(error) == pytest.approx(order, abs=0.02)


def perturbation_score(beta):
    """S of perturbations (n, d), each its own pair."""
    n = len(beta)
    pair, counted = jnp.arange(n), jnp.ones(n, bool)
    return PerturbationScore(
        offsets=jnp.asarray(beta), variance=jnp.asarray(SIGMA**2), counted=counted, sample=pair, samples=n
    )


@pytest.mark.parametrize(("rate", "converges"), [(1.9, True), (2.1, False)])
def test_18_19_gradient_descent_converges_below_twice_the_inverse_curvature(rate, converges):
    bowl, theta = Bowl(d=3, condition=10.0), jnp.ones(3)
    step = LearningRate(rate / 10.0)
    unused = Estimate(
        perturbation_score(np.ones((2, 3))),
        jnp.ones(2),
        jnp.ones(3),
        measure(jnp.ones((2, 3))),
        None,
        None,
        None,
        (),
        {},
    )
    moved, _, _ = step(theta, jnp.asarray(bowl.gradient(theta)), unused, ())
    np.testing.assert_allclose(moved, 1 - rate / 10 * np.geomspace(1, 10, 3), rtol=1e-12)
    for _ in range(200):
        theta, _, _ = step(theta, jnp.asarray(bowl.gradient(theta)), unused, ())
    assert bool(bowl.expected_cost(theta) < 1e-3) == converges


START_VALUES, BETA, SLOPE = np.array([1.0, -2.0]), np.array([0.3, 0.1]), np.array([2.0, -1.0])
RATE, SIGMA = 0.05, 0.4


def one_sided(g, baseline="reference"):
    """Δθ of one perturbation BETA."""
    given = WeightPerturbation(rollouts=1, std=SIGMA, two_sided=False, baseline=baseline, learning_rate=RATE)
    method = named(given, Parameters(["x0", "x1"], START_VALUES))
    costs = [g(START_VALUES + BETA), g(START_VALUES)]
    return told(method, START_VALUES, costs, [BETA, np.zeros(2)]) - START_VALUES


def test_18_20_weight_perturbation_moves_against_the_cost_difference_times_the_perturbation():
    g = lambda v: v[0] ** 2 * v[1] + np.sin(v[1])  # noqa: E731
    expected = -RATE / SIGMA**2 * (g(START_VALUES + BETA) - g(START_VALUES)) * BETA
    np.testing.assert_allclose(one_sided(g), expected, rtol=1e-12)


def test_18_21_the_linear_model_of_the_cost_errs_by_the_square_of_the_perturbation():
    theta, g = jnp.array([0.3, -0.2]), lambda v: exponential(v, None)
    linear = lambda h: g(theta) + jax.grad(g)(theta) @ (h * BETA)  # noqa: E731
    assert slope(lambda h: abs(g(theta + h * BETA) - linear(h))) == pytest.approx(2, abs=0.02)


def test_18_22_on_a_linear_cost_the_step_is_the_outer_product_times_the_gradient():
    expected = -RATE / SIGMA**2 * np.outer(BETA, BETA) @ SLOPE
    np.testing.assert_allclose(one_sided(lambda v: SLOPE @ v + 3.0), expected, rtol=1e-12)
    score = perturbation_score(BETA[None])
    np.testing.assert_allclose(-RATE * score.rmv(jnp.asarray(BETA[None] @ SLOPE)), expected, rtol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_18_23_perturbations_of_every_shape_have_mean_zero_and_equal_variance(shape):
    rows = SIGMA * np.asarray(shape_rows(jax.random.normal(KEY, (30_000, 2)), shape, jnp))
    steps = -RATE / SIGMA**2 * (rows @ SLOPE)[:, None] * rows
    # rows of an orthogonal block depend on each other; blocks do not
    blocks = lambda x: x.reshape(15_000, 2, -1).mean(1)  # noqa: E731
    assert within(blocks(rows), 0.0)
    outer = blocks(rows[:, :, None] * rows[:, None, :])
    assert np.abs(outer.mean(0) - SIGMA**2 * np.eye(2).ravel()).max() < 5 * SIGMA**2 * np.sqrt(2 / 30_000)
    assert np.abs(blocks(steps).mean(0) + RATE * SLOPE).max() < 5 * (steps.std(0).max() / np.sqrt(30_000) + 1e-12)


def test_18_24_the_step_carries_a_minus_sign_and_the_cost_less_the_baseline():
    bowl, theta = Bowl(d=2), np.ones(2)
    beta = SIGMA * np.asarray(jax.random.normal(KEY, (64, 2)))
    costs = np.array([bowl.expected_cost(theta + b) for b in beta])
    others = (costs.sum() - costs) / 63
    for baseline, b in (("leave_one_out", others), ("mean", costs.mean()), ("none", 0.0)):
        method = composed(ParameterNoise(64, SIGMA, two_sided=False), TotalCost(baseline), step=LearningRate(RATE))
        step = told(method, theta, costs, beta) - theta
        np.testing.assert_allclose(step, -RATE / SIGMA**2 * (costs - b) @ beta / 64, rtol=1e-10)
    method = composed(ParameterNoise(64, SIGMA, two_sided=False), TotalCost(), step=LearningRate(RATE))
    step = told(method, theta, costs, beta) - theta
    assert bowl.expected_cost(theta + step) < bowl.expected_cost(theta) < bowl.expected_cost(theta - step)


def running(costs, rate=0.2):
    n = len(costs)
    explore = ParameterNoise(n, SIGMA, two_sided=False)
    policy = Parameters(["x"], [0.0])
    rollouts = Rollouts(jnp.asarray(costs)[:, None], jnp.ones((n, 1), bool), jnp.full(n, OK))
    score = explore.score(policy, jnp.ones((n, 1)), rollouts, explore.layout(1))
    credit = TotalCost(Running(rate))
    a, (memory, _), _ = credit(rollouts, score, explore.layout(1), credit.init(1))
    return np.asarray(a), float(memory.baseline)


def test_18_25_the_running_baseline_is_used_before_it_is_updated():
    costs, rate = np.array([5.0, 3.0, 4.0, 1.0]), 0.2
    baseline, used, folded = costs[0], [], []
    for g in costs:
        used.append(g - baseline)
        baseline = rate * g + (1 - rate) * baseline
        folded.append(g - baseline)
    a, end = running(costs, rate)
    np.testing.assert_allclose(a, used, rtol=1e-12)
    assert end == pytest.approx(baseline, rel=1e-12)
    np.testing.assert_allclose(folded, (1 - rate) * np.asarray(used), rtol=1e-12)


def perturbed(n, g, baseline):
    """Perturbations and the terms −(g − b) β/σ² of Δθ/η, at θ = START_VALUES."""
    beta = SIGMA * np.asarray(jax.random.normal(KEY, (n, 2)))
    score = perturbation_score(beta)
    costs = g(START_VALUES + beta)
    a = jnp.asarray(costs - baseline(costs))
    terms = -np.asarray(a[:, None] * score.dense())
    np.testing.assert_allclose(-score.gradient(a, 4), terms.mean(0), rtol=1e-9, atol=1e-9)
    return beta, terms


def test_18_26_the_first_order_model_of_the_step_is_exact_on_linear_costs_only():
    def terms(g):
        beta, steps = perturbed(500, g, lambda costs: 7.0)
        model = -(g(START_VALUES) + beta @ SLOPE - 7.0)[:, None] * beta / SIGMA**2
        return steps, model

    np.testing.assert_allclose(*terms(lambda v: v @ SLOPE), rtol=1e-11, atol=1e-11)
    curved = lambda v: v @ SLOPE + np.sum((v - START_VALUES) ** 2, -1)  # noqa: E731
    assert not np.allclose(*terms(curved), rtol=0.1)


def batches(g, baseline, size=4, count=20_000):
    """Mean terms −(g − b) β/σ² of Δθ/η of small batches (count, d), with the baseline of a credit, at START_VALUES."""
    explore = ParameterNoise(size, SIGMA, two_sided=False)
    credit, layout = TotalCost(baseline), explore.layout(2)

    def batch(beta):
        came = Rollouts(g(START_VALUES + beta)[:, None], jnp.ones((size, 1), bool), jnp.full(size, OK))
        score = explore.score(Parameters(["a", "b"], START_VALUES), beta, came, layout)
        return -score.gradient(credit(came, score, layout, credit.init(1))[0], size)

    return np.asarray(jax.jit(jax.vmap(batch))(SIGMA * jax.random.normal(KEY, (count, size, 2))))


def test_18_27_a_baseline_that_knows_nothing_of_the_sample_drops_out_and_a_fitted_one_does_not():
    g = lambda v: v @ SLOPE + 3.0  # noqa: E731
    assert within(perturbed(20_000, g, lambda costs: 1e3)[1], -SLOPE)
    _, fitted = perturbed(20_000, g, lambda costs: costs)
    np.testing.assert_allclose(fitted, 0.0, atol=1e-12)
    spreads = {}
    for baseline in ("none", "leave_one_out", "least_variance"):
        steps = batches(g, baseline)
        assert within(steps, -SLOPE)
        spreads[baseline] = steps.var(0).sum()
    assert spreads["leave_one_out"] < spreads["none"] / 1.5
    # the batch mean, fitted a little, shrinks batches of 4 by a quarter
    mean = batches(g, "mean")
    assert within(mean, -0.75 * SLOPE)
    assert not within(mean, -SLOPE)


def test_18_28_weight_perturbation_is_the_likelihood_ratio_gradient_of_a_gaussian_over_parameters():
    bowl, theta = Bowl(d=2), jnp.asarray(START_VALUES)
    beta, steps = perturbed(20_000, lambda v: 0.5 * v**2 @ np.diag(bowl.hessian), lambda costs: 5.0)
    assert within(steps, -bowl.gradient(START_VALUES))
    log_prob = lambda t, x: Gaussian(t, jnp.log(SIGMA) * jnp.ones(2)).log_prob(x)  # noqa: E731
    x = theta + beta
    found = likelihood_ratio_gradient(log_prob, lambda v: bowl.cost(v, None), x, theta, 5.0)
    np.testing.assert_allclose(found.gradient, -steps.mean(0), rtol=1e-9)


def test_18_28_what_weight_perturbation_estimates_is_the_gradient_of_the_smoothed_cost():
    g = lambda v: 0.5 * v[..., 0] ** 4 + v[..., 0] * v[..., 1] ** 2  # noqa: E731
    slope_of = jax.grad(lambda v: g(v))
    x, y = START_VALUES
    # E (x+β)³ = x³ + 3 x σ²; E (y+β)² = y² + σ²
    exact = np.array([2 * (x**3 + 3 * x * SIGMA**2) + y**2 + SIGMA**2, 2 * x * y])
    smoothed = closed_forms.smoothed_gradient(g, lambda v: np.asarray(slope_of(v)), START_VALUES, "gaussian", SIGMA)
    np.testing.assert_allclose(smoothed, exact, rtol=1e-9)
    _, steps = perturbed(20_000, g, lambda costs: 2.0)
    assert within(steps, -exact)
    assert not within(steps, -slope_of(START_VALUES))
