import os
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from environments import Drift, Grid, Letters, Picky, Spinner
from policysearch.core.controller import Controller
from policysearch.core.specification import FAILED, OK, Continuous, Discrete
from policysearch.methods.settings import ARS
from policysearch.runners.pool import Workers
from policysearch.search.loop import HOPELESS
from policysearch.search.search import Search
from policysearch.tasks.gymnasium_task import GymnasiumTask
from policysearch.workers.episode import run_rollout


def gain(matrix, **constants):
    return Controller({"policy": "linear_gaussian"}, {"gain": np.array(matrix, dtype=float)}, constants)


STILL = gain(np.zeros((2, 2)))


def test_the_specification_is_read_from_the_environment():
    task = GymnasiumTask("CartPole-v1")
    specification = task.specification
    assert specification.action == Discrete(2)
    assert (specification.observation_size, specification.horizon) == (4, 500)
    assert specification.observation_scale is None  # velocities are unbounded
    assert specification.dt == 0.02
    assert specification.returns
    assert task.solved_return == 475
    pendulum = GymnasiumTask("Pendulum-v1").specification
    assert pendulum.action == Continuous((-2.0,), (2.0,))
    assert pendulum.observation_scale == (1.0, 1.0, 8.0)
    assert (pendulum.horizon, pendulum.dt, pendulum.solved) == (200, 0.05, "")


class Opaque(gymnasium.Wrapper):
    """Changes nothing; what is below it must be stepped as it is."""


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1", "Hopper-v5"])
def test_stepping_below_the_time_limit_changes_no_number(name):
    if name == "Hopper-v5":
        pytest.importorskip("mujoco")
        pytest.importorskip("imageio")
    task = GymnasiumTask(name, horizon=70)
    specification = task.specification
    k = specification.action.n if specification.one_hot or isinstance(specification.action, Discrete) else 0
    p, rng = specification.observation_size, np.random.default_rng(0)
    if k:
        controller = Controller({"policy": "softmax"}, {"weight_0": rng.normal(size=(k, p))})
    else:
        m = specification.action.size
        controller = gain(0.1 * rng.normal(size=(m, p)), log_std=np.zeros(m))
    inner, outer = task.make(), Opaque(task.make())
    noise = controller.noise(rng, 70)
    for horizon, seed in ((70, 0), (1000, 1), (13, 2)):
        given = (controller, seed, np.resize(noise, (horizon, noise.shape[1])), horizon, True, 0.5, 0.99)
        a, b = run_rollout(inner, *given), run_rollout(outer, *given)
        assert a[:6] == b[:6]
        for x, y in zip((*a.record, a.mean, a.m2), (*b.record, b.mean, b.m2), strict=True):
            assert np.array_equal(x, y)
    inner.close()
    outer.close()


def test_the_shortest_of_nested_time_limits_holds():
    limited = gymnasium.wrappers.TimeLimit(gymnasium.wrappers.TimeLimit(Letters(), 5), 9)
    controller = Controller({"policy": "softmax"}, {"weight_0": np.zeros((2, 3))})
    for env in (limited, Opaque(limited), gymnasium.wrappers.TimeLimit(Opaque(limited), 8)):
        episode = run_rollout(env, controller, 0, None, 7)
        assert (episode.length, episode.terminated) == (5, False)


def test_other_wrappers_are_stepped_through():
    env = gymnasium.wrappers.TransformReward(gymnasium.wrappers.TimeLimit(Drift(), 4), lambda reward: 2 * reward)
    doubled = run_rollout(gymnasium.wrappers.TimeLimit(env, 9), STILL, 3, horizon=30)
    plain = run_rollout(Drift(), STILL, 3, horizon=4)
    assert (doubled.length, doubled.returns) == (4, 2 * plain.returns)


