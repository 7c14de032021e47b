"""A command run as a trial: what its end says, what is left of it, and who ends it. Real processes and signals."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from policysearch.cli import supervisor, trial_process
from policysearch.cli.keeper import LOCK, Conduct, Keeper
from policysearch.cli.trial_process import finish_previous, forbids, run_trial

#: a driver without a search: `driver.py COMMAND …` runs one trial after another in this folder
DRIVER = """
import sys
from pathlib import Path
from policysearch.cli import interruption
from policysearch.cli.keeper import Conduct, Keeper
from policysearch.cli.trial_process import run_trial, finish_previous
with interruption.raising(), Keeper(Conduct(grace=GRACE, on_abort=ABORT), Path()) as keeper:
    finish_previous(keeper, lambda words: print(words, flush=True))
    while True:
        print(run_trial(sys.argv[1:], keeper, 3), flush=True)
"""


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def told(script, **conduct):
    """The outcome of a shell script, and how it ended."""
    with Keeper(Conduct(**conduct)) as keeper:
        return run_trial(["sh", "-c", script], keeper)


def brought(script, **conduct):
    return told(script, **conduct)[0]


def written(name="log"):
    return Path(name).read_text().split() if Path(name).exists() else []


def wait_for(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.01)


def lives(pid):
    """Whether a process is still running; a zombie is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


# the cost


@pytest.mark.parametrize(
    ("output", "cost"),
    [
        (r"10 %%\r50 %%\r100 %%\r1.5", 1.5),
        (r"1.5\n\n  \n", 1.5),
        (r"2\r\n1.5\r\n", 1.5),
        (r"\033[1mdone\033[0m\n\033[32m1.5\033[0m\n\033[0m\n", 1.5),
        (r"20 \260C\n1.5\n", 1.5),
        (r"1.5\000\000\n", 1.5),
        (r"\357\273\2771.5\n", 1.5),
        (r"-.5e-1", -0.05),
        (r"+3", 3.0),
    ],
)
def test_the_cost_is_the_last_line_that_is_not_blank(output, cost):
    assert brought(f"printf -- '{output}'") == {"cost": cost}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("1,5", "Decimals take a point"),
        ("1_5", "is '1_5'; it must be the cost, a number. The trial"),
        ("cost: 3", "is 'cost: 3'"),
        ("0x10", "is '0x10'"),
        ("1.5 V", "is '1.5 V'"),
        ("٣", "is '٣'"),
        ("", "is missing"),
        ("20 \\260C", "is '20 �C'"),
    ],
)
def test_a_last_line_that_is_no_number_is_refused_in_words(line, words):
    with pytest.raises(ValueError, match=r"The trial is still open") as error:
        brought(f"printf '5\n{line}\n'" if line else "true")
    assert words in str(error.value)


@pytest.mark.parametrize("word", ["nan", "-nan", "inf", "-Infinity", "1e999"])
def test_a_cost_that_is_not_finite_is_a_failure_of_the_parameters(word):
    assert "its cost is" in brought(f"echo {word}")["failed"]


def test_much_output_and_one_endless_line_cost_neither_memory_nor_the_result():
    script = "head -c 100000000 /dev/zero | tr '\\0' x; echo; yes | head -c 20000000; echo 7"
    with Keeper() as keeper:
        assert run_trial(["sh", "-c", script], keeper)[0] == {"cost": 7.0}
        status = Path(f"/proc/{keeper._process.pid}/status").read_text()
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    assert peak < 100_000  # kB
    with pytest.raises(ValueError, match="1111…") as error:
        brought("head -c 1000000 /dev/zero | tr '\\0' 1")
    assert len(str(error.value)) < 500


# what is left


@pytest.mark.parametrize("late", ["sleep 60; echo late", "sleep 0.1; echo 9", "exec sleep 60 > /dev/null"])
def test_the_process_is_waited_for_and_not_its_pipe(late):
    result, ended = told(f"({late}) & echo 1.5")
    assert result == {"cost": 1.5}
    assert ended.left >= 1
    assert ended.seconds < 30


