"""Safe search on a rig: largest steps, vetoes, safety stops, the incumbent, going back, held actions, the inbox."""

from __future__ import annotations

import itertools
import math
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from policysearch import (
    ARS,
    Continuous,
    FiniteDifferences,
    LinearGaussian,
    NaturalGradient,
    Parameters,
    Rig,
    Specification,
    WeightPerturbation,
    load,
    open_run,
)
from policysearch.runs.inbox import INBOX, Inbox, Message
from policysearch.search.incumbent import Measuring

RIG = Specification(name="servo", repeatable=False)


def gains(**options):
    return Parameters(["kp", "kd"], [4.0, 0.5], log=["kp"], scale=[0.3, 0.2], **options)


def search_of(folder=None, **options):
    options = {"policy": gains(), "budget": 40, "folder": folder} | options
    return Rig(RIG, options.pop("method", WeightPerturbation(rollouts=4, std=1.0)), **options)


def cost(trial):
    """Least at kp = 12, kd = 0.1."""
    values = trial.values
    return math.log(values["kp"] / 12.0) ** 2 + (values["kd"] - 0.1) ** 2


def run(search, cost=cost, updates=None):
    """Tell every trial its cost, to the end or for so many updates; the trials."""
    trials = []
    while not search.done and (updates is None or search.updates < updates):
        trials.append(search.ask())
        search.tell(trials[-1], cost=cost(trials[-1]))
    return trials


# the largest step


@pytest.mark.filterwarnings("ignore:Finite differences on a noisy task")
@pytest.mark.parametrize("method", [WeightPerturbation(rollouts=4, std=1.0), ARS(version="v1"), FiniteDifferences()])
def test_no_update_moves_a_number_by_more_than_its_largest_step(method):
    with search_of(method=method, largest_step={"kp": 1.05, "kd": 0.01}, budget=200) as search:
        values = [search.policy.values()]
        while not search.done:
            run(search, lambda trial: 100.0 * cost(trial), search.updates + 1)
            values.append(search.policy.values())
        for (before, after), record in zip(itertools.pairwise(values), search.records, strict=True):
            moves = math.log(after["kp"] / before["kp"]) / math.log(1.05), (after["kd"] - before["kd"]) / 0.01
            longest = max(map(abs, moves))
            assert longest <= 1.001
            if record["limited"]:
                assert longest == pytest.approx(1, abs=1e-3)
        assert sum(record["limited"] for record in search.records) > 3


@pytest.mark.filterwarnings("ignore:Finite differences on a noisy task")
def test_a_step_that_is_too_long_is_shortened_as_a_whole():
    moves = []
    for largest in (None, {"kd": 0.001}):
        with search_of(method=FiniteDifferences(learning_rate=1.0), largest_step=largest) as search:
            run(search, updates=1)
            moves.append(np.asarray(search.policy.theta()))
    assert abs(0.2 * moves[1][1]) == pytest.approx(0.001, rel=1e-5)
    np.testing.assert_allclose(moves[1] / np.linalg.norm(moves[1]), moves[0] / np.linalg.norm(moves[0]), rtol=1e-5)


@pytest.mark.parametrize(
    ("largest", "words"),
    [
        ({"kq": 1.0}, "no parameter is named 'kq'"),
        ({"kp": 0.9}, "a factor above 1"),
        ({"kd": 0.0}, "above 0"),
        (-1, "above 0"),
    ],
)
def test_a_largest_step_that_means_nothing_is_refused(largest, words):
    with pytest.raises(ValueError, match=words):
        search_of(largest_step=largest)


# the veto


def test_a_vetoed_trial_is_never_handed_out_and_counts_as_failed(tmp_path):
    veto = lambda trial: "kp is too high" if trial.values["kp"] > 4.0 else None  # noqa: E731
    with search_of(tmp_path / "run", veto=veto) as search:
        trials = run(search)
        assert 0 < len(trials) < 40
        assert all(trial.values["kp"] <= 4.0 for trial in trials)
        assert search.rollouts == 40
        assert search.counts["failed"] == 40 - len(trials)
        # what is forbidden costs as much as the worst that ran, so the search stays away from it
        assert search.policy.values()["kp"] < 4.0
    told = open_run(tmp_path / "run").trials.values()
    vetoed = [trial for trial in told if trial.status == "vetoed"]
    assert len(vetoed) == 40 - len(trials)
    assert {(trial.fault, trial.reason) for trial in vetoed} == {("policy", "kp is too high")}


