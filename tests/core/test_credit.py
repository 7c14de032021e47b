import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policysearch import LQR, Euclidean, LearningRate, Method
from policysearch.core.baselines import network, serving, value
from policysearch.core.baselines.least_variance import LeastVariance
from policysearch.core.baselines.running import Running
from policysearch.core.credit import (
    ActionLimitPenalty,
    CentredRanks,
    CostToGo,
    Elites,
    TopPairs,
    TotalCost,
)
from policysearch.core.explore import ActionNoise, Coordinates, ParameterNoise
from policysearch.core.policies import LinearGaussian
from policysearch.core.rollouts import LOST, Rollouts
from policysearch.core.score import PolicyScore
from policysearch.runners import native

pytestmark = pytest.mark.usefixtures("float64")

POLICY = LinearGaussian([[0.4, -0.2]], std=0.5)


def totals(costs, explore, lost=()):
    """Rollouts of total costs (n,), their score and explorer."""
    layout = explore.layout(2)
    outcome = np.zeros(layout.size, int)
    outcome[list(lost)] = LOST
    came = Rollouts(
        jnp.asarray(np.asarray(costs, float)[:, None]), jnp.ones((layout.size, 1), bool), jnp.asarray(outcome)
    )
    z = jnp.asarray(np.random.default_rng(3).normal(size=(layout.perturbations, 2)))
    return came, perturbed(explore, z, came), explore


@eqx.filter_jit
def perturbed(explore, z, came):
    """The score of rollouts of perturbed parameters."""
    layout = explore.layout(2)
    offsets = jnp.asarray(layout.sign)[:, None] * explore.rows(z)[jnp.asarray(layout.perturbation)]
    return explore.score(POLICY, offsets, came, layout)


def stages(n, T, seed=0, lengths=None):
    """Rollouts of sampled actions with random costs, their score and explorer."""
    rng = np.random.default_rng(seed)
    mask = np.arange(T) < (np.full(n, T) if lengths is None else np.asarray(lengths))[:, None]
    came = Rollouts(
        jnp.asarray(np.where(mask, rng.normal(2.0, 1.0, (n, T)), 0.0)),
        jnp.asarray(mask),
        jnp.zeros(n, int),
        jnp.asarray(rng.normal(size=(n, T, 2))),
        jnp.asarray(rng.normal(size=(n, T, 1))),
    )
    return came, PolicyScore.of(POLICY, came), ActionNoise(n)


def advantages(credit, given, state=None, horizon=1):
    """Advantages and next state."""
    a, state = compiled(credit, *given, credit.init(horizon, 2) if state is None else state)
    return np.asarray(a), state


@eqx.filter_jit
def compiled(credit, came, score, explore, state):
    """Credit as a search calls it: the layout is NumPy, the rest traced."""
    return credit(came, score, explore.layout(2), state)[:2]


def to_go(costs):
    return np.cumsum(np.asarray(costs)[:, ::-1], axis=1)[:, ::-1]


SINGLE = ParameterNoise(6, 0.1, two_sided=False)
COSTS = np.array([3.0, 1.0, 4.0, 1.0, 5.0, 9.0])


def test_running_baseline_is_the_recursion_from_the_first_cost_and_used_before_it_is_updated():
    credit = TotalCost(Running(0.3))
    first, state = advantages(credit, totals(COSTS, SINGLE))
    second, _ = advantages(credit, totals(COSTS[::-1], SINGLE), state)
    b, expected = COSTS[0], []
    for cost in [*COSTS, *COSTS[::-1]]:
        expected.append(cost - b)
        b = 0.3 * cost + 0.7 * b
    np.testing.assert_allclose([*first, *second], expected, atol=1e-12)


def test_partners_are_compared_with_the_same_running_baseline():
    a, _ = advantages(TotalCost(Running(0.5)), totals(COSTS, ParameterNoise(3, 0.1)))
    means = COSTS.reshape(3, 2).mean(1)
    before = [means[0], means[0], (means[1] + means[0]) / 2]
    np.testing.assert_allclose(a, COSTS - np.repeat(before, 2), atol=1e-12)


def test_running_baseline_of_each_stage_goes_on_where_it_was():
    credit = CostToGo(Running(0.3))
    state, b, expected, got = None, np.full(3, np.nan), [], []
    for seed in (0, 1):
        given = stages(4, 3, seed)
        a, state = advantages(credit, given, state, horizon=3)
        got.append(a)
        for row in to_go(given[0].costs):
            b = np.where(np.isnan(b), row, b)
            expected.append(row - b)
            b = 0.3 * row + 0.7 * b
    np.testing.assert_allclose(np.concatenate(got), expected, atol=1e-12)


def test_stages_that_nobody_reached_leave_their_running_baseline_alone():
    credit = CostToGo(Running(0.3))
    given = stages(2, 3, lengths=[2, 1])
    _, state = advantages(credit, given, horizon=5)
    assert np.isnan(state.baseline).tolist() == [False, False, True, True, True]
    assert float(state.baseline[1]) == pytest.approx(float(to_go(given[0].costs)[0, 1]))


def test_leave_one_out_leaves_out_the_whole_pair():
    a, _ = advantages(TotalCost("leave_one_out"), totals(COSTS, ParameterNoise(3, 0.1)))
    for pair in range(3):
        others = np.delete(COSTS, [2 * pair, 2 * pair + 1]).mean()
        np.testing.assert_allclose(a[2 * pair : 2 * pair + 2], COSTS[2 * pair : 2 * pair + 2] - others, atol=1e-12)


def test_leave_one_out_counts_no_lost_trial():
    a, _ = advantages(TotalCost("leave_one_out"), totals(COSTS, SINGLE, lost=[5]))
    assert a[5] == 0
    np.testing.assert_allclose(a[0], COSTS[0] - COSTS[1:5].mean(), atol=1e-12)


@pytest.mark.parametrize("n", [2, 7])
def test_a_mean_that_includes_the_sample_shrinks_by_exactly_one_part_in_n(n):
    costs, explore = np.random.default_rng(n).normal(size=n), ParameterNoise(n, 0.1, two_sided=False)
    mean, _ = advantages(TotalCost("mean"), totals(costs, explore))
    left, _ = advantages(TotalCost("leave_one_out"), totals(costs, explore))
    np.testing.assert_allclose(mean, (1 - 1 / n) * left, atol=1e-13)
    given = stages(n, 3)
    mean, _ = advantages(CostToGo("per_stage_mean"), given)
    left, _ = advantages(CostToGo("leave_one_out"), given)
    np.testing.assert_allclose(mean, (1 - 1 / n) * left, atol=1e-13)


