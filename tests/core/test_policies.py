import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policysearch.core.controller import Controller
from policysearch.core.distributions import Gaussian
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
        ({"initial": [1e300, 1.0]}, "out of range for float32"),
        ({"scale": [1.0, 1e-60]}, "out of range for float32"),
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


# what else a policy says of itself


def test_another_scaling_with_the_same_actions(policies):
    """The first layer takes up the change: of gains, masked ones, fixed features and layers of choices."""
    x = jnp.asarray(OBSERVATIONS)
    other = Scaling(jnp.asarray(1.0), jnp.asarray([1.0, -2.0, 0.5]), jnp.asarray([4.0, 0.25, 9.0]))
    made = {name: make() for name, make in policies.items()}
    mask = [[True, False, True], [False, True, False]]
    made["masked with bias"] = LinearGaussian([[-0.5, 0, 0.1], [0, -0.7, 0]], mask=mask, bias=[0.1, 0.2])
    for name, policy in made.items():
        first = policy.controller().constants | policy.controller().parameters
        if "bias" in first or "bias_0" in first:
            moved = policy.rescaled(other)
            assert np.array_equal(moved.scaling.shift, other.shift), name
            before, after = policy(x), moved(x)
            if isinstance(policy, Softmax):
                np.testing.assert_allclose(after.logits, before.logits, rtol=1e-4, atol=1e-5, err_msg=name)
            else:
                np.testing.assert_allclose(after.mode(), before.mode(), rtol=1e-4, atol=1e-5, err_msg=name)
    # without a constant only the change of scale is taken up
    flat = LinearGaussian([[1.0, 2.0, 3.0]]).rescaled(other)
    np.testing.assert_allclose(flat.gain, [[2.0, 1.0, 9.0]])
    assert "bias" not in flat.parameters
    assert named().rescaled(other).scaling is None


def test_a_policy_keeps_its_scaling_if_none_is_given(policies):
    policy = policies["linear with learned std, scaled"]()
    assert policy.with_scaling(None) is policy
    other = Scaling.fixed((1.0, 2.0, 3.0))
    assert policy.with_scaling(other).scaling.scale.tolist() == [1.0, 2.0, 3.0]
    assert np.array_equal(policy.with_scaling(other).theta(), policy.theta())


def test_entries_of_theta_are_named_by_their_place():
    policy = LinearGaussian([[1.0, 2.0], [3.0, 4.0]], bias=[5.0, 6.0], std=0.5, learned_std=True)
    names = ["bias[0]", "bias[1]", "gain[0,0]", "gain[0,1]", "gain[1,0]", "gain[1,1]"]
    assert policy.parameter_names() == [*names, "log_std[0]", "log_std[1]"]
    assert policy.parameter_names("parameter") == names
    np.testing.assert_allclose(policy.theta("parameter"), [5, 6, 1, 2, 3, 4])
    assert policy.searched("parameter") == ("bias", "gain")


def test_policies_by_default():
    x = jnp.asarray([2.0, 4.0])
    linear = LinearGaussian([[1.0, 0.5]])
    np.testing.assert_allclose(jnp.exp(linear.log_std), [0.3], rtol=1e-6)
    assert linear.searched("action") == ("gain",)
    assert linear.mode(x).tolist() == [4.0]
    assert linear.mask is None
    network = NeuralGaussian([(np.asarray([[1.0, 0.5]]), np.zeros(1))])
    np.testing.assert_allclose(jnp.exp(network.log_std), [0.3], rtol=1e-6)
    assert network.searched("action") == ("bias_0", "log_std", "weight_0")
    assert network.mode(x).tolist() == [4.0]
    assert (network.details["activation"], network.depth) == ("tanh", 1)
    assert network.searched("parameter") == ("bias_0", "weight_0")
    softmax = Softmax([(np.asarray([[1.0, 0.5]]), None)])
    assert softmax(x).logits.tolist() == [4.0]
    assert (softmax.details["activation"], softmax.searched("action")) == ("tanh", ("weight_0",))


def test_a_network_is_its_layers_with_the_activation_between_them():
    rng = np.random.default_rng(1)
    layers = [(rng.normal(size=s), rng.normal(size=s[0])) for s in ((4, 3), (5, 4), (2, 5))]
    for activation, function in (("tanh", np.tanh), ("relu", lambda v: np.maximum(v, 0)), ("sin", np.sin)):
        values = OBSERVATIONS
        for W, b in layers[:-1]:
            values = function(values @ W.T + b)
        expected = values @ layers[-1][0].T + layers[-1][1]
        for frozen in (0, 2):
            policy = NeuralGaussian(layers, activation=activation, frozen=frozen)
            np.testing.assert_allclose(policy.mode(jnp.asarray(OBSERVATIONS)), expected, rtol=1e-4, atol=1e-4)
            held = [name for name in sorted(policy.constants) if not name.startswith("action")]
            assert held == [f"{n}_{i}" for n in ("bias", "weight") for i in range(frozen)]
        logits = Softmax(layers, activation=activation)(jnp.asarray(OBSERVATIONS)).logits
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


def test_one_number_serves_all_actions_for_a_bias_and_a_std():
    policy = LinearGaussian(np.zeros((2, 3)), bias=0.5, std=0.2)
    np.testing.assert_allclose(policy.mode(jnp.ones(3)), [0.5, 0.5])
    np.testing.assert_allclose(jnp.exp(policy.log_std), [0.2, 0.2], rtol=1e-6)
    gain, bias = LinearGaussian(np.ones((2, 3))).physical_gain()
    assert (gain.tolist(), bias.tolist()) == (np.ones((2, 3)).tolist(), [0, 0])