def test_a_given_horizon_replaces_the_time_limit_in_both_directions():
    still = gain(np.zeros((1, 3)))
    for horizon in (50, 300):
        task = GymnasiumTask("Pendulum-v1", horizon=horizon)
        episode = run_rollout(task.make(), still, 0, horizon=task.horizon)
        assert (episode.length, episode.terminated) == (horizon, False)


def test_options_reach_the_environment():
    options = {"g": 2.5}
    assert GymnasiumTask("Pendulum-v1", environment_options=options).make().unwrapped.g == 2.5
    task = GymnasiumTask("environments:Drift", horizon=20, environment_options={"fault": "raise"})
    assert task.make().fault == "raise"
    with pytest.raises(ValueError, match="horizon="):
        GymnasiumTask("Pendulum-v1", environment_options={"max_episode_steps": 3})


def test_total_is_the_discounted_cost_without_the_bonus_and_returns_are_as_paid():
    env = Drift()
    episode = run_rollout(env, STILL, 3, horizon=30, record=True, survival_bonus=1.0, discount=0.9)
    observations, actions, costs = episode.record
    L = episode.length
    assert observations.shape == (L + 1, 2)
    observations = observations[:L]
    assert env.length == L
    # reward 1 − |x|², bonus 1: the cost is |x|²
    expected = (observations**2).sum(axis=1) * 0.9 ** np.arange(L)
    assert np.allclose(costs, expected, atol=1e-12)
    assert episode.total == pytest.approx(expected.sum(), abs=1e-12)
    assert episode.returns == pytest.approx(L - (observations**2).sum(), abs=1e-12)
    assert actions.shape == (L, 2)


def test_sampled_actions_are_recorded_and_clipped_ones_applied():
    env = Drift()
    noise = np.random.default_rng(0).normal(size=(30, 2)) * 3
    controller = gain([[1.0, 0.0], [0.0, 1.0]], log_std=np.zeros(2))
    episode = run_rollout(env, controller, 1, noise, 30, True)
    observations, actions, _ = episode.record
    assert np.allclose(actions, observations[:-1] + noise[: episode.length], atol=1e-12)
    assert np.abs(actions).max() > 1
    assert np.array_equal(env.applied, np.clip(actions, -1, 1).astype(np.float32))


def test_an_environment_that_keeps_its_actions_sees_each_one():
    env = Drift()
    run_rollout(env, gain(np.eye(2)), 1, None, 30)
    assert len({id(action) for action in env.applied}) == len(env.applied)
    assert len(np.unique(np.array(env.applied), axis=0)) == len(env.applied)


def test_a_rollout_is_one_reset_with_its_seed():
    env = Drift()
    run_rollout(env, STILL, 5, horizon=3)
    run_rollout(env, STILL, 6, horizon=30)
    assert env.resets == [5, 6]


def test_terminated_and_truncated_are_told_apart():
    long = run_rollout(Drift(), STILL, 2, horizon=30)
    assert long.terminated
    cut = run_rollout(Drift(), STILL, 2, horizon=long.length - 1)
    assert (cut.terminated, cut.length) == (False, long.length - 1)
    pendulum = run_rollout(GymnasiumTask("Pendulum-v1").make(), gain(np.zeros((1, 3))), 0, horizon=1000)
    assert (pendulum.terminated, pendulum.length) == (False, 200)


def test_the_record_ends_with_what_was_seen_after_the_last_stage():
    long = run_rollout(Drift(), STILL, 2, horizon=30, record=True)
    cut = run_rollout(Drift(), STILL, 2, horizon=3, record=True)
    assert cut.length == 3
    assert np.array_equal(cut.record[0], long.record[0][:4])


def test_statistics_are_those_of_the_recorded_observations():
    episode = run_rollout(Drift(), STILL, 2, horizon=30, record=True)
    observations = episode.record[0][:-1]
    assert np.allclose(episode.mean, observations.mean(axis=0), atol=1e-14)
    assert np.allclose(episode.m2, observations.var(axis=0) * episode.length, atol=1e-14)