def test_reference_is_the_cost_of_theta_on_the_same_pair_or_the_mean_of_all():
    each, _ = advantages(
        TotalCost("reference"), totals(COSTS, ParameterNoise(3, 0.1, two_sided=False, reference="each"))
    )
    assert each.tolist() == [2.0, 0.0, 3.0, 0.0, -4.0, 0.0]
    one, _ = advantages(TotalCost("reference"), totals(COSTS, ParameterNoise(5, 0.1, two_sided=False, reference="one")))
    assert one.tolist() == [*(COSTS[:5] - 9.0), 0.0]
    forward, _ = advantages(TotalCost("reference"), totals(COSTS, Coordinates(0.1, central=False, repeats=2)))
    assert forward.tolist() == [-1.0, -3.0, 0.0, -8.0, -4.0, 0.0]


def test_without_a_reference_that_came_back_nothing_is_learned():
    explore = ParameterNoise(5, 0.1, two_sided=False, reference="one")
    a, _ = advantages(TotalCost("reference"), totals(COSTS, explore, lost=[5]))
    assert np.all(a == 0)


def test_least_variance_baseline_weighs_the_other_costs_by_the_squared_score():
    given = totals(COSTS, SINGLE)
    a, _ = advantages(TotalCost("least_variance"), given)
    square = (np.asarray(given[1].dense()) ** 2).sum(1)
    for i in range(6):
        others = np.delete(np.arange(6), i)
        best = (square[others] * COSTS[others]).sum() / square[others].sum()
        assert a[i] == pytest.approx(COSTS[i] - best, abs=1e-12)


def test_least_variance_baseline_of_a_rollout_does_not_depend_on_its_own_cost():
    given = stages(6, 3)
    for credit in (TotalCost("least_variance"), CostToGo("least_variance")):
        before, _ = advantages(credit, given)
        moved = given[0].costs.at[2, 1].add(10.0)
        after, _ = advantages(credit, (given[0]._replace(costs=moved), *given[1:]))
        change = (after - before)[2] if credit.per_stage is False else (after - before)[2, 0]
        assert change == pytest.approx(10.0, abs=1e-10)


def test_least_variance_baseline_remembers_earlier_updates():
    credit, rate = CostToGo(LeastVariance(0.3)), 0.3
    first, second = stages(6, 3), stages(6, 3, seed=1)
    _, state = advantages(credit, first, horizon=3)
    a, _ = advantages(credit, second, state)

    def sums(given):
        square = (np.asarray(given[1].dense()) ** 2).sum(1).reshape(6, 3)
        return square * to_go(given[0].costs), square

    # the rate is applied when a batch joins what came before it, not when it is remembered
    (numerator, square), (before, weight) = sums(second), sums(first)
    others = numerator.sum(0) - numerator + before.sum(0)
    np.testing.assert_allclose(a, to_go(second[0].costs) - others / (square.sum(0) - square + weight.sum(0)), atol=1e-5)
    _, again = advantages(credit, second, state)
    np.testing.assert_allclose(again.denominator, (1 - rate) * weight.sum(0) + square.sum(0), rtol=1e-6)


def linear_plant():
    """A random plant of five states and three inputs, and a policy that holds it."""
    rng = np.random.default_rng(2)
    A = rng.normal(size=(5, 5))
    A *= 0.95 / np.abs(np.linalg.eigvals(A)).max()
    eye = np.eye(5)
    plant = LQR(
        A, 0.5 * rng.normal(size=(5, 3)), eye, 0.1 * np.eye(3),
        noise_covariance=0.04 * eye, initial_covariance=eye, horizon=20,
    )  # fmt: skip
    return plant, LinearGaussian(-0.1 * rng.normal(size=(3, 5)), std=0.5)


def variances(credits, plant, policy, batches=4000):
    """tr Cov of the gradient of ten rollouts for each credit, after 400 updates of its memory at the same policy."""
    explore, horizon = ActionNoise(10), plant.specification.horizon
    method = Method(explore, CostToGo(), Euclidean(), LearningRate(1.0))
    keys = jax.random.split(jax.random.key(3), batches + 400)
    layout = explore.layout(15)
    came = eqx.filter_jit(jax.vmap(lambda k: native.sample(plant, method, policy, layout, None, k)))(keys)

    def of(credit):
        state = dataclasses.replace(method, credit=credit).init(policy, horizon).credit

        def one(state, rollouts):
            score = PolicyScore.of(policy, rollouts)
            a, state, _ = credit(rollouts, score, layout, state)
            return state, score.rmv(a) / 10

        gradients = eqx.filter_jit(lambda: jax.lax.scan(one, state, came)[1])()
        return np.asarray(gradients)[400:].var(0).sum()

    return [of(credit) for credit in credits]


def test_least_variance_baseline_has_no_more_variance_than_any_other_number():
    """The standard error of a ratio of two variances on the same 4000 batches is about 1 %; 3 % are allowed."""
    plant, policy = linear_plant()
    names = ["least_variance", "none", "running", "mean", "leave_one_out"]
    for credit in (CostToGo, TotalCost):
        least, *others = variances([credit(name) for name in names], plant, policy)
        assert least < 1.03 * min(others[0], others[1], others[3])
        # a mean that holds the sample shrinks the estimate by a tenth
        assert least < 1.03 * others[2] / 0.9**2


