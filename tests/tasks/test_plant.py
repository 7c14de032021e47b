"""`Plant`: its integrators against closed forms, what it finds out about its functions, and what it refuses."""

import functools
import subprocess
import sys

import numpy as np
import pytest
import scipy

from numpy_plants import A, B, Ready, columns, cost, oscillator, reset, rows, single
from policysearch import Continuous, Discrete, Plant, Task, resolve, train
from policysearch.tasks.checking import check
from policysearch.workers.equations import SCIPY


def exact(x, u, dt):
    """The state after dt under a constant action, by the matrix exponential."""
    block = np.zeros((3, 3))
    block[:2, :2], block[:2, 2:] = A, B
    return (scipy.linalg.expm(block * dt) @ np.concatenate([x, u]))[:2]


X, U = np.array([[1.0, -0.5], [0.3, 2.0]]), np.array([[0.7], [-0.2]])


def errors(dt, **more):
    found = oscillator(dt=dt, **more).equations.advanced(X, U)
    return np.abs(found - [exact(x, u, dt) for x, u in zip(X, U, strict=True)]).max()


@pytest.mark.parametrize(("integrator", "order"), [("euler", 1), ("rk4", 4)])
@pytest.mark.parametrize("f", [columns, rows, single])
def test_the_error_over_a_given_time_falls_with_the_order_of_the_integrator(integrator, order, f):
    coarse, fine = (errors(0.4, f=f, integrator=integrator, substeps=steps) for steps in (8, 16))
    assert coarse / fine == pytest.approx(2**order, rel=0.15)


@pytest.mark.parametrize("integrator", SCIPY)
def test_adaptive_integrators_meet_the_closed_form(integrator):
    assert errors(0.4, integrator=integrator) < 1e-4
    assert errors(0.4, integrator="euler") > 1e-2


def test_a_stiff_plant_is_integrated_by_an_implicit_method():
    fast = lambda x, u: np.array([-1e5 * (x[0] - u[0])])  # noqa: E731
    plant = Plant(fast, dt=0.1, horizon=5, cost=lambda x, u: x[0] ** 2, limits=(-1, 1), reset=[1.0], integrator="Radau")
    assert plant.equations.advanced(np.array([[1.0]]), np.array([[0.5]]))[0, 0] == pytest.approx(0.5, abs=1e-5)


def test_a_discrete_plant_gives_the_next_state_itself():
    plant = oscillator(lambda x, u: np.array([x[1], x[0] + u[0]]), discrete=True)
    np.testing.assert_allclose(plant.equations.advanced(X, U), [[-0.5, 1.7], [2.0, 0.1]], rtol=1e-12)


@pytest.mark.parametrize(("f", "layout"), [(columns, "columns"), (rows, "rows"), (single, "one")])
def test_how_a_function_takes_many_states_is_found_out(f, layout):
    plant = oscillator(f)
    assert plant.layouts == {"f": layout, "cost": "columns"}
    assert plant.runner == ("singly" if layout == "one" else "batch")
    assert oscillator(f, batch=False).layouts == {"f": "one", "cost": "one"}
    assert oscillator(f, batch=False).runner == "singly"


def test_a_function_that_mixes_the_states_of_a_batch_takes_one_at_a_time():
    assert oscillator(lambda x, u: A @ x / (1 + np.abs(x).max()) + B @ u).layouts["f"] == "one"
    with pytest.raises(ValueError, match=r"batch=True, but f took one state at a time"):
        oscillator(single, batch=True)


def test_what_a_worker_cannot_import_runs_in_this_process():
    plant = oscillator(lambda x, u: single(x, u))
    assert plant.layouts["f"] == "one"
    assert plant.runner == "batch"
    assert Ready().runner == "batch"


def test_a_function_is_not_taken_for_the_one_whose_name_it_bears():
    @functools.wraps(single)
    def weaker(x, u):
        return single(x, [0.5 * u[0]])

    assert oscillator(single).equations.addresses["f"] == "numpy_plants:single"
    assert oscillator(weaker).equations.addresses["f"] is None


def test_a_plant_of_the_main_script_trains(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import numpy as np\nfrom policysearch import Plant, train\n"
        "def f(x, u):\n    return [float(x[1]), float(u[0])]\n"
        "def cost(x, u):\n    return float(x[0] ** 2)\n"
        "plant = Plant(f, dt=0.1, horizon=5, cost=cost, limits=(-1, 1), reset=[1.0, 0.0])\n"
        "print(train(plant, 'ars', budget='2updates').evaluation.rollouts, plant.layouts['f'])\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.split() == ["1", "one"]


@pytest.mark.parametrize("name", ["ready", "oscillator", "Ready"])
def test_a_name_gives_a_plant_whether_object_function_or_class(name):
    plant = resolve(f"numpy_plants:{name}")
    assert isinstance(plant, Plant)
    assert plant.specification.horizon == 25


def test_a_plant_of_a_file_runs_on_workers_that_import_the_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from policysearch import Plant\n"
        "def f(x, u):\n    return [float(x[1]), float(u[0])]\n"
        "def cost(x, u):\n    return float(x[0] ** 2)\n"
        "plant = Plant(f, dt=0.1, horizon=5, cost=cost, limits=(-1, 1), reset=[1.0, 0.0])\n"
    )
    plant = resolve(f"{path}:plant")
    assert plant.runner == "singly"
    assert plant.equations.addresses == {"f": f"{path}:f", "cost": f"{path}:cost"}
    assert train(plant, "ars", budget="1updates", workers=1).evaluation.failed == 0