def test_a_trial_that_was_asked_before_a_crash_is_shown_to_the_veto_before_it_is_handed_out(tmp_path):
    with search_of(tmp_path / "run") as search:
        assert search.ask().number == 0
    with Rig.open(tmp_path / "run", veto=lambda trial: "no" if trial.number == 0 else None) as again:
        assert again.ask().number == 1


@pytest.mark.parametrize("client", ["", "bench"])
def test_a_trial_whose_veto_raised_is_asked_again_and_given_to_one_client_only(client):
    def broken(trial):
        raise OSError("the camera is off")

    with search_of(veto=broken) as search:
        with pytest.raises(OSError, match="camera"):
            search.ask(client)
        search.veto = None
        assert search.ask(client).number == 0
        assert search.ask("other").number == 1
        assert search.ask().number == 2


def test_a_search_of_which_every_trial_is_vetoed_ends_and_says_why():
    with search_of(veto=lambda trial: "the arm is not there", budget=400) as search:
        with pytest.raises(RuntimeError, match=r"the arm is not there.*updates in a row had no usable trial"):
            search.ask()
        assert np.all(np.asarray(search.policy.theta()) == 0)


def test_a_veto_of_a_policy_whose_actions_are_sampled_makes_the_search_wait():
    with Rig(SERVO, NaturalGradient(rollouts=4), budget=8, veto=lambda trial: "gain too high") as search:
        with pytest.raises(RuntimeError, match="waits: trial 0 was vetoed: gain too high"):
            search.ask("bench")
        search.veto = None
        search.release()
        assert search.ask("bench").number == 0
        assert search.ask().number == 1  # nobody else is given it


# safety stops


def test_after_a_safety_stop_no_trial_is_handed_out_until_a_person_goes_on(tmp_path):
    with search_of(tmp_path / "run") as search:
        first, second = search.ask(), search.ask()
        search.tell(first, safety_stop="the arm hit its stop")
        assert search.halted == "trial 0 ended by a safety stop: the arm hit its stop"
        with pytest.raises(RuntimeError, match=r"hit its stop.*policysearch resume"):
            search.ask()
        search.tell(second, cost=1.0)  # what is out may come back
    with Rig.open(tmp_path / "run") as again:
        with pytest.raises(RuntimeError, match="hit its stop"):
            again.ask()
        again.release(by="Ada")
        assert again.ask().number == 2
    with Rig.open(tmp_path / "run") as third:
        assert third.halted == ""
    assert open_run(tmp_path / "run").trials[0].status == "safety stop"


def test_a_halt_needs_a_reason():
    with search_of() as search, pytest.raises(ValueError, match="for a reason"):
        search.halt("")


# the policy itself, and the incumbent


def noisy(seed, std):
    generator = np.random.default_rng(seed)
    return lambda trial: cost(trial) + std * generator.normal()


def test_measuring_trials_run_the_policy_itself_and_enter_no_gradient():
    with search_of(budget=400) as plain, search_of(measure=(2, 3), budget=400) as search:
        run(plain, updates=10)
        trials = run(search, updates=10)
        assert np.array_equal(np.asarray(plain.policy.theta()), np.asarray(search.policy.theta()))
    measuring = [trial for trial in trials if trial.purpose == "measurement"]
    # the first measures the start alone, the next four the incumbent too
    assert len(measuring) == 3 + 4 * 6
    assert search.counts == {"gradient": 40, "reference": 0, "evaluation": 27, "failed": 0, "lost": 0}
    assert search.rollouts == 67
    assert [trial.number for trial in trials] == list(range(67))
    assert measuring[0].values == pytest.approx({"kp": 4.0, "kd": 0.5})
    # both policies of a measurement meet the same conditions, and those of other updates are others
    seeds = [trial.environment_seed for trial in measuring[3:]]
    assert all(seeds[i : i + 3] == seeds[i + 3 : i + 6] for i in range(0, 24, 6))
    assert len(set(seeds)) == 12


