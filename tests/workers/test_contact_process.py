"""Environments in their worker processes: who imports them, where their output goes, what they cannot do to a run."""

import gc
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from policysearch.cli import main
from policysearch.core.controller import Controller
from policysearch.core.controller_file import content
from policysearch.core.policies import Parameters
from policysearch.core.specification import OK, Specification
from policysearch.methods.settings import ARS, NaturalGradient
from policysearch.runners.pool import Workers
from policysearch.runs.reader import open_run
from policysearch.search.rig import Rig
from policysearch.search.search import Search
from policysearch.tasks import resolve
from policysearch.tasks.gymnasium_task import GymnasiumTask
from policysearch.workers import process

TESTS = str(Path(__file__).parents[1])
STILL = Controller({"policy": "linear_gaussian"}, {"gain": np.zeros((1, 2))})
METHOD = ARS(version="v1", directions=2)


def odd(name, horizon=20, timeout=None, **options):
    return GymnasiumTask(f"odd_environments:{name}", horizon=horizon, environment_options=options, timeout=timeout)


def searched(task, **settings):
    """θ after three updates, and the search."""
    with Search(task, METHOD, policy="linear", budget="3updates", workers=1, **settings) as search:
        search.run()
        assert search.reason == ""
        return np.asarray(search.policy.theta("parameter")), search


def command(*arguments, cwd, **environment):
    """A command in a process of its own."""
    line = [sys.executable, "-m", "policysearch", *arguments]
    given = os.environ | {"PYTHONPATH": TESTS} | environment
    return subprocess.run(line, cwd=cwd, env=given, capture_output=True, text=True, timeout=120)


def test_json_is_alone_on_standard_output_whatever_an_environment_prints(tmp_path):
    flags = ("--horizon", "5", "--method", "ars", "--budget", "1updates", "--workers", "2", "--json", "--out", "run")
    done = command("train", "odd_environments:Loud", *flags, cwd=tmp_path, ODD_PRINTS="1")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["updates"] == 1
    said = ("print", "write", "os.write", "original", "puts", "logging", "program")
    assert "printed at import" in done.stderr
    for where in ("init", "reset", "step", "close"):
        for how in said:
            assert f"{how} {where}" in done.stderr
    done = command("evaluate", "run", "--rollouts", "2", cwd=tmp_path, ODD_PRINTS="1")
    assert done.stdout.startswith("return ")
    assert not any(f"{how} " in done.stdout for how in (*said, "printed"))
    assert "puts step" in done.stderr


COST = """
import ctypes, os
os.chdir("/")
print("printed at import", flush=True)
def cost(values):
    print("printed by the cost", flush=True)
    ctypes.CDLL(None).puts(b"printed below Python")
    os.chdir("/")
    return float(values @ values)
cost.initial = (1.0, 2.0)
"""


