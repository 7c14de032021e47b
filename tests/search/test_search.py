import json
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policysearch import Rig, Search, Trial, train
from policysearch.core.credit import CostToGo, TotalCost
from policysearch.core.direction import Euclidean, LeastSquares, Natural
from policysearch.core.explore import ActionNoise, Coordinates, ParameterNoise
from policysearch.core.method import Method
from policysearch.core.policies import LinearGaussian, Parameters
from policysearch.core.settings import Budget, PolicySettings
from policysearch.core.specification import Continuous, Discrete, Specification
from policysearch.core.step import KLStep, LearningRate
from policysearch.methods import settings
from policysearch.methods.start import problem
from policysearch.search.advice import FAINT, LOOK
from policysearch.search.loop import HOPELESS
from policysearch.tasks.double_integrator import double_integrator
from policysearch.tasks.python_function import PythonFunction

DT, T = 0.1, 20
RIG = Specification(
    name="rig",
    action=Continuous((-5.0,), (5.0,)),
    observation_size=2,
    observation_scale=(1.0, 1.0),
    horizon=T,
    dt=DT,
    deterministic=True,
)
ACTION = Method(ActionNoise(8), CostToGo("value"), Natural(), KLStep(0.1))
SMALL = Method(ActionNoise(3), CostToGo(), Natural(), KLStep(0.1))
PERTURBED = Method(ParameterNoise(4, 0.2), TotalCost("none", normalise=True), Euclidean(), LearningRate(0.04))


def play(controller, noise=None, seed=0):
    """A double integrator in NumPy: observations, sampled actions and costs."""
    x = np.random.default_rng(seed).normal([1.0, 0.0], 0.1)
    observations, actions, costs = [], [], []
    for k in range(T):
        u, applied = controller.act(x, None if noise is None else noise[k])
        observations.append(x.copy())
        actions.append(u)
        costs.append(x @ [1.0, 0.1] * x[0] + 0.1 * applied @ applied)
        x = x + DT * np.array([x[1], applied[0]])
    return np.array(observations), np.array(actions), np.array(costs)


def answer(search, trial):
    """Tell one trial as the rig ran it."""
    if search.method.space == "action":
        return search.tell(trial, rollout=play(trial.controller, trial.noise, trial.environment_seed))
    return search.tell(trial, cost=float(play(trial.controller, seed=trial.environment_seed)[2].sum()))


def one_update(search, order=None):
    """Ask every trial of an update, tell them in some order; returns the record."""
    trials = [search.ask() for _ in range(search.layout.size)]
    records = [answer(search, trials[i]) for i in (order or range(len(trials)))]
    assert records[:-1] == [None] * (len(trials) - 1)
    return records[-1]


def cost_of(policy):
    return np.mean([play(policy.controller(), seed=1000 + i)[2].sum() for i in range(10)])


def rig(method=SMALL, **options):
    return Rig(RIG, method, **options)


# trials that the caller runs


@pytest.mark.parametrize(("method", "updates"), [(ACTION, 25), (PERTURBED, 40)], ids=["action", "parameter"])
def test_a_rig_that_answers_trials_gets_a_good_gain(method, updates):
    search = rig(method, seed=1, policy=LinearGaussian([[0.0, 0.0]], std=0.5))
    before = cost_of(search.policy)
    while search.updates < updates:
        one_update(search)
    # the best linear gain of a grid costs 0.444 times as much as doing nothing
    assert cost_of(search.policy) < 0.5 * before
    assert search.result().evaluation is None
    assert search.counts["gradient"] == search.rollouts == updates * search.layout.size


def test_the_order_of_telling_changes_nothing():
    ahead, back = rig(seed=3), rig(seed=3)
    one_update(ahead)
    one_update(back, order=[2, 0, 1])
    assert np.array_equal(ahead.policy.theta(), back.policy.theta())


