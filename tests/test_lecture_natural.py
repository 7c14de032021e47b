"""One test an equation, (18.29) to (18.40): natural gradients and KL; see `docs/lecture.md`.

Statistical claims use fixed seeds and five standard errors of every coordinate.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policysearch.core.credit import CostToGo
from policysearch.core.direction import Natural, gram
from policysearch.core.distributions import Categorical, Gaussian
from policysearch.core.explore import ActionNoise
from policysearch.core.method import Method
from policysearch.core.policies import LinearGaussian, Softmax
from policysearch.core.quality import measure
from policysearch.core.rollouts import OK, Rollouts
from policysearch.core.score import PerturbationScore, PolicyScore
from policysearch.core.step import Estimate, KLStep
from policysearch.runners import native
from policysearch.tasks import build
from policysearch.tasks.bandit import Bandit

#: what a step does not look at: direction, groups, rollouts, credit, info
REST = (None, None, None, (), {})

KEY = jax.random.key(1829)
GAIN, STD = np.array([[-0.5, -0.8]]), 0.3
PLANT = build("lqr-check")
SLOPE = np.array([2.0, -1.0, 0.5])
RADIUS = 0.2
LOGITS = np.array([0.3, -0.2, 0.1, 0.4])


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def rows(n=40, d=3):
    """Score rows (n, d) and advantages (n,) of a made-up sample, with S as the library holds it."""
    S = jax.random.normal(KEY, (n, d)) * jnp.array([1.0, 3.0, 0.3]) @ jnp.array([[1, 0.5, 0], [0, 1, 0.2], [0, 0, 1.0]])
    a = jax.random.normal(jax.random.key(1), (n,))
    counted, pair = jnp.ones(n, bool), jnp.arange(n)
    return PerturbationScore(offsets=S, variance=jnp.ones(()), counted=counted, sample=pair, samples=n), a


def fisher():
    S = np.asarray(rows()[0].offsets)
    return S.T @ S / len(S)


def steepest(gradient, matrix, radius=RADIUS):
    """Δ and λ of (18.35) for a regular matrix."""
    w = np.linalg.solve(matrix, gradient)
    multiplier = 0.5 * np.sqrt(gradient @ w / radius)
    return -w / (2 * multiplier), multiplier


def on_boundary(matrix, radius=RADIUS):
    """10 000 steps with ΔᵀMΔ = radius."""
    steps = np.random.default_rng(0).normal(size=(10_000, 3))
    return steps * np.sqrt(radius / np.einsum("ni,ij,nj->n", steps, matrix, steps))[:, None]


def curved(delta):
    """A cost J(θ + Δ) with gradient SLOPE at Δ = 0."""
    return 1.0 + SLOPE @ delta + 0.5 * jnp.sum(delta**2) + jnp.sin(delta[0]) ** 2


def lagrangian(delta, multiplier, matrix, cost=lambda delta: SLOPE @ delta, radius=RADIUS):
    return cost(delta) + multiplier * (delta @ matrix @ delta - radius)


def test_18_29_of_all_short_steps_the_negative_gradient_lowers_a_linear_cost_most():
    step, _ = steepest(SLOPE, np.eye(3), RADIUS**2)
    assert np.linalg.norm(step) == pytest.approx(RADIUS)
    np.testing.assert_allclose(step, -RADIUS * SLOPE / np.linalg.norm(SLOPE), rtol=1e-12)
    assert np.all(on_boundary(np.eye(3), RADIUS**2) @ SLOPE >= SLOPE @ step)


def test_18_30_the_natural_direction_lowers_a_linear_cost_most_within_its_metric():
    score, a = rows()
    gradient = score.gradient(a, 40)
    w, _, _ = Natural()(score, a, gradient[None])
    M = fisher()
    step = -np.sqrt(RADIUS / (w @ M @ w)) * w
    assert step @ M @ step == pytest.approx(RADIUS, rel=1e-12)
    assert np.all(on_boundary(M) @ gradient >= gradient @ step)
    plain = -np.sqrt(RADIUS / (gradient @ M @ gradient)) * gradient
    assert gradient @ step < 1.1 * (gradient @ plain) < 0


def test_18_31_the_solution_is_a_saddle_least_in_the_step_and_greatest_in_the_multiplier():
    M = fisher()
    step, best = steepest(SLOPE, M)
    value = lagrangian(step, best, M)
    dual = lambda multiplier: lagrangian(-np.linalg.solve(M, SLOPE) / (2 * multiplier), multiplier, M)  # noqa: E731
    assert dual(best) == pytest.approx(value, rel=1e-12)
    assert all(dual(factor * best) < value for factor in (0.5, 0.9, 1.1, 2.0))
    moves = np.random.default_rng(1).normal(size=(100, 3))
    assert all(lagrangian(step + move, best, M) > value for move in moves)


def test_18_32_on_the_boundary_the_lagrangian_is_the_cost_for_any_multiplier():
    M = fisher()
    step, _ = steepest(SLOPE, M)
    for multiplier in (0.0, 1.0, 50.0):
        assert lagrangian(step, multiplier, M, curved) == pytest.approx(float(curved(step)), rel=1e-12)
    assert lagrangian(0.9 * step, 1.0, M, curved) < curved(0.9 * step)


def test_18_33_the_linearised_lagrangian_errs_by_the_square_of_the_step_if_its_constant_is_kept():
    M, unit = fisher(), np.array([0.5, -0.3, 0.8])

    def error(size, constant):
        delta = size * unit
        linear = 1.0 + delta @ SLOPE + 2.0 * (delta @ M @ delta - constant)
        return abs(lagrangian(delta, 2.0, M, curved) - linear)

    assert np.log2(error(1e-2, RADIUS) / error(5e-3, RADIUS)) == pytest.approx(2, abs=0.02)
    assert error(1e-5, 0.0) == pytest.approx(2.0 * RADIUS, rel=1e-6)


def test_18_34_at_the_solution_gradient_and_constraint_balance():
    M = fisher()
    step, multiplier = steepest(SLOPE, M)
    assert np.abs(SLOPE + 2 * multiplier * M @ step).max() < 1e-10
    assert np.abs(jax.grad(lagrangian)(jnp.asarray(step), multiplier, M)).max() < 1e-10
    # 2 λ M Δ is the derivative of the constraint only where M is symmetric
    lopsided = M + np.triu(M, 1)
    assert np.abs(SLOPE + 2 * multiplier * lopsided @ step).max() > 0.1


@pytest.fixture(scope="module")
def sampled():
    """20 000 rollouts of the check problem and their score."""
    with jax.enable_x64(True):
        policy, method = LinearGaussian(GAIN, std=STD), Method(ActionNoise(20_000), CostToGo(), Natural(), KLStep(0.01))
        return eqx.filter_jit(native.sample)(PLANT, method, policy, method.layout(policy), None, KEY), policy


def test_18_35_the_multiplier_gives_the_step_that_a_kl_limit_of_half_the_radius_does(sampled):
    rollouts, policy = sampled
    few = jax.tree.map(lambda leaf: leaf[:64], rollouts)
    score = PolicyScore.of(policy, few)
    a = few.costs - few.costs.mean(0)
    groups = score.group_gradients(a, 32)
    gradient = groups.mean(0)
    w, _, _ = eqx.filter_jit(Natural())(score, a, gradient[None])
    kl = 1e-4
    taken, estimate = KLStep(kl, memory=None), Estimate(score, a, gradient, measure(groups), *REST)
    moved, _, info = eqx.filter_jit(taken)(policy.theta(), w, estimate, taken.init(gradient))
    S = np.asarray(score.dense())
    step, _ = steepest(np.asarray(gradient), S.T @ S / len(S), 2 * kl)
    np.testing.assert_allclose(moved - policy.theta(), step, rtol=1e-9)
    assert float(info["kl_predicted"]) == pytest.approx(kl, rel=1e-9)


def test_18_35_a_singular_metric_gives_the_shortest_of_all_solutions():
    policy, score, S = bandit_score(200)
    a = jax.random.normal(KEY, (200, 1))
    gradient = score.gradient(a, 8)
    w, _, info = eqx.filter_jit(Natural())(score, a, gradient[None])
    assert info["rank"] == 3
    np.testing.assert_allclose(w, np.linalg.pinv(S.T @ S / 200, rcond=1e-10) @ gradient, atol=1e-10)
    assert w.sum() == pytest.approx(0, abs=1e-10)
    assert policy.theta().size == 4


def expectations(log_p, theta, samples, weights):
    """E[s sᵀ] and −E[∂² log p] by quadrature or enumeration."""
    s = jax.vmap(jax.grad(log_p), (None, 0))(theta, samples)
    curvature = jax.vmap(jax.hessian(log_p), (None, 0))(theta, samples)
    return jnp.einsum("n,ni,nj->ij", weights, s, s), -jnp.einsum("n,nij->ij", weights, curvature)


def test_18_36_the_fisher_matrix_is_the_mean_square_of_scores_and_minus_the_mean_curvature():
    theta, nodes = jnp.array([1.0, -0.3]), np.polynomial.hermite_e.hermegauss(20)
    x = theta[0] + jnp.exp(theta[1]) * nodes[0]
    normal = lambda t, x: Gaussian(t[:1], t[1:]).log_prob(x[None])  # noqa: E731
    square, curvature = jax.jit(expectations, static_argnums=0)(normal, theta, x, nodes[1] / np.sqrt(2 * np.pi))
    np.testing.assert_allclose(square, np.diag([np.exp(0.6), 2.0]), atol=1e-10)
    np.testing.assert_allclose(curvature, square, atol=1e-10)
    logits = jnp.asarray(LOGITS)
    choice = lambda t, arm: Categorical(t).log_prob(arm)  # noqa: E731
    square, curvature = jax.jit(expectations, static_argnums=0)(choice, logits, jnp.arange(4), jax.nn.softmax(logits))
    np.testing.assert_allclose(square, Bandit().fisher(LOGITS), atol=1e-12)
    np.testing.assert_allclose(curvature, square, atol=1e-12)


def test_18_37_kl_is_the_mean_logarithm_of_the_ratio_and_zero_for_equals_only():
    p, q = Gaussian(jnp.array([0.3]), jnp.array([-0.2])), Gaussian(jnp.array([-0.4]), jnp.array([0.3]))
    x = jnp.linspace(-12, 12, 4001)[:, None]
    log_p, log_q = p.log_prob(x), q.log_prob(x)
    assert p.kl(q) == pytest.approx(float(jnp.sum(jnp.exp(log_p) * (log_p - log_q)) * 0.006), abs=1e-10)
    one, other = Categorical(jnp.asarray(LOGITS)), Categorical(jnp.array([0.0, 1.0, -1.0, 0.2]))
    arms = jnp.arange(4)
    log_p, log_q = jax.vmap(one.log_prob)(arms), jax.vmap(other.log_prob)(arms)
    assert one.kl(other) == pytest.approx(float(jnp.exp(log_p) @ (log_p - log_q)), abs=1e-12)
    shifted = Categorical(one.logits + 5.0)
    for same, different in ((p.kl(p), p.kl(q)), (one.kl(shifted), one.kl(other))):
        assert same == pytest.approx(0, abs=1e-12)
        assert different > 0.1
    policy, moved = LinearGaussian([[0.4, -0.3]], std=0.6), LinearGaussian([[0.1, -0.3]], std=0.9)
    x = jnp.array([[1.0, 2.0], [-0.5, 0.0]])
    means = (0.4 - 0.1) * x[:, 0]
    expected = np.log(0.9 / 0.6) + (0.6**2 + means**2) / (2 * 0.9**2) - 0.5
    np.testing.assert_allclose(policy.kl(moved, x), expected, rtol=1e-12)


@pytest.mark.parametrize("backwards", [False, True])
def test_18_38_kl_is_half_the_quadratic_form_of_the_fisher_matrix_up_to_the_third_order(backwards):
    learned = LinearGaussian([[0.4, -0.3]], std=0.6, learned_std=True)
    gain = np.kron(np.outer([1.0, 2.0], [1.0, 2.0]), 1 / 0.36)
    metrics = (np.block([[gain, np.zeros((2, 1))], [np.zeros((1, 2)), 2 * np.eye(1)]]), Bandit().fisher(LOGITS))
    table = Softmax([(LOGITS[:, None], None)])
    for policy, observation, metric in ((learned, [1.0, 2.0], metrics[0]), (table, [1.0], metrics[1])):
        unit = jnp.array([0.3, -0.5, 0.7, 0.2])[: policy.theta().size]
        half = 0.5 * float(unit @ metric @ unit)

        def kl(size, policy=policy, observation=observation, unit=unit):
            moved = policy.with_theta(policy.theta() + size * unit)
            pair = (moved, policy) if backwards else (policy, moved)
            return float(pair[0].kl(pair[1], jnp.array(observation)))

        assert kl(1e-4) / 1e-8 == pytest.approx(half, rel=1e-3)
        large, small = (abs(kl(size) - half * size**2) for size in (1e-2, 5e-3))
        assert np.log2(large / small) == pytest.approx(3, abs=0.1)


@pytest.mark.parametrize("kind", ["gain and log std", "logits"])
def test_18_38_a_kl_step_changes_the_distribution_by_what_its_quadratic_form_predicts_up_to_the_third_order(kind):
    # actions whose second and fourth moments, or shares, are exactly those of the policy: S'S/n is its Fisher matrix
    if kind == "logits":
        policy = Softmax([(np.log([0.1, 0.2, 0.3, 0.4])[:, None], None)])
        observations, actions = jnp.ones((10, 1, 1)), jnp.repeat(jnp.arange(4), jnp.arange(1, 5))
        metric, unit = Bandit().fisher(np.log([0.1, 0.2, 0.3, 0.4])), jnp.array([0.3, -0.5, 0.7, 0.2])
    else:
        policy = LinearGaussian([[0.4, -0.3]], std=0.6, learned_std=True)
        observations = jnp.broadcast_to(jnp.array([1.0, 2.0]), (6, 1, 2))
        actions = -0.2 + 0.6 * np.sqrt(3) * jnp.array([1.0, -1.0, 0, 0, 0, 0])[:, None]
        gain = np.kron(np.outer([1.0, 2.0], [1.0, 2.0]), 1 / 0.36)
        metric, unit = (
            np.block([[gain, np.zeros((2, 1))], [np.zeros((1, 2)), 2 * np.eye(1)]]),
            jnp.array([0.3, -0.5, 0.7]),
        )
    n = len(observations)
    came = Rollouts(jnp.zeros((n, 1)), jnp.ones((n, 1), bool), jnp.full(n, OK), observations, actions[:, None])
    score = PolicyScore.of(policy, came)
    estimate = Estimate(
        score, jnp.zeros(n), jnp.zeros_like(unit), measure(jnp.ones((2, unit.size))), None, None, None, (), {}
    )

    def step(kl):
        taken = KLStep(kl, memory=None)
        theta, _, info = eqx.filter_jit(taken)(policy.theta(), unit, estimate, taken.init(unit))
        delta = np.asarray(theta - policy.theta())
        assert 0.5 * delta @ metric @ delta == pytest.approx(kl, rel=1e-9)
        assert float(info["kl_predicted"]) == pytest.approx(kl, rel=1e-9)
        forward = float(policy.kl(policy.with_theta(theta), observations[0])[0])
        assert float(info["kl"]) == pytest.approx(forward, rel=1e-9)
        return abs(forward - kl)

    # a quarter of the KL is half the step
    assert np.log2(step(1e-5) / step(2.5e-6)) == pytest.approx(3, abs=0.1)


def test_18_39_the_fisher_matrix_of_a_linear_policy_is_the_second_moment_of_visited_states(sampled):
    rollouts, policy = sampled
    x = np.asarray(rollouts.observations)
    moments = np.einsum("nti,ntj->nij", x, x) / PLANT.horizon / STD**2
    error = moments.std(0) / np.sqrt(len(x))
    exact = PLANT.fisher(GAIN, STD)
    assert np.all(np.abs(moments.mean(0) - exact) < 5 * error)
    # of the states at the start alone it is another matrix
    assert np.any(np.abs(np.einsum("ni,nj->ij", x[:, 0], x[:, 0]) / len(x) / STD**2 - exact) > 50 * error)
    assert policy.theta().size == 2


def test_18_39_the_analytic_natural_direction_solves_with_the_matrix_of_the_visited_states(sampled):
    rollouts, policy = sampled
    few = jax.tree.map(lambda leaf: leaf[:150], rollouts)
    score, slope = PolicyScore.of(policy, few), jnp.array([2.0, -1.0])
    w, _, _ = eqx.filter_jit(Natural(fisher="analytic"))(score, few.costs, slope[None])
    x = np.asarray(few.observations)
    moments = np.einsum("nti,ntj->nij", x, x) / STD**2
    np.testing.assert_allclose(w, np.linalg.solve(moments.mean(0), slope), rtol=1e-9)
    # of the plant's own matrix the direction is as far as 150 rollouts' states are
    exact = PLANT.horizon * PLANT.fisher(GAIN, STD)
    error = (moments @ np.asarray(w)).std(0) / np.sqrt(150)
    assert np.all(np.abs(exact @ w - slope) < 5 * error)
    assert np.all(error < 0.2 * np.linalg.norm(slope))
    visited = PLANT.visited(GAIN, STD)
    means = np.asarray(rollouts.observations).mean(1)
    assert np.all(np.abs(means.mean(0) - visited.mean) < 5 * means.std(0) / np.sqrt(len(means)))


def bandit_score(n):
    policy = Softmax([(LOGITS[:, None], None)])
    arms = jax.vmap(lambda key: policy.sample(jnp.ones(1), key))(jax.random.split(KEY, n))
    rollouts = Rollouts(jnp.zeros((n, 1)), jnp.ones((n, 1), bool), jnp.full(n, OK), jnp.ones((n, 1, 1)), arms[:, None])
    score = PolicyScore.of(policy, rollouts)
    return policy, score, np.asarray(score.dense())


def test_18_40_the_mean_square_of_sampled_scores_estimates_the_fisher_matrix(sampled):
    rollouts, policy = sampled
    S = np.asarray(PolicyScore.of(policy, rollouts).dense()).reshape(20_000, 21, 2)
    _, _, choices = bandit_score(20_000)
    for s, exact in ((S, PLANT.fisher(GAIN, STD)), (choices[:, None], Bandit().fisher(LOGITS))):
        squares = np.einsum("nti,ntj->nij", s, s) / s.shape[1]
        assert np.all(np.abs(squares.mean(0) - exact) < 5 * squares.std(0) / np.sqrt(20_000))
    few = jax.tree.map(lambda leaf: leaf[:200], rollouts)
    score = PolicyScore.of(policy, few)
    squares = np.einsum("nti,ntj->nij", S[:200], S[:200])
    matrix = eqx.filter_jit(gram)(score, True) / 200
    np.testing.assert_allclose(matrix, squares.mean(0), rtol=1e-9)
    a = few.costs - few.costs.mean(0)
    gradient = np.einsum("nt,ntd->d", a, S[:200]) / 200
    w, _, _ = eqx.filter_jit(Natural())(score, a, score.group_gradients(a, 4))
    np.testing.assert_allclose(w, np.linalg.solve(squares.mean(0), gradient), rtol=1e-9)
    # and its matrix is the plant's, as nearly as 200 rollouts tell
    exact = PLANT.horizon * PLANT.fisher(GAIN, STD)
    error = (squares @ np.asarray(w)).std(0) / np.sqrt(200)
    assert np.all(np.abs(exact @ w - gradient) < 5 * error)
    # the shift that softmax does not see
    np.testing.assert_allclose(choices @ np.ones(4), 0.0, atol=1e-14)
