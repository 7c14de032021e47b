import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policysearch import ActionNoise, CostToGo, Euclidean, LearningRate, LinearGaussian, Method
from policysearch.core.baselines import value
from policysearch.core.baselines._base import End
from policysearch.core.baselines.value import fitted
from policysearch.core.rollouts import Rollouts

FIT = jax.jit(lambda *given: fitted(*given)[0])


def batch(n=40, T=6, p=3, seed=0):
    rng = np.random.default_rng(seed)
    observations = rng.normal(size=(n, T, p))
    time = np.linspace(0, 1, T)
    truth = 3.0 - 2.0 * time + observations[..., 0] ** 2 - observations[..., 1] * observations[..., 2]
    return observations, truth, np.arange(n) % value.FOLDS


@pytest.mark.usefixtures("float64")
def test_a_quadratic_value_is_recovered():
    observations, truth, fold = batch()
    fitted = FIT(observations, truth, jnp.ones(truth.shape), fold)
    assert np.abs(fitted - truth).max() < 0.02 * truth.std()


@pytest.mark.usefixtures("float64")
def test_a_value_that_is_a_cubic_in_time_is_recovered():
    observations, _, fold = batch(T=12)
    time = np.linspace(0, 1, 12)
    truth = 20 * (time - 0.2) * (time - 0.5) * (time - 0.9) + observations[..., 0]
    fitted = FIT(observations, truth, jnp.ones(truth.shape), fold)
    assert np.abs(fitted - truth).max() < 0.15 * truth.std()  # the ridge takes a little


@pytest.mark.usefixtures("float64")
def test_what_is_fitted_does_not_depend_on_the_own_fold():
    observations, truth, fold = batch(n=12)
    moved = np.where((fold == 2)[:, None], truth + 100.0, truth)
    before, after = (np.asarray(FIT(observations, y, jnp.ones(truth.shape), fold)) for y in (truth, moved))
    np.testing.assert_allclose(after[fold == 2], before[fold == 2], atol=1e-9)
    assert np.abs(after - before)[fold != 2].max() > 1.0


@pytest.mark.usefixtures("float64")
def test_stages_without_weight_teach_nothing():
    observations, truth, fold = batch(n=12)
    weight = np.ones(truth.shape)
    weight[3:, 4:] = 0
    changed = np.where(weight > 0, truth, 1e6)
    np.testing.assert_allclose(
        FIT(observations, changed, weight, fold), FIT(observations, truth, weight, fold), atol=1e-8
    )


@pytest.mark.parametrize("n", [1, 2, 7])
def test_few_rollouts_and_constant_observations_stay_finite_in_float32(n):
    observations = jnp.broadcast_to(jnp.asarray([1.0, 0.0]), (n, 5, 2))
    fold = jnp.arange(n) % value.FOLDS
    fitted = FIT(observations, jnp.full((n, 5), 1e3), jnp.ones((n, 5)), fold)
    assert np.all(np.isfinite(fitted))


def test_many_observations_get_squares_only():
    p = value.MOST_PRODUCTS + 1
    assert value.features(jnp.ones((1, 2, p))).shape[-1] == 1 + 2 * p
    assert value.features(jnp.ones((1, 2, 3))).shape[-1] == 1 + 3 + 6


def walk(a, noise, gamma, T, n, seed):
    """x' = a x + w with cost x², cut at the horizon: observations, costs-to-go within it, how it goes on."""
    rng = np.random.default_rng(seed)
    x = np.zeros((n, T + 1))
    x[:, 0] = rng.normal(size=n)
    for k in range(T):
        x[:, k + 1] = a * x[:, k] + noise * rng.normal(size=n)
    to_go = np.zeros((n, T + 1))
    for k in reversed(range(T)):
        to_go[:, k] = x[:, k] ** 2 + gamma * to_go[:, k + 1]
    single = lambda array: jnp.asarray(array, jnp.float32)  # noqa: E731
    end = End(single(x[:, T:]), jnp.ones(n, jnp.float32), single(gamma))
    return single(x[:, :T, None]), single(to_go[:, :T]), end