def test_asked_trials_repeat_for_the_same_seed_and_differ_between_updates():
    def asked(seed, updates=1):
        search = rig(seed=seed)
        for _ in range(updates):
            trials = [search.ask() for _ in range(3)]
            for trial in trials:
                answer(search, trial)
        return trials

    first, again, other, later = asked(0), asked(0), asked(1), asked(0, 2)
    for a, b, c, d in zip(first, again, other, later, strict=True):
        assert a.environment_seed == b.environment_seed
        assert len({a.environment_seed, c.environment_seed, d.environment_seed}) == 3
        np.testing.assert_array_equal(a.noise, b.noise)
        assert not np.any(np.isclose(a.noise, c.noise))
        assert not np.any(np.isclose(a.noise, d.noise))
    assert [trial.number for trial in later] == [3, 4, 5]


def test_what_a_rig_sampled_has_the_asked_policys_log_probability():
    search = rig(policy=LinearGaussian([[-1.0, -0.5]], std=0.7))
    trial = search.ask()
    observations, actions, _ = play(trial.controller, trial.noise)
    theirs = trial.controller.log_prob(observations, actions)
    ours = search.policy.log_prob(jnp.asarray(observations), jnp.asarray(actions))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)
    expected = -0.5 * trial.noise[:, 0] ** 2 - np.log(0.7) - 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(theirs, expected, rtol=0, atol=1e-6)


def test_a_trial_is_told_once_while_it_is_open():
    search = rig()
    with pytest.raises(ValueError, match="nothing was asked"):
        search.tell(0, cost=1.0)
    trials = [search.ask(), search.ask()]
    answer(search, trials[0])
    assert answer(search, trials[0]) is None  # the same again changes nothing
    with pytest.raises(ValueError, match="told already, as done"):
        search.tell(trials[0], failed="another word")
    with pytest.raises(ValueError, match="not open; open are 0 to 1"):
        search.tell(2, failed="safety stop")
    search.ask()
    with pytest.raises(RuntimeError, match="All 3 trials of this update are out; 2 are still to be told"):
        search.ask()
    search.tell(1, lost="cable")
    assert search.tell(2, lost="cable")["lost"] == 2
    with pytest.raises(ValueError, match="not open"):
        search.ask() and search.tell(0, lost="late")


GOOD = (np.zeros((2, 2)), np.zeros((2, 1)), np.zeros(2))


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({}, "exactly one of"),
        ({"failed": "a", "lost": "b"}, "2 were given"),
        ({"cost": 1.0}, "learns from every stage"),
        ({"rollout": (np.zeros((2, 3)), GOOD[1], GOOD[2])}, r"\(2, 2\), .* \(2, 1\) are needed"),
        ({"rollout": (GOOD[0], np.zeros(2), GOOD[2])}, "as sampled, before clipping"),
        ({"rollout": (np.zeros((T + 1, 2)), np.zeros((T + 1, 1)), np.zeros(T + 1))}, "between 1 and 20 stages"),
        ({"rollout": (np.zeros((0, 2)), np.zeros((0, 1)), np.zeros(0))}, "between 1 and 20 stages"),
        ({"rollout": (np.full((2, 2), np.nan), GOOD[1], GOOD[2])}, "not finite"),
    ],
)
def test_a_result_of_the_wrong_shape_is_refused_and_the_trial_stays_open(told, words):
    search = rig()
    trial = search.ask()
    with pytest.raises(ValueError, match=words):
        search.tell(trial, **told)
    assert answer(search, trial) is None


def test_failures_and_losses_are_counted_apart_and_do_not_stop_the_rest():
    search = rig(PERTURBED)
    trials = [search.ask() for _ in range(8)]
    search.tell(trials[0], failed="hit the wall")
    search.tell(trials[2], cost=float("nan"))
    search.tell(trials[4], lost="power cut")
    for trial in trials:
        if trial.index not in (0, 2, 4):
            record = answer(search, trial)
    assert (record["failed"], record["lost"], record["skipped"]) == (2, 1, 0)
    assert (search.counts["failed"], search.counts["lost"], search.counts["gradient"]) == (2, 1, 8)


def test_a_rollout_that_ends_in_nan_fails_where_it_ended():
    search = rig(ACTION)
    for index in range(8):
        trial = search.ask()
        observations, actions, costs = play(trial.controller, trial.noise, index)
        if index == 0:
            observations, actions, costs = observations[:5], actions[:5], np.append(costs[:4], np.nan)
        record = search.tell(trial, rollout=(observations, actions, costs))
    assert (record["failed"], record["skipped"]) == (1, 0)
    assert search.stages == 7 * T + 5


