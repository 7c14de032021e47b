"""Policies π_θ(u | x): linear-Gaussian, neural-Gaussian, softmax, and named numbers. θ is a dict of arrays.

p observations, m actions, k choices, d searched parameters. Every policy has its NumPy twin in `controller`.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from policysearch.core.controller import Controller
from policysearch.core.distributions import Categorical, Distribution, Gaussian
from policysearch.core.grammar import Parameter
from policysearch.core.interface import Interface
from policysearch.core.normalize import Scaling

ACTIVATIONS = {"tanh": jnp.tanh, "relu": jax.nn.relu, "sin": jnp.sin}


class Policy(eqx.Module):
    """What all policies share: named parameters, which of them are searched, and a flat view θ of those.

    `parameters` maps names to arrays. The flat θ concatenates the searched ones in the order of their names. Searches
    in parameter space leave `log_std` out, because they run the mode.
    """

    parameters: eqx.AbstractVar[dict[str, Array]]
    scaling: eqx.AbstractVar[Scaling | None]
    #: what its controllers are connected to; a search says so, see `with_interface`
    interface: Interface = eqx.field(static=True, default=Interface(), kw_only=True)

    @abc.abstractmethod
    def __call__(self, observation: Float[Array, "*b p"]) -> Distribution:
        """Distribution over actions at each observation (*batch, p)."""

    @abc.abstractmethod
    def controller(self) -> Controller:
        """The same policy as plain NumPy."""

    def mode(self, observation: Float[Array, "*b p"]) -> Array:
        """Most likely action at each observation."""
        return self(observation).mode()

    def sample(self, observation: Float[Array, "*b p"], key: PRNGKeyArray) -> Array:
        """One action at each observation."""
        return self(observation).sample(key)

    def log_prob(self, observation: Float[Array, "*b p"], action: Array) -> Array:
        """log π(action | observation), nats."""
        return self(observation).log_prob(action)

    def kl(self, other: Policy, observation: Float[Array, "*b p"]) -> Array:
        """KL(self ‖ other) at each observation, nats, closed form (18.37)."""
        return self(observation).kl(other(observation))

    def searched(self, space: str) -> tuple[str, ...]:
        """Names of the parameters that a search in `space` ("action" or "parameter") moves, sorted."""
        return tuple(sorted(name for name in self.parameters if space == "action" or name != "log_std"))

    def theta(self, space: str = "action") -> Float[Array, " d"]:
        """The searched parameters as one vector (d,)."""
        return jnp.concatenate([self.parameters[name].ravel() for name in self.searched(space)])

    def with_theta(self, theta: Float[Array, " d"], space: str = "action") -> Policy:
        """This policy with its searched parameters taken from a vector (d,)."""
        new, start = dict(self.parameters), 0
        for name in self.searched(space):
            shape = new[name].shape
            size = int(np.prod(shape))
            new[name] = theta[start : start + size].reshape(shape)
            start += size
        return eqx.tree_at(lambda policy: policy.parameters, self, new)

    def with_scaling(self, scaling: Scaling | None) -> Policy:
        """This policy with another observation scaling."""
        return eqx.tree_at(lambda policy: policy.scaling, self, scaling) if scaling is not None else self

    def with_interface(self, interface: Interface) -> Policy:
        """This policy; its controllers know the limits, names and time step of what they are connected to."""
        policy: Policy = jax.tree.map(lambda leaf: leaf, self)
        object.__setattr__(policy, "interface", interface)  # it is static, so that no tree function reaches it
        return policy

    def rescaled(self, scaling: Scaling) -> Policy:
        """The same actions from another observation scaling: the first layer's weights take up the change.

        Without a bias only the change of scale is taken up; a scaling that is not centred has no other.
        """
        if self.scaling is None:
            return self
        weight, bias = ("gain", "bias") if "gain" in self.parameters else ("weight_0", "bias_0")
        ratio = scaling.scale / self.scaling.scale
        holder = "parameters" if weight in self.parameters else "constants"
        new = dict(getattr(self, holder))
        old = new[weight]
        mask = getattr(self, "mask", None)
        whole: Any = getattr(self, "gain", old)  # of a masked one the vector of its entries is searched
        if mask is not None:
            ratio = ratio[np.nonzero(np.asarray(mask))[1]]
        new[weight] = old * ratio
        if bias in new:
            new[bias] = new[bias] + whole @ ((scaling.shift - self.scaling.shift) / self.scaling.scale)
        return eqx.tree_at(lambda policy: getattr(policy, holder), self.with_scaling(scaling), new)

    def step_units(self, largest: Any) -> np.ndarray:
        """The largest step of an update in θ's own units, () or (d,).

        Raises:
            ValueError: not a number above 0.
        """
        if not (isinstance(largest, (int, float)) and math.isfinite(largest) and largest > 0):
            raise ValueError(f"largest_step is {largest!r}; it must be a number above 0, or names of named numbers.")
        return np.asarray(float(largest))

    def _describe(self, kind: str) -> dict[str, Any]:
        # the host only ever perturbs parameters, so its flat view is that of parameter space
        return {"policy": kind, "searched": list(self.searched("parameter"))}

    def parameter_names(self, space: str = "action") -> list[str]:
        """A readable name for each entry of θ, such as gain[0,2]."""
        names = []
        for name in self.searched(space):
            for index in np.ndindex(*self.parameters[name].shape):
                names.append(f"{name}[{','.join(map(str, index))}]" if index else name)
        return names


class LinearGaussian(Policy):
    """u = K x' + k + std ξ, with x' the scaled observation: a gain matrix, optionally structured.

    Control texts write u = −K x; here the sign is inside K.

    Args:
        gain: K (m, p), acting on scaled observations.
        bias: k (m,), or None for no bias.
        std: standard deviation of the action noise, scalar or (m,), in the action's unit.
        learned_std: the logarithm of std is a parameter.
        mask: (m, p) of bool, True where the gain is free; elsewhere it is 0 and not a parameter.
        scaling: of the observations; None for none.

    Raises:
        ValueError: shapes that do not fit, or a std that is not positive.

    Example:
        >>> policy = LinearGaussian([[-0.5, -0.8]], std=0.3)
        >>> policy.mode(jnp.array([1.0, 0.0])).tolist()
        [-0.5]
    """

    parameters: dict[str, Array]
    fixed_log_std: Array | None
    scaling: Scaling
    mask: tuple[tuple[bool, ...], ...] | None = eqx.field(static=True)

    def __init__(
        self,
        gain: Any,
        *,
        bias: Any = None,
        std: Any = 0.3,
        learned_std: bool = False,
        mask: Any = None,
        scaling: Scaling | None = None,
    ):
        gain = np.asarray(gain, float)
        if gain.ndim != 2 or not np.all(np.isfinite(gain)):
            raise ValueError(f"gain must be a finite (m, p) matrix; got shape {gain.shape}.")
        m, p = gain.shape
        log_std = _log_std(std, m)
        self.mask = None
        if mask is not None:
            allowed = np.asarray(mask, bool)
            if allowed.shape != gain.shape:
                raise ValueError(f"mask has shape {allowed.shape}; the gain has {gain.shape}.")
            if np.any(gain[~allowed] != 0):
                raise ValueError("The initial gain is not zero where the mask is False; set those entries to 0.")
            self.mask = tuple(tuple(bool(v) for v in row) for row in allowed)
        self.parameters = {"gain": jnp.asarray(gain[np.asarray(self.mask)] if self.mask else gain)}
        if bias is not None:
            self.parameters["bias"] = jnp.asarray(np.broadcast_to(np.asarray(bias, float), (m,)))
        self.fixed_log_std = None if learned_std else log_std
        if learned_std:
            self.parameters["log_std"] = log_std
        self.scaling = scaling if scaling is not None else Scaling.fixed((1.0,) * p)
        self.interface = Interface()

    @property
    def gain(self) -> Float[Array, "m p"]:
        """K (m, p), acting on scaled observations."""
        if self.mask is None:
            return self.parameters["gain"]
        free = self.parameters["gain"]
        return jnp.zeros(np.shape(self.mask), free.dtype).at[np.nonzero(np.asarray(self.mask))].set(free)

    @property
    def log_std(self) -> Float[Array, " m"]:
        """Logarithm of the action noise's std, (m,)."""
        return self.parameters["log_std"] if self.fixed_log_std is None else self.fixed_log_std

    def __call__(self, observation: Float[Array, "*b p"]) -> Gaussian:
        """Distribution over actions at each observation (*batch, p)."""
        mean = self.scaling(observation) @ self.gain.T
        if "bias" in self.parameters:
            mean = mean + self.parameters["bias"]
        return Gaussian(mean, self.log_std)

    def physical_gain(self) -> tuple[Float[np.ndarray, "m p"], Float[np.ndarray, " m"]]:
        """K (m, p) and k (m,) with u = K x + k for observations in their own units: the law that acts, up to limits."""
        gain = np.asarray(self.gain, float) / np.asarray(self.scaling.scale, float)
        bias = np.asarray(self.parameters.get("bias", np.zeros(gain.shape[0])), float)
        return gain, bias - gain @ np.asarray(self.scaling.shift, float)

    def controller(self) -> Controller:
        """The same policy as plain NumPy."""
        constants = _scaling_constants(self.scaling)
        if self.mask is not None:
            constants["mask"] = np.asarray(self.mask, bool)
        if self.fixed_log_std is not None:
            constants["log_std"] = np.asarray(self.fixed_log_std)
        return Controller(self._describe("linear_gaussian"), _numpy(self.parameters), constants, self.interface)


