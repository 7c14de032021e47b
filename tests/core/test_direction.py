import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policysearch.core.direction import DELAY, Euclidean, LeastSquares, Natural, conjugate_gradient, gram
from policysearch.core.explore import Coordinates, ParameterNoise
from policysearch.core.initial import random_layers
from policysearch.core.policies import LinearGaussian, NeuralGaussian
from policysearch.core.rollouts import Rollouts
from policysearch.core.score import PolicyScore


@eqx.filter_jit
def solve(direction, score, a):
    """Direction and info, compiled."""
    w, _, info = direction(score, a, score.group_gradients(a, 2))
    return w, info


def problem(policy, sampled, n=12, T=4):
    """A score with some masked stages, and random advantages per stage."""
    score = PolicyScore.of(policy, sampled(policy, n, T, lengths=[T] * (n - 1) + [2]))
    a = np.random.default_rng(1).normal(size=(n, T)) * np.asarray(score.mask)
    return score, jnp.asarray(a)


def dense(score, per_stage=True):
    return np.asarray(eqx.filter_jit(lambda s: s.dense(per_stage))(score))


def error(rows, w, truth):
    """Distance in the norm of the Fisher matrix, relative."""
    return np.linalg.norm(rows @ (w - truth)) / np.linalg.norm(rows @ truth)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("name", "per_stage"), [("linear", True), ("softmax", True), ("softmax network", True), ("softmax", False)]
)
def test_all_solvers_give_the_least_squares_solution_of_least_norm(name, per_stage, policies, sampled):
    score, a = problem(policies[name](), sampled)
    a = a if per_stage else a.sum(1)
    rows = dense(score, per_stage)
    truth, _, rank, _ = np.linalg.lstsq(rows, np.ravel(a), rcond=1e-6)
    for solver in ("parameter", "sample"):
        w, info = solve(Natural(solver=solver), score, a)
        assert error(rows, np.asarray(w), truth) < 1e-6
        assert np.linalg.norm(w) == pytest.approx(np.linalg.norm(truth), rel=1e-6)
        assert int(info["rank"]) == rank
    if name == "softmax" and per_stage:
        # logits are free along the all-ones shift: two of the three columns of each observation and of the bias
        assert rank == 8 < score.policy.theta().size


@pytest.mark.parametrize("solver", ["parameter", "sample"])
def test_float32_is_good_to_a_thousandth_where_the_condition_is_mild(solver, sampled):
    score, a = problem(LinearGaussian([[-0.5, 0.3, 0.1]], std=0.4), sampled)
    rows = dense(score).astype(float)
    assert np.linalg.cond(rows.T @ rows) < 30
    truth = np.linalg.lstsq(rows, np.ravel(a).astype(float), rcond=None)[0]
    w, _ = solve(Natural(solver=solver), score, a)
    assert error(rows, np.asarray(w, float), truth) < 1e-3


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("damping", [0.1, 10.0])
def test_damping_is_relative_to_the_mean_eigenvalue_in_every_solver(damping, policies, sampled):
    score, a = problem(policies["network"](), sampled)
    rows, d = dense(score), score.policy.theta().size
    matrix = rows.T @ rows
    expected = np.linalg.solve(matrix + damping * np.trace(matrix) / d * np.eye(d), rows.T @ np.ravel(a))
    for solver in ("parameter", "sample"):
        np.testing.assert_allclose(solve(Natural(None, damping, solver), score, a)[0], expected, rtol=1e-8, atol=1e-12)


@pytest.mark.usefixtures("float64")
def test_conjugate_gradients_approach_the_damped_solution(policies, sampled):
    score, a = problem(policies["network"](), sampled)
    rows, d = dense(score), score.policy.theta().size
    probe = np.asarray(jax.random.rademacher(jax.random.key(0), (d,), float))
    shift = 0.1 * np.sum((rows @ probe) ** 2) / d
    expected = np.linalg.solve(rows.T @ rows + shift * np.eye(d), rows.T @ np.ravel(a))
    w, info = solve(Natural(None, 0.1, "conjugate_gradient", tolerance=1e-4), score, a)
    assert error(rows, np.asarray(w), expected) < 1e-3
    assert float(info["residual"]) < 1e-3


