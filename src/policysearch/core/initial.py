"""Where a search starts: random weights, known values, or a saved controller.

p observations, m actions, f features. Gains and named numbers are given in physical units.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from policysearch.core import controller_file, grammar
from policysearch.core.controller import Controller
from policysearch.core.normalize import Scaling
from policysearch.core.plain import Plain
from policysearch.core.policies import LinearGaussian, NeuralGaussian, Parameters, Policy, Softmax

#: bytes of a JSON file with initial values
LARGEST = 2**20


def random_layers(
    sizes: Sequence[int], seed: int, *, last: float = 0.01, bias: bool = True
) -> list[tuple[np.ndarray, np.ndarray | None]]:
    """Weights of a perceptron p → hidden… → m: orthogonal rows, hidden biases 0, the last layer scaled by `last`.

    Args:
        sizes: (p, hidden…, m).
        seed: of the random numbers.
        last: factor on the last layer, small so that a search starts near the action's centre; 0 for a zero start.
        bias: give each layer a bias.
    """
    generator = np.random.default_rng(seed)
    layers = []
    for index, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        block = generator.standard_normal((max(fan_in, fan_out), min(fan_in, fan_out)))
        q, r = np.linalg.qr(block)
        q = q * np.sign(np.diag(r))
        weight = q if fan_out >= fan_in else q.T
        gain = last if index == len(sizes) - 2 else np.sqrt(max(1.0, fan_out / fan_in))
        layers.append((weight * gain, np.zeros(fan_out) if bias else None))
    return layers


def fourier_layers(
    p: int, features: int, m: int, seed: int, bandwidth: float | None = None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Random Fourier features sin(P x'/ν + φ) and a zero output layer: the RBF policy of Rajeswaran et al. (2017).

    Linear in the searched parameters, yet about as flexible as a Gaussian-kernel machine (Rahimi & Recht 2007).

    Args:
        p, features, m: sizes of the layers.
        seed: of P ~ N(0, 1) and φ ~ U(−π, π).
        bandwidth: ν, in scaled observations; √(2p) by default, their root mean square distance.
    """
    generator = np.random.default_rng(seed)
    width = np.sqrt(2 * p) if bandwidth is None else bandwidth
    projection = generator.standard_normal((features, p)) / width
    phase = generator.uniform(-np.pi, np.pi, features)
    return [(projection, phase), (np.zeros((m, features)), np.zeros(m))]


def start(policy: Policy, initial: object) -> Policy:
    """The policy moved to known parameters, in physical units.

    Args:
        policy: what is searched.
        initial: a path to a JSON file, a policy file or a run's folder; a `Controller`; or a dict such as
            {"gain": [[…]], "bias": […]} or {"kp": 1.0}. A gain acts on observations in their own units.

    Raises:
        ValueError: what is given does not fit the policy; the message says how.
    """
    if isinstance(initial, (str, Path)):
        initial = _read(Path(initial))
    if isinstance(initial, Controller):
        try:
            other = from_controller(initial)
        except (KeyError, TypeError, IndexError) as error:
            raise ValueError(f"The initial policy cannot be searched from: {error} is missing or invalid.") from error
        if isinstance(other, Parameters) and isinstance(policy, Parameters) and other.names != policy.names:
            raise ValueError(
                f"The initial policy has parameters {', '.join(other.names)}; "
                f"this search has {', '.join(policy.names)}."
            )
        if type(other) is not type(policy) or _shapes(other) != _shapes(policy):
            raise ValueError(
                f"The initial policy is {type(other).__name__} with {_shapes(other)}; "
                f"this search needs {type(policy).__name__} with {_shapes(policy)}."
            )
        return other
    if not isinstance(initial, dict):
        raise ValueError(
            f"initial is a {type(initial).__name__}; give a path, a controller, or a dict of values by name."
        )
    if isinstance(policy, Parameters):
        return _named(policy, initial)
    if not isinstance(policy, LinearGaussian):
        raise ValueError(
            "Only a gain matrix or named numbers can start from values; give a policy file for a network, or search a "
            "gain matrix: policy linear."
        )
    return _gain(policy, initial)


def _named(policy: Parameters, initial: Plain) -> Parameters:
    unknown = [name for name in initial if name not in policy.names]
    if unknown:
        raise ValueError(f"Initial values for {', '.join(unknown[:10])}; the parameters are {', '.join(policy.names)}.")
    values = [float(_numbers(name, initial.get(name, value), ())) for name, value in policy.values().items()]
    bounds = {n: (float(lo), float(hi)) for n, lo, hi in zip(policy.names, policy.low, policy.high, strict=True)}
    log = [name for name, flag in zip(policy.names, policy.log, strict=True) if flag]
    return Parameters(policy.names, values, bounds=bounds, scale=np.asarray(policy.scale), log=log)


