import json
import re

import msgspec
import numpy as np
import pytest

from policysearch import Comparison, compare, evaluate, open_comparison, train
from policysearch.cli.main import main
from policysearch.comparison import cells, entrants, rivals, statistics, summary
from policysearch.comparison.cells import Cell, Point
from policysearch.comparison.running import ALONG, AT_THE_END
from policysearch.core.credit import TotalCost
from policysearch.core.direction import Euclidean
from policysearch.core.explore import ParameterNoise
from policysearch.core.method import Method
from policysearch.core.policies import Parameters
from policysearch.core.settings import Budget
from policysearch.core.specification import Specification
from policysearch.core.step import LearningRate
from policysearch.methods.settings import ARS, TRPO, NaturalGradient
from policysearch.report.comparison import headline
from policysearch.runners import runner
from policysearch.runs.journal import Journal
from policysearch.tasks import build
from policysearch.tasks.task import Function


def cell(method, seed, values, solved=None, failed=0):
    """A search that was measured after 0, 10, 20, … rollouts."""
    flags = solved or [None] * len(values)
    curve = [
        Point(rollouts=10 * k, stages=10 * k, seconds=float(k), value=value, solved=flag)
        for k, (value, flag) in enumerate(zip(values, flags, strict=True))
    ]
    return Cell(method=method, seed=seed, curve=curve, final=curve[-1], counts={"failed": failed}, reason="")


def grid(*found, reward=False):
    methods = list(dict.fromkeys(one.method for one in found))
    specification = Specification(name="made up", returns=reward, solved="far enough")
    return Comparison(
        specification=specification,
        budget="100",
        threshold=None,
        evaluation_rollouts=3,
        methods=methods,
        cells=list(found),
    )


@pytest.mark.parametrize(
    ("budget", "words"),
    [("3000", "3000 rollouts"), ("2000000stages", "2 000 000 stages"), ("300updates", "300 updates")],
)
def test_the_title_of_a_picture_tells_the_budget_in_words_and_whole(budget, words):
    task = Specification(name="a-task-of-a-name")
    found = msgspec.structs.replace(grid(cell("one", 0, [2.0, 1.0])), budget=budget, specification=task)
    assert headline(found) == f"a-task-of-a-name, {words} per search"


# statistics


def test_the_interquartile_mean_leaves_out_a_quarter_on_either_side():
    assert statistics.iqm([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 1000.0]) == 4.5
    assert statistics.iqm([1.0, 2.0, 3.0, np.inf]) == 2.5
    assert statistics.iqm([1.0, np.inf, np.inf, np.inf]) == np.inf
    assert statistics.iqm([7.0]) == 7
    # of five a quarter is one and a quarter of the next
    assert statistics.iqm([100.0, 1.0, 2.0, 3.0, -9.0]) == pytest.approx((0.75 * 1 + 2 + 0.75 * 3) / 2.5)
    assert statistics.iqm(np.arange(12.0).reshape(4, 3), axis=0).tolist() == [4.5, 5.5, 6.5]


def test_the_bootstrap_interval_covers_the_truth_as_often_as_it_says():
    """Of 300 samples of 20 normals the 95 % interval of the IQM held 0 in a share within 4 standard errors of 0.95.

    Percentile intervals of small samples are somewhat too short (0.92 is usual for 20), so 0.95 − 0.03 is the centre.
    """
    random = np.random.default_rng(3)
    held = [
        (found := statistics.iqm_estimate(random.standard_normal(20), 400)).low <= 0 <= found.high for _ in range(300)
    ]
    assert abs(np.mean(held) - 0.92) < 4 * np.sqrt(0.92 * 0.08 / 300)


def test_few_seeds_or_failed_ones_have_no_interval():
    assert np.isnan(statistics.iqm_estimate([1.0, 2.0, 3.0]).low)
    assert np.isnan(statistics.iqm_estimate([1.0, 2.0, 3.0, np.inf]).high)
    assert np.isfinite(statistics.iqm_estimate([1.0, 2.0, 3.0, 4.0]).high)
    assert np.isnan(statistics.improvement([1.0, 2.0, 3.0], [4.0, 5.0, 6.0]).low)


