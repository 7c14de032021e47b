from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policysearch.core.credit import CentredRanks, CostToGo, TopPairs, TotalCost
from policysearch.core.direction import Euclidean, LeastSquares, Natural
from policysearch.core.explore import ActionNoise, Coordinates, ParameterNoise
from policysearch.core.method import Method
from policysearch.core.normalize import Scaling
from policysearch.core.policies import LinearGaussian, Parameters
from policysearch.core.rollouts import FAILED, LOST, OK, Rollouts
from policysearch.core.step import KLStep, LearningRate, Optimizer, Step

LR = LearningRate(0.1)
ADAM = Optimizer(optax.adam(0.1))
ONE_SIDED = ParameterNoise(4, 0.1, two_sided=False)

LEGAL = {
    "natural gradient": (ActionNoise(4), CostToGo(), Natural(), KLStep(0.1)),
    "episodic natural actor-critic": (ActionNoise(4), TotalCost(), Natural(intercept=True), KLStep(0.1)),
    "trust region": (
        ActionNoise(4),
        CostToGo("network", discounting=(0.9, 0.9), bootstrap=True),
        Natural(fisher="analytic", damping=0.1),
        KLStep(0.1, line_search=True),
    ),
    "natural gradient with momentum": (
        ActionNoise(4),
        CostToGo(),
        Natural(),
        Optimizer(optax.sgd(0.1, momentum=0.9), preconditions=False),
    ),
    "reinforce with adam": (ActionNoise(4), TotalCost(), Euclidean(), ADAM),
    "one sampled rollout": (ActionNoise(1), CostToGo("running"), Euclidean(), KLStep(0.1)),
    "evolution strategies": (ParameterNoise(4, 0.1), CentredRanks(), Euclidean(), ADAM),
    "ars": (ParameterNoise(4, 0.1), TopPairs(2), Euclidean(), LR),
    "one-sided with reference": (
        ParameterNoise(4, 0.1, two_sided=False, reference="each"),
        TotalCost("reference"),
        Euclidean(),
        LR,
    ),
    "natural in parameter space": (ONE_SIDED, TotalCost(), Natural(), LR),
    "least squares of random directions": (ONE_SIDED, TotalCost("mean"), LeastSquares(), LR),
    "central differences": (Coordinates(0.1), TotalCost("none", normalise=True), LeastSquares(), LR),
    "forward differences": (Coordinates(0.1, central=False), TotalCost("reference"), LeastSquares(), ADAM),
}

REFUSED = [
    ((ParameterNoise(4, 0.1), CostToGo(), Euclidean(), LR), "one score row per rollout"),
    ((Coordinates(0.1), TotalCost("none"), Euclidean(), LR), "belong together"),
    ((Coordinates(0.1), TotalCost("none"), Natural(), LR), "belong together"),
    ((ActionNoise(4), TotalCost(), LeastSquares(), LR), "is called Natural"),
    ((ActionNoise(4), CostToGo(), Natural(), ADAM), "already preconditioned"),
    ((ONE_SIDED, TotalCost(), Natural(), ADAM), "already preconditioned"),
    ((ParameterNoise(4, 0.1), TotalCost(), Euclidean(), KLStep(0.1)), "A KL step needs"),
    ((ActionNoise(4), CostToGo(), Natural(intercept=True), LR), "one row per rollout"),
    ((ONE_SIDED, TotalCost(), Natural(intercept=True), LR), "one row per rollout"),
    ((ActionNoise(4), CentredRanks(), Euclidean(), LR), "whole perturbed rollouts"),
    ((ActionNoise(4), TopPairs(2), Euclidean(), LR), "whole perturbed rollouts"),
    ((ONE_SIDED, TopPairs(2), Euclidean(), LR), "two_sided=True"),
    ((ParameterNoise(4, 0.1), TotalCost("reference"), Euclidean(), LR), "needs trials of θ"),
    ((ActionNoise(4), TotalCost("reference"), Euclidean(), LR), "needs trials of θ"),
    ((Coordinates(0.1), TotalCost("reference"), LeastSquares(), LR), "needs trials of θ"),
    ((Coordinates(0.1), TotalCost("mean"), LeastSquares(), LR), "Finite differences compare"),
    ((Coordinates(0.1), CentredRanks(), LeastSquares(), LR), "Finite differences compare"),
    ((Coordinates(0.1, central=False), TotalCost("none"), LeastSquares(), LR), "Forward differences compare"),
    ((ParameterNoise(1, 0.1), TotalCost("leave_one_out"), Euclidean(), LR), "at least 2"),
    ((ActionNoise(1), CostToGo("per_stage_mean"), Euclidean(), LR), "at least 2"),
]


