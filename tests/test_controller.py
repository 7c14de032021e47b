import itertools
import json
import math
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from policysearch.core.controller import Controller
from policysearch.core.interface import Interface
from policysearch.core.specification import Continuous


def scaling(rng, p):
    return {"scaling_shift": rng.normal(size=p), "scaling_scale": rng.uniform(0.1, 3, p)}


def network(rng, activation="tanh", sizes=(5, 16, 16, 3), policy="neural_gaussian", **constants):
    parameters = {}
    for i, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        parameters[f"weight_{i}"] = rng.normal(size=(outputs, inputs)) / np.sqrt(inputs)
        parameters[f"bias_{i}"] = rng.normal(size=outputs)
    constants |= scaling(rng, sizes[0])
    if policy == "neural_gaussian":
        parameters["log_std"] = rng.normal(size=sizes[-1]) / 3
        constants |= {
            "action_centre": rng.normal(size=sizes[-1]),
            "action_scale": rng.uniform(1, 2, sizes[-1]),
        }
    description = {"policy": policy, "activation": activation}
    return Controller(description, parameters, constants, None if policy == "softmax" else free(sizes[-1]))


def free(m):
    """Actions that are known to have no limits."""
    return Interface(limits=Continuous([-math.inf] * m, [math.inf] * m))


def plain(controller, observation):
    """The same policy written down without any merging."""
    p, c = controller.parameters, controller.constants
    x = (observation - c["scaling_shift"]) / c["scaling_scale"]
    if "gain" in p:
        return p["gain"] @ x + p.get("bias", 0.0)
    layers = sum(name.startswith("weight") for name in p)
    for i in range(layers):
        x = p[f"weight_{i}"] @ x + p[f"bias_{i}"]
        if i < layers - 1:
            x = np.tanh(x) if controller.description["activation"] == "tanh" else np.maximum(x, 0)
    return c["action_centre"] + c["action_scale"] * x if "action_scale" in c else x


def linear(rng, p=5, m=3, bias=True):
    parameters = {"gain": rng.normal(size=(m, p))} | ({"bias": rng.normal(size=m)} if bias else {})
    constants = scaling(rng, p) | {"log_std": rng.normal(size=m)}
    return Controller({"policy": "linear_gaussian"}, parameters, constants, free(m))


CASES = {
    "linear": linear,
    "linear without bias": lambda rng: linear(rng, bias=False),
    "tanh": network,
    "relu": lambda rng: network(rng, "relu"),
    "softmax": lambda rng: network(rng, policy="softmax"),
    "linear softmax": lambda rng: network(rng, policy="softmax", sizes=(5, 4)),
}


@pytest.fixture(params=CASES)
def controller(request):
    return CASES[request.param](np.random.default_rng(0))


def test_output_agrees_with_the_plain_formula_for_one_and_for_a_batch(controller):
    observations = np.random.default_rng(1).normal(size=(20, 5)) * 3
    batch = controller.output(observations)
    for observation, row in zip(observations, batch, strict=True):
        expected = plain(controller, observation)
        assert np.allclose(controller.output(observation), expected, rtol=0, atol=1e-12)
        assert np.allclose(row, expected, rtol=0, atol=1e-12)


def test_a_large_shift_does_not_cost_digits():
    rng = np.random.default_rng(2)
    constants = {"scaling_shift": np.full(4, 1e9), "scaling_scale": np.full(4, 1e-3)}
    controller = Controller({"policy": "linear_gaussian"}, {"gain": rng.normal(size=(2, 4))}, constants)
    observation = 1e9 + np.array([2.0, -1.0, 0.5, 0.0]) * 1e-3
    expected = plain(controller, observation)
    assert np.allclose(controller.mode(observation), expected, rtol=1e-12)
    assert np.allclose(controller.mode(observation[None])[0], expected, rtol=1e-12)


def test_results_do_not_change_when_the_controller_acts_again(controller):
    first = controller.output(np.ones(5))
    kept = first.copy()
    controller.output(np.full(5, -2.0))
    assert np.array_equal(first, kept)


def test_observations_of_other_types_are_understood(controller):
    observation = np.array([0.5, -1.0, 2.0, 0.25, 1.5])
    for other in (observation.astype(np.float32), observation.tolist(), tuple(observation)):
        assert np.array_equal(controller.output(other), controller.output(observation))
    integers = np.array([1, 2, 3, 4, 5])
    assert np.array_equal(controller.output(integers), controller.output(integers.astype(float)))


def test_observations_of_another_size_are_refused(controller):
    for shape in ((1,), (4,), (2, 4), (2, 5, 1), ()):
        with pytest.raises(ValueError, match=r"observation has shape .*\(5,\) is needed"):
            controller.output(np.zeros(shape))


