"""What a rig tells of a trial: costs far from zero, rollouts that end by themselves, actions that are held."""

import numpy as np
import pytest

from policysearch import (
    ARS,
    CEM,
    PGPE,
    TRPO,
    Continuous,
    FiniteDifferences,
    LinearGaussian,
    NaturalGradient,
    Parameters,
    Rig,
    Specification,
    WeightPerturbation,
)
from policysearch.runners import host
from policysearch.search.trial_result import Told
from policysearch.workers.jobs import gather

RIG = Specification(name="bench", repeatable=False, deterministic=True)
PERTURBING = {
    "weight_perturbation": WeightPerturbation(rollouts=8, std=0.3),
    "one-sided": WeightPerturbation(rollouts=8, std=0.3, two_sided=False),
    "running": WeightPerturbation(rollouts=8, std=0.3, two_sided=False, baseline="running"),
    "reference": WeightPerturbation(rollouts=8, std=0.3, two_sided=False, baseline="reference"),
    "ars": ARS(version="v1", directions=4, std=0.3),
    "pgpe": PGPE(directions=4, std=0.3),
    "cem": CEM(rollouts=12, std=0.3),
    "central": FiniteDifferences(epsilon=0.1),
    "forward": FiniteDifferences(epsilon=0.1, central=False),
}


def tuned(method, offset, failing=False):
    """θ and the last record after some updates on a bowl whose costs range over about 4, `offset` above zero."""
    gains = Parameters(["a", "b"], [0.5, -0.5])
    limit = {"failure_cost": offset + 5.0} if failing else {}
    with Rig(RIG, method, policy=gains, budget="5updates", seed=3, **limit) as search:
        while not search.done:
            trial = search.ask()
            a, b = trial.values["a"], trial.values["b"]
            if failing and trial.number % 7 == 3:
                search.tell(trial, failed="the drive tripped")
            else:
                search.tell(trial, cost=(a - 1.0) ** 2 + 2 * (b + a) ** 2 + offset)
        return np.asarray(search.policy.theta("parameter")), search.records[-1]


@pytest.mark.parametrize("failing", [False, True])
@pytest.mark.parametrize("name", PERTURBING)
def test_a_constant_in_all_costs_changes_nothing(name, failing):
    plain, record = tuned(PERTURBING[name], 0.0, failing)
    assert np.abs(plain - [0.5, -0.5]).max() > 0.01
    for offset in (1e6, 1e7, -1e7):
        shifted, above = tuned(PERTURBING[name], offset, failing)
        np.testing.assert_allclose(shifted, plain, atol=1e-6)
        assert above["cost"] - offset == pytest.approx(record["cost"], abs=1e-6)


SERVO = Specification(
    name="servo",
    action=Continuous((-2.0,), (2.0,)),
    observation_size=2,
    observation_scale=(1.0, 1.0),
    horizon=12,
    repeatable=False,
)


def stages(trial, length, offset=0.0):
    """Some stages of a servo, and what it shows after the last one."""
    x, observations, actions, costs = np.array([1.0, 0.0]), [], [], []
    rng = np.random.default_rng(trial.number)
    for _ in range(length):
        mean = np.asarray(trial.controller.output(x))
        u = mean + 0.3 * rng.normal(size=1)
        observations.append(x)
        actions.append(u)
        costs.append(offset + x[0] ** 2 + 0.1 * u[0] ** 2)
        x = np.array([x[0] + 0.1 * x[1], x[1] + 0.1 * u[0]]) + 0.02 * rng.normal(size=2)
    return np.array([*observations, x]), np.array(actions), np.array(costs)


def fallen(method, terminated, spare=1, length=7):
    """θ after an update of which every second rollout ended after 7 of 12 stages."""
    with Rig(SERVO, method, policy=LinearGaussian([[-0.5, -0.1]], std=0.3), budget="1updates") as search:
        while not search.done:
            trial = search.ask()
            short = trial.index % 2 == 1
            observations, actions, costs = stages(trial, length if short else 12)
            observations = observations[: len(costs) + (spare if short else 1)]
            search.tell(trial, rollout=(observations, actions, costs), terminated=terminated if short else None)
        return np.asarray(search.policy.theta())


