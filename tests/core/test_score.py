import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policysearch.core.explore import Coordinates, ParameterNoise
from policysearch.core.policies import LinearGaussian
from policysearch.core.rollouts import LOST, Rollouts, settle
from policysearch.core.score import PolicyScore

pytestmark = pytest.mark.usefixtures("float64")

LENGTHS = [4, 2, 4, 3, 1]
N, T = 5, 4


@eqx.filter_jit
def forms(score, a, total, w):
    """Everything a score gives, compiled at once."""
    return {
        "rmv stage": score.rmv(a),
        "rmv rollout": score.rmv(total),
        "mv stage": score.mv(w, per_stage=True),
        "mv rollout": score.mv(w, per_stage=False),
        "dense stage": score.dense(per_stage=True),
        "dense rollout": score.dense(per_stage=False),
        "groups": score.group_gradients(a, 3),
        "groups of rollouts": score.group_gradients(total, 2),
        "alone": score.group_gradients(a, N),
    }


@pytest.fixture(scope="module", params=["linear with learned std, scaled", "structured", "network", "softmax network"])
def given(request, policies, sampled):
    """A policy's score with its advantages, a direction, and all forms."""
    with jax.enable_x64(True):
        policy = policies[request.param]()
        rng = np.random.default_rng(1)
        score = PolicyScore.of(policy, sampled(policy, N, T, lengths=LENGTHS))
        a, total = jnp.asarray(rng.normal(size=(N, T))), jnp.asarray(rng.normal(size=N))
        w = jnp.asarray(rng.normal(size=policy.theta().size))
        return score, a, total, w, {name: np.asarray(x) for name, x in forms(score, a, total, w).items()}


def test_rmv_is_the_adjoint_of_mv(given):
    _, a, total, w, form = given
    assert form["rmv stage"] @ w == pytest.approx((np.asarray(a) * form["mv stage"]).sum(), abs=1e-12)
    assert form["rmv rollout"] @ w == pytest.approx(np.asarray(total) @ form["mv rollout"], abs=1e-12)


def test_dense_rows_are_the_operator(given):
    _, a, total, w, form = given
    np.testing.assert_allclose(form["dense stage"] @ w, form["mv stage"].ravel(), atol=1e-12)
    np.testing.assert_allclose(form["dense stage"].T @ np.ravel(a), form["rmv stage"], atol=1e-12)
    np.testing.assert_allclose(form["dense rollout"] @ w, form["mv rollout"], atol=1e-12)
    np.testing.assert_allclose(form["dense rollout"].T @ total, form["rmv rollout"], atol=1e-12)


def test_rows_of_a_rollouts_stages_sum_to_its_row(given):
    form = given[-1]
    stages = form["dense stage"].reshape(N, T, -1)
    np.testing.assert_allclose(stages.sum(1), form["dense rollout"], atol=1e-12)


def test_stages_outside_the_mask_are_zero_rows(given):
    score, form = given[0], given[-1]
    stages = form["dense stage"].reshape(N, T, -1)
    assert np.all(stages[~np.asarray(score.mask)] == 0)
    assert np.all(np.abs(stages[np.asarray(score.mask)]).max(-1) > 0)


def test_the_mean_of_group_gradients_is_the_gradient_whatever_the_groups(given):
    form = given[-1]
    np.testing.assert_allclose(form["groups"].mean(0), form["rmv stage"] / N, atol=1e-12)
    np.testing.assert_allclose(form["groups of rollouts"].mean(0), form["rmv rollout"] / N, atol=1e-12)


def test_groups_of_one_are_the_rollouts_own_gradients(given):
    _, a, _, _, form = given
    stages = form["dense stage"].reshape(N, T, -1)
    np.testing.assert_allclose(form["alone"], np.einsum("nt,ntd->nd", a, stages), atol=1e-12)


def test_a_row_is_the_derivative_of_the_log_probability(given):
    score, form = given[0], given[-1]
    theta, step = score.policy.theta(), 1e-6
    log_prob = jax.jit(lambda t: score.policy.with_theta(t).log_prob(score.observations, score.actions))
    for index in range(theta.size):
        moved = [np.asarray(log_prob(theta.at[index].add(sign * step))) for sign in (1, -1)]
        difference = np.where(score.mask, (moved[0] - moved[1]) / (2 * step), 0.0)
        np.testing.assert_allclose(form["dense stage"].reshape(N, T, -1)[..., index], difference, atol=1e-7)


