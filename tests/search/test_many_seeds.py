import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policysearch import train, train_seeds
from policysearch.core import settings
from policysearch.core.credit import TotalCost
from policysearch.core.direction import Euclidean
from policysearch.core.explore import ActionNoise, ParameterNoise
from policysearch.core.method import Method
from policysearch.core.policies import Parameters
from policysearch.core.specification import Continuous, Specification
from policysearch.core.step import LearningRate
from policysearch.search import many_seeds
from policysearch.search.loop import HOPELESS
from policysearch.tasks.functions import bowl
from policysearch.tasks.task import Function, Task

METHOD = Method(ActionNoise(6), TotalCost("mean"), Euclidean(), LearningRate(0.01))


class Drift(Task):
    """x' = x + u + w, cost x² + u²; `traced` counts how often a program with it was traced."""

    traced = 0

    @property
    def specification(self):
        return Specification(name="drift", action=Continuous((-9.0,), (9.0,)), observation_size=1, horizon=4)

    def reset(self, key):
        Drift.traced += 1
        return jax.random.normal(key, (1,))

    def noise(self, key):
        return jax.random.normal(key, (4, 1))

    def step(self, x, u, w):
        return x + u + w

    def cost(self, x, u):
        return x[0] ** 2 + u[0] ** 2


DRIFT = Drift()
NETWORK = settings.PolicySettings(kind="network", hidden=(3,))


@pytest.mark.parametrize("policy", [NETWORK, "linear"])
def test_each_seed_gets_what_a_single_search_gives(policy):
    """Networks start from other weights with each seed; the numbers agree up to rounding."""
    together = train_seeds(DRIFT, METHOD, seeds=[7, 0], policy=policy, budget="3updates", evaluation_rollouts=5)
    for seed, result in zip([7, 0], together, strict=True):
        single = train(DRIFT, METHOD, seed=seed, policy=policy, budget="3updates", evaluation_rollouts=5)
        np.testing.assert_allclose(result.policy.theta(), single.policy.theta(), rtol=1e-4, atol=1e-5)
        assert (result.counts, result.reason) == (single.counts, single.reason)
        assert len(result.records) == 3
        for ours, theirs in zip(result.records, single.records, strict=True):
            assert ours.keys() == theirs.keys()
            assert (ours["rollouts"], ours["stages"], ours["share"]) == (
                theirs["rollouts"],
                theirs["stages"],
                theirs["share"],
            )
            np.testing.assert_allclose(ours["cost"], theirs["cost"], rtol=1e-4)
        np.testing.assert_allclose(result.evaluation.cost_mean, single.evaluation.cost_mean, rtol=1e-4)
    assert not np.allclose(together[0].policy.theta(), together[1].policy.theta())


def test_all_seeds_and_updates_share_one_compilation():
    heard = []
    before = Drift.traced
    train_seeds(
        DRIFT,
        METHOD,
        seeds=5,
        policy="linear",
        budget="4updates",
        evaluation_rollouts=2,
        on_update=lambda seed, record: heard.append((seed, record["update"])),
    )
    assert Drift.traced - before == 2  # the update and the evaluation
    assert heard == [(seed, update) for update in (1.0, 2.0, 3.0, 4.0) for seed in range(5)]


def test_a_hopeless_seed_stops_and_the_others_go_on():
    """Some of the seeds walk up, to where every trial fails, and some down, as noise has it; each step is large."""

    def cost(v, key):
        paid = jnp.maximum(-(v[0] ** 2), -9.0) + 1e-3 * jax.random.normal(key)
        return jnp.where(v[0] > 1, jnp.nan, paid)

    cliff = Function(cost, (0.0,))
    method = Method(ParameterNoise(1, 0.1, common=False), TotalCost("none"), Euclidean(), LearningRate(20.0))
    results = train_seeds(cliff, method, seeds=6, budget="30updates")
    stopped = [result for result in results if "no usable trial" in result.reason]
    assert 0 < len(stopped) < 6
    for result in results:
        failed = [record["skipped"] for record in result.records]
        if result in stopped:
            assert failed[-HOPELESS:] == [1.0] * HOPELESS
            assert len(failed) < 30
            assert result.counts["gradient"] == 2 * len(failed)
            assert result.policy.values()["x0"] > 1
        else:
            assert (len(failed), result.reason) == (30, "budget spent")
            assert result.policy.values()["x0"] < 1


@pytest.mark.parametrize("vectorised", [True, False])
def test_a_seed_that_was_stopped_stays_where_it_was(vectorised):
    method = Method(ParameterNoise(1, 0.1), TotalCost("none"), Euclidean(), LearningRate(0.1))
    task, state = bowl(d=2), method.init(Parameters(["a", "b"], [1.0, 1.0]), 1)
    states = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), state)
    which, going = jnp.arange(2, dtype=jnp.uint32), jnp.array([False, True])
    after, _ = many_seeds._update((task, method), states, which, going, vectorised)
    leaves = zip(jax.tree.leaves(after), jax.tree.leaves(states), strict=True)
    moved = [np.asarray(new != old).reshape(2, -1).any(1) for new, old in leaves]
    assert np.any(moved, axis=0).tolist() == [False, True]


def test_a_python_cost_is_searched_one_seed_after_another():
    def cost(values, seed):
        return float(values @ values) + seed % 7

    cost.initial = (1.0, 2.0)
    heard = []
    options = {"method": "weight_perturbation", "budget": "3updates"}
    results = train_seeds(cost, seeds=[2, 1], on_update=lambda seed, record: heard.append(seed), **options)
    assert heard == [2, 2, 2, 1, 1, 1]
    for seed, result in zip([2, 1], results, strict=True):
        single = train(cost, seed=seed, **options)
        assert np.array_equal(result.policy.theta(), single.policy.theta())
        assert result.evaluation == single.evaluation


@pytest.mark.parametrize(
    ("chosen", "words"),
    [(0, "give at least one"), ([], "give at least one"), ([1, 2, 1], "distinct"), ([0, -1], "seed is -1")],
)
def test_seeds_that_mean_nothing_are_refused(chosen, words):
    with pytest.raises(ValueError, match=words):
        train_seeds(DRIFT, METHOD, seeds=chosen, policy="linear")