def test_an_update_of_sampled_actions_may_lose_every_trial():
    search = rig()
    for _ in range(3):
        record = search.tell(search.ask(), lost="cable")
    assert record["skipped"] == 1


@pytest.mark.parametrize("method", [SMALL, PERTURBED], ids=["action", "parameter"])
def test_running_scaling_follows_what_a_rig_observed(method):
    search = rig(method, policy=PolicySettings(scaling="running"))
    for _ in range(search.layout.size):
        trial = search.ask()
        search.tell(trial, rollout=play(trial.controller, trial.noise, trial.index))
    assert float(search.policy.scaling.count) == search.layout.size * T


def test_a_failure_without_data_says_nothing_about_any_action():
    spec = Specification(name="rig", action=Discrete(3), observation_size=2, observation_scale=(1.0, 1.0), horizon=1)
    search = Rig(spec, Method(ActionNoise(3), CostToGo("none"), Euclidean(), LearningRate(0.1)), failure_cost=1.0)
    for _ in range(3):
        search.tell(search.ask(), failed="stopped")
    assert np.all(np.asarray(search.policy.theta()) == 0)


def test_a_search_without_a_usable_trial_gives_up_and_says_why():
    search = rig(PERTURBED, budget="50updates")
    while not search.done:
        for _ in range(8):
            search.tell(search.ask(), failed="wall")
    assert search.updates == HOPELESS
    assert "10 updates in a row had no usable trial (8 failed and 0 lost of the last 8)" in search.result().reason


def test_named_numbers_are_asked_by_name_within_their_bounds():
    policy = Parameters(["kp", "kd"], [1.0, 0.1], bounds={"kp": (0.0, 1.05)}, scale=[1.0, 0.1])
    search = Rig(Specification(name="bench"), PERTURBED, policy=policy)
    trials = [search.ask() for _ in range(8)]
    assert all(isinstance(trial, Trial) and set(trial.values) == {"kp", "kd"} for trial in trials)
    assert max(trial.values["kp"] for trial in trials) == pytest.approx(1.05)
    np.testing.assert_allclose(trials[0].values["kd"] + trials[1].values["kd"], 0.2, rtol=1e-5)


# budgets, seeds, starts


def square(values):
    return float(values @ values)


FD = Method(Coordinates(0.1), TotalCost("none"), LeastSquares(), LearningRate(0.1))


@pytest.mark.parametrize(
    ("budget", "updates"), [("3updates", 3), (14, 3), (Budget(4), 1), ("5stages", 2), ("8stages", 2)]
)
def test_the_budget_is_spent_in_whole_updates(budget, updates):
    search = Search(PythonFunction(square, (1.0, 1.0)), FD, budget=budget)
    search.run()
    assert search.updates == updates
    assert search.rollouts == search.counts["gradient"] == 4 * updates
    assert search.done
    assert search.result().reason == "budget spent"


@pytest.mark.parametrize(
    ("budget", "words"), [(0, "budget is 0"), (3, "less than one update of 4"), ("2hours", "must be a whole number")]
)
def test_a_budget_too_small_for_one_update_is_refused(budget, words):
    with pytest.raises(ValueError, match=words):
        Search(PythonFunction(square, (1.0, 1.0)), FD, budget=budget)


def test_a_search_ends_after_the_update_in_which_it_is_stopped():
    search = Search(PythonFunction(square, (1.0, 1.0)), FD)
    search.run(on_update=lambda record: search.stop("enough") if record["update"] == 2 else None)
    assert (search.updates, search.result().reason) == (2, "enough")
    assert [record["rollouts"] for record in search.records] == [4, 8]


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, "0", None])
def test_seeds_that_are_no_whole_number_are_refused(seed):
    with pytest.raises(ValueError, match="whole number from 0 to 4294967295"):
        Search(PythonFunction(square, (1.0, 1.0)), FD, seed=seed)


