"""The linear plants' closed forms against printed numbers, finite differences, rollouts and brute force."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from policysearch.tasks import build
from policysearch.tasks.double_integrator import double_integrator
from policysearch.tasks.lqr import LQR


def random_plant(horizon=6, discount=0.9, noise=0.02, spread=0.3):
    """A plant with all that has a closed form: 3 states, 2 actions, final cost, correlated noise."""
    rng = np.random.default_rng(4)
    root, final, Q = rng.normal(size=(3, 3, 3))
    return LQR(
        np.eye(3) + 0.2 * rng.normal(size=(3, 3)),
        rng.normal(size=(3, 2)),
        Q @ Q.T,
        np.diag([0.5, 2.0]),
        final=final @ final.T,
        noise_covariance=noise * root @ root.T,
        initial_mean=rng.normal(size=3),
        initial_covariance=spread * np.diag([1.0, 0.0, 2.0]),
        horizon=horizon,
        discount=discount,
    )


GAIN = np.array([[-0.2, 0.1, 0.0], [0.05, -0.1, -0.3]])
STD, BIAS = np.array([0.3, 0.6]), np.array([0.2, -0.4])


def rollouts(plant, K, std, bias, n, seed=0):
    """Total discounted costs (n,), states (n, T, p), standard noise (n, T, m), by the plant's own code."""

    def rollout(key):
        start, disturbance, action = jax.random.split(key, 3)
        noise = jax.random.normal(action, (plant.horizon, len(std)))

        def stage(x, inputs):
            standard, w = inputs
            u = jnp.asarray(K) @ x + jnp.asarray(bias) + jnp.asarray(std) * standard
            return plant.step(x, u, w), (x, plant.cost(x, u))

        end, (states, costs) = jax.lax.scan(stage, plant.reset(start), (noise, plant.noise(disturbance)))
        costs = costs.at[-1].add(plant.final_cost(end))
        return jnp.sum(costs * plant.discount ** jnp.arange(plant.horizon)), states, noise

    return jax.jit(jax.vmap(rollout))(jax.random.split(jax.random.key(seed), n))


def test_check_problem_has_the_documented_gradient_and_cost():
    plant = build("lqr-check")
    K = [[-0.5, -0.8]]
    np.testing.assert_allclose(plant.gradient(K, 0.3)["gain"], [[11.00060496, -0.94964500]], atol=5e-9)
    np.testing.assert_allclose(plant.expected_cost(K, 0.3), 16.78470, atol=5e-6)


@pytest.mark.parametrize("std", [STD, np.zeros(2)])
def test_gradient_equals_central_differences_of_the_cost(std):
    plant = random_plant()
    exact = plant.gradient(GAIN, std, BIAS)
    step = 1e-5

    def slope(cost, size):
        return [(cost(step * e) - cost(-step * e)) / (2 * step) for e in np.eye(size)]

    gain = slope(lambda e: plant.expected_cost(GAIN + e.reshape(2, 3), std, BIAS), 6)
    bias = slope(lambda e: plant.expected_cost(GAIN, std, BIAS + e), 2)
    log_std = slope(lambda e: plant.expected_cost(GAIN, std * np.exp(e), BIAS), 2)
    np.testing.assert_allclose(exact["gain"].ravel(), gain, rtol=1e-7)
    np.testing.assert_allclose(exact["bias"], bias, rtol=1e-7)
    np.testing.assert_allclose(exact["log_std"], log_std, rtol=1e-7, atol=1e-12)


def test_cost_moments_and_fisher_match_rollouts_within_five_standard_errors():
    plant, n = random_plant(), 40_000
    totals, states, noise = (np.asarray(a, float) for a in rollouts(plant, GAIN, STD, BIAS, n))
    visited = plant.visited(GAIN, STD, BIAS)
    scores = np.einsum("nti,ntj->ntij", noise / STD, states).reshape(n, plant.horizon, 6)
    for exact, samples in (
        (plant.expected_cost(GAIN, STD, BIAS), totals),
        (visited.mean, states.mean(1)),
        (visited.second, np.einsum("nti,ntj->nij", states, states) / plant.horizon),
        (plant.fisher(GAIN, STD, BIAS), np.einsum("nti,ntj->nij", scores, scores) / plant.horizon),
        (plant.fisher_log_std(), np.einsum("nti,ntj->nij", noise**2 - 1, noise**2 - 1) / plant.horizon),
    ):
        z = (samples.mean(0) - exact) / (samples.std(0) / np.sqrt(n))
        assert np.all(np.abs(z) < 5), z


