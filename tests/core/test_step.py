import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from policysearch.core.direction import Natural
from policysearch.core.explore import ParameterNoise
from policysearch.core.policies import LinearGaussian
from policysearch.core.quality import Quality
from policysearch.core.rollouts import Rollouts
from policysearch.core.score import PolicyScore
from policysearch.core.step import CLEAR, Estimate, KLStep, LearningRate, Optimizer, Refit
from policysearch.methods import settings

#: what a step does not look at: direction, groups, rollouts, credit, info
REST = (None, None, None, (), {})

CLEAR_CUT = Quality(jnp.asarray(1.0), jnp.asarray(jnp.nan))


def estimate(score, quality=CLEAR_CUT, a=None):
    """An estimate from advantages, of ones unless given."""
    if a is None:
        a = jnp.ones(score.counted.shape)
    return Estimate(score, a, score.gradient(a, 1), quality, *REST)


@eqx.filter_jit
def move(step, w, score, quality=CLEAR_CUT, state=None, a=None):
    """New θ, state and info, compiled."""
    theta = score.policy.theta()
    return step(theta, w, estimate(score, quality, a), step.init(theta) if state is None else state)


@eqx.filter_jit
def kl_between(score, theta):
    """Mean KL per stage over the visited stages."""
    kl = score.policy.kl(score.policy.with_theta(theta), score.observations)
    return jnp.sum(jnp.where(score.mask, kl, 0.0)) / score.mask.sum()


def given(policy, sampled, n=20, T=5, seed=0):
    """A score with masked stages and a random direction."""
    score = PolicyScore.of(policy, sampled(policy, n, T, seed, lengths=[T] * (n - 2) + [1, 3]))
    w = jnp.asarray(np.random.default_rng(seed).normal(size=policy.theta().size))
    return score, w


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", ["linear with learned std, scaled", "softmax"])
def test_the_step_has_the_kl_that_was_asked_as_predicted_and_as_measured(name, policies, sampled):
    score, w = given(policies[name](), sampled, n=400)
    step = KLStep(0.004, memory=None)
    theta, _, info = move(step, w, score)
    measured = float(kl_between(score, theta))
    assert float(info["kl"]) == pytest.approx(measured, rel=1e-9)
    assert float(info["kl_predicted"]) == pytest.approx(0.004, rel=1e-9)
    assert measured == pytest.approx(0.004, rel=0.15)
    assert measured <= 1.05 * 0.004


@pytest.mark.usefixtures("float64")
def test_kl_over_the_squared_step_in_the_fisher_norm_tends_to_one_half(policies, sampled):
    """With the exact Fisher matrix of a Gaussian with fixed std, E[x xᵀ] ⊗ Σ⁻¹, the ratio is ½ at any length."""
    policy = LinearGaussian([[-0.5, 0.3, 0.1]], std=0.4)
    score, w = given(policy, sampled)
    x = np.asarray(score.observations)[np.asarray(score.mask)]
    fisher = x.T @ x / len(x) / 0.4**2
    assert float(kl_between(score, policy.theta() + w)) / float(w @ fisher @ w) == pytest.approx(0.5, rel=1e-9)
    softmax = policies["softmax"]()
    score, w = given(softmax, sampled)
    hessian = np.asarray(jax.jit(jax.hessian(lambda t: kl_between(score, t)))(softmax.theta()))
    ratios = [float(kl_between(score, softmax.theta() + e * w)) / float(e**2 * w @ hessian @ w) for e in (1e-1, 1e-3)]
    assert abs(ratios[1] - 0.5) < 5e-3
    assert abs(ratios[1] - 0.5) < abs(ratios[0] - 0.5)