def test_conjugate_gradients_stay_finite_without_damping_and_without_gradient(policies, sampled):
    score, a = problem(policies["softmax"](), sampled)
    for advantage in (a, 0 * a):
        assert np.all(np.isfinite(solve(Natural(None, 0.0, "conjugate_gradient"), score, advantage)[0]))


@pytest.mark.usefixtures("float64")
def test_the_natural_direction_is_the_inverse_fisher_matrix_times_the_gradient(sampled):
    score, a = problem(LinearGaussian([[-0.5, 0.3, 0.1]], std=0.4), sampled)
    rows = dense(score)
    fisher, gradient = rows.T @ rows / 12, rows.T @ np.ravel(a) / 12
    np.testing.assert_allclose(solve(Natural(), score, a)[0], np.linalg.solve(fisher, gradient), rtol=1e-9)
    np.testing.assert_allclose(solve(Euclidean(), score, a)[0], gradient, rtol=1e-9)


@pytest.mark.usefixtures("float64")
def test_a_gram_matrix_in_chunks_is_that_of_all_rows(policies, sampled):
    score, _ = problem(policies["linear"](), sampled, n=7)
    rows, d = dense(score), score.policy.theta().size
    for rollouts in (1, 3, 7):
        chunked = eqx.filter_jit(lambda s, k=rollouts: gram(s, True, limit=k * 4 * d))(score)
        np.testing.assert_allclose(chunked, rows.T @ rows, rtol=1e-12)


@pytest.mark.usefixtures("float64")
def test_the_natural_policy_change_does_not_depend_on_the_units_of_the_parameters(sampled):
    unit = jnp.asarray([[1.0, 1e3, 1e-2]])
    policy = LinearGaussian([[-0.5, 0.3, 0.1]], std=0.4)
    came = sampled(policy, 12, 4)
    other = LinearGaussian(policy.gain / unit, std=0.4)
    a = problem(policy, sampled)[1]
    w, _ = solve(Natural(), PolicyScore.of(policy, came), a)
    scaled, _ = solve(Natural(), PolicyScore.of(other, came._replace(observations=came.observations * unit[0])), a)
    np.testing.assert_allclose(scaled * unit[0], w, rtol=1e-6)


@pytest.mark.parametrize("solver", ["parameter", "sample"])
def test_scores_that_are_all_zero_give_the_zero_direction(solver, sampled):
    score, a = problem(LinearGaussian([[-0.5, 0.3, 0.1]], std=0.4), sampled)
    still = eqx.tree_at(lambda s: s.mask, score, jnp.zeros_like(score.mask))
    w, info = solve(Natural(solver=solver), still, a)
    assert np.all(np.asarray(w) == 0)
    assert int(info["rank"]) == 0


def test_the_solver_follows_the_smaller_side():
    assert Natural().chosen(100, 10) == "parameter"
    assert Natural().chosen(10, 100) == "sample"
    assert Natural().chosen(10_000, 10_000) == "conjugate_gradient"
    with pytest.raises(ValueError, match="use one of auto, parameter"):
        Natural(solver="qr")


def perturbed(explore, cost, d, state=()):
    """Score of perturbed parameters and what each costs."""
    layout = explore.layout(d)
    z = np.random.default_rng(0).normal(size=(layout.perturbations, d))
    offsets = layout.sign[:, None] * np.asarray(explore.rows(jnp.asarray(z), state))[layout.perturbation]
    costs = np.array([cost(row) for row in offsets])
    n = layout.size
    came = Rollouts(jnp.asarray(costs[:, None]), jnp.ones((n, 1), bool), jnp.zeros(n, int))
    score = explore.score(LinearGaussian([[0.0] * d]), jnp.asarray(offsets), came, layout, state)
    return score, jnp.asarray(costs)


def bumpy(theta):
    return float(np.sin(theta @ [1.0, 2.0, -0.5]) + np.sum(theta**3))


