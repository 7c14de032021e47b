import jax.numpy as jnp
import msgspec
import numpy as np
import pytest

from policysearch.core.credit import TopPairs
from policysearch.core.policies import LinearGaussian
from policysearch.core.rollouts import Rollouts
from policysearch.core.specification import Continuous, Discrete, Specification
from policysearch.core.step import KLStep, LearningRate
from policysearch.methods import settings
from policysearch.methods.rule import Problem
from policysearch.methods.table import build
from policysearch.runners.host import compiled_tell
from policysearch.search.search import Search

RIG = Specification(name="rig", action=Continuous((-1.0,), (1.0,)), observation_size=4, horizon=10)


def problem(d=4, network=False, effect=0.05, **changes):
    return Problem(msgspec.structs.replace(RIG, **changes), d, network, effect)


@pytest.mark.parametrize("name", settings.METHODS)
def test_every_named_method_can_be_built_and_varies_what_its_settings_say(name):
    given = settings.method_settings(name, {})
    assert build(given, problem()).space == given.space


def test_ars_takes_the_step_of_the_paper():
    method = build(settings.ARS(directions=3, top=2, std=0.1, step_size=0.02), problem())
    assert float(method.step.rate) == pytest.approx(2 * 0.02 * 0.1)
    assert isinstance(method.credit, TopPairs)
    assert method.credit.top == 2
    assert method.layout(LinearGaussian([[0.0] * 4])).size == 6


def test_ars_scales_what_is_observed_in_its_second_version_and_nothing_else():
    second, first = (
        Search("pendulum", settings.ARS(version=v), policy="linear").policy.scaling for v in ("v2-t", "v1-t")
    )
    assert second.running
    assert not first.running
    np.testing.assert_array_equal(first.scale, np.ones(3))
    np.testing.assert_array_equal(first.shift, np.zeros(3))
    assert Search("bowl", settings.ARS(version="v2-t")).policy.scaling is None


def test_two_sided_rollouts_come_in_pairs():
    with pytest.raises(ValueError, match="rollouts is 7; two-sided perturbations come in pairs"):
        build(settings.WeightPerturbation(rollouts=7), problem())
    with pytest.raises(ValueError, match="top is 4 of 3 directions"):
        build(settings.ARS(directions=3, top=4), problem())


@pytest.mark.parametrize(
    ("changes", "references"),
    [({}, 3), ({"deterministic": True}, 1), ({"repeatable": False}, 1)],
    ids=["a seed each", "nothing is random", "no seed repeats"],
)
def test_references_are_as_many_as_can_help(changes, references):
    given = settings.WeightPerturbation(rollouts=3, two_sided=False, baseline="reference")
    layout = build(given, problem(**changes)).layout(LinearGaussian([[0.0] * 4]))
    assert int(layout.reference.sum()) == references


def test_common_random_numbers_follow_the_task_and_obey_the_user():
    assert build(settings.ARS(), problem()).explore.common
    assert not build(settings.ARS(), problem(repeatable=False)).explore.common
    assert not build(settings.ARS(common_random_numbers=False), problem()).explore.common


def test_a_learning_rate_is_taken_as_it_is_and_costs_are_not_normalised():
    for given in (settings.FiniteDifferences(learning_rate=0.3), settings.WeightPerturbation(learning_rate=0.3)):
        method = build(given, problem())
        assert isinstance(method.step, LearningRate)
        assert float(method.step.rate) == pytest.approx(0.3)
        assert not method.credit.normalise
    assert isinstance(build(settings.GPOMDP(), problem()).step, KLStep)
    assert isinstance(build(settings.GPOMDP(learning_rate=0.3), problem()).step, LearningRate)