def test_rollouts_that_pay_the_same_at_other_times_are_told_apart():
    """Each reaches the goal, cost −1, at another stage; discounted, earlier is better."""
    n, horizon = 8, 6
    mask = np.arange(horizon) < 1 + (np.arange(n) % horizon)[:, None]
    costs = -(mask & ~np.pad(mask[:, 1:], ((0, 0), (0, 1)))).astype(float)
    came, *_ = stages(n, horizon)
    came = came._replace(costs=jnp.asarray(costs), mask=jnp.asarray(mask))
    given = came, PolicyScore.of(POLICY, came), ActionNoise(n)
    for baseline in serving("to_go"):
        credit = CostToGo(baseline, discounting=(0.9, 1.0))
        a, _ = advantages(credit, given, horizon=horizon)
        assert np.abs(a).max() > 0.01, baseline
        if baseline not in ("running", "value"):  # of which the one changes within a batch, the other with the state
            assert np.all(np.diff(a[:horizon, 0]) > 0), baseline
        # without the discount each of them costs the same from every stage on
        same, _ = advantages(CostToGo(baseline), given, horizon=horizon)
        assert np.all(same == 0), baseline


def test_divided_advantages_have_unit_spread_whatever_the_totals():
    given = stages(6, 4)
    level = given[0].costs - given[0].costs.mean(1, keepdims=True)
    a, _ = advantages(CostToGo("leave_one_out", normalise=True), (given[0]._replace(costs=level), *given[1:]))
    assert a.std() == pytest.approx(1.0)


@pytest.mark.parametrize("repeats", [1, 2])
@pytest.mark.parametrize("costs", [[2.0, 2.0, 1.0], [1.0]])
def test_forward_differences_that_are_all_alike_still_differ_from_the_reference(costs, repeats):
    d = len(costs)
    explore = Coordinates(0.1, central=False, repeats=repeats)
    a, _ = forward([*costs, 3.0] * repeats, explore, d)
    assert np.all(a.reshape(repeats, d + 1)[:, :d] < 0)
    assert np.all(a.reshape(repeats, d + 1)[:, d] == 0)
    same, _ = forward([3.0] * (d + 1) * repeats, explore, d)
    assert np.all(same == 0)


def forward(costs, explore, d):
    """Advantages of forward differences in d parameters."""
    layout = explore.layout(d)
    came = Rollouts(jnp.asarray(costs)[:, None], jnp.ones((layout.size, 1), bool), jnp.zeros(layout.size, int))
    offsets = jnp.asarray(layout.sign)[:, None] * jnp.eye(d)[jnp.asarray(layout.perturbation)]
    score = explore.score(POLICY, offsets, came, layout)
    credit = TotalCost("reference", normalise=True)
    return np.asarray(credit(came, score, layout, credit.init(1))[0]), score


@pytest.mark.parametrize("discount", [1.0, 0.9])
def test_a_held_action_is_charged_at_every_stage_that_it_acts(discount):
    """The second rollout ended in the middle of its last action."""
    charge = ActionLimitPenalty(2.0, jnp.zeros(1), jnp.ones(1), discount)
    drawn, held = np.array([[3.0, 0.5, -2.0], [2.0, 4.0, 0.0]]), np.array([[4, 4, 2], [4, 1, 0]])
    got = np.asarray(charge.costs(jnp.asarray(drawn)[..., None], jnp.asarray(held, float)))
    for i in range(2):
        applied = np.repeat(drawn[i], held[i])
        costs = np.asarray(charge.costs(jnp.asarray(applied)[None, :, None]))[0]
        of_draw = np.repeat(np.arange(3), held[i])
        expected = [costs[of_draw == j].sum() for j in range(3)]
        np.testing.assert_allclose(got[i], expected, atol=1e-12)


def test_the_charge_that_is_learned_from_counts_held_stages():
    (came, score, explore), charge = (
        stages(2, 3, lengths=[3, 2]),
        ActionLimitPenalty(2.0, jnp.zeros(1), jnp.full(1, 0.5)),
    )
    held = jnp.asarray([[4.0, 4.0, 2.0], [4.0, 1.0, 0.0]])
    a, _ = advantages(CostToGo("none", action_limit_penalty=charge), (came._replace(held=held), score, explore))
    charged = np.where(came.mask, charge.costs(score.actions, held), 0.0)
    np.testing.assert_allclose(a, to_go(np.asarray(came.costs) + charged) * np.asarray(came.mask), rtol=1e-6)


@pytest.mark.parametrize("baseline", serving("to_go"))
def test_what_all_rollouts_pay_may_be_taken_off_beforehand(baseline):
    given, level = stages(12, 4), jnp.asarray([3.0, 1.0, 2.0, 5.0])
    credit = CostToGo(baseline)
    if baseline == "value":  # which knows no time then, so that what all pay must not depend on it either
        level, credit = jnp.full(4, 3.0), CostToGo(baseline, discounting=(0.9, 0.5), bootstrap=True)
        given = (given[0]._replace(last=given[0].observations[:, 0] + 1), *given[1:])
    whole, _ = advantages(credit, given, horizon=4)
    off = given[0]._replace(costs=given[0].costs - level, level=level)
    same, _ = advantages(credit, (off, *given[1:]), horizon=4)
    np.testing.assert_allclose(same, whole, atol=1e-3 if baseline == "value" else 1e-10)


@pytest.mark.parametrize("two_sided", [True, False])
@pytest.mark.parametrize("baseline", [name for name in serving("total") if name != "reference"])
def test_a_memory_of_totals_follows_their_level(baseline, two_sided):
    """Three updates, each with costs of another level; in pairs a common cost cancels by itself."""
    explore = ParameterNoise(3 if two_sided else 6, 0.1, two_sided=two_sided)
    credit, plain, centred = TotalCost(baseline), None, None
    for level in (100.0, 90.0, 300.0):
        given = totals(COSTS + level, explore)
        off = given[0]._replace(costs=given[0].costs - level, level=jnp.asarray([level]))
        whole, plain = advantages(credit, given, plain)
        same, centred = advantages(credit, (off, *given[1:]), centred)
        rows = [np.asarray(given[1].rmv(jnp.asarray(a))) for a in (same, whole)]
        np.testing.assert_allclose(*rows, atol=1e-8)


def test_cost_to_go_is_the_sum_of_what_follows_and_zero_outside_the_mask():
    given = stages(3, 4, lengths=[4, 2, 1])
    a, _ = advantages(CostToGo("none"), given)
    np.testing.assert_allclose(a, to_go(given[0].costs) * np.asarray(given[0].mask), atol=1e-12)


def test_one_mean_serves_all_stages():
    given = stages(3, 4, lengths=[4, 2, 1])
    a, _ = advantages(CostToGo("mean"), given)
    mask, expected = np.asarray(given[0].mask), to_go(given[0].costs)
    np.testing.assert_allclose(a[mask], expected[mask] - expected[mask].mean(), atol=1e-12)


