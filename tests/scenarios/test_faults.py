"""Searches on worker processes whose environments fail at a stated share of seeds: what is learned, and what is said.

A trial that raises, dies or hangs does so at each attempt, so that it is lost; one whose reward is NaN has failed.
"""

import itertools
from collections import deque, namedtuple

import numpy as np
import pytest

from environments import Steered, in_share
from policysearch.core.rng import Purpose, environment_seed
from policysearch.methods.settings import ARS
from policysearch.search.loop import HOPELESS
from policysearch.search.search import Search
from policysearch.tasks.gymnasium_task import GymnasiumTask
from policysearch.workers.episode import run_rollout
from policysearch.workers.process import WorkerProcess
from policysearch.workers.worker import BEAT, note

SEEDS = range(3)
HORIZON = 30
UPDATES = 24
TIMEOUT = 0.5
KINDS = {"raise": "raised", "die": "died", "hang": "timeout", "nan_reward": "failed"}
REASONS = {
    "raise": "OSError: the simulator's licence was lost",
    "die": "its worker ended with signal SIGKILL",
    "hang": f"(timeout {TIMEOUT:.1f} s)",
    "nan_reward": "the reward of stage 2 is not finite",
}
#: of searches that learn
LONG = ARS(version="v1", directions=8, std=0.1, step_size=0.1)
#: of searches of few trials; each has a seed of its own, so that few of them stand for a share
METHOD = ARS(version="v1", directions=3, std=0.1, step_size=0.1, common_random_numbers=False)
#: share: updates of a short search, its seed, and how many of its trials fail
SHORT = {0.01: (17, 4, 1), 0.3: (2, 1, 3)}

Outcome = namedtuple("Outcome", "theta, value, counts, events, records, guilty")


def search(fault, share, seed, method, updates, workers=1, **options):
    """A whole search, and for each update the trials whose seed is in the share."""
    given = {"fault": fault, "share": share, **options}
    task = GymnasiumTask("environments:Steered", horizon=HORIZON, environment_options=given)
    timeout = TIMEOUT if fault == "hang" else None
    with Search(
        task,
        method,
        policy="linear",
        budget=f"{updates}updates",
        seed=seed,
        workers=workers,
        timeout=timeout,
    ) as run:
        run.run()
        assert run.reason == ""
        assert run.updates == updates
        environment = run.layout.environment
        guilty = [
            [
                trial
                for trial, index in enumerate(environment)
                if in_share(environment_seed(seed, Purpose.ENVIRONMENT, update, int(index)), share)
            ]
            for update in range(updates)
        ]
        theta = np.asarray(run.policy.theta(run.method.space))
        return Outcome(theta, value(run.policy), run.counts, run.events, run.records, guilty)


def value(policy):
    """Mean return of the mode over 50 rollouts of the sound environment, the same for every policy."""
    controller, env = policy.controller(), Steered()
    seeds = [environment_seed(0, Purpose.EVALUATION, 0, index) for index in range(50)]
    return np.mean([run_rollout(env, controller, seed, None, HORIZON).returns for seed in seeds])


def value_of_nothing():
    """The value of the policy that every search begins with, all zeros."""
    task = GymnasiumTask("environments:Steered", horizon=HORIZON)
    return value(Search(task, LONG, policy="linear").policy)


def assert_said(outcome, fault):
    """The record holds each fault of each guilty trial, in order, with its reason, and nothing else."""
    attempts = (1,) if fault == "nan_reward" else (1, 2)
    expected = [(trial, KINDS[fault], attempt) for trials in outcome.guilty for trial in trials for attempt in attempts]
    assert expected
    assert [(event.trial, event.kind, event.attempt) for event in outcome.events] == expected
    assert all(REASONS[fault] in event.reason for event in outcome.events)
    if fault in ("raise", "hang"):
        assert all("in misbehave" in event.traceback for event in outcome.events)
    bad = sum(map(len, outcome.guilty))
    counted = (bad, 0) if fault == "nan_reward" else (0, bad)
    assert (outcome.counts["failed"], outcome.counts["lost"]) == counted


def long(fault, share, seed):
    """A search that learns."""
    return search(fault, share, seed, LONG, UPDATES)


def short(fault, share, workers=2, **options):
    """A search of few trials, for faults that cost seconds."""
    updates, seed, bad = SHORT[share]
    outcome = search(fault, share, seed, METHOD, updates, workers, **options)
    assert sum(map(len, outcome.guilty)) == bad
    return outcome


@pytest.fixture(scope="module")
def clean():
    """The values that searches on the sound environment reach, a seed each."""
    return np.array([long("", 0.0, seed).value for seed in SEEDS])


