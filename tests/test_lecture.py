"""One test an equation, (18.1) to (18.16), of lecture notes on policy search: likelihood ratios; see `docs/lecture.md`.

Statistical claims use fixed seeds and five standard errors of every coordinate.
"""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policysearch.core.credit import CostToGo
from policysearch.core.direction import Euclidean
from policysearch.core.distributions import Categorical, Gaussian
from policysearch.core.explore import ActionNoise
from policysearch.core.likelihood_ratio import likelihood_ratio_gradient, scores
from policysearch.core.method import Method
from policysearch.core.policies import LinearGaussian, Softmax
from policysearch.core.rollouts import OK, Rollouts
from policysearch.core.score import PolicyScore
from policysearch.core.step import LearningRate
from policysearch.methods import table
from policysearch.methods.settings import GPOMDP, Reinforce
from policysearch.methods.start import problem
from policysearch.runners import native
from policysearch.tasks import build
from policysearch.tasks.bandit import Bandit
from policysearch.tasks.functions import Bowl

KEY = jax.random.key(18)
GAIN, STD = np.array([[-0.5, -0.8]]), 0.3
PLANT = build("lqr-check")
GRADIENT = np.array([11.00060496, -0.94964500])


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def plant_rollouts():
    """20 000 rollouts of the check problem, their score, and the layout of the method that asked them."""
    with jax.enable_x64(True):
        policy, method = LinearGaussian(GAIN, std=STD), composed(ActionNoise(20_000), CostToGo("none"))
        layout = method.layout(policy)
        rollouts = eqx.filter_jit(native.sample)(PLANT, method, policy, layout, None, KEY)
        return rollouts, PolicyScore.of(policy, rollouts), layout


def composed(explore, credit, direction=None, step=None):
    return Method(explore, credit, direction or Euclidean(), step or LearningRate(1.0))


def named(given):
    """The method of these settings on the check problem."""
    policy = LinearGaussian(GAIN, std=STD)
    return table.build(given, problem(PLANT.specification, policy, "action"))


def within(samples, exact, errors=5.0):
    """The mean of independent samples (n, …) is within so many standard errors of `exact`, in every coordinate."""
    samples = np.asarray(samples)
    error = samples.std(0, ddof=1) / np.sqrt(len(samples))
    return bool(np.all(np.abs(samples.mean(0) - exact) <= errors * error))


def per_rollout(score, a):
    """Each rollout's own gradient estimate (n, d)."""
    return np.asarray(score.group_gradients(a, len(score.counted)))


def normal(theta, x):
    return Gaussian(theta[None], jnp.log(jnp.array([0.7]))).log_prob(x[None])


def grid():
    x = jnp.linspace(-9.0, 11.0, 4001)
    return x, x[1] - x[0]


def cost(x):
    return x**2 + jnp.sin(x)


def density(theta):
    return jnp.exp(jax.vmap(normal, (None, 0))(theta, grid()[0]))


# likelihood-ratio gradients


def test_18_01_the_objective_is_the_mean_cost_of_samples():
    theta, bowl, bandit = jnp.arange(1.0, 4.0), Bowl(d=3), Bandit()
    x = theta + 0.5 * jax.random.normal(KEY, (20_000, 3))
    assert within(jax.vmap(lambda v: bowl.cost(v, None))(x), bowl.expected_cost(theta, 0.5))
    logits = jnp.array([0.3, -0.2, 0.1, 0.4])
    arms = jax.vmap(Categorical(logits).sample)(jax.random.split(KEY, 20_000))
    assert within(jnp.asarray(bandit.means)[arms], bandit.expected_cost(logits))


def test_18_02_the_gradient_is_the_derivative_of_the_integral():
    x, dx = grid()
    J = lambda theta: jnp.sum(density(theta) * 0.5 * x**2) * dx  # noqa: E731
    theta, step = jnp.array(1.3), 1e-4
    exact = Bowl(d=1).gradient([1.3])[0]
    assert jax.grad(J)(theta) == pytest.approx(exact, abs=1e-9)
    assert (J(theta + step) - J(theta - step)) / (2 * step) == pytest.approx(exact, abs=1e-7)
    logits, means = jnp.array([0.3, -0.2, 0.1, 0.4]), jnp.asarray(Bandit().means)
    mean_cost = lambda logits: jax.nn.softmax(logits) @ means  # noqa: E731
    np.testing.assert_allclose(Bandit().gradient(logits), jax.grad(mean_cost)(logits), atol=1e-12)


