"""A user's plant looked at once, before anything runs: shapes traced without a rollout, and errors said in a sentence.

p observations, m actions, T stages. Built-in plants are not looked at; their tests do that.
"""

from __future__ import annotations

import linecache
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from policysearch.core.specification import Discrete, Specification
from policysearch.tasks.task import Task

#: folders whose code is not the user's
_OTHERS = (str(Path(__file__).resolve().parents[1]), str(Path(jax.__file__).resolve().parents[1]))


def place(error: BaseException) -> str:
    """The last line of the user's own code that an error passed, as "file:line: code"; "" without one.

    Example:
        >>> place(ValueError("never raised"))
        ''
    """
    found = ""
    for frame in traceback.extract_tb(error.__traceback__):
        if not frame.filename.startswith((*_OTHERS, "<")) and "importlib" not in frame.filename:
            line = linecache.getline(frame.filename, frame.lineno or 0).strip()
            found = f"{frame.filename}:{frame.lineno}: {line}"
    return found


def said(error: BaseException) -> str:
    """What an error says, in its first line, with its kind and the place in the user's code."""
    lines = str(error).strip().splitlines() or [""]
    where = place(error)
    return f"{type(error).__name__}: {lines[0]}" + (f"\n  {where}" if where else "")


def check(task: Task) -> None:
    """Raise ValueError, in a sentence, for a plant whose methods do not fit each other or fail when they are traced."""
    name = type(task).__name__
    specification = task.specification
    if not isinstance(specification, Specification):
        raise ValueError(f"{name}.specification gives a {type(specification).__name__}; it must be a Specification.")
    action, T, p = specification.action, specification.horizon, specification.observation_size
    if action is None:
        raise ValueError(f"{name}: the specification has no action; say Continuous(low, high) or Discrete(n).")

    def traced(method: str, function: Callable[..., Any], *given: Any) -> Any:
        try:
            return jax.eval_shape(function, *given)
        except Exception as error:
            hint = ""
            if method == "step" and "positional argument" in str(error):
                hint = " step takes (x, u, w); w is this stage's disturbance, None without."
            raise ValueError(f"{name}.{method} fails: {said(error)}{hint}") from error

    def scalar(method: str, found: Any) -> None:
        if getattr(found, "shape", None) != ():
            shape = getattr(found, "shape", type(found).__name__)
            raise ValueError(
                f"{name}.{method} returns shape {shape}; it must be one number, shape (): take u[0], or sum."
            )

    key = jax.random.key(0)
    x = traced("reset", task.reset, key)
    observed = traced("observe", task.observe, x)
    if getattr(observed, "shape", None) != (p,):
        shape = getattr(observed, "shape", type(observed).__name__)
        raise ValueError(f"{name}.observe returns shape {shape}; observation_size={p} wants ({p},).")
    noise = traced("noise", task.noise, key)
    for leaf in jax.tree.leaves(noise):
        if not leaf.shape or leaf.shape[0] != T:
            raise ValueError(f"{name}.noise gives shape {leaf.shape}; its leading axis must be the horizon, {T}.")
    w = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), noise)
    number = jnp.zeros(()).dtype
    u = (
        jax.ShapeDtypeStruct((), jnp.zeros((), int).dtype)
        if isinstance(action, Discrete)
        else jax.ShapeDtypeStruct((action.size,), number)
    )
    after = traced("step", task.step, x, u, w)
    if _described(after) != _described(x):
        raise ValueError(
            f"{name}.step returns a state of shape {_shapes(after)}, reset one of {_shapes(x)}; they must be alike."
        )
    scalar("cost", traced("cost", task.cost, x, u))
    scalar("final_cost", traced("final_cost", task.final_cost, x))
    states = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((T + 1, *leaf.shape), leaf.dtype), x)
    judged = traced("success", task.success, states, jax.ShapeDtypeStruct((T, *u.shape), u.dtype))
    if judged is not None:
        scalar("success", judged)


def _described(state: Any) -> tuple[str, list[tuple[int, ...]]]:
    return str(jax.tree.structure(state)), [leaf.shape for leaf in jax.tree.leaves(state)]


def _shapes(state: Any) -> str:
    leaves = jax.tree.leaves(state)
    return str(leaves[0].shape) if len(leaves) == 1 else str([leaf.shape for leaf in leaves])