@pytest.mark.parametrize("parts", LEGAL.values(), ids=LEGAL)
def test_sound_combinations_are_methods(parts):
    method = Method(*parts)
    assert method.space == ("action" if isinstance(parts[0], ActionNoise) else "parameter")


@pytest.mark.parametrize(("parts", "words"), REFUSED)
def test_what_theory_forbids_is_refused_with_the_reason(parts, words):
    with pytest.raises(ValueError, match=words):
        Method(*parts)


def test_named_numbers_have_no_actions_to_sample():
    with pytest.raises(ValueError, match="Parameters has none"):
        Method(*LEGAL["natural gradient"]).init(Parameters(["a"], [1.0]), 3)


# tell

#: compiled once for each method
tell = eqx.filter_jit(lambda method, state, offsets, rollouts: method.tell(state, offsets, rollouts))
estimated = eqx.filter_jit(lambda method, state, offsets, rollouts: method.estimate(state, offsets, rollouts))
T, P = 3, 2
POLICY = LinearGaussian([[-0.5, 0.3]], bias=[0.1], std=0.4, learned_std=True)
START = {name: Method(*parts).init(POLICY, T) for name, parts in LEGAL.items()}


def batch(method, costs, outcome, policy=POLICY):
    """Offsets and rollouts of given costs (n, T) and outcomes (n,)."""
    layout = method.layout(policy)
    n, rng = layout.size, np.random.default_rng(0)
    costs, outcome = np.asarray(costs, np.float32)[:n], np.asarray(outcome)[:n]
    if method.space == "action":
        mask = jnp.ones((n, T), bool)
        seen, acted = rng.normal(size=(n, T, P)), rng.normal(size=(n, T, 1))
        came = Rollouts(jnp.asarray(costs), mask, jnp.asarray(outcome), jnp.asarray(seen), jnp.asarray(acted))
        return None, came._replace(last=jnp.asarray(rng.normal(size=(n, P))))
    offsets = method.offsets(method.init(policy, 1), jnp.asarray(rng.normal(size=(layout.perturbations, 3))), layout)
    return offsets, Rollouts(jnp.asarray(costs[:, :1]), jnp.ones((n, 1), bool), jnp.asarray(outcome))


MOST = 8
ODD = st.sampled_from([np.nan, np.inf, -np.inf, 0.0, 1e-38, 1e30, -1e30, 3e38, -3e38])
NUMBER = st.one_of(ODD, st.floats(-10, 10, width=32))
ROWS = st.one_of(
    st.lists(st.lists(NUMBER, min_size=T, max_size=T), min_size=MOST, max_size=MOST),
    NUMBER.map(lambda constant: [[constant] * T] * MOST),
)
OUTCOMES = st.lists(st.sampled_from([OK, OK, OK, FAILED, LOST]), min_size=MOST, max_size=MOST)


@pytest.mark.parametrize("name", [*LEGAL])
@settings(max_examples=25, deadline=None, database=None, derandomize=True)
@given(costs=ROWS, outcome=OUTCOMES)
def test_no_costs_ever_give_parameters_that_are_not_finite(name, costs, outcome):
    method, state = Method(*LEGAL[name]), START[name]
    after, info = tell(method, state, *batch(method, costs, outcome))
    assert np.all(np.isfinite(after.policy.theta()))
    assert int(after.update) == 1
    if info["skipped"]:
        for old, new in zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True):
            assert new is after.update or np.array_equal(new, old, equal_nan=True)
    # and what follows is an ordinary update again
    good = np.random.default_rng(1).normal(size=(MOST, T))
    final, info = tell(method, after, *batch(method, good, [OK] * MOST))
    assert np.all(np.isfinite(final.policy.theta()))


@pytest.mark.parametrize("name", ["natural gradient", "ars", "central differences"])
def test_where_nothing_came_back_the_policy_stays_and_the_reason_is_counted(name):
    method, state = Method(*LEGAL[name]), START[name]
    n = method.layout(POLICY).size
    after, info = tell(method, state, *batch(method, np.zeros((MOST, T)), [LOST] * MOST))
    assert (int(info["skipped"]), int(info["lost"]), int(info["failed"])) == (1, n, 0)
    assert np.array_equal(after.policy.theta(), state.policy.theta())
    assert np.isnan(info["cost"])
    _, info = tell(method, state, *batch(method, np.zeros((MOST, T)), [FAILED] * MOST))
    assert (int(info["skipped"]), int(info["failed"])) == (1, n)


