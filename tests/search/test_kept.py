"""Searches on simulated tasks that Python code keeps in a folder, as `policysearch train` does."""

import json
from pathlib import Path

import numpy as np
import pytest

from policysearch import PythonFunction, Rig, Search, Specification, open_run, train
from policysearch.cli.main import main


def bowl(values):
    return float(((values - 1.0) ** 2).sum())


def bowl_task():
    return PythonFunction(bowl, (0.0, 0.0))


def theta(search):
    return np.asarray(search.policy.theta("parameter")).tolist()


def test_a_search_that_is_cut_and_opened_again_ends_like_one_that_is_not(tmp_path):
    with Search("bowl", "weight_perturbation", budget="6updates", seed=4) as whole:
        whole.run()
    with Search("bowl", "weight_perturbation", budget="6updates", seed=4, folder=tmp_path / "run") as search:
        search.update()
        search.update()
    with Search.open(tmp_path / "run") as again:
        assert again.updates == 2
        again.run()
        assert theta(again) == theta(whole)
        assert len(again.records) == 6


def test_the_command_line_continues_what_python_started_by_a_name(tmp_path, capsys):
    with Search("bowl", budget="3updates", folder=tmp_path / "run") as search:
        search.update()
    assert main(["resume", str(tmp_path / "run"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["updates"] == 3


def test_a_task_that_only_code_makes_is_given_again(tmp_path, capsys):
    with Search(bowl_task(), budget="3updates", folder=tmp_path / "run") as search:
        search.update()
    with pytest.raises(ValueError, match="Give the same one"):
        Search.open(tmp_path / "run")
    assert main(["resume", str(tmp_path / "run")]) == 2
    assert "Search.open" in capsys.readouterr().err
    with Search.open(tmp_path / "run", bowl_task()) as again:
        again.run()
        assert again.updates == 3


def test_train_keeps_its_result_and_policy(tmp_path):
    result = train("bowl", budget="3updates", folder=tmp_path / "run")
    run = open_run(tmp_path / "run")
    assert run.result["cost_mean"] == result.evaluation.cost_mean
    assert run.result["updates"] == 3
    assert run.controller().values() == result.controller.values()


def test_a_new_budget_stays_and_a_spent_one_is_not_kept(tmp_path):
    with Search("bowl", budget="2updates", folder=tmp_path / "run") as search:
        search.run()
    with Search.open(tmp_path / "run", budget="1updates") as spent:
        assert spent.done
    assert open_run(tmp_path / "run").configuration["budget"] == "2updates"
    Search.open(tmp_path / "run", budget="5updates").close()
    with Search.open(tmp_path / "run") as again:
        again.run()
        assert again.updates == 5


def test_rigs_and_simulations_are_told_apart(tmp_path):
    with pytest.raises(ValueError, match="use Rig"):
        Search(Specification(name="bench"))
    with Search("bowl", budget="2updates", folder=tmp_path / "run") as search:
        search.run()
    with pytest.raises(ValueError, match="simulated task"):
        Rig.open(tmp_path / "run")


def test_a_relative_folder_stays_where_it_was_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    code = """
import os
from policysearch import PythonFunction
os.chdir("elsewhere")
task = PythonFunction(lambda values: float(values @ values), (1.0, 1.0))
"""
    (tmp_path / "wanderer.py").write_text(code)
    with Search("wanderer.py:task", budget="2updates", folder="run") as search:
        search.run()
        search.result()
    assert Path.cwd() == tmp_path / "elsewhere"
    run = open_run(tmp_path / "run")
    assert run.result["updates"] == 2
    assert run.configuration["directory"] == str(tmp_path)


@pytest.mark.parametrize("timeout", [0, -1.0, np.inf, np.nan])
def test_a_timeout_is_a_number_of_seconds(timeout):
    with pytest.raises(ValueError, match="timeout is"):
        Search("bowl", timeout=timeout)