def test_the_probability_of_improvement_counts_pairs_and_halves_ties():
    assert statistics.improvement([1.0, 3.0], [2.0, 3.0]).value == (2 + 0 + 0.5) / 4
    chance = statistics.improvement(np.arange(10.0), np.arange(10.0) + 3)
    assert 0.4 < chance.low < chance.value < chance.high < 1
    assert chance.value == np.mean([[(a < b) + 0.5 * (a == b) for b in range(3, 13)] for a in range(10)])
    mirrored = statistics.improvement(np.arange(10.0) + 3, np.arange(10.0))
    assert (mirrored.value, mirrored.low) == (pytest.approx(1 - chance.value), pytest.approx(1 - chance.high))


def test_where_all_pairs_agree_the_interval_still_has_a_width():
    sure = statistics.improvement(np.arange(5.0), np.arange(5.0) + 9)
    assert sure.value == sure.high == 1
    assert 0.5 < sure.low < 0.8


@pytest.mark.parametrize("seeds", [4, 10])
def test_equal_methods_are_called_different_in_one_of_twenty_comparisons(seeds):
    """Four standard errors of a share of 0.05 among 1500."""
    random = np.random.default_rng(5)
    found = [statistics.improvement(*random.standard_normal((2, seeds))) for _ in range(1500)]
    different = np.mean([chance.low > 0.5 or chance.high < 0.5 for chance in found])
    assert abs(different - 0.05) < 4 * np.sqrt(0.05 * 0.95 / 1500)


def test_a_failed_seed_is_worse_than_any_other():
    found = grid(cell("a", 0, [1.0, None]), cell("a", 1, [1.0, 9.0]), cell("b", 0, [1.0, 99.0]))
    assert found.values("a").tolist() == [np.inf, 9.0]
    assert found.improvement("a", "b").value == 0.5
    returns = grid(cell("a", 0, [None]), cell("b", 0, [-99.0]), reward=True)
    assert returns.improvement("b", "a").value == 1.0


def test_rows_curves_and_words_say_what_the_cells_hold():
    found = grid(
        cell("slow", 0, [9.0, 9.0, 1.0], [False, False, True]),
        cell("slow", 1, [9.0, 9.0, 2.0], [False, False, True]),
        cell("quick", 0, [9.0, 4.0, 4.0], [False, True, True]),
        cell("quick", 1, [9.0, 8.0], [False, True], failed=2),
    )
    first, second = found.table()
    assert (first.method, first.solved, first.reached, first.rollouts, first.iqm.value) == ("slow", 2, 2, 20, 1.5)
    assert (second.method, second.solved, second.reached, second.rollouts, second.failed) == ("quick", 2, 2, 10, 2 / 30)
    curve = found.curve("quick")
    assert curve.value.tolist() == [9.0, 6.0, 6.0]  # the seed that ended early stays where it ended
    assert curve.rollouts.tolist() == [0, 10, 15]
    said = " ".join(found.words())
    assert "slow ends best: cost 1.5" in said
    assert "quick meets the criterion first: after 10 rollouts" in said
    with pytest.raises(KeyError, match="slow, quick did"):
        found.of("other")


def test_a_return_is_better_the_larger_it_is():
    found = grid(cell("low", 0, [1.0]), cell("high", 0, [2.0]), reward=True)
    assert [row.method for row in found.table()] == ["high", "low"]
    assert found.improvement("high", "low").value == 1.0


# entrants


