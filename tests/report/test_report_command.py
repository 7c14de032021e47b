"""Reports say what a run's folder holds, and what is missing of it."""

from __future__ import annotations

import math
import os
import re
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from test_report_page import HOSTILE, Outline

from policysearch import evaluate, lqr, resolve
from policysearch.cli.main import main
from policysearch.cli.report import main as command
from policysearch.core.controller import Controller
from policysearch.core.interface import Interface
from policysearch.core.policies import LinearGaussian, Parameters
from policysearch.core.specification import Continuous
from policysearch.report import document, motion, player, policy, traces
from policysearch.report.page import Page
from policysearch.runs import journal
from policysearch.runs.reader import TrialRecord
from policysearch.tasks.pendulum import Pendulum

LEANING = Controller({"policy": "softmax"}, {"weight_0": [[0.0, 0.0, -1.0, 0.0], [0.0, 0.0, 1.0, 0.0]]})
RESULT = {
    "task": "lqr", "method": "gpomdp", "seed": 3, "reason": "budget spent", "updates": 20, "seconds": 75.0,
    "cost_mean": 3.14159, "cost_sem": 0.0213, "return_mean": None, "return_sem": None, "rollouts": 50, "failed": 0,
    "solved": True, "success_share": 0.96, "criterion": "upright, in 95 of 100", "length": None,
    "quantiles": dict.fromkeys(("min", "q05", "q25", "median", "q75", "q95", "max"), 3.0),
    "counts": {"gradient": 200, "reference": 0, "evaluation": 50, "failed": 2, "lost": 1},
}  # fmt: skip


def records(count=20, noun="cost"):
    return [
        {"update": i + 1.0, "rollouts": 10.0 * (i + 1), noun: 5.0 - 0.1 * i, f"{noun}_sem": 0.1, "snr": 0.5, "kl": 0.02,
         "kl_predicted": 0.03, "failed": float(i == 3), "lost": 0.0, "seconds": float(i)}
        for i in range(count)
    ]  # fmt: skip


def stored(folder, task="lqr", controller=None, result=RESULT, count=20, events=(), noun="cost", **configuration):
    """A run, made without a search."""
    known = {"task": task, "task_options": {}, "method": "gpomdp", "seed": 3, "budget": "20updates", **configuration}
    record = journal.Journal(folder, {**known, **journal.provenance()}, keep=True)
    for each in records(count, noun):
        record.add(each)
    record.add_events(1, events)
    if controller is not None:
        if controller.interface == Interface():
            controller = controller.with_interface(resolve(task).specification.interface)
        record.save(controller)
    if result is not None:
        record.finish(result)
    record.close()
    return Path(folder)


def written(*folders, **options):
    """The page's text, and its outline."""
    path = document.write(folders, **{"rollouts": 0, "load": lambda run: resolve(run.configuration["task"]), **options})
    text = path.read_text()
    assert "cannot be shown" not in text
    return text, Outline(text)


def notes(text):
    return re.findall(r'<p class="note" role="note">(.*?)</p>', text, re.DOTALL)


def gain(*rows, **options):
    return LinearGaussian(np.array(rows), std=0.5, **options).controller()


# one run


def test_the_result_stands_at_the_top(tmp_path):
    text, outline = written(stored(tmp_path / "a", controller=gain([-1.0, 0, 0, 0], [0, -1.0, 0, 0])))
    facts = dict(re.findall(r"<dt>([^<]*)</dt><dd>([^<]*)</dd>", text))
    assert facts["Final cost on 50 fresh seeds, ± standard error"] == "3.142 ± 0.021"
    assert facts["Solved"] == "yes: upright, in 95 of 100; here 96 %"
    assert facts["Rollouts"] == "200 gradient, 50 evaluation, 2 failed, 1 lost"
    assert (facts["Ended"], facts["Time"], facts["Seed"]) == ("budget spent", "75 s", "3")
    assert facts["Budget"] == "20 updates"
    assert notes(text) == []
    assert "numpy version" in outline.words