def test_a_mask_puts_the_gains_where_it_is_true_row_by_row():
    mask = np.array([[True, False, True], [False, True, False]])
    controller = Controller({"policy": "linear_gaussian"}, {"gain": np.array([1.0, 2.0, 3.0])}, {"mask": mask})
    assert np.array_equal(controller.mode(np.eye(3)).T, [[1, 0, 2], [0, 3, 0]])


def test_action_is_mean_plus_std_times_noise():
    controller = network(np.random.default_rng(0))
    observation, noise = np.ones(5), np.array([1.0, -2.0, 0.5])
    expected = controller.mode(observation) + np.exp(controller.parameters["log_std"]) * noise
    assert np.allclose(controller.act(observation, noise).sampled, expected, atol=1e-14)
    batch = controller.act(np.ones((2, 5)), np.stack([noise, -noise])).sampled
    assert np.allclose(batch[0], expected, atol=1e-12)


def test_softmax_samples_have_the_probabilities_of_log_prob():
    controller = network(np.random.default_rng(3), policy="softmax", sizes=(2, 3))
    observation, n = np.array([0.3, -0.2]), 20_000
    noise = controller.noise(np.random.default_rng(0), n)
    actions = controller.act(np.tile(observation, (n, 1)), noise).sampled
    assert controller.act(observation, noise[7]).sampled == actions[7]
    probability = np.exp(controller.log_prob(np.tile(observation, (3, 1)), np.arange(3)))
    assert probability.sum() == pytest.approx(1, abs=1e-12)
    share = np.bincount(actions, minlength=3) / n
    # 5 standard errors
    assert np.all(np.abs(share - probability) < 5 * np.sqrt(probability * (1 - probability) / n))
    assert controller.mode(observation) == np.argmax(probability)


def test_gaussian_log_prob_is_the_normal_density():
    controller = linear(np.random.default_rng(0))
    observation, action = np.ones(5), np.array([0.5, -1.0, 2.0])
    expected = stats.norm.logpdf(action, controller.mode(observation), controller.std).sum()
    assert controller.log_prob(observation, action) == pytest.approx(expected, abs=1e-12)
    pair = controller.log_prob(np.stack([observation, 2 * observation]), np.stack([action, action]))
    assert pair[0] == pytest.approx(expected, abs=1e-12)


def test_sampling_without_log_std_is_refused():
    controller = Controller({"policy": "linear_gaussian"}, {"gain": np.ones((1, 2))})
    with pytest.raises(ValueError, match="no log_std"):
        controller.act(np.ones(2), np.zeros(1))


def test_theta_goes_there_and_back_and_leaves_the_rest(controller):
    theta = controller.theta()
    other = controller.with_theta(theta + 1)
    assert np.array_equal(other.theta(), theta + 1)
    assert np.array_equal(controller.theta(), theta)
    assert np.array_equal(other.with_theta(theta).output(np.ones(5)), controller.output(np.ones(5)))
    with pytest.raises(ValueError, match="theta has shape"):
        controller.with_theta(theta[1:])


def test_theta_holds_only_what_is_searched_in_order_of_names():
    parameters = {"log_std": np.zeros(1), "gain": np.array([[1.0, 2.0]]), "bias": np.array([3.0])}
    description = {"policy": "linear_gaussian", "searched": ["gain", "bias"]}
    controller = Controller(description, parameters)
    assert controller.theta().tolist() == [3.0, 1.0, 2.0]
    assert controller.theta(["log_std", "gain"]).tolist() == [1.0, 2.0, 0.0]
    assert controller.with_theta(np.ones(3)).parameters["log_std"].tolist() == [0.0]


def named(values):
    description = {"policy": "parameters", "names": ["kp", "ki", "kd"]}
    constants = {
        "initial": np.array([2.0, 0.5, 1.0]),
        "scale": np.array([1.0, 0.1, 2.0]),
        "low": np.array([0.0, 0.0, -5.0]),
        "high": np.array([10.0, 0.55, 5.0]),
        "log": np.array([True, False, False]),
    }
    return Controller(description, {"values": np.array(values)}, constants)


def test_named_values_are_scaled_transformed_and_clipped():
    assert named([0.0, 0.0, 0.0]).values() == {"kp": 2.0, "ki": 0.5, "kd": 1.0}
    values = named([np.log(3), 1.0, -1.0]).values()
    assert values == pytest.approx({"kp": 6.0, "ki": 0.55, "kd": -1.0}, abs=1e-12)
    assert named([5.0, 0.0, 0.0]).values()["kp"] == 10.0
    with pytest.raises(TypeError, match="values"):
        named([0.0, 0.0, 0.0]).mode(np.zeros(3))