@pytest.mark.parametrize(
    ("fault", "stage", "what"),
    [("nan_reward", 2, "reward of stage 2"), ("nan_observation", 3, "observation of stage 3")],
)
def test_a_rollout_fails_at_the_first_number_that_is_none(fault, stage, what):
    controller = gain(np.eye(2))
    episode = run_rollout(Drift((4,), fault), controller, 4, horizon=30, record=True)
    good = run_rollout(Drift(), controller, 4, horizon=30, record=True)
    assert episode.outcome == FAILED
    assert what in episode.reason
    assert episode.length == stage + 1
    observations, actions, costs = episode.record
    assert np.isfinite(observations).all()
    assert np.isfinite(actions).all()
    assert np.array_equal(costs[:-1], good.record[2][:stage])
    assert np.isnan(costs[-1])
    assert episode.total == pytest.approx(good.record[2][:stage].sum(), abs=1e-12)


def test_parameters_that_are_not_finite_fail_at_once():
    broken = gain(np.full((2, 2), np.nan))
    for env in (Drift(), Picky()):
        episode = run_rollout(env, broken, 4, horizon=30)
        assert (episode.outcome, episode.total) == (FAILED, 0.0)
        assert "action of stage 0" in episode.reason
    softmax = Controller({"policy": "softmax"}, {"weight_0": np.full((2, 4), np.nan)})
    episode = run_rollout(GymnasiumTask("CartPole-v1").make(), softmax, 0, horizon=30)
    assert episode.outcome == FAILED
    assert "logits" in episode.reason


def test_an_exception_with_a_good_action_is_passed_on():
    with pytest.raises(OSError, match="licence"):
        run_rollout(Drift((4,), "raise"), STILL, 4, horizon=30)


def test_a_divergence_that_mujoco_hides_fails():
    pytest.importorskip("mujoco")
    gentle, violent = (
        gain(np.zeros((1, 2))),
        Controller({"policy": "linear_gaussian"}, {"gain": np.zeros((1, 2)), "bias": np.array([1e6])}),
    )
    env = Spinner()
    episode = run_rollout(env, violent, 0, horizon=50)
    assert episode.outcome == FAILED
    assert "MuJoCo reported BAD" in episode.reason
    assert run_rollout(env, gentle, 0, horizon=50).outcome == OK


DIVERGE = """
from environments import Spinner
from policysearch.core.controller import Controller
from policysearch.workers.episode import run_rollout
from policysearch.tasks.gymnasium_task import GymnasiumTask
import numpy as np
GymnasiumTask("HalfCheetah-v5").make()
task = GymnasiumTask(Spinner, horizon=20)
env = task.make()
violent = Controller({"policy": "linear_gaussian"}, {"gain": np.zeros((1, 2)), "bias": np.array([1e6])})
print([run_rollout(env, violent, seed, horizon=20).reason for seed in range(3)])
"""


def test_mujoco_warns_once_a_kind_and_leaves_no_file(tmp_path):
    pytest.importorskip("mujoco")
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    code = [sys.executable, "-c", DIVERGE]
    done = subprocess.run(
        code, cwd=tmp_path, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=True
    )
    assert done.stdout.count("diverged") == 3
    assert done.stderr.count("warns") == 1  # nor of what a model of Gymnasium declares
    assert list(tmp_path.iterdir()) == []


def test_discrete_spaces_that_start_elsewhere_are_served():
    task = GymnasiumTask("environments:Letters", horizon=7)
    assert task.specification.one_hot
    assert (task.specification.observation_size, task.specification.action) == (3, Discrete(2))
    # choose the second action for the letter 11 alone
    controller = Controller({"policy": "softmax"}, {"weight_0": np.array([[0.5, 0.0, 0.5], [0.0, 1.0, 0.0]])})
    episode = run_rollout(Letters(), controller, 0, None, 7, True)
    observations, actions, costs = episode.record
    assert np.array_equal(observations.argmax(axis=1), [0, 1, 2, 0, 1, 2, 0, 1])
    assert np.array_equal(observations.sum(axis=1), np.ones(8))
    assert actions.dtype.kind == "i"
    assert np.array_equal(actions, [0, 1, 0, 0, 1, 0, 0])
    assert np.array_equal(costs, -actions.astype(float))