@pytest.mark.usefixtures("float64")
def test_central_least_squares_are_the_central_difference_quotients():
    steps = np.array([0.1, 0.2, 0.05])
    score, costs = perturbed(Coordinates(steps, repeats=2), bumpy, 3)
    expected = [(bumpy(e) - bumpy(-e)) / (2 * np.linalg.norm(e)) for e in np.diag(steps)]
    w, info = solve(LeastSquares(), score, costs)
    np.testing.assert_allclose(w, expected, rtol=1e-12)
    assert int(info["rank"]) == 3


@pytest.mark.usefixtures("float64")
def test_forward_least_squares_are_the_forward_difference_quotients():
    score, costs = perturbed(Coordinates(0.1, central=False), bumpy, 3)
    expected = [(bumpy(e) - bumpy(np.zeros(3))) / 0.1 for e in 0.1 * np.eye(3)]
    np.testing.assert_allclose(solve(LeastSquares(), score, costs - costs[-1])[0], expected, rtol=1e-12)


@pytest.mark.usefixtures("float64")
def test_least_squares_of_random_directions_are_exact_for_a_linear_cost():
    slope = np.array([1.0, -2.0, 0.5])
    score, costs = perturbed(ParameterNoise(4, [0.1, 0.2, 0.3]), lambda theta: float(theta @ slope), 3)
    np.testing.assert_allclose(solve(LeastSquares(), score, costs)[0], slope, rtol=1e-9)


@pytest.mark.usefixtures("float64")
def test_a_coordinate_whose_trials_were_lost_does_not_move():
    score, costs = perturbed(Coordinates(0.1), bumpy, 3)
    lost = eqx.tree_at(lambda s: s.counted, score, score.counted.at[2:4].set(False))
    w, info = solve(LeastSquares(), lost, costs.at[2].set(1e6))
    assert float(w[1]) == pytest.approx(0.0, abs=1e-12)
    assert int(info["rank"]) == 2


def test_compiled_conjugate_gradients_are_those_of_plain_calls():
    """JAX's solver, compiled around a Jacobian product of a network, gave other numbers at each call."""
    n, T, p = 20, 256, 17
    rng = np.random.default_rng(0)
    policy = NeuralGaussian(random_layers([p, 64, 64, 6], 0), std=0.5)
    alive = np.arange(T) < rng.integers(10, 40, n)[:, None]
    observations = np.where(alive[..., None], rng.normal(size=(n, T, p)), 0.0)
    actions = np.where(alive[..., None], 0.5 * rng.normal(size=(n, T, 6)), 0.0)
    score = PolicyScore(
        policy=policy,
        observations=jnp.asarray(observations, jnp.float32),
        actions=jnp.asarray(actions, jnp.float32),
        mask=jnp.asarray(alive),
        counted=jnp.ones(n, bool),
    )
    a = jnp.asarray(np.where(alive, rng.normal(size=(n, T)), 0.0), jnp.float32)
    product, transposed = (eqx.filter_jit(f) for f in (lambda s, v: s.mv(v), lambda s, v: s.rmv(v)))
    gradient = transposed(score, a) / n
    compiled = eqx.filter_jit(lambda s, g: Natural(None, 0.1, "conjugate_gradient", tolerance=1e-6)(s, a, g[None]))
    probe = jax.random.rademacher(jax.random.key(0), gradient.shape, gradient.dtype)
    shift = 0.1 * jnp.sum(product(score, probe) ** 2) / n / gradient.size
    for _ in range(3):
        w, _, info = compiled(score, gradient)
        residual = transposed(score, product(score, w)) / n + shift * w - gradient
        relative = float(jnp.linalg.norm(residual) / jnp.linalg.norm(gradient))
        assert relative < 0.02
        assert float(info["residual"]) == pytest.approx(relative, rel=0.2)
        assert int(info["iterations"]) == 50


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    "direction",
    [
        Natural(),
        Natural(damping=0.2),
        Natural(None, 0.2, "sample"),
        Natural(fisher="analytic"),
        Natural(intercept=True),
    ],
    ids=["parameter", "damped", "sample", "analytic", "intercept"],
)
def test_what_is_noise_is_measured_in_the_norm_of_the_direction(direction, sampled):
    score, a = problem(LinearGaussian([[-0.5, 0.3, 0.1]], std=0.4, learned_std=True), sampled)
    a = a.sum(1) if direction.intercept else a
    groups = np.asarray(score.group_gradients(a, 4))
    _, quality, _ = eqx.filter_jit(lambda d, s, a: d(s, a, s.group_gradients(a, 4)))(direction, score, a)
    if direction.fisher == "analytic":
        matrix = np.asarray(policy_fisher(score)) / 12
    else:
        rows = np.asarray(score.dense(not direction.intercept))
        rows = rows - rows.mean(0) if direction.intercept else rows
        matrix = rows.T @ rows / 12
    inverse = np.linalg.inv(matrix + float(direction.damping) * np.trace(matrix) / 4 * np.eye(4))
    mean, away = groups.mean(0), groups - groups.mean(0)
    assert float(quality.power) == pytest.approx(mean @ inverse @ mean, rel=1e-6)
    assert float(quality.noise) == pytest.approx(np.einsum("ji,ik,jk", away, inverse, away) / 12, rel=1e-6)


