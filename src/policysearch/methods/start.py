"""Where a search starts: the policy of a task, by the rule or the user's settings; and the rule's inputs from both.

d searched parameters, p observations.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from policysearch.core.initial import fourier_layers, random_layers
from policysearch.core.normalize import Scaling
from policysearch.core.policies import LinearGaussian, NeuralGaussian, Parameters, Policy, Softmax
from policysearch.core.settings import PolicySettings, checked
from policysearch.core.specification import Continuous, Discrete, Specification
from policysearch.methods.rule import Problem
from policysearch.methods.settings import ARS, SampledActions

#: action noise as a share of half the action range: a regulator pays for noise, a network must explore; and if
#: actions are unbounded, in the action's unit
LINEAR_STD, NETWORK_STD, UNBOUNDED_STD = 0.1, 0.5, 1.0
#: perturbation of the action, as a share of half its range, that parameter noise should cause
PARAMETER_EFFECT = 0.1
#: perturbation of the arguments of a plain cost g(θ), in their scales
FUNCTION_STD = 0.1


def problem(specification: Specification, policy: Policy, space: str) -> Problem:
    """The inputs of the rule, for a policy searched in `space`."""
    network = getattr(policy, "depth", 1) - len(getattr(policy, "constants", ())) // 2 > 1
    effect = PARAMETER_EFFECT if specification.action is not None else FUNCTION_STD
    if isinstance(specification.action, Continuous):
        # a row of p parameters acts on observations of about unit size
        effect *= float(np.mean(specification.action.half_range)) if isinstance(policy, LinearGaussian) else 1.0
        effect /= math.sqrt(specification.observation_size)
    elif isinstance(specification.action, Discrete):
        effect /= math.sqrt(specification.observation_size)
    theta = policy.theta(space)
    return Problem(specification, theta.size, network, effect, single=theta.dtype.itemsize < 8)


def policy_of(task: Any, policy: Policy | PolicySettings | str | None, method: object, seed: int) -> Policy:
    """The policy that a search starts from, for a task object or a bare specification; see `Search`.

    Raises:
        ValueError: settings that do not suit the task, or named numbers without initial values.
    """
    if isinstance(policy, Policy):
        return policy
    specification = getattr(task, "specification", task)
    if specification.action is None:
        initial = getattr(task, "initial", None)
        if initial is None:
            raise ValueError(
                f"{specification.name} needs a policy of named numbers with initial values: "
                "policy=Parameters(names, initial)."
            )
        return Parameters([f"x{i}" for i in range(len(initial))], initial, scale=getattr(task, "scale", 1.0))
    settings = policy
    if not isinstance(settings, PolicySettings):
        settings = checked(PolicySettings, {} if policy is None else {"kind": policy}, "a policy setting")
    running = method.version.startswith("v2") if isinstance(method, ARS) else None
    sampled = isinstance(method, SampledActions)
    return default_policy(specification, settings, sampled=sampled, running=running, seed=seed)


def default_policy(
    specification: Specification,
    settings: PolicySettings,
    *,
    sampled: bool = False,
    running: bool | None = None,
    seed: int = 0,
) -> Policy:
    """A policy for a task: linear or network, softmax if actions are discrete.

    Args:
        specification: of the task; `action` None gives named numbers x0, x1, …, which need initial values: see `start`.
        settings: what the user asked for.
        sampled: the method samples actions; then simulators get a network.
        running: the method's choice of observation scaling (ARS V2: True, V1: False); None to leave it open.
        seed: of a network's random weights.

    Raises:
        ValueError: settings that do not suit the task's actions.
    """
    action, p = specification.action, specification.observation_size
    if action is None:
        raise ValueError(
            f"{specification.name} evaluates parameters; it needs initial values, not a {settings.kind} policy."
        )
    kind: str = settings.kind
    if kind == "auto":
        kind = "network" if sampled and specification.reward else specification.policy
    if kind == "rbf" and isinstance(action, Discrete):
        raise ValueError(f"{specification.name} has discrete actions; use a linear or network policy.")
    hidden = list(settings.hidden) if kind == "network" else []
    if isinstance(action, Discrete):
        if settings.std is not None or settings.learned_std is not None:
            raise ValueError(f"{specification.name} has discrete actions: a softmax policy has no std to set.")
        bias = settings.bias if settings.bias is not None else not specification.one_hot
        return Softmax(
            random_layers([p, *hidden, action.n], seed, last=0.0 if not hidden else 0.01, bias=bias),
            scaling=_scaling(specification, settings.scaling, running, constant=bias),
        )
    half, centre = np.asarray(action.half_range), np.asarray(action.centre)
    bounded = np.isfinite(np.asarray(action.high) - np.asarray(action.low))
    share = np.where(bounded, NETWORK_STD if kind == "network" else LINEAR_STD, UNBOUNDED_STD)
    std = settings.std if settings.std is not None else share * half
    learned = settings.learned_std if settings.learned_std is not None else kind == "network"
    if kind != "linear":
        rbf = kind == "rbf"
        return NeuralGaussian(
            fourier_layers(p, settings.features, len(half), seed, settings.bandwidth)
            if rbf
            else random_layers([p, *hidden, len(half)], seed),
            std=std,
            learned_std=learned,
            activation="sin" if rbf else "tanh",
            action_centre=centre,
            action_scale=half,
            frozen=1 if rbf else 0,
            scaling=_scaling(specification, settings.scaling, running, constant=True),
        )
    wanted = settings.bias if settings.bias is not None else bool(np.any(centre != 0))
    return LinearGaussian(
        np.zeros((len(half), p)),
        bias=centre if wanted else None,
        std=std,
        learned_std=learned,
        scaling=_scaling(specification, settings.scaling, running, constant=wanted),
    )


def _scaling(specification: Specification, wish: str, running: bool | None, *, constant: bool) -> Scaling:
    """The observation scaling of a policy with or without a constant: one without gets none from a running mean."""
    p = specification.observation_size
    if wish == "auto":
        follows = "running" if constant else "rms"
        known = bool(specification.observation_scale) or specification.one_hot
        wish = ("fixed" if known else follows) if running is None else follows if running else "none"
    if wish in ("running", "rms"):
        return Scaling.follow(p, centred=wish == "running")
    if wish == "fixed" and not specification.one_hot:
        if not specification.observation_scale:
            raise ValueError(
                f"{specification.name} does not say how large its observations are; use scaling running or none."
            )
        return Scaling.fixed(specification.observation_scale)
    return Scaling.fixed((1.0,) * p)