def test_figures_say_in_words_what_they_show(tmp_path):
    _, outline = written(stored(tmp_path / "a"))
    alts = [svg["aria-label"] for svg in outline.all("svg")]
    assert alts[0].startswith("The mean cost per rollout falls from 5 to 3.1 within 200 rollouts, between 3.1 and 5.")
    assert "The final policy's is 3.142 ± 0.021." in alts[0]
    assert alts[-1] == "1 trials failed in all."
    assert len(alts) == 4
    assert len(outline.all("figure")) == len(outline.all("figcaption")) == 4


def test_returns_are_shown_for_tasks_with_rewards(tmp_path):
    result = {**RESULT, "return_mean": 450.0, "return_sem": 3.0}
    text, outline = written(stored(tmp_path / "a", result=result, noun="return"))
    assert "Final return on 50 fresh seeds" in text
    assert outline.all("svg")[0]["aria-label"].startswith("The mean return per rollout falls from 5 to 3.1")


def test_settings_are_explained_and_those_that_were_set_are_marked(tmp_path):
    settings = {
        "given": {"rollouts": 30, "max_kl": None, "shrink": None, "step_decay": None},
        "settings": {"rollouts": 30, "max_kl": 0.05, "shrink": None, "step_decay": None, "memory": 0.8},
        "chosen": {"max_kl": 0.05, "shrink": True},
    }
    text, _ = written(stored(tmp_path / "a", **settings))
    rows = [re.findall(r"<t[hd][^>]*>([^<]*)</t", row) for row in re.findall(r"<tr>(.*?)</tr>", text)]
    assert ["rollouts", "30", "yes", "per update"] in rows
    assert ["max_kl", "0.05 (by rule)", "", "largest step, nats per stage"] in rows
    assert ["shrink", "yes (by rule)", ""] in [row[:3] for row in rows]
    assert ["step_decay", "–", ""] in [row[:3] for row in rows]
    assert ["budget", "20updates"] in rows


# several runs


def test_runs_are_laid_over_each_other_by_task(tmp_path):
    folders = [stored(tmp_path / name, task=task, count=n) for name, task, n in
               (("a", "lqr", 20), ("b", "lqr", 5), ("c", "bowl", 3), ("d", "bowl", 0))]  # fmt: skip
    text, outline = written(*folders)
    assert (tmp_path / "a" / "report.html").exists()
    heads = re.findall(r"<h2[^>]*>([^<]*)</h2>", text)
    assert heads[:2] == ["Results", "Overlaid curves"]
    assert [head.split(":")[0] for head in heads[2:]] == ["a", "b", "c", "d"]
    both = outline.all("svg")[0]["aria-label"]
    assert "of a falls from 5 to 3.1" in both
    assert "of b falls from 5 to 4.6" in both
    assert "of c" not in both
    results = Outline(re.search(r"<table>.*?</table>", text, re.DOTALL)[0])
    assert len(results.all("tr")) == 5
    assert results.words.count("3.142 ± 0.021") == 4


def test_runs_of_one_name_are_told_apart(tmp_path):
    text, _ = written(stored(tmp_path / "x" / "run"), stored(tmp_path / "y" / "run"))
    for name in ("x", "y"):
        assert f"{tmp_path / name / 'run'}: lqr, gpomdp, seed 3</h2>" in text


def test_names_that_would_read_alike_in_a_figure_are_numbered():
    alike = [f"pendulum-natural-gradient-of-{n}-hidden-units-on-a-desk-seed0" for n in (16, 32)]
    assert document._labels([Path(name) for name in alike]) == [f"1: {alike[0]}", f"2: {alike[1]}"]
    assert document._labels([Path("a"), Path("b")]) == ["a", "b"]


# what is missing


