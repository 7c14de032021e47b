"""Rollouts of a plant in step with each other are those run singly: the same random numbers, failures and ends."""

import pickle

import jax
import numpy as np
import pytest

from numpy_plants import explosive, fallen, left, oscillator, rows, single
from policysearch import PID, LinearGaussian, Reinforce, Search, compare, evaluate, train
from policysearch.core.policies import NeuralGaussian
from policysearch.core.rng import Purpose
from policysearch.core.specification import FAILED, OK
from policysearch.report.motion import record
from policysearch.runners import Resources, batch, runner
from policysearch.runners.host import jobs
from policysearch.search.search import Search as Whole
from policysearch.verify.diagnosis import diagnose
from policysearch.workers import lockstep
from policysearch.workers.jobs import Jobs

POLICY = LinearGaussian([[-0.5, -0.3]], bias=[0.1], std=0.3)


def settled(plant):
    """The jobs of an update of two kinds, and of an evaluation."""
    controller = POLICY.with_interface(plant.specification.interface).controller()
    pairs = np.repeat(np.arange(6), 2)
    given = {"controller": controller, "seed": 3, "update": 7, "environment": pairs}
    return [
        Jobs(**given, stochastic=True, record=True),
        Jobs(**given, perturbation=pairs, sign=np.tile([1.0, -1.0], 6), std=0.4, record=True),
        Jobs(**given, purpose=Purpose.EVALUATION, record=True),
    ]


def run(plant, requested, workers=None):
    made = runner(plant, 0, Resources(workers))
    try:
        return made.run(requested)
    finally:
        made.close()


def same(a, b, exact=False):
    close = (
        np.testing.assert_array_equal if exact else lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-12)
    )
    for name in ("totals", "lengths", "outcome", "terminated"):
        close(getattr(a, name), getattr(b, name))
    for one, other in zip(a.records, b.records, strict=True):
        for part, counterpart in zip(one, other, strict=True):
            close(part, counterpart)
    for part, counterpart in zip(a.statistics, b.statistics, strict=True):
        close(part, counterpart)


VARIANTS = {
    "plain": {},
    "ends": {"end": fallen, "final_cost": left},
    "delayed, noisy, held, discounted": {"delay": 2, "sensor_noise": 0.1, "hold": 3, "discount": 0.95},
}


@pytest.mark.parametrize("more", VARIANTS.values(), ids=VARIANTS)
def test_a_batch_gives_what_single_rollouts_on_workers_give(more):
    together, columns, alone = oscillator(rows, **more), oscillator(**more), oscillator(single, **more)
    assert (together.runner, columns.runner, alone.runner) == ("batch", "batch", "singly")
    for requested in settled(together):
        found = run(together, requested)
        same(found, run(alone, requested, workers=1))
        same(found, run(columns, requested))
        assert len({*found.totals.tolist()}) > 1
        assert 0 < found.terminated.sum() < 12 if "end" in more else not found.terminated.any()


@pytest.mark.parametrize("more", VARIANTS.values(), ids=VARIANTS)
def test_neither_workers_nor_blocks_change_a_bit(more, monkeypatch):
    alone = oscillator(single, **more)
    for requested in settled(alone):
        same(run(alone, requested, workers=1), run(alone, requested, workers=2), exact=True)


def test_how_many_rollouts_fit_into_memory_changes_no_random_number(monkeypatch):
    plant = oscillator(sensor_noise=0.1)
    whole = [run(plant, requested) for requested in settled(plant)]
    monkeypatch.setattr(lockstep, "LARGEST", 5 * 26 * 8)
    assert lockstep.rows(plant.equations, 2, 25, 0) < 12
    for requested, found in zip(settled(plant), whole, strict=True):
        same(found, run(plant, requested))
        same(run(plant, requested), run(plant, requested), exact=True)


def test_partners_share_initial_state_and_noise_and_others_do_not():
    plant = oscillator(sensor_noise=0.2)
    controller = LinearGaussian([[0.0, 0.0]], std=0.3).controller()
    environment = np.array([0, 0, 1])
    found = run(plant, Jobs(controller=controller, seed=1, update=0, environment=environment, record=True))
    first, partner, other = (observations for observations, _, _ in found.records)
    np.testing.assert_array_equal(first, partner)
    assert np.all(first != other)