def test_18_03_every_distribution_has_a_logarithm_that_integrates_to_one():
    x, dx = grid()
    for log_std in (-0.3, 0.4):
        pairs = jnp.stack(jnp.meshgrid(x[::20], x[::20]), -1)
        both = Gaussian(jnp.array([1.0, 0.5]), jnp.array([log_std, 0.1]))
        assert jnp.exp(both.log_prob(pairs)).sum() * (20 * dx) ** 2 == pytest.approx(1, abs=1e-9)
    logits = Categorical(jnp.array([1.0, -3.0, 40.0, 0.0]))
    assert jnp.exp(jax.vmap(logits.log_prob)(jnp.arange(4))).sum() == pytest.approx(1, abs=1e-12)


def test_18_04_the_derivative_of_a_logarithm_is_that_of_its_argument_over_the_argument():
    cases = (
        (lambda t: Gaussian(t[:1], t[1:]).log_prob(jnp.array([0.4])), jnp.array([1.0, -0.2])),
        (lambda t: Categorical(t).log_prob(jnp.array(2)), jnp.array([0.3, -0.2, 0.1])),
    )
    for log_p, theta in cases:
        p, slope_of_p = jax.value_and_grad(lambda t, log_p=log_p: jnp.exp(log_p(t)))(theta)
        np.testing.assert_allclose(jax.grad(log_p)(theta), slope_of_p / p, rtol=1e-12)


def test_18_05_scores_are_finite_differences_of_the_density_over_the_density():
    policy, step = LinearGaussian([[0.5, -1.0]], bias=[0.2], std=0.6, learned_std=True), 1e-5
    observations, actions = jax.random.normal(KEY, (5, 2)), jax.random.normal(KEY, (5, 1))
    density = lambda t: jnp.exp(policy.with_theta(t).log_prob(observations, actions))  # noqa: E731
    theta = policy.theta()
    differences = [(density(theta + step * e) - density(theta - step * e)) / (2 * step) for e in jnp.eye(4)]
    rows = scores(lambda t, x: policy.with_theta(t).log_prob(*x), (observations, actions), theta)
    relative = jnp.stack(differences, 1) / density(theta)[:, None]
    np.testing.assert_allclose(rows, relative, rtol=1e-6)
    stages = Rollouts(
        jnp.zeros((5, 1)), jnp.ones((5, 1), bool), jnp.full(5, OK), observations[:, None], actions[:, None]
    )
    np.testing.assert_allclose(PolicyScore.of(policy, stages).dense(), relative, rtol=1e-6)


def test_18_06_the_order_of_cost_and_density_under_the_integral_is_immaterial():
    x, dx = grid()
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    first = lambda theta: jnp.sum(density(theta) * cost(x)) * dx  # noqa: E731
    second = lambda theta: cost(theta + 0.7 * nodes) @ weights / np.sqrt(2 * np.pi)  # noqa: E731
    assert jax.grad(first)(1.3) == pytest.approx(float(jax.grad(second)(1.3)), abs=1e-9)


def integral_of_cost_and_slope(theta):
    x, dx = grid()
    return jnp.sum(cost(x) * jax.jacfwd(density)(theta)) * dx


def test_18_07_the_derivative_enters_the_integral_unless_the_support_moves():
    x, dx = grid()
    outside = jax.grad(lambda theta: jnp.sum(cost(x) * density(theta)) * dx)(1.3)
    assert integral_of_cost_and_slope(jnp.array(1.3)) == pytest.approx(float(outside), abs=1e-10)
    # E x of U(0, θ) is θ/2, but ∫ x ∂(1/θ)/∂θ dx = −1/2
    inside = jnp.trapezoid(jnp.linspace(0, 2.0, 101) * jax.grad(lambda t: 1 / t)(2.0), dx=0.02)
    assert inside == pytest.approx(-0.5) != 0.5