def policy_fisher(score):
    """Sum over live stages of the Hessian of the KL at no step, (d, d)."""
    policy = score.policy

    def total(theta):
        kl = policy.kl(policy.with_theta(theta), score.observations)
        return jnp.sum(jnp.where(score.mask, kl, 0.0))

    return np.asarray(jax.jit(jax.hessian(total))(policy.theta()))


@eqx.filter_jit
def from_root(score, stages):
    """The matrix that the products of a root of it give, (d, d)."""
    forward, transposed = score.fisher_root(stages)
    return jax.vmap(lambda v: transposed(forward(v)))(jnp.eye(score.policy.theta().size))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", ["linear", "softmax", "network", "softmax network"])
def test_the_analytic_fisher_matrix_is_the_curvature_of_the_kl(name, policies, sampled):
    score, _ = problem(policies[name](), sampled)
    np.testing.assert_allclose(from_root(score, 10_000), policy_fisher(score), rtol=1e-8, atol=1e-10)
    # every second stage of two equal halves: the same mean, so the same matrix
    twice = problem(policies[name](), sampled, n=8, T=4)[0]
    repeat = lambda x: jnp.repeat(x.reshape(-1, *x.shape[2:]), 2, axis=0).reshape(8, 8, *x.shape[2:])  # noqa: E731
    doubled = eqx.tree_at(
        lambda s: (s.observations, s.actions, s.mask),
        twice,
        tuple(repeat(x) for x in (twice.observations, twice.actions, twice.mask)),
    )
    thinned = from_root(doubled, int(twice.mask.sum()))
    np.testing.assert_allclose(thinned, policy_fisher(doubled), rtol=1e-8, atol=1e-10)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("solver", ["parameter", "conjugate_gradient"])
def test_the_analytic_natural_direction_solves_with_that_matrix(solver, policies, sampled):
    score, a = problem(policies["network"](), sampled)
    gradient = score.gradient(a, 2)
    matrix = policy_fisher(score) / float(score.count)
    mean = np.trace(matrix) / len(matrix)
    if solver == "conjugate_gradient":  # which estimates the mean eigenvalue along one probe
        probe = np.asarray(jax.random.rademacher(jax.random.key(0), gradient.shape, float))
        mean = probe @ matrix @ probe / len(matrix)
    expected = np.linalg.solve(matrix + 0.1 * mean * np.eye(len(matrix)), gradient)
    w, info = solve(Natural(None, 0.1, solver, "analytic", tolerance=1e-5), score, a)
    np.testing.assert_allclose(w, expected, rtol=1e-3, atol=1e-5 * np.abs(expected).max())
    assert ("iterations" in info) == (solver == "conjugate_gradient")