class NeuralGaussian(Policy):
    """u = centre + scale · network(x') + std ξ: a multilayer perceptron gives the mean.

    Args:
        layers: weights and biases [(W (h, p), b (h,)), …, (W (m, h), b (m,))].
        std: standard deviation of the action noise, scalar or (m,), in the action's unit.
        learned_std: the logarithm of std is a parameter.
        activation: "tanh", "relu" or "sin".
        action_centre, action_scale: (m,), what 0 and ±1 of the network mean in the action's unit.
        frozen: how many of the first layers are not searched: features that stay as they are.
        scaling: of the observations; None for none.
    """

    parameters: dict[str, Array]
    constants: dict[str, Array]
    fixed_log_std: Array | None
    scaling: Scaling
    action_centre: Array
    action_scale: Array
    depth: int = eqx.field(static=True)
    activation: str = eqx.field(static=True)

    def __init__(
        self,
        layers: Sequence[tuple[Any, Any]],
        *,
        std: Any = 0.3,
        learned_std: bool = True,
        activation: str = "tanh",
        action_centre: Any = 0.0,
        action_scale: Any = 1.0,
        frozen: int = 0,
        scaling: Scaling | None = None,
    ):
        arrays, self.depth, self.activation = _layers(layers, activation)
        if not 0 <= frozen < self.depth:
            raise ValueError(f"frozen is {frozen}; of {self.depth} layers, 0 to {self.depth - 1} can stay as they are.")
        held = {f"{name}_{index}" for name in ("weight", "bias") for index in range(frozen)}
        self.constants = {name: value for name, value in arrays.items() if name in held}
        self.parameters = {name: value for name, value in arrays.items() if name not in held}
        m, p = layers[-1][0].shape[0], layers[0][0].shape[1]
        log_std = _log_std(std, m)
        self.fixed_log_std = None if learned_std else log_std
        if learned_std:
            self.parameters["log_std"] = log_std
        self.action_centre = jnp.broadcast_to(jnp.asarray(action_centre, float), (m,))
        self.action_scale = jnp.broadcast_to(jnp.asarray(action_scale, float), (m,))
        self.scaling = scaling if scaling is not None else Scaling.fixed((1.0,) * p)
        self.interface = Interface()

    @property
    def log_std(self) -> Float[Array, " m"]:
        """Logarithm of the action noise's std, (m,)."""
        return self.parameters["log_std"] if self.fixed_log_std is None else self.fixed_log_std

    def __call__(self, observation: Float[Array, "*b p"]) -> Gaussian:
        """Distribution over actions at each observation (*batch, p)."""
        arrays = self.constants | self.parameters
        output = _network(arrays, self.depth, self.activation, self.scaling(observation))
        return Gaussian(self.action_centre + self.action_scale * output, self.log_std)

    def controller(self) -> Controller:
        """The same policy as plain NumPy."""
        constants = _scaling_constants(self.scaling) | _numpy(self.constants)
        constants["action_centre"] = np.asarray(self.action_centre)
        constants["action_scale"] = np.asarray(self.action_scale)
        if self.fixed_log_std is not None:
            constants["log_std"] = np.asarray(self.fixed_log_std)
        description = self._describe("neural_gaussian") | {"activation": self.activation}
        return Controller(description, _numpy(self.parameters), constants, self.interface)