def test_18_08_density_times_score_is_the_slope_of_the_density():
    x, dx = grid()
    s = scores(normal, x, jnp.array(1.3))
    assert jnp.sum(cost(x) * s * density(jnp.array(1.3))) * dx == pytest.approx(
        float(integral_of_cost_and_slope(jnp.array(1.3))), abs=1e-10
    )


def normal_samples(n):
    return jnp.array(1.3), 1.3 + 0.7 * jax.random.normal(KEY, (n,))


def test_18_09_scores_have_mean_zero_so_a_constant_baseline_moves_nothing():
    theta, x = normal_samples(20_000)
    assert within(scores(normal, x, theta), 0.0)
    exact = integral_of_cost_and_slope(theta)
    for baseline in (0.0, 100.0):
        found = likelihood_ratio_gradient(normal, cost, x, theta, baseline)
        assert abs(found.gradient - exact) < 5 * found.standard_error
    assert found.standard_error > 0.5


def test_18_10_the_sample_mean_divides_by_the_number_of_samples():
    theta, x = normal_samples(60_000)
    exact, batches = integral_of_cost_and_slope(theta), x.reshape(-1, 3)
    estimate = lambda batch: likelihood_ratio_gradient(normal, cost, batch, theta, "none").gradient  # noqa: E731
    means = jax.vmap(estimate)(batches)
    assert within(means, exact)
    # N + 1 = 3 terms over N = 2
    assert within(3 / 2 * means, 3 / 2 * exact)
    assert not within(3 / 2 * means, exact)


def test_18_10_a_method_follows_the_mean_of_cost_times_score_over_its_rollouts():
    policy, observations = LinearGaussian([[0.5, -1.0]], std=0.6), jax.random.normal(KEY, (7, 1, 2))
    actions, costs = jax.random.normal(KEY, (7, 1, 1)), jnp.arange(7.0)
    rollouts = Rollouts(costs[:, None], jnp.ones((7, 1), bool), jnp.full(7, OK), observations, actions)
    score = PolicyScore.of(policy, rollouts)
    rows = scores(lambda t, x: policy.with_theta(t).log_prob(*x)[0], (observations, actions), policy.theta())
    np.testing.assert_allclose(score.gradient(costs, 3), costs @ rows / 7, rtol=1e-12)
    w, _, _ = Euclidean()(score, costs, score.group_gradients(costs, 3))
    np.testing.assert_allclose(w, costs @ rows / 7, rtol=1e-12)


def test_18_11_the_cost_of_a_rollout_is_the_sum_over_all_its_stages(plant_rollouts):
    costs = plant_rollouts[0].costs
    assert costs.shape[1] == PLANT.horizon == 21
    assert within(costs.sum(1), PLANT.expected_cost(GAIN, STD))
    assert not within(costs[:, :-1].sum(1), PLANT.expected_cost(GAIN, STD))


# rollouts: a chain of 2 states and 2 actions over 3 stages, all 64 rollouts in a list

TABLE = Softmax([(np.array([[0.3, -0.4], [0.1, 0.8]]), None)])
START, MOVE = np.array([0.6, 0.4]), np.array([[[0.9, 0.1], [0.3, 0.7]], [[0.2, 0.8], [0.5, 0.5]]])
STAGE_COST = np.array([[1.0, -0.5], [2.0, 0.3]])


def prefixes(stages):
    """States and actions (2^(2 stages), stages) of every beginning of a rollout."""
    return np.moveaxis(np.array(list(itertools.product((0, 1), repeat=2 * stages))).reshape(-1, stages, 2), 2, 0)


def log_joint(theta, x, u, move=MOVE):
    """log p(x_0) + Σ log p(x_i | x_{i−1}, u_{i−1}) + Σ log π(u_i | x_i)."""
    policy = TABLE.with_theta(theta)
    moves = jnp.log(move)[x[:-1], u[:-1], x[1:]].sum()
    return jnp.log(START)[x[0]] + moves + policy.log_prob(jax.nn.one_hot(x, 2), u).sum()


