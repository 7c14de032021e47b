"""Runs of simulated tasks that were killed or interrupted end as if nothing had happened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from policysearch.cli.main import main
from policysearch.methods.rule import Problem
from policysearch.methods.settings import METHODS
from policysearch.runs import journal
from policysearch.runs.reader import open_run

KINDS = {
    "plant, natural gradient": ["lqr", "--method", "natural_gradient", "--rollouts", "10", "--budget", "12updates"],
    "cost, learned spread": ["bowl", "--method", "cem", "--rollouts", "10", "--budget", "12updates"],
    "simulator, running scales": [
        *["CartPole-v1", "--method", "gpomdp", "--rollouts", "4", "--budget", "8updates", "--horizon", "30"],
        *["--scaling", "running", "--workers", "1", "--evaluation-rollouts", "2"],
    ],
}


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "unused"))


class StopError(Exception):
    """Ends a run in the middle of an update's record."""


def cut(monkeypatch, after):
    """Let `train` die after so many updates; what waited in memory is lost, as in a kill."""
    written = journal.Journal.add

    def add(self, record, continuation=None):
        written(self, record, continuation)
        if record["update"] == after:
            self._waiting.clear()
            raise StopError

    monkeypatch.setattr(journal.Journal, "add", add)


@pytest.mark.parametrize("arguments", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("interval", [0.0, 1e9], ids=["cut at a snapshot", "cut long after one"])
def test_a_resumed_run_ends_with_the_same_policy(monkeypatch, capsys, arguments, interval):
    assert main(["train", *arguments, "--out", "whole"]) == 0
    with monkeypatch.context() as patched:
        patched.setattr(journal, "INTERVAL", interval)
        cut(patched, after=5)
        with pytest.raises(StopError):
            main(["train", *arguments, "--out", "cut"])
    assert main(["resume", "cut"]) == 0
    whole, again = open_run("whole"), open_run("cut")
    assert Path("cut/policy.safetensors").read_bytes() == Path("whole/policy.safetensors").read_bytes()
    assert [r["cost"] for r in again.records] == [r["cost"] for r in whole.records]
    assert again.result["counts"] == whole.result["counts"]
    assert "spent its budget" in refused(capsys, "resume", "cut")
    assert main(["resume", "cut", "--budget", "14updates"]) == 0
    assert len(open_run("cut").records) == 14


#: kinds of tasks, searched as they are by default; what does not sample actions serves a cost
TASKS = {
    "plant": ["lqr"],
    "cost": ["bowl"],
    "function": ["environments:bowl"],
    "simulator": ["environments:Tiring", "--horizon", "200", "--evaluation-rollouts", "2"],
}


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        (kind, method)
        for kind in TASKS
        for method in METHODS
        if kind in ("plant", "simulator") or METHODS[method].space == "parameter"
    ],
)
@pytest.mark.filterwarnings("ignore:Finite differences on a noisy task")
def test_a_default_run_that_was_killed_ends_with_the_same_policy(monkeypatch, kind, method):
    """Every method, with its default sizes: batches that follow the length of rollouts, another number of workers."""
    arguments = [*TASKS[kind], "--method", method, "--budget", "4updates", "--seed", "5"]
    monkeypatch.setattr(journal, "INTERVAL", 0.0)
    workers = ["--workers", "1"] if kind == "simulator" else []
    assert main(["train", *arguments, *workers, "--out", "whole"]) == 0
    with monkeypatch.context() as patched:
        cut(patched, after=2)
        with pytest.raises(StopError):
            main(["train", *arguments, *workers, "--out", "cut"])
    assert main(["resume", "cut", *(["--workers", "2"] if workers else [])]) == 0
    whole, again = open_run("whole"), open_run("cut")
    assert Path("cut/policy.safetensors").read_bytes() == Path("whole/policy.safetensors").read_bytes()
    assert [r["rollouts"] for r in again.records] == [r["rollouts"] for r in whole.records]
    if kind == "simulator" and METHODS[method].space == "action":
        sizes = np.diff([0.0, *(r["rollouts"] for r in whole.records)])
        assert len(set(sizes)) > 1, "the sizes of this search never change, so nothing was tested"


def refused(capsys, *arguments):
    capsys.readouterr()
    assert main(arguments) == 2
    return capsys.readouterr().err


