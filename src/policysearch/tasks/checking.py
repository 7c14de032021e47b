"""A user's plant checked once, before anything runs: shapes traced without a rollout, and errors explained.

p observations, m actions, T stages. Built-in plants are not checked; their tests do that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from policysearch.core.diagnoses import said
from policysearch.core.specification import Discrete, Specification
from policysearch.tasks.task import Task


def check(task: Task) -> None:
    """Raise ValueError, with an explanation, for a plant whose methods do not fit together or fail when traced."""
    name = type(task).__name__
    specification = task.specification
    if not isinstance(specification, Specification):
        raise ValueError(f"{name}.specification gives a {type(specification).__name__}; it must be a Specification.")
    action, T, p = specification.action, specification.horizon, specification.observation_size
    if action is None:
        raise ValueError(f"{name}: the specification has no action; give Continuous(low, high) or Discrete(n).")

    def traced(method: str, function: Callable[..., Any], *given: Any) -> Any:
        try:
            return jax.eval_shape(function, *given)
        except Exception as error:
            hint = ""
            if method == "step" and "positional argument" in str(error):
                hint = " step takes (x, u, w); w is this stage's disturbance, or None."
            if isinstance(error, jax.errors.TracerArrayConversionError):
                hint = (
                    "\n  A Task is written in JAX, and this calls NumPy. Either use jax.numpy (jnp.sin, jnp.stack) in "
                    "all its methods; or leave the plant in NumPy and give its functions to policysearch.Plant(f, "
                    "dt=…, horizon=…, cost=…, limits=…, reset=…) instead."
                )
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
        raise ValueError(f"{name}.observe returns shape {shape}; observation_size={p} needs ({p},).")
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
            f"{name}.step returns a state of shape {_shapes(after)}, reset one of {_shapes(x)}; they must be equal."
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
