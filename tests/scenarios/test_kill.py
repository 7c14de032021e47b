"""Processes that end at any moment: nothing acknowledged is lost, and the search ends with the same policy."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import pytest
from test_trials import digest, finish, servo

import rig_driver
from policysearch import Rig, open_run
from policysearch.runs.journal import Journal


class StopError(Exception):
    """Ends a process, as far as its files are concerned."""


@pytest.mark.parametrize("update", [1, 6])
def test_an_update_whose_policy_file_was_not_written_gets_it_when_the_search_is_opened(tmp_path, monkeypatch, update):
    """Cut between the row of an update, the last one of the search among them, and its policy file."""
    with monkeypatch.context() as patched, servo(tmp_path / "cut") as search:

        def save(self, controller):
            if search.updates == update:
                raise StopError
            written(self, controller)

        written = Journal.save
        patched.setattr(Journal, "save", save)
        with pytest.raises(StopError):
            finish(search)
    with Rig.open(tmp_path / "cut") as search:
        assert search.updates == update
    with servo(tmp_path / "whole", budget=4 * update) as search:
        finish(search)
    assert digest(tmp_path / "cut") == digest(tmp_path / "whole")


# kill -9

#: of the first method; the others have a sixth of it
KILLS = int(os.environ.get("POLICYSEARCH_KILLS", "30"))
#: trials of a life, behind which it waits
MOST = 8


class Driver:
    """The program whose lives are killed, see `rig_driver`."""

    def __init__(self, process):
        self.process = process

    def say(self, *words):
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()

    def hear(self):
        return self.process.stdout.readline().strip()

    def ask(self, *words):
        self.say(*words)
        return self.hear()


@pytest.fixture(scope="module")
def driver():
    command = [sys.executable, "-W", "ignore", rig_driver.__file__]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Driver(process)
        process.stdin.close()


def told(log):
    return len(log.read_text().splitlines()) if log.exists() else 0


@pytest.mark.parametrize(
    "method",
    [
        name if name == "weight_perturbation" else pytest.param(name, marks=pytest.mark.slow)
        for name in rig_driver.SMALL
    ],
)
def test_killed_at_any_moment_no_acknowledged_result_is_lost_and_the_policy_is_the_same(driver, tmp_path, method):
    """SIGKILL by a fixed seed: every second one up to 0.3 s after a life began, which also meets the opening of the
    search; the others some trials and up to 10 ms after it did. POLICYSEARCH_KILLS=200 makes more of them.
    """
    kills = KILLS if method == "weight_perturbation" else max(5, KILLS // 6)
    budget, rng = MOST * (kills + 1), random.Random(f"{method} {kills}")
    log, folder = tmp_path / "acknowledged", tmp_path / "run"
    driver.ask("warm", method)
    whole = driver.ask("whole", method, budget)
    kinds = set()
    for life in range(kills):
        before = told(log)
        child = int(driver.ask("live", method, budget, MOST, folder))
        if life % 2:
            time.sleep(rng.uniform(0.0, 0.3))
        else:
            enough = before + rng.randrange(1, MOST)
            deadline = time.monotonic() + 60
            while told(log) < enough:
                assert time.monotonic() < deadline, "a life tells nothing"
                time.sleep(0.001)
            time.sleep(rng.uniform(0.0, 0.01))
        os.kill(child, signal.SIGKILL)
        assert int(driver.hear()) == -signal.SIGKILL
        if (folder / "run.sqlite").exists():
            trials = open_run(folder).trials
            kinds.add((sum(trial.status == "asked" for trial in trials.values()), len(trials) - told(log)))
            check(trials, log)
    assert driver.ask("finish", method, budget, folder) == whole
    run = open_run(folder)
    check(run.trials, log)
    assert [trial.status for trial in run.trials.values()] == ["done"] * int(run.records[-1]["rollouts"])
    assert digest(folder) == whole
    assert told(log) >= kills
    if kills >= 30:  # where a few kills fall is chance; of so many some met a trial that was out, others none
        assert len(kinds) > 1


def check(trials, log):
    """Every result that was acknowledged is there, and at most one trial is out."""
    for line in log.read_text().splitlines() if log.exists() else ():
        number, acknowledged = line.split()
        assert trials[int(number)].status == "done"
        assert trials[int(number)].cost == pytest.approx(float(acknowledged), rel=1e-6)
    assert sorted(trials) == list(range(len(trials)))
    assert sum(trial.status == "asked" for trial in trials.values()) <= 1