@pytest.mark.usefixtures("float64")
def test_what_lies_outside_the_fisher_matrix_is_reported_and_left_out(policies, sampled):
    score, a = problem(policies["softmax"](), sampled)
    k = score.policy.parameters["bias_0"].size
    gradient = score.gradient(a, 2)
    # a shift of all logits changes no probability, so no score and no Fisher matrix has a say on it
    shift = np.concatenate(
        [
            np.ones(k) if name == "bias_0" else np.zeros(score.policy.parameters[name].size)
            for name in ("bias_0", "weight_0")
        ]
    )
    direction = Natural(fisher="analytic", rcond=1e-9)
    plain, _, without = eqx.filter_jit(direction)(score, a, gradient[None])
    size = float(jnp.linalg.norm(gradient)) / np.sqrt(k)
    moved, _, info = eqx.filter_jit(direction)(score, a, (gradient + size * shift)[None])
    assert float(without["outside"]) < 1e-12
    assert float(info["outside"]) == pytest.approx(0.5, abs=1e-9)
    np.testing.assert_allclose(moved, plain, rtol=1e-6, atol=1e-9)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("tolerance", [0.3, 0.1, 0.01])
def test_conjugate_gradients_of_a_damped_matrix_end_at_the_error_that_was_asked(tolerance):
    rng = np.random.default_rng(3)
    d = 200
    basis = np.linalg.qr(rng.normal(size=(d, d)))[0]
    values = np.logspace(-4, 0, d)
    matrix = jnp.asarray(basis * (values + 0.1 * values.mean()) @ basis.T)
    b = jnp.asarray(rng.normal(size=d))
    truth = jnp.linalg.solve(matrix, b)

    def reached(iterations):
        x, _, count, convex = conjugate_gradient(lambda v: matrix @ v, b, tolerance, iterations)
        assert bool(convex)
        left = x - truth
        return float(jnp.sqrt(left @ matrix @ left / (truth @ matrix @ truth))), int(count)

    final, count = reached(1000)
    assert final < tolerance
    # not later than it must: the error that was estimated, DELAY iterations ago, was about the one asked
    assert 0.5 * tolerance < reached(count - DELAY)[0] < 1.2 * tolerance


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("n", [6, 40])
def test_with_an_intercept_a_constant_is_fitted_beside_the_scores(n, sampled):
    """Fewer rollouts than parameters and more: least squares with a column of ones, of least norm in w."""
    policy = LinearGaussian(np.zeros((2, 5)), std=0.5)
    came = sampled(policy, n, 3, p=5)
    came = came._replace(outcome=jnp.asarray([2] + [0] * (n - 1)))  # one rollout is lost
    score = PolicyScore.of(policy, came)
    a = jnp.asarray(np.random.default_rng(0).normal(size=n) + 7.0) * score.counted
    w, info = solve(Natural(intercept=True), score, a)
    rows = dense(score, per_stage=False)[1:]
    centred, costs = rows - rows.mean(0), np.asarray(a)[1:]
    truth = np.linalg.lstsq(centred, costs - costs.mean(), rcond=1e-9)[0]
    np.testing.assert_allclose(w, truth, rtol=1e-6, atol=1e-9)
    shifted, _ = solve(Natural(intercept=True), score, a + 100.0 * score.counted)
    np.testing.assert_allclose(shifted, w, rtol=1e-6, atol=1e-8)
    assert int(info["fallback"]) == 0
    if n > 11:
        plain = np.linalg.lstsq(np.column_stack([rows, np.ones(len(rows))]), costs, rcond=None)[0]
        np.testing.assert_allclose(w, plain[:-1], rtol=1e-6)


@pytest.mark.parametrize("solver", ["parameter", "conjugate_gradient"])
def test_a_solution_that_is_not_finite_gives_way_to_the_gradient_and_is_named(solver, sampled):
    score, a = problem(LinearGaussian([[-0.5, 0.3, 0.1]], std=0.4), sampled)
    gradient = score.gradient(a, 2)
    broken = eqx.tree_at(lambda s: s.observations, score, score.observations * 1e25)  # products overflow
    w, _, info = eqx.filter_jit(lambda s, a, g: Natural(solver=solver, damping=0.1)(s, a, g))(broken, a, gradient[None])
    np.testing.assert_array_equal(w, gradient)
    assert int(info["fallback"]) == 1