@pytest.mark.parametrize(
    ("a", "gamma", "T", "noise", "n"),
    [(0.9, 0.9, 20, 0.5, 4000), (0.9, 0.99, 20, 0.5, 4000), (0.98, 0.99, 100, 0.3, 4000), (-0.7, 0.95, 10, 1.0, 4000)],
)
def test_noise_of_the_state_after_the_horizon_does_not_flatten_the_value(a, gamma, T, noise, n):
    """V(x) = P x² + c with P = 1/(1 − γa²), within 10 %: the standard error is 1 to 3 %."""
    observations, to_go, end = walk(a, noise, gamma, T, n, 7)
    predicted, after = value.fitted(observations, to_go, jnp.ones((n, T)), jnp.arange(n) % value.FOLDS, end)
    P = 1 / (1 - gamma * a**2)
    squares = np.asarray(observations[..., 0], float) ** 2
    slope, constant = np.polyfit(squares.ravel(), np.asarray(predicted, float).ravel(), 1)
    assert slope == pytest.approx(P, rel=0.1)
    assert constant == pytest.approx(P * gamma * noise**2 / (1 - gamma), rel=0.1)
    last = np.asarray(end.observations[:, 0], float) ** 2
    np.testing.assert_allclose(np.polyfit(last, np.asarray(after, float), 1)[0], P, rtol=0.1)


def test_the_value_of_few_rollouts_stays_bounded_where_the_instruments_say_little():
    """With plain instrumental variables one of these forty fits is a hundred times the cost-to-go itself."""
    for seed in range(40):
        observations, to_go, end = walk(0.9, 0.5, 0.95, 20, 8, seed)
        predicted, _ = value.fitted(observations, to_go, jnp.ones((8, 20)), jnp.arange(8) % value.FOLDS, end)
        assert float(jnp.abs(predicted).max()) < 100 * float(to_go.max())


def test_an_advantage_that_leans_on_the_value_gives_the_gradient_of_the_discounted_cost():
    """x' = x + 0.3u + 0.4w, cost x², u = −0.3x + 0.5ξ, from the stationary start; within 3 standard errors.

    E Σ_k ∂log π/∂K Q(x_k, u_k) = T γ P 2b a S with a = 1 + bK, S the stationary variance, P = 1/(1 − γa²).
    """
    b, gain, std, disturbance, gamma, T, n, batches = 0.3, -0.3, 0.5, 0.4, 0.95, 20, 500, 60
    a = 1 + b * gain
    S = (b**2 * std**2 + disturbance**2) / (1 - a**2)
    exact = T * gamma / (1 - gamma * a**2) * 2 * b * a * S
    credit = CostToGo("value", discounting=(gamma, 0.5), bootstrap=True)
    method = Method(ActionNoise(n), credit, Euclidean(), LearningRate(1.0))
    policy, rng, found = LinearGaussian([[gain]], std=std), np.random.default_rng(5), []
    tell = eqx.filter_jit(method.tell)
    for _ in range(batches):
        x, u = np.zeros((n, T + 1)), np.zeros((n, T))
        x[:, 0] = np.sqrt(S) * rng.normal(size=n)
        for k in range(T):
            u[:, k] = gain * x[:, k] + std * rng.normal(size=n)
            x[:, k + 1] = x[:, k] + b * u[:, k] + disturbance * rng.normal(size=n)
        single = lambda array: jnp.asarray(array, jnp.float32)  # noqa: E731
        rollouts = Rollouts(
            single(x[:, :T] ** 2), jnp.ones((n, T), bool), jnp.zeros(n, int), single(x[:, :T, None]),
            single(u[..., None]), jnp.zeros(n, bool), last=single(x[:, T:]),
        )  # fmt: skip
        after, _ = tell(method.init(policy, T), None, rollouts)
        found.append(float(policy.theta()[0] - after.policy.theta()[0]))
    assert np.mean(found) == pytest.approx(exact, abs=3 * np.std(found) / np.sqrt(batches))
    assert np.std(found) / np.sqrt(batches) < 0.05 * exact


def test_features_are_products_of_at_most_sixteen_observations():
    o = np.random.default_rng(0).normal(size=(3, 16))
    got = np.asarray(value.features(jnp.asarray(o)))
    pairs = [o[:, i] * o[:, j] for i in range(16) for j in range(i, 16)]
    np.testing.assert_allclose(got, np.column_stack([np.ones(3), o, *pairs]), rtol=1e-5)
    o = np.random.default_rng(0).normal(size=(3, 17))
    np.testing.assert_allclose(value.features(jnp.asarray(o)), np.column_stack([np.ones(3), o, o**2]), rtol=1e-5)


