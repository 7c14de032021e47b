"""Layers of weights and biases, shared by linear maps and networks: checks, forward pass, first values.

p observations, m outputs, f features. No JAX.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from policysearch.core import law

if TYPE_CHECKING:
    from jaxtyping import Array, Float

Layers = Sequence[tuple[Any, Any]]


def arrays(layers: Layers, activation: str) -> dict[str, np.ndarray]:
    """weight_0, bias_0, … of a user's layers.

    Raises:
        ValueError: an unknown activation, or layers that do not fit each other.
    """
    if activation not in law.ACTIVATIONS:
        raise ValueError(f"activation {activation!r} is unknown; use one of {', '.join(law.ACTIVATIONS)}.")
    found: dict[str, np.ndarray] = {}
    for index, (weight, bias) in enumerate(layers):
        if index and np.shape(weight)[1] != np.shape(layers[index - 1][0])[0]:
            raise ValueError(
                f"Layer {index} takes {np.shape(weight)[1]} inputs but gets {np.shape(layers[index - 1][0])[0]}."
            )
        found[f"weight_{index}"] = np.asarray(weight, float)
        if bias is not None:
            found[f"bias_{index}"] = np.asarray(bias, float)
    return found


def depth(named: Mapping[str, Any]) -> int:
    """How many layers there are among these arrays."""
    return sum(name.startswith("weight_") for name in named)


def layers(named: Mapping[str, Any], policy: str) -> list[tuple[Any, Any]]:
    """Weights and biases, or None, in order."""
    names = [f"weight_{index}" for index in range(max(depth(named), 1))]
    return [(law.needed(name, named, "array", policy), named.get(f"bias_{index}")) for index, name in enumerate(names)]


def sizes(found: Layers, policy: str, activation: str, weight: str = "weight_{}", bias: str = "bias_{}") -> Any:
    """Inputs and outputs of layers, after a check that they fit; `weight` and `bias` are their names in messages.

    Raises:
        ValueError: they do not fit, or have no known activation between them.
    """
    if len(found) > 1 and activation not in law.ACTIVATIONS:
        raise ValueError(f'description["activation"] is {activation!r}; choose one of {", ".join(law.ACTIVATIONS)}.')
    for index, (matrix, constant) in enumerate(found):
        if matrix.ndim != 2 or (index and matrix.shape[1] != len(found[index - 1][0])):
            inputs = f" with {len(found[index - 1][0])} inputs." if index else "."
            raise ValueError(f"{weight.format(index)} has shape {matrix.shape}; it must be (outputs, inputs){inputs}")
        if constant is not None:
            law.fitting(bias.format(index), constant, (len(matrix),), policy)
    return found[0][0].shape[1], len(found[-1][0])


def forward(xp: Any, found: Layers, activation: str, inputs: Float[Array, "*b p"]) -> Float[Array, "*b m"]:
    """The outputs of the layers, with the activation between them; each of B inputs may have weights of its own."""
    values = inputs
    for index, (weight, bias) in enumerate(found):
        values = values @ weight.T if weight.ndim == 2 else (weight @ values[..., None])[..., 0]
        if bias is not None:
            values = values + bias
        if index < len(found) - 1:
            values = activated(xp, activation, values)
    return values


def activated(xp: Any, activation: str, values: Array) -> Array:
    """The activation of each value."""
    if activation == "relu":
        return xp.where(values <= 0, 0.0, values)  # its derivative at 0 is 0, and NaN stays NaN
    return getattr(xp, activation)(values)


def absorbed(named: Mapping[str, Any], ratio: Array, moved: Array) -> dict[str, Any]:
    """The arrays with a first layer that takes observations of another scaling; see `Policy.rescaled`."""
    new, old = dict(named), named["weight_0"]
    new["weight_0"] = old * ratio
    if "bias_0" in new:
        new["bias_0"] = new["bias_0"] + old @ moved
    return new


def log_std(std: Any, m: int) -> np.ndarray:
    """Logarithms of standard deviations, (m,).

    Raises:
        ValueError: one is not positive.
    """
    values = np.broadcast_to(np.asarray(std, float), (m,))
    if not np.all(np.isfinite(values) & (values > 0)):
        raise ValueError(f"std must be positive and finite; got {std}. For no noise, use the policy's mode.")
    return np.log(values)


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
