"""The one rule that gives policies and methods their defaults, from d, p, the horizon and the action range.

d searched parameters, p observations. Stated in `docs/methods.md`; every number here can be overruled by a setting.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import msgspec
import numpy as np

from policysearch.controller import Controller
from policysearch.normalize import Scaling
from policysearch.policies import (
    LinearGaussian,
    NeuralGaussian,
    Parameters,
    Policy,
    Softmax,
    from_controller,
    random_layers,
)
from policysearch.settings import PolicySettings
from policysearch.specification import Continuous, Discrete, Specification

#: action noise as a share of half the action range: a regulator pays for noise, a network must find its way; and where
#: actions are unbounded, in the action's unit
LINEAR_STD, NETWORK_STD, UNBOUNDED_STD = 0.1, 0.5, 1.0
#: perturbation of the action, as a share of half its range, that parameter noise should cause
PARAMETER_EFFECT = 0.1
#: perturbation of the arguments of a plain cost g(θ), in their scales
FUNCTION_STD = 0.1


class Problem(NamedTuple):
    """What the rule looks at.

    d: searched parameters. network: the policy is a network. effect: standard deviation of a parameter that moves the
    action by `PARAMETER_EFFECT` of half its range.
    """

    specification: Specification
    d: int
    network: bool
    effect: float

    @property
    def rollouts(self) -> int:
        """Rollouts of an update that samples actions: 2.5 d of a gain matrix, 10 to 64; 64 of a network."""
        return 64 if self.network else int(np.clip(math.ceil(2.5 * self.d), 10, 64))

    @property
    def directions(self) -> int:
        """Antithetic pairs of an update that perturbs parameters: a quarter of d, 4 to 64."""
        return int(np.clip(math.ceil(self.d / 4), 4, 64))

    @property
    def kl(self) -> float:
        """Largest step in nats per stage: 0.1 of a gain matrix, 0.03 of a network, 0.01 of a softmax.

        A confident softmax has little KL left to spend, and long steps make it confident too early.
        """
        if isinstance(self.specification.action, Discrete):
            return 0.01
        return 0.03 if self.network else 0.1

    @property
    def memory(self) -> float | None:
        """A gain matrix's steps shrink by the gradient's share of noise, averaged over about five updates.

        Those of a network or a softmax do not: their Euclidean ratio says little about the natural direction.
        """
        return None if self.network or isinstance(self.specification.action, Discrete) else 0.8

    @property
    def damping(self) -> float:
        """Relative damping of the Fisher matrix: none for a gain matrix, 0.1 for a network."""
        return 0.1 if self.network else 0.0

    @property
    def common(self) -> bool:
        """Partners share a seed wherever a seed repeats a rollout."""
        return self.specification.repeatable


def problem(specification: Specification, policy: Policy, space: str) -> Problem:
    """What the rule looks at, for a policy searched in `space`."""
    network = getattr(policy, "depth", 1) > 1
    effect = PARAMETER_EFFECT if specification.action is not None else FUNCTION_STD
    if isinstance(specification.action, Continuous):
        # a row of p parameters acts on observations of about unit size
        effect *= float(np.mean(specification.action.half_range)) if isinstance(policy, LinearGaussian) else 1.0
        effect /= math.sqrt(specification.observation_size)
    elif isinstance(specification.action, Discrete):
        effect /= math.sqrt(specification.observation_size)
    return Problem(specification, policy.theta(space).size, network, effect)


def default_method(specification: Specification) -> str:
    """Weight perturbation for g(θ), ARS for continuous Gymnasium tasks, the natural gradient for the rest."""
    if specification.action is None:
        return "weight_perturbation"
    if specification.reward and isinstance(specification.action, Continuous):
        return "ars"
    return "natural_gradient"


def default_policy(
    specification: Specification, settings: PolicySettings, *, running: bool | None = None, seed: int = 0
) -> Policy:
    """A policy for a task: linear or network, softmax where actions are discrete.

    Args:
        specification: of the task; `action` None gives named numbers x0, x1, …, which need initial values: see `start`.
        settings: what the user asked for.
        running: what the method asks of the observation scaling (ARS V2: True, V1: False); None for no wish.
        seed: of a network's random weights.

    Raises:
        ValueError: settings that the task's actions cannot be served with.
    """
    action, p = specification.action, specification.observation_size
    if action is None:
        raise ValueError(
            f"{specification.name} evaluates parameters; it needs initial values, not a {settings.kind} policy."
        )
    kind = settings.kind if settings.kind != "auto" else specification.policy
    scaling = _scaling(specification, settings.scaling, running)
    hidden = list(settings.hidden) if kind == "network" else []
    if isinstance(action, Discrete):
        if settings.std is not None or settings.learned_std is not None:
            raise ValueError(f"{specification.name} has discrete actions: a softmax policy has no std to set.")
        bias = settings.bias if settings.bias is not None else not specification.one_hot
        return Softmax(
            random_layers([p, *hidden, action.n], seed, last=0.0 if not hidden else 0.01, bias=bias),
            scaling=scaling,
        )
    half, centre = np.asarray(action.half_range), np.asarray(action.centre)
    bounded = np.isfinite(np.asarray(action.high) - np.asarray(action.low))
    share = np.where(bounded, NETWORK_STD if kind == "network" else LINEAR_STD, UNBOUNDED_STD)
    std = settings.std if settings.std is not None else share * half
    learned = settings.learned_std if settings.learned_std is not None else kind == "network"
    if kind == "network":
        return NeuralGaussian(
            random_layers([p, *hidden, len(half)], seed),
            std=std,
            learned_std=learned,
            action_centre=centre,
            action_scale=half,
            scaling=scaling,
        )
    wanted = settings.bias if settings.bias is not None else bool(np.any(centre != 0))
    constant = centre if wanted else None
    return LinearGaussian(np.zeros((len(half), p)), bias=constant, std=std, learned_std=learned, scaling=scaling)


def _scaling(specification: Specification, wish: str, running: bool | None) -> Scaling:
    p = specification.observation_size
    if wish == "auto" and running is not None:
        wish = "running" if running else "none"
    if wish == "auto":
        wish = "fixed" if specification.observation_scale or specification.one_hot else "running"
    if wish == "running":
        return Scaling.follow(p)
    if wish == "fixed" and not specification.one_hot:
        if not specification.observation_scale:
            raise ValueError(
                f"{specification.name} does not say how large its observations are; use scaling running or none."
            )
        return Scaling.fixed(specification.observation_scale)
    return Scaling.fixed((1.0,) * p)


def start(policy: Policy, initial: Any) -> Policy:
    """The policy moved to known parameters, in physical units.

    Args:
        policy: what is searched.
        initial: a path to a JSON file, a policy file or a run's folder; a `Controller`; or a dict such as
            {"gain": [[…]], "bias": […]} or {"kp": 1.0}. A gain acts on observations in their own units.

    Raises:
        ValueError: what is given does not fit the policy; the sentence says how.
    """
    if isinstance(initial, (str, Path)):
        initial = _read(Path(initial))
    if isinstance(initial, Controller):
        other = from_controller(initial)
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
        raise ValueError("Only a gain matrix or named numbers can start from values; give a policy file for a network.")
    return _gain(policy, initial)


def _named(policy: Parameters, initial: dict[str, Any]) -> Parameters:
    unknown = [name for name in initial if name not in policy.names]
    if unknown:
        raise ValueError(f"Initial values for {', '.join(unknown)}; the parameters are {', '.join(policy.names)}.")
    values = [float(initial.get(name, value)) for name, value in policy.values().items()]
    bounds = {n: (float(lo), float(hi)) for n, lo, hi in zip(policy.names, policy.low, policy.high, strict=True)}
    log = [name for name, flag in zip(policy.names, policy.log, strict=True) if flag]
    return Parameters(policy.names, values, bounds=bounds, scale=np.asarray(policy.scale), log=log)


def _gain(policy: LinearGaussian, initial: dict[str, Any]) -> LinearGaussian:
    shape = np.shape(policy.gain)
    gain = np.asarray(initial.get("gain", np.zeros(shape)), float)
    if set(initial) - {"gain", "bias"} or "gain" not in initial or gain.shape != shape:
        raise ValueError(
            f"initial has {', '.join(initial)} with a gain of shape {gain.shape}; "
            f'it must be {{"gain": {shape} numbers}} and may have "bias". Where u = -K x is meant, negate K.'
        )
    scale, shift = np.asarray(policy.scaling.scale, float), np.asarray(policy.scaling.shift, float)
    bias = np.asarray(initial.get("bias", np.zeros(shape[0])), float) + gain @ shift
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
        raise ValueError("The initial values have a bias but the policy has none; set bias on.")
    return eqx.tree_at(lambda p: p.parameters, policy, parameters)


def _read(path: Path) -> Any:
    if path.is_dir():
        path = path / "policy.safetensors"
    if not path.exists():
        raise ValueError(f"There is no file {path} to start from.")
    if path.suffix != ".json":
        return Controller.load(path)
    try:
        content = msgspec.json.decode(path.read_bytes())
    except msgspec.DecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}.") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} is a {type(content).__name__}; give an object.")
    return content


def _shapes(policy: Policy) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in sorted(policy.parameters.items())}
