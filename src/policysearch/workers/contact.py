"""First contact with an environment, in a worker, before any search: what it is, and what is wrong with it.

It is reset twice with one seed and stepped a little; each fault is described in one sentence. No JAX.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import numbers
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from policysearch.core.plain import Plain
from policysearch.core.specification import Specification
from policysearch.workers.actions import actions, middle
from policysearch.workers.jobs import Met, Recipe
from policysearch.workers.observations import (
    Part,
    UnfitError,
    check_observation,
    checked_space,
    magnitudes,
    outside,
    parts,
)

#: of the two resets
SEED = 20_011_999
#: stages of each of the first two rollouts, at most
STEPS = 2
#: for an environment without a declared time limit: rollouts run to find one, stages of each, and seconds in total
#: after which the search for one ends
CUTS, LONGEST, PATIENCE = 3, 5000, 20.0
#: limits of observations from here on say nothing about typical magnitudes, even if they are real limits
LARGEST_LIMIT = 1e3
_PORT_RESET = (
    "write def reset(self, *, seed=None, options=None), call super().reset(seed=seed) in it and return "
    "(observation, {})"
)
_PORT_STEP = (
    "return (observation, reward, terminated, truncated, {}), terminated when the task itself has ended and "
    "truncated when a time limit cut it off"
)
_OLD = "the interface before Gymnasium"


class ContactError(ValueError):
    """An environment that cannot be searched; the message says what it did and what to do."""


def meet(env: gymnasium.Env, recipe: Recipe, calls: Callable[[str], None]) -> Met:
    """Look at an environment.

    Args:
        env: just made; it is reset and stepped.
        recipe: by which it was made.
        calls: told which call of the environment comes next, such as "step()".

    Raises:
        ContactError: what is wrong.
    """
    try:
        return _meet(env, recipe, calls)
    except UnfitError as error:
        raise ContactError(f"{recipe.environment} {error}") from error


def _meet(env: gymnasium.Env, recipe: Recipe, calls: Callable[[str], None]) -> Met:
    name, base = recipe.environment, env.unwrapped
    seen = _called(name, "reading observation_space", lambda: getattr(env, "observation_space", None))
    acts = _called(name, "reading action_space", lambda: getattr(env, "action_space", None))
    found = parts(checked_space(seen, "observation"))
    action, fixed = actions(acts)
    _reset_takes_a_seed(env)
    first, second = (_rollout(env, name, calls) for _ in range(2))
    horizon = recipe.horizon or getattr(env.spec, "max_episode_steps", None) or _time_limit(env, name, calls)
    if not horizon:
        raise ContactError(
            f"{name} has no time limit (max_episode_steps) and did not end by one when tried. Give --horizon N, or "
            "horizon=N in Python, in stages, so that every rollout ends."
        )
    declared = not getattr(env.spec, "nondeterministic", False)
    difference = _difference(first, second)
    warned = []
    if declared and difference:
        warned.append(
            f"{name}: equal seeds give different rollouts ({difference}), so no two trials share their conditions "
            "(common random numbers) and repeated runs differ. Draw random numbers from self.np_random alone, which "
            "super().reset(seed=seed) seeds."
        )
    far = next(filter(None, (outside(seen, row) for row in first.observations)), "")
    if far:
        warned.append(
            f"{name}: an observation lies outside its space: {far}. Learning does not depend on these limits, "
            "but either they or the observation is wrong."
        )
    threshold = getattr(env.spec, "reward_threshold", None)
    dt = _attribute(base, "dt") or _attribute(base, "tau")
    discrete = isinstance(seen, gymnasium.spaces.Discrete)
    composed = len(found) > 1 or bool(found[0].path) or isinstance(seen, gymnasium.spaces.MultiDiscrete)
    own = str(getattr(env.spec, "entry_point", "")).startswith("gymnasium.envs.")
    specification = Specification(
        name=name,
        action=action,
        observation_size=found[-1].stop,
        observation_scale=magnitudes(seen, own, LARGEST_LIMIT),
        observation_names=tuple(label for part in found for label in part.names()) if composed else (),
        one_hot=discrete,
        horizon=int(horizon),
        dt=float(dt) if isinstance(dt, (int, float)) and 0 < dt < float("inf") else None,
        discount=recipe.discount,
        repeatable=declared and not difference,
        returns=True,
        ends_early=True,
        policy="either",
        solved="" if threshold is None else f"mean return of at least {threshold:g}",
    )
    return Met(specification, threshold, _bonus(env, recipe.options), _layout(found, composed), fixed, warned)


def _layout(found: list[Part], composed: bool) -> dict[str, tuple[int, int]]:
    return {part.name: (part.start, part.stop) for part in found} if composed else {}


def _attribute(base: object, name: str) -> object:
    with contextlib.suppress(Exception):  # a property may need something that exists only after a reset
        return getattr(base, name, None)
    return None


def _bonus(env: gymnasium.Env, options: Plain) -> float:
    """The `healthy_reward` that MuJoCo environments take as an option; 0 for those without one."""
    value = options.get("healthy_reward")
    if value is None:
        with contextlib.suppress(TypeError, ValueError):  # a class in C may have no signature
            parameter = inspect.signature(type(env.unwrapped).__init__).parameters.get("healthy_reward")
            value = parameter.default if parameter else 0.0
    return float(value) if isinstance(value, (int, float)) else 0.0


def _reset_takes_a_seed(env: gymnasium.Env) -> None:
    """Refuse a `reset` that lacks arguments, more clearly than the call itself would."""
    try:
        parameters = inspect.signature(type(env.unwrapped).reset).parameters.values()
    except (TypeError, ValueError):
        return
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return
    named = {parameter.name for parameter in parameters if parameter.kind is not parameter.POSITIONAL_ONLY}
    # the wrappers of gymnasium.make pass both
    wanted = ("seed", "options") if env is not env.unwrapped else ("seed",)
    missing = [name for name in wanted if name not in named]
    if missing:
        raise UnfitError(f"has a reset() that takes no {' and no '.join(missing)}: {_OLD}. Port it: {_PORT_RESET}.")


class _Rollout(NamedTuple):
    """observations: rows (p,). stages: (reward, terminated, truncated)."""

    observations: list[np.ndarray]
    stages: list[tuple[float, bool, bool]]


def _rollout(env: gymnasium.Env, name: str, calls: Callable[[str], None], most: int = STEPS) -> _Rollout:
    """The first stages of a rollout, with every returned value checked."""
    space = env.observation_space
    came = _called(name, "reset()", lambda: env.reset(seed=SEED), calls)
    rows = [check_observation(space, _after_reset(came), "reset()")]
    action, stages = middle(env.action_space), []
    for _ in range(most):
        came = _called(name, "step()", lambda: env.step(action.copy()), calls)
        observation, reward, terminated, truncated = _after_step(came)
        rows.append(check_observation(space, observation, "step()"))
        stages.append((reward, terminated, truncated))
        if terminated or truncated:
            break
    return _Rollout(rows, stages)


def _called(name: str, what: str, call: Callable[[], Any], calls: Callable[[str], None] | None = None) -> Any:
    """The result of a call of the environment; an exception becomes a sentence with its location."""
    if calls is not None:
        calls(what)
    try:
        return call()
    except BaseException as error:
        raise ContactError(f"{what} of {name} raised {told(error)}") from error


def told(error: BaseException) -> str:
    """An exception in words, with its location in the user's code."""
    words = f"{type(error).__name__}{': ' if str(error) else ''}{error}".rstrip(".")
    place = where(error)
    return f"{words}{f' ({place})' if place else ''}."


