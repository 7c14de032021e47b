import math

import jax.numpy as jnp
import numpy as np
import pytest

from policysearch.core.policies import LinearGaussian, NeuralGaussian, Softmax, linear_gaussian, neural_gaussian
from policysearch.core.settings import PolicySettings
from policysearch.core.specification import Continuous, Discrete, Specification
from policysearch.methods import rule, start
from policysearch.methods.settings import method_settings


def rig(**changes):
    given = {"name": "rig", "action": Continuous((-2.0,), (4.0,)), "observation_size": 3, "horizon": 10} | changes
    return Specification(**given)


def test_the_numbers_of_an_update_grow_with_the_parameters_within_limits():
    numbers = [rule.Problem(rig(), d, False, 0.1) for d in (1, 8, 1000)]
    assert [p.rollouts for p in numbers] == [10, 20, 64]
    assert [p.directions for p in numbers] == [4, 4, 64]
    network = rule.Problem(rig(), 8, True, 0.1)
    assert network.rollouts == 64
    assert network.max_kl < numbers[0].max_kl
    assert network.damping > numbers[0].damping == 0


def test_a_perturbation_moves_the_action_by_the_same_share_of_its_range():
    policy = LinearGaussian(np.zeros((1, 3)))
    narrow, wide = (start.problem(rig(action=Continuous((-h,), (h,))), policy, "parameter") for h in (1.0, 10.0))
    assert wide.effect == pytest.approx(10 * narrow.effect)
    rows = narrow.effect * np.random.default_rng(0).normal(size=(4000, 3))
    # an observation of unit size, (1, 1, 1): four standard errors
    assert np.std(rows.sum(1)) == pytest.approx(start.PARAMETER_EFFECT, rel=4 / np.sqrt(8000))


def test_the_method_follows_the_task():
    assert rule.default_method(rig(action=None)) == "weight_perturbation"
    assert rule.default_method(rig(returns=True, ends_early=True, policy="either")) == "trpo"
    assert rule.default_method(rig(returns=True, ends_early=True, policy="either", action=Discrete(2))) == "trpo"
    assert rule.default_method(rig(policy="network")) == "trpo"
    assert rule.default_method(rig()) == "natural_gradient"


def test_advantages_look_ahead_over_a_tenth_of_a_long_horizon_of_a_simulator():
    simulator = rule.Problem(rig(returns=True, ends_early=True, policy="either", horizon=500), 8, True, 0.1)
    assert (simulator.discount, simulator.gae_lambda, simulator.rollouts) == (0.98, 0.95, 10)
    assert rule.Problem(rig(returns=True, ends_early=True, policy="either", horizon=100), 8, True, 0.1).rollouts == 20
    for unbiased in (
        rig(horizon=500),
        rig(returns=True, ends_early=True, policy="either", horizon=99),
        rig(returns=True, ends_early=True, horizon=500, discount=0.9),
    ):
        assert rule.Problem(unbiased, 8, True, 0.1).discount == 1
    assert rule.Problem(rig(horizon=500), 8, True, 0.1, biased=True).discount == 0.98


def test_simulators_get_a_network_where_actions_are_sampled():
    for method, kind in (("ars", LinearGaussian), ("trpo", NeuralGaussian), ("gpomdp", NeuralGaussian)):
        assert isinstance(
            start.policy_of(rig(returns=True, ends_early=True, policy="either"), None, method_settings(method, {}), 0),
            kind,
        )
    choices = start.policy_of(
        rig(returns=True, ends_early=True, policy="either", action=Discrete(2)), None, method_settings("trpo", {}), 0
    )
    assert isinstance(choices, Softmax)
    assert choices.depth == 3
    assert isinstance(start.policy_of(rig(), None, method_settings("trpo", {}), 0), LinearGaussian)
    assert isinstance(
        start.policy_of(rig(returns=True, ends_early=True, policy="either"), "linear", method_settings("trpo", {}), 0),
        LinearGaussian,
    )


def test_policies_start_at_the_centre_of_the_action_range_with_noise_in_its_unit():
    linear = start.default_policy(rig(), PolicySettings())
    assert isinstance(linear, LinearGaussian)
    np.testing.assert_allclose(linear.mode(jnp.ones(3)), [1.0])
    np.testing.assert_allclose(np.exp(linear.log_std), [linear_gaussian.STD * 3.0], rtol=1e-6)
    network = start.default_policy(rig(), PolicySettings(kind="network", hidden=(4,)))
    assert isinstance(network, NeuralGaussian)
    assert abs(float(network.mode(jnp.ones(3))[0]) - 1.0) < 0.1 * 3.0
    np.testing.assert_allclose(np.exp(network.log_std), [neural_gaussian.NETWORK_STD * 3.0], rtol=1e-6)
    assert "log_std" in network.parameters


def test_discrete_actions_start_with_equal_chances():
    policy = start.default_policy(rig(action=Discrete(4)), PolicySettings())
    assert isinstance(policy, Softmax)
    np.testing.assert_allclose(policy(jnp.ones(3)).logits, np.zeros(4))
    with pytest.raises(ValueError, match="no std to set"):
        start.default_policy(rig(action=Discrete(4)), PolicySettings(std=0.1))


@pytest.mark.parametrize(
    ("scale", "wish", "running", "moves", "expected"),
    [
        ((1.0, 2.0, 4.0), "auto", None, False, [1, 2, 4]),
        (None, "auto", None, True, [1, 1, 1]),
        ((1.0, 2.0, 4.0), "auto", False, False, [1, 1, 1]),
        ((1.0, 2.0, 4.0), "auto", True, True, [1, 1, 1]),
        ((1.0, 2.0, 4.0), "fixed", True, False, [1, 2, 4]),
        ((1.0, 2.0, 4.0), "none", True, False, [1, 1, 1]),
    ],
)
def test_scaling_is_the_users_then_the_methods_then_the_tasks(scale, wish, running, moves, expected):
    policy = start.default_policy(rig(observation_scale=scale), PolicySettings(scaling=wish), running=running)
    assert policy.scaling.running is moves
    np.testing.assert_allclose(policy.scaling.scale, expected)


@pytest.mark.parametrize("running", [None, True])
@pytest.mark.parametrize(
    ("action", "wish", "bias", "centred"),
    [
        (Continuous((-2.0,), (2.0,)), "auto", None, False),
        (Continuous((-math.inf,), (math.inf,)), "auto", None, False),
        (Continuous((-2.0,), (4.0,)), "auto", None, True),
        (Continuous((-2.0,), (4.0,)), "auto", False, False),
        (Continuous((-2.0,), (2.0,)), "auto", True, True),
        (Continuous((-2.0,), (2.0,)), "running", None, True),
        (Continuous((-2.0,), (4.0,)), "rms", None, False),
        (Discrete(3), "auto", None, True),
        (Discrete(3), "auto", False, False),
    ],
)
def test_a_law_without_a_constant_is_scaled_about_zero_unless_a_mean_is_asked(action, wish, bias, centred, running):
    settings = PolicySettings(scaling=wish, bias=bias)
    scaling = start.default_policy(rig(action=action), settings, running=running).scaling
    assert (scaling.running, scaling.centred) == (True, centred)


def test_a_fixed_scaling_needs_a_scale():
    with pytest.raises(ValueError, match="does not say how large"):
        start.default_policy(rig(), PolicySettings(scaling="fixed"))


# known parameters