def test_a_killed_run_is_resumed_and_frees_its_folder(tmp_path):
    """SIGKILL itself, of a process that trains."""
    code = (
        "import os, signal, sys\n"
        "from policysearch.runs import journal\n"
        "from policysearch.cli.main import main\n"
        "written = journal.Journal.add\n"
        "def add(self, record, continuation=None):\n"
        "    written(self, record, continuation)\n"
        "    if record['update'] == 7:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "journal.Journal.add = add\n"
        "journal.INTERVAL = 0.0\n"
        "main(sys.argv[1:])\n"
    )
    arguments = KINDS["cost, learned spread"]
    done = subprocess.run([sys.executable, "-c", code, "train", *arguments, "--out", "killed"], check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(open_run("killed").records) == 7
    assert main(["resume", "killed"]) == 0
    assert main(["train", *arguments, "--out", "whole"]) == 0
    assert Path("killed/policy.safetensors").read_bytes() == Path("whole/policy.safetensors").read_bytes()


def test_what_cannot_be_resumed_is_answered_with_what_to_do(capsys):
    assert "no folder nowhere" in refused(capsys, "resume", "nowhere")
    run = journal.Journal("old", {"task": "bowl"})
    run.add({"update": 1.0})
    assert f"in use by process {os.getpid()}" in refused(capsys, "resume", "old")
    run.close()
    assert "--initial old" in refused(capsys, "resume", "old")


@pytest.mark.filterwarnings("always:Finite differences on a noisy task")
def test_what_is_said_of_differences_is_said_when_the_search_begins_and_not_again(capsys):
    noisy = ["--method", "finite_differences", "--no-common-random-numbers"]
    assert main(["train", "lqr", *noisy, "--budget", "2updates"]) == 0
    assert capsys.readouterr().err.count("Common random numbers let them share one") == 1
    assert main(["resume", "runs/lqr-finite_differences-seed0", "--budget", "3updates"]) == 0
    assert "warning" not in capsys.readouterr().err


def test_a_run_is_not_continued_under_another_rule(monkeypatch, capsys):
    """What the rule chose when a run began is kept; a version that would choose otherwise says which setting."""
    assert main(["train", "lqr", "--method", "natural_gradient", "--budget", "2updates", "--out", "run"]) == 0
    monkeypatch.setattr(Problem, "max_kl", 0.2)
    said = refused(capsys, "resume", "run", "--budget", "4updates")
    assert "was started with another method: max_kl was 0.1 and is 0.2" in said


def earlier(known: dict, names: dict[str, str]) -> dict:
    """A configuration as an earlier version wrote it."""
    back = {new: old for old, new in names.items()}
    renamed = {name: {back.get(n, n): value for n, value in known[name].items()} for name in ("given", "settings")}
    return {"method": known["method"], **renamed}


@pytest.mark.parametrize(
    ("method", "names", "options"),
    [
        (
            "natural_gradient",
            {"kl": "max_kl", "settle": "step_decay", "cutoff": "rcond", "saturation": "action_limit_penalty"},
            ("--max-kl", "0.05", "--step-decay", "50", "--rcond", "1e-4"),
        ),
        ("finite_differences", {"step": "epsilon", "trust": "step_size"}, ("--epsilon", "0.2", "--step-size", "0.5")),
        ("pgpe", {"step": "step_size", "std_step": "std_step_size"}, ("--step-size", "0.5", "--std-step-size", "0.2")),
    ],
)
def test_a_run_continues_although_its_settings_had_other_names_when_it_began(method, names, options):
    task = "lqr" if method == "natural_gradient" else "bowl"
    for folder in ("old", "new"):
        assert main(["train", task, "--method", method, *options, "--budget", "2updates", "--out", folder]) == 0
    run, known = journal.Journal.reopen("old")
    before = earlier(known.configuration, names)
    assert set(names) <= set(before["given"])
    run.amend(before)
    run.close()
    assert open_run("old").configuration["given"] == open_run("new").configuration["given"]
    for folder in ("old", "new"):
        assert main(["resume", folder, "--budget", "4updates"]) == 0
    assert Path("old/policy.safetensors").read_bytes() == Path("new/policy.safetensors").read_bytes()