def test_reference_and_evaluation_rollouts_are_counted_apart():
    forward = Method(Coordinates(0.1, central=False), TotalCost("reference"), LeastSquares(), LearningRate(0.1))
    search = Search(PythonFunction(square, (1.0, 1.0)), forward, budget="2updates")
    search.run()
    search.result(5)
    assert search.counts == {"gradient": 4, "reference": 2, "evaluation": 5, "failed": 0, "lost": 0}
    assert search.rollouts == 6


def test_a_failure_cost_reaches_the_method_and_must_be_finite():
    assert float(rig(failure_cost=7.0).method.failure_cost) == 7.0
    with pytest.raises(ValueError, match="failure_cost is inf; it must be finite"):
        rig(failure_cost=float("inf"))


def test_a_search_starts_from_known_gains_in_physical_units(tmp_path):
    (tmp_path / "gains.json").write_text(json.dumps({"gain": [[-1.0, -2.0]]}))
    spec = Specification(
        name="rig", action=Continuous((-1.0,), (1.0,)), observation_size=2, observation_scale=(0.1, 4.0), horizon=3
    )
    for initial in (tmp_path / "gains.json", {"gain": [[-1.0, -2.0]]}):
        search = Rig(spec, "natural_gradient", initial=initial)
        controller = search.ask().controller
        np.testing.assert_allclose(controller.mode([1.0, 0.5], clip=False), [-2.0], rtol=1e-6)
        assert controller.mode([1.0, 0.5]) == [-1.0]
    search.policy.controller().save(tmp_path / "policy.safetensors")
    again = Rig(spec, "natural_gradient", initial=tmp_path / "policy.safetensors")
    np.testing.assert_allclose(again.policy.theta(), search.policy.theta(), rtol=1e-6)


def test_a_cost_without_initial_values_asks_for_named_numbers():
    with pytest.raises(ValueError, match=r"policy=Parameters\(names, initial\)"):
        Search(PythonFunction(square), FD)


@pytest.mark.parametrize("method", [42, PolicySettings()])
def test_what_is_no_method_is_refused(method):
    with pytest.raises(TypeError, match="give a name"):
        rig(method)


def test_finite_differences_whose_rollouts_share_no_seed_warn_of_noise():
    noisy = PythonFunction(lambda v, seed: float(v @ v), (1.0, 1.0))
    words = "Finite differences on a noisy task.*share no seed. Common random numbers let them share one"
    with pytest.warns(UserWarning, match=words):
        Search(noisy, settings.FiniteDifferences(common_random_numbers=False))
    Search(noisy, FD)  # they share one: there is nothing to warn of, and warnings are errors here
    with pytest.warns(UserWarning, match="No seed repeats a rollout here; a larger epsilon or more repeats help"):
        Rig(Specification(name="rig", repeatable=False), "finite_differences", policy=Parameters(["kp"], [1.0]))


def coin(values, seed):
    """A cost whose noise hides its slope from small perturbations."""
    return float(0.01 * values @ values + 10 * np.random.default_rng(seed).normal())


@pytest.mark.parametrize(
    ("method", "words"),
    [
        (
            Method(ParameterNoise(3, 0.001, common=False), TotalCost("none"), Euclidean(), LearningRate(1e-9)),
            "perturbations of 0.001 and 6 rollouts per update. To raise it: a larger std, more rollouts, common",
        ),
        (
            Method(Coordinates(0.002, common=False, repeats=2), TotalCost("none"), LeastSquares(), LearningRate(1e-9)),
            "perturbations of 0.002 and 8 rollouts per update. To raise it: a larger epsilon, more repeats, common",
        ),
    ],
    ids=["random directions", "coordinates"],
)
@pytest.mark.filterwarnings("ignore:Finite differences on a noisy task")
def test_a_gradient_that_drowns_in_noise_warns_once(method, words):
    task = PythonFunction(coin, (1.0, 1.0))
    for seed in range(4):
        # the sign of a measured ratio of zero is a matter of luck
        search = Search(task, method, budget="20updates", seed=seed)
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            search.run()
        mean = np.mean([record["snr"] for record in search.records[:LOOK]])
        assert len(heard) == (mean < FAINT)
        if heard:
            assert words in str(heard[0].message)
            assert f"ratio is {mean:.2g} on average" in str(heard[0].message)
            return
    pytest.fail("no seed had a small ratio")


