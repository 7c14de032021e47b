"""`Controller`: a policy as plain NumPy, for host simulators, worker processes, robots and files. No JAX.

p observations, m actions (or k choices), B a batch, d searched parameters; o' = (o − shift)/scale. The law is the mean
action as a function of o; what acts is the law within the limits of the actions.
"""

from __future__ import annotations

import functools
import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from policysearch.core import controller_file, law, readings
from policysearch.core.interface import Interface, listed
from policysearch.core.policies import registry
from policysearch.core.policies.registry import ACTIONS, CHOICE, NUMBERS
from policysearch.core.readings import Action

if TYPE_CHECKING:  # a fifth of the time a worker needs to start
    from jaxtyping import Float


class Controller:
    """A policy with its observation scaling: description, searched parameters and constants.

    Policies, by `description["policy"]`, each in a file of `policies/`:

    - linear_gaussian: mean = gain o' + bias; with the constant `mask` (m, p), `gain` is the vector of the entries
      that are True there, row by row, and the others are 0.
    - neural_gaussian: mean = action_centre + action_scale · network(o'), of layers weight_0, bias_0, …
    - softmax: logits (k,) of the same layers; one layer is a linear policy, biases may be absent.
    - parameters: named numbers of a rig, read with `values()`; it takes no observations.
    - pid: see `PID`; its gains by name are its `values()`.

    Gaussian policies have `log_std` (m,) among parameters (learned) or constants (fixed), or none.

    Args:
        description: JSON-able; "policy"; "activation" ("tanh" or "relu") of networks; "names" of parameters;
            "searched": which parameters make up θ (all by default).
        parameters: arrays by name; kept as float64.
        constants: arrays by name that no search changes; `scaling_shift` and `scaling_scale` (p,) among them.
        interface: limits, names, units and time step; a policy found by a search has that of its task. Without limits
            nothing is clipped.
        version: of the package that wrote its file, or "".

    Raises:
        ValueError: if an array is missing or its shape does not fit the others; the message names it.

    One controller serves one thread at a time (it reuses its buffers); results are always fresh arrays. A PID also
    remembers: every `mode`, `output` or `act` is a time step of its rollout, and `reset` starts the next one.

    Example:
        >>> from policysearch import Continuous, Interface
        >>> interface = Interface(limits=Continuous([-1], [1]), action_names=["force [N]"], dt=0.02)
        >>> Controller({"policy": "linear_gaussian"}, {"gain": [[-0.5, -0.8]]}, interface=interface)
        Controller(linear_gaussian: 2 observations → force [N] in [-1, 1], dt=0.02 s)
    """

    def __init__(
        self,
        description: Mapping[str, Any],
        parameters: Mapping[str, np.ndarray],
        constants: Mapping[str, np.ndarray] | None = None,
        interface: Interface | None = None,
        version: str = "",
    ):
        self.interface = Interface() if interface is None else interface
        self.version = version
        self.description = dict(description)
        self.parameters = {name: np.array(value, dtype=np.float64) for name, value in parameters.items()}
        self.constants = {name: readings.constant(value) for name, value in (constants or {}).items()}
        self.policy: str = self.description.get("policy", "")
        given = self.policy, self.description, self.parameters, self.constants
        #: the policy itself, of NumPy arrays
        self.record = registry.record(*given, self.interface)
        self.searched: tuple[str, ...] = tuple(sorted(self.description.get("searched", self.parameters)))
        for name in self.searched:
            law.needed(name, self.parameters, "parameter", self.policy)
        #: p and m (or k); 0 and k for named numbers
        self.observation_size, self.action_size = self.record.sizes()
        #: what it gives: "actions", a "choice", or "numbers"
        self.outputs = self.record.outputs
        self.discrete = self.outputs == CHOICE
        self._shape = (self.observation_size,)
        self._shift, self._scale = (self._scaling(name) for name in ("shift", "scale"))
        log_std = self.parameters.get("log_std", self.constants.get("log_std"))
        self._std: np.ndarray | None = None
        if log_std is not None:
            law.fitting("log_std", log_std, (self.action_size,), self.policy)
            self._std = np.exp(log_std)
        self._memory: Any = ()
        self._output: registry.Output
        if self.record.recurrent:
            self._output = self._remembering
            self._start, self._act = self.record.begin(np)
            self.reset()
        elif self.outputs != NUMBERS:
            self._output = self.record.compiled(self._shift, self._scale)
        if interface is not None:
            interface.check(self.policy, self.outputs, self.observation_size, self.action_size)

    def __reduce__(self) -> tuple[Any, ...]:
        return Controller, (self.description, self.parameters, self.constants, self.interface, self.version)

    def __repr__(self) -> str:
        if self.outputs == NUMBERS:
            with np.errstate(all="ignore"):
                words = listed([f"{name}={value:.6g}" for name, value in self.values().items()])
        else:
            words = self.interface.words(self.outputs, self.observation_size, self.action_size)
        if self.interface.dt is not None:
            words += f", dt={self.interface.dt:g} s"
        if self.interface.hold > 1:
            words += f", hold={self.interface.hold}"
        return f"Controller({self.policy}: {words}{', policysearch ' + self.version if self.version else ''})"

    def _scaling(self, name: str) -> np.ndarray | None:
        given = self.constants.get(f"scaling_{name}")
        if given is None:
            return None
        law.fitting(f"scaling_{name}", given, self._shape, self.policy)
        if name == "scale" and not np.all(given > 0):
            raise ValueError(f"scaling_scale has smallest entry {given.min()}; every entry must be > 0.")
        return given

    def reset(self) -> None:
        """Forget what it saw, as at the start of a rollout; only a controller with a memory, a PID, has anything to."""
        if self.record.recurrent:
            self._memory = self._start

    def fresh(self) -> Controller:
        """A controller for one more rollout: a copy without a memory of others; itself if it has none."""
        return self.with_theta(self.theta()) if self.record.recurrent else self

    def _remembering(self, observation: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        self._memory, action = self._act(self._memory, observation)
        if out is None:
            return action
        out[...] = action
        return out

    def output(self, observation: np.ndarray) -> np.ndarray:
        """The law: mean action (m,) or logits (k,) for an observation (p,), or a batch of them for (B, p).

        Args:
            observation: (p,) or (B, p), in the task's units; non-finite input gives non-finite output.

        Returns:
            (m,) or (k,), or with a leading B.

        Raises:
            ValueError: for another shape, or if it is not numbers.
            TypeError: if this controller only holds named parameters.
        """
        return self._law(self._numbers(observation))

    def _numbers(self, observation: Any) -> np.ndarray:
        """An observation or a batch of them as an array of the right shape."""
        if self.outputs == NUMBERS:
            raise TypeError("A controller of named parameters takes no observations; read its values().")
        return readings.numbers(observation, self._shape, self.interface)

    def _law(self, observation: np.ndarray) -> np.ndarray:
        """Mean or logits for an observation or a batch of them of the right shape."""
        if observation.ndim == 1:
            return self._output(observation, None)
        if self.record.recurrent:
            raise ValueError(
                f"A {self.policy} controller remembers, so it takes one observation (p,) after the other; it was given "
                f"a batch of shape {observation.shape}. For many rollouts at once, give each a controller.fresh()."
            )
        return self.record.forward(np, self.scaled(observation))

    def scaled(self, observation: np.ndarray) -> np.ndarray:
        """Observations (…, p) as the law takes them, o'."""
        moved = observation if self._shift is None else observation - self._shift
        return moved if self._scale is None else moved / self._scale

    def _checked(self, observation: Any) -> np.ndarray:
        """The law, for a finite observation or a batch of them."""
        observation = self._numbers(observation)
        if not readings.finite(observation):
            readings.refuse("observation", observation, self.interface, "Read the sensor again, or stop the machine.")
        return self._law(observation)

    @property
    def unchecked_output(self) -> Callable[[np.ndarray, np.ndarray | None], np.ndarray]:
        """`output` for inner loops: of one observation (p,), into a float64 array (m,) if that is not None.

        Raises:
            TypeError: if this controller only holds named parameters.
        """
        if self.outputs == NUMBERS:
            raise TypeError("A controller of named parameters takes no observations; read its values().")
        return self._output

    def mode(self, observation: np.ndarray, clip: bool = True) -> Any:
        """The most probable action, within the actions' limits.

        Args:
            observation: (p,) or (B, p).
            clip: False gives the law itself, beyond the limits too.

        Returns:
            (m,) or (B, m) in action units; an int or (B,) integers for softmax.

        Raises:
            ValueError: an observation of another shape, or not finite; the message names it.
        """
        return self._bounded(self._chosen(self._checked(observation)), clip)

    def act(self, observation: np.ndarray, noise: np.ndarray | None = None) -> Action:
        """An action from an observation and given noise, as `noise` draws it.

        Args:
            observation: (p,) or (B, p).
            noise: standard normal (m,), Gumbel (k,) for softmax, (B, …) for a batch; None: the mode.

        Returns:
            `sampled`, which is what to tell a search, and `applied`, which is what the machine receives.

        Raises:
            ValueError: an observation as for `mode`, noise of another shape or not finite, or a policy without log_std.
        """
        output = self._checked(observation)
        if noise is not None:
            noise = np.asarray(noise, dtype=np.float64)
            law.fitting("noise", noise, output.shape, self.policy)
            output = output + (noise if self.discrete else (self.std if self._std is None else self._std) * noise)
        sampled = self._chosen(output)
        applied = self._bounded(sampled, True)
        return Action(sampled, applied.copy() if applied is sampled and not self.discrete else applied)

    def _chosen(self, output: np.ndarray) -> Any:
        """The action for a mean or logits."""
        if not readings.finite(output):
            advice = "The observation or its noise is beyond what this controller can handle."
            readings.refuse("logit" if self.discrete else "action", output, self.interface, advice)
        if not self.discrete:
            return output
        return int(output.argmax()) if output.ndim == 1 else output.argmax(axis=1)

    def _bounded(self, action: Any, clip: bool) -> Any:
        if self._limits is None or not clip:
            return action
        low, high = self._limits
        return np.minimum(np.maximum(action, low), high)

    @functools.cached_property
    def _limits(self) -> tuple[np.ndarray, np.ndarray] | None:
        limits = self.interface.limits
        return None if limits is None else (np.array(limits.low), np.array(limits.high))

    def with_interface(self, interface: Interface) -> Controller:
        """The same law with other limits, names and time step.

        Raises:
            ValueError: they do not fit it.
        """
        return Controller(self.description, self.parameters, self.constants, interface)

    @property
    def std(self) -> np.ndarray:
        """Standard deviation of a Gaussian policy's actions, (m,)."""
        if self._std is None:
            raise ValueError("This controller has no log_std, so it cannot sample; act with its mode.")
        return self._std

    def noise(self, generator: np.random.Generator, stages: int) -> Float[np.ndarray, "stages m"]:
        """Noise for `act`, for as many stages.

        Args:
            generator: of the trial, see `rng.action_stream`.
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
        output = self._checked(observation)
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
            TypeError: the policy has none.
        """
        return self.record.values()

    def theta(self, names: Sequence[str] | None = None) -> Float[np.ndarray, " d"]:
        """The searched parameters as one vector θ, concatenated in the order of their sorted names.

        Args:
            names: which parameters; the searched ones by default.

        Returns:
            (d,) float64.
        """
        names = self.searched if names is None else sorted(names)
        parts = [law.needed(name, self.parameters, "parameter", self.policy).ravel() for name in names]
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
        law.fitting("theta", theta, (size,), self.policy)
        return Controller(self.description, self.named(theta), self.constants, self.interface)

    def named(self, theta: np.ndarray) -> dict[str, np.ndarray]:
        """All parameters, the searched ones taken from θ (d,), or from B of them (B, d) with a leading axis."""
        parameters, start = dict(self.parameters), 0
        for name in self.searched:
            old = parameters[name]
            parameters[name] = theta[..., start : start + old.size].reshape(*theta.shape[:-1], *old.shape)
            start += old.size
        return parameters

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file with description and checksum: written aside, synced, then renamed.

        Args:
            path: of the file; an older one is replaced in one step.
        """
        controller_file.save(self, path)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Controller:
        """Read what `save` wrote, after checking its checksum; a file is data; no code in it is run.

        Args:
            path: of the file.

        Returns:
            The controller.

        Raises:
            FileNotFoundError: if the file does not exist.
            ValueError: if it is damaged, of another kind or of a newer format; the message says which.

        Warns:
            UserWarning: the file records no limits for its actions, so `mode` clips nothing.
        """
        controller = Controller.of_content(controller_file.load(path), path)
        if controller.interface.limits is None and controller.outputs == ACTIONS:
            warnings.warn(
                f"{path} records no limits for its actions, so `mode` clips nothing. If the machine has some, give: "
                "controller.with_interface(Interface(limits=Continuous(low, high))), and save it.",
                stacklevel=2,
            )
        return controller

    @staticmethod
    def of_content(content: controller_file.Content, path: str | os.PathLike[str]) -> Controller:
        """The controller in a file; `path` is its origin, for error messages.

        Raises:
            ValueError: its parts do not fit together.
        """
        try:
            return Controller(*content)
        except (ValueError, TypeError, IndexError, OverflowError) as error:
            raise ValueError(f"{path} is not a policy: {error}") from None