def test_a_line_that_comes_through_another_process_is_read():
    with Keeper() as keeper:
        assert run_trial(["bash", "-c", "exec > >(sleep 0.05; cat); echo 4.5"], keeper)[0] == {"cost": 4.5}


def test_what_a_trial_leaves_behind_is_asked_to_end_before_the_next_one_and_killed_if_it_does_not():
    stubborn = "trap '' TERM; echo stubborn $$ >> log; sleep 600 & wait; sleep 600"
    polite = 'trap "echo polite \\$\\$ >> log; exit" TERM; sleep 600 & wait'
    script = (
        f"sh -c '{stubborn}' & setsid sh -c '{polite}' & (setsid sh -c 'echo far $$ >> log; exec sleep 600' &)\n"
        "while [ ! -s log ] || [ $(wc -l < log) -lt 2 ]; do sleep 0.01; done; sleep 0.2; echo 1"
    )
    result, ended = told(script, grace=0.5)
    assert result == {"cost": 1.0}
    assert ended.left >= 3
    words = written()
    assert {"stubborn", "polite", "far"} <= set(words)
    assert not any(lives(pid) for pid in words if pid.isdigit())


def test_a_timeout_asks_first_and_then_kills_all_that_a_trial_started():
    polite = told("trap 'echo off >> log; exit 1' TERM; sleep 600 & sleep 600; echo 1", timeout=0.3)
    assert polite[0] == {"timed_out": "no result within 0.3 s"}
    assert written() == ["off"]
    assert polite[1].seconds < 4
    stubborn = told("trap '' TERM; echo $$ >> log; while :; do sleep 0.1; done", timeout=0.3, grace=0.4)
    assert stubborn[0] == {"timed_out": "no result within 0.3 s"}
    assert stubborn[1].seconds >= 0.7
    assert not lives(written()[-1])


def test_a_trap_may_start_programs_and_print_within_the_grace():
    trap = "sleep 0.2; yes | head -c 200000; yes >&2 | head -c 1; sh -c 'echo off >> log'; exit 1"
    assert "timed_out" in brought(f'trap "{trap}" TERM; sleep 600', timeout=0.2)
    assert written() == ["off"]


def test_a_stopped_process_is_continued_so_that_its_trap_runs():
    assert "timed_out" in brought("trap 'echo off >> log; exit 1' TERM; kill -STOP $$; sleep 600", timeout=0.3)
    assert written() == ["off"]


def test_a_trial_has_the_signals_of_a_fresh_process():
    command = "grep -E 'Sig(Blk|Ign)' /proc/self/status | grep -v 0000000000000000; echo 1"
    with Keeper() as keeper:
        assert run_trial(["sh", "-c", command], keeper)[1].out == "1"
        _, ended = run_trial(["sh", "-c", f'[ -z "$({command} | head -n -1)" ] && echo 1'], keeper)
    assert ended.code == 0


def test_a_command_that_began_after_the_request_is_asked_too_before_the_kill():
    """As if a shell got the signal just before it started a command: its trap waits for that command."""
    assert "timed_out" in brought("trap 'sleep 600; echo off >> log; exit 1' TERM; sleep 600", timeout=0.3, grace=1.5)
    assert written() == ["off"]


def test_a_command_that_lost_the_request_while_it_was_executed_is_asked_again():
    """The moment between a shell's fork and its child's exec, drawn out: the child is asked, then forgets it."""
    child = "import os, signal, sys; signal.signal(signal.SIGTERM, lambda *_: os.execvp('sleep', ['sleep', '600']))"
    script = f"trap 'echo off >> log; exit 1' TERM; {sys.executable} -c \"{child}; signal.pause()\""
    assert "timed_out" in brought(script, timeout=1.0, grace=1.5)
    assert written() == ["off"]


# exit codes