@pytest.mark.parametrize("horizon", [1, 2, 4])
def test_riccati_equals_the_best_action_sequence_found_by_least_squares(horizon):
    plant = random_plant(horizon, noise=0.0, spread=0.0)

    def residuals(flat):
        x, parts = plant.initial_mean, []
        for t, u in enumerate(flat.reshape(horizon, 2)):
            weight = plant.discount ** (t / 2)
            parts += [weight * np.linalg.cholesky(plant.Q).T @ x, weight * np.linalg.cholesky(plant.R).T @ u]
            x = plant.A @ x + plant.B @ u
        return np.concatenate([*parts, weight * np.linalg.cholesky(plant.final).T @ x])

    # residuals are affine in the actions, so one linear least-squares problem gives the optimum
    offset = residuals(np.zeros(2 * horizon))
    slope = np.stack([residuals(e) - offset for e in np.eye(2 * horizon)], 1)
    actions = np.linalg.lstsq(slope, -offset, rcond=None)[0]
    best = plant.riccati()
    np.testing.assert_allclose(best.cost, np.sum((offset + slope @ actions) ** 2), rtol=1e-10)
    np.testing.assert_allclose(best.gains[0] @ plant.initial_mean, actions[:2], rtol=1e-8)


def test_riccati_counts_noise_and_start_spread_as_the_cost_of_its_own_gain_does():
    plant = random_plant(horizon=1)
    best = plant.riccati()
    np.testing.assert_allclose(best.cost, plant.expected_cost(best.gains[0]), rtol=1e-12)
    # with noise over several stages: the constant gain of a plant whose Riccati equation stands still
    still = LQR([[1.0]], [[1.0]], [[1.0]], [[2.0]], final=[[2.0]], noise_covariance=[[0.3]],
                initial_mean=[1.0], horizon=5)  # fmt: skip
    np.testing.assert_allclose(still.riccati().gains, np.full((5, 1, 1), -0.5))
    np.testing.assert_allclose(still.riccati().cost, still.expected_cost([[-0.5]]), rtol=1e-12)
    discounted = LQR([[1.0]], [[1.0]], [[1.0]], [[2.0]], final=[[1.8]], noise_covariance=[[0.3]],
                     initial_covariance=[[2.0]], horizon=2, discount=0.9)  # fmt: skip
    first, last = discounted.riccati().gains[:, 0, 0]
    x0, w = 2.0, 0.3
    x1 = (1 + first) ** 2 * x0 + w
    by_hand = (1 + 2 * first**2) * x0 + 0.9 * ((1 + 2 * last**2) * x1 + 1.8 * ((1 + last) ** 2 * x1 + w))
    np.testing.assert_allclose(discounted.riccati().cost, by_hand, rtol=1e-12)


def test_best_gain_is_stationary_and_lies_between_riccati_and_its_neighbours():
    plant = random_plant(horizon=12)
    K, cost = plant.best_gain()
    assert plant.riccati().cost < cost
    np.testing.assert_allclose(plant.gradient(K)["gain"], 0, atol=1e-5 * cost)
    rng = np.random.default_rng(0)
    assert all(plant.expected_cost(K + 1e-2 * rng.normal(size=K.shape)) > cost for _ in range(20))
    np.testing.assert_allclose(plant.solved_cost(), 1.05 * cost)


def test_stationary_gain_is_the_limit_of_riccati_gains():
    long = random_plant(horizon=400)
    np.testing.assert_allclose(long.stationary_gain(), long.riccati().gains[0], rtol=1e-8)


def test_mushroom_plant_has_the_published_costs():
    plant = build("lqr-mushroom")

    @jax.jit
    def cost(flat):
        def stage(x, _):
            u = jnp.clip(flat.reshape(2, 2) @ x, -1.0, 1.0)
            return plant.step(x, u, None), plant.cost(x, u)

        costs = jax.lax.scan(stage, plant.reset(jax.random.key(0)), length=plant.horizon)[1]
        return jnp.sum(costs * plant.discount ** jnp.arange(plant.horizon))

    assert float(cost(jnp.zeros(4))) == pytest.approx(8.06, abs=0.005)
    best = scipy.optimize.minimize(
        lambda flat: float(cost(jnp.asarray(flat))), [-0.5, 0.0, 0.0, -0.5], method="Nelder-Mead"
    )
    assert best.fun == pytest.approx(1.058, abs=5e-4)
    assert plant.solved_cost() == pytest.approx(1.05 * 1.058)
    # the state limit holds, whatever is pushed
    assert jnp.max(jnp.abs(plant.step(jnp.ones(2), jnp.ones(2), None))) == 1.0


