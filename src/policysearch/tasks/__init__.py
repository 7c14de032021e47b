"""The built-in tasks by name, and `resolve`, from what the user typed to a task. No JAX until one is built."""

from __future__ import annotations

import contextlib
import importlib
import importlib.machinery
import importlib.util
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from policysearch.core.references import ALLOWED, attribute, nearest, required_arguments
from policysearch.workers.packages import package_of

if TYPE_CHECKING:
    from policysearch.tasks.gymnasium_task import GymnasiumTask
    from policysearch.tasks.python_function import PythonFunction
    from policysearch.tasks.task import Function, Task

    #: what `resolve` gives
    AnyTask = Task | Function | PythonFunction | GymnasiumTask


class BuiltIn(msgspec.Struct, frozen=True):
    """Where a built-in task is made (`module:attr`, called without arguments), what it is, when it is solved."""

    target: str
    summary: str
    solved: str


_HELD = "in 95 of 100 rollouts"
_NEAR_BEST = "mean cost at most 1.05 times that of the best time-invariant gain"

BUILT_IN: dict[str, BuiltIn] = {
    "bowl": BuiltIn(
        "policysearch.tasks.functions:bowl",
        "a quadratic function of 10 parameters, with closed forms",
        "1 % of the initial cost",
    ),
    "rosenbrock": BuiltIn(
        "policysearch.tasks.functions:rosenbrock",
        "Rosenbrock's curved valley, 2 parameters",
        "cost at most 0.1",
    ),
    "bandit": BuiltIn(
        "policysearch.tasks.bandit:Bandit",
        "four arms with noisy costs, with closed forms",
        f"the cheapest arm chosen {_HELD}",
    ),
    "lqr": BuiltIn(
        "policysearch.tasks.linear_plants:two_masses",
        "two carts joined by a spring and damper, 4 states, 2 forces, with closed forms",
        _NEAR_BEST,
    ),
    "lqr-check": BuiltIn(
        "policysearch.tasks.linear_plants:check_problem",
        "a pushed mass, 2 states, 1 force, whose exact gradient the documentation prints",
        _NEAR_BEST,
    ),
    "lqr-mushroom": BuiltIn(
        "policysearch.tasks.linear_plants:mushroom",
        "MushroomRL's two-state example with clipped states and actions",
        _NEAR_BEST,
    ),
    "double-integrator": BuiltIn(
        "policysearch.tasks.double_integrator:double_integrator",
        "a mass on a track, pushed back to the origin, with closed forms",
        f"within 0.05 m and 0.1 m/s over the last 0.5 s, {_HELD}",
    ),
    "pendulum": BuiltIn(
        "policysearch.tasks.pendulum:Pendulum",
        "swing a pendulum up and hold it, with a motor too weak to lift it directly",
        f"within 0.2 rad of upright over the last 2 s, {_HELD}",
    ),
    "cartpole-balance": BuiltIn(
        "policysearch.tasks.cartpole:balance",
        "hold a pole upright on a cart",
        f"pole within 0.2 rad of upright and cart within 2 m over the last 2 s, {_HELD}",
    ),
    "cartpole-swingup": BuiltIn(
        "policysearch.tasks.cartpole:swing_up",
        "swing a pole up on a cart and hold it",
        f"pole within 0.2 rad of upright and cart within 2 m over the last 2 s, {_HELD}",
    ),
}


def build(name: str) -> Any:
    """Construct a built-in task.

    Args:
        name: a key of `BUILT_IN`.

    Raises:
        ValueError: no such name; the message lists the nearest.

    Example:
        >>> build("bandit").specification.horizon
        1
    """
    if name not in BUILT_IN:
        raise ValueError(f"no built-in task {name!r}.{nearest(name, BUILT_IN)} Allowed: {', '.join(BUILT_IN)}")
    module, attribute = BUILT_IN[name].target.split(":")
    return getattr(importlib.import_module(module), attribute)()


