"""Perturbations whose spread is learned: PGPE and the cross-entropy method. n rollouts, d parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policysearch import Method, ParameterNoise
from policysearch.core.credit import Elites, TotalCost
from policysearch.core.direction import Natural
from policysearch.core.policies import Parameters
from policysearch.core.rollouts import OK, Rollouts
from policysearch.core.specification import Specification
from policysearch.core.step import LearningRate, Refit
from policysearch.methods import settings
from policysearch.methods.rule import Problem
from policysearch.methods.table import build

D = 3
STD = np.array([0.2, 0.5, 1.0])
POLICY = Parameters(["a", "b", "c"], [0.0] * D)


def refit(*settings):
    """A method of 40 rollouts with 8 elites."""
    explore = ParameterNoise(40, STD, two_sided=False, learned=True)
    return Method(explore, Elites(8), Natural(fisher="analytic"), Refit(*settings))


def costs_of(totals):
    n = len(totals)
    return Rollouts(jnp.asarray(totals)[:, None], jnp.ones((n, 1), bool), jnp.full(n, OK))


def trials(method, state, seed=0):
    layout = method.layout(state.policy)
    z = jax.random.normal(jax.random.key(seed), (layout.perturbations, D))
    return method.offsets(state, z, layout)


@pytest.mark.usefixtures("float64")
def test_rows_of_a_learned_spread_are_the_gradient_of_its_log_density():
    explore = ParameterNoise(5, STD, learned=True)
    state = explore.init(D)
    layout = explore.layout(D)
    beta = (
        jnp.asarray(layout.sign)[:, None]
        * explore.rows(jax.random.normal(jax.random.key(0), (5, D)), state)[jnp.asarray(layout.perturbation)]
    )
    score = explore.score(POLICY, beta, costs_of(np.zeros(10)), layout, state)

    def log_density(point, x):
        mean, log_std = point[:D], point[D:]
        return jax.scipy.stats.norm.logpdf(x, mean, jnp.exp(log_std)).sum()

    point = jnp.concatenate([jnp.zeros(D), state])
    expected = jax.vmap(jax.grad(log_density), (None, 0))(point, beta)
    np.testing.assert_allclose(score.dense(), expected, rtol=1e-10, atol=1e-12)
    # the closed form of the Fisher matrix is the mean of its rows' squares: four standard errors of 20 000 draws
    many = explore.rows(jax.random.normal(jax.random.key(1), (20_000, D)), state)
    rows = jax.vmap(jax.grad(log_density), (None, 0))(point, many)
    error = np.asarray((rows**2).std(0)) / np.sqrt(20_000)
    assert np.all(np.abs(np.asarray((rows**2).mean(0) - score.fisher(D))) < 4 * error)


@pytest.mark.usefixtures("float64")
def test_a_refit_is_the_mean_and_std_of_the_elites():
    method = refit(0.0, 0.0)
    state = method.init(POLICY, 1)
    beta = trials(method, state)
    totals = np.asarray(((beta - 0.3) ** 2).sum(1))
    after, _ = method.tell(state, beta, costs_of(totals))
    best = np.asarray(beta)[np.argsort(totals)[:8]]
    np.testing.assert_allclose(after.policy.theta("parameter"), best.mean(0), rtol=1e-10)
    np.testing.assert_allclose(np.exp(after.explore), best.std(0), rtol=1e-10)


@pytest.mark.usefixtures("float64")
def test_smoothing_keeps_a_share_and_extra_noise_fades():
    method = refit(0.25, 0.5, 2)
    state = method.init(POLICY, 1)
    beta = trials(method, state)
    totals = np.asarray(((beta - 0.3) ** 2).sum(1))
    best = np.asarray(beta)[np.argsort(totals)[:8]]
    state, _ = method.tell(state, beta, costs_of(totals))
    np.testing.assert_allclose(state.policy.theta("parameter"), 0.75 * best.mean(0), rtol=1e-10)
    fitted = 0.25 * STD + 0.75 * best.std(0)
    np.testing.assert_allclose(np.exp(state.explore), np.sqrt(fitted**2 + (0.5 * STD) ** 2), rtol=1e-10)
    for _ in range(2):
        before = np.exp(state.explore)
        state, _ = method.tell(state, jnp.zeros((40, D)), costs_of(np.zeros(40)))
    # trials that do not vary leave nothing but what is kept, once the extra noise is gone
    np.testing.assert_allclose(np.exp(state.explore), 0.25 * before, rtol=1e-10)


@pytest.mark.usefixtures("float64")
def test_pgpe_narrows_what_matters_and_its_mean_step_is_in_standard_deviations():
    explore = ParameterNoise(400, STD, learned=True)
    rates = np.repeat([0.5, 0.2], D)
    method = Method(
        explore, TotalCost("leave_one_out", normalise=True), Natural(fisher="analytic"), LearningRate(rates)
    )
    state = method.init(POLICY, 1)
    beta = trials(method, state)
    slope, _ = method.tell(state, beta, costs_of(np.asarray(beta[:, 1])))
    moved = np.asarray(slope.policy.theta("parameter"))
    # a pure slope along one parameter moves that one by half a standard deviation, against the slope
    assert moved[1] == pytest.approx(-0.5 * STD[1], rel=0.1)
    curved, info = method.tell(state, beta, costs_of(np.asarray(beta[:, 2] ** 2)))
    change = np.asarray(curved.explore) - np.log(STD)
    # E[a (ξ² − 1)]/2 with a = (ξ² − 1)/√2 is 1/√2: four standard errors of 400 pairs
    assert change[2] == pytest.approx(-0.2 / np.sqrt(2), abs=4 * 0.2 * np.sqrt(5.0 / 400))
    assert np.all(np.abs(change[:2]) < 4 * 0.2 * np.sqrt(0.5 / 400))
    assert float(info["std"]) == pytest.approx(np.exp(np.mean(np.asarray(curved.explore))))


def test_failed_rollouts_are_no_elites_and_all_failed_changes_nothing():
    method = refit()
    state = method.init(POLICY, 1)
    beta = trials(method, state)
    totals = np.asarray(((beta - 0.3) ** 2).sum(1)).copy()
    totals[:30] = np.nan
    after, info = method.tell(state, beta, costs_of(totals))
    best = np.asarray(beta)[30:][np.argsort(totals[30:])[:8]]
    np.testing.assert_allclose(after.policy.theta("parameter"), best.mean(0), rtol=1e-4)
    assert int(info["failed"]) == 30
    same, info = method.tell(state, beta, costs_of(np.full(40, np.nan)))
    assert int(info["skipped"]) == 1
    np.testing.assert_array_equal(same.explore, state.explore)
    np.testing.assert_array_equal(same.policy.theta("parameter"), np.zeros(D))


@pytest.mark.parametrize(("name", "updates"), [("pgpe", 200), ("cem", 60)])
def test_named_methods_find_the_bottom_of_a_bowl(name, updates):
    specification = Specification(name="g", action=None, observation_size=0, horizon=1, deterministic=True)
    method = build(settings.method_settings(name, {}), Problem(specification, D, False, 0.1))
    state = method.init(POLICY, 1)
    tell = jax.jit(lambda state, beta, totals: method.tell(state, beta, costs_of(totals))[0])
    for update in range(updates):
        beta = trials(method, state, update)
        x = state.policy.theta("parameter") + beta
        state = tell(state, beta, ((x - 1.0) ** 2 * jnp.asarray([1.0, 3.0, 10.0])).sum(1))
    np.testing.assert_allclose(state.policy.theta("parameter"), np.ones(D), atol=0.05)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ((ParameterNoise(4, 0.1), Elites(2), Natural(fisher="analytic"), Refit()), "A refit takes"),
        ((ParameterNoise(4, 0.1, learned=True), TotalCost(), Natural(), LearningRate(0.1)), "exact natural"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(parts, words):
    with pytest.raises(ValueError, match=words):
        Method(*parts)
    with pytest.raises(ValueError, match="learned spread needs Gaussian"):
        ParameterNoise(4, 0.1, "sphere", learned=True)