def test_the_incumbent_is_the_least_measured_cost_and_is_measured_again():
    with search_of(measure=(1, 2), budget=400) as search:
        run(search, updates=12)
        records = [record for record in search.records if "measured" in record]
    assert search.incumbent.cost == pytest.approx(min(record["measured"] for record in records))
    assert records[0]["incumbent"] == records[0]["measured"] == pytest.approx(math.log(3) ** 2 + 0.16, rel=1e-5)
    assert len(search.incumbent.costs) == 2
    assert all(record["difference"] == pytest.approx(0, abs=2) for record in records[1:])
    assert search.incumbent.error == pytest.approx(0, abs=1e-12)


def test_the_noise_of_a_trial_is_measured_without_bias():
    """Within 4 standard errors: a std from f degrees of freedom is known to 1/√(2f) of itself."""
    with search_of(measure=(1, 2), budget=4000) as search:
        run(search, noisy(0, 0.2), updates=120)
        freedom = 1 + 119 * 2
        assert abs(search.measuring.noise / 0.2 - 1) < 4 / math.sqrt(2 * freedom)


def test_luck_makes_no_incumbent():
    """Costs that are nothing but noise about 1: half of the least mean's luck is gone from the incumbent's cost."""
    measuring, generator = Measuring(1, 2), np.random.default_rng(1)
    means, incumbents = [], []
    for update in range(200):
        due = measuring.due(update, gains().controller())
        costs = list(1.0 + generator.normal(size=len(due)))
        measuring.take(due, costs, update)
        means.append(np.mean(costs[:2]))
        incumbents.append(measuring.incumbent.cost)
    assert 1 - np.mean(incumbents[100:]) < 0.5 * (1 - min(means))


def test_a_policy_that_failed_while_it_was_measured_is_no_incumbent():
    with search_of(measure=(1, 2), budget=100) as search:
        while search.updates < 1:
            trial = search.ask()
            if trial.purpose == "measurement":
                search.tell(trial, failed="it fell")
            else:
                search.tell(trial, cost=cost(trial))
        assert search.incumbent is None
        assert search.records[-1]["measured"] == math.inf
        run(search, updates=2)
        assert search.incumbent.update == 1


def measured(changes, drift, noise, trials=3, seed=0):
    """Policies whose true costs are these, measured one after the other while the rig drifts: what each reported."""
    measuring, generator = Measuring(1, trials), np.random.default_rng(seed)
    policies = {index: Parameters(["kp"], [float(index)]).controller() for index in range(len(changes))}
    reports = []
    for update in range(len(changes)):
        due = measuring.due(update, policies[update])
        true = [changes[int(policy.values()["kp"])] + drift * update for policy in due]
        costs = [cost + noise * generator.normal() for cost in true]
        reports.append(measuring.take(due, costs, update) | {"true": true[-1]})
    return measuring, reports


def test_the_incumbent_costs_what_its_trials_of_the_same_minutes_cost_and_what_it_cost_before_does_not_count():
    """A rig that warms up: by 0.3 a measurement, so that gains that are better by 0.75 cost more than the first did."""
    costs = [6.2] * 5 + [5.45] * 3
    measuring, reports = measured(costs, drift=0.3, noise=0.05)
    for report in reports[1:5]:
        assert report["incumbent"] == pytest.approx(report["true"], abs=4 * 0.05 / math.sqrt(3))
    assert measuring.incumbent.update in (5, 6, 7)
    assert measuring.incumbent.cost > 6.2
    assert reports[5]["difference"] == pytest.approx(-0.75, abs=4 * 0.05 * math.sqrt(2 / 3))
    drift, error = measuring.drift
    assert abs(drift - 0.3) < 4 * error < 0.3


