"""Where a search starts: the policy of a task, by the rule or the user's settings; and the rule's inputs from both.

d searched parameters, p observations.
"""

from __future__ import annotations

from typing import Any

from policysearch.core.policies import Parameters, Policy
from policysearch.core.policies.registry import ACTIONS, CHOICE, chosen, kinds
from policysearch.core.settings import PolicySettings, checked
from policysearch.core.specification import Discrete, Specification
from policysearch.methods.rule import Problem
from policysearch.methods.settings import ARS, SampledActions

#: perturbation of the action, as a share of half its range, that parameter noise should cause
PARAMETER_EFFECT = 0.1


def problem(specification: Specification, policy: Policy, space: str) -> Problem:
    """The inputs of the rule, for a policy searched in `space`."""
    effect = policy.perturbation(PARAMETER_EFFECT, specification)
    theta = policy.theta(space)
    return Problem(specification, theta.size, policy.nonlinear, effect, single=theta.dtype.itemsize < 8)


def policy_of(task: Any, policy: Policy | PolicySettings | str | None, method: object, seed: int) -> Policy:
    """The policy that a search starts from, for a task object or a bare specification; see `Search`.

    Raises:
        ValueError: settings that do not suit the task, or named numbers without initial values.
    """
    if isinstance(policy, Policy):
        return policy.fitted(getattr(task, "specification", task))
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


def stochastic(policy: Policy | PolicySettings | str | None) -> bool:
    """Whether the policy that `policy_of` gives for this can be searched by methods that sample actions."""
    if isinstance(policy, Policy):
        return policy.stochastic
    word = policy.kind if isinstance(policy, PolicySettings) else policy
    return all(kind.stochastic for kind in kinds() if word in kind.words)


def default_policy(
    specification: Specification,
    settings: PolicySettings,
    *,
    sampled: bool = False,
    running: bool | None = None,
    seed: int = 0,
) -> Policy:
    """A policy for a task: of the kind that was asked for, or as the task recommends.

    Args:
        specification: of the task; `action` None gives named numbers x0, x1, …, which need initial values: see `start`.
        settings: what the user asked for.
        sampled: the method samples actions; then simulators get a network.
        running: the method's choice of observation scaling (ARS V2: True, V1: False); None to leave it open.
        seed: of a network's random weights.

    Raises:
        ValueError: settings that do not suit the task's actions.
    """
    action = specification.action
    if action is None:
        raise ValueError(
            f"{specification.name} evaluates parameters; it needs initial values, not a {settings.kind} policy."
        )
    word: str = settings.kind
    if word == "auto":
        word = specification.policy if specification.policy != "either" else "network" if sampled else "linear"
    discrete = isinstance(action, Discrete)
    try:
        kind = chosen(word, CHOICE if discrete else ACTIONS)
    except ValueError as error:
        raise ValueError(
            f"{specification.name} has {'discrete' if discrete else 'continuous'} actions; {error}."
        ) from None
    for other in kinds():
        foreign = [name for name in other.settings if other is not kind and getattr(settings, name) is not None]
        if foreign:
            raise ValueError(f"{', '.join(foreign)} belongs to policy {' or '.join(other.words)}; here it is {word}.")
    policy: Policy = kind.default(specification, settings, word, running, seed)
    return policy
