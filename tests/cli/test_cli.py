"""The command line: what it says to wrong input, what it leaves on disk, how it ends, that it starts without JAX."""

from __future__ import annotations

import ast
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

import policysearch
from policysearch.cli.main import main
from policysearch.core.controller import Controller
from policysearch.core.settings import PolicySettings
from policysearch.methods import flags
from policysearch.methods.settings import METHODS
from policysearch.runs import journal
from policysearch.runs.reader import open_run


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """Every test runs in a folder of its own and leaves JAX's settings alone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "unused"))


def refused(capsys, *arguments: str) -> str:
    """The error message for wrong input: on standard error, with exit code 2 and no traceback."""
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    return captured.err


def stored(folder: str = "run", task: str = "CartPole-v1") -> str:
    """A finished run whose policy pushes in the direction in which the pole leans, made without a search."""
    weights = np.array([[0.0, 0.0, -1.0, -0.5], [0.0, 0.0, 1.0, 0.5]])
    record = journal.Journal(folder, {"task": task, "task_options": {"horizon": 50}, "seed": 3})
    record.add({"update": 1.0, "rollouts": 1.0})
    record.save(Controller({"policy": "softmax"}, {"weight_0": weights}))
    record.finish({})
    record.close()
    return folder


# wrong input


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trian"], "Did you mean train"),
        (["train"], "Give TASK"),
        (["train", "lqrr"], "Nearest: lqr"),
        (["train", "lqr", "--method", "arss"], "Did you mean ars"),
        (["train", "lqr", "--method", "nelder_mead"], "policysearch compare TASK --methods ars,nelder_mead"),
        (["train", "lqr", "--max-kll", "0.1"], "Did you mean --max-kl?"),
        (["train", "--max-kll", "0.1", "lqr"], "Did you mean --max-kl?"),
        (["train", "lqr", "extra"], "is an extra argument"),
        (["train", "lqr", "--method", "ars", "--max-kl", "0.1"], "--max-kl belongs to reinforce, gpomdp, natural"),
        (["train", "lqr", "--budget", "0"], "at least 1"),
        (["train", "lqr", "--budget", "2.5"], "whole number"),
        (["train", "lqr", "--budget", "many"], "2e6stages"),
        (["train", "lqr", "--seed", "x"], "--seed is 'x'"),
        (["train", "lqr", "--seed", "-1"], "seed is -1"),
        (["train", "lqr", "--method", "gpomdp", "--max-kl", "nan"], "max_kl is nan; it must be a number above 0"),
        (["train", "lqr", "--method", "gpomdp", "--rollouts", "2.5"], "--rollouts is '2.5'"),
        (["train", "lqr", "--method", "gpomdp", "--baseline", "no"], "one of least_variance, leave_one_out"),
        (["train", "lqr", "--hidden", "32", "x"], "--hidden is 'x'"),
        (["train", "lqr", "--horizon", "0"], "at least 1"),
        (["train", "bowl", "--horizon", "5"], "does not apply to bowl"),
        (["train", "bowl", "--hidden", "5"], "no policy to set with --hidden"),
        (["train", "nosuch:thing"], "no module 'nosuch'"),
        (["train", "lqr", "--initial", "none.json"], "none.json"),
        (["evaluate", "nowhere"], "no folder nowhere"),
        (["evaluate", "."], "is not a run"),
        (["list", "task"], "Did you mean tasks"),
    ],
)
def test_wrong_input_is_answered_with_what_is_allowed(capsys, arguments, words):
    message = refused(capsys, *arguments)
    assert words in message
    assert len(message.splitlines()) <= 2
    assert not Path("runs").exists()


def test_a_folder_with_a_run_is_refused_with_what_to_type(capsys):
    stored("mine")
    message = refused(capsys, "train", "bowl", "--out", "mine")
    assert "already holds a run" in message
    assert "--out" in message
    assert "rm -r mine" in message


def test_a_folder_of_the_user_is_not_offered_for_removal(capsys):
    Path("config.json").write_text("{}")
    assert "rm -r" not in refused(capsys, "train", "bowl", "--out", ".")


def test_a_damaged_policy_is_named(capsys):
    file = Path(stored(), "policy.safetensors")
    file.write_bytes(file.read_bytes()[:-9])
    assert "is damaged" in refused(capsys, "evaluate", "run")


def test_a_policy_that_does_not_fit_the_task_is_named(capsys):
    assert "Acrobot-v1" in refused(capsys, "evaluate", stored(task="Acrobot-v1"), "--workers", "1")


def test_debug_shows_the_traceback(capsys):
    assert main(["train", "lqr", "--budget", "0", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_an_error_in_the_users_code_keeps_its_traceback(capsys):
    Path("mine.py").write_text("def cost(values):\n    return {}['gone'] + 1\n\ncost.initial = (1.0,)\n")
    with pytest.raises(KeyError, match="gone"):
        main(["train", "mine.py:cost", "--budget", "1updates"])
    assert list(Path("runs").iterdir()) == []


# train


@pytest.fixture(scope="module")
def bowl(tmp_path_factory):
    """A finished run of a cheap task, and what its command printed."""
    folder = tmp_path_factory.mktemp("runs") / "bowl"
    printed = io.StringIO()
    before, sys.stdout = sys.stdout, printed
    try:
        code = main(["train", "bowl", "--budget", "30updates", "--seed", "5", "--out", str(folder), "--json"])
    finally:
        sys.stdout = before
    assert code == 0
    return folder, json.loads(printed.getvalue())


def test_train_leaves_a_complete_folder(bowl):
    folder, result = bowl
    names = ["config.json", "curve.png", "metrics.csv", "metrics.jsonl", "policy.safetensors", "run.head", "run.sqlite"]
    assert sorted(path.name for path in folder.iterdir()) == [*names, "start.safetensors"]
    run = open_run(folder)
    assert len(run.records) == result["updates"] == 30
    assert run.configuration["task"] == "bowl"
    assert run.configuration["seed"] == 5
    assert run.configuration["method"] == result["method"] == "weight_perturbation"
    assert run.configuration["settings"]["std"] > 0
    assert run.result["cost_mean"] == result["cost_mean"] < run.records[0]["cost"]
    assert result["counts"]["gradient"] == run.records[-1]["rollouts"]


def test_evaluate_repeats_the_number_that_train_reported(bowl, capsys):
    folder, result = bowl
    assert main(["evaluate", str(folder), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["cost_mean"] == result["cost_mean"]
    assert again["rollouts"] == result["rollouts"]
    assert again["solved"] == result["solved"]


def test_a_search_starts_from_another_runs_policy(bowl, capsys):
    folder, result = bowl
    assert main(["train", "bowl", "--budget", "1updates", "--initial", str(folder), "--out", "next"]) == 0
    first = open_run("next").records[0]["cost"]
    assert abs(first - result["cost_mean"]) < 0.5 * abs(open_run(folder).records[0]["cost"] - first)
    printed = capsys.readouterr().out
    assert printed.startswith("cost ")
    assert "next: policysearch evaluate next" in printed


@pytest.mark.parametrize(("budget", "twice"), [("8", "16"), ("2updates", "4updates"), ("900stages", "1800stages")])
def test_where_the_criterion_does_not_hold_twice_the_budget_is_advised_in_its_unit(budget, twice, capsys):
    given = ["--method", "weight_perturbation", "--rollouts", "4", "--budget", budget, "--out", "short"]
    assert main(["train", "pendulum", *given, "--evaluation-rollouts", "2"]) == 0
    advised = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("to get there: "))
    assert advised == f"to get there: policysearch resume short --budget {twice}, or another --seed"
    updates = len(open_run("short").records)
    assert main(["resume", "short", "--budget", twice]) == 0
    assert len(open_run("short").records) > updates


def test_a_task_in_a_file_is_found_from_another_folder(capsys, monkeypatch):
    Path("mine.py").write_text("def cost(values):\n    return float(values @ values)\n\ncost.initial = (1.0, 2.0)\n")
    assert main(["train", "mine.py:cost", "--budget", "3updates", "--out", "run"]) == 0
    folder = Path("run").resolve()
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert main(["evaluate", str(folder)]) == 0


def test_settings_reach_the_method(capsys):
    options = ["--method", "weight_perturbation", "--rollouts", "6", "--std", "0.5", "--shape", "sphere"]
    assert main(["train", "bowl", "--budget", "2updates", "--out", "run", *options]) == 0
    settings = open_run("run").configuration["settings"]
    assert (settings["rollouts"], settings["std"], settings["shape"]) == (6, 0.5, "sphere")
    assert open_run("run").records[-1]["rollouts"] == 12


def test_an_interrupted_search_ends_in_order_with_what_it_found(tmp_path):
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache"), "JAX_COMPILATION_CACHE_DIR": ""}
    command = [sys.executable, "-m", "policysearch", "train", "bowl", "--budget", "1e9", "--out", "run"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        for line in process.stderr:
            if line.startswith(b"update 8"):
                break
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"finishing this update" in err
    assert b"interrupted" in out
    run = open_run("run")
    assert run.result["reason"] == "interrupted"
    assert run.result["updates"] == len(run.records) >= 8
    assert run.controller().theta().size == 10
    # traced and compiled programs are kept for the next start
    kept = {path.suffix for path in (tmp_path / "cache" / "policysearch" / "jax").iterdir()}
    assert ".stablehlo" in kept
    assert len(kept) > 1


# list, help and imports


def python(code: str, *arguments: str) -> str:
    """The output of a fresh interpreter."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    return done.stdout


