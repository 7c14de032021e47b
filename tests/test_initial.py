import json

import jax.numpy as jnp
import numpy as np
import pytest

from policysearch.core.initial import fourier_layers, start
from policysearch.core.normalize import Scaling
from policysearch.core.policies import LinearGaussian, NeuralGaussian, Parameters, Softmax

SCALED = LinearGaussian(
    [[0.0, 0.0]], bias=[0.0], scaling=Scaling(jnp.asarray(1.0), jnp.asarray([1.0, -2.0]), jnp.asarray([4.0, 0.25]))
)


def test_an_initial_gain_acts_on_observations_in_their_own_units(tmp_path):
    given = {"gain": [[-1.5, 0.5]], "bias": [0.25]}
    (tmp_path / "gains.json").write_text(json.dumps(given))
    for initial in (given, tmp_path / "gains.json", str(tmp_path / "gains.json")):
        policy = start(SCALED, initial)
        x = np.array([0.3, -0.7])
        assert float(policy.mode(jnp.asarray(x))[0]) == pytest.approx(-1.5 * 0.3 - 0.5 * 0.7 + 0.25, rel=1e-5)
        gain, bias = policy.physical_gain()
        np.testing.assert_allclose(gain, given["gain"], rtol=1e-6)
        np.testing.assert_allclose(bias, given["bias"], rtol=1e-6)


def test_a_policy_file_and_a_controller_start_where_they_ended(tmp_path):
    policy = start(SCALED, {"gain": [[-1.5, 0.5]]})
    policy.controller().save(tmp_path / "policy.safetensors")
    for initial in (policy.controller(), tmp_path / "policy.safetensors", tmp_path):
        np.testing.assert_allclose(start(SCALED, initial).theta(), policy.theta(), rtol=1e-6)


def test_named_numbers_start_from_some_of_their_values():
    policy = start(Parameters(["kp", "kd"], [1.0, 0.1], bounds={"kp": (0, 5)}, log=["kd"]), {"kd": 0.2})
    assert policy.values() == pytest.approx({"kp": 1.0, "kd": 0.2})
    with pytest.raises(ValueError, match="kp starts at 6"):
        start(policy, {"kp": 6.0})


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
        start(policy, initial)


def test_a_file_that_is_no_json_object_is_refused(tmp_path):
    (tmp_path / "list.json").write_text("[1, 2]")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ValueError, match="is a list"):
        start(SCALED, tmp_path / "list.json")
    with pytest.raises(ValueError, match="is not JSON"):
        start(SCALED, tmp_path / "broken.json")


def test_other_named_numbers_are_no_start():
    with pytest.raises(ValueError, match="kp"):
        start(Parameters(["kp"], [1.0]), Parameters(["mass"], [5.0]).controller())


def test_random_fourier_features_approach_a_gaussian_kernel_and_stay_as_they_are():
    (projection, phase), (weight, bias) = fourier_layers(2, 20_000, 1, seed=0, bandwidth=0.8)
    policy = NeuralGaussian([(projection, phase), (weight, bias)], activation="sin", frozen=1, learned_std=False)
    assert sorted(policy.parameters) == ["bias_1", "weight_1"]
    x, y = np.array([0.3, -0.2]), np.array([-0.4, 0.5])
    features = [np.sin(projection @ point + phase) for point in (x, y)]
    # Rahimi & Recht (2007): the mean product is half the kernel; four standard errors of products within ±1
    kernel = np.exp(-np.sum((x - y) ** 2) / (2 * 0.8**2))
    assert abs(2 * np.mean(features[0] * features[1]) - kernel) < 4 * 2 * 0.5 / np.sqrt(20_000)
    with pytest.raises(ValueError, match="0 to 1 can stay"):
        NeuralGaussian([(projection, phase), (weight, bias)], frozen=2)


def test_an_rbf_policy_keeps_its_actions_when_its_scaling_moves():
    layers = fourier_layers(3, 16, 2, seed=1)
    layers[1] = (np.random.default_rng(0).normal(size=(2, 16)), np.zeros(2))
    policy = NeuralGaussian(layers, activation="sin", frozen=1, scaling=Scaling.follow(3))
    moved = policy.rescaled(
        Scaling(jnp.asarray(5.0), jnp.asarray([1.0, -2.0, 0.5]), jnp.asarray([5.0, 20.0, 0.2]), True)
    )
    points = jnp.asarray(np.random.default_rng(1).normal(size=(10, 3)))
    np.testing.assert_allclose(moved.mode(points), policy.mode(points), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"kp": 1, "kp": 2}', "'kp' is given twice"),
        (b'{"kp": "1.5"}', "kp is no array of numbers: text"),
        (b'{"kp": true}', "kp is no array of numbers: text, or true"),
        (b'{"kp": NaN}', "is not JSON: NaN is no number"),
        (b'{"kp": Infinity}', "is not JSON: Infinity is no number"),
        (b'{"kp": 1e999}', "kp is not finite"),
        (b'{"kp": 1_0}', "is not JSON"),
        (b'{"kp": 1,5}', "is not JSON"),
        (b'{"kp ": 1}', "the parameters are kp"),
        (b'{"KP": 1}', "the parameters are kp"),
        (b"\xff", "is not JSON"),
        (b"", "is not JSON"),
    ],
)
def test_a_file_of_values_that_has_no_reading_is_refused(tmp_path, content, words):
    (tmp_path / "initial.json").write_bytes(content)
    with pytest.raises(ValueError, match=words):
        start(Parameters(["kp"], [1.0]), tmp_path / "initial.json")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
def test_a_file_of_values_is_read_in_every_encoding_that_says_so(tmp_path, encoding):
    (tmp_path / "initial.json").write_bytes('{"θ": 2.5}'.encode(encoding))
    assert start(Parameters(["θ"], [1.0]), tmp_path / "initial.json").values() == {"θ": 2.5}