def test_costs_and_ends_are_those_of_the_equations():
    plant = oscillator(reset=[1.5, -2.0], end=fallen, final_cost=left, discount=0.9)
    controller = POLICY.controller()
    (rollout,) = lockstep.rollouts(plant.equations, lockstep.together(controller), [0], [0], None, 25, 0.9)
    x, paid = np.array([1.5, -2.0]), []
    for k in range(25):
        u = np.clip(controller.output(x), -1, 1)
        paid.append(0.9**k * (0.1 * (x[0] ** 2 + 0.1 * x[1] ** 2 + 0.01 * u[0] ** 2)))
        x = plant.equations.alone.advanced(x[None], u[None])[0]
        if fallen(x):
            break
    paid[-1] += 0.9**k * left(x)
    assert rollout.terminated
    assert len(paid) < 25
    np.testing.assert_allclose(rollout.costs, paid, rtol=1e-12)
    np.testing.assert_allclose(rollout.states[-1], x, rtol=1e-12)


def test_the_policy_acts_on_what_the_sensors_say():
    plant = oscillator(output=lambda x: np.array([x[1], x[0]]), sensor_noise=[0.1, 0.2])
    controller = POLICY.controller()
    (rollout,) = lockstep.rollouts(plant.equations, lockstep.together(controller), [5], [0], None, 25)
    noise = rollout.observations - rollout.states[:, ::-1]
    assert 0.05 < noise[:, 0].std() < 0.15 < noise[:, 1].std() < 0.3
    np.testing.assert_allclose(rollout.actions, controller.output(rollout.observations[:-1]), rtol=1e-12)


def test_functions_never_see_a_state_that_is_not_finite():
    def f(x, u):
        assert np.isfinite(x).all()
        return explosive(x, u)

    plant = oscillator(f, limits=(-3.0, 3.0), integrator="euler", reset=lambda g: [g.uniform(0.5, 1.1), 0.5])
    assert FAILED in run(plant, settled(plant)[0]).outcome


def test_an_action_arrives_after_its_delay_and_is_held():
    plant = oscillator(reset=[1.0, 0.0], delay=2, hold=3, limits=(0.5, 2.0))
    (rollout,) = lockstep.rollouts(plant.equations, lockstep.together(POLICY.controller()), [0], [0], None, 25)
    drawn = rollout.actions[:, 0]
    assert np.array_equal(drawn, np.repeat(drawn[::3], 3)[:25])
    assert np.array_equal(rollout.applied[:2, 0], [0.5, 0.5])
    assert np.array_equal(rollout.applied[2:, 0], np.clip(drawn[:-2], 0.5, 2.0))


def test_a_state_that_is_not_finite_fails_its_trial_alone():
    plant = oscillator(explosive, limits=(-3.0, 3.0), reset=lambda generator: [generator.uniform(0.5, 1.1), 0.5])
    requested = settled(plant)[0]
    found = run(plant, requested)
    assert {*found.outcome.tolist()} == {OK, FAILED}
    for event in found.events:
        assert event.kind == "failed"
        assert event.reason.startswith("the state after stage")
        assert np.isnan(found.records[event.trial][2][-1])
        assert np.isfinite(found.totals[event.trial])
    assert {event.trial for event in found.events} == {*np.flatnonzero(found.outcome == FAILED).tolist()}


@pytest.mark.parametrize("method", ["ars", "natural_gradient"])
def test_failures_never_reach_the_parameters(method):
    plant = oscillator(explosive, limits=(-3.0, 3.0), reset=lambda generator: [generator.uniform(0.5, 1.1), 0.5])
    with Search(plant, method, budget="3updates") as search:
        search.run()
        assert any(event.kind == "failed" for event in search.events)
        assert np.isfinite(search.policy.theta()).all()


def test_a_cost_that_is_not_finite_fails_its_stage():
    plant = oscillator(reset=[1.0, 0.0], cost=lambda x, u: np.where(x[0] < 0.5, np.nan, 1.0))
    (rollout,) = lockstep.rollouts(plant.equations, lockstep.together(POLICY.controller()), [0], [0], None, 25)
    stage = len(rollout.costs) - 1
    assert rollout.reason == f"the cost of stage {stage} is not finite"
    assert rollout.states[stage, 0] < 0.5 <= rollout.states[stage - 1, 0]


def test_a_batch_that_mixes_states_on_the_way_is_found_out():
    """The states that are tried first are all above 0.3, where nothing is mixed."""

    def mixing(x, u):
        slowed = 0.2 if np.any(x[0] < 0.3) else 1.0
        return slowed * np.array([x[1], u[0] - x[0]])

    plant = oscillator(mixing, reset=lambda generator: [generator.uniform(0.5, 6.0), 0.0], horizon=40)
    assert plant.layouts["f"] == "columns"
    with pytest.raises(ValueError, match=r"f of many states at once does not give .*\n?.*batch=False"):
        evaluate(plant, POLICY.controller())