def test_help_and_list_import_neither_jax_nor_numpy():
    python(
        "import sys\n"
        "import policysearch\n"
        "from policysearch.cli.main import main\n"
        "for arguments in (['--help'], ['list'], ['train', '--help'], ['evaluate', 'nowhere']):\n"
        "    try:\n"
        "        main(arguments)\n"
        "    except SystemExit:\n"
        "        pass\n"
        "assert not {'jax', 'numpy', 'gymnasium', 'matplotlib', 'scipy'} & set(sys.modules), sys.modules.keys()\n"
    )


def test_a_search_on_a_plant_imports_no_environments_and_no_plots():
    python(
        "import sys\n"
        "import policysearch.runners.native\n"
        "policysearch.Search('bowl')\n"
        "assert not {'gymnasium', 'matplotlib', 'optax', 'rich'} & set(sys.modules), sys.modules.keys()\n"
    )


def test_evaluating_a_gymnasium_task_does_not_import_jax():
    printed = python(
        "import sys\n"
        "from policysearch.cli.main import main\n"
        "code = main(['evaluate', sys.argv[1], '--rollouts', '2', '--workers', '1', '--json'])\n"
        "assert code == 0 and 'jax' not in sys.modules\n",
        stored(),
    )
    result = json.loads(printed)
    assert result["rollouts"] == 2
    assert result["return_mean"] == -result["cost_mean"] == 50.0
    assert result["seed"] == 3


