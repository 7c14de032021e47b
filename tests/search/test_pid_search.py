"""Searches of a PID: its memory starts anew with each rollout, in the compiled program, in workers, and on a rig."""

import json
import math

import gymnasium
import jax.numpy as jnp
import numpy as np
import pytest

from policysearch import ARS, PID, Rig, Search, WeightPerturbation, evaluate, open_run, resolve, train
from policysearch.core.rng import Purpose
from policysearch.core.specification import Continuous, Specification
from policysearch.runners import native
from policysearch.runners.pool import Workers
from policysearch.workers.episode import run_rollout


def gains():
    return PID(1.5, 0.4, 1.0, observation="position", setpoint=0.1)


@pytest.mark.usefixtures("float64")
def test_the_compiled_rollout_is_that_of_the_controller():
    plant = resolve("double-integrator")
    policy = gains().fitted(plant.specification)
    trace = native.evaluate(plant, policy, native.purpose_key(0, Purpose.EVALUATION), 3).trace
    controller = policy.controller()
    for rollout in range(3):
        controller.reset()
        ours = [controller.mode(np.asarray(o), clip=False) for o in trace.observations[rollout]]
        np.testing.assert_allclose(ours, trace.actions[rollout], rtol=1e-12, atol=1e-12)
    # the integral has something to do: without it, the action would be another one
    without = policy.with_theta(policy.theta("parameter").at[1].set(-50.0), "parameter").controller()
    assert abs(sum(without.mode(np.asarray(o)) for o in trace.observations[0]) - sum(np.asarray(trace.actions[0]))) > 1


def test_a_search_on_a_plant_finds_gains_that_solve_it():
    result = train("double-integrator", policy=PID(0.5, 0.0, 0.3, observation="position"), budget=600)
    assert result.evaluation.solved
    assert result.controller.values()["kd"] > 2 * 0.3
    assert result.controller.interface.dt == 0.05


def test_a_worker_starts_each_rollout_without_the_memory_of_the_last():
    task = resolve("Pendulum-v1", horizon=30)
    policy = PID(5.0, 3.0, 1.0, observation=1).fitted(task.specification).with_interface(task.specification.interface)
    controller = policy.controller()
    with gymnasium.make("Pendulum-v1") as env:
        alone, again = (run_rollout(env, controller, 7, horizon=30).total for _ in range(2))
        controller.mode([0.0, 1.0, 0.0])
        assert alone == again == run_rollout(env, controller, 7, horizon=30).total
    with Workers(task, 1) as workers:
        assert np.array_equal(*(workers.evaluate(controller, 3, 4).totals for _ in range(2)))


@pytest.mark.slow
def test_a_search_on_a_simulator_runs_and_evaluates(tmp_path):
    with Search("Pendulum-v1", ARS(), policy=PID(5.0, 1.0, 1.0, observation=1), budget="2updates", workers=1) as search:
        search.run()
        assert np.isfinite(search.records[-1]["cost"])
        assert set(search.policy.values()) == {"kp", "ki", "kd"}


def rig():
    return Specification(
        name="servo",
        action=Continuous((-12.0,), (12.0,)),
        observation_size=2,
        observation_names=("angle [rad]", "speed [rad/s]"),
        horizon=20,
        dt=0.01,
        repeatable=False,
    )


def run(controller):
    """A trial on a servo: the cost of a step of 1 rad."""
    angle, speed, cost = 1.0, 0.0, 0.0
    for _ in range(20):
        (volts,) = controller.mode([angle, speed])
        speed += 0.01 * 50 * volts
        angle += 0.01 * speed
        cost += angle**2
    return cost


def test_each_trial_of_a_rig_has_a_controller_of_its_own(tmp_path):
    method = WeightPerturbation(rollouts=4, std=0.3)
    with Rig(rig(), method, policy=PID(4.0, 20.0, 0.2, observation="angle"), folder=tmp_path / "run") as search:
        first, second = search.ask(client="a"), search.ask(client="b")
        expected = run(first.controller.fresh())
        assert run(first.controller) == expected != run(first.controller)  # it remembers
        waiting = search.pending[0]
        assert run(waiting.controller) == expected
        assert waiting.values == first.values != second.values
        search.tell(first, cost=expected)
        search.tell(second, cost=run(second.controller))
        for _ in range(2):
            trial = search.ask()
            search.tell(trial, cost=run(trial.controller))
        assert search.updates == 1
    assert open_run(tmp_path / "run").controller().values().keys() == {"kp", "ki", "kd"}


def test_measurements_of_a_policy_share_no_memory():
    method = WeightPerturbation(rollouts=2, std=0.3)
    gains = PID(4.0, 20.0, 0.2, observation="angle")
    with Rig(rig(), method, policy=gains, measure=(1, 2), budget="1updates") as search:
        trials = [search.ask() for _ in range(4)]
        measured = [trial for trial in trials if trial.purpose == "measurement"]
        assert len({run(trial.controller) for trial in measured}) == 1 < len(measured)


def test_a_search_goes_on_from_its_folder_with_the_same_gains(tmp_path):
    def begin(budget):
        gains = PID(4.0, 20.0, 0.2, observation="angle")
        return Rig(rig(), "ars", policy=gains, folder=tmp_path / "run", budget=budget, seed=1)

    with begin("3updates") as search:
        trial = search.ask()
        values = trial.values
    with Rig.open(tmp_path / "run") as search:
        assert search.pending[0].values == values
        assert run(search.pending[0].controller) == run(trial.controller.fresh())
        assert search.policy.parameter_names() == ["kp", "ki", "kd"]


def test_what_is_found_is_evaluated_on_other_tasks_of_the_same_signals():
    plant = resolve("double-integrator")
    controller = gains().fitted(plant.specification).controller()
    found = evaluate(plant, controller, 4)
    assert math.isfinite(found.cost_mean)
    with pytest.raises(ValueError, match="observations"):
        evaluate(resolve("pendulum"), controller, 4)


def test_a_task_without_a_time_step_is_refused_with_what_to_do():
    with pytest.raises(ValueError, match=r"servo does not say its time step.*dt=0\.01"):
        Rig(Specification(name="servo", action=Continuous((-1.0,), (1.0,)), observation_size=1), "ars", policy="pid")


def test_partners_of_a_pair_share_no_memory_in_the_compiled_program():
    plant = resolve("double-integrator")
    policy = gains().fitted(plant.specification)
    key = native.purpose_key(1, Purpose.EVALUATION)
    both = native.evaluate(plant, policy, key, 2).costs
    assert not jnp.array_equal(both[0], both[1])
    assert json.dumps(policy.controller().description)  # a file can say it
