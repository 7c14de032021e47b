"""Every example runs and ends well; Python blocks of the documentation run; its commands have flags that exist."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import policysearch
from policysearch.cli.train import _parser
from policysearch.methods.settings import METHODS

ROOT = Path(__file__).parents[2]
#: cells of executed pages are run where the site is built, by test_site.py
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def output(name: str, folder: Path, *arguments: str) -> str:
    """What an example prints with warnings as errors, in a folder of its own."""
    done = subprocess.run(
        [sys.executable, "-W", "error", str(ROOT / "examples" / name), *arguments],
        cwd=folder,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_own_plant_heats_the_room_for_less_than_an_idle_heater(tmp_path):
    cost = re.search(r"cost ([\d.]+) ±", output("own_plant.py", tmp_path, "40updates"))
    assert cost is not None
    # the initial policy, a constant 1000 W, costs about 21
    assert float(cost[1]) < 15


def test_numpy_plant_keeps_the_tank_from_running_dry(tmp_path):
    found = re.search(r"cost ([\d.]+) ±.* (\d+) failed", output("numpy_plant.py", tmp_path, "30updates"))
    assert found is not None
    # the initial policy costs about 90
    assert float(found[1]) < 30
    assert found[2] == "0"


def test_rig_example_lowers_the_cost_and_meets_both_kinds_of_trouble(tmp_path):
    text = output("tune_pd_on_a_rig.py", tmp_path)
    costs = [float(number) for number in re.findall(r"trials ([\d.]+)$", text, re.MULTILINE)]
    assert costs[-1] < 0.85 * costs[0]
    counts = re.search(r"trials: (\d+), (\d+) failed, (\d+) lost", text)
    assert counts is not None
    assert int(counts[1]) == 160
    assert int(counts[2]) > 0
    assert int(counts[3]) > 0


def test_pid_example_lowers_the_cost_of_a_motor_with_unknown_loads(tmp_path):
    before, after = re.search(r"cost ([\d.]+) → ([\d.]+)", output("tune_pid.py", tmp_path)).groups()
    assert float(after) < 0.1 * float(before)


def test_a_search_whose_driver_is_killed_on_a_rig_that_fails_ends_as_if_nothing_had_happened(tmp_path):
    text = output("rig.py", tmp_path)
    assert text.count("killed the driver") == 3
    assert int(re.search(r"asked again: (\d+)", text)[1]) > 0
    assert "without any trouble: the same" in text


def test_the_shell_drives_the_same_rig(tmp_path):
    command = [sys.executable, "-m", "policysearch"]
    run = lambda *words: subprocess.run([*command, *words], cwd=tmp_path, capture_output=True, text=True, check=True)  # noqa: E731
    run("new", "servo", "--parameters", "kp=4:0.1:100:log", "kd=0.1:0.01:5:log", "--scales", "kp=0.3", "kd=0.3")
    trial = [str(ROOT / "examples" / "rig_trial.sh"), "{kp}", "{kd}"]
    going = ["run", "servo", "--budget", "40", "--timeout", "5", "--attempts", "3", "--", *trial]
    process = subprocess.Popen([*command, *going], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    process.stdout.readline()  # an update is made
    process.kill()
    process.communicate()
    run(*going)
    kept = policysearch.open_run(tmp_path / "servo").trials.values()
    assert len(kept) == 40
    assert all(trial.status != "asked" for trial in kept)
    assert {trial.fault for trial in kept if trial.status in ("lost", "timed out")} <= {"rig"}


def test_composed_method_solves_and_a_wrong_one_is_refused(tmp_path):
    text = output("compose_a_method.py", tmp_path, "300updates")
    assert "solved: True" in text
    assert "refused: A natural direction is already preconditioned" in text


def test_own_environment_keeps_the_level_better_than_an_idle_pump(tmp_path):
    text = output("own_environment.py", tmp_path, "20updates", "1")
    # a pump that stands at half its voltage, where the search starts, gets about -120
    assert float(re.search(r"return (-\d+\.\d+) ±", text)[1]) > -40


def test_hopper_example_reports_returns(tmp_path):
    pytest.importorskip("mujoco")
    text = output("hopper.py", tmp_path, "2updates", "1")
    assert "11 observations, 3 actions" in text
    assert text.count("update ") == 2
    assert re.search(r"return \d+\.\d ± \d+\.\d on fresh seeds", text)


def test_policy_acts_without_jax(tmp_path):
    interface = policysearch.resolve("double-integrator").specification.interface
    gain = policysearch.Controller({"policy": "linear_gaussian"}, {"gain": [[-3.0, -2.5]]}, interface=interface)
    gain.save(tmp_path / "policy.safetensors")
    text = output("load_policy_without_jax.py", tmp_path, str(tmp_path))
    assert "JAX was imported: False" in text
    assert abs(float(re.findall(r"([-\d.]+) mm,", text)[0])) < 5


def test_readme_names_every_extra_and_no_other():
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    text = (ROOT / "README.md").read_text()
    assert re.findall(r"^\| `(\w+)` \| .*\|$", text[text.index("| extra |") :], re.MULTILINE) == list(known)


def called(page: Path) -> str:
    """The path of a page in the project."""
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", [page for page in PAGES if BLOCK.search(page.read_text())], ids=called)
def test_python_blocks_run_in_order(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = page.read_text()
    namespace: dict[str, object] = {"__name__": f"documentation_{page.stem}"}
    for block in BLOCK.finditer(text):
        line = text[: block.start(1)].count("\n")
        # blank lines in front make a traceback name the line of the page
        exec(compile("\n" * line + block[1], str(page), "exec", dont_inherit=True), namespace)


@pytest.mark.parametrize("page", [page for page in PAGES if CONSOLE.search(page.read_text())], ids=called)
def test_commands_have_flags_that_exist(page):
    parser = _parser(list(METHODS), helpful=False)
    for block in CONSOLE.finditer(page.read_text()):
        for line in block[1].splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["$"] and "train" in words:
                _, extras = parser.parse_known_args(words[words.index("train") + 1 :])
                assert extras == [], line
