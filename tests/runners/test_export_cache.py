"""Traced updates kept between processes. Few tests compile one: compiling takes seconds, tracing does not."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policysearch.core.credit import TotalCost
from policysearch.core.direction import Euclidean
from policysearch.core.explore import ActionNoise, ParameterNoise
from policysearch.core.method import Method
from policysearch.core.policies import LinearGaussian, Parameters
from policysearch.core.step import LearningRate
from policysearch.runners import Resources, export_cache
from policysearch.runners.native import Native, search_update
from policysearch.tasks.functions import bowl
from policysearch.tasks.linear_plants import check_problem
from policysearch.tasks.task import Function

BOWL, LINE = bowl(d=3), Parameters(["a", "b", "c"], [1.0, 1.0, 1.0])
SEED = jax.device_put(np.uint32(3))


def perturbed(directions=2, std=0.1, baseline="none"):
    return Method(ParameterNoise(directions, std), TotalCost(baseline), Euclidean(), LearningRate(0.1))


PERTURBED = perturbed()
SAMPLED = Method(ActionNoise(4), TotalCost("mean"), Euclidean(), LearningRate(0.1))


def keep(folder, task=BOWL, method=PERTURBED, policy=LINE):
    """Trace an update into a folder, or find it there; the names of the files in the folder, and the program."""
    state = method.init(policy, task.specification.horizon)
    program = export_cache.kept(folder, search_update, (task, method), state, SEED)
    return [path.name for path in folder.iterdir()] if folder.is_dir() else [], program


def run(folder, task, method, policy):
    """Parameters and records of three updates."""
    native, state, numbers = (
        Native(task, 3, Resources(programs=folder)),
        method.init(policy, task.specification.horizon),
        [],
    )
    for _ in range(3):
        state, info, _ = native.update(method, state, method.layout(policy).size)
        numbers.append([np.asarray(state.policy.theta()).tolist(), {name: float(x) for name, x in info.items()}])
    return numbers


@pytest.fixture
def untraceable(monkeypatch):
    """After it is called nothing can be traced for keeping."""

    def refuse(*_):
        raise AssertionError("traced again")

    return lambda: monkeypatch.setattr(export_cache.export, "export", refuse)


@pytest.mark.parametrize(
    "plan",
    [(BOWL, PERTURBED, LINE), (check_problem(), SAMPLED, LinearGaussian([[-0.5, -0.5]], std=0.3))],
    ids=["parameter", "action"],
)
def test_a_kept_program_gives_the_bits_of_the_traced_one(tmp_path, plan, untraceable):
    keep(tmp_path, *plan)
    untraceable()
    assert repr(run(tmp_path, *plan)) == repr(run(None, *plan))  # NaN is equal to itself there


@pytest.mark.parametrize("damage", [lambda b: b[:-9], lambda b: b"", lambda b: b[:500] + bytes([b[500] ^ 1]) + b[501:]])
def test_a_damaged_file_is_replaced(tmp_path, damage):
    (name,), _ = keep(tmp_path)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(damage(content))
    assert keep(tmp_path)[0] == [name]
    content = (tmp_path / name).read_bytes()
    assert content[:32] == hashlib.sha256(content[32:]).digest()


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "file").write_text("")
    assert keep(tmp_path / "file")[1] is not None


def test_new_numbers_share_a_program_and_whatever_is_compiled_in_does_not(tmp_path, untraceable):
    keep(tmp_path)
    keep(tmp_path, method=perturbed(directions=3))
    keep(tmp_path, method=perturbed(baseline="mean"))
    keep(tmp_path, bowl(d=3, condition=2.0))  # the eigenvalues of a bowl are part of its code
    with jax.enable_x64(True):
        assert len(keep(tmp_path)[0]) == 5
    untraceable()
    assert len(keep(tmp_path, method=perturbed(std=0.2))[0]) == 5


def test_other_code_has_another_name(tmp_path, monkeypatch):
    monkeypatch.setattr(export_cache, "__file__", str(tmp_path / "runners" / "export_cache.py"))
    names = []
    for line in ("x = 1", "x = 2", "x = 1"):
        (tmp_path / "module.py").write_text(line)
        names.append(export_cache._name(search_update, BOWL))
    assert names[0] == names[2] != names[1]


class Mine(Function):
    pass


def theirs(values, key):
    return jnp.sum(values**2)


def _nameless():
    def ours(values, key):
        return jnp.sum(values**2)

    ours.__module__ = "policysearch.tasks"  # what it closes over would not show in its name
    return ours


@pytest.mark.parametrize(
    "task",
    [
        Function(theirs, (1.0, 1.0, 1.0)),
        Function(_nameless(), (1.0, 1.0, 1.0)),
        Mine(BOWL.cost, (1.0, 1.0, 1.0)),
    ],
    ids=["cost", "closure", "class"],
)
def test_the_code_of_others_is_not_kept(tmp_path, task):
    assert keep(tmp_path, task) == ([], None)