class Softmax(Policy):
    """Softmax over k choices of a linear map or a network of the scaled observation.

    A table of logits per state is the linear map of a one-hot observation without bias.

    Args:
        layers: [(W (k, p), b (k,) or None)] for a linear map, more pairs for a network.
        activation: "tanh" or "relu".
        scaling: of the observations; None for none.
    """

    parameters: dict[str, Array]
    scaling: Scaling
    depth: int = eqx.field(static=True)
    activation: str = eqx.field(static=True)

    def __init__(
        self,
        layers: Sequence[tuple[Any, Any]],
        *,
        activation: str = "tanh",
        scaling: Scaling | None = None,
    ):
        self.parameters, self.depth, self.activation = _layers(layers, activation)
        self.scaling = scaling if scaling is not None else Scaling.fixed((1.0,) * layers[0][0].shape[1])
        self.interface = Interface()

    def __call__(self, observation: Float[Array, "*b p"]) -> Categorical:
        """Distribution over choices at each observation (*batch, p)."""
        return Categorical(_network(self.parameters, self.depth, self.activation, self.scaling(observation)))

    def controller(self) -> Controller:
        """The same policy as plain NumPy."""
        description = self._describe("softmax") | {"activation": self.activation}
        return Controller(description, _numpy(self.parameters), _scaling_constants(self.scaling), self.interface)