def test_value_baseline_of_a_rollout_does_not_depend_on_its_own_costs():
    given = stages(12, 4)
    before, _ = advantages(CostToGo("value"), given)
    after, _ = advantages(CostToGo("value"), (given[0]._replace(costs=given[0].costs.at[3].add(100.0)), *given[1:]))
    np.testing.assert_allclose((after - before)[3], [400.0, 300.0, 200.0, 100.0], atol=1e-9)
    assert np.abs((after - before)[4]).max() > 1.0


def test_best_pairs_give_the_step_of_augmented_random_search():
    n, std, alpha, top = 5, 0.1, 0.02, 2
    explore = ParameterNoise(n, std)
    costs = np.random.default_rng(5).normal(size=2 * n)
    given = totals(costs, explore)
    a, _ = advantages(TopPairs(top), given)
    ours = -2 * alpha * std * np.asarray(given[1].rmv(jnp.asarray(a)) / given[1].count)
    rewards, delta = -costs.reshape(n, 2), np.asarray(given[1].offsets)[::2] / std
    best = np.argsort(-rewards.max(1))[:top]
    paper = alpha / (top * rewards[best].std()) * ((rewards[best, 0] - rewards[best, 1]) @ delta[best])
    np.testing.assert_allclose(ours, paper, rtol=1e-12)


def test_a_lost_pair_is_never_among_the_best():
    costs = np.array([-100.0, -100.0, 1.0, 2.0, 3.0, 4.0])
    a, _ = advantages(TopPairs(1), totals(costs, ParameterNoise(3, 0.1), lost=[0]))
    assert np.flatnonzero(a).tolist() == [2, 3]


def test_centred_ranks_are_evenly_spread_and_share_ties():
    a, _ = advantages(CentredRanks(), totals([3.0, 1.0, 1e9, 1.0, -5.0], ParameterNoise(5, 0.1, two_sided=False)))
    np.testing.assert_allclose(a, [0.25, -0.125, 0.5, -0.125, -0.5], atol=1e-12)
    lost, _ = advantages(CentredRanks(), totals(COSTS, ParameterNoise(3, 0.1), lost=[5]))
    np.testing.assert_allclose(lost, [1 / 6, -1 / 3, 0.5, -1 / 3, 0.0, 0.0], atol=1e-12)


@pytest.mark.parametrize("unit", [1e-3, 1e6])
@pytest.mark.parametrize("credit", [TotalCost("none", normalise=True), TotalCost("mean", normalise=True), TopPairs(2)])
def test_normalised_advantages_do_not_depend_on_the_unit_of_cost(credit, unit):
    explore = ParameterNoise(3, 0.1)
    np.testing.assert_allclose(
        advantages(credit, totals(unit * COSTS, explore))[0], advantages(credit, totals(COSTS, explore))[0], rtol=1e-9
    )


def test_normalised_advantages_are_divided_by_the_spread_and_its_memory_falls_slowly():
    credit = TotalCost("mean", normalise=True)
    first, state = advantages(credit, totals(COSTS, SINGLE))
    assert first.std() == pytest.approx(1.0)
    second, _ = advantages(credit, totals(COSTS / 100, SINGLE), state)
    assert second.std() == pytest.approx(0.01 / 0.95)
    third, _ = advantages(credit, totals(COSTS * 100, SINGLE), state)
    assert third.std() == pytest.approx(1.0)


@pytest.mark.parametrize("credit", [TotalCost("none", normalise=True), TopPairs(), CostToGo("none", normalise=True)])
@pytest.mark.parametrize("constant", [0.0, 7.0, 1e8])
def test_equal_costs_teach_nothing(credit, constant):
    given = stages(6, 2) if credit.per_stage else totals(np.full(6, constant), ParameterNoise(3, 0.1))
    if credit.per_stage:
        given = (given[0]._replace(costs=jnp.full((6, 2), constant)), *given[1:])
    assert np.all(advantages(credit, given)[0] == 0)


@pytest.mark.parametrize("credit", [TotalCost, CostToGo])
def test_unknown_baselines_are_refused(credit):
    with pytest.raises(ValueError, match="baseline is 'median'; use one of least_variance"):
        credit("median")


def test_a_value_baseline_needs_observations():
    with pytest.raises(TypeError, match="needs the observations"):
        advantages(CostToGo("value"), totals(COSTS, SINGLE))


def test_value_folds_are_dealt_by_pair():
    assert value.FOLDS >= 2
    given = stages(12, 4)
    before, _ = advantages(CostToGo("value"), given)
    after, _ = advantages(CostToGo("value"), (given[0]._replace(costs=given[0].costs.at[0].add(50.0)), *given[1:]))
    # rollout FOLDS shares the fold of rollout 0, so its baseline does not move either
    np.testing.assert_allclose((after - before)[value.FOLDS], 0.0, atol=1e-9)
    assert np.abs((after - before)[1]).max() > 1e-3


def test_discounted_advantages_are_those_of_the_textbook():
    T, n, gamma, decay = 6, 12, 0.9, 0.7
    rng = np.random.default_rng(4)
    mask = np.arange(T) < rng.integers(2, T + 1, n)[:, None]
    costs = np.where(mask, rng.normal(size=(n, T)), 0.0)
    policy = LinearGaussian([[0.5, -0.2]])
    came = Rollouts(
        jnp.asarray(costs),
        jnp.asarray(mask),
        jnp.zeros(n, int),
        jnp.asarray(np.where(mask[..., None], rng.normal(size=(n, T, 2)), 0)),
        jnp.asarray(np.where(mask[..., None], rng.normal(size=(n, T, 1)), 0)),
    )
    layout = ActionNoise(n).layout(2)
    score = PolicyScore.of(policy, came)

    def advantages(baseline, pair):
        return np.asarray(CostToGo(baseline, discounting=pair)(came, score, layout, ())[0])

    to_go = np.zeros((n, T + 1))
    for k in reversed(range(T)):
        to_go[:, k] = costs[:, k] + gamma * to_go[:, k + 1]
    np.testing.assert_allclose(advantages("none", (gamma, 1.0)), mask * to_go[:, :T], rtol=1e-5, atol=1e-6)
    # λ = 1 is the cost-to-go less the value; from that the value, and from the value every other λ
    value = np.pad(mask * (to_go[:, :T] - advantages("value", (gamma, 1.0))), ((0, 0), (0, 1)))
    difference = mask * (costs + gamma * value[:, 1:] - value[:, :T])
    expected = np.zeros((n, T + 1))
    for k in reversed(range(T)):
        expected[:, k] = difference[:, k] + gamma * decay * expected[:, k + 1]
    np.testing.assert_allclose(advantages("value", (gamma, decay)), mask * expected[:, :T], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="below 1 it needs 'value' or 'network'"):
        CostToGo("mean", discounting=(0.9, 0.9))
    with pytest.raises(ValueError, match=r"γ is 1\.5"):
        CostToGo("value", discounting=(1.5, 0.9))