@pytest.mark.parametrize("name", ["natural gradient", "ars"])
def test_failures_are_counted_even_if_every_trial_failed(name):
    method, state = Method(*LEGAL[name]), START[name]
    _, info = tell(method, state, *batch(method, np.full((MOST, T), np.nan), [OK] * MOST))
    assert int(info["failed"]) == method.layout(POLICY).size


def test_a_rollout_that_is_not_finite_from_the_start_does_not_stop_the_others():
    method, state = Method(*LEGAL["natural gradient"]), START["natural gradient"]
    _, came = batch(method, np.arange(4 * T).reshape(4, T), [OK] * 4)
    broken = came._replace(costs=came.costs.at[0].set(jnp.nan), observations=came.observations.at[0].set(jnp.nan))
    _, info = tell(method, state, None, broken)
    assert int(info["failed"]) == 1
    assert int(info["skipped"]) == 0


def test_a_failure_costs_what_was_said():
    method = Method(*LEGAL["central differences"], failure_cost=1e3)
    state = method.init(POLICY, T)
    _, info = tell(method, state, *batch(method, np.zeros((MOST, T)), [FAILED, *[OK] * 7]))
    assert float(info["cost"]) == pytest.approx(1e3 / method.layout(POLICY).size)


# observation scaling


class Probe(Step):
    """Changes nothing and reports the log-probability that the method scored with."""

    def __call__(self, theta: Any, w: Any, estimate: Any, state: Any) -> Any:
        return theta, state, {"log_prob": estimate.score.log_prob()}


def test_told_data_have_importance_ratio_one_under_the_asked_policy_and_scaling_moves_once_after(sampled):
    start = Scaling(jnp.asarray(10.0), jnp.asarray([1.0, -1.0]), jnp.asarray([40.0, 2.5]), running=True)
    policy = LinearGaussian([[-0.5, 0.3]], std=0.4, scaling=start)
    method = Method(ActionNoise(6), CostToGo(), Euclidean(), Probe())
    came = sampled(policy, 6, T, p=2, lengths=[T, T, 1, T, 2, T])
    asked = jnp.where(came.mask, eqx.filter_jit(lambda r: policy.log_prob(r.observations, r.actions))(came), 0)
    after, info = tell(method, method.init(policy, T), None, came)
    np.testing.assert_allclose(info["log_prob"], asked, rtol=0, atol=1e-6)
    seen = np.asarray(came.observations)[np.asarray(came.mask)]
    scaling = after.policy.scaling
    assert float(scaling.count) == 10 + len(seen)
    np.testing.assert_allclose(scaling.mean, (10 * np.array([1.0, -1.0]) + seen.sum(0)) / (10 + len(seen)), rtol=1e-5)


def test_a_fixed_scaling_is_not_moved_by_data(sampled):
    policy = LinearGaussian([[-0.5, 0.3]], std=0.4, scaling=Scaling.fixed((2.0, 3.0)))
    method = Method(*LEGAL["natural gradient"])
    after, _ = tell(method, method.init(policy, T), None, sampled(policy, 4, T, p=2))
    np.testing.assert_array_equal(after.policy.scaling.scale, policy.scaling.scale)


def test_statistics_that_came_along_are_what_the_scaling_learns():
    policy = LinearGaussian([[-0.5, 0.3]], bias=[0.0], std=0.4, scaling=Scaling.follow(2))
    method = Method(*LEGAL["ars"])
    offsets, came = batch(method, np.arange(MOST * T).reshape(MOST, T), [OK] * MOST, policy)
    came = came._replace(statistics=(jnp.asarray(5.0), jnp.asarray([1.0, 2.0]), jnp.asarray([5.0, 20.0])))
    after, _ = tell(method, method.init(policy, T), offsets, came)
    np.testing.assert_allclose(after.policy.scaling.scale, [1.0, 2.0], rtol=1e-6)
    np.testing.assert_allclose(after.policy.scaling.mean, [1.0, 2.0], rtol=1e-6)