def test_of_two_policies_only_trials_of_the_same_measurement_are_compared():
    """To the bit the same decisions, whatever the rig drifts by."""
    costs = list(3 * np.exp(-np.arange(30) / 10) + 0.2 * np.random.default_rng(3).normal(size=30))
    kept = [
        [report["incumbent_update"] for report in measured(costs, drift, 0.5)[1]] for drift in (0.0, 2.0, -2.0, 64.0)
    ]
    assert len(set(kept[0])) > 4
    assert kept[1] == kept[2] == kept[3] == kept[0]


def test_drift_is_told_without_bias_and_luck_is_none():
    """300 searches without any, and with 0.2 a measurement: within 4 of the standard errors that it states."""
    for true in (0.0, 0.2):
        found = np.array([measured([1.0] * 12, true, 0.5, 2, seed)[0].drift for seed in range(300)])
        z = ((found[:, 0] - true) / found[:, 1])[np.isfinite(found[:, 0])]
        assert len(z) > 250  # others had another incumbent at almost every measurement
        assert abs(z.mean()) < 4 / math.sqrt(len(z))
        assert 0.8 < z.std() < 1.3  # the noise is known from some thirty trials


def test_a_measurement_of_which_the_rig_lost_trials_decides_by_the_pairs_that_came():
    measuring, policy = Measuring(1, 2), gains().controller()
    measuring.take(measuring.due(0, policy), [1.0, 2.0], 0)
    report = measuring.take(measuring.due(1, policy), [0.5, None, 9.0, 0.7], 1)
    assert math.isnan(report["difference"])  # one pair, and no other to tell its noise by
    assert measuring.incumbent.update == 0
    assert measuring.incumbent.costs == (9.0, 0.7)
    measuring.take(measuring.due(2, policy), [1.0, 1.1, None, None], 2)
    assert measuring.incumbent.costs == (9.0, 0.7)
    measuring.take(measuring.due(3, policy), [0.5, 0.6, 9.0, 9.2], 3)
    assert (measuring.incumbent.update, measuring.incumbent.costs) == (3, (0.5, 0.6))


def test_an_incumbent_that_fails_when_it_is_measured_again_is_none_any_more():
    measuring, policy = Measuring(1, 2), gains().controller()
    measuring.take(measuring.due(0, policy), [1.0, 1.0], 0)
    assert measuring.incumbent.cost == 1.0
    measuring.take(measuring.due(1, policy), [math.inf, 2.0, 1.0, math.inf], 1)
    assert measuring.incumbent is None
    assert measuring.size(2) == 2
    measuring.take(measuring.due(2, policy), [3.0, 3.0], 2)
    assert (measuring.incumbent.update, measuring.incumbent.cost) == (2, 3.0)


@pytest.mark.parametrize("stop", [7, 13, 20])
def test_a_search_that_measures_goes_on_to_the_bit(tmp_path, stop):
    options = {"measure": (2, 2), "largest_step": {"kp": 1.2}, "budget": 60}
    with search_of(tmp_path / "whole", **options) as whole:
        run(whole)
    with search_of(tmp_path / "run", **options) as search:
        for _ in range(stop):
            trial = search.ask()
            search.tell(trial, cost=cost(trial))
    with Rig.open(tmp_path / "run") as again:
        run(again)
    assert again.incumbent.costs == whole.incumbent.costs
    assert again.incumbent.controller.values() == whole.incumbent.controller.values()
    assert again.measuring.noise == whole.measuring.noise
    names = ["policy.safetensors", f"incumbent-{whole.incumbent.update}.safetensors"]
    for name in names:
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert len(list((tmp_path / "run").glob("incumbent-*"))) == 1


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(b"torn"), Path.unlink])
def test_the_incumbent_is_in_the_journal_and_its_file_is_made_anew(tmp_path, damage):
    with search_of(tmp_path / "run", measure=(1, 2), budget=100) as search:
        run(search, updates=3)
    (file,) = (tmp_path / "run").glob("incumbent-*")
    damage(file)
    with Rig.open(tmp_path / "run") as again:
        assert again.incumbent.controller.values() == search.incumbent.controller.values()
        assert again.incumbent.costs == search.incumbent.costs
        assert again.events == []
        run(again, updates=4)
        assert len(list((tmp_path / "run").glob("incumbent-*"))) == 1
        best = load(tmp_path / "run" / f"incumbent-{again.incumbent.update}.safetensors")
        assert best.values() == again.incumbent.controller.values()


