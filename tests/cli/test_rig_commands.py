"""Trials from the shell: new, ask, tell, status."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from policysearch import Rig, open_run
from policysearch.cli.main import main

NEW = ["new", "rig", "--parameters", "kp=1.0:0:5", "kd=0.1:0.01:2:log", "--rollouts", "4", "--budget", "8"]


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "unused"))


def said(capsys, *arguments):
    capsys.readouterr()
    assert main(arguments) == 0
    return capsys.readouterr().out


def refused(capsys, *arguments):
    capsys.readouterr()
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured.err


def test_a_search_is_driven_from_the_shell_to_its_end(capsys):
    said(capsys, *NEW)
    for number in range(8):
        trial = json.loads(said(capsys, "ask", "rig"))
        assert trial == json.loads(said(capsys, "ask", "rig"))  # the same until it is told
        assert trial["trial"] == number
        assert 0 <= trial["values"]["kp"] <= 5
        if number == 1:
            said(capsys, "tell", "rig", "1", "--failed", "arm stalled")
        elif number == 2:
            Path("log.csv").write_text("t,cost\n0,1.0\n1,2.5\n")
            said(capsys, "tell", "rig", "2", "--rollout", "log.csv")
        elif number == 4:
            said(capsys, "tell", "rig", "4", "--lost", "cable", "--retry")
            assert json.loads(said(capsys, "ask", "rig"))["attempt"] == 2
            said(capsys, "tell", "rig", "4", "--cost", "2")
        else:
            words = said(capsys, "tell", "rig", str(number), "--cost", str((trial["values"]["kp"] - 2.0) ** 2))
            assert ("update" in words) == (number in (3, 7))
    assert "budget of 8 is spent" in refused(capsys, "ask", "rig")
    found = json.loads(said(capsys, "status", "rig", "--json"))
    assert found["trials"] == {"done": 7, "failed": 1}
    assert found["updates"] == 2
    assert found["failures"][0]["reason"] == "arm stalled"
    assert found["parameters"].keys() == {"kp", "kd"}
    assert "trial 1 failed, by the policy: arm stalled" in said(capsys, "status", "rig")
    assert open_run("rig").trials[2].cost == 3.5


def test_clients_get_trials_of_their_own(capsys):
    said(capsys, *NEW)
    ask = ["ask", "rig", "--client"]
    assert [json.loads(said(capsys, *ask, name))["trial"] for name in ("a", "b", "a")] == [0, 1, 0]
    assert "no result yet: trial 1 by b" in said(capsys, "status", "rig")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["new"], "Give DIR and --parameters"),
        (["new", "x", "--parameters", "kp"], "'kp' is not a parameter"),
        (["new", "x", "--parameters", "kp=1:2"], "it must look like NAME=INITIAL"),
        (["new", "x", "--parameters", "kp=9:0:5"], "kp starts at 9, outside its bounds"),
        (["new", "x", "--parameters", "kp=1", "--scales", "ki=2"], "'ki' is not a known parameter"),
        (["new", "x", "--parameters", "kp=1", "--method", "gpomdp"], "needs every stage of a feedback law"),
        (["new", "x", "--parameters", "kp=1", "--method", "cma"], "takes part in comparisons only"),
        (["new", "x", "--parameters", "kp=1", "--method", "ars", "--max-kl", "1"], "--max-kl is not a flag"),
        (["new", "x", "--parameters", "kp=1", "--budget", "0"], "at least 1"),
        (["ask", "nowhere"], "no folder nowhere"),
        (["tell", "rig", "0"], "one of the arguments"),
        (["tell", "rig", "x", "--cost", "1"], "TRIAL is 'x'"),
        (["tell", "rig", "0", "--cost", "1"], "Trial 0 is not open"),
    ],
)
def test_wrong_input_is_answered_with_what_is_allowed(capsys, arguments, words):
    if "rig" in arguments:
        said(capsys, *NEW)
    assert words in refused(capsys, *arguments)
    assert not Path("x", "run.sqlite").exists()


def test_status_and_help_import_no_jax(capsys):
    said(capsys, *NEW)
    code = (
        "import sys\n"
        "from policysearch.cli.main import main\n"
        "assert main(['status', 'rig']) == 0\n"
        "for name in ('new', 'ask', 'tell', 'run', 'status', 'resume'):\n"
        "    try:\n"
        "        main([name, '--help'])\n"
        "    except SystemExit:\n"
        "        pass\n"
        "assert 'jax' not in sys.modules\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0


def test_a_safety_stop_waits_for_a_person_who_may_go_back_to_the_incumbent(capsys):
    said(capsys, *NEW[:-2], "--measure", "1:2", "--largest-step", "kp=0.5", "--budget", "40")
    for number in range(6):
        trial = json.loads(said(capsys, "ask", "rig"))
        assert trial["purpose"] == ("gradient" if number < 4 else "measurement")
        said(capsys, "tell", "rig", str(number), "--cost", str((trial["values"]["kp"] - 2.0) ** 2))
    found = json.loads(said(capsys, "status", "rig", "--json"))
    assert found["measured"] == found["incumbent"] == pytest.approx(1.0, rel=1e-5)
    assert found["incumbent_parameters"] == pytest.approx({"kp": 1.0, "kd": 0.1})
    assert 0 < abs(found["parameters"]["kp"] - 1.0) <= 0.5001
    said(capsys, "ask", "rig")
    assert "policysearch resume rig" in said(capsys, "tell", "rig", "6", "--safety-stop", "the arm hit its stop")
    again = json.loads(said(capsys, "tell", "rig", "6", "--safety-stop", "the arm hit its stop", "--json"))
    assert "hit its stop" in again["halted"]
    assert "hit its stop" in refused(capsys, "ask", "rig")
    assert "WAITS: trial 6 ended by a safety stop" in said(capsys, "status", "rig")
    assert "continues after" in said(capsys, "resume", "rig", "--by", "Ada", "--back-to", "incumbent")
    assert json.loads(said(capsys, "status", "rig", "--json"))["parameters"] == pytest.approx({"kp": 1.0, "kd": 0.1})
    assert json.loads(said(capsys, "ask", "rig"))["trial"] == 7
    assert "incumbent, after update 0: 1 ± 0; kp 1, kd 0.1" in said(capsys, "status", "rig")


def test_a_result_told_beside_a_living_owner_is_left_for_it(capsys):
    said(capsys, *NEW)
    with Rig.open("rig") as owner:
        trials = [owner.ask() for _ in range(4)]
        assert "left for its owner" in said(capsys, "tell", "rig", "1", "--cost", "2.5")
        assert json.loads(said(capsys, "tell", "rig", "2", "--failed", "stalled", "--json")) == {
            "update": None,
            "left": True,
        }
        assert "never asked" in refused(capsys, "tell", "rig", "9", "--cost", "1")
        assert [trial.number for trial in owner.pending] == [0, 3]
        for trial in (trials[0], trials[3]):
            owner.tell(trial, cost=1.0)
        assert owner.updates == 1
    assert open_run("rig").trials[1].cost == 2.5


def test_status_says_what_it_can_where_the_policy_file_is_missing_or_damaged(capsys):
    said(capsys, *NEW)
    for number in range(4):
        said(capsys, "ask", "rig")
        said(capsys, "tell", "rig", str(number), "--cost", str(number))
    path = Path("rig/policy.safetensors")
    whole = path.read_bytes()
    path.unlink()
    assert "written when the search goes on" in said(capsys, "status", "rig")
    path.write_bytes(whole[:-3])
    text = said(capsys, "status", "rig")
    assert "policy.safetensors" in text
    assert "cost of the last update's trials: 1.5" in text
    assert "gradient SNR" in text


@pytest.mark.filterwarnings("always:Finite differences on a noisy task")
def test_what_is_said_of_differences_is_said_when_the_search_begins_and_not_again(capsys):
    assert main(["new", "fd", "--method", "finite_differences", "--parameters", "kp=1"]) == 0
    assert capsys.readouterr().err.count("No seed repeats a rollout here") == 1
    assert main(["ask", "fd"]) == main(["tell", "fd", "0", "--cost", "1"]) == 0
    assert capsys.readouterr().err == ""
