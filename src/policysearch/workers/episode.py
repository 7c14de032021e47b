"""One rollout of a controller in a Gymnasium environment, and what counts as its failure. No JAX.

L of at most T stages were run, p observations, m actions. Cost of a stage: discount^k (bonus − reward).
"""

from __future__ import annotations

import functools
import math
import sys
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium.wrappers import OrderEnforcing, TimeLimit

from policysearch.core.controller import Controller
from policysearch.core.specification import FAILED, OK
from policysearch.workers.actions import actor
from policysearch.workers.jobs import Episode
from policysearch.workers.lean_steps import lean_step
from policysearch.workers.observations import writer

if TYPE_CHECKING:
    from jaxtyping import Float

#: gives the action of a stage from its observation
Act = Callable[[int, np.ndarray], Any]
#: NumPy's settings for rounding errors unless an environment's code changes them
_USUAL = {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"}


def run_rollout(
    env: gymnasium.Env,
    controller: Controller,
    seed: int,
    noise: Float[np.ndarray, "T m"] | None = None,
    horizon: int = 1000,
    record: bool = False,
    survival_bonus: float = 0.0,
    discount: float = 1.0,
) -> Episode:
    """Run one rollout from one `reset(seed=seed)`; actions are clipped before they are applied.

    A reward, observation or action that is not a finite number, or a divergence reported by MuJoCo, makes the
    rollout `FAILED` from that stage on.

    Args:
        env: a single environment.
        controller: the policy, with matching sizes.
        seed: of the reset.
        noise: action noise as `Controller.noise` draws it, (T, m); None: the mode acts.
        horizon: T, largest number of stages.
        record: also return observations, actions and costs.
        survival_bonus: subtracted from each reward before it becomes a cost.
        discount: per stage.

    Returns:
        The `Episode`.

    Raises:
        Exception: anything the environment raises, unless a non-finite action caused it.
    """
    controller.reset()
    inner, limit = _without_time_limit(env, horizon)
    seen = np.zeros((limit + 1, controller.observation_size))
    actions = np.zeros(limit, int) if controller.discrete else np.zeros((limit, controller.action_size))
    rewards = np.zeros(limit)
    taken = np.zeros((limit, math.prod(env.action_space.shape or ())), env.action_space.dtype)
    write, act = writer(env.observation_space), _unalarmed(actor(controller, env.action_space, noise, actions, taken))
    lean = lean_step(inner)
    step, isfinite = lean.step, math.isfinite
    terminated = False
    k = 0
    observation, _ = env.reset(seed=seed)
    try:
        for k, row in enumerate(seen[:limit]):
            write(row, observation)
            observation, reward, terminated, truncated, _ = step(act(k, row))
            rewards[k] = reward
            if terminated or truncated or not isfinite(reward):
                break
    except Exception:
        if np.isfinite(actions[k]).all():
            raise
    length = k + 1
    write(seen[length], observation)
    observations, actions, rewards = seen[:length], actions[:length], rewards[:length]
    with np.errstate(all="ignore"):
        lean.charge(rewards, taken[:length])
        mean = observations.sum(axis=0) / length
        bad, reason = _first_failure(inner, controller, observations, actions, rewards, mean)
        costs = survival_bonus - rewards
        if discount != 1:
            costs *= discount ** np.arange(length)
        total, returns = float(costs[:bad].sum()), float(rewards[:bad].sum())
        deviations = observations - mean
        m2 = np.einsum("kp,kp->p", deviations, deviations)
    if reason:
        length = min(bad + 1, length)
        seen = np.nan_to_num(seen[: length + 1], posinf=0.0, neginf=0.0)
        actions = np.nan_to_num(actions[:length], posinf=0.0, neginf=0.0)
        costs = costs[:length]
        costs[bad:] = np.nan
    return Episode(
        total=total,
        returns=returns,
        length=length,
        outcome=FAILED if reason else OK,
        reason=reason,
        terminated=bool(terminated),
        mean=mean,
        m2=m2,
        record=(seen[: length + 1], actions, costs) if record else None,
    )


def _unalarmed(act: Act) -> Act:
    """The actor, without the floating-point errors that the environment's code enabled for its own arithmetic."""
    if np.geterr() == _USUAL and not any(action == "error" for action, *_ in warnings.filters):
        return act

    def quietly(k: int, observation: np.ndarray) -> Any:
        with np.errstate(all="ignore"):
            return act(k, observation)

    return quietly


def _without_time_limit(env: gymnasium.Env, horizon: int) -> tuple[gymnasium.Env, int]:
    """The environment below Gymnasium's own time limit and order check, and the part of `horizon` that they allow.

    A rollout counts its stages and begins with a reset anyway, so it need not pay for them at each stage. Other
    wrappers, and what is below them, stay.
    """
    while isinstance(env, gymnasium.Wrapper) and type(env) in (TimeLimit, OrderEnforcing):
        if isinstance(env, TimeLimit):
            horizon = min(horizon, env._max_episode_steps)
        env = env.env
    return env, horizon


def _first_failure(
    env: gymnasium.Env,
    controller: Controller,
    observations: np.ndarray,
    actions: np.ndarray,
    rewards: np.ndarray,
    mean: np.ndarray,
) -> tuple[int, str]:
    """The stage of the first failure and what it was; (L, "") without one."""
    length = len(rewards)
    # a stage's observation comes before its action, its action before its reward
    seen = [("observation", observations), ("action", actions), ("reward", rewards)]
    if controller.discrete:  # even the argmax of NaN logits is a valid action
        seen[1] = ("vector of logits", controller.output(observations))
    # a sum is finite only if all values are; the stages are checked one by one only if it is not
    if not math.isfinite(mean.sum() + seen[1][1].sum() + rewards.sum()):
        found = []
        for name, values in seen:
            finite = np.isfinite(values)
            if not finite.all():
                stage = int(np.argmin(finite.reshape(length, -1).all(axis=1)))
                found.append((stage, f"the {name} of stage {stage} is not finite"))
        if found:
            return min(found, key=lambda pair: pair[0])
    warning = getattr(getattr(env.unwrapped, "data", None), "warning", None)
    if warning is not None:
        noted = _mujoco_divergence(warning)
        if noted:
            return length - 1, f"MuJoCo reported {noted}: the simulation diverged"
    return length, ""


@functools.cache
def _divergences() -> list[tuple[str, int]]:
    """Names and numbers of MuJoCo's warnings about a state that is not finite."""
    kinds = sys.modules["mujoco"].mjtWarning.__members__.items()
    return [(name.removeprefix("mjWARN_"), int(kind)) for name, kind in kinds if "BAD" in name]


def _mujoco_divergence(warning: Any) -> str:
    """Names of the divergences that MuJoCo counted since the reset: it restarts itself and continues."""
    numbers = getattr(warning, "number", None)
    if numbers is None or "mujoco" not in sys.modules:
        return ""
    return ", ".join(name for name, kind in _divergences() if numbers[kind])