#: x' = DECAY x and cost x² for ever, discounted by GAMMA: the cost-to-go is x²/(1 − GAMMA DECAY²)
DECAY, GAMMA = 0.95, 0.9


def decaying(n=40, T=12, ended=(), lengths=None):
    """Rollouts of that process, cut by the horizon but for those that `ended` by themselves."""
    x = np.random.default_rng(0).normal(size=n)[:, None] * DECAY ** np.arange(T + 1)
    lengths = np.full(n, T) if lengths is None else np.asarray(lengths)
    mask = np.arange(T) < lengths[:, None]
    seen = np.stack([x, np.ones_like(x)], -1)
    came = Rollouts(
        jnp.asarray(np.where(mask, x[:, :T] ** 2, 0.0)),
        jnp.asarray(mask),
        jnp.zeros(n, int),
        jnp.asarray(np.where(mask[..., None], seen[:, :T], 0.0)),
        jnp.zeros((n, T, 1)),
        jnp.asarray(np.isin(np.arange(n), ended)),
        last=jnp.asarray(seen[np.arange(n), lengths]),
    )
    return came, PolicyScore.of(POLICY, came), ActionNoise(n)


def test_what_follows_a_horizon_that_cut_the_rollout_is_predicted():
    """The process goes on for ever, so that no stage is better or worse than its value, the last ones included."""
    given = decaying(lengths=[12] * 30 + [5] * 10)
    scale = np.asarray(given[0].costs).max()
    for decay in (0.5, 1.0):
        a, _ = advantages(CostToGo("value", discounting=(GAMMA, decay), bootstrap=True), given)
        assert np.abs(a).max() < 2e-3 * scale
    without, _ = advantages(CostToGo("value", discounting=(GAMMA, 0.5)), given)
    assert np.abs(without).max() > 0.1 * scale


def test_nothing_follows_a_rollout_that_ended_by_itself():
    given = decaying(ended=[3])
    a, _ = advantages(CostToGo("value", discounting=(GAMMA, 1.0), bootstrap=True), given)
    x_last = np.asarray(given[0].observations)[3, -1, 0]
    # the last stage was expected to be followed by γV(DECAY x)
    missing = GAMMA * (DECAY * x_last) ** 2 / (1 - GAMMA * DECAY**2)
    assert a[3, -1] == pytest.approx(-missing, rel=0.1)
    assert np.abs(np.delete(a, 3, axis=0)).max() < np.abs(a[3]).max()


def test_a_bootstrap_needs_the_last_observation_and_a_prediction():
    came, score, explore = decaying()
    with pytest.raises(ValueError, match="one observation more"):
        advantages(
            CostToGo("value", discounting=(0.9, 1.0), bootstrap=True), (came._replace(last=None), score, explore)
        )
    with pytest.raises(ValueError, match="bootstrap with baseline 'mean'"):
        CostToGo("mean", discounting=(0.9, 1.0), bootstrap=True)


def test_the_network_predicts_a_batch_before_it_learns_from_it():
    credit = CostToGo("network")
    given = stages(12, 4)
    first, state = advantages(credit, given, horizon=4)
    np.testing.assert_allclose(first, to_go(given[0].costs), atol=1e-12)
    dearer = (given[0]._replace(costs=given[0].costs + 10.0), *given[1:])
    a, _ = advantages(credit, given, state)
    b, _ = advantages(credit, dearer, state)
    np.testing.assert_allclose(b - a, to_go(np.full((12, 4), 10.0)), atol=1e-9)


def test_the_network_learns_the_cost_to_go_of_observation_and_time():
    credit, state = CostToGo("network"), None
    rng = np.random.default_rng(1)
    for _ in range(40):
        came, _, explore = stages(64, 4)
        o = rng.normal(size=(64, 4, 2))
        came = came._replace(observations=jnp.asarray(o), costs=jnp.asarray(np.tile([5.0, 1.0, 1.0, 3.0], (64, 1))))
        came = came._replace(costs=came.costs.at[:, 3].add(jnp.asarray(np.abs(o[:, 3, 0]))))
        a, state = advantages(credit, (came, PolicyScore.of(POLICY, came), explore), state, horizon=4)
    spread = to_go(came.costs).std(0)
    # at the last stage |x| is known; before it only its mean
    assert a[:, 3].std() < 0.4 * spread[3]
    assert np.abs(a.mean(0)).max() < 0.3
    assert np.abs(to_go(came.costs).mean(0)).max() > 9


def test_another_unit_of_cost_leaves_what_the_network_predicts():
    state = network.init(2, 4)
    given, fit = stages(30, 4), jax.jit(network.fit, static_argnums=4)
    o, weight = given[0].observations, jnp.ones((30, 4))
    state = fit(state, o, given[0].costs, weight, True)
    before, _ = network.predicted(state, o, None)
    frozen = state._replace(fits=jnp.asarray(3))
    # a fit whose targets are what is predicted already, in another spread, has little to correct
    after, _ = network.predicted(fit(frozen, o, 5.0 + 100.0 * before, weight, True), o, None)
    assert np.corrcoef(np.ravel(before), np.ravel(after))[0, 1] > 0.9