def test_a_damaged_database_is_named_and_what_is_beside_it_shown(tmp_path):
    folder = stored(tmp_path / "a", controller=gain([-1.0, 0, 0, 0], [0, -1.0, 0, 0]))
    with sqlite3.connect(folder / "run.sqlite") as connection:
        table = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchone()[0]
        columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
        column = next(name for name in columns if name in ("body", "content"))
        connection.execute(f"UPDATE {table} SET {column} = CAST('{{}}' AS BLOB) WHERE rowid = 3")
    connection.close()
    text, outline = written(folder)
    assert notes(text)[0].startswith("run.sqlite cannot be read")
    assert len(notes(text)) == 1
    assert "falls from 5 to 3.1" in outline.all("svg")[0]["aria-label"]
    assert "K as found" in text
    assert "<dt>State</dt><dd>unknown</dd>" in text


def test_without_a_database_and_with_half_a_configuration_there_is_still_a_page(tmp_path):
    folder = stored(tmp_path / "a")
    (folder / "run.sqlite").unlink()
    (folder / "config.json").write_text('{"task":')
    (folder / "metrics.csv").write_bytes(b"update,rollouts,cost\n1,10,5\n2,20,\xff\n")
    text, _ = written(folder)
    said = " ".join(notes(text))
    for words in ("run.sqlite is missing", "config.json cannot be read", "metrics.csv cannot be read to its end",
                  "There is no policy file", "The task of this run is unknown"):  # fmt: skip
        assert words in said
    assert "unknown task" in text


def test_a_policy_that_is_damaged_is_named(tmp_path):
    folder = stored(tmp_path / "a", controller=gain([-1.0, 0, 0, 0], [0, -1.0, 0, 0]))
    (folder / "policy.safetensors").write_bytes(b"nothing")
    text, _ = written(folder)
    assert "The policy cannot be read" in notes(text)[0]


@pytest.mark.parametrize("alive", [True, False])
def test_runs_that_go_on_and_runs_that_were_killed_are_told_apart(tmp_path, alive):
    folder = stored(tmp_path / "a", result=None)
    done = subprocess.Popen(["true"])
    done.wait()
    holder = {"pid": os.getpid() if alive else done.pid, "host": socket.gethostname(), "since": ""}
    (folder / "run.lock").write_bytes(msgspec.json.encode(holder))
    text, _ = written(folder)
    assert ("The run was still in progress; this report" in text) == alive
    assert ("<dd>still running</dd>" in text) == alive
    assert ("killed, or interrupted twice" in text) != alive
    assert "Last cost while exploring" in text


def failing(error):
    def load(run):
        raise error

    return load


@pytest.mark.parametrize("error", [ImportError("no module <b>plant</b>"), SystemExit(3), ValueError("x")])
def test_a_task_whose_code_is_gone_or_broken_costs_the_rollouts_only(tmp_path, error):
    folder = stored(tmp_path / "a", controller=gain([-1.0, 0, 0, 0], [0, -1.0, 0, 0]))
    text, _ = written(folder, load=failing(error), rollouts=2)
    assert "The task cannot be built here" in notes(text)[0]
    assert "<b>" not in text
    assert "K as found" in text


class Broken:
    """A task that comes with what it can do, until it is run."""

    specification = resolve("double-integrator").specification


def test_rollouts_that_fail_to_run_are_said(tmp_path):
    folder = stored(tmp_path / "a", task="double-integrator", controller=gain([-1.0, -1.0]))
    text, _ = written(folder, load=lambda run: Broken(), rollouts=1)
    assert "The rollouts could not be run" in notes(text)[0]


def test_values_of_the_wrong_kind_cost_their_section_only(tmp_path):
    wrong = {**RESULT, "quantiles": {"min": "x"}, "length": {"min": 1, "max": 2}, "cost_mean": "y"}
    path = document.write(
        [stored(tmp_path / "a", result=wrong, versions=3, settings=["x"])], load=failing(ValueError())
    )
    text = path.read_text()
    assert len(re.findall("<h2", text)) == 6
    assert "The rest of this section cannot be shown" in text
    assert "falls from 5 to 3.1" in text


