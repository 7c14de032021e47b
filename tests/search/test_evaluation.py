import json

import msgspec
import numpy as np
import pytest

from policysearch.cli.main import main
from policysearch.core.controller import Controller
from policysearch.core.policies import LinearGaussian, Parameters, Softmax
from policysearch.core.specification import Continuous, Discrete, Specification
from policysearch.runs import journal
from policysearch.search.evaluation import QUANTILES, Evaluation, default_rollouts, evaluate, fit
from policysearch.tasks import resolve
from policysearch.tasks.gymnasium_task import GymnasiumTask
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
    # but each has its place among the single rollouts
    assert np.isfinite(result.costs).tolist() == [True, False, True, False]
    assert result.quantiles()["max"] == 3.0
    assert np.isnan(list(nothing.quantiles().values())).all()
    assert nothing.summary()["length"] is None


def test_the_mean_is_that_of_the_single_rollouts_and_quantiles_are_theirs():
    result = evaluate(resolve("lqr-check"), LINEAR.controller(), 50, seed=1)
    costs = np.array(result.costs)
    assert len(costs) == result.rollouts == 50
    assert result.cost_mean == pytest.approx(costs.mean(), rel=1e-6)
    assert result.cost_sem == pytest.approx(costs.std(ddof=1) / np.sqrt(50), rel=1e-6)
    assert result.returns is None
    assert result.lengths == (21,) * 50
    quantiles = result.quantiles()
    assert list(quantiles.values()) == sorted(quantiles.values())
    assert (quantiles["min"], quantiles["median"], quantiles["max"]) == (costs.min(), np.median(costs), costs.max())
    assert quantiles["q05"] == pytest.approx(np.sort(costs)[2] + 0.45 * np.diff(np.sort(costs))[2])


#: pushes to the side to which the pole leans: it falls after some tens of stages
LEANING = Controller({"policy": "softmax"}, {"weight_0": [[0.0, 0.0, -1.0, 0.0], [0.0, 0.0, 1.0, 0.0]]})


def test_an_environments_rollouts_have_their_returns_and_lengths():
    result = evaluate(GymnasiumTask("CartPole-v1"), LEANING, 10, seed=2, workers=1)
    # it pays 1 a stage
    assert result.returns == tuple(map(float, result.lengths))
    assert result.costs == tuple(-value for value in result.returns)
    assert result.return_mean == np.mean(result.returns)
    assert result.quantiles()["min"] == min(result.returns) > 0
    assert result.stages == sum(result.lengths)
    assert result.summary()["length"] == {
        "mean": np.mean(result.lengths),
        "min": min(result.lengths),
        "max": max(result.lengths),
    }


def test_a_summary_has_no_single_rollouts_and_can_be_stored():
    result = evaluate(resolve("lqr-check"), LINEAR.controller(), 50, seed=1)
    summary = result.summary()
    singles = {"costs", "returns", "lengths"}
    assert set(summary) == set(msgspec.structs.asdict(result)) - singles | {"quantiles", "length"}
    assert set(summary["quantiles"]) == set(QUANTILES)
    assert msgspec.json.decode(msgspec.json.encode(summary)) == summary
    assert "costs=" not in repr(result)
    assert f"cost_mean={result.cost_mean!r}" in repr(result)
    assert Evaluation(cost_mean=1.0, cost_sem=0.0, rollouts=1).summary()["length"] is None


def stored(folder, task, controller):
    record = journal.Journal(folder, {"task": task, "task_options": {}, "seed": 3})
    record.add({"update": 1.0, "rollouts": 1.0})
    record.save(controller)
    record.finish({})
    record.close()
    return str(folder)


def test_the_command_prints_quantiles_lengths_and_the_threshold(tmp_path, capsys):
    folder = stored(tmp_path / "run", "CartPole-v1", LEANING)
    assert main(["evaluate", folder, "--rollouts", "10", "--workers", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"cost_mean", "cost_sem", "return_mean", "failed", "stages", "solved", "criterion"} <= set(found)
    assert main(["evaluate", folder, "--rollouts", "10", "--workers", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == f"not solved: mean return of at least 475; here {found['return_mean']:.4g}"
    quantiles, length = found["quantiles"], found["length"]
    assert lines[2].startswith(f"return: min {quantiles['min']:.4g}, 5 % {quantiles['q05']:.4g}, 25 %")
    assert lines[2].endswith(f"95 % {quantiles['q95']:.4g}, max {quantiles['max']:.4g}")
    assert lines[3] == f"stages: mean {length['mean']:.4g}, min {length['min']}, max {length['max']}"


def test_the_command_leaves_out_what_a_single_rollout_or_stage_cannot_have(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "unused"))
    assert main(["evaluate", stored(tmp_path / "run", "bowl", numbers(*[0.1] * 10))]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    arms = Softmax([(np.array([[0.0], [0.0], [0.0], [5.0]]), None)]).controller()
    assert main(["evaluate", stored(tmp_path / "arms", "bandit", arms), "--rollouts", "5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" ")[0] for line in lines] == ["cost", "solved:", "cost:"]


def test_as_many_rollouts_as_noise_asks_for():
    assert default_rollouts(Specification(name="a", deterministic=True)) == 1
    assert default_rollouts(Specification(name="a", ends_early=True)) == 20
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
        (CONTINUOUS, SOFTMAX.controller(), "A softmax policy does not fit"),
        (CONTINUOUS, numbers(1.0), "A parameters policy does not fit"),
        (DISCRETE, LINEAR.controller(), "A linear_gaussian policy does not fit"),
        (Specification(name="rig"), LINEAR.controller(), "does not fit"),
        (CONTINUOUS, LinearGaussian([[1.0, 2.0, 3.0]]).controller(), "does not take the 2 observations"),
        (CONTINUOUS, LinearGaussian([[1.0, 2.0], [3.0, 4.0]]).controller(), "has 2 outputs; rig takes 1"),
    ],
)
def test_policies_that_do_not_fit_are_refused(specification, controller, words):
    with pytest.raises(ValueError, match=words):
        fit(specification, controller)


def test_policies_that_fit_are_taken():
    fit(CONTINUOUS, LINEAR.controller())
    fit(DISCRETE, SOFTMAX.controller())
    fit(Specification(name="rig"), numbers(1.0))
