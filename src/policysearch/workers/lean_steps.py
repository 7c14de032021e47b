"""Gymnasium's MuJoCo runners stepped with a fraction of the Python code: the same numbers, to the last bit. No JAX.

A lean step is used only after comparison with the environment's own, which all but the classes of `RUNNERS`
keep. L stages, m actions.
"""

from __future__ import annotations

import contextlib
import math
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import gymnasium
import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float

#: an environment of Gymnasium's MuJoCo family, of whose attributes some are private
MujocoEnv = Any
#: whether the environment counts the state after a step as healthy
Healthy = Callable[[], bool]
#: stages of each compared rollout, at most; robots that can fall do so
COMPARED = 50


class LeanStep(NamedTuple):
    """How to step an environment.

    step: like `gymnasium.Env.step`; `info` may be None, and the observation one array that each stage overwrites.
    control_cost: left out of the rewards of `step`: weight of the sum of squares of the action, see `charge`.
    """

    step: Callable[[Any], tuple[Any, Any, Any, Any, Any]]
    control_cost: float | None = None

    def charge(self, rewards: Float[np.ndarray, " L"], actions: Float[np.ndarray, "L m"]) -> None:
        """Subtract the control cost from L rewards, in place, rounded as the environment rounds it.

        Args:
            rewards: of `step`.
            actions: given to it, of the environment's dtype.
        """
        if self.control_cost is not None:
            rewards -= self.control_cost * np.add.reduce(np.square(actions), axis=1)


#: the lean step that an environment agreed with, if any; a value must not refer to its environment
_found: weakref.WeakKeyDictionary[gymnasium.Env, LeanStep | None] = weakref.WeakKeyDictionary()


def lean_step(env: gymnasium.Env) -> LeanStep:
    """The fastest equivalent of `env.step`.

    Args:
        env: a new one may be stepped, for the comparison; so call this before its reset.

    Returns:
        A `LeanStep` that gives the same observations, rewards and terminations.
    """
    own = LeanStep(env.step)
    make = RUNNERS.get(_name(env))
    if make is None or env.render_mode is not None:
        return own
    if env not in _found:
        _found[env] = None
        # another version of Gymnasium may have other attributes, or other rewards
        with contextlib.suppress(AttributeError, LookupError, TypeError, ValueError):
            lean = make(env)
            _found[env] = lean if _rollouts(env, lean) == _rollouts(env, own) else None
    return _found[env] or own


def _name(env: gymnasium.Env) -> str:
    """Module and class of an environment of Gymnasium's MuJoCo family, as `hopper_v5.HopperEnv`."""
    return f"{type(env).__module__}.{type(env).__name__}".removeprefix("gymnasium.envs.mujoco.")


def _rollouts(env: MujocoEnv, lean: LeanStep) -> list[bytes]:
    """The bits of two rollouts' results: one with random actions, one with all actions at their lower limits."""
    low, high = env.action_space.low, env.action_space.high
    drawn = np.random.default_rng(0).uniform(low, high, (COMPARED, *low.shape)).astype(low.dtype)
    came = []
    for actions in (drawn, np.broadcast_to(low, drawn.shape)):
        env.reset(seed=0)
        rewards = np.zeros(COMPARED)
        for k, action in enumerate(actions):
            observation, rewards[k], terminated, *_ = lean.step(action)
            came += [observation.tobytes(), bytes([bool(terminated)])]
            if terminated:
                break
        lean.charge(rewards, actions)
        came.append(rewards[: k + 1].tobytes())
    return came


def _runner(
    env: MujocoEnv, position: np.ndarray, speed_limit: float | None = None, healthy: Healthy | None = None
) -> LeanStep:
    """Rewarded for the speed of `position[0]` and for being healthy, less the control cost."""
    import mujoco

    model, data, skip, dt, mj_step = env.model, env.data, env.frame_skip, env.dt, mujoco.mj_step
    ctrl, qvel = data.ctrl, data.qvel
    qpos = data.qpos[env.observation_structure["skipped_qpos"] :]
    seen = np.empty(env.observation_space.shape)
    positions, velocities = seen[: len(qpos)], seen[len(qpos) :][: len(qvel)]
    limits = None if speed_limit is None else (np.array(-speed_limit), np.array(speed_limit))
    forward = env._forward_reward_weight
    bonus, terminate = (env._healthy_reward, env._terminate_when_unhealthy) if healthy else (0.0, False)

    def step(action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, None]:
        before = position.item(0)
        ctrl[:] = action
        mj_step(model, data, skip)
        reward = forward * ((position.item(0) - before) / dt)
        positions[:] = qpos
        if limits is None:
            velocities[:] = qvel
        else:
            qvel.clip(*limits, velocities)
        if healthy is None:
            return seen, reward, False, False, None
        well = healthy()
        return seen, reward + well * bonus, terminate and not well, False, None

    return LeanStep(step, env._ctrl_cost_weight)


def _crawler(env: MujocoEnv) -> LeanStep:
    """Swimmer and half-cheetah, which cannot fall."""
    return _runner(env, env.data.qpos)


def _hopper(env: MujocoEnv) -> LeanStep:
    (low, high), (back, front) = env._healthy_z_range, env._healthy_angle_range
    least, most = env._healthy_state_range
    qpos, qvel = env.data.qpos, env.data.qvel

    def healthy() -> bool:
        _, z, *rest = qpos.tolist() + qvel.tolist()
        inside = low < z < high and back < rest[0] < front and least < min(rest) and max(rest) < most
        return inside and not math.isnan(sum(rest))  # min and max may pass over a NaN

    return _runner(env, qpos, 10, healthy)


def _walker(env: MujocoEnv) -> LeanStep:
    (low, high), (back, front) = env._healthy_z_range, env._healthy_angle_range
    qpos = env.data.qpos

    def healthy() -> bool:
        return low < qpos.item(1) < high and back < qpos.item(2) < front

    return _runner(env, qpos, 10, healthy)


def _ant(env: MujocoEnv) -> LeanStep:
    """Its control and contact cost are added before they are rounded to the reward, so neither can wait."""
    import mujoco

    low, high = env._healthy_z_range
    least, most = (np.array(bound) for bound in env._contact_force_range)
    control, contact = env._ctrl_cost_weight, env._contact_cost_weight
    model, data, forces = env.model, env.data, np.empty(env.data.cfrc_ext.shape)
    qpos, qvel, cfrc, sum_all = data.qpos, data.qvel, data.cfrc_ext, np.add.reduce
    seen_forces = env.observation_structure["cfrc_ext"]

    def healthy() -> bool:
        return low <= qpos.item(2) <= high and math.isfinite(sum(qpos.tolist() + qvel.tolist()))

    run = _runner(env, data.body(env._main_body).xpos, None, healthy).step

    def step(action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, None]:
        seen, reward, fallen, _, _ = run(action)
        mujoco.mj_rnePostConstraint(model, data)
        cfrc.clip(least, most, forces)
        cost = float(control * sum_all(np.square(action))) + contact * sum_all(np.square(forces), None)
        if seen_forces:
            seen[-seen_forces:] = forces[1:].ravel()
        return seen, reward - cost, fallen, False, None

    return LeanStep(step)


#: what is stepped leanly, and how
RUNNERS: dict[str, Callable[[MujocoEnv], LeanStep]] = {
    "swimmer_v5.SwimmerEnv": _crawler,
    "half_cheetah_v5.HalfCheetahEnv": _crawler,
    "hopper_v5.HopperEnv": _hopper,
    "walker2d_v5.Walker2dEnv": _walker,
    "ant_v5.AntEnv": _ant,
}