def test_descriptions_that_do_not_fit_are_refused_by_name():
    gain = {"gain": np.ones((1, 2))}
    for description, parameters, constants, message in (
        ({"policy": "fuzzy"}, gain, {}, "'fuzzy'; choose one of"),
        ({"policy": "linear_gaussian"}, {}, {}, "needs the parameter 'gain'"),
        ({"policy": "linear_gaussian"}, gain | {"bias": np.ones(2)}, {}, r"bias has shape \(2,\); \(1,\)"),
        ({"policy": "linear_gaussian"}, gain, {"scaling_scale": np.zeros(2)}, "every entry must be > 0"),
        ({"policy": "linear_gaussian"}, gain, {"scaling_shift": np.zeros(3)}, "scaling_shift has shape"),
        ({"policy": "linear_gaussian"}, gain, {"log_std": np.zeros(2)}, "log_std has shape"),
        ({"policy": "linear_gaussian", "searched": ["gian"]}, gain, {}, "needs the parameter 'gian'"),
        ({"policy": "softmax"}, {"weight_0": np.ones((3, 2)), "weight_1": np.ones((2, 4))}, {}, "activation"),
        (
            {"policy": "softmax", "activation": "relu"},
            {"weight_0": np.ones((3, 2)), "weight_1": np.ones((2, 4))},
            {},
            r"weight_1 has shape \(2, 4\).* with 3 inputs",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            Controller(description, parameters, constants)


def test_a_saved_controller_loads_as_it_was(controller, tmp_path):
    path = tmp_path / "policy.safetensors"
    controller.save(path)
    controller.save(path)
    other = Controller.load(path)
    assert other.description == controller.description
    assert np.array_equal(other.output(np.ones(5)), controller.output(np.ones(5)))
    assert np.array_equal(other.theta(), controller.theta())
    assert [file.name for file in tmp_path.iterdir()] == ["policy.safetensors"]


def test_masks_and_named_values_survive_a_file(tmp_path):
    named([1.0, 2.0, 3.0]).save(tmp_path / "gains")
    assert Controller.load(tmp_path / "gains").values() == named([1.0, 2.0, 3.0]).values()


def test_every_flipped_bit_of_a_file_is_found(tmp_path):
    path = tmp_path / "policy.safetensors"
    network(np.random.default_rng(0), sizes=(5, 4, 3)).save(path)
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    places = np.concatenate([np.arange(0, 8), rng.integers(8, len(data), 300)])
    for place in places:
        changed = bytearray(data)
        changed[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        with pytest.raises(ValueError, match=r"policy\.safetensors"):
            Controller.load(path)


def test_other_files_are_refused_by_name(tmp_path):
    from safetensors.numpy import save_file

    with pytest.raises(FileNotFoundError, match="no policy file"):
        Controller.load(tmp_path / "none")
    (tmp_path / "short").write_bytes(b"abc")
    with pytest.raises(ValueError, match="short is damaged"):
        Controller.load(tmp_path / "short")
    save_file({"x": np.ones(2)}, tmp_path / "tensors")
    with pytest.raises(ValueError, match="no policy"):
        Controller.load(tmp_path / "tensors")


def test_a_newer_format_is_refused(tmp_path, monkeypatch):
    from policysearch.core import controller_file

    monkeypatch.setattr(controller_file, "FORMAT", 99)
    linear(np.random.default_rng(0)).save(tmp_path / "p")
    monkeypatch.undo()
    with pytest.raises(ValueError, match="format 99"):
        Controller.load(tmp_path / "p")


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "policy"
    linear(np.random.default_rng(0)).save(path)
    before = path.read_bytes()
    bad = Controller({"policy": "linear_gaussian", "note": float("nan")}, {"gain": np.ones((1, 1))})
    with pytest.raises(ValueError, match="JSON"):
        bad.save(path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_acting_and_loading_need_no_jax(tmp_path):
    linear(np.random.default_rng(0)).save(tmp_path / "p")
    code = (
        "import sys, json, numpy as np; from policysearch.core.controller import Controller\n"
        f"c = Controller.load({str(tmp_path / 'p')!r}); a = c.mode(np.ones(5)).tolist()\n"
        "print(json.dumps([a, 'jax' in sys.modules]))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    action, jax = json.loads(output)
    assert not jax
    assert action == linear(np.random.default_rng(0)).mode(np.ones(5)).tolist()


def test_the_same_policy_gives_the_same_file(tmp_path):
    controller = Controller({"policy": "linear_gaussian"}, {"gain": np.array([[-0.5, -0.8]])})
    contents = set()
    for index in range(8):
        controller.save(tmp_path / f"{index}.safetensors")
        contents.add((tmp_path / f"{index}.safetensors").read_bytes())
    assert len(contents) == 1
