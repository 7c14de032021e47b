"""`Task`: a plant x' = f(x, u, w) with stage cost g(x, u), in JAX for one sample and batched by `vmap`.

The objective is J = E[Σ_{k<T} discount^k g(x_k, u_k) + discount^(T−1) g_final(x_T)], T stages (18.11).
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from policysearch.core.specification import Continuous, Discrete, Specification


class Equilibrium(NamedTuple):
    """An equilibrium of a plant in minimal coordinates z, that is, without redundant ones such as sines.

    coordinates: z (k,) at the goal. action: holds it there, (m,). state: z → x. read: x → z.
    """

    coordinates: tuple[float, ...]
    action: tuple[float, ...]
    state: Callable[[Array], PyTree]
    read: Callable[[PyTree], Array]


class Task(eqx.Module):
    """A plant. Subclass it, give `specification`, `reset`, `step` and `cost`; the rest has defaults.

    The state x is any pytree; plant parameters drawn at reset (domain randomisation) are part of it.
    Actions reach `step` and `cost` already clipped to the limits in `specification.action`.
    """

    #: one line for `policysearch list`
    summary: ClassVar[str] = ""
    #: what runs its trials, see `policysearch.runners`
    runner: ClassVar[str] = "compiled"

    @property
    @abc.abstractmethod
    def specification(self) -> Specification:
        """Sizes, limits, horizon and time step."""

    @abc.abstractmethod
    def reset(self, key: PRNGKeyArray) -> PyTree:
        """Draw an initial state x_0."""

    def noise(self, key: PRNGKeyArray) -> PyTree:
        """Draw the disturbances w of a whole rollout: leaves with leading axis `horizon`; None without.

        One block per rollout, because drawing per stage costs more than most plants' dynamics.
        """
        return None

    @abc.abstractmethod
    def step(self, x: PyTree, u: Array, w: PyTree) -> PyTree:
        """The next state from state x, action u and this stage's slice w of `noise`."""

    @abc.abstractmethod
    def cost(self, x: PyTree, u: Array) -> Float[Array, ""]:
        """Cost of the stage, g(x, u)."""

    def final_cost(self, x: PyTree) -> Float[Array, ""]:
        """Cost of the state after the last stage; added to the last stage's cost."""
        return jnp.zeros(())

    def observe(self, x: PyTree) -> Float[Array, " p"]:
        """The policy's observation of state x; the state itself by default."""
        return x

    def success(self, states: PyTree, actions: Array) -> Bool[Array, ""] | None:
        """Whether one rollout met the physical goal; leaves of `states` have leading axis `horizon` + 1.

        None (the default) if the task has no such criterion.
        """
        return None

    def equilibrium(self) -> Equilibrium | None:
        """An equilibrium to hold, about which `baseline.lqr` makes a regulator; None (the default) without one."""
        return None

    #: share of evaluation rollouts that must succeed for the task to count as solved
    solved_share: ClassVar[float] = 0.95

    def solved_cost(self) -> float | None:
        """Mean cost at or below which the task counts as solved, for tasks judged by cost; None otherwise."""
        return None


class Function(eqx.Module):
    """A plain cost g(θ) written in JAX: `cost(values, key)` of a parameter vector, (18.17).

    Args:
        cost: JAX function of (values (d,), key) → scalar; the key may be ignored.
        initial: where a search starts, (d,).
        deterministic: the key changes nothing.
        scale: size of a sensible change of a value, in its unit.
    """

    runner: ClassVar[str] = "compiled"
    cost: Any = eqx.field(static=True)
    initial: tuple[float, ...] = eqx.field(static=True)
    name: str = eqx.field(static=True, default="function")
    deterministic: bool = eqx.field(static=True, default=True)
    summary: str = eqx.field(static=True, default="a cost g(θ) written in JAX")
    threshold: float | None = eqx.field(static=True, default=None)
    scale: float = eqx.field(static=True, default=1.0)

    @property
    def specification(self) -> Specification:
        """Sizes; the horizon is one stage."""
        solved = "" if self.threshold is None else f"mean cost of at most {self.threshold:g}"
        return Specification(name=self.name, deterministic=self.deterministic, solved=solved)

    def solved_cost(self) -> float | None:
        """Cost at or below which the minimum counts as found."""
        return self.threshold


def clip(u: Array, action: Continuous | Discrete | None) -> Array:
    """The action that the plant receives: `u` clipped to the limits; discrete actions unchanged."""
    if isinstance(action, Continuous) and np.isfinite(action.low + action.high).any():
        return jnp.clip(u, jnp.asarray(action.low, u.dtype), jnp.asarray(action.high, u.dtype))
    return u


def check_positive(task: Task, *names: str) -> None:
    """Raise ValueError unless these fields are positive and finite, and `randomise` is in [0, 1)."""
    for name in names:
        value = getattr(task, name)
        if not (np.isfinite(value) and value > 0):
            raise ValueError(f"{type(task).__name__}.{name} is {value!r}; it must be positive and finite")
    spread = getattr(task, "randomise", 0.0)
    if not 0 <= spread < 1:
        raise ValueError(
            f"{type(task).__name__}.randomise is {spread!r}; a relative spread must lie in [0, 1): 0.1 is ±10 %"
        )


def randomised(key: PRNGKeyArray, plant: PyTree, spread: float) -> PyTree | None:
    """`plant` with each number multiplied by its own factor, uniform in 1 ± `spread`; None without spread."""
    if spread == 0:
        return None
    leaves, structure = jax.tree.flatten(plant)
    factors = jax.random.uniform(key, (len(leaves),), minval=1 - spread, maxval=1 + spread)
    return jax.tree.unflatten(structure, [leaf * factor for leaf, factor in zip(leaves, factors, strict=True)])