AHEAD = TRPO(rollouts=8, discount=0.9, gae_lambda=0.9, bootstrap=True, baseline="value", shrink=False)


def test_nothing_follows_a_rollout_that_ended_by_itself():
    cut, fell = fallen(AHEAD, False), fallen(AHEAD, True)
    assert np.abs(cut - fell).max() > 1e-4
    # nothing follows, so what was seen last says nothing
    np.testing.assert_array_equal(fallen(AHEAD, True, spare=0), fell)


def test_a_method_that_looks_ahead_is_told_how_a_short_rollout_ended():
    with pytest.raises(ValueError, match=r"ended after 7 of 12 stages.*Tell terminated=True if"):
        fallen(AHEAD, None)
    with pytest.raises(ValueError, match="bootstrap needs one more"):
        fallen(AHEAD, False, spare=0)
    # where nothing is predicted, nothing has to be said
    plain = NaturalGradient(rollouts=8)
    np.testing.assert_array_equal(fallen(plain, None), fallen(plain, True))


def test_only_a_rollout_has_an_end_of_its_own():
    with Rig(RIG, PERTURBING["central"], policy=Parameters(["a"], [0.5]), budget=8) as search:
        trial = search.ask()
        with pytest.raises(ValueError, match=r"cost=… has no stages"):
            search.tell(trial, cost=1.0, terminated=True)
        with pytest.raises(ValueError, match="terminated is 'yes'; it must be True, False or None"):
            search.tell(trial, cost=1.0, terminated="yes")
        search.tell(trial, cost=1.0)


def test_how_a_rollout_ended_is_on_disk(tmp_path):
    """The process dies before the last trial of an update; the others come back with their ends."""

    def run(folder, reopen):
        search = Rig(
            SERVO, AHEAD, policy=LinearGaussian([[-0.5, -0.1]], std=0.3), budget="1updates", folder=tmp_path / folder
        )
        for index in range(8):
            if index == 7 and reopen:
                search.close()
                search = Rig.open(tmp_path / folder)
            trial = search.ask()
            search.tell(trial, rollout=stages(trial, 7), terminated=index % 2 == 0)
        with search:
            return np.asarray(search.policy.theta())

    np.testing.assert_array_equal(run("again", True), run("whole", False))


def test_stage_costs_far_from_zero_give_the_same_gradient():
    """All rollouts last to the horizon; float32 would leave four digits of such costs."""

    def theta(offset):
        policy = LinearGaussian([[-0.5, -0.1]], std=0.3)
        with Rig(SERVO, NaturalGradient(rollouts=8, fisher="empirical"), policy=policy, budget="3updates") as search:
            while not search.done:
                trial = search.ask()
                search.tell(trial, rollout=stages(trial, 12, offset))
            return np.asarray(search.policy.theta()), search.records[-1]["cost"]

    plain, cost = theta(0.0)
    for offset in (1e5, -1e6):
        shifted, above = theta(offset)
        np.testing.assert_allclose(shifted, plain, atol=1e-4)
        assert above - 12 * offset == pytest.approx(cost, rel=1e-5)


def test_an_action_counts_for_as_many_stages_as_it_was_held():
    """The second rollout ends in the middle of an action."""
    held = Specification(
        name="held", action=SERVO.action, observation_size=2, observation_scale=(1.0, 1.0), horizon=12, hold=5
    )
    episodes = []
    for length in (12, 7):
        actions = np.repeat([[0.1], [0.2], [0.3]], 5, axis=0)[:length]
        told = Told.of(held, None, {"rollout": (np.ones((length, 2)), actions, np.ones(length))})
        episodes.append(told.episode(held))
    came = host.to_rollouts(gather(episodes, [], 2), True, held)
    assert came.held.tolist() == [[5.0, 5.0, 2.0], [5.0, 2.0, 0.0]]
    assert came.mask.tolist() == [[True, True, True], [True, True, False]]