# going back


def test_going_back_gives_up_the_open_update_and_goes_on_from_the_incumbent(tmp_path):
    with search_of(tmp_path / "run", measure=(1, 2), budget=400) as search:
        run(search, updates=3)
        best = search.incumbent.controller.values()
        asked = search.ask()
        search.ask()
        record = search.go_back(reason="it shook")
        assert record["skipped"] == 1
        assert search.policy.values() == pytest.approx(best, rel=1e-6)
        fresh = search.ask()
        # trials of another update: neither numbers nor perturbations are used twice
        assert fresh.number == asked.number + 2
        assert fresh.values != asked.values
        with pytest.raises(ValueError, match="told already, as abandoned"):
            search.tell(asked, cost=1.0)
        theta = np.asarray(search.policy.theta())
    with Rig.open(tmp_path / "run") as again:
        assert np.array_equal(np.asarray(again.policy.theta()), theta)
        assert [trial.values for trial in again.pending] == [fresh.values]
        run(again, updates=6)
    told = open_run(tmp_path / "run").trials
    assert {told[n].status for n in (asked.number, asked.number + 1)} == {"abandoned"}
    assert all(trial.status != "asked" for trial in told.values())


def test_no_perturbation_is_used_again_after_going_back_to_where_the_search_is():
    with search_of() as search:
        asked = search.ask()
        search.go_back(search.policy.controller())
        fresh = search.ask()
        assert fresh.number == 1
        assert fresh.values != asked.values
        assert fresh.environment_seed != asked.environment_seed


def test_going_back_to_nothing_or_to_another_kind_of_policy_is_refused():
    with search_of() as search:
        with pytest.raises(ValueError, match="No policy has been measured"):
            search.go_back()
        with pytest.raises(ValueError, match="differs in kind or size"):
            search.go_back(LinearGaussian([[1.0]]).controller())


# held actions

SERVO = Specification(
    name="servo",
    action=Continuous((-12.0,), (12.0,)),
    observation_size=2,
    observation_scale=(1.0, 1.0),
    horizon=10,
    hold=4,
    repeatable=False,
)


def held_rollout(trial, hold=4, horizon=10):
    """A servo that keeps each action for `hold` stages."""
    x, observations, actions, costs = np.array([1.0, 0.0]), [], [], []
    action = np.zeros(1)
    for k in range(horizon):
        if k % hold == 0:
            action = trial.controller.act(x, trial.noise[k]).sampled
        observations.append(x)
        actions.append(action)
        costs.append(x[0] ** 2 + 0.01 * action[0] ** 2)
        x = np.array([x[0] + 0.1 * x[1], x[1] + 0.1 * action[0]])
    return np.array(observations), np.array(actions), np.array(costs)


@pytest.mark.usefixtures("float64")
def test_held_actions_have_a_score_for_each_draw_and_all_costs_that_follow_it():
    options = {"policy": LinearGaussian([[-0.5, -0.1]], std=0.5), "budget": 6}
    coarse = Specification(
        name="servo",
        action=SERVO.action,
        observation_size=2,
        observation_scale=(1.0, 1.0),
        horizon=3,
        repeatable=False,
    )
    method = NaturalGradient(rollouts=6, max_kl=0.1)
    with Rig(SERVO, method, **options) as held, Rig(coarse, method, **options) as summed:
        for _ in range(6):
            trial, plain = held.ask(), summed.ask()
            assert trial.hold == 4
            assert plain.hold == 1
            np.testing.assert_array_equal(trial.noise, np.repeat(plain.noise, 4, axis=0)[:10])
            observations, actions, costs = held_rollout(trial)
            held.tell(trial, rollout=(observations, actions, costs))
            sums = np.add.reduceat(costs, [0, 4, 8])
            summed.tell(plain, rollout=(observations[::4], actions[::4], sums))
        np.testing.assert_array_equal(held.policy.theta(), summed.policy.theta())
        assert float(np.abs(np.asarray(held.policy.theta()) - [-0.5, -0.1]).max()) > 0.01
        assert (held.stages, summed.stages) == (60, 18)