def test_conjugate_gradients_end_at_negative_curvature_with_what_they_had():
    matrix = jnp.diag(jnp.asarray([2.0, 1.0, -1.0]))
    x, _, count, convex = conjugate_gradient(lambda v: matrix @ v, jnp.asarray([1.0, 1.0, 0.5]), 1e-6, 50)
    assert not bool(convex)
    assert 1 < int(count) < 50
    assert np.all(np.isfinite(x))
    assert float(x @ jnp.asarray([1.0, 1.0, 0.5])) > 0
    x, _, count, convex = conjugate_gradient(lambda v: -v, jnp.ones(3), 1e-6, 50)
    assert (int(count), bool(convex)) == (1, False)
    np.testing.assert_array_equal(x, np.zeros(3))


def test_only_the_damping_is_a_leaf_so_that_another_is_the_same_program():
    (damping,) = jax.tree.leaves((Natural(rcond=1e-3, intercept=True), Euclidean(), LeastSquares()))
    assert isinstance(damping, jax.Array)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("solver", ["parameter", "sample"])
def test_the_condition_is_that_of_the_fisher_matrix_on_what_counts(solver, policies, sampled):
    for name in ("linear", "softmax"):
        score, a = problem(policies[name](), sampled)
        values = np.linalg.svd(dense(score), compute_uv=False) ** 2
        values = values[values > 1e-9 * values[0]]
        _, info = solve(Natural(solver=solver), score, a)
        assert float(info["condition"]) == pytest.approx(values[0] / values[-1], rel=1e-6)
        assert int(info["rank"]) == len(values)


@pytest.mark.usefixtures("float64")
def test_what_is_noise_in_perturbed_parameters_does_not_depend_on_their_units():
    unit, found = np.array([1.0, 100.0, 0.01]), []
    for scale in (np.ones(3), unit):
        explore = ParameterNoise(8, np.array([0.1, 0.2, 0.3]) * scale, learned=True)
        score, costs = perturbed(explore, lambda x, scale=scale: bumpy(x / scale + 0.3), 3, explore.init(3))
        groups = score.group_gradients(costs, 4)
        w, quality, _ = Natural(fisher="analytic")(score, costs, groups)
        found.append((np.concatenate([w[:3] / scale, w[3:]]), float(quality.snr), float(quality.noise)))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9)


@pytest.mark.usefixtures("float64")
def test_conjugate_gradients_make_three_iterations_at_least_and_go_to_rounding_if_asked():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(8, 8))
    matrix, b = jnp.asarray(root @ root.T + np.eye(8)), jnp.asarray(rng.normal(size=8))
    _, _, count, _ = conjugate_gradient(lambda v: matrix @ v, b, 1e9, 50)
    assert int(count) == DELAY == 3
    x, residual, count, _ = conjugate_gradient(lambda v: matrix @ v, b, 1e-14, 50)
    assert float(jnp.linalg.norm(matrix @ x - b) / jnp.linalg.norm(b)) < 1e-13
    assert float(residual) < 1e-13
    assert 8 <= int(count) < 50
    _, residual, count, _ = conjugate_gradient(lambda v: matrix @ v, b, 1e-14, 5)
    assert int(count) == 5
    x, residual, count, convex = conjugate_gradient(lambda v: 4 * v, b, 1e-14, 50)
    np.testing.assert_allclose(x, b / 4, rtol=1e-14)
    assert (int(count), bool(convex), float(residual)) == (1, True, 0.0)
    x, residual, count, convex = conjugate_gradient(lambda v: 4 * v, 0 * b, 1e-14, 50)
    assert (float(jnp.abs(x).max()), int(count), bool(convex), float(residual)) == (0.0, 0, True, 0.0)
