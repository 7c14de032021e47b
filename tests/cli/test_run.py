"""`policysearch run`: a command a trial, from the shell, with what a person sees of it."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from policysearch import open_run
from policysearch.cli.main import main

NEW = ["new", "rig", "--parameters", "kp=1.0:0:5", "kd=0.1:0.01:2:log", "--rollouts", "4", "--budget"]


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "unused"))


@pytest.fixture(autouse=True)
def a_search(own_folder, capfd):
    assert main([*NEW, "8"]) == 0
    capfd.readouterr()


def run(capfd, *arguments, code=0):
    """Standard output and error of `policysearch run rig …`."""
    capfd.readouterr()
    assert main(["run", "rig", *arguments]) == code
    captured = capfd.readouterr()
    assert "Traceback" not in captured.err
    return captured


def refused(capfd, *arguments):
    return run(capfd, *arguments, code=2).err


def script(text):
    Path("trial.py").write_text(text)
    return [sys.executable, "trial.py"]


def shell(text):
    return ["--", "sh", "-c", text]


def test_a_command_runs_every_trial_and_its_exit_code_counts(capfd):
    command = script(
        "import sys\n"
        "kp, kd = map(float, sys.argv[1:])\n"
        "open('ran', 'a').write(f'{kp} {kd}\\n')\n"
        "print('warming up')\n"
        "count = len(open('ran').readlines())\n"
        "if count == 3: print('stalled'); sys.exit(7)\n"
        "if count == 4: print('what'); sys.exit(0)\n"
        "if count == 6: import time; time.sleep(60)\n"
        "print((kp - 2) ** 2)\n"
    )
    words = refused(capfd, "--timeout", "20", "--", *command, "{kp}", "{kd}")
    assert "is 'what'; it must be the cost" in words
    found = json.loads(run(capfd, "--timeout", "3", "--json", "--", *command, "{kp}", "{kd}").out)
    # the trial that printed no number ran again
    ran = Path("ran").read_text().splitlines()
    assert ran[3] == ran[4]
    assert len(ran) == 9
    assert found["trials"] == {"done": 6, "failed": 1, "timed out": 1}
    assert found["failures"][0]["reason"] == "exit code 7: stalled"
    assert found["failures"][1]["fault"] == "rig"
    run(capfd, "--budget", "12", "--", *command, "{kp}", "{kd}")
    assert len(open_run("rig").trials) == 12


def test_a_command_may_forbid_trials_and_one_may_stop_the_machine(capfd):
    check = [sys.executable, "-c", "import sys; print('too high'); sys.exit(float(sys.argv[1]) > 1.0)"]
    veto = shlex.join([*check, "{kp}"])
    trial = script("import os, sys; n = len(os.listdir('.')); open(f'{n}.ran', 'w'); print(1.0); sys.exit(7 * (n > 8))")
    said = run(capfd, "--budget", "400", "--veto", veto, "--safety-exit", "7", "--", *trial, code=2)
    assert "exit code 7: 1.0" in said.err
    assert re.search(r"^trial \d+: kp .*: vetoed, exit code 1: too high$", said.out, re.MULTILINE)
    assert re.search(r"^trial \d+: kp .*: safety stop, exit code 7: 1\.0, \d+\.\d s$", said.out, re.MULTILINE)
    trials = open_run("rig").trials.values()
    assert {"exit code 1: too high"} == {trial.reason for trial in trials if trial.status == "vetoed"}
    assert [trial.status for trial in trials].count("safety stop") == 1


def test_a_trial_that_the_rig_lost_is_run_again_as_often_as_is_allowed(capfd):
    counting = "import os, sys; n = len(os.listdir('.')); open(f'{n}.ran', 'w'); print(2.0); "
    trial = script(counting + "sys.exit(75 * (n in (3, 5, 6, 7)))")
    out = run(capfd, "--budget", "4", "--attempts", "3", "--", *trial).out
    kept = open_run("rig").trials
    assert [(t.status, t.attempt) for t in kept.values()] == [("done", 1), ("done", 2), ("lost", 3), ("done", 1)]
    assert kept[2].reason == "exit code 75: 2.0"
    assert re.search(r"trial 2, attempt 2: kp .*: lost, exit code 75: 2\.0, .* s, asked again", out)


def test_each_trial_is_a_line_with_its_number_values_outcome_and_seconds(capfd):
    said = run(capfd, *shell("echo noise; echo trouble >&2; sleep 60 & echo 1.25"))
    lines = re.findall(
        r"^trial (\d): kp [\d.]+, kd [\d.]+: cost 1\.25, \d+\.\d s, ended 1 process that", said.out, re.M
    )
    assert lines == list("01234567")
    assert "update 2: mean cost of its trials 1.25" in said.out
    # what it says of trouble is shown as it comes, its other output only if that is asked for
    assert "noise" not in said.out + said.err
    assert said.err.count("trouble") == 8


def test_the_machine_s_output_is_shown_on_request_and_never_among_json(capfd):
    said = run(capfd, "--verbose", "--json", *shell("printf 'noise\\n1.25'"))
    assert json.loads(said.out)["trials"] == {"done": 8}
    assert said.err.count("noise\n1.25\ntrial ") == 8


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "run what?"),
        (["--", "echo", "{ki}"], "{ki} in echo '{ki}' is not a parameter"),
        (["--", "./nothing"], "cannot be started"),
        (["--on-abort", "./safe.sh {kp}", "--", "true"], "--on-abort ./safe.sh {kp}: ./safe.sh does not exist"),
        (["--on-abort", "echo {ki}", "--", "true"], "{ki} in echo '{ki}' is not a parameter"),
        (["--on-abort", "", "--", "true"], "--on-abort is empty"),
        (["--veto", "no-such-command", "--", "true"], "no-such-command does not exist"),
        (["--veto", "./rig", "--", "true"], "./rig is not executable"),
        (["--veto", "echo 'x", "--", "true"], "cannot be parsed: No closing quotation"),
        (["--grace", "-1", "--", "true"], "0 or more"),
        (["--grace", "nan", "--", "true"], "0 or more"),
        (["--grace", "soon", "--", "true"], "--grace is 'soon'"),
        (["--timeout", "inf", "--", "true"], "above 0"),
        (["--attempts", "0", "--", "true"], "at least 1"),
        (["--safety-exit", "75", "--", "true"], "not 75"),
        (["--safety-exit", "127", "--", "true"], "from 1 to 125"),
        (["--safety-exit", "0", "--", "true"], "from 1 to 125"),
    ],
)
def test_wrong_input_is_answered_with_what_is_allowed(capfd, arguments, words):
    assert words in refused(capfd, *arguments)
    assert all(trial.status == "asked" for trial in open_run("rig").trials.values())


@pytest.mark.parametrize("code", [126, 127])
@pytest.mark.parametrize("veto", [False, True])
def test_a_script_that_cannot_run_its_commands_stops_the_search_with_the_trial_open(capfd, code, veto):
    broken, fine = ["sh", "-c", f"exit {code}"], ["echo", "1"]
    given = ["--veto", shlex.join(broken), "--", *fine] if veto else ["--", *broken]
    assert "the script is wrong, not the parameters" in refused(capfd, *given)
    assert [trial.status for trial in open_run("rig").trials.values()] == ["asked"]
    run(capfd, "--", *fine)
    assert {trial.status for trial in open_run("rig").trials.values()} == {"done"}


def test_the_starting_gains_are_set_after_an_abort(capfd):
    """Also after updates have moved them."""
    trial = "n=$(ls *.ran 2> /dev/null | wc -l); touch $n.ran; [ $n -lt 5 ] || sleep 60; echo $1"
    told = run(capfd, "--timeout", "1", "--on-abort", "sh -c 'echo {kp} {kd} >> safe'", *shell(trial), "trial", "{kp}")
    assert re.search(r"trial 5: .*: timed out, no result within 1 s, .* s, --on-abort was run", told.out)
    kp, kd = map(float, Path("safe").read_text().splitlines()[0].split())
    assert (kp, kd) == pytest.approx((1.0, 0.1))
    assert len(Path("safe").read_text().splitlines()) == 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_request_to_end_leaves_the_trial_open_for_the_same_line(capfd, number):
    Path("trial.sh").write_text("#!/bin/sh\ntrap 'echo off >> log; exit 1' TERM\necho $1 >> ran\nsleep $2\necho 1\n")
    Path("trial.sh").chmod(0o755)
    command = [sys.executable, "-m", "policysearch", "run", "rig", "--", "./trial.sh", "{kp}"]
    with subprocess.Popen([*command, "600"], stderr=subprocess.PIPE, text=True) as process:
        while not Path("ran").exists() and process.poll() is None:
            time.sleep(0.01)
        time.sleep(0.2)
        process.send_signal(number)
        words = process.communicate()[1]
    assert process.returncode == 128 + number
    assert f"{number.name}: trial 0 is asked to end; after 5 s it is killed" in words
    assert "the same command continues" in words
    assert Path("log").read_text() == "off\n"
    assert [trial.status for trial in open_run("rig").trials.values()] == ["asked"]
    assert not {"trial.lock", "run.lock"} & set(os.listdir("rig"))
    run(capfd, "--", "./trial.sh", "{kp}", "0")
    ran = Path("ran").read_text().splitlines()
    assert ran[0] == ran[1]
    assert len(ran) == 9


@pytest.mark.slow
def test_deaths_of_each_kind_leave_nothing_and_run_every_trap():
    """Safe gains may come twice where the supervisor dies: once from it, and once from the next run."""
    benchmark = Path(__file__).parents[2] / "benchmarks" / "deaths.py"
    text = subprocess.run(
        [sys.executable, str(benchmark), "--deaths", "5"], check=True, capture_output=True, text=True, timeout=1800
    ).stdout
    for line in text.splitlines()[1:]:
        kind, *counts = line.split()[:7]
        deaths, beside, left, at_end, traps, safe = map(int, counts)
        assert (deaths, beside, left, at_end) == (5, 0, 0, 0), line
        assert safe >= 5 if kind in ("all-KILL", "supervisor-KILL") else safe == 5, line
        assert traps == (0 if kind == "trial-KILL" else 5), line
    assert len(text.splitlines()) == 8
