import numpy as np
import pytest

from policysearch.evaluation import default_rollouts, evaluate, fit
from policysearch.policies import LinearGaussian, Parameters, Softmax
from policysearch.specification import Continuous, Discrete, Specification
from policysearch.tasks import resolve
from policysearch.tasks.python_function import PythonFunction

LINEAR = LinearGaussian([[-0.5, -0.8]], std=0.3)


def numbers(*values):
    return Parameters([f"x{i}" for i in range(len(values))], values).controller()


def test_the_mode_of_a_linear_plant_costs_what_the_closed_form_says():
    task = resolve("lqr-check")
    result = evaluate(task, LINEAR.controller(), 400, seed=1)
    # four standard errors
    assert abs(result.cost_mean - task.expected_cost([[-0.5, -0.8]], 0.0)) < 4 * result.cost_sem
    assert (result.rollouts, result.failed, result.stages) == (400, 0, 400 * 21)
    again, other = (evaluate(task, LINEAR.controller(), 400, seed=seed) for seed in (1, 2))
    assert again.cost_mean == result.cost_mean != other.cost_mean


def test_success_is_a_share_and_decides_where_the_task_has_a_goal():
    task = resolve("double-integrator")
    best = evaluate(task, LinearGaussian(task.riccati().gains[0]).controller(), 20)
    idle = evaluate(task, LinearGaussian(np.zeros((1, 2))).controller(), 20)
    assert (best.success_share, best.solved) == (1.0, True)
    assert idle.success_share < 0.5
    assert idle.solved is False


def test_a_python_cost_is_called_on_seeds_of_its_own():
    seeds = []

    def cost(values, seed):
        seeds.append(seed)
        return float(values[0])

    task = PythonFunction(cost, initial=(1.0,))
    result = evaluate(task, numbers(2.0), 5)
    assert (result.cost_mean, result.cost_sem, len(set(seeds))) == (2.0, 0.0, 5)
    assert result.solved is None


def test_failed_rollouts_are_counted_and_are_in_no_mean():
    values = iter([1.0, np.nan, 3.0, np.inf])
    result = evaluate(PythonFunction(lambda v, seed: next(values), initial=(1.0,)), numbers(1.0), 4)
    assert (result.cost_mean, result.failed, result.rollouts) == (2.0, 2, 4)
    nothing = evaluate(PythonFunction(lambda v, seed: np.nan, initial=(1.0,)), numbers(1.0), 2)
    assert np.isnan(nothing.cost_mean)
    assert nothing.failed == 2


def test_as_many_rollouts_as_noise_asks_for():
    assert default_rollouts(Specification(name="a", deterministic=True)) == 1
    assert default_rollouts(Specification(name="a", reward=True)) == 20
    assert default_rollouts(Specification(name="a")) == 100
    assert evaluate(resolve("bowl"), numbers(*[0.0] * 10)).rollouts == 1
    with pytest.raises(ValueError, match="rollouts is 0"):
        evaluate(resolve("bowl"), numbers(*[0.0] * 10), 0)


CONTINUOUS = Specification(name="rig", action=Continuous((-1.0,), (1.0,)), observation_size=2)
DISCRETE = Specification(name="rig", action=Discrete(3), observation_size=2)
SOFTMAX = Softmax([(np.zeros((3, 2)), None)])


@pytest.mark.parametrize(
    ("specification", "controller", "words"),
    [
        (CONTINUOUS, SOFTMAX.controller(), "A softmax policy cannot serve"),
        (CONTINUOUS, numbers(1.0), "A parameters policy cannot serve"),
        (DISCRETE, LINEAR.controller(), "A linear_gaussian policy cannot serve"),
        (Specification(name="rig"), LINEAR.controller(), "cannot serve"),
        (CONTINUOUS, LinearGaussian([[1.0, 2.0, 3.0]]).controller(), "does not take the 2 observations"),
        (CONTINUOUS, LinearGaussian([[1.0, 2.0], [3.0, 4.0]]).controller(), "gives 2 outputs; rig takes 1"),
    ],
)
def test_policies_that_do_not_fit_are_refused(specification, controller, words):
    with pytest.raises(ValueError, match=words):
        fit(specification, controller)


def test_policies_that_fit_are_taken():
    fit(CONTINUOUS, LINEAR.controller())
    fit(DISCRETE, SOFTMAX.controller())
    fit(Specification(name="rig"), numbers(1.0))
