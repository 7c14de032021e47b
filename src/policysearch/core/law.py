"""The law of layers for one observation (p,) in NumPy, with as few calls as possible. No JAX.

Layers are matrices [W b] that act on (x, 1), with the scales of observations and actions folded in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

ACTIVATIONS: dict[str, Callable[..., np.ndarray]] = {
    "tanh": np.tanh,
    "relu": lambda x, out=None: np.maximum(x, 0.0, out=out),
    "sin": np.sin,
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


def fused(
    layers: Sequence[tuple[np.ndarray, np.ndarray | None]],
    scale: np.ndarray | None,
    action_scale: np.ndarray | None = None,
    action_centre: np.ndarray | None = None,
) -> list[np.ndarray]:
    """Layers [W b] from weights and biases, which divide the observation by `scale`, and place the outputs.

    Args:
        layers: weights (outputs, inputs) and biases (outputs,) or None.
        scale: of the observations, (p,).
        action_scale, action_centre: (m,), what ±1 and 0 of the last layer mean.
    """
    found = [np.column_stack([weight, np.zeros(len(weight)) if bias is None else bias]) for weight, bias in layers]
    if scale is not None:
        found[0][:, :-1] /= scale
    if action_scale is not None and action_centre is not None:
        found[-1] *= action_scale[:, None]
        found[-1][:, -1] += action_centre
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