def test_parameter_space_moves_no_log_std():
    method, state = Method(*LEGAL["ars"]), START["ars"]
    after, _ = tell(method, state, *batch(method, np.arange(MOST * T).reshape(MOST, T), [OK] * MOST))
    assert np.array_equal(after.policy.log_std, state.policy.log_std)
    assert not np.array_equal(after.policy.gain, state.policy.gain)


@pytest.mark.parametrize("name", ["natural gradient", "ars"])
def test_a_std_is_reported_where_it_is_learned(name):
    method, state = Method(*LEGAL[name]), START[name]
    costs = np.random.default_rng(1).normal(size=(MOST, T))
    after, info = tell(method, state, *batch(method, costs, [OK] * MOST))
    if name == "ars":
        assert "std" not in info  # a method that perturbs parameters does not search it
    else:
        assert float(info["std"]) == pytest.approx(float(jnp.exp(after.policy.parameters["log_std"][0])))
        assert float(info["std"]) != pytest.approx(0.4, rel=1e-6)


# what is reported, and limits


def plain(n=6, **options):
    """REINFORCE without a baseline: everything that it reports follows from the costs by hand."""
    return Method(ActionNoise(n), TotalCost("none"), Euclidean(), LearningRate(0.1), **options)


def test_the_reported_cost_is_the_mean_of_what_counts_with_its_standard_error():
    """By the unbiased variance; one of six trials was lost, one failed at a stated cost."""
    method = plain(failure_cost=9.0)
    costs = np.asarray([[1, 2, 3], [0, 0, 1], [5, 5, 5], [1, 0, 0], [2, 2, 2], [4, 0, 0]], np.float32)
    _, info = tell(method, method.init(POLICY, T), *batch(method, costs, [OK, OK, LOST, OK, FAILED, OK]))
    counted = np.array([6.0, 1.0, 1.0, 9.0, 4.0])
    assert float(info["cost"]) == pytest.approx(counted.mean(), rel=1e-6)
    assert float(info["cost_sem"]) == pytest.approx(counted.std(ddof=1) / np.sqrt(5), rel=1e-6)
    assert (int(info["failed"]), int(info["lost"]), int(info["skipped"])) == (1, 1, 0)
    _, alone = tell(method, method.init(POLICY, T), *batch(method, costs, [OK] + [LOST] * 5))
    assert float(alone["cost_sem"]) == 0


def test_the_reported_quality_is_that_of_the_gradient_in_numbers_of_rollouts():
    method, n = plain(40), 40
    costs = 3.0 + np.random.default_rng(2).normal(size=(n, T))
    offsets, came = batch(method, costs, [OK] * n)
    state = method.init(POLICY, T)
    groups = np.asarray(estimated(method, state, offsets, came).groups, float)
    _, info = tell(method, state, offsets, came)
    assert len(groups) > 2
    noise = groups.var(0, ddof=1).sum() / len(groups)
    snr = (groups.mean(0) ** 2).sum() / noise - 1
    lengths = np.linalg.norm(groups, axis=1)
    assert float(info["snr"]) == pytest.approx(snr, rel=1e-4)
    assert float(info["gradient_norm"]) == pytest.approx(np.linalg.norm(groups.mean(0)), rel=1e-5)
    assert float(info["gradient_error"]) == pytest.approx(np.sqrt(noise), rel=1e-5)
    assert float(info["effective_rollouts"]) == pytest.approx(n * lengths.mean() ** 2 / (lengths**2).mean(), rel=1e-5)
    # with costs that are noise about zero alone there is no such number
    _, nothing = tell(method, state, *batch(method, np.zeros((n, T)), [OK] * n))
    assert np.isnan(nothing["needed_rollouts"])


@pytest.mark.parametrize(("noise", "low", "high"), [(0.0, 1.0, np.inf), (60.0, 0.0, 1.0)])
def test_the_rollouts_that_are_needed_are_those_of_a_gradient_as_large_as_its_noise(noise, low, high):
    """Costs that are the scores themselves, alone and in noise: fewer than there were, and more."""
    method = plain(40)
    state = method.init(POLICY, T)
    _, came = batch(method, np.zeros((40, T)), [OK] * 40)
    towards = estimated(method, state, None, came).score.mv(jnp.ones(POLICY.theta().size))
    costs = towards + noise * jnp.asarray(np.random.default_rng(2).normal(size=(40, T)), towards.dtype)
    _, info = tell(method, state, None, came._replace(costs=costs))
    assert low < float(info["snr"]) < high
    assert float(info["needed_rollouts"]) == pytest.approx(40 / float(info["snr"]), rel=1e-5)