def _gain(policy: LinearGaussian, initial: Plain) -> LinearGaussian:
    shape = np.shape(policy.gain)
    gain = _numbers("gain", initial.get("gain", np.zeros(shape)))
    if set(initial) - {"gain", "bias"} or "gain" not in initial or gain.shape != shape:
        raise ValueError(
            f"initial has {', '.join(list(initial)[:10])} with a gain of shape {gain.shape}; "
            f'it must be {{"gain": {shape} numbers}} and may have "bias". If you mean u = -K x, negate K.'
        )
    scale, shift = np.asarray(policy.scaling.scale, float), np.asarray(policy.scaling.shift, float)
    bias = _numbers("bias", initial.get("bias", np.zeros(shape[0])), shape[:1]) + gain @ shift
    parameters = dict(policy.parameters)
    scaled = gain * scale
    if policy.mask is not None:
        if np.any(scaled[~np.asarray(policy.mask)] != 0):
            raise ValueError("The initial gain is not zero where the mask is False.")
        scaled = scaled[np.asarray(policy.mask)]
    parameters["gain"] = jnp.asarray(scaled)
    if "bias" in parameters:
        parameters["bias"] = jnp.asarray(bias)
    elif np.any(bias != 0):
        raise ValueError("The initial values have a bias but the policy has no bias; turn it on.")
    return eqx.tree_at(lambda p: p.parameters, policy, parameters)


def _numbers(name: str, given: object, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Finite numbers, of a shape if one is given."""
    try:
        if np.asarray(given).dtype.kind in "USb":
            raise TypeError("text, or true and false, are not numbers")
        numbers = np.asarray(given, float)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"The initial {name} is not an array of numbers: {error}.") from None
    if not np.isfinite(numbers).all():
        raise ValueError(f"The initial {name} is not finite.")
    if shape is not None and numbers.shape != shape:
        raise ValueError(f"The initial {name} has shape {numbers.shape}; it must be {shape}.")
    return numbers


def _read(path: Path) -> Any:
    if path.is_dir():
        path = path / "policy.safetensors"
    if not path.exists():
        raise ValueError(f"There is no file {path} to start from.")
    if path.suffix != ".json":
        # its limits are not used: the search has those of its task
        return Controller.of_content(controller_file.load(path), path)
    size = path.stat().st_size
    if size > LARGEST:
        raise ValueError(f"{path} has {size} bytes; initial values may take up to {LARGEST}.")
    try:
        content = json.loads(path.read_bytes(), object_pairs_hook=_once, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}.") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}; give an object.")
    return content


def _once(pairs: list[tuple[str, object]]) -> Plain:
    """An object in which each name is given once."""
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in content if names.count(name) > 1)
        raise ValueError(f"{grammar.shown(twice)} is given twice")
    return content


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is not a number")


def _shapes(policy: Policy) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in sorted(policy.parameters.items())}


def from_controller(controller: Controller) -> Policy:
    """The JAX policy of a loaded controller (the inverse of `Policy.controller`)."""
    return _law(controller).with_interface(controller.interface)


def _law(controller: Controller) -> Policy:
    kind = controller.description["policy"]
    parameters, constants = controller.parameters, controller.constants
    if kind == "parameters":
        names = list(controller.description["names"])
        bounds = {
            name: (float(low), float(high))
            for name, low, high in zip(names, constants["low"], constants["high"], strict=True)
        }
        log = [name for name, flag in zip(names, constants["log"], strict=True) if flag]
        policy: Policy = Parameters(names, constants["initial"], bounds=bounds, scale=constants["scale"], log=log)
        return eqx.tree_at(lambda tree: tree.parameters["values"], policy, jnp.asarray(parameters["values"]))
    scaling = Scaling(
        jnp.asarray(constants["scaling_count"]),
        jnp.asarray(constants["scaling_mean"]),
        jnp.asarray(constants["scaling_m2"]),
        running=bool(constants["scaling_running"]),
        centred=bool(constants.get("scaling_centred", True)),  # older files have no other kind
    )
    std = np.exp(parameters.get("log_std", constants.get("log_std", np.zeros(1))))
    if kind == "linear_gaussian":
        gain = parameters["gain"]
        mask = constants.get("mask")
        if mask is not None:
            full = np.zeros(mask.shape)
            full[mask] = gain
            gain = full
        return LinearGaussian(
            gain,
            bias=parameters.get("bias"),
            std=std,
            learned_std="log_std" in parameters,
            mask=mask,
            scaling=scaling,
        )
    arrays = {**constants, **parameters}
    depth = sum(name.startswith("weight_") for name in arrays)
    layers = [(arrays[f"weight_{i}"], arrays.get(f"bias_{i}")) for i in range(depth)]
    activation = controller.description["activation"]
    if kind == "softmax":
        return Softmax(layers, activation=activation, scaling=scaling)
    return NeuralGaussian(
        layers,
        std=std,
        learned_std="log_std" in parameters,
        activation=activation,
        action_centre=constants["action_centre"],
        action_scale=constants["action_scale"],
        frozen=sum(name.startswith("weight_") for name in constants),
        scaling=scaling,
    )
