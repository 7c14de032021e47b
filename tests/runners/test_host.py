import jax.numpy as jnp
import numpy as np
import pytest

from policysearch.core.credit import CostToGo, TotalCost
from policysearch.core.direction import Euclidean, LeastSquares, Natural
from policysearch.core.explore import ActionNoise, Coordinates, ParameterNoise
from policysearch.core.method import Method
from policysearch.core.policies import LinearGaussian, Parameters
from policysearch.core.specification import FAILED, LOST, OK, Continuous, Discrete, Specification
from policysearch.core.step import KLStep, LearningRate
from policysearch.runners.host import jobs, offsets, padded_horizon, to_rollouts
from policysearch.runners.on_host import InProcess
from policysearch.tasks.python_function import PythonFunction
from policysearch.workers.jobs import Episode, gather

POLICY = LinearGaussian([[-0.5, 0.3, 0.1]], bias=[0.2], std=0.3, learned_std=True)
RATE = LearningRate(0.1)
PERTURBED = {
    "gaussian": Method(ParameterNoise(5, 0.2), TotalCost("none"), Euclidean(), RATE),
    "orthogonal, a std each": Method(
        ParameterNoise(5, [0.1, 0.2, 0.3, 0.4], "orthogonal", two_sided=False), TotalCost(), Euclidean(), RATE
    ),
    "with references": Method(
        ParameterNoise(3, 0.2, two_sided=False, reference="each"), TotalCost("reference"), Euclidean(), RATE
    ),
    "coordinates": Method(Coordinates(0.1, repeats=2), TotalCost("none"), LeastSquares(), RATE),
}


@pytest.mark.parametrize("method", PERTURBED.values(), ids=PERTURBED)
def test_the_drivers_offsets_are_what_the_workers_added(method):
    requested = jobs(method, method.init(POLICY, 4), seed=3)
    theta = requested.controller.theta()
    run = np.array([controller.theta() - theta for controller in requested.controllers(list(range(len(requested))))])
    np.testing.assert_allclose(offsets(requested), run, atol=1e-12)
    layout = method.layout(POLICY)
    assert np.all(run[layout.reference] == 0)
    assert np.all(np.abs(run[~layout.reference]).max(1) > 0)
    if np.any(layout.sign < 0):
        np.testing.assert_allclose(run[layout.sign > 0], -run[layout.sign < 0], atol=1e-12)


def test_trials_are_a_function_of_seed_and_update():
    method = PERTURBED["gaussian"]
    state = method.init(POLICY, 4)
    rows = [offsets(jobs(method, s, seed)) for s, seed in ((state, 0), (state, 0), (state, 1), (_next(state), 0))]
    np.testing.assert_array_equal(rows[0], rows[1])
    for other in rows[2:]:
        assert not np.any(np.isclose(rows[0], other))


def _next(state):
    import equinox as eqx

    return eqx.tree_at(lambda s: s.update, state, state.update + 1)


def test_sampled_actions_are_recorded_and_perturb_nothing():
    method = Method(ActionNoise(4), CostToGo(), Natural(), KLStep(0.1))
    requested = jobs(method, method.init(POLICY, 4), 0)
    assert requested.stochastic
    assert requested.record
    assert offsets(requested) is None


@pytest.mark.parametrize(
    ("longest", "horizon", "padded"),
    [(1, 1000, 256), (256, 1000, 256), (257, 2000, 1024), (257, 1000, 1000), (1000, 1000, 1000), (3, 50, 50)],
)
def test_sizes_are_few_and_end_at_the_horizon(longest, horizon, padded):
    assert padded_horizon(longest, horizon) == padded


def episode(length, actions):
    """A recorded rollout of two observations."""
    rng = np.random.default_rng(length)
    observations, costs = rng.normal(size=(length, 2)), rng.normal(size=length)
    mean = observations.mean(0)
    m2 = ((observations - mean) ** 2).sum(0)
    record = (observations, actions(length), costs)
    return Episode(costs.sum(), -costs.sum(), length, OK, "", False, mean, m2, record)