def test_stages_that_do_not_count_teach_the_network_nothing():
    state, given = network.init(2, 4), stages(10, 4)
    o, weight, fit = given[0].observations, jnp.ones((10, 4)).at[3].set(0), jax.jit(network.fit, static_argnums=4)
    one = fit(state, o, given[0].costs, weight, True)
    other = fit(state, o.at[3].add(5.0), given[0].costs.at[3].set(1e6), weight, True)
    jax.tree.map(np.testing.assert_array_equal, one, other)
    same = fit(state, o, given[0].costs.at[0, 0].set(jnp.nan), weight, True)
    jax.tree.map(np.testing.assert_array_equal, same, state)


def test_action_beyond_its_limits_is_charged_the_square_that_clipping_takes():
    came, _, explore = stages(5, 4, lengths=[4, 4, 1, 4, 4])
    came = came._replace(actions=4 * came.actions)
    given = came, PolicyScore.of(POLICY, came), explore
    weight, centre, half, discount = 0.3, np.array([0.5]), np.array([2.0]), 0.9
    asked = (np.asarray(came.actions)[..., 0] - 0.5) / 2.0
    excess = np.where(np.abs(asked) > 1, asked**2 - 1.0, 0.0)
    assert 0 < (excess > 0)[np.asarray(came.mask)].mean() < 1
    charged = np.asarray(came.mask) * (np.asarray(came.costs) + weight * 0.9 ** np.arange(4) * excess)
    a, _ = advantages(CostToGo("none", action_limit_penalty=(weight, centre, half, discount)), given)
    np.testing.assert_allclose(a, to_go(charged) * np.asarray(came.mask), rtol=1e-12)
    with pytest.raises(ValueError, match="half_range of action_limit_penalty is"):
        CostToGo(action_limit_penalty=(weight, centre, np.array([0.0])))
    with pytest.raises(TypeError, match="perturbed rollouts keep none"):
        CostToGo(action_limit_penalty=(weight, centre, half))(*totals(COSTS, SINGLE)[:2], SINGLE.layout(2), ())


def test_only_tuned_numbers_are_leaves_so_that_others_are_the_same_program():
    parts = TotalCost("running"), CostToGo("value", discounting=(0.9, 0.9), bootstrap=True), TopPairs(2), Elites(3)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves((*parts, CentredRanks())))


@pytest.mark.parametrize(
    ("credit", "baseline", "words"),
    [
        (TotalCost, "value", "'value', which does not serve a total cost; use one of least_variance"),
        (TotalCost, "per_stage_mean", "'per_stage_mean', which does not serve a total cost"),
        (CostToGo, "reference", "'reference', which does not serve a cost-to-go; use one of least_variance"),
    ],
)
def test_a_baseline_of_another_kind_of_cost_is_refused(credit, baseline, words):
    with pytest.raises(ValueError, match=words):
        credit(baseline)


# what is reported, and the edges


def reported(credit, given, horizon=1, state=None):
    """What a credit reports, as floats, with its advantages."""
    state = credit.init(horizon, 2) if state is None else state
    a, _, info = whole(credit, *given, state)
    return np.asarray(a), {name: float(value) for name, value in info.items()}


@eqx.filter_jit
def whole(credit, came, score, explore, state):
    return credit(came, score, explore.layout(2), state)


def test_the_reported_baseline_is_its_mean_over_what_counts():
    explore = ParameterNoise(6, 0.1, two_sided=False)
    given = totals(COSTS, explore, lost=[1])
    kept = np.delete(COSTS, 1)
    assert reported(TotalCost("mean"), given)[1] == {"baseline": pytest.approx(kept.mean())}
    assert reported(TotalCost("leave_one_out"), given)[1] == {"baseline": pytest.approx(kept.mean())}
    assert reported(TotalCost("none"), given)[1] == {"baseline": 0.0}
    for credit in (TopPairs(), CentredRanks(), Elites(2)):
        assert reported(credit, totals(COSTS, ParameterNoise(3, 0.1)))[1] == {"baseline": 0.0}


def test_the_reported_baseline_of_costs_to_go_is_that_of_the_first_stage():
    given = stages(4, 3)
    expected = to_go(given[0].costs)
    assert reported(CostToGo("per_stage_mean"), given)[1]["baseline"] == pytest.approx(expected[:, 0].mean())
    assert reported(CostToGo("mean"), given)[1]["baseline"] == pytest.approx(expected.mean())
    given = stages(12, 4)
    a, info = reported(CostToGo("value"), given)
    assert info["baseline"] == pytest.approx((to_go(given[0].costs) - a)[:, 0].mean())


def test_a_mean_of_each_stage_is_that_of_the_rollouts_that_reached_it():
    given = stages(4, 4, lengths=[4, 2, 1, 4])
    a, _ = advantages(CostToGo("per_stage_mean"), given)
    mask, costs = np.asarray(given[0].mask), to_go(given[0].costs)
    expected = np.zeros((4, 4))
    for k in range(4):
        expected[mask[:, k], k] = costs[mask[:, k], k] - costs[mask[:, k], k].mean()
    np.testing.assert_allclose(a, expected, atol=1e-12)
    # where the others have ended there is nothing to compare with
    left, _ = advantages(CostToGo("leave_one_out"), stages(3, 4, lengths=[4, 2, 1]))
    assert np.all(left[0, 2:] != 0)
    assert np.all(np.isfinite(left))


def test_a_lost_rollout_is_in_no_mean_of_costs_to_go():
    came, _, explore = stages(4, 3)
    came = came._replace(outcome=jnp.asarray([0, 0, LOST, 0]))
    given = came, PolicyScore.of(POLICY, came), explore
    kept, costs = [0, 1, 3], to_go(came.costs)
    for baseline, mean in (("mean", costs[kept].mean()), ("per_stage_mean", costs[kept].mean(0))):
        a, _ = advantages(CostToGo(baseline), given)
        np.testing.assert_allclose(a[kept], costs[kept] - mean, atol=1e-12)
        assert np.all(a[2] == 0)


def test_the_only_rollout_that_came_back_has_nothing_to_be_compared_with():
    alone = totals(COSTS, SINGLE, lost=[0, 1, 2, 4, 5])
    for credit in (TotalCost("leave_one_out"), TotalCost("mean"), CentredRanks()):
        assert np.all(advantages(credit, alone)[0] == 0), credit
    # a number from elsewhere is compared with it
    a, _ = advantages(TotalCost("none"), alone)
    assert a.tolist() == [0, 0, 0, 1.0, 0, 0]


