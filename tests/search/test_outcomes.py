"""What each kind of method makes of each outcome of a trial: the table of the page on real machines."""

from __future__ import annotations

import numpy as np
import pytest

from policysearch import (
    ARS,
    CEM,
    ENAC,
    GPOMDP,
    PGPE,
    TRPO,
    Continuous,
    FiniteDifferences,
    LinearGaussian,
    NaturalGradient,
    Parameters,
    Reinforce,
    Rig,
    Specification,
    WeightPerturbation,
)

NUMBERS = Specification(name="arm", repeatable=False)
LAW = Specification(
    name="servo",
    action=Continuous((-12.0,), (12.0,)),
    observation_size=2,
    observation_scale=(1.0, 1.0),
    horizon=5,
    repeatable=False,
)
PERTURBING = [
    WeightPerturbation(rollouts=8),
    WeightPerturbation(rollouts=8, two_sided=False),
    ARS(version="v1", directions=4),
    PGPE(directions=4),
    CEM(rollouts=8),
    FiniteDifferences(repeats=2),
]
SAMPLING = [
    NaturalGradient(rollouts=8, shrink=False),
    GPOMDP(rollouts=8, shrink=False),
    Reinforce(rollouts=8, shrink=False),
    ENAC(rollouts=8, shrink=False),
    TRPO(rollouts=8, baseline="value"),
]
ids = lambda methods: [f"{type(m).__name__}{i}" for i, m in enumerate(methods)]  # noqa: E731
pytestmark = pytest.mark.filterwarnings("ignore:Finite differences on a noisy task")


def cost(trial):
    return (trial.values["kp"] - 2) ** 2 + trial.values["kd"] + 1


def perturbing(method, special, partner=None):
    """θ and counts after an update of which trial 2 ended as `special` says, and perhaps its partner 3 too."""
    with Rig(NUMBERS, method, policy=Parameters(["kp", "kd"], [1.0, 1.0]), failure_cost=None) as search:
        trials = [search.ask() for _ in range(search.layout.size)]
        costs = [cost(trial) for trial in trials]
        worst = max(costs[:2] + costs[3:])
        for trial in trials:
            said = {"cost": costs[trial.index]}
            if trial.index == 2:
                said = {"cost": worst} if special == "worst" else special
            elif trial.index == 3 and partner is not None:
                said = {"cost": partner}
            search.tell(trial, **said)
        return np.asarray(search.policy.theta()), search.counts


@pytest.mark.parametrize("method", PERTURBING, ids=ids(PERTURBING))
def test_perturbed_parameters_that_fail_cost_the_worst_of_their_update(method):
    expected, _ = perturbing(method, "worst")
    for special in ({"failed": "it fell"}, {"safety_stop": "it hit the stop"}, {"cost": float("nan")}):
        theta, counts = perturbing(method, special)
        np.testing.assert_allclose(theta, expected, rtol=1e-6)  # costs are centred on what came back
        assert counts["failed"] == 1


@pytest.mark.parametrize("method", PERTURBING, ids=ids(PERTURBING))
def test_perturbed_parameters_of_which_the_rig_lost_the_trial_are_left_out(method):
    worst, _ = perturbing(method, "worst")
    expected, _ = perturbing(method, {"lost": "cable"})
    assert not np.array_equal(expected, worst)
    for special in ({"abandoned": "lunch"}, {"timed_out": "60 s"}):
        theta, counts = perturbing(method, special)
        np.testing.assert_allclose(theta, expected, rtol=1e-6)
        assert counts["lost"] == 1


@pytest.mark.parametrize("method", [m for i, m in enumerate(PERTURBING) if i in (0, 2, 3, 5)])
def test_the_partner_of_a_lost_trial_is_left_out_too(method):
    """Its cost does not matter; by finite differences from repeated sets the other set is solved alone."""
    expected, _ = perturbing(method, {"lost": "cable"})
    theta, _ = perturbing(method, {"lost": "cable"}, partner=0.5)
    np.testing.assert_allclose(theta, expected, rtol=1e-6, atol=1e-7)


def sampling(method, special, others=1.0):
    """θ and counts after an update of which trial 2 ended as `special` says."""
    policy = LinearGaussian([[-0.5, -0.1]], std=0.5)
    with Rig(LAW, method, policy=policy) as search:
        for _ in range(8):
            trial = search.ask()
            observations = np.linspace(0.1, 1.0, 10).reshape(5, 2) + 0.1 * trial.index
            if getattr(search.method.credit, "bootstrap", False):
                observations = np.concatenate([observations, observations[-1:]])
            pairs = zip(observations, trial.noise, strict=False)
            actions = np.stack([trial.controller.act(o, z).sampled for o, z in pairs])
            costs = (actions[:, 0] - 1.0) ** 2 * others
            said = {"rollout": (observations, actions, costs)}
            if trial.index == 2:
                worst = costs.copy()
                if special == "nan":
                    worst[-1] = np.nan
                said = {"rollout": (observations, actions, worst)} if special in ("ran", "nan") else special
            search.tell(trial, **said)
        return np.asarray(search.policy.theta()), search.counts


@pytest.mark.parametrize("method", SAMPLING, ids=ids(SAMPLING))
def test_sampled_actions_that_failed_are_blamed_only_where_they_are_known(method):
    start = np.array([-0.5, -0.1])
    thetas = {
        name: sampling(method, special)[0]
        for name, special in {
            "ran": "ran",
            "nan": "nan",
            "failed": {"failed": "it fell"},
            "lost": {"lost": "cable"},
            "timed_out": {"timed_out": "60 s"},
        }.items()
    }
    for theta in thetas.values():
        assert np.all(np.isfinite(theta))
        assert not np.array_equal(theta, start)
    assert not np.array_equal(thetas["nan"], thetas["ran"])
    assert not np.array_equal(thetas["nan"], thetas["failed"])
    assert np.array_equal(thetas["lost"], thetas["timed_out"])
    assert sampling(method, {"failed": "it fell"})[1]["failed"] == 1
    assert sampling(method, {"lost": "cable"})[1]["lost"] == 1