def test_entrants_are_names_with_settings():
    found = entrants.named("trpo, ars(version=v1, directions=8), cma")
    assert list(found) == ["trpo", "ars(version=v1,directions=8)", "cma"]
    assert found["trpo"] == TRPO()
    assert found["ars(version=v1,directions=8)"] == ARS(version="v1", directions=8)
    assert found["cma"] == "cma"
    assert list(entrants.named([NaturalGradient(max_kl=0.2), "trpo"])) == ["natural_gradient(max_kl=0.2)", "trpo"]
    assert entrants.named({"mine": "trpo(max_kl=0.5)"})["mine"].max_kl == 0.5


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ("", ValueError, "There are no methods to compare"),
        ("trp", ValueError, "Did you mean trpo"),
        ("trpo(max_kll=1)", ValueError, "Did you mean max_kl"),
        ("trpo(max_kl=-1)", ValueError, "max_kl"),
        ("trpo(max_kl)", ValueError, "write name=value"),
        ("cma(std=1)", ValueError, "no settings here"),
        ("trpo,trpo", ValueError, "twice"),
        ("tr po", ValueError, "is not a method"),
        ([3], TypeError, "has no label"),
    ],
)
def test_entrants_that_mean_nothing_are_refused(given, error, words):
    with pytest.raises(error, match=words):
        entrants.named(given)


# cells on disk


def test_a_torn_line_is_passed_over_and_the_next_one_stands_alone(tmp_path):
    cells.append(tmp_path, [cell("a", 0, [1.0])])
    with (tmp_path / cells.FILE).open("ab") as file:
        file.write(b'{"method":"a","seed":1,"cur')
    cells.append(tmp_path, [cell("a", 2, [3.0, None])])
    found = cells.read(tmp_path)
    assert sorted(found) == [("a", 0), ("a", 2)]
    assert found["a", 2] == cell("a", 2, [3.0, None])


# searches

OPTIONS = {"seeds": [3, 1], "budget": 60, "points": 4}


def test_cells_hold_what_single_searches_give():
    """The last policy of each seed is that of `train`, and is measured on seeds of its own."""
    found = compare("bandit", "gpomdp(rollouts=10)", evaluation_rollouts=50, **OPTIONS)
    for one in found.cells:
        single = train("bandit", entrants.parse("gpomdp(rollouts=10)"), budget=60, seed=one.seed)
        evaluation = evaluate(build("bandit"), single.controller, 50, AT_THE_END)
        assert one.final.value == pytest.approx(evaluation.cost_mean, rel=1e-5)
        along = evaluate(build("bandit"), single.controller, 50, ALONG)
        assert one.curve[-1].value == pytest.approx(along.cost_mean, rel=1e-5)
        assert [point.rollouts for point in one.curve] == [0, 10, 20, 60]  # 1, 5, 22 and 100 % of 60, in updates of 10
        assert one.counts["gradient"] == 60
        assert one.together == 2
    assert [one.seed for one in found.cells] == [3, 1]


def test_all_start_from_the_same_evaluation_seeds():
    found = compare("lqr-check", "gpomdp,cma", evaluation_rollouts=20, **OPTIONS)
    assert len({round(one.curve[0].value, 3) for one in found.cells}) == 1
    assert found.baseline[0] == "LQR"
    assert found.baseline[1] < min(found.values("gpomdp"))


def test_an_interrupted_comparison_goes_on_and_ends_as_if_nothing_had_happened(tmp_path):
    def interrupt(progress):
        if progress.method == "cma" and progress.seed == 1:
            raise KeyboardInterrupt

    methods = "weight_perturbation(rollouts=6),cma"
    with pytest.raises(KeyboardInterrupt):
        compare("bowl", methods, folder=tmp_path, on_progress=interrupt, **OPTIONS)
    first = cells.read(tmp_path)
    assert sorted(first) == [("cma", 3), ("weight_perturbation(rollouts=6)", 1), ("weight_perturbation(rollouts=6)", 3)]
    heard = []
    compare("bowl", methods, folder=tmp_path, on_progress=heard.append, **OPTIONS)
    assert {(progress.method, progress.seed) for progress in heard} == {("cma", 1)}
    found, fresh = open_comparison(tmp_path), compare("bowl", methods, **OPTIONS)
    assert {(one.method, one.seed): _timeless(one) for one in found.cells} == {
        (one.method, one.seed): _timeless(one) for one in fresh.cells
    }
    assert {key: value for key, value in cells.read(tmp_path).items() if key in first} == first
    more = compare("bowl", methods, folder=tmp_path, **{**OPTIONS, "seeds": [3, 1, 5]})
    assert len(more.cells) == 6


