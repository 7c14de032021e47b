"""Lean steps: equal to the environment's own in every bit, and not taken where they are not."""

import gc
import weakref

import gymnasium
import numpy as np
import pytest

from environments import Drift
from policysearch.core.controller import Controller
from policysearch.core.specification import FAILED, OK
from policysearch.tasks.gymnasium_task import GymnasiumTask
from policysearch.workers import lean_steps
from policysearch.workers.episode import run_rollout
from policysearch.workers.lean_steps import LeanStep, lean_step

pytest.importorskip("mujoco")
pytest.importorskip("imageio")

OPTIONS = {
    "Swimmer-v5": {"forward_reward_weight": 2.0, "ctrl_cost_weight": 0.3, "frame_skip": 2},
    "HalfCheetah-v5": {"exclude_current_positions_from_observation": False, "forward_reward_weight": 0.7},
    "Hopper-v5": {"healthy_reward": 0.3, "healthy_angle_range": (-0.05, 0.1), "healthy_state_range": (-3.0, 2.5)},
    "Walker2d-v5": {"terminate_when_unhealthy": False, "healthy_z_range": (1.2, 1.3), "ctrl_cost_weight": 0.1},
    "Ant-v5": {"include_cfrc_ext_in_observation": False, "main_body": "torso", "contact_cost_weight": 0.1},
}
CASES = [*((name, {}) for name in OPTIONS), *OPTIONS.items()]


class Opaque(gymnasium.Wrapper):
    """Changes nothing; what is below it is stepped as it is."""


def actor(task, size, std):
    generator = np.random.default_rng(0)
    m, p = task.specification.action.size, task.specification.observation_size
    gain = size * generator.normal(size=(m, p)) / np.sqrt(p)
    return Controller({"policy": "linear_gaussian"}, {"gain": gain, "log_std": np.full(m, np.log(std))})


def both(task, controller, seed):
    """The same rollout, stepped leanly and as the environment steps itself."""
    noise = controller.noise(np.random.default_rng(seed), task.horizon)
    given = (controller, seed, noise, task.horizon, True, 0.5, 0.99)
    lean, own = task.make(), Opaque(task.make())
    try:
        assert lean_step(lean.unwrapped).step != lean.unwrapped.step
        return run_rollout(lean, *given), run_rollout(own, *given)
    finally:
        lean.close()
        own.close()


@pytest.mark.parametrize(("name", "options"), CASES)
def test_every_number_of_a_rollout_is_that_of_the_environments_own_step(name, options):
    task = GymnasiumTask(name, horizon=150, environment_options=options)
    terminated, lengths = [], []
    for seed, size, std in ((0, 0.0, 0.1), (1, 0.5, 0.3), (2, 1.0, 3.0)):
        lean, own = both(task, actor(task, size, std), seed)
        assert lean[:6] == own[:6]
        for x, y in zip((*lean.record, lean.mean, lean.m2), (*own.record, own.mean, own.m2), strict=True):
            assert x.tobytes() == y.tobytes()
        assert lean.outcome == OK
        terminated.append(lean.terminated)
        lengths.append(lean.length)
    # a runner that can fall was seen to
    falls = name in ("Hopper-v5", "Walker2d-v5") and options.get("terminate_when_unhealthy", True)
    assert any(terminated) == (falls or name == "Ant-v5"), lengths


@pytest.mark.parametrize("name", ["HalfCheetah-v5", "Ant-v5"])
def test_a_rollout_with_an_action_that_is_no_number_fails_alike(name):
    task = GymnasiumTask(name, horizon=40)
    controller = actor(task, 0.1, 0.1)
    noise = controller.noise(np.random.default_rng(0), 40)
    noise[7, 1] = np.nan
    lean, own = task.make(), Opaque(task.make())
    a, b = (run_rollout(env, controller, 0, noise, 40, True) for env in (lean, own))
    assert a.outcome == FAILED
    assert "action of stage 7" in a.reason
    assert a[:6] == b[:6]
    for x, y in zip(a.record, b.record, strict=True):
        assert np.array_equal(x, y, equal_nan=True)
    lean.close()
    own.close()


def hopper(**options):
    return gymnasium.make("Hopper-v5", disable_env_checker=True, **options).unwrapped


def test_an_environment_that_pays_otherwise_keeps_its_own_step():
    env = hopper()
    own = env._get_rew
    env._get_rew = lambda speed, action: (own(speed, action)[0] + 1e-12, {})
    assert lean_step(env).step == env.step


def test_an_environment_that_sees_otherwise_keeps_its_own_step():
    env = hopper()
    own = env._get_obs
    env._get_obs = lambda: own() * (1 + 1e-15)
    assert lean_step(env).step == env.step


@pytest.mark.parametrize("name", ["Hopper-v5", "Walker2d-v5", "Ant-v5"])
def test_what_is_compared_holds_a_fall(name):
    """A lean step that never ends a rollout, in an environment that does, is found out."""
    env = gymnasium.make(name, disable_env_checker=True, terminate_when_unhealthy=False).unwrapped
    lean = lean_step(env)
    env._terminate_when_unhealthy = True
    assert lean_steps._rollouts(env, lean) != lean_steps._rollouts(env, LeanStep(env.step))


def test_an_environment_of_another_version_keeps_its_own_step():
    env = hopper()
    env.step(np.zeros(3))
    del env._healthy_state_range
    assert lean_step(env).step == env.step


def test_one_that_draws_and_one_that_is_derived_keep_their_own_step():
    drawn = hopper(render_mode="rgb_array")
    assert lean_step(drawn).step == drawn.step
    derived = type("HopperEnv", (type(hopper()),), {"__module__": "mine"})()
    assert lean_step(derived).step == derived.step


def test_environments_that_are_done_with_are_forgotten():
    env = hopper()
    lean_step(env)
    kept = weakref.ref(env)
    env.close()
    del env
    gc.collect()
    assert kept() is None


def test_an_environment_that_cannot_be_hashed_is_stepped():
    env = type("Equal", (Drift,), {"__eq__": lambda self, other: self is other, "__hash__": None})()
    assert lean_step(env).step == env.step


@pytest.mark.parametrize("name", ["Hopper-v5", "Ant-v5"])
def test_a_state_that_is_no_number_ends_a_rollout_as_it_does_there(name, monkeypatch):
    import mujoco

    def diverge(model, data, nstep):
        data.qvel[-1] = np.nan

    monkeypatch.setattr(mujoco, "mj_step", diverge)
    env = gymnasium.make(name, disable_env_checker=True).unwrapped
    lean = lean_steps.RUNNERS[lean_steps._name(env)](env)
    for step in (lean.step, env.step):
        env.reset(seed=0)
        assert step(np.zeros(env.action_space.shape, np.float32))[2]
