"""Trials that are kept: nothing acknowledged is lost, nothing counts twice, a search goes on to the bit."""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from policysearch import LinearGaussian, NaturalGradient, Rig, Specification, open_run
from policysearch.core.credit import TotalCost
from policysearch.core.direction import Euclidean
from policysearch.core.explore import ParameterNoise
from policysearch.core.method import Method
from policysearch.core.specification import Continuous
from policysearch.core.step import LearningRate
from policysearch.runs.history import Row
from policysearch.runs.reader import DATABASE, HEAD
from rig_driver import BUDGET, SERVO, cost, gains, servo

RIG = Specification(
    name="rig",
    action=Continuous((-np.inf,), (5.0,)),
    observation_size=2,
    observation_scale=(1.0, 1.0),
    horizon=4,
)


def finish(search):
    """Run a search to its end; the SHA-256 of its policy file."""
    with search:
        while not search.done:
            trial = search.ask()
            search.tell(trial, cost=cost(trial))
    return digest(search._journal.folder)


def digest(folder):
    return hashlib.sha256(Path(folder, "policy.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The policy file's SHA-256 of a search that nothing stopped."""
    return finish(servo(tmp_path_factory.mktemp("whole") / "run"))


# going on


@pytest.mark.parametrize("stop", [1, 4, 6, 23])
def test_a_search_that_is_opened_again_ends_with_the_same_policy(tmp_path, uninterrupted, stop):
    with servo(tmp_path / "run") as search:
        for _ in range(stop):
            trial = search.ask()
            search.tell(trial, cost=cost(trial))
        theta, counts = np.asarray(search.policy.theta()), dict(search.counts)
    again = Rig.open(tmp_path / "run")
    assert np.array_equal(np.asarray(again.policy.theta()), theta)
    assert again.counts == counts
    assert again.rollouts == 4 * (stop // 4)
    assert finish(again) == uninterrupted


def test_the_same_trials_are_pending_and_handed_out_first_after_opening(tmp_path):
    with servo(tmp_path / "run") as search:
        before = [search.ask(), search.ask(), search.ask("bench")]
        search.tell(before[1], cost=1.0)
    with Rig.open(tmp_path / "run") as again:
        assert [trial.number for trial in again.pending] == [0, 2]
        assert [trial.values for trial in again.pending] == [before[0].values, before[2].values]
        assert again.ask().number == 0
        assert again.ask().number == 3
        assert again.ask("bench").number == 2


def test_sampled_actions_go_on_to_the_bit(tmp_path):
    def answered(search, count):
        for _ in range(count):
            trial = search.ask()
            observations = np.linspace(0.1, 0.9, 8).reshape(4, 2) + trial.index
            pairs = zip(observations, trial.noise, strict=True)
            actions = np.stack([trial.controller.act(o, z).sampled for o, z in pairs])
            search.tell(trial, rollout=(observations, actions, (actions[:, 0] - 1.0) ** 2))
        return np.asarray(search.policy.theta())

    options = {"policy": LinearGaussian([[0.0, 0.0]], std=0.5, learned_std=True), "budget": 12}
    with Rig(RIG, NaturalGradient(rollouts=4, max_kl=0.1), **options) as whole:
        expected = answered(whole, 12)
    with Rig(RIG, NaturalGradient(rollouts=4, max_kl=0.1), folder=tmp_path / "run", **options) as search:
        answered(search, 6)
    with Rig.open(tmp_path / "run") as again:
        assert again.specification == RIG
        assert np.array_equal(answered(again, 6), expected)


def test_a_method_composed_by_hand_must_be_given_again(tmp_path):
    def composed(std):
        return Method(ParameterNoise(2, std), TotalCost("none", normalise=True), Euclidean(), LearningRate(0.05))

    with Rig(SERVO, composed(0.2), policy=gains(), budget=8, folder=tmp_path / "run") as search:
        search.tell(search.ask(), cost=1.0)
    with pytest.raises(ValueError, match="composed by hand; give the same one"):
        Rig.open(tmp_path / "run")
    with pytest.raises(ValueError, match=r"std was 0\.2 and is 0\.3"):
        Rig.open(tmp_path / "run", method=composed(0.3))
    with Rig.open(tmp_path / "run", method=composed(0.2)) as again:
        assert again.ask().number == 1


def test_a_method_of_the_folder_is_not_replaced(tmp_path):
    servo(tmp_path / "run").close()
    method = Method(ParameterNoise(2, 0.2), TotalCost("none"), Euclidean(), LearningRate(0.05))
    with pytest.raises(ValueError, match="leave method= out"):
        Rig.open(tmp_path / "run", method=method)


def test_a_new_budget_stays(tmp_path):
    servo(tmp_path / "run").close()
    Rig.open(tmp_path / "run", budget=8).close()
    with Rig.open(tmp_path / "run") as again:
        assert str(again.budget) == "8"


def test_a_folder_with_a_run_is_refused(tmp_path):
    servo(tmp_path / "run").close()
    with pytest.raises(FileExistsError, match="already holds a run"):
        servo(tmp_path / "run")


# telling


def test_the_same_result_told_twice_counts_once_and_another_one_is_refused(tmp_path):
    with servo(tmp_path / "run") as search:
        trials = [search.ask() for _ in range(4)]
        for trial in trials:
            record = search.tell(trial, cost=cost(trial))
        assert search.updates == 1
        # the update is over: its record comes again, and nothing moves
        assert search.tell(trials[2].number, cost=cost(trials[2])) == record
        with pytest.raises(ValueError, match="told already, as done"):
            search.tell(trials[2], cost=1.0)
        assert search.counts["gradient"] == 4
    with Rig.open(tmp_path / "run") as again:
        assert again.tell(trials[0].number, cost=cost(trials[0]))["cost"] == record["cost"]
        with pytest.raises(ValueError, match="told already"):
            again.tell(trials[0].number, failed="no")
        with pytest.raises(ValueError, match="not open; nothing was asked"):
            again.tell(99, cost=1.0)


@pytest.mark.parametrize("reopen", [False, True])
def test_the_order_of_telling_changes_nothing_even_across_processes(tmp_path, reopen):
    thetas = []
    for name, order in (("a", [0, 1, 2, 3]), ("b", [3, 1, 0, 2])):
        search = servo(tmp_path / name)
        trials = [search.ask() for _ in range(4)]
        for index in order:
            if reopen:
                search.close()
                search = Rig.open(tmp_path / name)
            search.tell(trials[index].number, cost=cost(trials[index]))
        thetas.append(np.asarray(search.policy.theta()))
        search.close()
    assert np.array_equal(*thetas)


def test_a_client_gets_its_own_unfinished_trial_back(tmp_path):
    with servo(tmp_path / "run") as search:
        left, right = search.ask("left"), search.ask("right")
        assert (left.number, right.number) == (0, 1)
        assert search.ask("left").number == 0
        search.tell(left, cost=1.0)
        assert search.ask("left").number == 2
        assert search.ask("right").number == 1


def test_a_lost_trial_is_asked_again_as_another_attempt(tmp_path):
    with servo(tmp_path / "run") as search:
        first = search.ask()
        assert search.tell(first, lost="cable", retry=True) is None
        assert search.tell(first, lost="cable", retry=True) is None
    with Rig.open(tmp_path / "run") as search:
        again = search.ask()
        assert (again.number, again.attempt, again.values) == (0, 2, first.values)
        with pytest.raises(ValueError, match="attempt 2 counts, not attempt 1"):
            search.tell(first, cost=1.0)
        search.tell(again, cost=2.0)
        for _ in range(3):
            record = search.tell(search.ask(), cost=2.0)
        assert record["lost"] == 0
        with pytest.raises(ValueError, match="retry=True"):
            search.tell(search.ask(), cost=1.0, retry=True)
    trial = open_run(tmp_path / "run").trials[0]
    assert (trial.attempt, trial.status, trial.cost) == (2, "done", 2.0)


@pytest.mark.parametrize(
    ("told", "status", "fault", "count"),
    [
        ({"cost": 3.0}, "done", None, (0, 0)),
        ({"cost": float("inf")}, "failed", "policy", (1, 0)),
        ({"failed": "arm stalled"}, "failed", "policy", (1, 0)),
        ({"lost": "cable"}, "lost", "rig", (0, 1)),
        ({"abandoned": "lunch"}, "abandoned", "rig", (0, 1)),
        ({"timed_out": "60 s"}, "timed out", "rig", (0, 1)),
    ],
)
def test_each_outcome_is_kept_with_its_fault_and_counted(tmp_path, told, status, fault, count):
    with servo(tmp_path / "run") as search:
        trials = [search.ask() for _ in range(4)]
        search.tell(trials[0], **told, notes="seen by me")
        for trial in trials[1:]:
            record = search.tell(trial, cost=1.0)
    assert (record["failed"], record["lost"], record["skipped"]) == (*count, 0)
    trial = open_run(tmp_path / "run").trials[0]
    assert (trial.status, trial.fault, trial.notes) == (status, fault, "seen by me")
    assert trial.reason == next((words for words in told.values() if isinstance(words, str)), trial.reason)


# ownership


def test_a_second_owner_is_refused_by_name_and_readers_are_not(tmp_path):
    with servo(tmp_path / "run") as search:
        trial = search.ask()
        with pytest.raises(RuntimeError, match=f"in use by process {os.getpid()} on "):
            Rig.open(tmp_path / "run")
        search.tell(trial, cost=1.0)
        assert open_run(tmp_path / "run").trials[0].cost == 1.0
    Rig.open(tmp_path / "run").close()


# damage


def test_a_flipped_bit_is_named_or_harmless(tmp_path):
    finish(servo(tmp_path / "run"))
    truth = open_run(tmp_path / "run")
    rng, detected = random.Random(0), 0
    for name, count in ((DATABASE, 60), (HEAD, 10)):
        path = tmp_path / "run" / name
        whole = path.read_bytes()
        for _ in range(count):
            bad = bytearray(whole)
            bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
            path.write_bytes(bytes(bad))
            try:
                read = open_run(tmp_path / "run")
            except ValueError as error:
                detected += "is damaged" in str(error)
            else:
                assert repr(read) == repr(truth)
        path.write_bytes(whole)
    assert detected > 20


def test_a_flipped_bit_in_the_log_loses_no_acknowledged_row_in_silence(tmp_path):
    search = servo(tmp_path / "run")
    search.tell(search.ask(), cost=1.0)
    search.ask()
    shutil.copytree(tmp_path / "run", tmp_path / "killed")  # as a killed process leaves it: closed by nobody
    search.close()
    assert len(open_run(tmp_path / "killed").trials) == 2
    log = tmp_path / "killed" / f"{DATABASE}-wal"
    bad = bytearray(log.read_bytes())
    bad[-1000] ^= 4
    log.write_bytes(bytes(bad))
    with pytest.raises(ValueError, match=r"is damaged: the last \d+ of 6 acknowledged rows are missing"):
        open_run(tmp_path / "killed")


@pytest.mark.parametrize("change", ["DELETE FROM history WHERE number = 5", "DELETE FROM history WHERE number > 5"])
def test_a_missing_row_is_named(tmp_path, change):
    finish(servo(tmp_path / "run"))
    with sqlite3.connect(tmp_path / "run" / DATABASE) as connection:
        connection.execute(change)
    connection.close()
    with pytest.raises(ValueError, match="missing"):
        Rig.open(tmp_path / "run")
    # the refusal freed the run
    assert not (tmp_path / "run" / "run.lock").exists()


@pytest.mark.parametrize("stop", range(6, 15))
def test_a_full_disk_refuses_and_loses_nothing_and_the_search_goes_on(tmp_path, uninterrupted, stop):
    """The disk fills at one row after another, those of asks, tells and updates."""
    search = servo(tmp_path / "run")
    fill(search, {stop, stop + 1})
    refusals = 0
    with search:
        while not search.done:
            try:
                trial = search.pending[0] if search.pending else search.ask()
                search.tell(trial, cost=cost(trial))
            except OSError as error:
                refusals += "is full" in str(error)
    assert refusals == 2
    assert len(open_run(tmp_path / "run").trials) == BUDGET
    assert digest(tmp_path / "run") == uninterrupted


def test_an_update_that_a_full_disk_refused_is_written_before_the_next_trials(tmp_path):
    search = servo(tmp_path / "run")
    fill(search, {9})
    for _ in range(3):
        search.tell(search.ask(), cost=1.0)
    last = search.ask()
    with pytest.raises(OSError, match="is full"):
        search.tell(last, cost=1.0)
    assert search.tell(last, cost=1.0)["update"] == 1
    assert search.ask().number == 4
    shutil.copytree(tmp_path / "run", tmp_path / "killed")
    search.close()
    with Rig.open(tmp_path / "killed") as again:
        assert (again.updates, [trial.number for trial in again.pending]) == (1, [4])


def fill(search, at):
    """Let the disk be full for these writes of a search, counted from 1."""
    whole, count = search._journal._history.append, itertools.count(1)

    def append(rows):
        if next(count) not in at:
            return whole(rows)
        connection = search._journal._history._connection
        connection.execute(f"PRAGMA max_page_count = {connection.execute('PRAGMA page_count').fetchone()[0]}")
        try:
            return whole([*rows, Row("event", b"{}", bytes(10_000))])
        finally:
            connection.execute("PRAGMA max_page_count = 1000000")

    search._journal._history.append = append