@pytest.mark.usefixtures("float64")
def test_a_step_along_an_overfitted_fisher_matrix_is_backed_off(sampled):
    policy = LinearGaussian(np.zeros((1, 10)), std=0.5)
    asked, shrinks, too_far = 0.01, 0, 0
    for seed in range(3):
        came = sampled(policy, 32, 1, seed, p=10)
        score = PolicyScore.of(policy, came)
        a = came.costs - came.costs.mean()
        w, _, _ = eqx.filter_jit(lambda s, a: Natural()(s, a, s.group_gradients(a, 2)))(score, a)
        step = KLStep(asked, memory=None)
        theta, _, info = move(step, w, score)
        scale = float(np.sqrt(2 * asked * 32 / np.sum(np.asarray(score.mv(w)) ** 2)))
        too_far += float(kl_between(score, policy.theta() - scale * w)) > 1.05 * asked
        shrinks += int(info["shrinks"])
        assert float(kl_between(score, theta)) <= 1.05 * asked
    assert too_far > 0
    assert shrinks > 0


@pytest.mark.parametrize("w", [0.0, np.nan, np.inf])
def test_a_direction_that_is_zero_or_not_finite_gives_no_step(w, sampled):
    score, direction = given(LinearGaussian([[-0.5, 0.3, 0.1]]), sampled)
    theta, _, info = move(KLStep(0.1), direction * 0 + w, score)
    assert float(info["step_scale"]) == 0.0
    np.testing.assert_array_equal(theta, score.policy.theta())


def test_without_a_single_stage_there_is_no_step(sampled):
    score, w = given(LinearGaussian([[-0.5, 0.3, 0.1]]), sampled)
    empty = eqx.tree_at(lambda s: s.mask, score, jnp.zeros_like(score.mask))
    theta, _, info = move(KLStep(0.1), w, empty)
    np.testing.assert_array_equal(theta, score.policy.theta())
    assert float(info["step_scale"]) == 0.0


@pytest.mark.usefixtures("float64")
def test_a_learning_rate_caps_the_step_below_the_kl(sampled):
    score, w = given(LinearGaussian([[-0.5, 0.3, 0.1]], std=0.4), sampled)
    theta, _, info = move(KLStep(0.1, rate=1e-3), w, score)
    np.testing.assert_allclose(theta, score.policy.theta() - 1e-3 * w, rtol=1e-12)
    assert float(info["kl"]) < 0.1


@pytest.mark.usefixtures("float64")
def test_steps_shrink_by_the_share_of_signal_averaged_over_updates(sampled):
    score, w = given(LinearGaussian([[-0.5, 0.3, 0.1]], std=0.4), sampled)
    quality = lambda snr: Quality(jnp.asarray(snr + 1.0), jnp.asarray(1.0))  # noqa: E731
    full = float(move(KLStep(1e-4, memory=None), w, score, quality(0.5))[2]["step_scale"])
    step, state, average = KLStep(1e-4, memory=0.8), None, None
    for snr in (0.5, 100.0, -0.9, -0.9, -0.9, -0.9, -0.9, -0.9):
        _, state, info = move(step, w, score, quality(snr), state)
        clear = min(snr, CLEAR)
        average = clear if average is None else 0.8 * average + 0.2 * clear
        signal = max(average, 0.0)
        assert float(info["step_scale"]) == pytest.approx(full * signal / (1 + signal), rel=1e-9)
    assert float(info["step_scale"]) == 0.0


@pytest.mark.usefixtures("float64")
def test_steps_that_settle_are_half_as_long_after_so_many_updates(sampled):
    score, w = given(LinearGaussian([[-0.5, 0.3, 0.1]], std=0.4), sampled)
    step, state, scales = KLStep(1e-4, memory=None, step_decay=3), None, []
    for _ in range(4):
        _, state, info = move(step, w, score, state=state)
        scales.append(float(info["step_scale"]))
    np.testing.assert_allclose(scales, scales[0] / (1 + np.arange(4) / 3), rtol=1e-9)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("per_stage", [True, False])
