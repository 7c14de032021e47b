"""The controller that a control engineer would try first: a linear-quadratic regulator about the task's rest.

It knows the plant's equations, which no search does; comparisons and reports show it beside what was searched.
"""

from __future__ import annotations

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy

from policysearch.core.policies import LinearGaussian
from policysearch.tasks.lqr import LQR
from policysearch.tasks.task import Task


def lqr(task: Any) -> LinearGaussian | None:
    """The regulator u = K (o − o*) + u* on a task's observations o.

    An `LQR` task without limits has its best time-invariant gain for horizon, start and noise. Any other task with a
    `equilibrium` is linearised there: x' ≈ A x + B u, cost to second order, K from the Riccati equation of an infinite
    horizon with the task's discount. Where observations say more than the coordinates need, K takes the least norm.

    Args:
        task: as `policysearch.tasks.resolve` gives it.

    Returns:
        The policy; None where the task has no equilibrium to hold, or names a state that the plant leaves (a warning
        says so), where its cost does not curve upwards there, or where no gain stabilises it.

    Example:
        >>> from policysearch.tasks import build
        >>> bool(lqr(build("double-integrator")).gain[0, 0] < 0), lqr(build("bandit"))
        (True, None)
    """
    if not isinstance(task, Task):
        return None
    if isinstance(task, LQR) and not task.limited:
        return LinearGaussian(task.best_gain()[0])
    rest = task.equilibrium()
    if rest is None:
        return None
    z, u = jnp.asarray(rest.coordinates, float), jnp.asarray(rest.action, float)
    move = lambda z, u: rest.read(task.step(rest.state(z), u, _calm(task)))  # noqa: E731
    if not np.allclose(move(z, u), z, rtol=1e-4, atol=1e-4):
        warnings.warn(
            f"{type(task).__name__}.equilibrium() names a state that the plant leaves: {np.asarray(z).tolist()} "
            f"goes to {np.asarray(move(z, u)).tolist()}. There is no regulator about it.",
            stacklevel=2,
        )
        return None
    cost = lambda z, u: task.cost(rest.state(z), u)  # noqa: E731
    A, B = (np.asarray(part, float) for part in jax.jacfwd(move, (0, 1))(z, u))
    (Q, N), (_, R) = jax.tree.map(lambda part: np.asarray(part, float), jax.hessian(cost, (0, 1))(z, u))
    shrink = np.sqrt(task.specification.discount)
    try:
        P = scipy.linalg.solve_discrete_are(shrink * A, shrink * B, Q, R, s=N)
    except (ValueError, np.linalg.LinAlgError):
        return None
    discounted = shrink**2 * B.T @ P
    K = -np.linalg.solve(R + discounted @ B, discounted @ A + N.T)
    observe = lambda z: task.observe(rest.state(z))  # noqa: E731
    o, C = np.asarray(observe(z), float), np.asarray(jax.jacfwd(observe)(z), float)
    gain = K @ np.linalg.pinv(C)
    if not np.allclose(gain @ C, K, rtol=1e-3, atol=1e-6 * np.abs(K).max()):
        return None  # the observations do not tell the coordinates
    return LinearGaussian(gain, bias=np.asarray(u) - gain @ o)


def _calm(task: Task) -> Any:
    """Disturbances of one stage that are all zero; None where there are none."""
    shapes = jax.eval_shape(task.noise, jax.random.key(0))
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape[1:], leaf.dtype), shapes)