@pytest.mark.parametrize("largest", [1e-3, np.array([1.0, 1e-3, 1.0, 1.0])])
def test_a_step_that_is_too_long_is_shortened_as_a_whole(largest):
    free = plain()
    costs = 100.0 + np.random.default_rng(3).normal(size=(6, T))
    state, given = free.init(POLICY, T), batch(free, costs, [OK] * 6)
    (far, free_info), (near, info) = (tell(method, state, *given) for method in (free, plain(largest_step=largest)))
    long, short = (np.asarray(after.policy.theta() - POLICY.theta()) for after in (far, near))
    excess = np.max(np.abs(long) / largest)
    assert excess > 2
    np.testing.assert_allclose(short, long / excess, rtol=1e-3, atol=1e-6)
    assert (int(free_info["limited"]), int(info["limited"])) == (0, 1)
    assert float(info["step_norm"]) == pytest.approx(np.linalg.norm(short), rel=1e-3)
    assert float(free_info["step_norm"]) == pytest.approx(np.linalg.norm(long), rel=1e-5)


def test_a_step_just_within_its_limit_is_left_alone_and_one_just_beyond_is_not():
    costs, method = np.random.default_rng(3).normal(size=(6, T)), plain()
    state, given = method.init(POLICY, T), batch(method, costs, [OK] * 6)
    free, _ = tell(method, state, *given)
    longest = float(jnp.max(jnp.abs(free.policy.theta() - POLICY.theta())))
    limited, info = tell(plain(largest_step=1.01 * longest), state, *given)
    assert np.array_equal(limited.policy.theta(), free.policy.theta())
    assert int(info["limited"]) == 0
    shorter, info = tell(plain(largest_step=0.9 * longest), state, *given)
    assert float(jnp.max(jnp.abs(shorter.policy.theta() - POLICY.theta()))) == pytest.approx(0.9 * longest, rel=1e-4)
    assert int(info["limited"]) == 1


def test_an_update_that_is_skipped_moves_nothing_and_says_so():
    method = plain()
    state = method.init(POLICY, T)
    after, info = tell(method, state, *batch(method, np.zeros((6, T)), [LOST] * 6))
    assert (int(info["skipped"]), float(info["step_norm"])) == (1, 0.0)
    assert (int(state.update), int(after.update)) == (0, 1)


# a learned spread

LEARNED = Method(
    ParameterNoise(4, [0.1, 0.2, 0.4], learned=True),
    TotalCost("leave_one_out", normalise=True),
    Natural(fisher="analytic"),
    LearningRate(np.repeat([0.2, 0.1], 3)),
)


def test_a_learned_spread_moves_with_the_parameters_and_its_geometric_mean_is_reported():
    state = LEARNED.init(POLICY, T)
    np.testing.assert_allclose(jnp.exp(state.explore), [0.1, 0.2, 0.4], rtol=1e-6)
    costs = np.random.default_rng(1).normal(size=(MOST, T))
    offsets, came = batch(LEARNED, costs, [OK] * MOST)
    after, info = tell(LEARNED, state, offsets, came)
    # along the natural direction of a normal distribution, a β for θ and (β²/σ² − 1)/2 for log σ
    a = np.asarray(estimated(LEARNED, state, offsets, came).advantages, float)
    beta, std = np.asarray(offsets, float), np.array([0.1, 0.2, 0.4])
    np.testing.assert_allclose(
        after.policy.theta("parameter"), POLICY.theta("parameter") - 0.2 * a @ beta / 8, rtol=1e-4
    )
    moved = np.log(std) - 0.1 * a @ ((beta / std) ** 2 - 1) / 2 / 8
    np.testing.assert_allclose(after.explore, moved, rtol=1e-4)
    assert float(info["std"]) == pytest.approx(np.exp(moved.mean()), rel=1e-4)
    # the quality is that of the parameters alone
    gradient = (a @ beta / std**2) / 8
    assert float(info["gradient_norm"]) == pytest.approx(np.linalg.norm(gradient), rel=1e-4)


def test_a_learned_spread_is_kept_if_nothing_came_back():
    state = LEARNED.init(POLICY, T)
    after, info = tell(LEARNED, state, *batch(LEARNED, np.zeros((MOST, T)), [LOST] * MOST))
    assert int(info["skipped"]) == 1
    assert np.array_equal(after.explore, state.explore)


