"""The value baseline by a network: what it is given, the unit of what it predicts, and how it is fitted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policysearch.core.baselines import network
from policysearch.core.baselines._base import End, Sample
from policysearch.core.baselines.network import Network

pytestmark = pytest.mark.usefixtures("float64")

N, T, P = 6, 4, 2
RNG = np.random.default_rng(0)
SEEN, TARGET = RNG.normal(size=(N, T, P)), 5.0 + 3.0 * RNG.normal(size=(N, T))
fit = jax.jit(network.fit, static_argnums=4)
predicted = jax.jit(lambda state, observations, end=None: network.predicted(state, observations, end))


def linear(weights, mean=0.0, std=1.0, horizon=4.0):
    """A state without hidden layers: what it predicts is mean + std · (weights · inputs)."""
    layers = [(jnp.asarray([weights]), jnp.zeros(1))]
    return network.State(layers, jnp.asarray(mean), jnp.asarray(std), jnp.zeros((), int), jnp.asarray(horizon))


def test_a_new_network_predicts_nothing():
    state = network.init(P, T)
    assert [W.shape for W, _ in state.layers] == [(64, P + 1), (64, 64), (1, 64)]
    assert (float(state.horizon), int(state.fits), float(state.mean), float(state.std)) == (T, 0, 0, 0)
    stages, after = predicted(state, SEEN)
    assert not np.any(stages)
    assert not np.any(after)
    # hidden layers are there to be learned from
    assert all(np.any(W != 0) for W, _ in state.layers[:-1])
    assert not np.any(state.layers[-1][0])


def test_predictions_are_in_the_costs_unit_of_observation_and_time():
    stages, after = predicted(linear([0.5, -0.25, 2.0], mean=7.0, std=3.0), SEEN)
    expected = 7.0 + 3.0 * (SEEN @ np.array([0.5, -0.25]) + 2.0 * np.arange(T) / 4.0)
    np.testing.assert_allclose(stages, expected, rtol=1e-12)
    assert after.tolist() == [0] * N


def test_time_is_counted_in_horizons_whatever_the_batch_is_long():
    stages, _ = predicted(linear([0.0, 0.0, 1.0], horizon=8.0), SEEN)
    np.testing.assert_allclose(stages[0], np.arange(T) / 8.0, rtol=1e-12)


def test_observations_far_out_are_cut_at_ten():
    far = jnp.asarray([[[12.0, -50.0], [9.5, -9.5], [1e9, 0.0], [0.0, 0.0]]])
    stages, _ = predicted(linear([1.0, 100.0, 0.0]), far)
    np.testing.assert_allclose(stages[0], [10 - 1000, 9.5 - 950, 10, 0], rtol=1e-12)


def test_what_follows_the_horizon_is_predicted_without_time_where_that_cut_the_rollout():
    end = End(SEEN[:, 0] + 1.0, jnp.asarray([1.0, 0, 1, 1, 0, 1]), jnp.asarray(0.9))
    stages, after = predicted(linear([0.5, -0.25, 2.0], mean=7.0, std=3.0), SEEN, end)
    np.testing.assert_allclose(stages, 7.0 + 3.0 * SEEN @ np.array([0.5, -0.25]), rtol=1e-12)
    expected = 7.0 + 3.0 * (SEEN[:, 0] + 1.0) @ np.array([0.5, -0.25])
    np.testing.assert_allclose(after, [1, 0, 1, 1, 0, 1] * expected, rtol=1e-12)


def test_hidden_layers_squash():
    layers = [(jnp.asarray([[1.0, 0, 0]]), jnp.asarray([0.5])), (jnp.asarray([[2.0]]), jnp.asarray([3.0]))]
    stages, _ = predicted(linear([0.0, 0, 0])._replace(layers=layers), SEEN)
    np.testing.assert_allclose(stages, 2 * np.tanh(SEEN[..., 0] + 0.5) + 3, rtol=1e-12)


WEIGHT = np.ones((N, T)) * (np.arange(N) != 4)[:, None]
WEIGHT[2, 1:] = 0.0


def test_the_unit_is_that_of_the_stages_that_count():
    state = fit(network.init(P, T), SEEN, TARGET, WEIGHT, True)
    counted = TARGET[WEIGHT > 0]
    assert float(state.mean) == pytest.approx(counted.mean(), rel=1e-12)
    assert float(state.std) == pytest.approx(counted.std(), rel=1e-12)
    assert (int(state.fits), float(state.horizon)) == (1, T)
    assert int(fit(state, SEEN, TARGET, WEIGHT, True).fits) == 2


def test_costs_that_are_all_alike_keep_the_unit_or_have_one_of_their_own():
    same = jnp.full((N, T), 3.0)
    first = fit(network.init(P, T), SEEN, same, WEIGHT, True)
    assert (float(first.mean), float(first.std)) == (3.0, 1.0)
    later = fit(linear([0.5, 0.0, 0.0], std=7.0), SEEN, same, WEIGHT, True)
    assert (float(later.mean), float(later.std)) == (3.0, 7.0)


def test_a_change_of_unit_alone_leaves_predictions_as_they_are(monkeypatch):
    monkeypatch.setattr(network, "RATE", 0.0)
    state = linear([0.5, -0.25, 2.0], mean=7.0, std=3.0)
    state = state._replace(layers=[(state.layers[0][0], jnp.asarray([0.7]))])
    after = jax.jit(lambda *given: network.fit(*given, True))(state, SEEN, 100.0 * TARGET, WEIGHT)
    assert float(after.std) > 100
    np.testing.assert_allclose(predicted(after, SEEN)[0], predicted(state, SEEN)[0], rtol=1e-10)


def test_nothing_is_learned_where_no_stage_counts():
    state = linear([0.5, -0.25, 2.0], mean=7.0, std=3.0)
    after = fit(state, SEEN, TARGET, jnp.zeros((N, T)), True)
    jax.tree.map(np.testing.assert_array_equal, after, state)


def moved(before, after):
    """The farthest that a weight or a bias of a layer without hidden ones has moved, in steps of Adam."""
    unit = [(W * before.std / after.std, (b * before.std + before.mean - after.mean) / after.std)
            for W, b in before.layers]  # fmt: skip
    return max(float(jnp.max(jnp.abs(x - y))) for x, y in zip(
        jax.tree.leaves(unit), jax.tree.leaves(after.layers), strict=True)) / 3e-3  # fmt: skip


@pytest.mark.parametrize(("stages", "steps"), [(1, 1), (25, 1), (26, 2), (38, 2), (39, 3), (51, 3)])
def test_a_fit_passes_its_stages_ten_times_in_rows_of_128(stages, steps):
    """A first step of Adam is as long as its rate, and each of the next few along a steep slope nearly so."""
    observations = jnp.ones((13, 4, P))
    target, weight = jnp.full((13, 4), 3.0), (jnp.arange(52) < stages).astype(float).reshape(13, 4)
    before = linear([50.0, 0.0, 0.0])
    after = fit(before, observations, target, weight, True)
    assert moved(before, after) == pytest.approx(steps, rel=0.01)


def test_each_fit_draws_rows_of_its_own():
    state = linear([0.5, -0.25, 2.0])
    one, other = (fit(state._replace(fits=jnp.asarray(k)), SEEN, TARGET, WEIGHT, True) for k in (0, 1))
    assert np.any(one.layers[0][0] != other.layers[0][0])


def test_time_is_learned_from_only_where_nothing_follows():
    """A cost that is time itself."""
    time = jnp.broadcast_to(jnp.arange(T) / T, (N, T))
    still = np.zeros_like(SEEN)
    for timed in (True, False):
        after = fit(linear([0.0, 0.0, 0.0]), still, time, jnp.ones((N, T)), timed)
        assert (float(after.layers[0][0][0, 2]) != 0) == timed


def test_the_baseline_is_that_network():
    weight, seen, target = (jnp.asarray(x) for x in (WEIGHT, SEEN, TARGET))
    sample = Sample(target, weight, jnp.zeros(()), None, None, None)
    baseline, end = Network(), End(seen[:, 0], jnp.ones(N), jnp.asarray(0.9))
    state = baseline.init((T,), P)
    jax.tree.map(np.testing.assert_array_equal, state, network.init(P, T))
    for given in (None, end):
        learned = jax.jit(baseline.learn)(sample, seen, target, given, state)
        expected = fit(state, SEEN, TARGET, WEIGHT, given is None)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-9), learned, expected)
        stages, after = jax.jit(baseline.predict)(sample, seen, given, learned)
        np.testing.assert_allclose(stages, predicted(learned, SEEN, given)[0], rtol=1e-10)
        np.testing.assert_allclose(after, predicted(learned, SEEN, given)[1], rtol=1e-10)


@pytest.mark.parametrize("weight", [50.0, -50.0])
def test_a_fit_brings_predictions_nearer_from_above_and_from_below_however_few_they_are(weight):
    """Twelve stages are fewer than a row of a step, and still one is made."""
    observations, target = jnp.ones((3, 4, P)), jnp.full((3, 4), 3.0)
    before = linear([weight, 0.0, 0.0])
    after = fit(before, observations, target, jnp.ones((3, 4)), True)
    errors = [float(predicted(state, observations)[0][0, 0]) - 3.0 for state in (before, after)]
    assert 0 < abs(errors[1]) < abs(errors[0]) - 2e-3
    assert errors[0] * errors[1] > 0
