"""From what a user typed to a task, and Python cost functions."""

import sys

import numpy as np
import pytest

from policysearch.tasks import build, resolve
from policysearch.tasks.pendulum import Pendulum
from policysearch.tasks.python_function import PythonFunction

FILE = """
from __future__ import annotations
import dataclasses
from policysearch.tasks.pendulum import Pendulum

@dataclasses.dataclass
class Plant:
    mass: float = 2.0

light = Pendulum(mass=0.5)
PENDULUM = Pendulum

def heavy():
    return Pendulum(mass=Plant().mass)

def cost(values):
    return float(values @ values)

cost.initial = (1.0, 2.0)

def noisy(values, seed=0):
    return values[0] + seed

class Group:
    inner = light

number = 3
def three(a, b, c):
    return 0.0
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "plants.py"
    path.write_text(FILE)
    yield str(path)
    sys.modules.pop("policysearch_task_plants", None)


def test_built_in_names_objects_and_references_resolve(file):
    assert resolve("pendulum") == Pendulum()
    task = build("bandit")
    assert resolve(task) is task
    assert resolve(Pendulum) == Pendulum()
    assert resolve("policysearch.tasks.pendulum:Pendulum") == Pendulum()
    assert resolve(f"{file}:light") == Pendulum(mass=0.5)
    assert resolve(f"{file}:Group.inner") == Pendulum(mass=0.5)
    assert resolve(f"{file}:PENDULUM") == Pendulum()
    assert resolve(f"{file}:heavy") == Pendulum(mass=2.0)


def test_python_costs_resolve_with_their_start_and_seed(file):
    cost = resolve(f"{file}:cost")
    assert isinstance(cost, PythonFunction)
    assert cost.initial == (1.0, 2.0)
    assert cost.evaluate([3.0, 4.0], seed=7) == 25.0
    assert cost.specification.deterministic
    noisy = resolve(f"{file}:noisy")
    assert noisy.evaluate([1.0], seed=7) == 8.0
    assert noisy.specification.repeatable
    assert not noisy.specification.deterministic


def test_gymnasium_ids_and_environments_resolve():
    assert resolve("CartPole-v1").specification.horizon == 500
    assert resolve("gymnasium:Pendulum-v1").specification.returns


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pendulm", "Nearest: pendulum"),
        ("cartpole-swing", "Nearest: cartpole-swingup"),
        ("CartPole-v11", "Nearest: .*CartPole-v1"),
        ("zzzzzz", "unknown task 'zzzzzz'. Allowed: a built-in name, a Gymnasium id"),
        ("no_such_module:task", "there is no module 'no_such_module'"),
        ("policysearch.tasks.pendulum:Pendulun", "no 'Pendulun'. Nearest: Pendulum"),
        ("missing.py:task", "there is no file"),
        (":task", "neither a module nor a .py file"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest_ones(name, message):
    with pytest.raises(ValueError, match=message):
        resolve(name)
    if ":" not in name:
        with pytest.raises(ValueError, match="no built-in task"):
            build(name)


@pytest.mark.parametrize("attribute", ["number", "three", "Plant"])
def test_what_is_not_a_task_is_refused_as_such(file, attribute):
    with pytest.raises(TypeError, match="Allowed: a built-in name"):
        resolve(f"{file}:{attribute}")


def test_a_broken_file_leaves_no_module_and_its_own_error(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text("import nothing_of_this_name")
    with pytest.raises(ModuleNotFoundError, match="nothing_of_this_name"):
        resolve(f"{path}:task")
    assert "policysearch_task_broken" not in sys.modules


def test_an_import_error_inside_a_found_module_is_not_mistaken_for_a_wrong_name(tmp_path, monkeypatch):
    (tmp_path / "half_broken.py").write_text("import nothing_of_this_name")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="nothing_of_this_name"):
        resolve("half_broken:task")


def test_python_cost_gets_a_private_float64_vector():
    seen = []

    def cost(values):
        values[0] = 9.0
        seen.append(values.dtype)
        return np.float32(1.5)

    given = np.zeros(2, np.float32)
    assert PythonFunction(cost, (0.0, 0.0)).evaluate(given) == 1.5
    assert seen == [np.float64]
    assert given[0] == 0


@pytest.mark.parametrize("result", [None, "high", [1.0, 2.0], 1j])
def test_python_cost_must_return_one_number(result):
    with pytest.raises(TypeError, match="must be one real number"):
        PythonFunction(lambda values: result).evaluate([0.0])


def test_python_cost_may_report_a_failure_as_nan_and_a_single_element_array():
    assert np.isnan(PythonFunction(lambda values: float("nan")).evaluate([0.0]))
    assert PythonFunction(lambda values: values).evaluate([3.0]) == 3.0


def test_python_cost_is_checked_at_construction_and_call():
    with pytest.raises(TypeError, match="requires 0 arguments"):
        PythonFunction(lambda: 0.0)
    with pytest.raises(ValueError, match="initial is"):
        PythonFunction(lambda values: 0.0, initial=(np.inf,))
    with pytest.raises(ValueError, match=r"shape \(3,\); it must be \(2,\)"):
        PythonFunction(lambda values: 0.0, initial=(0.0, 0.0)).evaluate([1, 2, 3])
    rig = PythonFunction(lambda values: 0.0, deterministic=False).specification
    assert not rig.deterministic
    assert not rig.repeatable
