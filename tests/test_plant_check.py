import pytest

from policysearch.cli.main import main
from policysearch.tasks import resolve

PLANT = """
import jax, jax.numpy as jnp
from policysearch import Continuous, Specification, Task

class Tank(Task):
    @property
    def specification(self):
        return Specification(name="tank", action=Continuous((0.0,), (1.0,)), observation_size=2, horizon=15)

    def reset(self, key):
        return 0.1 * jax.random.normal(key, (2,))

    def noise(self, key):
        return jax.random.normal(key, (15, 2))

    def step(self, x, u, w):
        return x + 0.1 * u + w

    def cost(self, x, u):
        return x[0] ** 2 + u[0] ** 2

    def success(self, states, actions):
        return jnp.all(states[-1] < 1)
"""


@pytest.fixture
def resolved(tmp_path):
    """Resolves the plant with some text replaced."""

    def resolve_with(old="", new=""):
        assert old in PLANT
        path = tmp_path / "plant.py"
        path.write_text(PLANT.replace(old, new) if old else PLANT)
        return resolve(f"{path}:Tank")

    return resolve_with


def test_a_plant_that_fits_passes(resolved):
    assert resolved().specification.name == "tank"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "observation_size=2",
            "observation_size=3",
            r"Tank.observe returns shape \(2,\); observation_size=3 wants \(3,\)",
        ),
        ("u[0] ** 2", "u ** 2", r"Tank.cost returns shape \(1,\); it must be one number"),
        ("step(self, x, u, w)", "step(self, x, u)", r"step takes \(x, u, w\)"),
        ("+ w", "+ w[0] * jnp.ones((3, 2))", r"Tank.step returns a state of shape \(3, 2\), reset one of \(2,\)"),
        ("(15, 2)", "(14, 2)", r"Tank.noise gives shape \(14, 2\); its leading axis must be the horizon, 15"),
        ("horizon=15", 'horizon="15"', "horizon is '15'; it must be a whole number, at least 1"),
        ("horizon=15", "horizon=15.0", "horizon is 15.0; it must be a whole number"),
        ("jnp.all(states[-1] < 1)", "states[-1] < 1", r"Tank.success returns shape \(2,\)"),
        ("x[0] ** 2", "jnp.sqtr(x[0])", r"Tank.cost fails: AttributeError: .*sqtr.*\n  .*plant.py:20: return jnp.sqtr"),
        ("return x + 0.1", "return x if x[0] > 0 else x + 0.1", r"Tank.step fails: TracerBoolConversionError"),
        ("    def cost(self, x, u):\n        return x[0] ** 2 + u[0] ** 2\n", "", "cannot be made: it has no cost"),
        ("def cost(self, x, u):", "def cost(self, x, u)", r"plant.py is no Python: .*line 19"),
    ],
)
def test_what_does_not_fit_is_said_in_a_sentence(resolved, old, new, words):
    with pytest.raises((ValueError, TypeError), match=words):
        resolved(old, new)


def test_the_command_prints_the_sentence_and_no_frames(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plant.py").write_text(PLANT.replace("x[0] ** 2", "jnp.sqtr(x[0])"))
    assert main(["train", "plant.py:Tank"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("policysearch: Tank.cost fails: AttributeError")
    assert "plant.py:20: return jnp.sqtr(x[0]) + u[0] ** 2" in said
    assert "Traceback" not in said


def test_a_file_alone_is_told_to_name_its_class():
    with pytest.raises(ValueError, match=r"name what is in it too, such as tank.py:Plant"):
        resolve("tank.py")
