"""The law of a controller, the mean action (m,) or the logits (k,) as a function of an observation (p,), in NumPy.

Layers are matrices [W b] that act on (x, 1), with the scales of observations and actions folded in. No JAX.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from policysearch.core.plain import Plain

ACTIVATIONS: dict[str, Callable[..., np.ndarray]] = {
    "sin": np.sin,
    "tanh": np.tanh,
    "relu": lambda x, out=None: np.maximum(x, 0.0, out=out),
}
Arrays = Mapping[str, np.ndarray]


def needed(name: str, arrays: Arrays, kind: str, policy: str) -> np.ndarray:
    """The array of that name; ValueError if it is missing."""
    if name not in arrays:
        raise ValueError(f"A {policy} controller needs the {kind} {name!r}; it has {sorted(arrays) or 'none'}.")
    return arrays[name]


def fitting(name: str, value: np.ndarray, shape: tuple[int, ...], policy: str) -> np.ndarray:
    """The array, if it has that shape; else ValueError."""
    if value.shape != shape:
        raise ValueError(f"{name} has shape {value.shape}; this {policy} controller needs {shape}.")
    return value


def _weights(policy: str, parameters: Arrays, constants: Arrays) -> list[tuple[np.ndarray, np.ndarray | None]]:
    """Layers as (weight, bias or None), before scaling."""
    if policy == "linear_gaussian":
        gain = needed("gain", parameters, "parameter", policy)
        mask = constants.get("mask")
        if mask is not None:
            flat = fitting("gain", gain, (int(mask.sum()),), policy)
            gain = np.zeros(mask.shape)
            gain[mask.astype(bool)] = flat
        return [(gain, parameters.get("bias"))]
    arrays = {**constants, **parameters}
    count = sum(name.startswith("weight_") for name in arrays)
    names = [f"weight_{i}" for i in range(max(count, 1))]
    return [(needed(name, arrays, "array", policy), arrays.get(f"bias_{i}")) for i, name in enumerate(names)]


def layers(description: Plain, parameters: Arrays, constants: Arrays) -> list[np.ndarray]:
    """The layers of a controller that takes observations; see `Controller` for the arguments.

    Raises:
        ValueError: an array is missing, or its shape does not fit the others.
    """
    policy, activation = description["policy"], description.get("activation")
    weights = _weights(policy, parameters, constants)
    if len(weights) > 1 and activation not in ACTIVATIONS:
        raise ValueError(f'description["activation"] is {activation!r}; choose one of {", ".join(ACTIVATIONS)}.')
    found: list[np.ndarray] = []
    for i, (weight, bias) in enumerate(weights):
        name = "gain" if policy == "linear_gaussian" else f"weight_{i}"
        if weight.ndim != 2 or (i and weight.shape[1] != len(weights[i - 1][0])):
            raise ValueError(
                f"{name} has shape {weight.shape}; it must be (outputs, inputs)"
                + (f" with {len(weights[i - 1][0])} inputs." if i else ".")
            )
        if bias is None:
            bias = np.zeros(len(weight))
        fitting("bias" if name == "gain" else f"bias_{i}", bias, (len(weight),), policy)
        found.append(np.column_stack([weight, bias]))
    if "scaling_scale" in constants:
        scale = fitting("scaling_scale", constants["scaling_scale"], (found[0].shape[1] - 1,), policy)
        if not np.all(scale > 0):
            raise ValueError(f"scaling_scale has smallest entry {scale.min()}; every entry must be > 0.")
        found[0][:, :-1] /= scale
    if policy == "neural_gaussian":
        scale, centre = (
            fitting(name, needed(name, constants, "constant", policy), (len(found[-1]),), policy)
            for name in ("action_scale", "action_centre")
        )
        found[-1] *= scale[:, None]
        found[-1][:, -1] += centre
    return found


def compiled(
    layers: list[np.ndarray], shift: np.ndarray | None, activation: str
) -> Callable[[np.ndarray, np.ndarray | None], np.ndarray]:
    """The law for one observation, with as few NumPy calls as possible; it writes into `out` if given.

    Every layer's input buffer ends in a constant 1 that multiplies the bias column. The shift is
    subtracted rather than folded into the bias, where a large one would cancel to rounding noise.
    """
    buffers = [np.ones(layer.shape[1]) for layer in layers]
    first, first_view = buffers[0], buffers[0][:-1]
    subtracted = np.zeros(first_view.shape) if shift is None else shift
    last, last_buffer = layers[-1].dot, buffers[-1]
    subtract = np.subtract
    if len(layers) == 1:

        def linear(observation: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
            subtract(observation, subtracted, first_view)
            return last(first, out)

        return linear
    function = ACTIVATIONS[activation]
    steps = [
        (layer.dot, source, target[:-1])
        for layer, source, target in zip(layers[:-1], buffers[:-1], buffers[1:], strict=True)
    ]

    def network(observation: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        subtract(observation, subtracted, first_view)
        for dot, source, view in steps:
            dot(source, view)
            function(view, out=view)
        return last(last_buffer, out)

    return network


def batch(layers: list[np.ndarray], shift: np.ndarray | None, activation: str, observations: np.ndarray) -> np.ndarray:
    """The law for many observations (B, p): (B, m) or (B, k)."""
    x = observations if shift is None else observations - shift
    for layer in layers[:-1]:
        x = ACTIVATIONS[activation](x @ layer[:, :-1].T + layer[:, -1])
    return x @ layers[-1][:, :-1].T + layers[-1][:, -1]
