import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policysearch.core.controller import Controller
from policysearch.core.initial import from_controller
from policysearch.core.interface import Interface
from policysearch.core.normalize import Scaling
from policysearch.core.policies import LinearGaussian, NeuralGaussian, Parameters, Policy, Softmax
from policysearch.core.specification import Continuous

OBSERVATIONS = np.random.default_rng(0).normal(size=(9, 3))
KEY = jax.random.key(0)


@eqx.filter_jit
def numbers(policy, x, key):
    """Mode, noise, sample with that noise, and its log-probability, compiled at once."""
    distribution = policy(x)
    noise = distribution.noise(key)
    actions = distribution.transform(noise)
    return [policy.mode(x), noise, actions, policy.log_prob(x, actions)]


def agree(policy, tolerance):
    """Assert that a policy and its NumPy twin give the same numbers, in a batch and one at a time."""
    controller = policy.controller()
    mode, noise, actions, log_prob = (np.asarray(x) for x in numbers(policy, jnp.asarray(OBSERVATIONS), KEY))
    close = lambda ours, theirs: np.testing.assert_allclose(theirs, ours, rtol=tolerance, atol=tolerance)  # noqa: E731
    close(mode, controller.mode(OBSERVATIONS))
    close(actions, controller.act(OBSERVATIONS, noise).sampled)
    close(log_prob, controller.log_prob(OBSERVATIONS, actions))
    for x, *expected, z in zip(OBSERVATIONS, mode, actions, log_prob, noise, strict=True):
        close(expected[0], controller.mode(x))
        close(expected[1], controller.act(x, z).sampled)
        close(expected[2], controller.log_prob(x, expected[1]))


def test_controller_equals_policy_in_float32(policy):
    agree(policy, 1e-5)


@pytest.mark.usefixtures("float64")
def test_controller_equals_policy_in_float64(policies):
    for make in policies.values():
        agree(make(), 1e-12)


@pytest.mark.usefixtures("float64")
def test_a_policy_comes_back_from_its_controller_and_from_a_file(policies, tmp_path):
    x = jnp.asarray(OBSERVATIONS)
    for name, make in policies.items():
        policy = make()
        if not isinstance(policy, Softmax):
            policy = policy.with_interface(Interface(limits=Continuous([-1.0, -2.0], [1.0, np.inf]), dt=0.1))
        policy.controller().save(tmp_path / "policy.safetensors")
        for controller in (policy.controller(), Controller.load(tmp_path / "policy.safetensors")):
            back = from_controller(controller)
            assert type(back) is type(policy), name
            assert jax.tree.structure(back) == jax.tree.structure(policy), name
            np.testing.assert_allclose(back.theta(), policy.theta(), rtol=0, atol=1e-15)
            assert float(jnp.max(policy.kl(back, x))) < 1e-12, name
            # the statistics go on where they were
            np.testing.assert_array_equal(back.scaling.count, policy.scaling.count)
            np.testing.assert_array_equal(back.scaling.m2, policy.scaling.m2)


def test_theta_concatenates_parameters_in_the_order_of_their_names(policy):
    names = sorted(policy.parameters)
    expected = np.concatenate([np.ravel(policy.parameters[name]) for name in names])
    assert np.array_equal(policy.theta(), expected)
    assert len(policy.parameter_names()) == policy.theta().size
    assert [label.split("[")[0] for label in policy.parameter_names()] == [
        name for name in names for _ in range(policy.parameters[name].size)
    ]


@pytest.mark.parametrize("space", ["action", "parameter"])
def test_with_theta_is_the_inverse_of_theta_and_moves_nothing_else(policy, space):
    moved = policy.theta(space) + jnp.arange(policy.theta(space).size)
    back = policy.with_theta(moved, space)
    assert np.array_equal(back.theta(space), moved)
    assert jax.tree.structure(back) == jax.tree.structure(policy)
    if space == "parameter" and "log_std" in policy.parameters:
        assert np.array_equal(back.parameters["log_std"], policy.parameters["log_std"])


def test_parameter_space_leaves_log_std_out_and_agrees_with_the_controllers_theta(policy):
    assert "log_std" not in policy.searched("parameter")
    assert ("log_std" in policy.searched("action")) == ("log_std" in policy.parameters)
    np.testing.assert_allclose(policy.controller().theta(), policy.theta("parameter"), rtol=0, atol=0)


def test_kl_is_zero_for_the_same_policy_and_positive_for_another(policy):
    x = jnp.asarray(OBSERVATIONS)
    assert np.all(np.abs(policy.kl(policy, x)) < 1e-6)
    moved = policy.with_theta(policy.theta() + 0.1 * jnp.cos(jnp.arange(policy.theta().size)))
    assert np.max(policy.kl(moved, x)) > 1e-4


def test_entries_outside_the_mask_stay_zero_and_are_no_parameters(policies):
    policy = policies["structured"]()
    assert policy.theta().size == 3
    gain = np.asarray(policy.with_theta(jnp.asarray([1.0, 2.0, 3.0])).gain)
    assert np.array_equal(gain, [[1.0, 0.0, 2.0], [0.0, 3.0, 0.0]])


