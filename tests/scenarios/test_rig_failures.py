"""Failures of a tenth and of all trials on a rig, in each class: what they cost, where they lead, when it ends."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from policysearch import ARS, PGPE, Parameters, Rig, Specification, WeightPerturbation, open_run
from policysearch.search.loop import HOPELESS

RIG = Specification(name="arm", repeatable=False)
RIG_FAULTS = ["lost", "abandoned", "timed_out"]
POLICY_FAULTS = ["failed", "safety_stop"]


def search_of(method=None, **options):
    numbers = Parameters(["a", "b"], [1.0, 1.0])
    return Rig(RIG, method or WeightPerturbation(rollouts=8, std=0.3), policy=numbers, budget=400, **options)


def bowl(trial):
    return trial.values["a"] ** 2 + 2 * trial.values["b"] ** 2


def run(search, say):
    """Ask and tell to the end; how many trials were run."""
    for count in itertools.count():
        if search.done:
            return count
        trial = search.ask()
        search.tell(trial, **say(trial))
        if search.halted:
            search.release()


def tenth(outcome, **more):
    """A tenth of the attempts end so, at random."""
    generator = np.random.default_rng(0)
    return lambda trial: {outcome: "it went wrong"} | more if generator.random() < 0.1 else {"cost": bowl(trial)}


@pytest.mark.parametrize("outcome", RIG_FAULTS)
def test_faults_of_the_rig_cost_their_repetitions_and_change_no_number(outcome):
    with search_of() as clean, search_of() as faulty:
        run(clean, lambda trial: {"cost": bowl(trial)})
        say, repeated = tenth(outcome, retry=True), 0

        def counted(trial):
            nonlocal repeated
            said = say(trial)
            repeated += outcome in said
            return said

        assert run(faulty, counted) == 400 + repeated
        assert 25 < repeated < 65
        assert np.array_equal(np.asarray(clean.policy.theta()), np.asarray(faulty.policy.theta()))


@pytest.mark.parametrize("outcome", [*RIG_FAULTS, *POLICY_FAULTS])
@pytest.mark.parametrize("method", [None, ARS(version="v1"), PGPE()], ids=["weight_perturbation", "ars", "pgpe"])
def test_a_tenth_of_failures_leaves_a_search_that_still_finds_the_optimum(outcome, method):
    with search_of(method) as search:
        run(search, tenth(outcome))
        assert np.all(np.isfinite(np.asarray(search.policy.theta())))
        assert sum(search.counts[name] for name in ("failed", "lost")) > 20
        # from 3
        assert sum(v**2 for v in search.policy.values().values()) < 0.3


def test_a_search_keeps_away_from_the_half_that_fails():
    """The cost falls towards a = 0, but all below 0.5 fails: it must end on the safe side of the border."""
    say = lambda trial: {"cost": bowl(trial)} if trial.values["a"] > 0.5 else {"failed": "it fell"}  # noqa: E731
    dropped = lambda trial: say(trial) if trial.values["a"] > 0.5 else {"lost": "it fell"}  # noqa: E731
    ends = []
    for told in (say, dropped):
        with search_of(WeightPerturbation(rollouts=8, std=0.1)) as search:
            run(search, told)
            share = search.counts["failed" if told is say else "lost"] / 400
            ends.append((search.policy.values()["a"], share))
    (careful, failures), (blind, losses) = ends
    assert careful > 0.5
    assert failures < 0.25
    # a search that forgets what failed, partners and all, goes nearer to the region and loses more in it
    assert blind < careful
    assert losses > failures


@pytest.mark.parametrize("outcome", [*RIG_FAULTS, *POLICY_FAULTS])
def test_where_every_trial_fails_the_search_ends_with_the_cause(outcome, tmp_path):
    with search_of(folder=tmp_path / "run") as search:
        assert run(search, lambda trial: {outcome: f"the belt is off {trial.number}"}) == 8 * HOPELESS
        assert "updates in a row had no usable trial" in search.reason
        assert search.reason.endswith(f"the belt is off {8 * HOPELESS - 1}")
        assert np.all(np.asarray(search.policy.theta()) == 0)
    assert len(open_run(tmp_path / "run").events) == HOPELESS