def test_names_and_reasons_from_others_are_text(tmp_path):
    hostile = HOSTILE.replace("\ud800", "")
    event = journal_event(reason=hostile)
    result = {**RESULT, "criterion": hostile, "reason": hostile, "success_share": None}
    folder = stored(
        tmp_path / "<i>$x$", task=hostile, result=result, events=[event], method=hostile, settings={hostile: hostile}
    )
    _, outline = written(folder, folder, load=failing(ValueError(hostile)), rollouts=1)
    assert outline.all("script") == outline.all("i") == []
    assert outline.words.count("<script>alert('x')</script>") > 10


def journal_event(**more):
    from policysearch.workers.jobs import Event

    return Event(**{"trial": 4, "kind": "raised", "reason": "", "traceback": "", "attempt": 1, **more})


# a rig


def rig(folder):
    start = Parameters(["kp", "kd"], [1.0, 0.1], bounds={"kp": (0, 5)}).controller()
    known = {"trials": "rig", "task": "servo", "method": "weight_perturbation", "seed": 0, "budget": "40"}
    record = journal.Journal(folder, known, keep=True)
    for number in range(6):
        trial = TrialRecord(number=number, update=0, index=number, asked=100.0 + number)
        record.add_asked(trial)
        if number < 5:
            trial.add({"status": "done", "cost": 2.0 - 0.1 * number, "told": 101.0 + number})
        if number == 3:
            trial.add({"status": "lost", "fault": "rig", "reason": "cable <b>off</b>", "cost": None})
        record.add_told(trial, None)
    record.add({"update": 1.0, "rollouts": 6.0, "cost": 1.8, "measured": 1.5, "measured_error": 0.1, "incumbent": 1.4,
                "incumbent_error": 0.1, "incumbent_update": 0.0})  # fmt: skip
    record.save(start)
    record.close()
    return folder


def test_a_rigs_trials_are_counted_and_each_ones_cost_is_drawn(tmp_path):
    text, outline = written(rig(tmp_path / "servo"), load=failing(AssertionError("a rig has no task to build")))
    assert notes(text) == []
    rows = [re.findall(r"<t[hd][^>]*>([^<]*)</t", row) for row in re.findall(r"<tr>(.*?)</tr>", text)]
    assert [row for row in rows if row[0] in ("done", "lost", "asked")] == [
        ["done", "4"],
        ["lost", "1"],
        ["asked", "1"],
    ]
    assert ["3", "lost", "rig", "cable &lt;b&gt;off&lt;/b&gt;"] in rows
    assert ["kp", "1", "1", "0", "5", "linear"] in rows
    alts = [svg["aria-label"] for svg in outline.all("svg")]
    assert "4 trials cost between 1.6 and 2; the first ten 1.825 on average, the last ten 1.825." in alts
    assert "The measured cost goes from 1.5 to 1.5; the best is 1.40 ± 0.10." in alts
    assert "<dd>open: trials can be asked for</dd>" in text
    assert "Time from handing out the first trial to the last result: 5.0 s." in text


# policies


def table(page):
    return [re.findall(r"<t[hd][^>]*>([^<]*)</t", row) for row in re.findall(r"<tr>(.*?)</tr>", page.html())]


def test_a_gain_matrix_is_printed_in_physical_units_with_its_mask():
    given = LinearGaussian([[-2.0, 0.0, 3.0]], bias=[0.5], std=0.5, mask=[[True, False, True]]).controller()
    scaled = Controller(
        given.description,
        given.parameters,
        {**given.constants, "scaling_shift": [1.0, 0.0, 0.0], "scaling_scale": [4.0, 1.0, 2.0]},
        Interface(limits=Continuous([-7], [7]), observation_names=["p [m]", "v [m/s]", "q"], action_names=["F [N]"]),
    )
    page = Page("t")
    policy.describe(page, scaled)
    assert "u = K x + k, clipped to ±7 N; 2 searched gains" in page.html()
    assert ["F [N]", "-0.5", "–", "1.5"] in table(page)
    assert ["F [N]", "1"] in table(page)  # 0.5 + 2·1/4
    K, k = policy.physical_gain(scaled)
    x = np.array([0.3, 7.0, -2.0])
    assert np.allclose(K @ x + k, scaled.mode(x, clip=False))


