"""Requests to end, INT, TERM and HUP: a search ends in order with what it found, even if its terminal is gone."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time

import pytest

from policysearch import open_run
from policysearch.cli.interruption import Held, Interrupted, raising

TRAIN = [sys.executable, "-m", "policysearch", "train", "bowl", "--budget", "1e9", "--out", "run"]


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "unused"))


def ended_in_order():
    """Whether the run has a result and a policy after an interruption."""
    run = open_run("run")
    return run.result["reason"] == "interrupted" and run.controller().theta().size == 10


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_search_ends_in_order_with_what_it_found(number):
    with subprocess.Popen(TRAIN, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if line.startswith("update 8"):
                break
        process.send_signal(number)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 128 + number
    assert "finishing this update" in err
    assert ended_in_order()


def test_a_terminal_that_is_gone_does_not_keep_a_search_from_its_end():
    terminal, theirs = pty.openpty()
    # a session's leader gets its first terminal to control it, and the hang-up of it
    leader = "import os, sys; os.open(os.ttyname(0), os.O_RDWR); os.execv(sys.argv[1], sys.argv[1:])"
    child = subprocess.Popen(
        [sys.executable, "-c", leader, *TRAIN, "--json"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    seen = b""
    while b"update" not in seen:
        seen += os.read(terminal, 4096)
    os.close(terminal)  # the kernel hangs up: HUP, and every write fails
    assert child.wait(120) == 128 + signal.SIGHUP
    assert ended_in_order()


def test_a_hang_up_that_was_ignored_from_the_start_stays_ignored():
    code = (
        "import os, signal, time; from policysearch.cli.interruption import raising\n"
        "with raising():\n"
        "    os.kill(os.getpid(), signal.SIGHUP)\n"
        "    time.sleep(0.1)\n"
        "print('went on')\n"
    )
    command = ["nohup", sys.executable, "-c", code]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
    assert done.stdout == "went on\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_what_is_held_is_finished_and_then_the_first_request_is_followed(number):
    finished = []

    def work():
        with raising(), Held():
            signal.raise_signal(number)
            signal.raise_signal(signal.SIGTERM)
            time.sleep(0.01)
            finished.append(True)

    before = signal.getsignal(number)
    with pytest.raises(Interrupted) as raised:
        work()
    assert finished
    assert raised.value.number == number
    assert signal.getsignal(number) is before
