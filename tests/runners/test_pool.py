import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from environments import Drift, in_share
from policysearch.core.controller import Controller
from policysearch.core.rng import Purpose, action_stream, environment_seed, perturbations
from policysearch.core.specification import FAILED, LOST, OK
from policysearch.runners.pool import TrialsLostError, Workers, blocks
from policysearch.tasks.gymnasium_task import GymnasiumTask
from policysearch.workers.episode import run_rollout
from policysearch.workers.jobs import Jobs

CONTROLLER = Controller(
    {"policy": "linear_gaussian", "searched": ["gain"]},
    {"gain": np.array([[-0.5, 0.1], [0.2, -0.4]]), "log_std": np.full(2, -1.0)},
)
N = 12


def jobs(**changes):
    """Six antithetic pairs on shared seeds, with sampled actions and records."""
    pair = np.arange(N) // 2
    given = {
        "controller": CONTROLLER,
        "seed": 7,
        "update": 2,
        "environment": pair,
        "perturbation": pair,
        "sign": np.where(np.arange(N) % 2, -1.0, 1.0),
        "std": 0.3,
        "stochastic": True,
        "record": True,
    }
    return Jobs(**(given | changes))


def seed_of(pair, update=2):
    return environment_seed(7, Purpose.ENVIRONMENT, update, pair)


def task(**options):
    return GymnasiumTask("environments:Drift", horizon=30, survival_bonus=1.0, environment_options=options)


def assert_same(a, b, trials=range(N)):
    trials = list(trials)
    for name in ("totals", "returns", "lengths", "outcome", "terminated"):
        assert np.array_equal(getattr(a, name)[trials], getattr(b, name)[trials]), name
    for trial in trials:
        for x, y in zip(a.records[trial], b.records[trial], strict=True):
            assert np.array_equal(x, y)
    if len(trials) == N:
        assert a.stages == b.stages
        assert a.statistics[0] == b.statistics[0]
        assert np.array_equal(a.statistics[1], b.statistics[1])
        assert np.array_equal(a.statistics[2], b.statistics[2])


@pytest.fixture(scope="module")
def drift():
    """Two workers on the well-behaved environment."""
    with Workers(task(), workers=2) as workers:
        yield workers


@pytest.fixture(scope="module")
def expected(drift):
    return drift.run(jobs())


def test_results_are_the_same_for_any_number_of_workers_and_any_block(expected, drift):
    assert np.all(expected.outcome == OK)
    assert not expected.events
    for count in (1, 4):
        with Workers(task(), workers=count) as workers:
            assert_same(workers.run(jobs()), expected)
    for block in (1, 5, 100):
        assert_same(drift.run(jobs(block=block)), expected)