@pytest.mark.parametrize(
    ("low", "high", "names", "words"),
    [
        ([-10], [10], ["force [N]"], "clipped to ±10 N;"),
        ([-2, -2], [2, 2], [], "clipped to ±2;"),
        ([-2], [10], ["u [V]"], "clipped to at least -2 V and at most 10 V;"),
        ([-math.inf], [0.5], ["u"], "clipped to at most 0.5;"),
        ([-math.inf], [math.inf], [], "u = K x, without limits;"),
        ([-1, -1], [1, 1], ["a [V]", "b [A]"], "each clipped to its own limits;"),
        ([-1, -3], [1, 4], ["a [V]", "b [V]"], "each clipped to its own limits;"),
        (None, None, [], "not clipped, because its limits are unknown;"),
    ],
)
def test_the_limits_of_a_law_stand_beside_it_with_their_unit(low, high, names, words):
    limits = None if low is None else Continuous(low, high)
    m = 1 if limits is None else limits.size
    page = Page("t")
    given = LinearGaussian(np.ones((m, 2))).controller()
    policy.describe(page, given.with_interface(Interface(limits=limits, action_names=names, dt=0.05, hold=2)))
    assert words in page.html()
    assert "It acts every 0.1 s." in page.html()
    if "each" in words:
        assert ["a [V]", "-1", "1"] in table(page)


def test_a_policy_of_an_older_version_is_shown_with_what_its_task_knows(tmp_path):
    folder = stored(tmp_path / "a", task="cartpole-balance")
    (folder / "policy.safetensors").write_bytes(
        (Path(__file__).parents[1] / "data/format1-linear.safetensors").read_bytes()
    )
    with pytest.warns(UserWarning, match="records no limits"):
        text, _ = written(folder)
    assert "clipped to ±10 N;" in text
    assert "velocity [m/s]" in text


def test_a_plant_with_an_equilibrium_has_its_regulator_beside_the_found_gain(tmp_path):
    best = lqr(resolve("cartpole-balance")).physical_gain()[0]
    text, _ = written(stored(tmp_path / "a", task="cartpole-balance", controller=gain(1.1 * best[0])))
    assert "at the equilibrium" in text
    assert text.count(f"{best[0, 2]:.5g}") == 1


def test_a_linear_plants_best_gain_stands_beside_the_found_one(tmp_path):
    task = resolve("lqr-check")
    best, cost = task.best_gain()
    text, _ = written(stored(tmp_path / "a", task="lqr-check", controller=gain(best[0])))
    assert text.count(f"{best[0, 0]:.5g}") == 2
    assert f"Its expected cost is {cost:.5g}; that of the gain found is {cost:.5g}" in text
    assert "differs from this by 0 %" in text or "e-0" in text
    clipped, _ = written(stored(tmp_path / "b", task="lqr-mushroom", controller=gain([-1.0, 0.0], [0.0, -1.0])))
    assert "at the equilibrium" in clipped
    assert "closed form" not in clipped


def test_every_kind_of_policy_can_be_described(policies):
    for name, make in policies.items():
        page = Page("t")
        policy.describe(page, make().controller())
        text = page.html()
        if "network" in name:
            assert re.search(r"hidden layers of 4 units with (tanh|relu)", text), name
        assert "<table>" in text


# rollouts


