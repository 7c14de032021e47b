import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policysearch import value
from policysearch.value import fitted

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