@pytest.mark.parametrize(
    ("cost", "directions"),
    [(lambda v, seed: float(v @ v) + 1e-3 * (seed % 7), 6), (coin, 2)],
    ids=["little noise", "too few directions to tell"],
)
def test_a_gradient_above_the_noise_does_not_warn(cost, directions):
    """Warnings are errors here."""
    method = Method(ParameterNoise(directions, 0.1, common=False), TotalCost("none"), Euclidean(), LearningRate(1e-9))
    for seed in range(3):
        search = Search(PythonFunction(cost, (1.0, 1.0)), method, budget="7updates", seed=seed)
        search.run()
        assert search.updates == 7


def test_updates_of_a_simulator_take_as_many_rollouts_as_their_lengths_ask_for():
    with Search("CartPole-v1", settings.GPOMDP(stages=150), policy="linear", workers=1, budget="8updates") as search:
        sizes, lengths = [], []
        while not search.done:
            sizes.append(search.layout.size)
            before = search.stages
            search.update()
            lengths.append((search.stages - before) / sizes[-1])
    expected = [np.clip(4 ** round(np.log2(150 / length) / 2), 4, 64) for length in lengths]
    assert sizes == [16, *expected[:-1]]
    assert len(set(sizes)) > 1
    pendulum = Search("Pendulum-v1", "trpo")
    assert (pendulum.settings["stages"], pendulum.layout.size) == (2000, 10)  # of 200 stages
    assert Search("CartPole-v1", "trpo").layout.size == 10


def test_a_plant_and_a_rig_take_whole_horizons():
    with Search("cartpole-swingup", settings.TRPO(stages=2000), budget="2updates") as search:
        assert search.layout.size == 8  # of 250 stages
        search.run()
        assert [record["rollouts"] for record in search.records] == [8, 16]
    assert rig(settings.NaturalGradient(stages=10 * T)).layout.size == 10


def test_rollouts_and_stages_are_not_both_set():
    with pytest.raises(ValueError, match="rollouts is 5 and stages is 100; set one"):
        rig(settings.NaturalGradient(rollouts=5, stages=100))


def test_the_record_says_what_the_rule_chose():
    chosen = Rig(RIG, "natural_gradient").settings
    rule = problem(RIG, LinearGaussian([[0.0, 0.0]]), "action")
    assert chosen["rollouts"] == rule.rollouts
    assert chosen["max_kl"] == pytest.approx(rule.max_kl)
    assert chosen["parameters"] == 2


# native tasks


def test_a_bowl_is_solved_and_the_result_says_so():
    result = train("bowl", settings.FiniteDifferences(learning_rate=0.1), budget="60updates")
    assert result.evaluation.solved is True
    assert result.evaluation.cost_mean < 1e-2 * result.records[0]["cost"]
    assert result.counts["gradient"] == 60 * 20
    assert result.seconds > 0
    assert result.controller.values().keys() == result.policy.values().keys()


@pytest.mark.usefixtures("float64")
def test_millimetres_give_the_steps_that_metres_give():
    physical = []
    for unit in (1.0, 1e-3):
        search = Search(double_integrator(unit), "natural_gradient", seed=2, budget="3updates")
        search.run()
        gain, _ = search.policy.physical_gain()
        physical.append(gain / unit)
        assert [record["skipped"] for record in search.records] == [0, 0, 0]
    assert np.abs(physical[0]).max() > 0.01
    np.testing.assert_allclose(physical[1], physical[0], rtol=1e-6)


def test_the_same_seed_gives_the_same_search():
    def final(seed):
        search = Search("bowl", settings.WeightPerturbation(learning_rate=0.01), seed=seed, budget="2updates")
        search.run()
        return np.asarray(search.policy.theta())

    assert np.array_equal(final(1), final(1))
    assert not np.array_equal(final(1), final(2))


def test_a_policy_of_float32_stays_float32():
    search = rig()
    one_update(search)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(search.policy)} <= {"float32"}