@pytest.mark.parametrize(
    ("script", "told_as", "reason"),
    [
        ("echo stalled; exit 7", "failed", "exit code 7: stalled"),
        ("echo stalled; echo 24 V are low >&2; exit 7", "failed", "exit code 7: stalled; 24 V are low"),
        ("exit 75", "lost", "exit code 75"),
        ("exit 4", "safety_stop", "exit code 4"),
        ("kill -KILL $$", "lost", "signal SIGKILL"),
        ("kill -TERM $$", "lost", "signal SIGTERM"),
        ("kill -SEGV $$", "failed", "signal SIGSEGV"),
        ("exit 137", "lost", "exit code 137"),
        ("exit 139", "failed", "exit code 139"),
    ],
)
def test_an_exit_code_says_whose_fault_it_was(script, told_as, reason):
    assert brought(script, safety_exit=4) == {told_as: reason}


@pytest.mark.parametrize("script", ["no-such-command", "exit 126", "exit 127", "/"])
def test_exit_codes_of_commands_that_cannot_be_run_are_the_script_s_fault(script):
    with pytest.raises(ValueError, match=r"12[67] means .* the script is wrong, not the parameters"):
        brought(script)


def script_file(name, text, mode=0o755):
    Path(name).write_bytes(text)
    Path(name).chmod(mode)
    return f"./{name}"


@pytest.mark.parametrize(
    ("text", "mode", "words"),
    [
        (b"#!/bin/sh\necho 1\n", 0o644, "chmod +x ./trial.sh"),
        (b"#!/bin/sh\r\necho 1\r\n", 0o755, "carriage return"),
        (b"#!/no/such/program\n", 0o755, "first line"),
        (b"echo 1\n", 0o755, "#!/bin/sh"),
        (None, 0, "Give a program"),
    ],
)
def test_a_command_that_cannot_be_started_is_refused_with_what_to_do(text, mode, words):
    if text is not None:
        script_file("trial.sh", text, mode)
    for run in (run_trial, forbids):
        with pytest.raises(OSError, match=r"\./trial\.sh cannot be started") as error:
            run(["./trial.sh"])
        assert words in str(error.value)
    with pytest.raises(OSError, match="cannot be started"):
        run_trial(["trial.sh"])


def test_words_of_any_encoding_reach_the_command():
    odd = os.fsdecode(b"\xff\xfe caf\xc3\xa9 \n {}")
    assert run_trial([sys.executable, "-c", "import os,sys; print(len(os.fsencode(sys.argv[1])))", odd])[0] == {
        "cost": len(os.fsencode(odd))
    }


@pytest.mark.parametrize("script", ["exit 126", "no-such-command", "kill -KILL $$", "sleep 60"])
def test_a_veto_that_gives_no_answer_neither_allows_nor_forbids(script, monkeypatch):
    monkeypatch.setattr(trial_process, "VETO_SECONDS", 0.5)
    with pytest.raises(ValueError, match=r"gave no answer.*The trial is still open"):
        forbids(["sh", "-c", script])


def test_a_veto_forbids_with_what_it_said():
    assert forbids(["sh", "-c", "echo too high; exit 3"]) == "exit code 3: too high"


# what is run after an abort


ABORT = ["sh", "-c", "echo safe >> log"]


@pytest.mark.parametrize("script", ["exit 4", "kill -SEGV $$", "kill -KILL $$", "exit 134", "sleep 600"])
def test_after_an_end_that_was_not_orderly_the_machine_is_made_safe(script):
    brought(script, on_abort=ABORT, safety_exit=4, timeout=0.5)
    assert written() == ["safe"]


def test_after_a_broken_script_the_machine_is_made_safe():
    with pytest.raises(ValueError, match="127"):
        brought("no-such-command", on_abort=ABORT)
    assert written() == ["safe"]


@pytest.mark.parametrize("script", ["echo 1", "exit 1", "exit 75", "(sleep 60) & echo 1"])
def test_after_an_orderly_end_it_is_left_alone(script):
    brought(script, on_abort=ABORT, safety_exit=4)
    assert written() == []