@pytest.fixture(scope="module")
def raised():
    """Searches of few trials, some of which raise, by share."""
    return {share: short("raise", share) for share in SHORT}


@pytest.mark.parametrize("fault", ["raise", "nan_reward"])
def test_one_failing_trial_of_a_hundred_leaves_the_learning_within_its_noise(fault, clean):
    # three seeds; three standard errors of the difference of two means, from the spread of the clean searches
    outcomes = [long(fault, 0.01, seed) for seed in SEEDS]
    error = np.sqrt(2 / len(SEEDS)) * clean.std(ddof=1)
    untrained = value_of_nothing()
    assert abs(np.mean([outcome.value for outcome in outcomes]) - clean.mean()) < 3 * error
    assert clean.min() - untrained > 15 * error  # so that a search that learns less would be seen
    for outcome in outcomes:
        assert np.isfinite(outcome.theta).all()
        assert_said(outcome, fault)


@pytest.mark.filterwarnings("ignore:The gradient is lost in noise")
@pytest.mark.parametrize("fault", ["raise", "nan_reward"])
def test_with_three_failing_trials_of_ten_a_search_still_learns(fault, clean):
    outcome = long(fault, 0.3, 0)
    assert 0.2 < sum(map(len, outcome.guilty)) / (UPDATES * LONG.directions * 2) < 0.4
    assert np.isfinite(outcome.theta).all()
    assert outcome.value - value_of_nothing() > 0.5 * (clean.mean() - value_of_nothing())
    assert_said(outcome, fault)


@pytest.mark.parametrize("share", SHORT)
def test_trials_whose_worker_dies_teach_as_much_as_trials_that_raise(share, raised):
    outcome = short("die", share)
    assert np.array_equal(outcome.theta, raised[share].theta)  # to the last bit: what holds for one holds for both
    assert np.isfinite(outcome.theta).all()
    assert np.any(outcome.theta != 0)
    assert_said(outcome, "die")
    assert_said(raised[share], "raise")


@pytest.mark.parametrize("share", SHORT)
def test_trials_that_hang_teach_as_much_as_trials_that_raise_and_soon_have_a_new_worker(share, raised, tmp_path):
    times = tmp_path / "times"
    outcome = short("hang", share, workers=1, times=str(times))
    assert np.array_equal(outcome.theta, raised[share].theta)
    assert np.isfinite(outcome.theta).all()
    assert_said(outcome, "hang")
    resets = [line.split() for line in times.read_text().splitlines()]
    gaps = [
        float(after) - float(before) for (pid, before), (other, after) in itertools.pairwise(resets) if pid != other
    ]
    # a trial that hung last of all leaves a worker that has nothing to do
    assert len(outcome.events) - 1 <= len(gaps) <= len(outcome.events)
    assert min(gaps) >= TIMEOUT
    assert max(gaps) <= TIMEOUT + 5.0


def test_making_an_environment_anew_is_no_part_of_the_trial_that_has_a_timeout(tmp_path):
    timeout = 4 * TIMEOUT  # a machine that stalls for half a second is no fault
    options = {"seconds": 1.5 * timeout, "made": str(tmp_path / "made")}
    options |= {"fault": "raise", "share": 1.0, "marker": str(tmp_path / "raised once")}
    task = GymnasiumTask("environments:SlowToMakeAnew", horizon=HORIZON, environment_options=options)
    with Search(task, METHOD, policy="linear", budget="1updates", workers=1, timeout=timeout) as run:
        run.run()
        assert [(event.kind, event.attempt) for event in run.events] == [("raised", 1)]
        assert run.counts["lost"] == 0


def test_a_heartbeat_that_is_read_half_written_accuses_no_trial():
    worker = object.__new__(WorkerProcess)
    worker.blocks = deque([[5, 6]])
    before, after = bytearray(BEAT.size), bytearray(BEAT.size)
    note(before, -1, ahead=-1000.0)  # the driver has computed for long
    for trial in (5, 6, -1):
        note(after, trial)
        for written in range(BEAT.size + 1):
            worker.beat = bytes(after[:written] + before[written:])
            accused, seconds = worker.running()
            assert accused in (-1, 5, 6)
            assert seconds < 5.0
        before[:] = after


def test_a_search_whose_every_trial_fails_keeps_its_policy_and_says_so():
    task = GymnasiumTask(
        "environments:Steered", horizon=HORIZON, environment_options={"fault": "nan_reward", "share": 1.0}
    )
    with Search(task, METHOD, policy="linear", budget="50updates", workers=1) as run:
        start = np.asarray(run.policy.theta("parameter"))
        run.run()
        assert run.updates == HOPELESS
        assert "no usable trial (6 failed and 0 lost of the last 6)" in run.reason
        assert np.array_equal(np.asarray(run.policy.theta("parameter")), start)