def test_a_worker_runs_the_perturbed_policy_that_the_driver_can_regenerate(expected):
    rows = perturbations(7, 2, range(N // 2), 4)
    for trial in (0, 1, 7):
        sign = 1 - 2 * (trial % 2)
        controller = CONTROLLER.with_theta(CONTROLLER.theta() + sign * 0.3 * rows[trial // 2])
        noise = controller.noise(action_stream(7, Purpose.ENVIRONMENT, 2, trial), 30)
        episode = run_rollout(Drift(), controller, seed_of(trial // 2), noise, 30, True, 1.0)
        assert episode.total == pytest.approx(expected.totals[trial], rel=1e-12)
        assert episode.length == expected.lengths[trial]


def test_partners_share_the_environment_seed_and_nobody_else_does(expected):
    starts = np.array([record[0][0] for record in expected.records])
    assert np.array_equal(starts[0::2], starts[1::2])
    assert len(np.unique(starts, axis=0)) == N // 2


def test_offsets_replace_perturbations_and_std_may_be_a_vector(drift):
    rows = perturbations(7, 2, np.arange(N) // 2, 4) * np.where(np.arange(N) % 2, -1.0, 1.0)[:, None]
    std = np.array([0.1, 0.2, 0.3, 0.4])
    by_index = drift.run(jobs(std=std))
    by_offset = drift.run(jobs(perturbation=None, sign=None, offsets=rows * std))
    assert_same(by_index, by_offset)


def test_a_sign_of_zero_runs_theta_itself(drift):
    plain = drift.run(jobs(perturbation=None, sign=None))
    zero = drift.run(jobs(perturbation=np.full(N, -1), sign=np.zeros(N)))
    assert_same(plain, zero)


def test_statistics_are_those_of_all_observations(expected):
    observations = np.concatenate([record[0][:-1] for record in expected.records])
    count, mean, m2 = expected.statistics
    assert count == expected.stages == len(observations)
    assert np.allclose(mean, observations.mean(axis=0), atol=1e-13)
    assert np.allclose(m2, observations.var(axis=0) * count, rtol=1e-12)


def test_evaluations_use_modes_and_seeds_of_their_own(drift):
    first, again = drift.evaluate(CONTROLLER, 7, 6), drift.evaluate(CONTROLLER, 7, 6)
    assert np.array_equal(first.totals, again.totals)
    training = jobs(environment=np.arange(6), perturbation=None, sign=None, stochastic=False, update=0)
    assert not set(drift.run(training).totals) & set(first.totals)
    assert not set(drift.evaluate(CONTROLLER, 7, 6, update=1).totals) & set(first.totals)
    assert not set(drift.evaluate(CONTROLLER, 8, 6).totals) & set(first.totals)


@pytest.mark.parametrize("fault", ["raise", "exit", "die", "crash", "hang"])
def test_a_fault_that_passes_costs_an_attempt_and_changes_no_number(fault, tmp_path, expected):
    marker = str(tmp_path / "happened")
    with Workers(task(guilty=(seed_of(1),), fault=fault, marker=marker), workers=2, timeout=0.5) as workers:
        rollouts = workers.run(jobs(block=4))  # partners one after the other, so that the first one meets the fault
    assert os.path.exists(marker)
    assert_same(rollouts, expected)
    (event,) = rollouts.events
    kind = {"raise": "raised", "exit": "raised", "die": "died", "crash": "died", "hang": "timeout"}[fault]
    assert (event.trial, event.kind, event.attempt) == (2, kind, 1)
    if fault == "raise":
        assert "licence was lost" in event.reason
    if fault == "die":
        assert "SIGKILL" in event.reason
    else:  # a process that is killed from outside leaves no word
        assert "in misbehave" in event.traceback
    if fault == "hang":
        assert "timeout 0.5 s" in event.reason


@pytest.mark.parametrize("fault", ["raise", "die", "hang"])
def test_a_fault_that_stays_loses_its_trials_alone(fault, expected):
    with Workers(task(guilty=(seed_of(1),), fault=fault), workers=2, timeout=0.4) as workers:
        rollouts = workers.run(jobs())
    assert np.array_equal(np.flatnonzero(rollouts.outcome == LOST), [2, 3])
    assert np.isnan(rollouts.totals[2])
    assert (rollouts.lengths[2], rollouts.records[2]) == (0, None)
    others = [trial for trial in range(N) if trial not in (2, 3)]
    assert_same(rollouts, expected, others)
    assert [(event.trial, event.attempt) for event in rollouts.events] == [(2, 1), (2, 2), (3, 1), (3, 2)]
    assert rollouts.statistics[0] == expected.lengths[others].sum()


@pytest.mark.parametrize("share", [0.01, 0.3])
@pytest.mark.parametrize("fault", ["raise", "die", "nan_reward", "hang"])
def test_a_share_of_failing_trials_leaves_the_others_as_they_were(drift, fault, share):
    # of update 7 one of 100 seeds is in the first share, and three of 8 in the second
    n = 100 if share < 0.1 else 8
    given = jobs(environment=np.arange(n), perturbation=np.arange(n), sign=np.ones(n), update=7)
    guilty = [i for i in range(n) if in_share(seed_of(i, 7), share)]
    assert 0 < len(guilty) < n / 2
    with Workers(task(fault=fault, share=share), workers=2, timeout=0.4) as workers:
        rollouts = workers.run(given)
    bad = FAILED if fault == "nan_reward" else LOST
    assert np.array_equal(np.flatnonzero(rollouts.outcome == bad), guilty)
    good = np.setdiff1d(np.arange(n), guilty)
    assert np.all(rollouts.outcome[good] == OK)
    assert_same(rollouts, drift.run(given), good)
    assert np.isfinite(rollouts.totals[good]).all()
    assert np.isfinite(rollouts.totals).all() == (bad == FAILED)
    assert all(np.isfinite(part).all() for part in rollouts.statistics)


def test_too_many_lost_trials_in_a_row_end_the_batch_with_the_cause(tmp_path):
    log = tmp_path / "log"
    broken = task(fault="raise", share=1.0, log=str(log))
    with Workers(broken, workers=2, lost_limit=5) as workers:
        with pytest.raises(TrialsLostError, match=r"5 trials of .* in a row.*licence was lost") as caught:
            workers.run(jobs(environment=np.arange(N), block=1))
        assert not workers._workers
    assert {event.kind for event in caught.value.events} == {"raised"}
    assert "in misbehave" in caught.value.events[-1].traceback
    # a trial is tried twice; each worker may have run two more blocks before it heard
    assert len(log.read_text().split()) <= 2 * (5 + 4)


def test_a_good_trial_between_lost_ones_counts_as_a_new_beginning():
    environment = np.arange(N)
    guilty = tuple(seed_of(i) for i in range(N) if i % 3)
    with Workers(task(guilty=guilty, fault="raise"), workers=1, lost_limit=3) as workers:
        rollouts = workers.run(jobs(environment=environment))
        assert (rollouts.outcome == LOST).sum() == 8
        # two at the end of a batch and one at the start of the next are three in a row
        with pytest.raises(TrialsLostError):
            workers.run(jobs(environment=environment[1:2].repeat(N)))


def test_blocks_shrink_to_single_trials_at_the_end():
    found = blocks(jobs(environment=np.arange(100), perturbation=None, sign=None), 2)
    sizes = [len(block) for block in found]
    assert [trial for block in found for trial in block] == list(range(100))
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 10
    assert sizes[-4:] == [1] * 4


def test_perturbed_policies_are_made_one_at_a_time():
    d, n = 50_000, 64
    controller = Controller({"policy": "linear_gaussian"}, {"gain": np.zeros((1, d))})
    pair = np.arange(n) // 2
    many = Jobs(controller=controller, seed=0, update=0, environment=pair, perturbation=pair, sign=np.ones(n))
    tracemalloc.start()
    try:
        total = sum(other.parameters["gain"][0, 0] for other in many.controllers(range(n)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert total == pytest.approx(perturbations(0, 0, pair, d)[:, 0].sum())
    assert peak < 16 * d * 8
    assert len(pickle.dumps(many)) < 1.1 * d * 8


def test_after_a_death_the_innocent_trials_of_its_block_run_once_more_at_most(tmp_path):
    log = tmp_path / "log"
    with Workers(task(guilty=(seed_of(4),), fault="die", log=str(log)), workers=2) as workers:
        environment = np.arange(N)
        rollouts = workers.run(jobs(environment=environment, perturbation=None, sign=None, block=N))
    assert np.array_equal(np.flatnonzero(rollouts.outcome == LOST), [4])
    starts = log.read_text().split()
    counts = [starts.count(str(seed_of(index))) for index in environment]
    assert counts == [2] * 5 + [1] * 7


def test_a_trial_that_raises_and_then_kills_its_worker_has_two_attempts_and_both_events(tmp_path):
    log, seed = tmp_path / "log", seed_of(2)
    with Workers(task(guilty=(seed,), fault="raise then die", log=str(log)), workers=1) as workers:
        came = workers.run(jobs(environment=np.arange(N), perturbation=None, sign=None, block=N))
    assert np.array_equal(np.flatnonzero(came.outcome == LOST), [2])
    assert [(event.trial, event.kind, event.attempt) for event in came.events] == [(2, "raised", 1), (2, "died", 2)]
    assert "the simulator's licence was lost" in came.events[0].traceback
    assert log.read_text().split().count(str(seed)) == 2


def test_a_failure_of_the_policy_is_neither_repeated_nor_averaged(expected):
    with Workers(task(guilty=(seed_of(1),), fault="nan_reward"), workers=2) as workers:
        rollouts = workers.run(jobs())
    assert np.array_equal(np.flatnonzero(rollouts.outcome == FAILED), [2, 3])
    assert np.isfinite(rollouts.totals).all()
    assert rollouts.lengths[2] == 3
    assert [(event.trial, event.kind, event.attempt) for event in rollouts.events] == [
        (2, "failed", 1),
        (3, "failed", 1),
    ]
    others = [trial for trial in range(N) if trial not in (2, 3)]
    assert rollouts.statistics[0] == expected.lengths[others].sum()


def test_workers_killed_between_jobs_are_replaced(expected):
    with Workers(task(), workers=2) as workers:
        workers.start()
        for worker in workers._workers:
            os.kill(worker.process.pid, signal.SIGKILL)
        assert_same(workers.run(jobs()), expected)


def made_once(tmp_path, ending):
    options = {"marker": str(tmp_path / f"made once, then {ending}"), "ending": ending}
    return GymnasiumTask("environments:once", horizon=5, environment_options=options)


def test_an_environment_that_other_workers_cannot_make_is_reported_with_their_traceback(tmp_path):
    with Workers(made_once(tmp_path, "raise"), workers=2) as workers:
        with pytest.raises(RuntimeError, match="no licence server for this process"):
            workers.start()
        with pytest.raises(RuntimeError, match="in once"):
            workers.run(jobs())
        assert not workers._workers


def test_a_worker_that_ends_while_it_starts_is_reported_with_its_exit_code(tmp_path):
    with (
        Workers(made_once(tmp_path, "exit"), workers=2) as workers,
        pytest.raises(RuntimeError, match="exit code 3"),
    ):
        workers.start()


def gone(pids, seconds=5.0):
    """True if all processes have ended within some seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not any(Path(f"/proc/{pid}").exists() for pid in pids):
            return True
        time.sleep(0.02)
    return False


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks at /proc")
def test_an_interrupt_ends_the_workers_and_the_next_job_starts_new_ones(tmp_path, expected):
    marker = str(tmp_path / "once")
    with Workers(task(guilty=(seed_of(1),), fault="hang", marker=marker), workers=2) as workers:
        workers.start()
        pids = [worker.process.pid for worker in workers._workers]
        timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            workers.run(jobs())
        timer.join()
        assert gone(pids)
        assert_same(workers.run(jobs()), expected)


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks at /proc")
def test_workers_end_with_a_driver_that_is_killed_and_no_process_loads_jax():
    code = (
        "import sys, time, numpy as np\n"
        "from policysearch.core.controller import Controller\n"
        "from policysearch.tasks.gymnasium_task import GymnasiumTask\n"
        "from policysearch.runners.pool import Workers\n"
        "workers = Workers(GymnasiumTask('CartPole-v1'), workers=2)\n"
        "controller = Controller({'policy': 'softmax'}, {'weight_0': np.zeros((2, 4))})\n"
        "rollouts = workers.evaluate(controller, 0, 8)\n"
        "pids = [worker.process.pid for worker in workers._workers]\n"
        "print('jax' in sys.modules, rollouts.outcome.sum(), *pids, flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as driver:
        jax, lost, *pids = driver.stdout.readline().split()
        assert (jax, lost) == ("False", "0")
        for pid in pids:
            assert "jaxlib" not in Path(f"/proc/{pid}/maps").read_text()
            assert not gone([pid], 0.0)
        driver.kill()
    assert gone(pids)


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks at /proc")
def test_a_hanging_worker_ends_with_a_driver_that_is_killed():
    code = (
        "from test_pool import *\n"
        "workers = Workers(task(guilty=(seed_of(0),), fault='hang'), workers=1); workers.start()\n"
        "print(workers._workers[0].process.pid, flush=True); workers.run(jobs())\n"
    )
    command = [sys.executable, "-c", code]
    here = Path(__file__).parent
    places = os.environ | {"PYTHONPATH": os.pathsep.join([str(here), str(here.parent)])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=places) as driver:
        pid = driver.stdout.readline().strip()
        time.sleep(0.3)
        driver.kill()
    assert gone([pid], 10.0)


def test_requests_that_do_not_fit_are_refused_before_they_run(drift):
    for changes, message in (
        ({"sign": np.ones(3)}, r"Jobs.sign has shape \(3,\); 12 trials"),
        ({"std": np.ones(3)}, "Jobs.std has shape"),
        ({"sign": None}, "perturbation together with sign"),
        ({"offsets": np.zeros((N, 4))}, "or offsets"),
        ({"perturbation": np.full(N, -1)}, "negative where sign is not 0"),
        ({"environment": np.full(N, -1)}, "negative index"),
        ({"shape": "cube"}, "choose one of gaussian"),
        ({"seed": -1}, "seed is -1"),
        ({"block": 0}, "at least one trial"),
    ):
        with pytest.raises(ValueError, match=message):
            jobs(**changes)
    with pytest.raises(ValueError, match=r"takes 3 observations and gives 2 actions; .* has 2 and 2"):
        drift.run(jobs(controller=Controller({"policy": "linear_gaussian"}, {"gain": np.zeros((2, 3))})))
    with pytest.raises(ValueError, match="needs a Gaussian policy"):
        drift.run(jobs(controller=Controller({"policy": "softmax"}, {"weight_0": np.zeros((2, 2))})))
    with pytest.raises(ValueError, match="cannot be sent"):
        Workers(task(marker=lambda: 1))
    with pytest.raises(ValueError, match="workers is 0"):
        Workers(task(), workers=0)
    with pytest.raises(ValueError, match="timeout is 0"):
        Workers(task(), timeout=0)
    with pytest.raises(ValueError, match="lost_limit is 0"):
        Workers(task(), lost_limit=0)