def where(error: BaseException) -> str:
    """File, line and function where an exception came from, in code that is neither Gymnasium's nor this package's."""
    here, theirs = os.path.dirname(os.path.dirname(__file__)), os.path.dirname(gymnasium.__file__ or "")
    ours = (here + os.sep, theirs + os.sep)
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}"
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(("<frozen", *ours)) and os.path.exists(frame.filename)
    ]
    outside = [frame for frame in frames if not frame.filename.startswith((sys.prefix, sys.base_prefix))] or frames
    if not outside:
        return ""
    last = outside[-1]
    return f"{last.filename}, line {last.lineno}, in {last.name}"


def _after_reset(came: object) -> Any:
    """The observation of a reset."""
    if isinstance(came, tuple) and len(came) == 2 and isinstance(came[1], Mapping):
        return came[0]
    if isinstance(came, tuple) and len(came) == 2:
        raise UnfitError(
            f"has a reset() whose second value is a {type(came[1]).__name__}; it must be a dict of information: return "
            "(observation, {})."
        )
    if isinstance(came, tuple):
        raise UnfitError(f"has a reset() that returned {len(came)} values; it must be two: return (observation, {{}}).")
    what = "None" if came is None else f"a {type(came).__name__} alone"
    old = "" if came is None else f": {_OLD}. Port it"
    raise UnfitError(f"has a reset() that returned {what}, without info{old}: {_PORT_RESET}.")