def test_the_specification_says_what_was_given():
    plant = oscillator(
        limits=([-1.0], [2.0]),
        output=lambda x: x[:1],
        observation_names=["position [m]"],
        observation_scale=[0.5],
        end=lambda x: x[0] < -5,
        discount=0.9,
        solved_cost=0.3,
        name="spring",
    )
    found = plant.specification
    assert (found.name, found.observation_size, found.observation_names) == ("spring", 1, ("position [m]",))
    assert found.action == Continuous([-1.0], [2.0])
    assert (found.dt, found.discount, found.observation_scale) == (0.1, 0.9, (0.5,))
    assert (found.returns, found.ends_early, found.deterministic) == (False, True, False)
    assert (found.policy, found.solved, plant.solved_cost()) == ("linear", "mean cost of at most 0.3", 0.3)
    assert oscillator(reset=[1.0, 0.0]).specification.deterministic
    assert not oscillator(reset=[1.0, 0.0], sensor_noise=0.1).specification.deterministic


def mutating(x, u):
    x *= 2.0
    return columns(x, u)


class Counting:
    calls = 0

    def __call__(self, x, u):
        self.calls += 1
        return columns(x, u) + self.calls


def jaxed(x, u):
    import jax.numpy as jnp

    return jnp.zeros(2)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"f": lambda x, u: columns(x, u)[:, None]},
            r"f gave an array of shape \(2, 1\) .*derivative of the state, shape \(2,\)",
        ),
        ({"f": lambda x, u: None}, r"f gave an array of shape \(1,\)|f gave None"),
        ({"f": lambda x, u: "fast"}, "it must give numbers"),
        ({"f": lambda x, u: x / 0.0}, r"f gave \[.*inf.*where rollouts begin"),
        ({"f": lambda x, u: x.speed}, r"f fails for x = .*AttributeError.*\n.*test_plant.py"),
        ({"f": mutating}, r"f changes its arguments. Work on a copy"),
        ({"f": Counting()}, r"f gave .* and then .* for the same x"),
        ({"f": jaxed}, "f gave an array of JAX. Use NumPy in a Plant"),
        ({"f": lambda t, x, u: x}, r"f requires 3 arguments; it is called with \(x, u\). Without time"),
        ({"cost": lambda x, u: u**2}, r"cost gave an array of shape \(1,\) .*one number: take u\[0\], or sum"),
        ({"cost": lambda x: 0.0}, "cost requires 1 arguments"),
        ({"cost": None}, "cost is None; it must be a function"),
        ({"output": lambda x: x[0]}, r"output gave an array of shape \(\) .*observation, shape \(p,\)"),
        ({"end": lambda x: True}, "end is true in the initial state"),
        ({"reset": 1.0}, "reset gave 1.0; it must be a state"),
        ({"reset": [np.nan, 0.0]}, "reset gave .*finite numbers"),
        ({"reset": lambda generator: np.random.default_rng().normal(size=2)}, "generators of the same seed"),
        ({"limits": 3.0}, "limits is 3.0; give Continuous"),
        ({"limits": Discrete(3)}, r"limits is Discrete.*give Continuous"),
        ({"limits": (1.0, -1.0)}, "limits of action 0"),
        ({"dt": 0.0}, "dt is 0.0"),
        ({"horizon": 2.5}, "horizon is 2.5"),
        ({"integrator": "midpoint"}, "integrator is 'midpoint'; choose one of rk4, euler"),
        ({"integrator": "Radau", "substeps": 2}, "Radau chooses its own"),
        ({"substeps": 0}, "substeps is 0"),
        ({"delay": -1}, "delay is -1"),
        ({"sensor_noise": -0.1}, "sensor_noise is -0.1"),
        ({"discount": 1.5}, "discount is 1.5"),
        ({"observation_scale": [1.0]}, "observation_scale is .* each of 2 observations"),
        ({"observation_names": ["x"]}, "has 1 observation_names"),
    ],
)
def test_what_cannot_be_is_said(given, words):
    with pytest.raises(ValueError, match=words):
        oscillator(**given)


def test_a_task_written_in_numpy_is_told_of_both_doors():
    class Spring(Task):
        @property
        def specification(self):
            return oscillator().specification

        def reset(self, key):
            import jax

            return jax.random.normal(key, (2,))

        def step(self, x, u, w):
            return np.array([x[1], u[0]])

        def cost(self, x, u):
            return x[0] ** 2

    with pytest.raises(
        ValueError, match=r"Spring\.step fails: TracerArrayConversionError[\s\S]*use jax\.numpy[\s\S]*Plant\("
    ):
        check(Spring())


def test_reset_and_cost_of_the_module_are_what_workers_import():
    assert oscillator(single).equations.addresses == {
        "f": "numpy_plants:single",
        "cost": "numpy_plants:cost",
        "reset": "numpy_plants:reset",
    }
    assert cost([1.0, 0.0], [0.0]) == pytest.approx(0.1)
    assert reset(np.random.default_rng(0)).shape == (2,)