@pytest.mark.parametrize("baseline", ["leave_one_out", "none"])
def test_divided_costs_to_go_are_those_by_the_spread_of_the_stages_that_count(baseline):
    given = stages(5, 4, lengths=[4, 2, 1, 4, 3])
    mask = np.asarray(given[0].mask)
    plain, _ = advantages(CostToGo(baseline), given)
    divided, _ = advantages(CostToGo(baseline, normalise=True), given)
    np.testing.assert_allclose(divided, plain / plain[mask].std(), rtol=1e-10)


@pytest.mark.parametrize("per_stage", [False, True])
def test_differences_of_a_few_last_digits_are_rounding_and_larger_ones_are_not(per_stage):
    """Of n costs of which one is higher by h the spread is h √(n − 1)/n; four last digits are rounding."""
    n, eps, costs = 6, np.finfo(float).eps, np.full(6, -8.0)
    for last_digits, differ in ((0, False), (9, False), (13, True)):
        one = costs.copy()
        one[2] += last_digits * eps * 8.0
        if per_stage:
            came, score, explore = stages(n, 1)
            a, _ = advantages(CostToGo("none"), (came._replace(costs=jnp.asarray(one)[:, None]), score, explore))
            assert np.any(a != 0) == differ, last_digits
        else:
            a, _ = advantages(TotalCost("none"), totals(one, SINGLE))
            divided, _ = advantages(TotalCost("mean", normalise=True), totals(one, SINGLE))
            best, _ = advantages(TopPairs(), totals(one, ParameterNoise(3, 0.1)))
            for each in (a, divided, best):
                assert np.any(each != 0) == differ, last_digits


def test_best_pairs_are_all_by_default_and_weigh_as_many_as_there_are():
    explore = ParameterNoise(3, 0.1)
    every, _ = advantages(TopPairs(), totals(COSTS, explore))
    np.testing.assert_allclose(every, COSTS / COSTS.std(), rtol=1e-12)
    np.testing.assert_array_equal(advantages(TopPairs(7), totals(COSTS, explore))[0], every)
    one, _ = advantages(TopPairs(1), totals([5.0, 9.0, 3.0, 1.0, 4.0, 1.5], explore))
    np.testing.assert_allclose(one, [0, 0, 3 * 3.0, 3 * 1.0, 0, 0], rtol=1e-12)
    # shares are of the trials that count
    lost, _ = advantages(TopPairs(1), totals([5.0, 9.0, 3.0, 1.0, 4.0, 1.5], explore, lost=[5]))
    np.testing.assert_allclose(lost, [0, 0, 2 * 3.0, 2 * 1.0, 0, 0], rtol=1e-12)
    assert np.all(advantages(TopPairs(1), totals(COSTS, explore, lost=[0, 2, 4]))[0] == 0)


def test_elites_are_the_best_that_came_back_and_weigh_alike():
    a, _ = advantages(Elites(2), totals(COSTS, SINGLE))
    assert a.tolist() == [0, -3, 0, -3, 0, 0]
    a, _ = advantages(Elites(2), totals(COSTS, SINGLE, lost=[1]))
    assert a.tolist() == [-2.5, 0, 0, -2.5, 0, 0]
    a, _ = advantages(Elites(9), totals(COSTS, SINGLE, lost=[1]))
    assert a.tolist() == [-1, 0, -1, -1, -1, -1]
    assert np.all(advantages(Elites(2), totals(COSTS, SINGLE, lost=range(6)))[0] == 0)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: TopPairs(0), "top is 0"),
        (lambda: Elites(0), "count is 0"),
        (lambda: CostToGo(discounting=(0.9,)), "give \\(γ, λ\\)"),
        (lambda: CostToGo(discounting=(0.9, 1.0, 1.0)), "give \\(γ, λ\\)"),
        (lambda: CostToGo("value", discounting=(0.9, 1.5)), "λ is 1.5"),
        (lambda: CostToGo("value", discounting=(0.0, 0.9)), "γ is 0.0"),
        (lambda: CostToGo("value", bootstrap=True), "bootstrap with baseline 'value' and discounting None"),
        (
            lambda: CostToGo(action_limit_penalty=(0.0, np.zeros(1), np.ones(1))),
            "weight of action_limit_penalty is 0.0",
        ),
        (lambda: TotalCost(Running(0.0)), "rate is 0.0"),
        (lambda: TotalCost(Running(1.5)), "rate is 1.5"),
        (lambda: TotalCost(LeastVariance(1.5)), "rate is 1.5"),
    ],
)
def test_credits_that_make_no_sense_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_credits_at_the_edge_of_what_makes_sense_are_taken():
    assert TopPairs(1).top == Elites(1).count == 1
    assert TopPairs().top is None
    assert CostToGo("mean", discounting=(0.9, 1.0)).per_stage
    assert CostToGo("value", discounting=(1.0, 1.0), bootstrap=True).bootstrap
    for rate in (1e-3, 1.0):
        assert float(Running(rate).rate) == pytest.approx(rate)
    assert not any(credit.per_stage for credit in (TotalCost(), TopPairs(), Elites(1), CentredRanks()))
    plain = TotalCost(), CostToGo()
    assert all(credit.baseline.name == "leave_one_out" and not credit.normalise for credit in plain)


def test_baselines_forget_at_the_rate_of_a_tenth_unless_told():
    assert float(Running().rate) == float(LeastVariance().rate) == pytest.approx(0.1)


@pytest.mark.parametrize("name", ["mean", "leave_one_out", "per_stage_mean"])
def test_a_mean_of_one_sample_is_refused_by_its_name(name):
    baseline = CostToGo(name).baseline
    words = f"Baseline {name!r} of a single sample"
    assert baseline.refuse(ActionNoise(1)).startswith(words)
    assert baseline.refuse(ParameterNoise(1, 0.1)).startswith(words)
    assert baseline.refuse(ActionNoise(2)) == baseline.refuse(ParameterNoise(2, 0.1)) == ""