@pytest.mark.parametrize(
    ("action", "actions"),
    [
        (Continuous((-1.0,) * 3, (1.0,) * 3), lambda length: np.full((length, 3), 0.5)),
        (Discrete(4), lambda length: np.full(length, 3)),
    ],
)
def test_records_of_any_length_are_padded_and_masked(action, actions):
    episodes = [episode(4, actions), None, episode(1, actions), Episode.of_cost(np.nan, "stopped")]
    specification = Specification(name="rig", action=action, observation_size=2, horizon=6)
    rollouts = to_rollouts(gather(episodes, [], 2), True, specification)
    assert rollouts.costs.shape == (4, 6)
    assert np.asarray(rollouts.mask).sum(1).tolist() == [4, 0, 1, 0]
    assert np.asarray(rollouts.outcome).tolist() == [OK, LOST, OK, FAILED]
    for row, came in ((0, episodes[0]), (2, episodes[2])):
        observations, acted, costs = came.record
        np.testing.assert_allclose(rollouts.observations[row, : came.length], observations, rtol=1e-6)
        np.testing.assert_allclose(rollouts.actions[row, : came.length], acted)
        np.testing.assert_allclose(rollouts.costs[row, : came.length], costs, rtol=1e-6)
    assert jnp.issubdtype(rollouts.actions.dtype, jnp.integer) == isinstance(action, Discrete)
    everything = np.concatenate([episodes[0].record[0], episodes[2].record[0]])
    count, mean, m2 = rollouts.statistics
    assert float(count) == 5
    np.testing.assert_allclose(mean, everything.mean(0), rtol=1e-5)
    np.testing.assert_allclose(m2, 5 * everything.var(0), rtol=1e-5)


def test_where_stages_were_not_asked_for_totals_come_as_one_stage():
    came = gather([Episode.of_cost(1.0), Episode.of_cost(np.inf), None], [], 0)
    rollouts = to_rollouts(came, False, Specification(name="bench", horizon=50))
    assert rollouts.costs.shape == (3, 1)
    assert rollouts.observations is None
    assert np.asarray(rollouts.outcome).tolist() == [OK, FAILED, LOST]


def run(cost, method, values=(1.0, 2.0), updates=1, seed=0):
    policy = Parameters(["a", "b"], values)
    sampler, state, infos = InProcess(PythonFunction(cost, values), seed), method.init(policy, 1), []
    for _ in range(updates):
        state, info, calls = sampler.update(method, state, method.layout(policy).size)
        infos.append(info)
    assert calls == method.layout(policy).size
    sampler.close()
    return state.policy, infos


def test_a_python_cost_is_descended():
    method = Method(Coordinates(0.01), TotalCost("none"), LeastSquares(), LearningRate(0.25))
    policy, infos = run(lambda v: float(v @ v), method, updates=3)
    # v ← v − 0.25 · 2 v
    np.testing.assert_allclose(policy.vector(), np.array([1.0, 2.0]) / 8, rtol=1e-3)
    costs = [float(info["cost"]) for info in infos]
    assert costs == sorted(costs, reverse=True)


def test_failures_of_a_python_cost_are_counted_and_priced():
    method = Method(Coordinates(0.5), TotalCost("none"), LeastSquares(), LearningRate(0.1))
    policy, (info,) = run(lambda v: np.inf if v[0] > 1.2 else float(v.sum()), method)
    assert int(info["failed"]) == 1
    # the failed trial at a = 1.5 costs as much as the worst: that of b = 2.5
    np.testing.assert_allclose(
        policy.vector(), np.array([1.0, 2.0]) - 0.1 * np.array([3.5 - 2.5, 3.5 - 2.5]), rtol=1e-4
    )


def test_partners_get_the_same_seed_and_pairs_different_ones():
    seeds = []

    def cost(values, seed):
        seeds.append(seed)
        return float(values.sum())

    run(cost, Method(ParameterNoise(3, 0.1), TotalCost("none"), Euclidean(), RATE), updates=2)
    pairs = np.reshape(seeds, (6, 2))
    assert np.array_equal(pairs[:, 0], pairs[:, 1])
    assert len(set(pairs[:, 0].tolist())) == 6
