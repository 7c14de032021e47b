"""`policysearch` and a PID: flags, the folder's policy, and the commands that read it."""

import json

import pytest

from policysearch import load
from policysearch.cli.main import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of a PID, from the shell."""
    path = tmp_path_factory.mktemp("pid") / "run"
    flags = "--policy pid --kp 1.5 --kd 0.8 --observation position --setpoint 0.0 --filter 0.05 --fixed kd"
    assert main(f"train double-integrator {flags} --budget 80 --out {path}".split()) == 0
    return path


def test_flags_become_gains_and_the_method_perturbs_parameters(folder):
    controller = load(folder)
    values = controller.values()
    assert (values["ki"], values["kd"]) == (0.0, pytest.approx(0.8))
    assert values["kp"] != 1.5
    configuration = json.loads((folder / "config.json").read_text())
    assert configuration["method"] == "ars"
    assert configuration["policy"]["observation"] == ["position"]


def test_evaluate_and_diagnose_read_the_run(folder, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # diagnose draws a picture where it is
    assert main(["evaluate", str(folder), "--rollouts", "5"]) == 0
    assert "cost" in capsys.readouterr().out
    assert main(["diagnose", str(folder), "--rollouts", "4", "--batches", "4"]) == 0
    out = capsys.readouterr().out
    assert "finite_differences" in out
    assert "reinforce" not in out


def test_the_report_gives_gains_times_and_the_law(folder, tmp_path, capsys):
    assert main(["report", str(folder), "--out", str(tmp_path / "report.html")]) == 0
    page = (tmp_path / "report.html").read_text()
    for words in ("A PID controller", "back", "kp", "Ti", "0.8", "−position [m]", "It acts every 0.05 s"):
        assert words in page, words


@pytest.mark.slow
def test_render_makes_a_film_of_it(folder, tmp_path):
    assert main(["render", str(folder), "--out", str(tmp_path / "film.gif"), "--rollouts", "1"]) == 0
    assert (tmp_path / "film.gif").stat().st_size > 1000


def test_gains_of_another_policy_and_of_methods_that_sample_are_refused(capsys, tmp_path):
    assert main(["train", "double-integrator", "--kp", "1", "--out", str(tmp_path / "a")]) != 0
    assert "kp belongs to policy pid; here it is linear" in capsys.readouterr().err
    assert (
        main(["train", "double-integrator", "--policy", "pid", "--method", "trpo", "--out", str(tmp_path / "b")]) != 0
    )
    assert "PID has none. Use weight_perturbation" in capsys.readouterr().err
    assert main(["train", "double-integrator", "--policy", "pid", "--kp", "fast", "--out", str(tmp_path / "c")]) != 0
    assert "--kp is 'fast'" in capsys.readouterr().err


def test_list_has_it(capsys):
    assert main(["list", "policies"]) == 0
    assert "--kp" in capsys.readouterr().out