def test_trials_of_theta_are_what_a_reference_needs():
    baseline = TotalCost("reference").baseline
    for explore in (
        Coordinates(0.1, central=False),
        ParameterNoise(2, 0.1, reference="one"),
        ParameterNoise(2, 0.1, reference="each"),
    ):
        assert baseline.refuse(explore) == ""
    for explore in (Coordinates(0.1), ParameterNoise(2, 0.1), ActionNoise(2)):
        assert baseline.refuse(explore).startswith("A reference baseline needs trials of θ")


def test_a_pair_whose_own_trial_of_theta_was_lost_is_compared_with_the_mean_of_the_others():
    explore = ParameterNoise(3, 0.1, two_sided=False, reference="each")
    came = totals(COSTS, explore, lost=[])[0]
    layout = explore.layout(2)
    score = totals(COSTS, explore)[1]
    lost = came._replace(outcome=came.outcome.at[1].set(LOST))  # told to the baseline alone: the pair itself counts
    a, _, _ = TotalCost("reference")(lost, score, layout, ((), ()))
    np.testing.assert_allclose(a, [3.0 - (1.0 + 9.0) / 2, 0, 4.0 - 1.0, 0, 5.0 - 9.0, 0])


def test_without_pairs_what_was_taken_off_the_costs_is_part_of_them():
    """In pairs it cancels in the sum; a baseline of zero stays zero."""
    for explore, off in ((SINGLE, 7.0), (ParameterNoise(3, 0.1), 0.0)):
        came, score, _ = totals(COSTS, explore)
        a, _ = advantages(TotalCost("none"), (came._replace(level=jnp.asarray([7.0])), score, explore))
        np.testing.assert_allclose(a, COSTS + off, rtol=1e-12)


def test_least_variance_of_pairs_leaves_out_the_whole_pair():
    """Partners' rows cancel in what they share: a pair's row is the difference of its two."""
    given = totals(COSTS, ParameterNoise(3, 0.1, reference="none"))
    given = (given[0]._replace(costs=given[0].costs.at[2:].add(1.0)), *given[1:])
    a, _ = advantages(TotalCost("least_variance"), given)
    # each pair's rows add up to zero, so that there is nothing to weigh by
    np.testing.assert_allclose(a, np.asarray(given[0].costs)[:, 0], atol=1e-9)


def test_least_variance_of_totals_remembers_earlier_updates_at_its_rate():
    credit, rate = TotalCost(LeastVariance(0.3)), 0.3
    first, second = totals(COSTS, SINGLE), totals(COSTS[::-1] + 2.0, SINGLE)
    _, state = advantages(credit, first)
    a, state = advantages(credit, second, state)
    square = (np.asarray(first[1].dense()) ** 2).sum(1)
    costs = np.asarray(second[0].costs)[:, 0]
    before = np.array([(square * COSTS).sum(), square.sum()])
    for i in range(6):
        others = np.delete(np.arange(6), i)
        numerator = (square[others] * costs[others]).sum() + before[0]
        assert a[i] == pytest.approx(costs[i] - numerator / (square[others].sum() + before[1]), rel=1e-9)
    memory, _ = state
    assert float(memory.numerator) == pytest.approx((1 - rate) * before[0] + (square * costs).sum(), rel=1e-9)
    assert float(memory.denominator) == pytest.approx((1 - rate) * before[1] + square.sum(), rel=1e-9)


def test_least_variance_of_a_shorter_batch_leaves_later_stages_alone():
    credit = CostToGo(LeastVariance(0.3))
    _, state = advantages(credit, stages(5, 4), horizon=4)
    _, after = advantages(credit, stages(5, 2, seed=1), state)
    np.testing.assert_array_equal(after.numerator[2:], state.numerator[2:])
    np.testing.assert_array_equal(after.denominator[2:], state.denominator[2:])
    assert np.all(after.denominator[:2] != state.denominator[:2])
    assert len(after.numerator) == len(after.denominator) == 4


def test_a_running_baseline_starts_from_the_first_cost_that_came_back():
    a, state = advantages(TotalCost(Running(0.5)), totals(COSTS, SINGLE, lost=[0, 2]))
    b, expected = COSTS[1], [0.0]
    for cost, came in zip(COSTS[1:], (True, False, True, True, True), strict=True):
        expected.append(cost - b if came else 0.0)
        b = (cost + b) / 2 if came else b
    np.testing.assert_allclose(a, expected, atol=1e-12)
    assert float(state[0].baseline) == pytest.approx(b)


@pytest.mark.parametrize("baseline", ["leave_one_out", "per_stage_mean", "value"])
def test_what_all_rollouts_pay_costs_such_a_baseline_no_digits(baseline):
    """A level of 1e17 beside costs of about 1, which could not be added to them in float64."""
    came, score, explore = stages(12, 4)
    plain, _ = advantages(CostToGo(baseline), (came, score, explore), horizon=4)
    levelled, _ = advantages(CostToGo(baseline), (came._replace(level=jnp.full(4, 1e17)), score, explore), horizon=4)
    np.testing.assert_allclose(levelled, plain, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("baseline", serving("total"))
def test_where_nothing_came_back_no_total_has_an_advantage(baseline):
    explore = ParameterNoise(3, 0.1, two_sided=False, reference="each")
    a, _ = advantages(TotalCost(baseline), totals(COSTS, explore, lost=range(6)))
    assert np.all(a == 0)


@pytest.mark.parametrize("baseline", serving("to_go"))
def test_where_nothing_came_back_no_stage_has_an_advantage(baseline):
    came, _, explore = stages(4, 3)
    came = came._replace(outcome=jnp.full(4, LOST))
    a, _ = advantages(CostToGo(baseline, normalise=True), (came, PolicyScore.of(POLICY, came), explore), horizon=3)
    assert np.all(a == 0)


def test_two_that_cost_the_same_teach_nothing_and_a_single_one_may():
    two, one = ParameterNoise(2, 0.1, two_sided=False), ParameterNoise(1, 0.1, two_sided=False)
    assert advantages(TotalCost("none"), totals([7.0, 7.0], two))[0].tolist() == [0, 0]
    assert advantages(TotalCost("none"), totals([7.0], one))[0].tolist() == [7.0]


def test_a_single_number_has_no_spread_to_be_divided_by():
    given = stages(1, 1)
    a, _ = advantages(CostToGo("none", normalise=True), given)
    assert a[0, 0] == pytest.approx(float(given[0].costs[0, 0]))