def test_code_that_goes_elsewhere_and_prints_leaves_the_run_where_it_was_asked_for(tmp_path):
    (tmp_path / "fit.py").write_text(COST)
    done = command("train", "fit.py:cost", "--budget", "3updates", "--json", "--out", "deep/run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["folder"] == str(tmp_path / "deep" / "run")
    assert (tmp_path / "deep" / "run" / "policy.safetensors").exists()
    assert (tmp_path / "deep" / "run" / "curve.png").exists()
    configuration = json.loads((tmp_path / "deep" / "run" / "config.json").read_text())
    assert configuration["directory"] == str(tmp_path)
    for what in ("at import", "by the cost", "below Python"):
        assert f"printed {what}" in done.stderr
    done = command("resume", "deep/run", "--budget", "5updates", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "5 updates" in done.stdout
    assert "saved: deep/run/policy.safetensors" in done.stdout


def test_environments_are_imported_by_workers_alone(tmp_path):
    code = (
        "import sys\n"
        "from policysearch.tasks import resolve\n"
        "names = ['odd_environments:Sound', 'odd_environments:Odd/Closure-v0', 'odd_environments:Odd/Partial-v0']\n"
        "tasks = [resolve(name, horizon=20) for name in [*names, sys.argv[1]]]\n"
        "there = [name in sys.modules for name in ('odd_environments', 'gymnasium')]\n"
        "print([task.horizon for task in tasks], *there)\n"
    )
    path = f"{TESTS}/odd_environments.py:Sound"
    done = subprocess.run(
        [sys.executable, "-c", code, path],
        env=os.environ | {"PYTHONPATH": TESTS},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[20, 20, 20, 20] False False\n"


def test_registrations_that_are_closures_run_where_their_package_is_named():
    for name in ("Odd/Closure-v0", "Odd/Partial-v0"):
        with Workers(GymnasiumTask(f"odd_environments:{name}"), workers=2) as workers:
            assert np.all(workers.evaluate(STILL, 0, 6).outcome == OK)


def test_what_an_environment_does_to_its_process_changes_no_number(tmp_path):
    here = os.getcwd()
    theta, _ = searched(odd("Sound"))
    assert np.any(theta != 0)
    rude, search = searched(odd("Rude", place=str(tmp_path)))
    assert np.array_equal(rude, theta)
    assert search.events == []
    assert os.getcwd() == here


@pytest.mark.parametrize("how", ["raise", "interrupt", "exit", "hang"])
def test_a_close_costs_no_result_and_holds_nothing_up(how, monkeypatch):
    monkeypatch.setattr(process, "GRACE", 0.5)
    task = odd("ClosesBadly", how=how)
    start = time.monotonic()
    with Workers(task, workers=2) as workers:
        workers.start()
        pids = [worker.process.pid for worker in workers._workers]
        assert np.all(workers.evaluate(STILL, 0, 4).outcome == OK)
        before = time.monotonic()
    assert time.monotonic() - before < 5.0 < time.monotonic() - start + 10.0
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_an_environment_that_cannot_be_closed_is_made_anew_after_a_fault_all_the_same(tmp_path):
    with Workers(odd("BreaksOnce", marker=str(tmp_path / "broke")), workers=1) as workers:
        came = workers.evaluate(STILL, 0, 3)
    assert np.all(came.outcome == OK)
    assert [(event.trial, event.kind) for event in came.events] == [(0, "raised")]


def test_the_folder_of_trials_stays_where_it_was_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rig = Specification(name="servo", repeatable=False)
    with Rig(rig, "weight_perturbation", policy=Parameters(["kp"], [1.0]), folder="run") as search:
        monkeypatch.chdir("/")
        while not search.updates:
            search.tell(search.ask(), cost=1.0)
    assert (tmp_path / "run" / "policy.safetensors").exists()
    assert len(open_run(tmp_path / "run").records) == 1


def test_a_run_whose_environment_cannot_be_closed_is_saved_and_ends_well(tmp_path, capsys):
    for name in ("CloseRaises", "CloseExits", "CloseHangs"):
        out = tmp_path / name
        flags = ["--horizon", "5", "--method", "ars", "--budget", "1updates", "--workers", "1", "--out", str(out)]
        assert main.main(["train", f"odd_environments:{name}", *flags, "--evaluation-rollouts", "1"]) == 0
        assert "1 update in" in capsys.readouterr().out
        assert (out / "policy.safetensors").exists()


@pytest.mark.parametrize(
    ("where", "said"), [("init", "in making it"), ("reset", r"in reset\(\)"), ("step", r"in step\(\)")]
)
def test_an_environment_that_ends_its_process_is_refused_with_the_call(where, said):
    with pytest.raises(ValueError, match=f"odd_environments:Stuck ended its process, with exit code 5, {said}"):
        odd("Stuck", where=where, how="exit")


@pytest.mark.parametrize("where", ["reset", "step"])
def test_an_environment_that_does_not_come_back_is_refused_with_the_place(where):
    start = time.monotonic()
    with pytest.raises(ValueError, match=rf"did not return from {where}\(\) within 1 s(?s:.*) in now") as caught:
        odd("Stuck", where=where, how="hang", timeout=1.0)
    assert time.monotonic() - start < 20.0
    assert "--timeout" in str(caught.value)


def test_an_environment_that_cannot_be_made_is_refused_with_the_line():
    with pytest.raises(ValueError, match=r"could not be made: OSError: the licence was lost \(.*line \d+, in now\)"):
        odd("Stuck", where="init", how="raise")
    with pytest.raises(ValueError, match=r"could not be made: SystemExit: 4 \("):
        odd("Stuck", where="init", how="sys.exit")
    with pytest.raises(ValueError, match=r"odd_environments has no 'Soun'\. Nearest: Sound"):
        odd("Soun")
    with pytest.raises(ValueError, match=r"it must return a gymnasium\.Env"):
        odd("OldBox")
    with pytest.raises(ValueError, match="takes arguments"):
        odd("mass")


def test_limits_to_be_on_the_safe_side_change_nothing_of_what_is_learned():
    for method in (ARS(version="v2", directions=2), NaturalGradient(rollouts=4, baseline="running")):
        found = []
        for limit in (1.0, 900.0, float("inf")):
            with Search(odd("Bounded", limit=limit), method, policy="linear", budget="2updates", workers=1) as search:
                start = content(search.policy.controller())
                search.run()
                found.append(content(search.policy.controller()))
                assert found[-1] != start
        assert found[0] == found[1] == found[2]


def test_partners_share_a_seed_only_where_seeds_repeat_a_rollout():
    with pytest.warns(UserWarning, match="equal seeds give different rollouts"):
        noisy = odd("Noisy")
    for task, common in ((odd("Sound"), True), (noisy, False)):
        with Search(task, METHOD) as search:
            assert search.method.explore.common is common
            shared = search.layout.environment
            assert (len(np.unique(shared)) < len(shared)) is common


def test_what_observations_were_flattened_from_is_in_the_record(tmp_path):
    flags = [
        "--horizon",
        "5",
        "--method",
        "ars",
        "--budget",
        "1updates",
        "--workers",
        "1",
        "--out",
        str(tmp_path / "run"),
    ]
    assert main.main(["train", "odd_environments:Mixed", *flags, "--evaluation-rollouts", "1"]) == 0
    configuration = json.loads((tmp_path / "run" / "config.json").read_text())
    assert configuration["observation_layout"]["gears"] == [7, 12]
    assert configuration["fixed_actions"] == {}


def test_an_environment_in_a_file_is_trained_wherever_the_worker_is(tmp_path, monkeypatch):
    (tmp_path / "arm.py").write_text(Path(TESTS, "odd_environments.py").read_text())
    monkeypatch.chdir(tmp_path)
    task = resolve("arm.py:Elsewhere", horizon=20, environment_options={"note": str(tmp_path / "note")})
    monkeypatch.chdir("/")
    assert task.specification.name == "arm.py:Elsewhere"
    with Workers(task, workers=2) as workers:
        workers.start()
        assert np.all(workers.evaluate(STILL, 0, 4).outcome == OK)
    assert set((tmp_path / "note").read_text().split()) == {str(tmp_path)}


def test_the_worker_that_has_met_an_environment_runs_its_trials_or_ends_with_the_task():
    task = odd("Sound")
    pid = task._waiting._worker.process.pid
    copied = task.with_survival_bonus(1.0)
    with Workers(copied, workers=1) as workers:
        workers.start()
        assert [worker.process.pid for worker in workers._workers] == [pid]
        with Workers(task, workers=1) as others:
            others.start()
            assert others._workers[0].process.pid != pid
    task = odd("Sound")
    pid = task._waiting._worker.process.pid
    assert Path(f"/proc/{pid}").exists()
    del task
    gc.collect()
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("FetchReach-v4", "pip install gymnasium-robotics, then use gymnasium_robotics:FetchReach-v4"),
        ("PandaReach-v3", "panda_gym:PandaReach-v3"),
        ("MiniGrid-Empty-5x5-v0", "minigrid:MiniGrid-Empty-5x5-v0"),
        ("dm_control/cartpole-balance-v0", r"'shimmy\[dm-control\]', then use shimmy:dm_control/cartpole-balance-v0"),
        ("ALE/Pong-v5", "ale_py:ALE/Pong-v5"),
        ("Meta-World/MT1", "metaworld:Meta-World/MT1"),
        ("HopperBulletEnv-v0", "pybullet_envs_gymnasium:HopperBulletEnv-v0"),
        ("highway-fast-v0", "highway_env:highway-fast-v0"),
        ("no_such_package:Arm-v0", "there is no package 'no_such_package' here"),
        ("panda_gym:PandaReach-v3", "no package 'panda_gym' here. .*pip install panda-gym"),
        ("odd_environments:Odd/Closur-v0", "Nearest: Odd/Closure-v0"),
        ("HalfChetah-v5", "Nearest: HalfCheetah-v"),
        ("Unheard-v7", "package:Id"),
    ],
)
def test_an_id_that_is_not_known_names_the_package_or_what_is_near(name, message):
    with pytest.raises(ValueError, match=message):
        resolve(name)