def test_it_comes_after_the_last_process_of_the_trial_has_ended():
    script = "(trap '' TERM; while :; do echo moving >> log; sleep 0.02; done) & sleep 600"
    brought(script, on_abort=ABORT, timeout=0.3, grace=0.3)
    assert written()[-1] == "safe"
    assert written().count("safe") == 1


@pytest.mark.parametrize(
    ("command", "words"),
    [(["sh", "-c", "echo no bus; exit 3"], "exit code 3: no bus"), (["./none"], "cannot be started")],
)
def test_no_other_trial_is_started_before_it_went_well(command, words):
    refusal = pytest.raises(RuntimeError, match=r"must succeed before another trial is started")
    with Keeper(Conduct(timeout=0.2, on_abort=command), Path()) as keeper, refusal as error:
        run_trial(["sleep", "600"], keeper, 5)
    assert words in str(error.value)
    said = []
    with Keeper(Conduct(on_abort=command), Path()) as keeper, pytest.raises(RuntimeError, match="must succeed"):
        finish_previous(keeper, said.append)
    with Keeper(Conduct(on_abort=ABORT), Path()) as keeper:
        finish_previous(keeper, said.append)
        assert run_trial(["echo", "1"], keeper)[0] == {"cost": 1.0}
    assert said == ["trial 5 of the previous run did not end cleanly"] * 2
    assert written() == ["safe"]
    assert not Path(LOCK).exists()


def test_it_has_its_own_limit_in_time(monkeypatch, tmp_path):
    # the supervisor is a program of its own: a copy of it with a shorter limit
    text = (
        Path(supervisor.__file__)
        .read_text()
        .replace("ON_ABORT_SECONDS, GONE_SECONDS = 60.0", "ON_ABORT_SECONDS, GONE_SECONDS = 0.3")
    )
    (tmp_path / "supervisor.py").write_text(text)
    monkeypatch.setattr(supervisor, "__file__", str(tmp_path / "supervisor.py"))
    with pytest.raises(RuntimeError, match=r"failed: timed out after 0\.3 s: busy"):
        brought("kill -SEGV $$", on_abort=["sh", "-c", "echo $$ > log; echo busy; sleep 600"])
    assert not lives(written()[0])


# deaths


#: has a trap, a child that it waits for, one that it does not, and one in another session
TRIAL = (
    "#!/bin/sh\n"
    "trap 'sleep 0.1; echo \"trap $$\" >> log; exit 143' TERM\n"
    "for pid in $(cat pids 2> /dev/null); do "
    "if grep -q . /proc/$pid/cmdline 2> /dev/null; then echo beside >> log; fi; done\n"
    "sleep 600 & echo $! >> pids\n"
    "setsid sleep 600 & echo $! >> pids\n"
    "echo $$ >> pids\n"
    "echo started >> log\n"
    "sleep 600\n"
)