def _after_step(came: object) -> tuple[Any, float, bool, bool]:
    """Observation, reward, terminated and truncated of a step."""
    if not isinstance(came, (tuple, list)):
        what = "None: a return is missing" if came is None else f"a {type(came).__name__}"
        raise UnfitError(f"has a step() that returned {what}. It must {_PORT_STEP}.")
    if len(came) == 4:
        raise UnfitError(
            f"has a step() that returned 4 values, (observation, reward, done, info): {_OLD}. Port it: {_PORT_STEP}."
        )
    if len(came) != 5:
        raise UnfitError(f"has a step() that returned {len(came)} values. It must {_PORT_STEP}.")
    observation, reward, terminated, truncated, info = came
    number = _reward(reward)
    for place, noun, value in (("third", "terminated", terminated), ("fourth", "truncated", truncated)):
        if not _is_truth(value):
            raise UnfitError(
                f"has a step() that gave {_shown(value)} for {noun}, the {place} value; it must be True or False: "
                f"{_PORT_STEP}."
            )
    if not isinstance(info, Mapping):
        raise UnfitError(f"has a step() that gave {_shown(info)} for info, the last value; it must be a dict, as {{}}.")
    return observation, number, bool(terminated), bool(truncated)


def _reward(reward: Any) -> float:
    """The reward as a number."""
    number = None
    with contextlib.suppress(Exception):  # any error in the conversion to an array or a number
        array = np.asarray(reward)
        plain = array.dtype.kind in "biuf" or (array.dtype.kind == "O" and isinstance(reward, numbers.Real))
        if array.shape == () and plain:
            number = float(reward)
    if number is None:
        raise UnfitError(
            f"has a step() whose reward, the second value, is {_shown(reward)}; it must be one real number: float(...)."
        )
    if not np.isfinite(number):
        raise UnfitError(f"has a step() whose reward is {number} at once; a reward must be a finite number.")
    return number


def _is_truth(value: object) -> bool:
    if isinstance(value, (bool, np.bool_)):
        return True
    with contextlib.suppress(Exception):
        array = np.asarray(value)
        return array.shape == () and array.dtype.kind in "biu" and int(array) in (0, 1)
    return False


def _shown(value: object) -> str:
    if isinstance(value, np.ndarray) and value.shape:
        return f"an array of shape {value.shape}"
    if isinstance(value, (list, tuple, dict, set)):
        return f"a {type(value).__name__} of {len(value)}"
    text = repr(value)
    return f"{text if len(text) < 60 else text[:57] + '...'}{'' if value is None else f' ({type(value).__name__})'}"


def _difference(first: _Rollout, second: _Rollout) -> str:
    """The difference between two rollouts with one seed and the same actions, beyond rounding; "" if they agree."""
    for index, rows in enumerate(zip(first.observations, second.observations, strict=False)):
        if not np.allclose(*rows, rtol=1e-5, atol=1e-8):
            return "their first observations differ" if index == 0 else f"the observations after step {index} differ"
    for index, ((a, *ends), (b, *other)) in enumerate(zip(first.stages, second.stages, strict=False), 1):
        if not np.isclose(a, b, rtol=1e-5, atol=1e-8):
            return f"the rewards of step {index} differ"
        if ends != other:
            return f"one of them ended at step {index}"
    return ""


def _time_limit(env: gymnasium.Env, name: str, calls: Callable[[str], None]) -> int:
    """The stage at which rollouts with different starts and actions were all cut off; 0 if not all were, or at once."""
    end = time.monotonic() + PATIENCE
    env.action_space.seed(SEED)
    found = {_cut(env, name, calls, seed, end) for seed in range(SEED, SEED + CUTS)}
    stage = found.pop()
    return stage if not found and stage > 1 else 0


def _cut(env: gymnasium.Env, name: str, calls: Callable[[str], None], seed: int, end: float) -> int:
    """The stage at which a rollout was cut off; 0 if it was not. The first acts as little as it can, the others act."""
    still = middle(env.action_space) if seed == SEED else None
    _called(name, "reset()", lambda: env.reset(seed=seed), calls)
    for stage in range(1, LONGEST + 1):
        taken = env.action_space.sample() if still is None else still.copy()
        came = _called(name, "step()", functools.partial(env.step, taken), calls)
        _, _, terminated, truncated = _after_step(came)
        if truncated and not terminated:
            return stage
        if terminated or time.monotonic() > end:
            break
    return 0