def _timeless(one):
    still = lambda point: msgspec.structs.replace(point, seconds=0.0)  # noqa: E731
    return msgspec.structs.replace(
        one, curve=[still(point) for point in one.curve], final=still(one.final), compilation=0.0, together=1
    )


def test_other_conditions_need_another_folder(tmp_path):
    compare("bowl", "nelder_mead", folder=tmp_path, **OPTIONS)
    with pytest.raises(ValueError, match="budget 60 there, 70 now"):
        compare("bowl", "nelder_mead", folder=tmp_path, **{**OPTIONS, "budget": 70})
    with pytest.raises(ValueError, match="a different method 'nelder_mead'"):
        compare("bowl", {"nelder_mead": "cma"}, folder=tmp_path, **OPTIONS)
    (tmp_path / cells.CONFIGURATION).write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        compare("bowl", "nelder_mead", folder=tmp_path, **OPTIONS)
    with pytest.raises(FileNotFoundError, match="holds no comparison"):
        open_comparison(tmp_path / "nowhere")


def test_a_comparison_is_not_written_into_the_folder_of_a_run(tmp_path):
    Journal(tmp_path, {"task": "bowl"}, keep=True).close()
    there = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"holds a run, .* give another folder \(--out\)"):
        compare("bowl", "nelder_mead", folder=tmp_path, **OPTIONS)
    assert sorted(path.name for path in tmp_path.iterdir()) == there