def test_the_surrogate_is_the_importance_weighted_mean_of_the_advantages(per_stage, sampled):
    score, w = given(LinearGaussian([[-0.5, 0.3, 0.1]], std=0.4), sampled)
    a = jnp.asarray(np.random.default_rng(1).normal(size=score.mask.shape if per_stage else len(score.mask)))
    theta, _, info = move(KLStep(1e-3, memory=None), w, score, a=a)
    moved = eqx.tree_at(lambda s: s.policy, score, score.policy.with_theta(theta))
    ratio = np.exp(np.asarray(moved.log_prob()) - np.asarray(score.log_prob()))
    weight = np.asarray(a if per_stage else a[:, None]) * np.asarray(score.mask)
    assert float(info["improvement"]) == pytest.approx(-(weight * (ratio - 1)).sum() / len(ratio), rel=1e-9)
    small = move(KLStep(1e-10, memory=None), w, score, a=a)[2]
    assert float(small["improvement"]) == pytest.approx(float(small["improvement_predicted"]), rel=1e-3)


@pytest.mark.usefixtures("float64")
def test_a_line_search_refuses_to_go_uphill_and_shortens_what_overshoots(sampled):
    score, _ = given(LinearGaussian([[-0.5, 0.3, 0.1]], std=0.4), sampled)
    a = jnp.asarray(np.random.default_rng(1).normal(size=score.mask.shape))
    gradient = score.gradient(a, 1)
    theta, _, info = move(KLStep(0.1, memory=None, line_search=True), -gradient, score, a=a)
    np.testing.assert_array_equal(theta, score.policy.theta())
    assert float(info["step_scale"]) == float(info["kl"]) == float(info["improvement"]) == 0.0
    # a KL so large that the surrogate rises again along the gradient
    far = move(KLStep(50.0, memory=None), gradient, score, a=a)[2]
    assert float(far["improvement"]) < 0
    found = move(KLStep(50.0, memory=None, line_search=True), gradient, score, a=a)[2]
    assert float(found["improvement"]) > 0
    assert int(found["shrinks"]) > 0
    assert float(found["step_scale"]) < float(far["step_scale"])


def test_a_single_group_counts_as_clear(sampled):
    score, w = given(LinearGaussian([[-0.5, 0.3, 0.1]], std=0.4), sampled)
    _, state, _ = move(KLStep(1e-4), w, score)
    assert float(state[0]) == CLEAR


def perturbed():
    explore = ParameterNoise(2, 0.1)
    layout = explore.layout(3)
    came = Rollouts(jnp.ones((4, 1)), jnp.ones((4, 1), bool), jnp.zeros(4, int))
    return explore.score(LinearGaussian([[1.0, 2.0, 3.0]]), jnp.ones((4, 3)), came, layout)


def test_a_kl_step_of_perturbed_parameters_is_refused():
    with pytest.raises(TypeError, match="needs a policy's action distribution"):
        KLStep(0.1)(jnp.ones(3), jnp.ones(3), estimate(perturbed()), ())


def test_a_learning_rate_moves_by_exactly_rate_times_direction():
    theta, _, _ = LearningRate([0.1, 1.0, 10.0])(jnp.ones(3), jnp.ones(3), estimate(perturbed()), ())
    np.testing.assert_allclose(theta, [0.9, 0.0, -9.0], rtol=1e-6)


