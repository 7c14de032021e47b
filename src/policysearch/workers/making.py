"""An environment from what names it, in the process that runs it. No JAX.

Only a `jobs.Recipe` travels: names are imported and ids are made where they are needed.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import re
from typing import Any

import gymnasium

from policysearch.core.references import attribute, required_arguments
from policysearch.workers.jobs import Recipe
from policysearch.workers.mujoco_warnings import tell_once
from policysearch.workers.packages import advice, package_of

#: Gymnasium's ids end with a version, which tells "package:Id-v0" from "module:attr"
_ID = re.compile(r"-v\d+$")


class UnknownError(ValueError):
    """There is no environment by that name. near: names that are."""

    def __init__(self, message: str, near: list[str]):
        super().__init__(message)
        self.near = near


class OtherKindError(ValueError):
    """The name is that of something else than an environment: a plant, a cost, a number."""


class UnfitEnvironmentError(ValueError):
    """What the name gives is no environment of Gymnasium's, though it means to be one; the message helps."""


def is_id(source: str) -> bool:
    """Whether a name is one of Gymnasium's, perhaps with its package."""
    return ":" not in source or _ID.search(source) is not None


def make(recipe: Recipe) -> gymnasium.Env:
    """A new environment, without Gymnasium's passive checker.

    Raises:
        UnknownError: there is none by that name.
        OtherKindError: the name is that of something else.
        Exception: whatever its code raises.
    """
    tell_once()
    env = _registered(recipe) if is_id(recipe.source) else _manufactured(recipe)
    tell_once()
    return env


def _registered(recipe: Recipe) -> gymnasium.Env:
    spec = specification(recipe)
    if str(spec.entry_point).startswith("gymnasium.envs.mujoco"):
        with contextlib.suppress(ImportError):  # of which Gymnasium says more
            importlib.import_module("mujoco")
            tell_once()
    return gymnasium.make(spec, max_episode_steps=recipe.horizon, disable_env_checker=True, **recipe.options)


def specification(recipe: Recipe) -> gymnasium.envs.registration.EnvSpec:
    """The registration of an id, once its package is imported.

    Raises:
        UnknownError: there is none.
    """
    package, colon, name = recipe.source.rpartition(":")
    if colon:
        try:
            importlib.import_module(package)
        except ModuleNotFoundError as error:
            if error.name != package and not package.startswith(f"{error.name}."):
                raise
            raise UnknownError(f"there is no package {package!r} here. {advice(name)}".rstrip(), []) from None
    if recipe.registered is not None:
        return recipe.registered
    try:
        return gymnasium.spec(name)
    except gymnasium.error.Error as error:
        if name in gymnasium.registry:
            raise
        known = difflib.get_close_matches(name, list(gymnasium.registry), n=3, cutoff=0.6)
        more = f" Nearest: {', '.join(known)}." if known else ""
        if package_of(name) is not None and not colon:
            more = f" {advice(name)}"
        elif not known and not colon:
            more = " Of another package than Gymnasium it is package:Id, so that the package is imported first."
        # what Gymnasium says of versions and namespaces names what there is
        why = "" if more else f" {str(error).rstrip('.')}."
        raise UnknownError(f"Gymnasium does not know the environment {name!r}.{more}{why}", known) from None


def _manufactured(recipe: Recipe) -> gymnasium.Env:
    found = attribute(recipe.source)
    if not callable(found):
        raise OtherKindError(f"{recipe.environment} is a {type(found).__name__}; name a class or function.")
    if isinstance(found, type) and not _may_be_environment(found):
        raise OtherKindError(_other(recipe.environment, found.__name__))
    env = found(**recipe.options) if isinstance(found, type) else _called(found, recipe)
    if isinstance(env, gymnasium.Env):
        return env
    kind = type(env)
    if any(base.__module__.split(".")[0] == "gym" for base in kind.__mro__):
        raise UnfitEnvironmentError(
            f"{recipe.environment} gave an environment of the old gym package, {kind.__name__}. Port it: import "
            "gymnasium as gym, reset(self, *, seed=None, options=None) returns (observation, {}) and step(action) "
            "returns (observation, reward, terminated, truncated, {}); or wrap it with Shimmy's GymV21CompatibilityV0."
        )
    if isinstance(env, gymnasium.vector.VectorEnv):
        raise UnfitEnvironmentError(
            f"{recipe.environment} gave {kind.__name__}, many environments in one; give a single one."
        )
    raise OtherKindError(_other(recipe.environment, kind.__name__))


def _other(name: str, kind: str) -> str:
    return f"{name} gave a {kind}; it must return a gymnasium.Env."


def _may_be_environment(found: type) -> bool:
    # an environment of the old package is told so
    return issubclass(found, (gymnasium.Env, gymnasium.vector.VectorEnv)) or any(
        base.__module__.split(".")[0] == "gym" for base in found.__mro__
    )


def _called(function: Any, recipe: Recipe) -> Any:
    """What a factory gives; a function that needs arguments is no factory."""

    if not recipe.options and required_arguments(function) != 0:
        raise OtherKindError(f"{recipe.environment} takes arguments; a factory of environments takes none.")
    return function(**recipe.options)