def test_a_spread_that_is_fixed_is_no_state():
    method = Method(*LEGAL["ars"])
    assert method.init(POLICY, T).explore == ()


# offsets, sizes and scaling


def test_partners_get_opposite_offsets_and_a_reference_none():
    for method, sign in (
        (Method(*LEGAL["ars"]), [1, -1] * 4),
        (Method(*LEGAL["one-sided with reference"]), [1, 0] * 4),
    ):
        layout, z = method.layout(POLICY), np.random.default_rng(0).normal(size=(4, 3))
        offsets = method.offsets(method.init(POLICY, T), jnp.asarray(z, jnp.float32), layout)
        np.testing.assert_allclose(offsets, 0.1 * np.array(sign)[:, None] * np.repeat(z, 2, 0), rtol=1e-6)


def test_only_a_method_by_stages_changes_its_size():
    fixed = plain()
    assert fixed.sized(50.0) is fixed
    by_stages = Method(ActionNoise(4, 640, 4), TotalCost("none"), Euclidean(), LearningRate(0.1))
    assert by_stages.sized(160.0).layout(POLICY).size == 4
    longer = by_stages.sized(10.0)
    assert longer.layout(POLICY).size == 64
    assert longer.credit is by_stages.credit


def test_another_scaling_moves_the_policy_in_parameter_space_only(sampled):
    """A step in action space is as long as its KL says; the scaling must not add to it."""
    policy = LinearGaussian([[-0.5, 0.3]], bias=[0.1], std=0.4, scaling=Scaling.follow(2))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 2)))
    came = sampled(policy, 4, T, p=2)
    came = came._replace(costs=jnp.ones((4, T)))  # nothing to learn but the scaling
    method = Method(*LEGAL["natural gradient"])
    after, _ = tell(method, method.init(policy, T), None, came)
    assert not np.allclose(after.policy.scaling.scale, 1.0, rtol=1e-2)
    np.testing.assert_allclose(after.policy.mode(x), policy.mode(x), rtol=1e-4, atol=1e-5)
    method = Method(*LEGAL["ars"])
    offsets, came = batch(method, np.ones((MOST, T)), [OK] * MOST, policy)
    statistics = (jnp.asarray(5.0), jnp.asarray([1.0, 2.0]), jnp.asarray([45.0, 20.0]))
    after, _ = tell(method, method.init(policy, T), offsets, came._replace(statistics=statistics))
    assert np.array_equal(after.policy.gain, policy.gain)
    expected = (np.asarray(x) - [1.0, 2.0]) / [3.0, 2.0] @ np.asarray(policy.gain).T + 0.1
    np.testing.assert_allclose(after.policy.mode(x), expected, rtol=1e-4)


def test_a_scaling_learns_nothing_from_lost_rollouts_or_without_observations(sampled):
    policy = LinearGaussian([[-0.5, 0.3]], bias=[0.1], std=0.4, scaling=Scaling.follow(2))
    method = Method(*LEGAL["natural gradient"])
    came = sampled(policy, 4, T, p=2)
    after, _ = tell(method, method.init(policy, T), None, came._replace(outcome=jnp.asarray([OK, LOST, OK, OK])))
    seen = np.delete(np.asarray(came.observations), 1, axis=0).reshape(-1, 2)
    assert float(after.policy.scaling.count) == len(seen)
    np.testing.assert_allclose(after.policy.scaling.mean, seen.mean(0), rtol=1e-5)
    ars = Method(*LEGAL["ars"])
    after, _ = tell(ars, ars.init(policy, T), *batch(ars, np.arange(24).reshape(MOST, T), [OK] * MOST, policy))
    assert float(after.policy.scaling.count) == 0


@pytest.mark.parametrize("name", ["natural gradient", "ars", "one sampled rollout"])
def test_a_second_update_is_the_same_program(name):
    """Numbers of the first state are as strongly typed as those of the next."""
    method, state = Method(*LEGAL[name]), START[name]
    after, _ = tell(method, state, *batch(method, np.arange(MOST * T).reshape(MOST, T), [OK] * MOST))
    kinds = [[(x.dtype, x.shape, x.weak_type) for x in jax.tree.leaves(each)] for each in (state, after)]
    assert kinds[0] == kinds[1]