def test_the_scale_free_step_is_at_most_as_long_as_said():
    """With normalised costs, |w| ≤ 1/ε a coordinate, so that step_size · ε² · w is at most step_size · ε · √d long."""
    method = build(settings.FiniteDifferences(epsilon=0.1, step_size=2.0, repeats=1), problem())
    policy = LinearGaussian([[0.0] * 4])
    layout = method.layout(policy)
    offsets = method.offsets(method.init(policy, 1), jnp.zeros((4, 4)), layout)
    costs = np.asarray(offsets) @ [1.0, -5.0, 2.0, 100.0]
    came = Rollouts(jnp.asarray(costs[:, None]), jnp.ones((8, 1), bool), jnp.zeros(8, int))
    after, info = compiled_tell(method, method.init(policy, 1), offsets, came)
    assert float(info["step_norm"]) == pytest.approx(2.0 * 0.1 * np.sqrt(4), rel=1e-4)
    assert float(after.policy.theta()[3]) < 0


def test_long_simulated_rollouts_are_compared_with_a_network_that_predicts_beyond_the_horizon():
    pendulum = Search("Pendulum-v1", "natural_gradient").method.credit
    assert (pendulum.baseline.name, pendulum.bootstrap) == ("network", True)
    ridge = Search("Pendulum-v1", settings.GPOMDP(baseline="value")).method.credit
    assert (ridge.baseline.name, ridge.bootstrap) == ("value", True)
    plain = Search("Pendulum-v1", settings.GPOMDP(discount=1.0)).method.credit
    assert (plain.baseline.name, plain.bootstrap) == ("network", False)
    plant = Search("cartpole-swingup", "natural_gradient").method.credit
    assert (plant.baseline.name, plant.bootstrap) == ("value", False)


@pytest.mark.parametrize(
    ("given", "solver"),
    [({}, "conjugate_gradient"), ({"damping": 0.0}, "auto"), ({"rcond": 1e-3}, "auto"),
     ({"fisher": "empirical"}, "auto"), ({"solver": "parameter"}, "parameter")],
)  # fmt: skip
def test_a_damped_matrix_of_a_networks_own_is_not_decomposed(given, solver):
    search = Search("pendulum", settings.NaturalGradient(**given))
    assert search.settings["parameters"] > 64
    assert search.method.direction.solver == solver
    assert Search("lqr", settings.NaturalGradient(fisher="analytic", damping=0.1)).method.direction.solver == "auto"


def test_a_charge_for_saturation_is_that_of_the_actions_limits_and_needs_some():
    method = build(settings.GPOMDP(action_limit_penalty=0.1), problem(action=Continuous((-1.0, 0.0), (3.0, 4.0))))
    charge = method.credit.action_limit_penalty
    assert float(charge.weight) == pytest.approx(0.1)
    assert (charge.centre.tolist(), charge.half_range.tolist()) == ([1.0, 2.0], [2.0, 2.0])
    assert float(charge.discount) == RIG.discount
    assert build(settings.GPOMDP(), problem()).credit.action_limit_penalty is None
    for action in (Continuous((-1.0,), (np.inf,)), Discrete(2)):
        with pytest.raises(ValueError, match=r"action_limit_penalty is 0\.1; .* leave it at 0"):
            build(settings.NaturalGradient(action_limit_penalty=0.1), problem(action=action))


def test_a_policy_that_asks_for_more_than_it_gets_is_pulled_back_by_the_charge_alone():
    """A gain of 5 where ±1 is applied: costs that depend on what is applied teach it nothing."""
    came = Rollouts(
        jnp.ones((64, 10)),
        jnp.ones((64, 10), bool),
        jnp.zeros(64, int),
        observations=jnp.ones((64, 10, 1)) * jnp.sign(jnp.asarray(np.random.default_rng(0).normal(size=(64, 1, 1)))),
        actions=None,
    )
    policy = LinearGaussian([[5.0]], std=0.3)
    actions = policy.mode(came.observations) + 0.3 * np.random.default_rng(1).normal(size=(64, 10, 1))
    came = came._replace(actions=actions, costs=1.0 - jnp.clip(actions, -1, 1)[..., 0] ** 2)
    moved = {}
    for weight in (0.0, 0.1):
        method = build(settings.NaturalGradient(rollouts=64, action_limit_penalty=weight, shrink=False), problem(d=1))
        state, _ = compiled_tell(method, method.init(policy, 10), None, came)
        moved[weight] = float(state.policy.gain[0, 0])
    assert moved[0.0] == 5.0
    assert moved[0.1] < 4.9