def test_an_optimiser_descends_and_keeps_its_own_state():
    step, theta = Optimizer(optax.sgd(0.1, momentum=0.9)), jnp.ones(3)
    state, w = step.init(theta), jnp.asarray([1.0, 0.0, -1.0])
    for expected in (1 - 0.1, 1 - 0.1 - 0.19):
        theta, state, _ = step(theta, w, estimate(perturbed()), state)
        assert float(theta[0]) == pytest.approx(expected, rel=1e-6)
        assert float(theta[1]) == 1.0


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: KLStep(0.0), "max_kl is 0.0"),
        (lambda: KLStep(np.inf), "max_kl is inf"),
        (lambda: KLStep(0.1, rate=0.0), "rate is 0.0"),
        (lambda: KLStep(0.1, step_decay=-1.0), "step_decay is -1.0"),
        (lambda: KLStep(0.1, memory=1.0), "memory is 1.0; it must lie in 0 ≤ memory < 1"),
        (lambda: KLStep(0.1, memory=-0.1), "memory is -0.1"),
        (lambda: LearningRate(-1.0), "learning rate is -1.0"),
        (lambda: LearningRate(np.inf), "learning rate is inf"),
        (lambda: Refit(smoothing=1.0), "smoothing is 1.0; it must lie in 0 ≤ smoothing < 1"),
        (lambda: Refit(smoothing=-0.1), "smoothing is -0.1"),
        (lambda: Refit(extra=-0.1), "extra is -0.1"),
        (lambda: Refit(updates=0.0), "updates is 0.0"),
    ],
)
def test_steps_that_are_not_positive_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_the_ends_of_what_is_allowed_are_allowed():
    assert KLStep(0.1, rate=np.inf, memory=0.0, step_decay=np.inf).memory == 0.0
    assert float(Refit(smoothing=0.0, extra=0.0).extra) == 0.0


def test_a_refit_left_alone_is_that_of_the_cross_entropy_method():
    """Nothing is kept; half of the first std is added and falls to nothing in 50 updates (docs/methods.md)."""
    refit, given = Refit(), settings.CEM()
    assert (float(refit.smoothing), float(refit.extra)) == (given.smoothing, given.extra) == (0.0, 0.5)
    assert float(refit.updates) == given.extra_updates == 50


@pytest.mark.usefixtures("float64")
def test_the_extra_noise_of_a_refit_falls_in_a_line_from_its_share_of_the_first_std():
    refit, first, theta = Refit(0.0, 0.5, 4), np.array([0.2, 2.0]), jnp.zeros(2)
    point = jnp.concatenate([theta, jnp.log(first)])
    state, stds = refit.init(point), []
    for _ in range(6):
        # w of rollouts that are all alike: no shift, and a variance of nothing
        point, state, _ = refit(point, jnp.array([0.0, 0.0, 0.5, 0.5]), estimate(perturbed()), state)
        stds.append(np.exp(point[2:]))
    np.testing.assert_allclose(stds[:4], 0.5 * first * np.array([[1.0], [0.75], [0.5], [0.25]]), rtol=1e-9)
    # then what keeps a spread from vanishing for good
    np.testing.assert_allclose(stds[4:], [1e-6 * first] * 2, rtol=1e-9)


@pytest.mark.usefixtures("float64")
def test_one_gradient_counts_as_clear_at_most_three_times_its_noise(sampled):
    """No single ratio counts above 3, so that a step is at most 3/4 of the full one (docs/methods.md)."""
    score, w = given(LinearGaussian([[-0.5, 0.3, 0.1]], std=0.4), sampled)
    full = float(move(KLStep(1e-4, memory=None), w, score)[2]["step_scale"])
    clear = Quality(jnp.asarray(1e9), jnp.asarray(1.0))
    assert float(move(KLStep(1e-4), w, score, clear)[2]["step_scale"]) == pytest.approx(0.75 * full, rel=1e-9)
    # the past has the weight 0.8 unless told otherwise
    state = move(KLStep(1e-4), w, score, clear)[1]
    none = Quality(jnp.asarray(1.0), jnp.asarray(1.0))
    _, state, _ = move(KLStep(1e-4), w, score, none, state)
    assert float(state[0]) == pytest.approx(0.8 * 3.0, rel=1e-9)


@pytest.mark.usefixtures("float64")
def test_a_search_for_a_length_gives_up_after_twenty_shortenings(sampled):
    score, _ = given(LinearGaussian([[-0.5, 0.3, 0.1]], std=0.4), sampled)
    a = jnp.asarray(np.random.default_rng(1).normal(size=score.mask.shape))
    uphill = move(KLStep(0.1, memory=None, line_search=True), -score.gradient(a, 1), score, a=a)[2]
    assert int(uphill["shrinks"]) == 20