class Parameters(Policy):
    """Named numbers (kp, kd, …): the policy of a rig, or the argument of a plain cost g(θ).

    θ holds z with value = initial + scale · z, or initial · exp(scale · z) where `log`, so that one std of the search
    means something for each. Bounds clip the value inside the plant, g(clip(z + β)): the search estimates the gradient
    of that smoothed cost without bias, which clipping z itself would not.

    Args:
        names: one per number.
        initial: starting values, (d,), in their own units.
        bounds: {name: (low, high)}; ±inf where not given.
        scale: (d,) or scalar: how much one unit of z changes a value (a factor e^scale where `log`).
        log: names that are searched on a logarithmic scale; their initial values must be positive.

    Raises:
        ValueError: initial outside bounds, non-positive scale, unknown names, a log of a non-positive number, or a
            name that is none (see `grammar.name`).

    Example:
        >>> policy = Parameters(["kp", "kd"], [1.0, 0.1], bounds={"kp": (0, 5)}, scale=[0.5, 0.05])
        >>> policy.values()["kp"]
        1.0
    """

    parameters: dict[str, Array]
    scaling: None
    initial: Array
    scale: Array
    low: Array
    high: Array
    names: tuple[str, ...] = eqx.field(static=True)
    log: tuple[bool, ...] = eqx.field(static=True)

    def __init__(
        self,
        names: Sequence[str],
        initial: Any,
        *,
        bounds: Mapping[str, tuple[float, float]] | None = None,
        scale: Any = 1.0,
        log: Sequence[str] = (),
    ):
        bounds = dict(bounds or {})
        for unknown in [*bounds, *log]:
            if unknown not in names:
                raise ValueError(f"No parameter is named {unknown!r}; the names are {', '.join(names)}.")
        values = np.broadcast_to(np.asarray(initial, float), (len(names),))
        scales = np.broadcast_to(np.asarray(scale, float), (len(names),))
        low = np.array([bounds.get(name, (-np.inf, np.inf))[0] for name in names], float)
        high = np.array([bounds.get(name, (-np.inf, np.inf))[1] for name in names], float)
        if len(set(names)) != len(names) or not names:
            raise ValueError(f"Parameter names must be distinct and at least one; got {list(names)}.")
        if not np.all(np.isfinite(values)) or not np.all(np.isfinite(scales) & (scales > 0)):
            raise ValueError(f"initial must be finite and scale positive; got {values} and {scales}.")
        for name, value, lo, hi in zip(names, values, low, high, strict=True):
            Parameter(name, value, lo, hi, name in log).checked()
        held = np.finfo(jnp.zeros(()).dtype)
        for name, given in zip(names, np.stack([values, scales, low, high], 1).tolist(), strict=True):
            for number in given:
                if math.isfinite(number) and number and not float(held.tiny) <= abs(number) <= float(held.max):
                    raise ValueError(f"{name}: {number:g} is beyond numbers of {held.dtype}; choose another unit.")
        self.names, self.log = tuple(names), tuple(name in log for name in names)
        self.parameters = {"values": jnp.asarray(np.zeros(len(names)))}
        self.scaling, self.interface = None, Interface()
        self.initial, self.scale = jnp.asarray(values), jnp.asarray(scales)
        self.low, self.high = jnp.asarray(low), jnp.asarray(high)

    def vector(self) -> Float[Array, " d"]:
        """The numbers in their own units, (d,), within their bounds."""
        moved = self.scale * self.parameters["values"]
        value = jnp.where(jnp.asarray(self.log), self.initial * jnp.exp(moved), self.initial + moved)
        return jnp.clip(value, self.low, self.high)

    def step_units(self, largest: float | Mapping[str, float]) -> np.ndarray:
        """See `Policy.step_units`; {name: amount} in the numbers' own units, a factor above 1 where `log`."""
        if not isinstance(largest, Mapping):
            return super().step_units(largest)
        units = np.full(len(self.names), np.inf)
        for name, amount in largest.items():
            if name not in self.names:
                raise ValueError(
                    f"largest_step: no parameter is named {name!r}; the names are {', '.join(self.names)}."
                )
            index = self.names.index(name)
            least, what = (1.0, "a factor above 1") if self.log[index] else (0.0, "an amount above 0")
            if not (isinstance(amount, (int, float)) and math.isfinite(amount) and amount > least):
                raise ValueError(f"largest_step of {name} is {amount}; it must be {what}.")
            units[index] = (math.log(amount) if self.log[index] else amount) / float(self.scale[index])
        return units

    def values(self) -> dict[str, float]:
        """The numbers by name, in their own units, within their bounds."""
        return {name: float(value) for name, value in zip(self.names, np.asarray(self.vector()), strict=True)}

    def __call__(self, observation: Float[Array, "*b p"]) -> Distribution:
        """Named numbers give no distribution over actions.

        Raises:
            TypeError: always; such a policy is searched in parameter space.
        """
        raise TypeError("Parameters has no action distribution: use a method that perturbs parameters.")

    def controller(self) -> Controller:
        """The same numbers as plain NumPy."""
        constants = {
            "initial": np.asarray(self.initial),
            "scale": np.asarray(self.scale),
            "low": np.asarray(self.low),
            "high": np.asarray(self.high),
            "log": np.asarray(self.log, bool),
        }
        description = self._describe("parameters") | {"names": list(self.names)}
        return Controller(description, _numpy(self.parameters), constants, self.interface)