def test_an_action_that_was_not_held_is_refused():
    with Rig(SERVO, NaturalGradient(rollouts=4), policy=LinearGaussian([[-0.5, -0.1]]), budget=4) as search:
        trial = search.ask()
        observations, actions, costs = held_rollout(trial, hold=1)
        with pytest.raises(ValueError, match="with hold=4 it must be that of stage 0"):
            search.tell(trial, rollout=(observations, actions, costs))
        search.tell(trial, rollout=held_rollout(trial))


def test_a_hold_beyond_the_horizon_is_refused():
    with pytest.raises(ValueError, match="1 to the horizon, 5"):
        Specification(name="x", horizon=5, hold=6)


# results that others leave


def test_the_owner_takes_what_others_have_left_once(tmp_path):
    with search_of(tmp_path / "run") as search, search_of(tmp_path / "plain") as plain:
        trials, others = [search.ask() for _ in range(4)], [plain.ask() for _ in range(4)]
        inbox = Inbox(tmp_path / "run")
        for trial in trials[:2]:
            inbox.leave(Message(trial=trial.number, attempt=1, given={"cost": cost(trial)}, notes="bench 2"))
        search.tell(trials[2], cost=cost(trials[2]))
        assert [trial.number for trial in search.pending] == [3]
        assert list(inbox.messages()) == []
        search.tell(trials[3], cost=cost(trials[3]))
        for trial in others:
            plain.tell(trial, cost=cost(trial))
        assert np.array_equal(np.asarray(search.policy.theta()), np.asarray(plain.policy.theta()))
    assert open_run(tmp_path / "run").trials[0].notes == "bench 2"


def test_what_was_left_while_nobody_owned_the_run_or_before_a_crash_is_taken_at_opening(tmp_path):
    with search_of(tmp_path / "run") as search:
        trials = [search.ask() for _ in range(4)]
        search.tell(trials[0], cost=1.0)
    inbox = Inbox(tmp_path / "run")
    for trial in trials:  # the first was told already, by a process that died before it could forget the message
        inbox.leave(Message(trial=trial.number, attempt=1, given={"cost": 1.0}))
    with Rig.open(tmp_path / "run") as again:
        assert again.updates == 1
        assert again.events == []
    assert list(inbox.messages()) == []


def test_what_does_not_fit_becomes_an_event_and_blocks_nothing(tmp_path):
    with search_of(tmp_path / "run") as search:
        trial = search.ask()
        inbox = Inbox(tmp_path / "run")
        inbox.leave(Message(trial=17, attempt=1, given={"cost": 1.0}))
        inbox.leave(Message(trial=0, attempt=2, given={"cost": 1.0}))
        inbox.leave(Message(trial=0, attempt=1, given={"cost": 2.5}))
        search.ask()
        assert [(event.trial, event.kind) for event in search.events] == [(17, "inbox"), (0, "inbox")]
        with pytest.raises(ValueError, match="told already"):
            search.tell(trial, cost=1.0)
    run = open_run(tmp_path / "run")
    assert run.trials[0].cost == 2.5
    assert len(run.events) == 2


def test_a_damaged_inbox_is_named(tmp_path):
    inbox = Inbox(tmp_path)
    inbox.leave(Message(trial=0, attempt=1, given={"cost": 1.0}))
    with sqlite3.connect(tmp_path / INBOX) as connection:
        connection.execute("UPDATE inbox SET body = replace(body, '1.0', '9.0')")
    connection.close()
    with pytest.raises(ValueError, match="is damaged: result 1 is not what was written"):
        list(inbox.messages())
    Path(tmp_path / INBOX).write_bytes(b"no database at all, whatever it says")
    for companion in tmp_path.glob(f"{INBOX}-*"):
        companion.unlink()
    with pytest.raises(ValueError, match="is damaged"):
        list(inbox.messages())
    with pytest.raises(ValueError, match="is damaged"):
        inbox.leave(Message(trial=1, attempt=1, given={"cost": 1.0}))