@pytest.mark.parametrize(
    ("task", "methods", "options", "words"),
    [
        ("bowl", "gpomdp", {}, "no actions|evaluates|Parameters has none"),
        ("bowl", "cma", {"seeds": 0}, "at least one"),
        ("bowl", "cma", {"seeds": [1, 1]}, "none twice"),
        ("bowl", "cma", {"points": 0}, "at least one"),
        ("lqr", "gpomdp,ars", {"budget": 2}, "less than one update"),
        ("bowl", "cma", {"budget": "9updates"}, "not the same for all"),
        ("bowl", "cma", {"threshold": np.nan}, "must be finite"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_runs(task, methods, options, words, tmp_path):
    heard = []
    with pytest.raises((ValueError, TypeError), match=words):
        compare(task, methods, folder=tmp_path, on_progress=heard.append, **{**OPTIONS, **options})
    assert not heard
    assert not list(tmp_path.iterdir())


def test_a_method_composed_by_hand_takes_part_under_a_label():
    method = Method(ParameterNoise(4, 0.1), TotalCost("none"), Euclidean(), LearningRate(0.05))
    found = compare("bowl", {"mine": method}, **OPTIONS)
    assert found.methods == ["mine"]
    assert found.values("mine").max() < found.cells[0].curve[0].value


def test_what_there_is_to_say_of_a_method_is_said_once():
    with pytest.warns(UserWarning, match="noise") as said:
        compare(
            "lqr-check",
            "finite_differences(common_random_numbers=false)",
            seeds=2,
            budget=40,
            points=1,
            evaluation_rollouts=5,
        )
    assert len(said) == 1


def test_a_threshold_takes_the_place_of_the_criterion():
    easy, hard = (compare("bowl", "nelder_mead", threshold=x, **OPTIONS) for x in (1e6, 1e-9))
    assert (easy.table()[0].solved, hard.table()[0].solved) == (2, 0)
    assert easy.table()[0].rollouts == 0
    assert easy.criterion == "mean cost at most 1e+06"


def test_a_python_cost_and_its_rivals_share_the_budget():
    calls = []

    def cost(values, seed):
        calls.append(seed)
        return float(np.sum((values - 2.0) ** 2)) + 1e-3 * (seed % 10)

    cost.initial = (0.0, 0.0)
    found = compare(cost, "weight_perturbation,cma,nelder_mead", seeds=1, budget=80, points=3)
    for one in found.cells:
        assert one.final.rollouts <= 80
        assert one.final.value < one.curve[0].value
    assert found.of("cma")[0].final.rollouts == 78  # calls of 6
    assert found.of("nelder_mead")[0].final.rollouts == 80


def test_a_rival_survives_trials_that_fail():
    """Half the plane gives NaN; the minimum of the rest is found."""
    jnp = pytest.importorskip("jax.numpy")
    cliff = Function(
        cost=lambda values, key: jnp.where(values[0] < 0, jnp.nan, jnp.sum((values - 1) ** 2)),
        initial=(0.3, 3.0),
        name="cliff",
        scale=2.0,
    )
    found = compare(cliff, "cma,nelder_mead", seeds=1, budget=400, points=2)
    for one in found.cells:
        assert one.final.value < 0.01
    assert found.of("cma")[0].counts["failed"] > 0


def test_failed_trials_cost_what_the_worst_one_cost():
    trials = rivals.Trials(
        runner(Function(cost=lambda values, key: values[0] / (values[0] < 5), initial=(1.0,)), 0),
        Parameters(["a"], [1.0]),
        Budget(10),
        lambda theta: None,
    )
    # θ counts from the initial value of 1
    assert trials(np.array([[9.0]]), np.zeros(1)).tolist() == [np.inf]
    assert trials(np.array([[1.0], [9.0], [3.0]]), np.zeros(1)).tolist() == [2.0, 4.0, 4.0]
    assert trials.failed == 2
    with pytest.raises(rivals.BudgetSpent):
        trials(np.zeros((7, 1)), np.zeros(1))
    assert trials.rollouts == 4


def test_simulators_run_on_workers_and_count_returns():
    options = {"seeds": 1, "budget": 24, "points": 2, "workers": 1}
    given = {"policy": "linear", "threshold": 1.0, "evaluation_rollouts": 3}
    found = compare("CartPole-v1", "ars(directions=4),cma", **given, **options)
    # three points of three rollouts and three at the end
    assert found.of("ars(directions=4)")[0].counts["evaluation"] == 3 * 3 + 3
    assert found.noun == "return"
    for one in found.cells:
        assert one.final.rollouts <= 24
        assert one.final.value >= 1
        assert one.final.solved
        assert one.final.stages > one.final.rollouts
    assert found.criterion == "mean return at least 1"


# the command

PLANT = """
import jax.numpy as jnp
from policysearch import LQR

def motor():
    return LQR([[1.0, 0.1], [0.0, 0.9]], [[0.0], [0.1]], jnp.eye(2), [[0.1]], initial_mean=[1.0, 0.0], horizon=20)
"""


def test_the_command_writes_a_report_of_a_plant_in_a_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plant.py").write_text(PLANT)
    command = ["compare", "plant.py:motor", "--methods", "natural_gradient,cma", "--seeds", "2", "--budget", "60"]
    assert main([*command, "--out", "found"]) == 0
    said = capsys.readouterr()
    assert "ends best" in said.out
    assert "100 %" in said.err or "left" in said.err
    page = (tmp_path / "found" / "report.html").read_text()
    assert page.count("<svg") == 4
    assert "2 methods compared" in page
    assert (tmp_path / "found" / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert main([*command, "--out", "found", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["seeds"] for row in found["rows"]] == [2, 2]
    (tmp_path / "found" / "report.html").unlink()
    assert main(["report", "found"]) == 0
    assert "2 methods compared" in (tmp_path / "found" / "report.html").read_text()
    assert main(["report", "found", "other"]) == 2


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--seeds", "x"], "--seeds is 'x'"),
        (["--seeds", "0"], "give at least one"),
        (["--methods", "trpp"], "Did you mean trpo"),
        (["--budget", "few"], "budget is 'few'"),
    ],
)
def test_the_command_says_what_is_wrong(extra, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["compare", "bowl", "--methods", "cma", *extra]
    assert main(command) == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_plant_whose_every_rollout_fails_ends_with_words_and_a_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    nothing = Function(cost=lambda values, key: values[0] * np.nan, initial=(1.0, 2.0), name="nothing")
    found = compare(nothing, "weight_perturbation,cma", seeds=2, budget=200, points=3, folder=tmp_path / "found")
    words = found.words()
    assert words[0] == "No method ended with a policy that could be measured."
    assert "weight_perturbation: 2 of 2 searches ended early, after 80 rollouts: 10 updates in a row" in words[1]
    assert main(["report", "found"]) == 0
    assert "ended early" in (tmp_path / "found" / "report.html").read_text()


def test_rollouts_of_the_last_policy_that_fail_count_as_the_worst_and_are_told():
    """A third of all rollouts fails, whatever the policy."""
    jax = pytest.importorskip("jax")
    dice = Function(
        cost=lambda values, key: jax.numpy.where(
            jax.random.uniform(key) < 1 / 3,
            jax.numpy.nan,
            jax.random.uniform(jax.random.fold_in(key, 1)) + values @ values,
        ),
        initial=(0.0, 0.0),
        deterministic=False,
        name="dice",
    )
    found = compare(dice, "nelder_mead", seeds=1, budget=20, points=2, evaluation_rollouts=600)
    final = found.cells[0].final
    # a third of 600 within 4 standard errors, and U(0, 1) of the others
    assert abs(final.failed - 200) < 4 * np.sqrt(600 * 2 / 9)
    good = 600 - final.failed
    assert final.value == pytest.approx((0.5 * good + final.failed) / 600, abs=0.05)
    assert f"fail with 1 of 1 seeds, up to {final.failed} in an evaluation" in found.words()[-1]


def test_words_of_a_comparison_in_which_nothing_worked():
    assert grid(cell("a", 0, [None])).words() == ["No method ended with a policy that could be measured."]
    assert summary.interval(statistics.Estimate(2.0, np.nan, np.nan)) == "2"
    assert summary.interval(statistics.Estimate(np.inf, np.nan, np.nan)) == "no policy to measure"


def test_a_folder_says_in_words_which_conditions_differ_and_mixes_none(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = ["compare", "lqr", "--methods", "gpomdp", "--seeds", "1", "--points", "1", "--evaluation-rollouts", "2"]
    assert main([*command, "--budget", "40", "--out", "found"]) == 0
    before = (tmp_path / "found" / "comparison.json").read_bytes()
    other = ["--budget", "80", "--policy", "network", "--hidden", "8", "8", "--threshold", "2"]
    assert main([*command, *other, "--out", "found"]) == 2
    said = capsys.readouterr().err
    assert "found holds a comparison under other conditions: budget 40 there, 80 now;" in said
    assert "policy by default there, kind network, hidden (8, 8) now; threshold by default there, 2.0 now." in said
    assert "give another folder (--out)" in said
    assert main([*command, "--budget", "40", "--horizon", "10", "--out", "found"]) == 2
    assert "horizon 30 there, 10 now" in capsys.readouterr().err
    assert (tmp_path / "found" / "comparison.json").read_bytes() == before


def test_the_page_has_what_rules_chose_also_of_methods_of_an_earlier_call(tmp_path):
    short = {"seeds": 1, "budget": 40, "points": 1, "evaluation_rollouts": 2, "folder": tmp_path}
    compare("lqr", ["gpomdp"], **short)
    compare("lqr", [NaturalGradient(max_kl=0.05)], **short)
    assert main(["report", str(tmp_path)]) == 0
    text = (tmp_path / "report.html").read_text()
    assert re.search(
        r">gpomdp</th><td[^>]*>rollouts 20 \(by rule\), max_kl 0.1 \(by rule\), shrink True \(by rule\)", text
    )
    assert "rollouts 20 (by rule), max_kl 0.05, shrink True (by rule)" in text