def chain_cost(theta):
    """Expected cost, by passing on the distribution of the state."""
    policy = jax.nn.softmax(TABLE.with_theta(theta)(jnp.eye(2)).logits)
    state, total = jnp.asarray(START), 0.0
    for _ in range(3):
        total += jnp.sum(state[:, None] * policy * STAGE_COST)
        state = jnp.einsum("x,xu,xuy->y", state, policy, MOVE)
    return total


def test_18_12_each_stage_cost_needs_only_the_prefix_that_leads_to_it():
    theta = TABLE.theta()
    total = 0.0
    for stages in (1, 2, 3):
        x, u = prefixes(stages)
        joint = jax.jit(jax.jacfwd(lambda t, x=x, u=u: jnp.exp(jax.vmap(log_joint, (None, 0, 0))(t, x, u))))(theta)
        total += STAGE_COST[x[:, -1], u[:, -1]] @ joint
    np.testing.assert_allclose(total, jax.jit(jax.grad(chain_cost))(theta), atol=1e-13)


def test_18_13_stage_costs_times_prefix_scores_have_the_gradient_as_mean():
    theta, (x, u) = TABLE.theta(), prefixes(3)
    p = jnp.exp(jax.jit(jax.vmap(log_joint, (None, 0, 0)))(theta, x, u))
    rows = jax.jit(jax.vmap(jax.grad(log_joint), (None, 0, 0)))
    total = sum((p * STAGE_COST[x[:, k], u[:, k]]) @ rows(theta, x[:, : k + 1], u[:, : k + 1]) for k in range(3))
    np.testing.assert_allclose(total, jax.jit(jax.grad(chain_cost))(theta), atol=1e-13)


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_18_14_prefix_probabilities_factor_and_sum_to_one(stages):
    x, u = prefixes(stages)
    joint = jnp.exp(jax.jit(jax.vmap(log_joint, (None, 0, 0)))(TABLE.theta(), x, u))
    assert joint.sum() == pytest.approx(1, abs=1e-13)
    policy = np.exp(TABLE.log_prob(jax.nn.one_hot(x, 2), jnp.asarray(u))).prod(1)
    transitions = START[x[:, 0]] * MOVE[x[:, :-1], u[:, :-1], x[:, 1:]].prod(1)
    np.testing.assert_allclose(joint, transitions * policy, rtol=1e-12)


def test_18_15_the_score_of_a_rollout_does_not_know_the_dynamics():
    theta, (x, u) = TABLE.theta(), prefixes(3)
    rollouts = Rollouts(
        jnp.zeros((64, 3)), jnp.ones((64, 3), bool), jnp.full(64, OK), jax.nn.one_hot(x, 2), jnp.asarray(u)
    )
    rows = PolicyScore.of(TABLE, rollouts).dense(per_stage=False)
    for move in (MOVE, np.full((2, 2, 2), 0.5)):
        whole = jax.vmap(jax.grad(log_joint), (None, 0, 0, None))(theta, x, u, move)
        np.testing.assert_allclose(rows, whole, atol=1e-13)


def test_18_16_causal_and_total_cost_forms_agree_and_the_causal_one_varies_less(plant_rollouts):
    rollouts, score, layout = plant_rollouts
    exact = PLANT.gradient(GAIN, STD)["gain"][0]
    np.testing.assert_allclose(exact, GRADIENT, atol=5e-9)
    causal, whole = named(GPOMDP(baseline="none")).credit, named(Reinforce(baseline="none")).credit
    to_go = per_rollout(score, causal(rollouts, score, layout, ())[0])
    total = per_rollout(score, whole(rollouts, score, layout, ((), ()))[0])
    assert within(to_go, exact)
    assert within(total, exact)
    assert np.all(to_go.var(0) < total.var(0) / 2)
    stages = score.dense(per_stage=True).reshape(20_000, 21, 2)
    np.testing.assert_allclose(total, rollouts.costs.sum(1)[:, None] * stages.sum(1), rtol=1e-9, atol=1e-9)
    inner = jnp.einsum("nk,nkd->nd", rollouts.costs, jnp.cumsum(stages, 1))
    np.testing.assert_allclose(to_go, inner, rtol=1e-10, atol=1e-10 * np.abs(inner).max())