def test_observations_far_out_are_taken_as_ten_deviations():
    far = jnp.asarray([[12.0, -1e6], [10.0, -10.0]])
    np.testing.assert_array_equal(*value.features(far))
    assert float(value.features(jnp.asarray([9.5]))[1]) == 9.5
    assert float(value.features(jnp.asarray([-9.5]))[1]) == -9.5


@pytest.mark.usefixtures("float64")
def test_a_level_that_all_costs_share_is_predicted_almost_exactly():
    """The ridge takes 1e-4 of what differs and a thousandth of that from the level."""
    observations, truth, fold = batch(n=12)
    constant = FIT(observations, np.full(truth.shape, 1e4), jnp.ones(truth.shape), fold)
    np.testing.assert_allclose(constant, 1e4, rtol=1e-6)
    level = FIT(observations, truth + 1e4, jnp.ones(truth.shape), fold)
    np.testing.assert_allclose(level - FIT(observations, truth, jnp.ones(truth.shape), fold), 1e4, rtol=1e-6)


@pytest.mark.usefixtures("float64")
def test_predictions_are_the_ridge_regression_on_the_other_folds():
    """By the normal equations of each fold in NumPy, with features in units of their root mean square."""
    rng = np.random.default_rng(1)
    n, T = 11, 4
    observations, to_go = rng.normal(size=(n, T, 2)) * [1.0, 3.0], rng.normal(size=(n, T))
    weight, fold = (np.arange(T) < rng.integers(1, T + 1, n)[:, None]).astype(float), np.arange(n) % value.FOLDS
    got = np.asarray(FIT(observations, to_go, weight, fold))
    time = np.broadcast_to(np.linspace(0, 1, T)[:, None], (n, T, 1))
    a, b = observations[..., :1], observations[..., 1:]
    F = np.concatenate([np.ones((n, T, 1)), a, b, a * a, a * b, b * b, time, time**2, time**3], -1)
    for k in range(value.FOLDS):
        rows, y = F[fold != k][weight[fold != k] > 0], to_go[fold != k][weight[fold != k] > 0]
        unit = np.sqrt((rows**2).mean(0))
        ridge = np.eye(9) * 1e-4 * len(rows)
        ridge[0, 0] *= 1e-3
        w = np.linalg.solve((rows / unit).T @ (rows / unit) + ridge, (rows / unit).T @ y) / unit
        np.testing.assert_allclose(got[fold == k], F[fold == k] @ w, rtol=1e-7, atol=1e-9)


@pytest.mark.usefixtures("float64")
def test_a_value_beyond_the_horizon_solves_its_two_stage_least_squares():
    """Rollouts of several lengths, of which some ended by themselves; by the textbook's projections in NumPy."""
    rng = np.random.default_rng(2)
    n, T, gamma = 23, 5, 0.8
    lengths, cut = rng.integers(2, T + 1, n), (np.arange(n) % 3 > 0).astype(float)
    observations, last = rng.normal(size=(n, T, 1)), rng.normal(size=(n, 1))
    weight, to_go, fold = (np.arange(T) < lengths[:, None]).astype(float), rng.normal(size=(n, T)), np.arange(n) % 5
    end = End(jnp.asarray(last), jnp.asarray(cut), jnp.asarray(gamma))
    got, after = (np.asarray(x) for x in jax.jit(fitted)(observations, to_go, jnp.asarray(weight), fold, end))
    phi, phi_last = (
        np.concatenate([observations**j for j in range(3)], -1),
        np.concatenate([last**j for j in range(3)], -1),
    )
    rest = cut[:, None] * gamma ** (lengths[:, None] - np.arange(T))
    rows = phi - rest[..., None] * phi_last[:, None]
    for k in range(5):
        chosen = (weight > 0) & (fold != k)[:, None]
        Z, X, y = phi[chosen], rows[chosen], to_go[chosen]
        unit = np.sqrt((Z**2).mean(0))
        Z, X = Z / unit, X / unit
        ridge = np.diag([1e-3, 1, 1]) * 1e-4 * len(Z)
        explained = np.linalg.solve(Z.T @ Z + ridge, Z.T @ X)
        w = np.linalg.solve((Z.T @ X).T @ explained + ridge, explained.T @ (Z.T @ y)) / unit
        np.testing.assert_allclose(got[fold == k], phi[fold == k] @ w, rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(after[fold == k], cut[fold == k] * (phi_last[fold == k] @ w), rtol=1e-6, atol=1e-8)