def test_limits_refuse_closed_forms_and_say_what_to_do():
    plant = build("lqr-mushroom")
    for call in (
        plant.riccati,
        plant.stationary_gain,
        plant.best_gain,
        lambda: plant.expected_cost(np.zeros((2, 2))),
    ):
        with pytest.raises(ValueError, match="measure by rollouts"):
            call()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"B": np.ones((3, 1))}, r"B has shape \(3, 1\)"),
        ({"Q": [[1.0, 0.5], [0.0, 1.0]]}, "Q must be symmetric"),
        ({"Q": np.diag([1.0, -1.0])}, "Q must be positive semi-definite"),
        ({"R": [[0.0]]}, "R must be positive definite"),
        ({"A": [[np.nan, 0.0], [0.0, 1.0]]}, "A must be finite"),
        ({"noise_covariance": -np.eye(2)}, "noise_covariance must be positive semi-definite"),
        ({"initial_mean": [1.0]}, r"initial_mean has shape \(1,\)"),
        ({"horizon": 0}, "horizon is 0"),
        ({"discount": 1.5}, "discount is 1.5"),
        ({"observation_names": ("x",)}, "2 states, 1 actions, but 1 observation_names"),
    ],
)
def test_wrong_matrices_are_refused_by_name(change, message):
    plant = {"A": np.eye(2), "B": np.ones((2, 1)), "Q": np.eye(2), "R": [[1.0]], "horizon": 3}
    with pytest.raises(ValueError, match=message):
        LQR(**(plant | change))


def test_wrong_policies_are_refused_by_name():
    plant = random_plant()
    with pytest.raises(ValueError, match=r"K has shape \(2,\)"):
        plant.expected_cost([1.0, 2.0])
    with pytest.raises(ValueError, match="no Fisher matrix"):
        plant.fisher(GAIN, 0.0)


def test_states_follow_the_precision_of_the_program():
    plant = random_plant()

    def stage(key):
        x, w = plant.reset(key), plant.noise(key)
        return plant.step(x, jnp.zeros(2), w[0]), plant.cost(x, jnp.zeros(2))

    for enabled, expected in ((True, jnp.float64), (False, jnp.float32)):
        with jax.enable_x64(enabled):
            assert {a.dtype for a in jax.eval_shape(stage, jax.random.key(0))} == {jnp.dtype(expected)}


def test_two_masses_conserve_momentum_without_force_and_start_at_a_moderate_cost():
    plant = build("lqr")
    x = np.array([1.0, -0.5, 0.3, 0.4])
    for _ in range(20):
        x = plant.A @ x
    assert x[2] + x[3] == pytest.approx(0.7)
    assert x[0] + x[1] == pytest.approx(0.5 + 20 * 0.1 * 0.7)
    assert x[0] - x[1] != pytest.approx(1.5, abs=0.1)
    best = plant.best_gain()[1]
    assert 2 * best < plant.expected_cost(np.zeros((2, 4))) < 4 * best


def test_double_integrator_does_not_depend_on_the_unit_of_length():
    metres, millimetres = double_integrator(), double_integrator(unit=1e-3)
    K = np.array([[-2.0, -2.0]])
    assert metres.expected_cost(K, 0.1) == pytest.approx(millimetres.expected_cost(1e-3 * K, 0.1), rel=1e-12)
    np.testing.assert_allclose(millimetres.best_gain()[0], 1e-3 * metres.best_gain()[0], rtol=1e-3)
    assert millimetres.specification.observation_scale == (500.0, 500.0)


def test_double_integrator_succeeds_at_rest_whatever_the_unit():
    def share(plant, K):
        x = np.random.default_rng(0).normal(size=(200, 2)) @ plant.initial_root
        states = [x]
        for _ in range(plant.horizon):
            x = x @ (plant.A + plant.B @ K).T
            states.append(x)
        return np.mean([plant.success(rollout, None) for rollout in np.stack(states, 1)])

    metres, millimetres = double_integrator(), double_integrator(unit=1e-3)
    K = np.array([[-2.0, -2.0]])
    assert share(metres, K) == share(millimetres, 1e-3 * K) >= 0.95
    assert share(metres, K / 2) == share(millimetres, 1e-3 * K / 2) < 0.9
    assert share(metres, 0 * K) < 0.1


def test_double_integrator_is_an_exactly_sampled_mass():
    plant = double_integrator(mass=2.0)
    x = plant.step(jnp.array([1.0, 3.0]), jnp.array([4.0]), None)
    np.testing.assert_allclose(x, [1.0 + 3.0 * 0.05 + 0.5 * 2.0 * 0.05**2, 3.0 + 2.0 * 0.05], rtol=1e-6)
    with pytest.raises(ValueError, match="unit is 0"):
        double_integrator(unit=0)