LAYERS = [(np.zeros((4, 3)), np.zeros(4)), (np.zeros((2, 4)), np.zeros(2))]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: NeuralGaussian(LAYERS, frozen=2), "frozen is 2; of 2 layers, 0 to 1 can be fixed"),
        (lambda: NeuralGaussian(LAYERS, frozen=-1), "frozen is -1"),
        (lambda: NeuralGaussian(LAYERS, std=-0.1), "std must be positive"),
        (lambda: NeuralGaussian(LAYERS, std=[0.1, np.inf]), "std must be positive"),
        (lambda: LinearGaussian([[[1.0]]]), "finite \\(m, p\\) matrix"),
        (lambda: LinearGaussian([[1.0], [np.inf]]), "finite \\(m, p\\) matrix"),
        (lambda: LinearGaussian([[0.0, -1.0]], mask=[[True, False]]), "not zero where the mask"),
    ],
)
def test_policies_at_the_wrong_side_of_an_edge_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_policies_at_the_right_side_of_an_edge_are_taken():
    assert NeuralGaussian(LAYERS, frozen=1).searched("parameter") == ("bias_1", "weight_1")
    assert LinearGaussian([[1.0, 0.0]], mask=[[True, False]]).theta().tolist() == [1.0]
    assert Parameters(["a"], [5.0], bounds={"a": (0.0, 5.0)}).values() == {"a": 5.0}


def test_named_numbers_by_default():
    policy = Parameters(["a", "b"], [1.0, 2.0])
    assert policy.theta().tolist() == [0, 0]
    assert policy.with_theta(jnp.asarray([1e6, -1e6])).vector().tolist() == [1e6 + 1, -1e6 + 2]
    one = Parameters(["a", "b"], 3.0, scale=2.0).with_theta(jnp.asarray([1.0, -1.0]))
    assert one.values() == {"a": 5.0, "b": 1.0}
    half = Parameters(["a", "b"], 1.0, bounds={"b": (-np.inf, 2.0)}).with_theta(jnp.asarray([9.0, 9.0]))
    assert half.values() == {"a": 10.0, "b": 2.0}


def test_the_longest_step_is_said_in_the_numbers_own_units():
    assert LinearGaussian([[1.0]]).step_units(0.5) == named().step_units(0.5) == 0.5
    assert LinearGaussian([[1.0]]).step_units(2).dtype == float
    units = named().step_units({"kd": 0.1, "tau": 1.5})
    np.testing.assert_allclose(units, [np.inf, 0.1 / 0.05, np.log(1.5) / 1.0], rtol=1e-6)
    np.testing.assert_allclose(named().step_units({"kp": 1}), [2.0, np.inf, np.inf])
    log = Parameters(["a"], [1.0], scale=[0.5], log=["a"])
    np.testing.assert_allclose(log.step_units({"a": 2.0}), [np.log(2) / 0.5])


@pytest.mark.parametrize(
    ("largest", "words"),
    [
        (0.0, "largest_step is 0.0; it must be a number above 0"),
        (-1.0, "a number above 0"),
        (np.inf, "a number above 0"),
        ({"k": 1.0}, "no parameter is named 'k'; the names are kp, kd, tau"),
        ({"kp": 0.0}, "largest_step of kp is 0.0; it must be an amount above 0"),
        ({"kp": np.inf}, "an amount above 0"),
        ({"tau": 1.0}, "largest_step of tau is 1.0; it must be a factor above 1"),
    ],
)
def test_a_longest_step_that_means_nothing_is_refused(largest, words):
    with pytest.raises(ValueError, match=words):
        named().step_units(largest)


def test_numbers_at_the_limits_of_the_precision_are_taken():
    tiny, huge = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
    policy = Parameters(["a", "b", "c"], [tiny, huge, 0.0], scale=[tiny, 1.0, 1.0])
    assert policy.values() == {"a": tiny, "b": huge, "c": 0.0}


def test_a_controller_says_what_is_searched_and_how(policies):
    """What is searched on a rig is perturbed, so that log_std is not among it."""
    described = {name: make().controller().description for name, make in policies.items()}
    assert described["network"]["searched"] == ["bias_0", "bias_1", "weight_0", "weight_1"]
    assert described["rbf"]["searched"] == ["bias_1", "weight_1"]
    assert described["structured"]["searched"] == ["gain"]
    activations = {name: each.get("activation") for name, each in described.items()}
    assert (activations["relu network with fixed std"], activations["rbf"]) == ("relu", "sin")
    kinds = {each["policy"] for each in described.values()}
    assert kinds == {"linear_gaussian", "neural_gaussian", "softmax"}


def test_only_numbers_that_a_search_may_change_are_leaves(policies):
    """Sizes, names and kinds are part of the program instead."""
    for name, policy in {"named": named(), **{name: make() for name, make in policies.items()}}.items():
        assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(policy)), name
        assert hash(jax.tree.structure(policy)) == hash(jax.tree.structure(policy)), name


class Constant(Policy):
    """A policy of one's own, with the constructor that its fields give it."""

    parameters: dict[str, jax.Array]
    scaling: Scaling | None

    def __call__(self, observation):
        return Gaussian(jnp.broadcast_to(self.parameters["level"], (*observation.shape[:-1], 1)), jnp.zeros(1))

    def controller(self):
        raise NotImplementedError


def test_a_policy_of_ones_own_needs_no_constructor():
    policy = Constant(parameters={"level": jnp.asarray([2.0])})
    assert policy.interface == Interface()
    assert policy.with_theta(jnp.asarray([3.0])).mode(jnp.zeros((2, 3))).tolist() == [[3.0], [3.0]]
    assert Constant(parameters={"level": jnp.zeros(1)}, interface=Interface(dt=0.1)).interface.dt == 0.1