def resolve(task: Any, **environment: Any) -> Any:
    """Turn what the user gave into a task: something with a `specification`.

    Args:
        task: a task object (returned as it is), a Python cost function, or a string: a built-in name, a
            Gymnasium id, `module:attr` or `file.py:attr`, where attr is a task, a class or function making
            one without arguments, a Gymnasium environment class or factory, or a Python cost
            `cost(values[, seed])`, whose attribute `initial`, if it has one, is where a search starts.
        environment: keyword arguments of `GymnasiumTask` if the task is an environment, such as `horizon`; other
            tasks ignore them.

    Returns:
        A `Task`, `Function`, `PythonFunction` or `GymnasiumTask`.

    Raises:
        ValueError: nothing by that name; the message lists the nearest names and what is allowed.
        TypeError: the attribute is not one of these.

    Example:
        >>> resolve("bandit").specification.name
        'bandit'
    """
    if not isinstance(task, str):
        return _task_of(task, task, getattr(task, "__name__", type(task).__name__), environment)
    if task in BUILT_IN:
        return build(task)
    # Gymnasium's own "module:Id-v0" also has a colon; its version distinguishes it
    if ":" in task and not re.search(r"-v\d+$", task):
        return _named(task, environment)
    if task.endswith(".py"):
        raise ValueError(f"{task} is a file; name the task in it too, as in {task}:Plant")
    near = "" if re.search(r"-v\d+$|/", task) else nearest(task, BUILT_IN)
    if near:
        raise ValueError(f"unknown task {task!r}.{near} Allowed: {ALLOWED}. Built in: {', '.join(BUILT_IN)}")
    from policysearch.tasks.gymnasium_task import UnknownEnvironmentError

    try:
        return _gymnasium_task(task, environment)
    except UnknownEnvironmentError as error:
        if ":" in task or package_of(task) is not None:
            raise
        near = f" Nearest: {', '.join(error.near)}." if error.near else ""
        raise ValueError(
            f"unknown task {task!r}.{near} Allowed: {ALLOWED}; ids of packages other than Gymnasium as package:Id. "
            f"Built in: {', '.join(BUILT_IN)}"
        ) from error


def _named(reference: str, environment: dict[str, Any]) -> Any:
    """The task that `module:attr` or `file.py:attr` names. Environments are imported only by workers."""
    if _source_mentions_gymnasium(reference):
        from policysearch.tasks.gymnasium_task import NotAnEnvironmentError

        with contextlib.suppress(NotAnEnvironmentError):
            return _gymnasium_task(reference, environment)
    return _task_of(attribute(reference), reference, reference, environment)


def _source_mentions_gymnasium(reference: str) -> bool:
    """Whether a module that is not yet imported looks like one of environments: then a worker is asked first."""
    place = reference.rpartition(":")[0]
    if place.endswith(".py"):
        path: str | None = place
    elif place in sys.modules or not re.fullmatch(r"\w+(\.\w+)*", place):
        return False
    else:
        path = _origin(place)
    try:
        text = Path(path or "").read_text(errors="replace")
    except OSError:
        return False
    return re.search(r"\bgym(nasium)?\b", text) is not None or Path(path or "").name == "__init__.py"


def _origin(module: str) -> str | None:
    """The file of a module, found without importing its packages."""
    found, path, name = None, None, ""
    for part in module.split("."):
        name = f"{name}.{part}" if name else part
        found = importlib.machinery.PathFinder.find_spec(name, path)
        if found is None:
            return None
        path = list(found.submodule_search_locations or [])
    return found.origin if found is not None else None


def _gymnasium_task(environment: Any, options: dict[str, Any]) -> Any:
    from policysearch.tasks.gymnasium_task import GymnasiumTask

    return GymnasiumTask(environment, **options)


def _task_of(found: Any, given: Any, reference: str, environment: dict[str, Any]) -> Any:
    """A task from an object: itself, what it makes, or a cost function wrapped; `given` is as passed."""
    from policysearch.tasks.python_function import PythonFunction

    if hasattr(found, "specification") and not isinstance(found, type):
        return _looked_at(found, given)
    if callable(found):
        if _is_environment(found):
            return _gymnasium_task(given, environment)
        required = required_arguments(found)
        if required == 0:
            made = _made(found, reference)
            if hasattr(made, "specification") and not isinstance(made, type):
                return _looked_at(made, given)
            if _is_environment(type(made)):
                with contextlib.suppress(Exception):
                    made.close()
                return _gymnasium_task(given, environment)
            raise TypeError(
                f"task {reference!r}: calling it returned {type(made).__name__}, not a task. Allowed: {ALLOWED}"
            )
        if not isinstance(found, type) and required <= 2:
            return PythonFunction(found, getattr(found, "initial", None), name=reference)
    raise TypeError(
        f"task {reference!r} is a {type(found).__name__} that is neither a task, nor makes one without "
        f"arguments, nor a cost of (values) or (values, seed). Allowed: {ALLOWED}"
    )


def _made(found: Any, reference: str) -> Any:
    """The result of a class or function without arguments; ValueError for a class that lacks methods."""
    missing = sorted(getattr(found, "__abstractmethods__", ()))
    if missing:
        raise ValueError(f"task {reference!r} cannot be made: it has no {', '.join(missing)}.")
    return found()


def _looked_at(task: Any, given: Any) -> Any:
    """A task, after a check if it is a named plant of the user's own."""
    module = sys.modules.get("policysearch.tasks.task")
    own = not type(task).__module__.startswith("policysearch.")
    if own and isinstance(given, str) and module is not None and isinstance(task, module.Task):
        from policysearch.tasks.checking import check

        check(task)
    return task


def _is_environment(found: Any) -> bool:
    """Whether `found` is a Gymnasium environment class; Gymnasium is not imported to find out."""
    gymnasium = sys.modules.get("gymnasium")
    return gymnasium is not None and isinstance(found, type) and issubclass(found, gymnasium.Env)