METHODS = [
    "ars",
    "weight_perturbation",
    "finite_differences",
    "pgpe",
    "cem",
    "natural_gradient",
    "gpomdp",
    Reinforce(rollouts=100),
]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_improves_a_plant(method):
    plant = oscillator(reset=[1.0, 0.0])  # with random initial states, reinforce needs more rollouts than this has
    before = evaluate(plant, LinearGaussian([[0.0, 0.0]]).controller()).cost_mean
    assert train(plant, method, budget="25updates").evaluation.cost_mean < before


def test_a_pid_runs_in_step_with_gains_of_its_own_in_each_trial():
    plant = oscillator(observation_names=["position [m]", "speed [m/s]"])
    policy = PID(2.0, 0.5, 1.0, observation="position").fitted(plant.specification)
    controller = policy.controller()
    thetas = 0.3 * np.random.default_rng(0).standard_normal((4, 3))
    together = lockstep.together(controller, thetas)
    alone = [controller.with_theta(theta) for theta in thetas]
    for observation in np.random.default_rng(1).normal(size=(5, 4, 2)):
        wanted = [one.output(seen) for one, seen in zip(alone, observation, strict=True)]
        np.testing.assert_allclose(together(observation), wanted, rtol=1e-12, atol=1e-14)
    found = train(plant, "ars", policy=policy, budget="5updates")
    assert np.isfinite(found.evaluation.cost_mean)


def test_laws_run_in_step_as_they_do_alone(policy):
    controller = policy.controller()
    thetas = controller.theta() + 0.3 * np.random.default_rng(0).standard_normal((5, controller.theta().size))
    observations = np.random.default_rng(1).normal(size=(5, 3))
    wanted = [controller.with_theta(theta).output(seen) for theta, seen in zip(thetas, observations, strict=True)]
    np.testing.assert_allclose(lockstep.together(controller, thetas)(observations), wanted, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(lockstep.together(controller)(observations), controller.output(observations), rtol=1e-12)


@pytest.mark.parametrize("f", [rows, single])
def test_a_search_that_is_cut_goes_on_to_the_same_end(tmp_path, f):
    plant = oscillator(f, sensor_noise=0.1)
    more = {"budget": "6updates", "seed": 2}
    with Search(plant, "natural_gradient", workers=1, **more) as whole:
        whole.run()
        wanted = jax.tree.leaves(whole.state)
    with Search(plant, "natural_gradient", workers=1, folder=tmp_path / "run", **more) as cut:
        for _ in range(3):
            cut.update()
    with Whole.open(tmp_path / "run", plant, workers=2) as resumed:
        assert resumed.updates == 3
        resumed.run()
        for one, other in zip(wanted, jax.tree.leaves(resumed.state), strict=True):
            np.testing.assert_array_equal(one, other)


def test_an_evaluation_its_recording_and_its_report_agree():
    plant = oscillator(end=fallen, discount=0.95, observation_names=["position [m]", "speed [m/s]"])
    controller = POLICY.controller()
    costs = evaluate(plant, controller, 6, seed=4).costs
    found = record(plant, controller, 6, 4, frames=3)
    np.testing.assert_allclose([rollout.costs.sum() for rollout in found.rollouts], costs, rtol=1e-9)
    assert list(found.rollouts[0].quantities) == ["position [m]", "speed [m/s]"]
    assert found.film is not None
    lengths = [len(rollout.costs) for rollout in found.rollouts]
    assert lengths == list(evaluate(plant, controller, 6, seed=4).lengths)


def test_solved_is_judged_by_the_mean_cost():
    controller = POLICY.controller()
    assert evaluate(oscillator(solved_cost=100.0), controller).solved
    assert not evaluate(oscillator(solved_cost=0.001), controller).solved


def test_estimators_are_diagnosed_and_methods_compared(tmp_path):
    assert {row.space for row in diagnose(oscillator(), rollouts=8, batches=4)} == {"action", "parameter"}
    found = compare(oscillator(), ["ars", "weight_perturbation"], seeds=2, budget=40, folder=tmp_path)
    assert found is not None


def test_equations_travel_by_the_names_of_their_functions():
    plant = oscillator(single, end=fallen)
    there = pickle.loads(pickle.dumps(plant.equations))
    assert there.f is single
    assert there.end is fallen
    assert there.output is None
    assert batch.Singly.slow
    assert not batch.Batch.slow


def test_perturbations_in_the_batch_are_those_that_the_update_learns_from():
    plant = oscillator(reset=[1.0, 0.0])
    with Search(plant, "ars", policy=NeuralGaussian([(np.ones((1, 2)), np.zeros(1))]), budget=100) as search:
        requested = jobs(search.method, search.state, 0)
        found = run(plant, requested)
        for trial, controller in enumerate(requested.controllers(range(len(requested)))):
            (alone,) = lockstep.rollouts(plant.equations, lockstep.together(controller), [0], [0], None, 25)
            assert alone.costs.sum() == pytest.approx(found.totals[trial], rel=1e-9)