def test_list_names_every_task_method_and_policy(capsys):
    assert main(["list", "--json"]) == 0
    listing = json.loads(capsys.readouterr().out)
    assert list(listing["methods"]) == list(METHODS)
    assert {"bowl", "pendulum"} <= set(listing["tasks"])
    assert main(["list", "methods"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in METHODS)
    assert "pendulum" not in printed
    assert max(map(len, printed.splitlines())) <= 100


@pytest.mark.parametrize("method", METHODS)
def test_help_of_a_method_has_its_flags_and_those_of_no_other(capsys, method):
    assert main(["train", "lqr", "--method", method, "--help"]) == 0
    printed = capsys.readouterr().out
    own = set(flags.names(METHODS[method]).values()) | set(flags.names(PolicySettings).values())
    every = {flag for struct in METHODS.values() for flag in flags.names(struct).values()}
    shown = {word.strip("[],").removeprefix("--") for word in printed.split() if word.lstrip("[").startswith("--")}
    assert own <= shown
    assert not (every - own) & shown


def test_every_setting_has_a_line_of_help():
    for struct in (PolicySettings, *METHODS.values()):
        texts = flags.documentation(struct)
        assert set(texts) == {field.name for field in msgspec.structs.fields(struct)}


def test_the_lazy_names_are_those_that_type_checkers_see():
    tree = ast.parse(Path(policysearch.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: node.module.removeprefix("policysearch.")
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == policysearch._MODULES
    assert sorted(policysearch.__all__) == sorted([*seen, "load"])
    for name in policysearch.__all__:
        assert getattr(policysearch, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = policysearch.trian


def test_trial_after_trial_lost_ends_with_the_cause_and_keeps_every_event(capsys, tmp_path):
    (tmp_path / "breaking.py").write_text(
        "from gymnasium.envs.classic_control import PendulumEnv\n\n\n"
        "class Breaking(PendulumEnv):\n"
        "    resets = 0\n\n"
        "    def reset(self, **options):\n"
        "        Breaking.resets += 1\n"
        "        if Breaking.resets > 20:\n"
        "            raise OSError('the cable came off')\n"
        "        return super().reset(**options)\n"
    )
    arguments = ["train", "breaking:Breaking", "--method", "ars", "--directions", "4", "--workers", "1"]
    assert main([*arguments, "--horizon", "5", "--budget", "900", "--out", "run", "--timeout", "20"]) == 2
    said = capsys.readouterr().err
    assert "the cable came off" in said
    assert "the policy so far is in run" in said
    run = open_run("run")
    assert len(run.records) >= 1
    raised = [event for event in run.events if event["kind"] == "raised"]
    assert len(raised) >= 20
    assert "OSError: the cable came off" in raised[0]["traceback"]
    assert raised[-1]["update"] == len(run.records) + 1
    assert run.controller().observation_size == 3


def test_a_preset_is_what_the_search_uses_and_flags_go_before_it(capsys):
    assert "no settings of ars for Pendulum-v1" in refused(
        capsys, "train", "Pendulum-v1", "--method", "ars", "--preset", "paper"
    )
    arguments = ["train", "Swimmer-v5", "--method", "ars", "--preset", "paper", "--std", "0.02", "--horizon", "10"]
    assert (
        main([*arguments, "--budget", "2updates", "--workers", "1", "--evaluation-rollouts", "2", "--out", "run"]) == 0
    )
    settings = open_run("run").configuration["settings"]
    assert (settings["version"], settings["directions"], settings["std"]) == ("v1", 1, 0.02)
    assert settings["survival_bonus"] == 0.0


def test_no_public_name_is_hidden_by_a_room_of_the_package():
    """An imported room becomes an attribute of the package, which would replace a function of its name."""
    rooms = {path.name for path in Path(policysearch.__file__).parent.iterdir() if path.is_dir()}
    assert rooms.isdisjoint(policysearch.__all__)