def test_squares_are_the_squared_lengths_of_the_rows(given):
    score, form = given[0], given[-1]
    squares = eqx.filter_jit(lambda s: s.squares())(score)
    np.testing.assert_allclose(squares, (form["dense stage"] ** 2).sum(1).reshape(N, T), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("most", [3, 7, 22, 23, 24, 100])
def test_of_more_stages_than_wanted_evenly_spread_ones_stand_for_all(most):
    lengths = np.array([10, 3, 7, 3])
    mask = np.arange(10)[None, :] < lengths[:, None]
    number = np.where(mask, np.cumsum(mask).reshape(4, 10) - 1, -1.0)
    policy = LinearGaussian([[1.0]])
    stages = jnp.asarray(number)[..., None]
    score = PolicyScore(
        policy=policy, observations=stages, actions=0 * stages, mask=jnp.asarray(mask), counted=jnp.ones(4, bool)
    )
    seen, weight = score._visited(most)
    seen, weight = np.asarray(seen)[:, 0][np.asarray(weight) > 0], np.asarray(weight)[np.asarray(weight) > 0]
    assert len(seen) == min(most, 23)
    # what is left out between neighbours, and at the end, differs by one at most
    gaps = np.diff([*seen, 23])
    assert seen[0] == 0
    assert gaps.min() >= 1
    assert gaps.max() - gaps.min() <= 1
    np.testing.assert_allclose(weight**2, 23 / len(seen))


def test_nothing_outside_the_mask_poisons_a_gradient(policies, sampled):
    policy = policies["network"]()
    clean = sampled(policy, N, T, lengths=LENGTHS)
    holes = ~clean.mask
    dirty = clean._replace(
        costs=jnp.where(holes, jnp.nan, clean.costs),
        observations=jnp.where(holes[..., None], jnp.nan, clean.observations),
        actions=jnp.where(holes[..., None], jnp.inf, clean.actions),
    )
    gradients = [
        jax.jit(lambda r: PolicyScore.of(policy, settle(r)).gradient(settle(r).costs, 3))(rollouts)
        for rollouts in (clean, dirty)
    ]
    assert np.all(np.isfinite(gradients[1]))
    np.testing.assert_array_equal(*gradients)


def test_lost_rollouts_are_in_no_row_and_not_in_the_mean(policies, sampled):
    policy = policies["linear"]()
    came = sampled(policy, N, T)
    lost = came._replace(outcome=came.outcome.at[1].set(LOST))
    kept = Rollouts(*(None if x is None else jnp.asarray(np.delete(x, 1, axis=0)) for x in came))
    a = jnp.asarray(np.random.default_rng(2).normal(size=(N, T)))
    gradient = eqx.filter_jit(lambda came, a, groups: PolicyScore.of(policy, came).gradient(a, groups))
    np.testing.assert_allclose(gradient(lost, a, 2), gradient(kept, np.delete(a, 1, axis=0), 1), atol=1e-12)


def test_costs_alone_give_no_likelihood_ratio():
    came = Rollouts(jnp.ones((2, 1)), jnp.ones((2, 1), bool), jnp.zeros(2, int))
    with pytest.raises(ValueError, match="have costs only"):
        PolicyScore.of(LinearGaussian([[1.0]]), came)


# perturbed parameters


def perturbed(explore, d=3, lost=(), seed=0):
    rng = np.random.default_rng(seed)
    layout = explore.layout(d)
    rows = explore.rows(jnp.asarray(rng.normal(size=(layout.perturbations, d))))
    offsets = jnp.asarray(layout.sign)[:, None] * rows[jnp.asarray(layout.perturbation)]
    outcome = np.zeros(layout.size, int)
    outcome[list(lost)] = LOST
    n = layout.size
    came = Rollouts(jnp.asarray(rng.normal(size=(n, 1))), jnp.ones((n, 1), bool), jnp.asarray(outcome))
    return explore.score(LinearGaussian([[0.0] * d]), offsets, came, layout), jnp.asarray(rng.normal(size=n))


@pytest.mark.parametrize(
    "explore",
    [ParameterNoise(5, 0.2), ParameterNoise(4, [0.1, 0.2, 0.4], two_sided=False, reference="one"), Coordinates(0.1)],
    ids=["two-sided", "one-sided, a std each", "coordinates"],
)
def test_perturbation_scores_are_one_operator(explore):
    score, a = perturbed(explore)
    w = jnp.asarray([0.3, -1.0, 2.0])

    @eqx.filter_jit
    def forms(score):
        return score.dense(), score.mv(w), score.rmv(a), [score.group_gradients(a, m).mean(0) for m in (1, 2, 4)]

    dense, mv, rmv, gradients = jax.tree.map(np.asarray, forms(score))
    np.testing.assert_allclose(dense @ w, mv, atol=1e-12)
    np.testing.assert_allclose(dense.T @ a, rmv, atol=1e-12)
    for gradient in gradients:
        np.testing.assert_allclose(gradient, rmv / float(score.count), atol=1e-12)


def test_a_lost_trial_takes_its_partner_along():
    score, a = perturbed(ParameterNoise(4, 0.2), lost=[3])
    assert np.asarray(score.counted).tolist() == [True, True, False, False, True, True, True, True]
    assert float(score.count) == 6
    other = perturbed(ParameterNoise(4, 0.2))[0]
    expected = np.where(score.counted, a, 0) @ np.asarray(other.dense()) / 6
    np.testing.assert_allclose(score.gradient(a, 2), expected, atol=1e-12)


def test_partners_share_a_group():
    score, a = perturbed(ParameterNoise(4, 0.2))
    dense = np.asarray(score.dense())
    pairs = (np.asarray(a)[:, None] * dense).reshape(4, 2, 3).sum(1)
    np.testing.assert_allclose(score.group_gradients(a, 4), pairs * 4 / 8, atol=1e-12)


def test_reference_trials_are_not_in_the_mean():
    score, _ = perturbed(ParameterNoise(3, 0.2, two_sided=False, reference="each"))
    assert np.asarray(score.counted).tolist() == [True, False] * 3
    assert np.all(np.asarray(score.dense())[1::2] == 0)


def test_a_whole_set_of_differences_is_one_sample():
    score, a = perturbed(Coordinates(0.1, repeats=4))
    assert score.size == 4
    dense = np.asarray(score.dense())
    sets = (np.asarray(a)[:, None] * dense).reshape(4, 6, 3).sum(1)
    np.testing.assert_allclose(score.group_gradients(a, 4), sets * 4 / 24, atol=1e-12)


@pytest.mark.parametrize("per_stage", [True, False])
def test_many_products_with_the_same_rows_are_those_of_one(per_stage, policies, sampled):
    policy = policies["linear"]()
    came = sampled(policy, 4, 3, lengths=[3, 1, 2, 3])
    score, rng = PolicyScore.of(policy, came), np.random.default_rng(0)
    w, a = jnp.asarray(rng.normal(size=8)), jnp.asarray(rng.normal(size=(4, 3) if per_stage else 4))
    forward, transposed = score.products(per_stage)
    np.testing.assert_allclose(forward(w), score.mv(w, per_stage), atol=1e-12)
    np.testing.assert_allclose(transposed(a), score.rmv(a), atol=1e-12)


def test_the_fisher_matrix_of_a_normal_distribution_is_that_of_its_mean_and_log_std():
    std = np.array([0.1, 0.2, 0.4])
    plain, _ = perturbed(ParameterNoise(4, std))
    np.testing.assert_allclose(plain.fisher(3), 1 / std**2, rtol=1e-6)
    learned = ParameterNoise(4, std, learned=True)
    layout = learned.layout(3)
    came = Rollouts(jnp.zeros((8, 1)), jnp.ones((8, 1), bool), jnp.zeros(8, int))
    score = learned.score(LinearGaussian([[0.0] * 3]), jnp.zeros((8, 3)), came, layout, learned.init(3))
    np.testing.assert_allclose(score.fisher(3), [*(1 / std**2), 2, 2, 2], rtol=1e-6)
