import json

import jax.numpy as jnp
import numpy as np
import pytest

from policysearch import defaults
from policysearch.normalize import Scaling
from policysearch.policies import LinearGaussian, NeuralGaussian, Parameters, Softmax
from policysearch.settings import PolicySettings
from policysearch.specification import Continuous, Discrete, Specification


def rig(**changes):
    given = {"name": "rig", "action": Continuous((-2.0,), (4.0,)), "observation_size": 3, "horizon": 10} | changes
    return Specification(**given)


def test_the_numbers_of_an_update_grow_with_the_parameters_within_limits():
    numbers = [defaults.Problem(rig(), d, False, 0.1) for d in (1, 8, 1000)]
    assert [p.rollouts for p in numbers] == [10, 20, 64]
    assert [p.directions for p in numbers] == [4, 4, 64]
    network = defaults.Problem(rig(), 8, True, 0.1)
    assert network.rollouts == 64
    assert network.kl < numbers[0].kl
    assert network.damping > numbers[0].damping == 0


def test_a_perturbation_moves_the_action_by_the_same_share_of_its_range():
    policy = LinearGaussian(np.zeros((1, 3)))
    narrow, wide = (defaults.problem(rig(action=Continuous((-h,), (h,))), policy, "parameter") for h in (1.0, 10.0))
    assert wide.effect == pytest.approx(10 * narrow.effect)
    rows = narrow.effect * np.random.default_rng(0).normal(size=(4000, 3))
    # an observation of unit size, (1, 1, 1): four standard errors
    assert np.std(rows.sum(1)) == pytest.approx(defaults.PARAMETER_EFFECT, rel=4 / np.sqrt(8000))


def test_the_method_follows_the_task():
    assert defaults.default_method(rig(action=None)) == "weight_perturbation"
    assert defaults.default_method(rig(reward=True)) == "ars"
    assert defaults.default_method(rig(reward=True, action=Discrete(2))) == "natural_gradient"
    assert defaults.default_method(rig()) == "natural_gradient"


def test_policies_start_at_the_centre_of_the_action_range_with_noise_in_its_unit():
    linear = defaults.default_policy(rig(), PolicySettings())
    assert isinstance(linear, LinearGaussian)
    np.testing.assert_allclose(linear.mode(jnp.ones(3)), [1.0])
    np.testing.assert_allclose(np.exp(linear.log_std), [defaults.LINEAR_STD * 3.0], rtol=1e-6)
    network = defaults.default_policy(rig(), PolicySettings(kind="network", hidden=(4,)))
    assert isinstance(network, NeuralGaussian)
    assert abs(float(network.mode(jnp.ones(3))[0]) - 1.0) < 0.1 * 3.0
    np.testing.assert_allclose(np.exp(network.log_std), [defaults.NETWORK_STD * 3.0], rtol=1e-6)
    assert "log_std" in network.parameters


def test_discrete_actions_start_with_equal_chances():
    policy = defaults.default_policy(rig(action=Discrete(4)), PolicySettings())
    assert isinstance(policy, Softmax)
    np.testing.assert_allclose(policy(jnp.ones(3)).logits, np.zeros(4))
    with pytest.raises(ValueError, match="no std to set"):
        defaults.default_policy(rig(action=Discrete(4)), PolicySettings(std=0.1))


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
    policy = defaults.default_policy(rig(observation_scale=scale), PolicySettings(scaling=wish), running=running)
    assert policy.scaling.running is moves
    np.testing.assert_allclose(policy.scaling.scale, expected)


def test_a_fixed_scaling_needs_a_scale():
    with pytest.raises(ValueError, match="does not say how large"):
        defaults.default_policy(rig(), PolicySettings(scaling="fixed"))


# known parameters

SCALED = LinearGaussian(
    [[0.0, 0.0]], bias=[0.0], scaling=Scaling(jnp.asarray(1.0), jnp.asarray([1.0, -2.0]), jnp.asarray([4.0, 0.25]))
)


def test_an_initial_gain_acts_on_observations_in_their_own_units(tmp_path):
    given = {"gain": [[-1.5, 0.5]], "bias": [0.25]}
    (tmp_path / "gains.json").write_text(json.dumps(given))
    for initial in (given, tmp_path / "gains.json", str(tmp_path / "gains.json")):
        policy = defaults.start(SCALED, initial)
        x = np.array([0.3, -0.7])
        assert float(policy.mode(jnp.asarray(x))[0]) == pytest.approx(-1.5 * 0.3 - 0.5 * 0.7 + 0.25, rel=1e-5)
        gain, bias = policy.physical_gain()
        np.testing.assert_allclose(gain, given["gain"], rtol=1e-6)
        np.testing.assert_allclose(bias, given["bias"], rtol=1e-6)


def test_a_policy_file_and_a_controller_start_where_they_ended(tmp_path):
    policy = defaults.start(SCALED, {"gain": [[-1.5, 0.5]]})
    policy.controller().save(tmp_path / "policy.safetensors")
    for initial in (policy.controller(), tmp_path / "policy.safetensors", tmp_path):
        np.testing.assert_allclose(defaults.start(SCALED, initial).theta(), policy.theta(), rtol=1e-6)


def test_named_numbers_start_from_some_of_their_values():
    policy = defaults.start(Parameters(["kp", "kd"], [1.0, 0.1], bounds={"kp": (0, 5)}, log=["kd"]), {"kd": 0.2})
    assert policy.values() == pytest.approx({"kp": 1.0, "kd": 0.2})
    with pytest.raises(ValueError, match="kp starts at 6"):
        defaults.start(policy, {"kp": 6.0})


@pytest.mark.parametrize(
    ("policy", "initial", "words"),
    [
        (SCALED, {"gain": [[1.0]]}, "gain of shape"),
        (SCALED, {"gain": [[1.0, 2.0]], "kp": 1.0}, "it must be"),
        (SCALED, {"bias": [1.0]}, "it must be"),
        (LinearGaussian([[0.0, 0.0]]), {"gain": [[1.0, 2.0]], "bias": [1.0]}, "the policy has none"),
        (LinearGaussian([[0.0, 0.0]], mask=[[True, False]]), {"gain": [[1.0, 2.0]]}, "mask is False"),
        (Parameters(["kp"], [1.0]), {"ki": 1.0}, "the parameters are kp"),
        (Softmax([(np.zeros((2, 2)), None)]), {"gain": [[1.0, 2.0]]}, "Only a gain matrix or named numbers"),
        (SCALED, LinearGaussian([[1.0, 2.0, 3.0]]).controller(), "this search needs LinearGaussian"),
        (SCALED, Softmax([(np.zeros((2, 2)), None)]).controller(), "The initial policy is Softmax"),
        (SCALED, "/nowhere/gains.json", "no file"),
    ],
)
def test_initial_values_that_do_not_fit_are_refused(policy, initial, words):
    with pytest.raises(ValueError, match=words):
        defaults.start(policy, initial)


def test_a_file_that_is_no_json_object_is_refused(tmp_path):
    (tmp_path / "list.json").write_text("[1, 2]")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ValueError, match="is a list"):
        defaults.start(SCALED, tmp_path / "list.json")
    with pytest.raises(ValueError, match="is not JSON"):
        defaults.start(SCALED, tmp_path / "broken.json")


def test_other_named_numbers_are_no_start():
    with pytest.raises(ValueError, match="kp"):
        defaults.start(Parameters(["kp"], [1.0]), Parameters(["mass"], [5.0]).controller())
