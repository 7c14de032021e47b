"""`policysearch trials`: what ran, what it cost and how it ended."""

import csv
import io
import json
import sys

import numpy as np
import pytest

from policysearch import (
    Continuous,
    LinearGaussian,
    Parameters,
    Rig,
    Search,
    Specification,
    WeightPerturbation,
    open_run,
)
from policysearch.cli.main import main

BENCH = Specification(name="bench", repeatable=False)
ARM = Specification(name="arm", action=Continuous([-1], [1]), observation_size=2, horizon=5, repeatable=False)


@pytest.fixture
def folder(tmp_path):
    gains = Parameters(["kp", "kd"], [4.0, 0.1], bounds={"kp": (1.0, 5.0)}, log=["kp"], scale=0.5)
    asked = []
    with Rig(BENCH, WeightPerturbation(rollouts=4, std=1.0), policy=gains, budget=8, folder=tmp_path / "run") as search:
        for cost in (1.5, None, 2.5):
            trial = search.ask()
            asked.append(trial.values)
            search.tell(trial, **({"failed": "rang"} if cost is None else {"cost": cost, "notes": "warm, dry"}))
        asked.append(search.ask().values)
    return tmp_path / "run", asked


def test_the_values_of_each_trial_are_those_that_were_asked(folder):
    path, asked = folder
    rows = open_run(path).table()
    assert [{name: row[name] for name in ("kp", "kd")} for row in rows] == asked
    assert len({row["kp"] for row in rows}) > 1
    assert [row["cost"] for row in rows] == [1.5, None, 2.5, None]
    assert [row["status"] for row in rows] == ["done", "failed", "done", "asked"]


def test_csv_and_json_hold_the_same(folder, capsys):
    path, asked = folder
    assert main(["trials", str(path), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert main(["trials", str(path), "--csv"]) == 0
    table = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [float(line["kp"]) for line in table] == [row["kp"] for row in rows] == [values["kp"] for values in asked]
    assert table[0]["notes"] == rows[0]["notes"] == "warm, dry"
    assert table[1]["cost"] == ""
    assert rows[1]["cost"] is None


def test_the_table_shows_what_ran_and_leaves_out_empty_columns(folder, capsys):
    path, asked = folder
    assert main(["trials", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["trial", "update", "purpose", "kp", "kd", "cost", "status", "reason", "asked"]
    assert f"{asked[0]['kp']:.6g}" in lines[1]
    assert "rang" in lines[2]
    assert len(lines) == 5


def test_gains_are_named_by_their_place_and_sampled_actions_have_none(tmp_path):
    policy = LinearGaussian([[-0.5, -0.1]])
    with Rig(ARM, WeightPerturbation(rollouts=4, std=0.1), policy=policy, budget=8, folder=tmp_path / "gains") as rig:
        trial = rig.ask()
    values = open_run(tmp_path / "gains").trials[0].values
    assert list(values) == ["gain[0,0]", "gain[0,1]"]
    assert list(values.values()) == trial.controller.theta().tolist()
    with Rig(ARM, "natural_gradient", policy=policy, budget=40, folder=tmp_path / "sampled") as rig:
        rig.ask()
    assert open_run(tmp_path / "sampled").trials[0].values is None


def test_measurements_show_the_policy_that_was_measured(tmp_path):
    gains, costs = Parameters(["kp"], [4.0]), iter(np.arange(100.0))
    options = {"policy": gains, "budget": 40, "folder": tmp_path / "run", "measure": (1, 2)}
    with Rig(BENCH, WeightPerturbation(rollouts=4, std=0.1), **options) as search:
        while search.updates < 1:
            search.tell(search.ask(), cost=next(costs))
    measured = [trial.values for trial in open_run(tmp_path / "run").trials.values() if trial.purpose == "measurement"]
    assert measured == [{"kp": 4.0}, {"kp": 4.0}]


def test_simulated_tasks_have_no_such_table(tmp_path, capsys):
    with Search("bowl", budget="1updates", folder=tmp_path / "run") as search:
        search.run()
    assert main(["trials", str(tmp_path / "run")]) == 2
    assert "metrics.csv" in capsys.readouterr().err


def test_a_frame_without_pandas_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        open_run(folder[0]).frame()
