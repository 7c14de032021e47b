"""Actions of Gymnasium's spaces: which of them a policy chooses, and how its choice reaches the environment. No JAX.

What cannot be searched is refused, with a wrapper that helps. T stages, m actions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.spaces import Box, Space

from policysearch.core.controller import Controller
from policysearch.core.specification import Continuous, Discrete
from policysearch.workers.observations import UnfitError, Value, checked_space, factory, leaves


def free(space: Box) -> np.ndarray:
    """Which of the actions of a flattened Box can be chosen: those whose limits differ."""
    return np.asarray(space.low != space.high).ravel()


def actions(space: Space) -> tuple[Continuous | Discrete, dict[int, float]]:
    """What a policy chooses, and actions that are fixed (low == high): their places and values.

    Raises:
        UnfitError: a space that no policy supports; the message says which wrapper helps.
    """
    space = checked_space(space, "action")
    if isinstance(space, spaces.Discrete):
        return Discrete(int(space.n)), {}
    if isinstance(space, Box) and space.dtype is not None and space.dtype.kind == "f":
        return _box(space)
    advice = "gymnasium.wrappers.TransformAction(env, to_action, space)"
    explained = "where to_action turns an element of space, a Box of floats or a Discrete, into an action"
    flat = spaces.utils.flatten_space(space) if isinstance(space, (spaces.Dict, spaces.Tuple)) else None
    if isinstance(space, spaces.MultiDiscrete):
        shape = tuple(int(n) for n in space.nvec.ravel())
        advice = (
            f"gymnasium.wrappers.TransformAction(env, lambda i: numpy.array(numpy.unravel_index(i, {shape}))"
            f".reshape({tuple(map(int, space.shape))}), gymnasium.spaces.Discrete({math.prod(shape)}))"
        )
        explained = "which numbers all combinations"
    elif isinstance(space, Box):
        advice = (
            "gymnasium.wrappers.TransformAction(env, lambda a: numpy.rint(a).astype(env.action_space.dtype), "
            "gymnasium.spaces.Box(env.action_space.low.astype(float), env.action_space.high.astype(float), "
            "dtype=float))"
        )
        explained = "which rounds"
    elif isinstance(flat, Box) and all(isinstance(leaf, Box) for _, leaf in leaves(space, ())):
        advice = (
            "gymnasium.wrappers.TransformAction(env, lambda a: gymnasium.spaces.utils.unflatten(env.action_space, a), "
            "gymnasium.spaces.utils.flatten_space(env.action_space))"
        )
        explained = "which puts all of them into one Box"
    raise UnfitError(
        f"has actions {space}; policies support a Box of floats or a Discrete. {factory(advice)}, {explained}."
    )


def _box(space: Box) -> tuple[Continuous, dict[int, float]]:
    low, high = (np.asarray(limit, np.float64).ravel() for limit in (space.low, space.high))
    if low.size == 0:
        raise UnfitError(f"has actions {space}, which are empty; there is nothing to search.")
    for index, (least, most) in enumerate(zip(low, high, strict=True)):
        if math.isnan(least) or math.isnan(most) or least > most or least == math.inf or most == -math.inf:
            raise UnfitError(f"has actions with invalid limits: those of action {index} are {least:g} and {most:g}.")
    largest = float(np.finfo(np.dtype(space.dtype).char).max)  # the type's largest number means no limit
    low, high = np.where(low <= -largest, -np.inf, low), np.where(high >= largest, np.inf, high)
    chosen = free(space)
    if not chosen.any():
        raise UnfitError(f"has actions {space}, all of them fixed (low == high); there is nothing to search.")
    fixed = {int(index): float(low[index]) for index in np.flatnonzero(~chosen)}
    return Continuous(tuple(low[chosen].tolist()), tuple(high[chosen].tolist())), fixed


def middle(space: Space) -> Value:
    """An action for a first step: 0 clipped to the limits, or the first one."""
    if isinstance(space, Box):
        return np.array(np.clip(0.0, space.low, space.high), space.dtype)
    assert isinstance(space, spaces.Discrete)
    return np.asarray(space.start, space.dtype)[()]


def actor(
    controller: Controller, space: Space, noise: np.ndarray | None, chosen: np.ndarray, taken: np.ndarray
) -> Callable[[int, np.ndarray], Any]:
    """A function of a stage and its observation that writes the sampled action into `chosen`.

    It returns the environment's action: the row of `taken` that holds the clipped action, or an integer of the
    space's type.

    Args:
        controller: the policy.
        space: the action space.
        noise: as `Controller.noise` draws it, (T, m); None: the mode acts.
        chosen: (T, m), without fixed actions, or (T,) int. taken: (T, all of the space's), of its dtype.
    """
    output = controller.unchecked_output
    if isinstance(space, spaces.Discrete):
        start, integer = int(space.start), space.dtype.type

        def choose(k: int, observation: np.ndarray) -> Any:
            logits = output(observation, None)
            action = int(logits.argmax() if noise is None else (logits + noise[k]).argmax())
            chosen[k] = action
            return integer(action + start)

        return choose
    if not isinstance(space, Box):
        raise ValueError(f"The action space is {space}; a Box or Discrete is needed.")
    shape, low, high = space.shape, space.low.ravel(), space.high.ravel()
    deviations = None if noise is None else controller.std * noise
    searched: Any = free(space)
    if searched.all():
        searched = slice(None)  # fixed actions get their values by clipping

    def act(k: int, observation: np.ndarray) -> np.ndarray:
        action, command = chosen[k], taken[k]
        output(observation, action)
        if deviations is not None:
            action += deviations[k]
        command[searched] = action
        return command.clip(low, high, command)

    return act if len(shape) == 1 else lambda k, observation: act(k, observation).reshape(shape)
