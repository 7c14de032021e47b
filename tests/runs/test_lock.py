"""Several threads and processes at one search: each has its turn; what is acknowledged is used or refused at once."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from policysearch import NaturalGradient, Parameters, Rig, Specification, WeightPerturbation, open_run
from policysearch.cli.main import main
from policysearch.core.specification import Continuous
from policysearch.runs import lock
from policysearch.runs.inbox import Inbox, Message
from policysearch.runs.lock import InUseError, Ownership, file_system


def search_of(folder=None, budget=40, rollouts=4):
    policy = Parameters(["kp", "kd"], [4.0, 0.5])
    method = WeightPerturbation(rollouts=rollouts, std=1.0)
    return Rig(Specification(name="rig", repeatable=False), method, policy=policy, budget=budget, folder=folder)


def cost(trial):
    return sum((value - 1.0) ** 2 for value in trial.values.values())


def in_a_thread(function, *arguments):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function, *arguments).result()


def said(capsys, *arguments):
    capsys.readouterr()
    assert main(list(map(str, arguments))) == 0
    return capsys.readouterr().out


def refused(capsys, *arguments):
    capsys.readouterr()
    assert main(list(map(str, arguments))) == 2
    words = capsys.readouterr().err
    assert "Traceback" not in words
    return words


# threads


def test_a_search_made_in_one_thread_is_used_closed_and_opened_in_others(tmp_path):
    search = in_a_thread(search_of, tmp_path / "run")
    trial = search.ask()
    in_a_thread(lambda: search.tell(trial, cost=1.0))
    assert in_a_thread(lambda: search.tell(0, cost=1.0)) is None
    in_a_thread(search.close)
    again = in_a_thread(Rig.open, tmp_path / "run")
    assert again.ask().number == 1
    in_a_thread(again.close)
    assert open_run(tmp_path / "run").trials[0].cost == 1.0


def test_threads_that_ask_and_tell_at_once_each_get_trials_of_their_own_and_the_search_is_that_of_one(tmp_path):
    with search_of(budget=80, rollouts=8) as plain:
        while not plain.done:
            trial = plain.ask()
            plain.tell(trial, cost=cost(trial))
    ran: list[int] = []
    with search_of(tmp_path / "run", budget=80, rollouts=8) as search:
        barrier = threading.Barrier(4)

        def client(name):
            barrier.wait()
            while not search.done:
                try:
                    trial = search.ask(name)
                except RuntimeError as error:  # all trials of the update are out
                    if "are out" not in str(error):
                        raise
                    time.sleep(0.001)
                    continue
                if trial.number < 80:
                    ran.append(trial.number)
                    search.tell(trial, cost=cost(trial))

        with ThreadPoolExecutor(4) as pool:
            for done in [pool.submit(client, f"thread {i}") for i in range(4)]:
                done.result()
        assert np.array_equal(np.asarray(search.policy.theta()), np.asarray(plain.policy.theta()))
    assert sorted(ran)[:80] == list(range(80))
    assert len(ran) == len(set(ran))
    run = open_run(tmp_path / "run")
    assert [record["rollouts"] for record in run.records] == [8.0 * (i + 1) for i in range(10)]


# processes


def test_six_shells_that_ask_at_once_each_get_a_trial(tmp_path):
    search_of(tmp_path / "run", rollouts=8).close()
    command = [sys.executable, "-m", "policysearch", "ask", "run", "--client"]
    shells = [
        subprocess.Popen([*command, f"b{i}"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for i in range(6)
    ]
    came = [(*shell.communicate(timeout=200), shell.returncode) for shell in shells]
    assert [(err, code) for _, err, code in came] == [("", 0)] * 6
    assert sorted(json.loads(out)["trial"] for out, _, _ in came) == list(range(6))


def test_a_short_command_waits_for_an_owner_that_ends_and_not_for_one_that_goes_on(tmp_path):
    folder = tmp_path
    owner = Ownership(folder)
    began = time.monotonic()
    with pytest.raises(InUseError, match=f"in use by process {os.getpid()} on "):
        Ownership(folder, wait=0.3)
    assert time.monotonic() - began > 0.3
    for wait in (None, 0.0):
        began = time.monotonic()
        with pytest.raises(InUseError):
            Ownership(folder, wait=wait)
        assert time.monotonic() - began < 0.3
    threading.Timer(0.3, owner.release).start()
    Ownership(folder, wait=30.0).release()
    # another short one is waited for even by one that would wait for nobody else
    brief = Ownership(folder, wait=0.0)
    threading.Timer(0.3, brief.release).start()
    Ownership(folder, wait=0.0).release()
    assert not (folder / lock.LOCK).exists()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOTSUP, errno.EIO, errno.ENOSYS])
def test_a_file_system_without_locks_is_named_and_nothing_is_left_unread(tmp_path, monkeypatch, capsys, code):
    """What NFS and SMB answer; there is no such share here, so that the answer itself is put in its place."""
    with search_of(tmp_path / "run") as search:
        search.ask()

    def flock(descriptor, operation):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(lock.fcntl, "flock", flock)
    open_files = len(os.listdir("/proc/self/fd"))
    for command in (["ask"], ["tell", "0", "--cost", "1"], ["resume"]):
        words = refused(capsys, command[0], tmp_path / "run", *command[1:])
        assert "gives no lock on a file" in words
        assert os.strerror(code) in words
        assert f"is on {file_system(tmp_path)}, which" in words
        assert "Keep the run on a local disk" in words
    assert len(os.listdir("/proc/self/fd")) <= open_files
    assert "gives no lock" in refused(capsys, "new", tmp_path / "other", "--parameters", "kp=1")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert not (tmp_path / "run" / lock.LOCK).exists()
    assert Inbox(tmp_path / "run").messages() == []
    assert "1 asked" in said(capsys, "status", tmp_path / "run")


@pytest.mark.skipif(not os.path.exists("/proc/self/mounts"), reason="only Linux tells")
def test_the_file_system_of_a_folder_is_the_one_that_the_system_names(tmp_path):
    found = subprocess.run(["df", "--output=fstype,target", tmp_path], capture_output=True, text=True, check=True)
    kind, place = found.stdout.splitlines()[1].split(maxsplit=1)
    assert re.fullmatch(rf"a file system of type {kind} \(.* at {place}\)", file_system(tmp_path))
    assert "type proc" in file_system(lock.Path("/proc/self"))


# results that are left beside a living owner


@pytest.fixture
def owned(tmp_path):
    """A search that somebody owns, with two trials out and one told."""
    with search_of(tmp_path / "run") as search:
        trials = [search.ask() for _ in range(3)]
        search.tell(trials[0], cost=2.0)
        yield search


def test_what_was_told_already_is_refused_at_once_and_word_for_word_is_no_news(owned, tmp_path, capsys):
    words = refused(capsys, "tell", tmp_path / "run", "0", "--cost", "3")
    assert "Trial 0 was told already, as done, cost 2; another result is not accepted." in words
    assert "told already, as done" in refused(capsys, "tell", tmp_path / "run", "0", "--lost", "cable")
    assert "trial 0 already has this outcome" in said(capsys, "tell", tmp_path / "run", "0", "--cost", "2")
    assert "never asked" in refused(capsys, "tell", tmp_path / "run", "3", "--cost", "3")
    assert "a trial that ran is not repeated" in refused(
        capsys, "tell", tmp_path / "run", "1", "--cost", "1", "--retry"
    )
    assert Inbox(tmp_path / "run").messages() == []


def test_of_two_results_that_are_left_the_second_is_refused_and_the_same_again_is_not(owned, tmp_path, capsys):
    assert "left for its owner" in said(capsys, "tell", tmp_path / "run", "1", "--cost", "3")
    assert "left for its owner" in said(capsys, "tell", tmp_path / "run", "1", "--cost", "3")
    assert "is already waiting for the owner of the run: cost 3.0" in refused(
        capsys, "tell", tmp_path / "run", "1", "--cost", "4"
    )
    assert "takes it at the next ask: trial 1, cost 3.0" in said(capsys, "status", tmp_path / "run")
    assert json.loads(said(capsys, "status", tmp_path / "run", "--json"))["left"] == [
        {"number": 1, "given": {"cost": 3.0}}
    ]
    owned.ask()
    assert open_run(tmp_path / "run").trials[1].cost == 3.0
    assert Inbox(tmp_path / "run").messages() == []


def test_what_was_left_first_counts_also_where_the_owner_tells_without_asking(owned, tmp_path, capsys):
    said(capsys, "tell", tmp_path / "run", "1", "--safety-stop", "smoke")
    with pytest.raises(ValueError, match="Trial 1 was told already, as safety stop: smoke"):
        owned.tell(1, cost=1.0)
    assert owned.halted == "trial 1 ended by a safety stop: smoke"
    owned.release()
    said(capsys, "tell", tmp_path / "run", "2", "--cost", "5")
    owned.go_back(owned.policy.controller())
    assert open_run(tmp_path / "run").trials[2].cost == 5.0


def test_a_cost_that_is_no_number_is_left_as_the_failure_that_it_is(owned, tmp_path, capsys):
    for _ in range(2):
        said(capsys, "tell", tmp_path / "run", "1", "--cost", "nan")
    owned.ask()
    trial = open_run(tmp_path / "run").trials[1]
    assert (trial.status, trial.fault, trial.reason) == ("failed", "policy", "its cost is nan")
    assert "already has this outcome" in said(capsys, "tell", tmp_path / "run", "1", "--cost", "nan")


def test_a_lost_trial_that_is_to_run_again_is_left_and_asked_again(owned, tmp_path, capsys):
    said(capsys, "tell", tmp_path / "run", "1", "--lost", "cable", "--retry")
    again = owned.ask("other")
    assert (again.number, again.attempt) == (1, 2)
    # told by somebody who has not heard of it
    assert "left for its owner" in said(capsys, "tell", tmp_path / "run", "1", "--cost", "1")
    with pytest.raises(ValueError, match="told already, as done, cost 1"):
        owned.tell(again, cost=7.0)


def test_status_shows_what_was_refused_after_it_was_left(owned, tmp_path, capsys):
    Inbox(tmp_path / "run").leave(Message(trial=0, attempt=1, given={"cost": 9.0}))
    owned.ask()
    words = said(capsys, "status", tmp_path / "run")
    assert "refused by the owner of the run: a result of trial 0. Trial 0 was told already, as done, cost 2" in words
    (refusal,) = json.loads(said(capsys, "status", tmp_path / "run", "--json"))["refused"]
    assert refusal["number"] == 0


def test_a_cost_is_refused_at_once_where_every_stage_is_needed(tmp_path, capsys):
    arm = Specification(
        name="arm", action=Continuous((-1.0,), (1.0,)), observation_size=1, observation_scale=(1.0,), horizon=5
    )
    with Rig(arm, NaturalGradient(rollouts=4), budget=8, folder=tmp_path / "run") as search:
        search.ask()
        assert "natural_gradient learns from every stage" in refused(
            capsys, "tell", tmp_path / "run", "0", "--cost", "1"
        )
        assert "left" in said(capsys, "tell", tmp_path / "run", "0", "--lost", "cable")