def test_boxes_of_other_shapes_are_flattened_and_restored():
    task = GymnasiumTask("environments:Grid", horizon=30)
    assert task.specification.observation_scale is None  # limits that were declared are no magnitudes
    assert task.specification.action == Continuous((-1.0, -2.0), (1.0, 2.0))
    assert run_rollout(Grid(), STILL, 1, horizon=30).length == run_rollout(Drift(), STILL, 1, horizon=30).length


def test_what_a_worker_cannot_import_is_refused_with_the_reason():
    with pytest.raises(ValueError, match="neither lambdas"):
        GymnasiumTask(lambda: Drift(), horizon=5)
    with pytest.raises(ValueError, match="neither lambdas"):
        GymnasiumTask(Drift(), horizon=5)
    assert GymnasiumTask(Drift, horizon=5).environment == "environments:Drift"


def test_an_environment_without_a_time_limit_needs_a_horizon():
    with pytest.raises(ValueError, match="--horizon N, or horizon=N in Python"):
        GymnasiumTask("environments:Drift")


def test_wrong_names_and_numbers_are_refused():
    with pytest.raises(ValueError, match="does not know the environment 'Hoper-v5'"):
        GymnasiumTask("Hoper-v5")
    with pytest.raises(ValueError, match="gave a int"):
        GymnasiumTask("environments:not_an_environment", horizon=3)
    with pytest.raises(ValueError, match="horizon is 0"):
        GymnasiumTask("CartPole-v1", horizon=0)
    with pytest.raises(ValueError, match=r"discount is 1\.5"):
        GymnasiumTask("CartPole-v1", discount=1.5)


@pytest.fixture
def registered():
    gymnasium.register("Drift-v0", entry_point="environments:Drift", max_episode_steps=20)
    gymnasium.register("Local-v0", entry_point=lambda: Drift(), max_episode_steps=20)
    yield
    del gymnasium.registry["Drift-v0"], gymnasium.registry["Local-v0"]


def test_ids_that_only_the_driver_registered_run_in_workers(registered):
    task = GymnasiumTask("Drift-v0")
    with Workers(task, workers=1) as workers:
        assert np.all(workers.evaluate(STILL, 0, 3).outcome == OK)
    assert gymnasium.spec("Drift-v0").max_episode_steps == 20
    with pytest.raises(ValueError, match="neither lambdas"):
        GymnasiumTask("Local-v0")


def test_hopper_runs_and_its_alive_bonus_can_be_taken_out():
    pytest.importorskip("mujoco")
    pytest.importorskip("imageio")
    task = GymnasiumTask("Hopper-v5", survival_bonus=1.0)
    env = task.make()
    episode = run_rollout(env, gain(np.zeros((3, 11))), 0, None, task.horizon, False, task.survival_bonus)
    assert episode.outcome == OK
    assert episode.terminated
    assert episode.total == pytest.approx(episode.length - episode.returns, abs=1e-9)
    env.close()


def test_a_search_that_gives_up_names_the_last_thing_that_went_wrong():
    task = GymnasiumTask("environments:Drift", horizon=30, environment_options={"fault": "nan_reward", "share": 1.0})
    with Search(task, ARS(directions=1, top=1), budget=1000, workers=1) as search:
        search.run()
    assert search.updates == HOPELESS
    last = search.events[-1].reason
    assert f"no usable trial (2 failed and 0 lost of the last 2); the last one: {last}" in search.reason
