"""`Controller`: a policy as plain NumPy, for host simulators, worker processes, robots and files. No JAX.

p observations, m actions (or k choices), B a batch, d searched parameters; o' = (o − shift)/scale.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from policysearch import controller_file

if TYPE_CHECKING:  # a fifth of the time that a worker needs to start
    from jaxtyping import Float

POLICIES = ("linear_gaussian", "neural_gaussian", "softmax", "parameters")
ACTIVATIONS: dict[str, Callable[..., np.ndarray]] = {
    "sin": np.sin,
    "tanh": np.tanh,
    "relu": lambda x, out=None: np.maximum(x, 0.0, out=out),
}


class Controller:
    """A policy with its observation scaling: description, searched parameters and constants.

    Policies, by `description["policy"]`:

    - linear_gaussian: mean = gain o' + bias; with the constant `mask` (m, p), `gain` is the vector of the entries
      that are True there, row by row, and the others are 0.
    - neural_gaussian: mean = action_centre + action_scale · network(o'), of layers weight_0, bias_0, …
    - softmax: logits (k,) of the same layers; one layer is a linear policy, biases may be absent.
    - parameters: named numbers of a rig, read with `values()`; it takes no observations.

    Gaussian policies have `log_std` (m,) among parameters (learned) or constants (fixed), or none.

    Args:
        description: JSON-able; "policy"; "activation" ("tanh" or "relu") of networks; "names" of parameters;
            "searched": which parameters make up θ (all by default).
        parameters: arrays by name; kept as float64.
        constants: arrays by name that no search changes; `scaling_shift` and `scaling_scale` (p,) among them.

    Raises:
        ValueError: if an array is missing or its shape does not fit the others; the message names it.

    One controller serves one thread at a time (it reuses its buffers); results are always fresh arrays.

    Example:
        >>> controller = Controller({"policy": "linear_gaussian"}, {"gain": np.array([[-0.5, -0.8]])})
        >>> float(controller.mode(np.array([1.0, 0.0]))[0])
        -0.5
    """

    def __init__(
        self,
        description: Mapping[str, Any],
        parameters: Mapping[str, np.ndarray],
        constants: Mapping[str, np.ndarray] | None = None,
    ):
        self.description = dict(description)
        self.parameters = {name: np.array(value, dtype=np.float64) for name, value in parameters.items()}
        self.constants = {name: _constant(value) for name, value in (constants or {}).items()}
        self.policy: str = self.description.get("policy", "")
        if self.policy not in POLICIES:
            raise ValueError(f'description["policy"] is {self.policy!r}; choose one of {", ".join(POLICIES)}.')
        self.searched: tuple[str, ...] = tuple(sorted(self.description.get("searched", self.parameters)))
        for name in self.searched:
            self._array(name, self.parameters, "parameter")
        #: p and m (or k); 0 and k for named parameters
        self.observation_size: int = 0
        self.action_size: int = 0
        self._layers: list[np.ndarray] = []
        if self.policy == "parameters":
            self._check_values()
        else:
            self._layers = self._augmented_layers()
            self.observation_size = self._layers[0].shape[1] - 1
            self.action_size = len(self._layers[-1])
        self.discrete = self.policy == "softmax"
        self._shape = (self.observation_size,)
        self._shift = self._scaling()
        log_std = self.parameters.get("log_std", self.constants.get("log_std"))
        self._std: np.ndarray | None = None
        if log_std is not None:
            self._expect("log_std", log_std, (self.action_size,))
            self._std = np.exp(log_std)
        if self._layers:
            self._output = self._compiled()

    def __reduce__(self) -> tuple[Any, ...]:
        return Controller, (self.description, self.parameters, self.constants)

    def _array(self, name: str, arrays: dict[str, np.ndarray], kind: str) -> np.ndarray:
        if name not in arrays:
            raise ValueError(
                f"A {self.policy} controller needs the {kind} {name!r}; it has {sorted(arrays) or 'none'}."
            )
        return arrays[name]

    def _expect(self, name: str, value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        if value.shape != shape:
            raise ValueError(f"{name} has shape {value.shape}; {shape} fits this {self.policy} controller.")
        return value

    def _check_values(self) -> None:
        names = list(self.description.get("names", ()))
        values = self._array("values", self.parameters, "parameter")
        self._expect("values", values, (len(names),))
        for name in ("initial", "scale", "low", "high", "log"):
            self._expect(name, self._array(name, self.constants, "constant"), values.shape)
        self.action_size = len(names)

    def _weights(self) -> list[tuple[np.ndarray, np.ndarray | None]]:
        """Layers as (weight, bias or None), before scaling."""
        if self.policy == "linear_gaussian":
            gain = self._array("gain", self.parameters, "parameter")
            mask = self.constants.get("mask")
            if mask is not None:
                flat = self._expect("gain", gain, (int(mask.sum()),))
                gain = np.zeros(mask.shape)
                gain[mask.astype(bool)] = flat
            return [(gain, self.parameters.get("bias"))]
        arrays = {**self.constants, **self.parameters}
        count = sum(name.startswith("weight_") for name in arrays)
        return [(self._array(f"weight_{i}", arrays, "array"), arrays.get(f"bias_{i}")) for i in range(max(count, 1))]

    def _augmented_layers(self) -> list[np.ndarray]:
        """Matrices [W b], one a layer, with observation scale and action limits folded in."""
        weights = self._weights()
        if len(weights) > 1 and self.description.get("activation") not in ACTIVATIONS:
            raise ValueError(
                f'description["activation"] is {self.description.get("activation")!r}; '
                f"choose one of {', '.join(ACTIVATIONS)}."
            )
        layers = []
        for i, (weight, bias) in enumerate(weights):
            name = "gain" if self.policy == "linear_gaussian" else f"weight_{i}"
            if weight.ndim != 2 or (i and weight.shape[1] != len(weights[i - 1][0])):
                raise ValueError(
                    f"{name} has shape {weight.shape}; it must be (outputs, inputs)"
                    + (f" with {len(weights[i - 1][0])} inputs." if i else ".")
                )
            if bias is None:
                bias = np.zeros(len(weight))
            self._expect("bias" if name == "gain" else f"bias_{i}", bias, (len(weight),))
            layers.append(np.column_stack([weight, bias]))
        if "scaling_scale" in self.constants:
            scale = self._expect("scaling_scale", self.constants["scaling_scale"], (layers[0].shape[1] - 1,))
            if not np.all(scale > 0):
                raise ValueError(f"scaling_scale has smallest entry {scale.min()}; every entry must be > 0.")
            layers[0][:, :-1] /= scale
        if self.policy == "neural_gaussian":
            m = (len(layers[-1]),)
            scale = self._expect("action_scale", self._array("action_scale", self.constants, "constant"), m)
            centre = self._expect("action_centre", self._array("action_centre", self.constants, "constant"), m)
            layers[-1] *= scale[:, None]
            layers[-1][:, -1] += centre
        return layers

    def _scaling(self) -> np.ndarray | None:
        if "scaling_shift" not in self.constants:
            return None
        return self._expect("scaling_shift", self.constants["scaling_shift"], self._shape)

    def _compiled(self) -> Callable[[np.ndarray, np.ndarray | None], np.ndarray]:
        """A function of one observation that touches NumPy as seldom as it can: mean or logits, into `out` if given.

        Every layer's input buffer ends in a constant 1 that multiplies the bias column. The shift is
        subtracted and not folded into the bias, where a large one would cancel to rounding noise.
        """
        buffers = [np.ones(layer.shape[1]) for layer in self._layers]
        first, first_view = buffers[0], buffers[0][:-1]
        shift = np.zeros(self._shape) if self._shift is None else self._shift
        hidden = [
            (layer.dot, source, target, target[:-1])
            for layer, source, target in zip(self._layers[:-1], buffers[:-1], buffers[1:], strict=True)
        ]
        last, last_buffer = self._layers[-1].dot, buffers[-1]
        subtract = np.subtract
        if not hidden:

            def linear(observation: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
                subtract(observation, shift, first_view)
                return last(first, out)

            return linear
        activation = ACTIVATIONS[self.description["activation"]]
        steps = [(dot, source, view) for dot, source, _, view in hidden]

        def network(observation: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
            subtract(observation, shift, first_view)
            for dot, source, view in steps:
                dot(source, view)
                activation(view, out=view)
            return last(last_buffer, out)

        return network

    def output(self, observation: np.ndarray) -> np.ndarray:
        """Mean action (m,) or logits (k,) for an observation (p,), or a batch of them for (B, p).

        Args:
            observation: (p,) or (B, p), in the task's units.

        Returns:
            (m,) or (k,), or with a leading B.

        Raises:
            ValueError: for another shape.
            TypeError: if this controller only holds named parameters.
        """
        if type(observation) is not np.ndarray:
            observation = np.asarray(observation, dtype=np.float64)
        if observation.shape == self._shape and self._layers:
            return self._output(observation, None)
        if not self._layers:
            raise TypeError("A controller of named parameters takes no observations; read its values().")
        if observation.ndim != 2 or observation.shape[1:] != self._shape:
            raise ValueError(
                f"observation has shape {observation.shape}; {self._shape} is needed, "
                f"or (B, {self._shape[0]}) for a batch."
            )
        x = observation.astype(np.float64) if self._shift is None else observation - self._shift
        for layer in self._layers[:-1]:
            x = ACTIVATIONS[self.description["activation"]](x @ layer[:, :-1].T + layer[:, -1])
        return x @ self._layers[-1][:, :-1].T + self._layers[-1][:, -1]

    @property
    def unchecked_output(self) -> Callable[[np.ndarray, np.ndarray | None], np.ndarray]:
        """`output` for inner loops: of one observation (p,), into a float64 array (m,) if that is not None.

        Raises:
            TypeError: if this controller only holds named parameters.
        """
        if not self._layers:
            raise TypeError("A controller of named parameters takes no observations; read its values().")
        return self._output

    def mode(self, observation: np.ndarray) -> Any:
        """The most probable action.

        Args:
            observation: (p,) or (B, p).

        Returns:
            (m,) or (B, m) in action units; an int or (B,) integers for softmax.
        """
        output = self.output(observation)
        if not self.discrete:
            return output
        return int(output.argmax()) if output.ndim == 1 else output.argmax(axis=1)

    def act(self, observation: np.ndarray, noise: np.ndarray | None = None) -> Any:
        """An action from an observation and given noise, as `noise` draws it.

        Args:
            observation: (p,) or (B, p).
            noise: standard normal (m,), Gumbel (k,) for softmax, (B, …) for a batch; None: the mode.

        Returns:
            As `mode`: before any clipping to limits.

        Raises:
            ValueError: if noise is given and the policy has no log_std.
        """
        if noise is None:
            return self.mode(observation)
        if self.discrete:
            output = self.output(observation) + noise
            return int(output.argmax()) if output.ndim == 1 else output.argmax(axis=1)
        return self.output(observation) + (self.std if self._std is None else self._std) * noise

    @property
    def std(self) -> np.ndarray:
        """Standard deviation of a Gaussian policy's actions, (m,)."""
        if self._std is None:
            raise ValueError("This controller has no log_std, so it cannot sample; act with its mode.")
        return self._std

    def noise(self, generator: np.random.Generator, stages: int) -> Float[np.ndarray, "stages m"]:
        """Noise for `act` for as many stages.

        Args:
            generator: of the trial, see `streams.action_stream`.
            stages: number of rows.

        Returns:
            Standard normals (stages, m), or standard Gumbel numbers (stages, k) for softmax.
        """
        if self.discrete:
            return generator.gumbel(size=(stages, self.action_size))
        return generator.standard_normal((stages, self.action_size))

    def log_prob(self, observation: np.ndarray, action: Any) -> Any:
        """Log-probability of an action, in nats (of its density per action unit for Gaussian policies).

        Args:
            observation: (p,) or (B, p).
            action: as sampled, (m,) or (B, m); an int or (B,) for softmax.

        Returns:
            () or (B,).
        """
        output = self.output(observation)
        if self.discrete:
            shifted = output - output.max(axis=-1, keepdims=True)
            table = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
            return np.take_along_axis(table, np.asarray(action)[..., None], axis=-1)[..., 0]
        z = (np.asarray(action, dtype=np.float64) - output) / self.std
        return -0.5 * (z * z).sum(axis=-1) - np.log(self.std).sum() - 0.5 * self.action_size * math.log(2 * math.pi)

    def values(self) -> dict[str, float]:
        """The rig's parameters by name, in their own units, within their bounds.

        Returns:
            name → clip(initial + scale·value), or clip(initial·exp(scale·value)) for logarithmic ones.

        Raises:
            TypeError: unless the policy is "parameters".
        """
        if self.policy != "parameters":
            raise TypeError(f"A {self.policy} controller has no named values; call its act or mode.")
        c = self.constants
        step = c["scale"] * self.parameters["values"]
        log = c["log"].astype(bool)
        natural = np.where(log, c["initial"] * np.exp(np.where(log, step, 0.0)), c["initial"] + step)
        natural = np.clip(natural, c["low"], c["high"])
        return {name: float(value) for name, value in zip(self.description["names"], natural, strict=True)}

    def theta(self, names: Sequence[str] | None = None) -> Float[np.ndarray, " d"]:
        """The searched parameters as one vector θ, concatenated in the order of their sorted names.

        Args:
            names: which parameters; the searched ones by default.

        Returns:
            (d,) float64.
        """
        names = self.searched if names is None else sorted(names)
        parts = [self._array(name, self.parameters, "parameter").ravel() for name in names]
        return np.concatenate(parts) if parts else np.empty(0)

    def with_theta(self, theta: Float[np.ndarray, " d"]) -> Controller:
        """The same controller with other searched parameters.

        Args:
            theta: (d,), in the order of `theta()`.

        Returns:
            A new controller.

        Raises:
            ValueError: for another length.
        """
        theta = np.asarray(theta, dtype=np.float64)
        size = sum(self.parameters[name].size for name in self.searched)
        self._expect("theta", theta, (size,))
        parameters = dict(self.parameters)
        start = 0
        for name in self.searched:
            old = parameters[name]
            parameters[name] = theta[start : start + old.size].reshape(old.shape)
            start += old.size
        return Controller(self.description, parameters, self.constants)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file with description and checksum: written aside, synced, then renamed.

        Args:
            path: of the file; an older one is replaced in one step.
        """
        controller_file.save(self, path)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Controller:
        """Read what `save` wrote, after checking its checksum; a file is data, no code in it is run.

        Args:
            path: of the file.

        Returns:
            The controller.

        Raises:
            FileNotFoundError: if there is no file.
            ValueError: if it is damaged, of another kind or of a newer format; the message says which.
        """
        content = controller_file.load(path)
        try:
            return Controller(*content)
        except (ValueError, TypeError, IndexError, OverflowError) as error:
            raise ValueError(f"{path} is no policy: {error}") from None


def _constant(value: np.ndarray) -> np.ndarray:
    value = np.array(value)
    return value if value.dtype == bool else value.astype(np.float64)