def test_rollouts_are_the_first_ones_of_the_evaluation():
    task, controller = Pendulum(horizon=30), gain([0.0, 0.0, -0.2])
    recorded = motion.record(task, controller, 3, 5, 0)
    costs = evaluate(task, controller, 20, seed=5).costs
    assert np.allclose([rollout.costs.sum() for rollout in recorded.rollouts], costs[:3], rtol=1e-5)
    assert recorded.film is None
    first = recorded.rollouts[0]
    assert list(first.quantities) == ["angle [rad]", "rate [rad/s]"]
    assert list(first.actions) == ["torque [N m]"]
    assert len(first.quantities["angle [rad]"]) == 31
    drawn = traces.figures(recorded)
    assert [d.figure.axes[0].get_ylabel() for d in drawn] == [
        "angle [rad]", "rate [rad/s]", "torque [N m]", "cost so far", "rate [rad/s]",
    ]  # fmt: skip
    assert [d.figure.axes[0].get_xlabel() for d in drawn] == ["time [s]"] * 4 + ["angle [rad]"]
    assert drawn[0].figure.axes[0].lines[0].get_xdata()[-1] == pytest.approx(1.5)
    assert "Phase portrait" in drawn[-1].caption


def test_a_film_has_frames_at_even_times_and_a_player():
    recorded = motion.record(Pendulum(horizon=30), gain([0.0, 0.0, -0.2]), 1, 5, 10)
    film = recorded.film
    assert film.times == [f"{0.05 * k:.2f} s" for k in range(0, 31, 3)]
    assert (len(film.frames), film.rate) == (11, pytest.approx(1 / 0.15))
    page = Page("t")
    player.add(page, film, "It swings.", "Caption.")
    outline = Outline(page.html())
    images = outline.all("img")
    assert ["hidden" in image for image in images] == [False] + [True] * 10
    assert all(image["src"].startswith("data:image/webp;base64,") for image in images)
    slider = outline.all("input")[0]
    assert (slider["type"], slider["max"], slider["aria-label"]) == ("range", "10", "Time")
    assert "hidden" in next(div for div in outline.all("div") if div.get("class") == "controls")


def test_a_chattering_action_is_thinned(tmp_path):
    values = np.tile([0.0, 1.0], 500)
    rollout = motion.Rollout({"x": values}, {"action": values}, values, "")
    specification = resolve("CartPole-v1").specification
    drawn = traces.figures(motion.Recorded(specification, [rollout, rollout], 0, None, ""))
    line = drawn[1].figure.axes[0].lines[0]
    assert len(line.get_xdata()) == 125
    assert np.allclose(line.get_ydata(), 0.5)
    assert "mean over 8 stages" in drawn[1].caption


# the command


def test_a_report_of_an_environment_needs_no_jax(tmp_path):
    folder = stored(tmp_path / "run", "CartPole-v1", LEANING, result=None, task_options={"horizon": 20}, noun="return")
    code = (
        "import sys\n"
        "from policysearch.cli.main import main\n"
        "assert main(['report', *sys.argv[1:]]) == 0 and 'jax' not in sys.modules\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(folder), "--rollouts", "2"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"saved: .*report\.html, 0\.\d\d MB\n", done.stdout)
    assert "running 2 rollouts" in done.stderr
    text = (folder / "report.html").read_text()
    assert "observation 3 of the first rollout starts at" in text
    assert "return of the first rollout adds up to 20" in text.lower()


def test_the_page_goes_where_it_is_asked_for(tmp_path, capsys):
    folder = stored(tmp_path / "run")
    out = tmp_path / "deep" / "x.html"
    assert main(["report", str(folder), "--rollouts", "0", "--out", str(out)]) == 0
    assert "saved: " in capsys.readouterr().out
    assert out.exists()
    assert not (folder / "report.html").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "DIR"),
        (["nowhere"], "There is no folder nowhere"),
        (["."], "is not a run"),
        ([".", "--rollouts", "-1"], "at least 0"),
        ([".", "--rollouts", "many"], "whole number"),
        ([".", "--rollout", "2"], "Did you mean --rollouts"),
    ],
)
def test_wrong_input_is_answered_with_what_is_allowed(arguments, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["report", *arguments]) == 2
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_command_is_the_one_that_is_listed():
    from policysearch.cli.main import COMMANDS

    assert COMMANDS["report"][0] == "cli.report"
    assert callable(command)