@pytest.mark.usefixtures("float64")
def test_a_step_shortened_for_its_kl_ends_just_below_the_limit_and_never_above(sampled):
    """The KL of a std grows faster than its quadratic form, so a first step is too long."""
    policy = LinearGaussian([[-0.5, 0.3, 0.1]], std=0.4, learned_std=True)
    score, _ = given(policy, sampled)
    w = jnp.zeros(policy.theta().size).at[-1].set(1.0)
    for kl in (0.3, 1.0):
        info = move(KLStep(kl, memory=None), w, score)[2]
        assert int(info["shrinks"]) > 0
        assert 0.6 * kl < float(info["kl"]) <= 1.05 * kl


@pytest.mark.usefixtures("float64")
def test_a_line_search_shortens_by_three_tenths_until_the_surrogate_falls(sampled):
    score, _ = given(LinearGaussian([[-0.5, 0.3, 0.1]], std=0.4), sampled)
    a = jnp.asarray(np.random.default_rng(1).normal(size=score.mask.shape))
    gradient = score.gradient(a, 1)
    info = move(KLStep(50.0, memory=None, line_search=True), gradient, score, a=a)[2]
    found, shrinks = float(info["step_scale"]), int(info["shrinks"])
    # one shortening less, and it did not fall or its KL was too large
    before = move(KLStep(50.0, rate=found / 0.7 * (1 - 1e-9), memory=None), gradient, score, a=a)[2]
    assert shrinks > 0
    assert int(before["shrinks"]) == 0
    assert float(before["improvement"]) <= 0
    assert float(info["improvement"]) > 0


@pytest.mark.usefixtures("float64")
def test_a_step_whose_kl_is_not_finite_is_halved_until_it_is(sampled):
    policy = LinearGaussian([[-0.5, 0.3, 0.1]], std=0.4, learned_std=True)
    score, _ = given(policy, sampled)
    # a std that shrinks by exp(−1000) overflows the KL twice over
    w = jnp.zeros(policy.theta().size).at[-1].set(1.0)
    _, _, info = move(KLStep(1e6, memory=None), w, score)
    assert 2 < int(info["shrinks"]) < 20
    assert 1e5 < float(info["kl"]) <= 1.05e6


@pytest.mark.usefixtures("float64")
def test_the_kl_of_a_single_stage_is_that_of_the_stage(sampled):
    policy = LinearGaussian([[-0.5, 0.3, 0.1]], std=0.4)
    score = PolicyScore.of(policy, sampled(policy, 1, 3, lengths=[1]))
    _, _, info = move(KLStep(0.01, memory=None), jnp.ones(3), score)
    theta = policy.theta() - float(info["step_scale"]) * jnp.ones(3)
    assert float(info["kl"]) == pytest.approx(float(policy.kl(policy.with_theta(theta), score.observations)[0, 0]))


def test_only_tuned_numbers_are_leaves_so_that_others_are_the_same_program():
    parts = KLStep(0.1, line_search=True), Refit(), LearningRate(1), Optimizer(optax.sgd(0.1))
    leaves = jax.tree.leaves(parts)
    assert all(isinstance(leaf, jax.Array) for leaf in leaves)
    assert len(leaves) == 3 + 3 + 1


def test_the_mean_of_a_refit_moves_against_the_direction_by_the_share_that_is_not_kept():
    theta, w = jnp.asarray([1.0, -2.0, 0.0, 0.0]), jnp.asarray([0.4, -0.2, 0.0, 0.0])
    step = Refit(smoothing=0.25, extra=0.0)
    after, _, _ = step(theta, w, Estimate(*[None] * len(Estimate._fields)), step.init(theta))
    np.testing.assert_allclose(after[:2], [1.0 - 0.75 * 0.4, -2.0 + 0.75 * 0.2], rtol=1e-6)