def _layers(layers: Sequence[tuple[Any, Any]], activation: str) -> tuple[dict[str, Array], int, str]:
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation {activation!r} is not known; use one of {', '.join(ACTIVATIONS)}.")
    parameters: dict[str, Array] = {}
    for index, (weight, bias) in enumerate(layers):
        if index and np.shape(weight)[1] != np.shape(layers[index - 1][0])[0]:
            raise ValueError(
                f"Layer {index} takes {np.shape(weight)[1]} inputs but gets {np.shape(layers[index - 1][0])[0]}."
            )
        parameters[f"weight_{index}"] = jnp.asarray(np.asarray(weight, float))
        if bias is not None:
            parameters[f"bias_{index}"] = jnp.asarray(np.asarray(bias, float))
    return parameters, len(layers), activation


def _network(parameters: dict[str, Array], depth: int, activation: str, inputs: Array) -> Array:
    values = inputs
    for index in range(depth):
        values = values @ parameters[f"weight_{index}"].T
        if f"bias_{index}" in parameters:
            values = values + parameters[f"bias_{index}"]
        if index < depth - 1:
            values = ACTIVATIONS[activation](values)
    return values


def _log_std(std: Any, m: int) -> Array:
    values = np.broadcast_to(np.asarray(std, float), (m,))
    if not np.all(np.isfinite(values) & (values > 0)):
        raise ValueError(f"std must be positive and finite; got {std}. For no noise, use the policy's mode.")
    return jnp.asarray(np.log(values))


def _scaling_constants(scaling: Scaling) -> dict[str, np.ndarray]:
    return {
        "scaling_shift": np.asarray(scaling.shift),
        "scaling_scale": np.asarray(scaling.scale),
        "scaling_count": np.asarray(scaling.count),
        "scaling_mean": np.asarray(scaling.mean),
        "scaling_m2": np.asarray(scaling.m2),
        "scaling_running": np.asarray(scaling.running),
        "scaling_centred": np.asarray(scaling.centred),
    }


def _numpy(parameters: Mapping[str, Array]) -> dict[str, np.ndarray]:
    return {name: np.asarray(value) for name, value in parameters.items()}