def test_observations_are_scaled_inside_the_policy():
    scaling = Scaling(jnp.asarray(1.0), jnp.asarray([1.0, 2.0]), jnp.asarray([4.0, 0.25]))
    policy = LinearGaussian([[1.0, 1.0]], bias=[0.5], scaling=scaling)
    assert policy.mode(jnp.asarray([3.0, 3.0]))[0] == pytest.approx((3 - 1) / 2 + (3 - 2) / 0.5 + 0.5)
    gain, bias = policy.physical_gain()
    assert gain @ [3.0, 3.0] + bias == pytest.approx(policy.mode(jnp.asarray([3.0, 3.0])))


def test_centre_and_scale_place_a_networks_output():
    policy = NeuralGaussian(
        [(np.zeros((2, 3)), np.asarray([0.0, 1.0]))], action_centre=[5.0, -1.0], action_scale=[2.0, 3.0]
    )
    np.testing.assert_allclose(policy.mode(jnp.ones(3)), [5.0, 2.0])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: LinearGaussian([1.0, 2.0]), "finite \\(m, p\\) matrix"),
        (lambda: LinearGaussian([[np.nan]]), "finite \\(m, p\\) matrix"),
        (lambda: LinearGaussian([[1.0]], std=0.0), "std must be positive"),
        (lambda: LinearGaussian([[1.0, 2.0]], mask=[[True]]), "mask has shape"),
        (lambda: LinearGaussian([[1.0, 2.0]], mask=[[True, False]]), "not zero where the mask"),
        (lambda: Softmax([(np.zeros((2, 3)), None)], activation="gelu"), "use one of tanh, relu"),
        (lambda: Softmax([(np.zeros((4, 3)), None), (np.zeros((2, 5)), None)]), "takes 5 inputs but gets 4"),
    ],
)
def test_policies_that_do_not_fit_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


# named numbers


def named():
    return Parameters(
        ["kp", "kd", "tau"],
        [1.0, 0.1, 2.0],
        bounds={"kp": (0.0, 5.0), "tau": (0.5, 40.0)},
        scale=[0.5, 0.05, 1.0],
        log=["tau"],
    )


def test_named_numbers_move_by_their_own_scale_or_factor():
    moved = named().with_theta(jnp.asarray([2.0, -1.0, np.log(3.0)]))
    assert moved.values() == pytest.approx({"kp": 2.0, "kd": 0.05, "tau": 6.0})


def test_bounds_clip_the_value_and_not_the_searched_number():
    z = jnp.asarray([100.0, 0.0, -50.0])
    moved = named().with_theta(z)
    assert moved.values() == pytest.approx({"kp": 5.0, "kd": 0.1, "tau": 0.5})
    assert np.array_equal(moved.theta(), z)


def test_named_numbers_are_the_same_in_numpy_and_from_a_file(tmp_path):
    moved = named().with_theta(jnp.asarray([0.7, 3.0, 0.4]))
    moved.controller().save(tmp_path / "numbers.safetensors")
    controller = Controller.load(tmp_path / "numbers.safetensors")
    assert controller.values() == pytest.approx(moved.values(), rel=1e-6)
    back = from_controller(controller)
    assert back.values() == pytest.approx(moved.values(), rel=1e-6)
    assert (back.names, back.log) == (moved.names, moved.log)


def test_only_logarithmic_numbers_are_exponentiated():
    policy = Parameters(["a", "b"], [1.0, 1.0], scale=[1.0, 1e4])
    np.testing.assert_allclose(policy.with_theta(jnp.asarray([1.0, 1.0])).vector(), [2.0, 10001.0])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"initial": [6.0, 1.0], "bounds": {"a": (0, 5)}}, "a starts at 6, outside its bounds"),
        ({"bounds": {"c": (0, 5)}}, "No parameter is named 'c'"),
        ({"log": ["c"]}, "No parameter is named 'c'"),
        ({"initial": [0.0, 1.0], "log": ["a"]}, "logarithmic scale but starts at 0"),
        ({"scale": [1.0, 0.0]}, "scale positive"),
        ({"initial": [np.nan, 1.0]}, "initial must be finite"),
        ({"names": ["a", "a"]}, "must be distinct"),
        ({"bounds": {"a": (1.0, 1.0)}}, "its lower bound 1 is not below its upper bound 1"),
        ({"bounds": {"a": (5.0, 0.0)}}, "its lower bound 5 is not below its upper bound 0"),
        ({"bounds": {"a": (np.nan, 5.0)}}, "its lower bound is nan"),
        ({"bounds": {"a": (0.0, 5.0)}, "log": ["a"]}, "bound it above 0"),
        ({"names": ["a", "b c"]}, "is named 'b c'; a name is letters"),
        ({"names": ["a", "\ufb01"]}, "has the normal form 'fi'"),
        ({"initial": [1e300, 1.0]}, "beyond numbers of float32"),
        ({"scale": [1.0, 1e-60]}, "beyond numbers of float32"),
    ],
)
def test_named_numbers_that_make_no_sense_are_refused(options, words):
    arguments = {"names": ["a", "b"], "initial": [1.0, 1.0]} | options
    with pytest.raises(ValueError, match=words):
        Parameters(**arguments)


def test_named_numbers_have_no_action_distribution():
    with pytest.raises(TypeError, match="perturbs parameters"):
        named()(jnp.zeros(3))


def test_every_policy_is_a_policy_and_offers_samples_at_any_batch_shape(policy):
    assert isinstance(policy, Policy)
    sample = policy.sample(jnp.zeros((2, 5, 3)), jax.random.key(0))
    assert sample.shape[:2] == (2, 5)
    assert policy.log_prob(jnp.zeros((2, 5, 3)), sample).shape == (2, 5)