def driver(grace=5.0, abort=ABORT, trial=TRIAL):
    script_file("trial.sh", trial.encode())
    code = DRIVER.replace("GRACE", str(grace)).replace("ABORT", repr(abort))
    process = subprocess.Popen(
        [sys.executable, "-c", code, "./trial.sh"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    before = written().count("started")
    wait_for(lambda: written().count("started") > before or process.poll() is not None)
    return process


def pids():
    return [int(word) for word in written("pids")]


def parent(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def commands(pid):
    """Names of the programs that a process's children run."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [Path(f"/proc/{child}/comm").read_text().strip() for child in children]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL])
def test_a_trial_ends_with_its_driver_whatever_the_death(number):
    with driver() as process:
        process.send_signal(number)
        process.wait()
        wait_for(lambda: not any(map(lives, pids())) and "safe" in written())
        said = process.stdout.read()
    assert written() == ["started", "trap", str(pids()[2]), "safe"]
    assert ("is asked to end" in said) == (number != signal.SIGKILL)


def test_a_trial_ends_with_its_supervisor_and_the_driver_says_so():
    with driver() as process:
        os.kill(parent(pids()[2]), signal.SIGKILL)
        process.wait()
        assert not any(map(lives, pids()))
        assert "was ended from outside; it ended the trial, which is still open" in process.stdout.read()
    assert written() == ["started", "trap", str(pids()[2]), "safe"]


def test_a_supervisor_that_is_asked_to_end_does_its_duty_first():
    with driver() as process:
        os.kill(parent(pids()[2]), signal.SIGTERM)
        process.wait()
        assert not any(map(lives, pids()))
        assert "is still open" in process.stdout.read()
    assert written() == ["started", "trap", str(pids()[2]), "safe"]


def test_a_trial_that_is_killed_leaves_nothing_and_the_machine_is_made_safe():
    with driver() as process:
        os.kill(pids()[2], signal.SIGKILL)
        wait_for(lambda: written().count("started") == 2)
        assert not any(map(lives, pids()[:3]))
        process.terminate()
        process.wait()
    assert written()[:3] == ["started", "safe", "started"]


def test_where_driver_and_supervisor_are_killed_together_the_trap_runs_and_the_next_run_ends_the_rest():
    with driver() as process:
        # it is not asked again, so the shell must have started all its commands
        wait_for(lambda: commands(pids()[2]) == ["sleep"] * 3)
        for pid in (process.pid, parent(pids()[2])):
            os.kill(pid, signal.SIGKILL)
        process.wait()
        wait_for(lambda: "trap" in written())
    first = pids()
    with driver() as process:
        assert not any(map(lives, first))
        assert "beside" not in written()
        process.terminate()
        process.wait()
        said = process.stdout.read()
    assert f"trial 3 of the previous run did not end cleanly; its processes [{first[1]}] are ended now" in said
    assert written()[:5] == ["started", "trap", str(first[2]), "safe", "started"]


def test_a_restart_waits_for_the_trial_that_still_ends():
    slow = TRIAL.replace("sleep 0.1", "sleep 1.5")
    with driver(trial=slow) as process:
        process.kill()
        process.wait()
    with driver(trial=slow) as process:
        process.terminate()
        process.wait()
        assert "a trial of the previous run is being ended; the next one waits for it" in process.stdout.read()
    assert written()[:5] == ["started", "trap", str(pids()[2]), "safe", "started"]
    assert "beside" not in written()


def test_more_requests_skip_neither_the_kill_nor_what_follows():
    stubborn = TRIAL.replace("sleep 600\n", "while :; do sleep 0.1; done\n").replace(
        "trap '", "trap 'echo asked >> log; while :; do sleep 0.1; done; "
    )
    with driver(grace=1.0, trial=stubborn) as process:
        process.send_signal(signal.SIGINT)
        wait_for(lambda: "asked" in written())
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            process.send_signal(number)
            time.sleep(0.1)
        assert process.poll() is None
        process.wait()
        assert "trial 3 is still being ended" in process.stdout.read()
    assert not any(map(lives, pids()))
    assert written() == ["started", "asked", "safe"]


def test_a_driver_that_shows_nothing_does_not_hold_up_the_timeout(monkeypatch):
    """Standard error is a pipe without a reader: the program may block, ending it may not."""
    reading, writing = os.pipe()
    with open(writing, "w") as full:
        monkeypatch.setattr(sys, "stderr", full)
        script = "trap 'echo off >> log; exit 1' TERM; yes >&2"
        outcome = []
        thread = threading.Thread(target=lambda: outcome.append(brought(script, timeout=0.5)))
        thread.start()
        wait_for(lambda: written() == ["off"])
        os.set_blocking(reading, False)
        while thread.is_alive():
            with contextlib.suppress(BlockingIOError):
                os.read(reading, 1 << 16)
            time.sleep(0.001)
        monkeypatch.undo()
    os.close(reading)
    assert outcome == [{"timed_out": "no result within 0.5 s"}]
