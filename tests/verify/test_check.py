"""The check of the estimators: it passes what is right, fails what is a tenth wrong, and its closed forms are right."""

import itertools
import os

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policysearch import LQR, LinearGaussian
from policysearch.cli import check as command
from policysearch.core.baselines import serving
from policysearch.core.credit import CentredRanks, CostToGo, TotalCost
from policysearch.core.direction import Euclidean, Natural
from policysearch.core.distributions import Categorical, Gaussian
from policysearch.core.explore import ActionNoise, ParameterNoise
from policysearch.core.likelihood_ratio import likelihood_ratio_gradient
from policysearch.core.method import Method
from policysearch.core.step import KLStep, LearningRate
from policysearch.runners import native
from policysearch.tasks.bandit import Bandit
from policysearch.verify import bias, check, closed_forms

#: of the check on a random plant; more by POLICYSEARCH_BATCHES
BATCHES = int(os.environ.get("POLICYSEARCH_BATCHES", "4000"))


class TooLarge(CostToGo):
    """A cost-to-go that is a tenth too large."""

    def __call__(self, rollouts, score, layout, state):
        a, state, info = super().__call__(rollouts, score, layout, state)
        return 1.1 * a, state, info


def composed(credit, explore=None):
    return Method(explore or ActionNoise(10), credit, Euclidean(), LearningRate(1.0))


BANDIT = composed(CostToGo("leave_one_out"))


def test_every_legal_baseline_and_estimator_is_in_the_table():
    found = bias.catalogue(closed_forms.PROBLEMS["lqr-check"]())
    assert {label[2] for label in found if label[0] == "gpomdp"} == set(serving("to_go"))
    assert {label[2] for label in found if label[0] == "reinforce"} == {
        "none", "running", "mean", "leave_one_out", "least_variance"
    }  # fmt: skip
    assert {label[1] for label in found if label[0] == "finite_differences"} == {"central", "forward"}
    assert {label[1].split(",")[0] for label in found if label[0] == "weight_perturbation"} == {
        "gaussian", "sphere", "rademacher", "orthogonal"
    }  # fmt: skip


def test_a_right_method_passes_and_one_a_tenth_too_large_fails():
    rows = check.check({"right": BANDIT, "wrong": composed(TooLarge("leave_one_out"))}, ["bandit"], batches=10_000)
    right, wrong = rows
    assert right.complaint == ""
    assert right.worst < 4 < wrong.worst
    assert right.error < 0.02
    assert "biased by" in wrong.complaint
    assert "wrong on bandit" in wrong.complaint


def test_scaling_every_estimate_by_a_tenth_is_found_and_changes_nothing_else():
    (row,) = check.check({"mine": BANDIT}, ["bandit"], batches=10_000, scale=1.1)
    assert row.worst > 4
    assert row.bias == pytest.approx(0.1, abs=0.06)


def test_too_few_batches_fail_for_want_of_power():
    (row,) = check.check({"mine": BANDIT}, ["bandit"], batches=100)
    assert "so a bias could be missed" in row.complaint


def test_the_command_prints_a_table_and_fails_where_the_check_does(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
    arguments = ["--problems", "bandit", "--methods", "finite_differences"]
    with pytest.raises(ValueError, match="None of these methods"):
        command.main(arguments)
    (tmp_path / "mine.py").write_text(
        "from test_check import BANDIT, TooLarge, composed\nwrong = composed(TooLarge())\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert command.main(["--problems", "bandit", "--method", "mine:wrong", "--batches", "10000"]) == 1
    assert "1 of 1 rows failed" in capsys.readouterr().out
    assert command.main(["--problems", "bandit", "--method", "mine:BANDIT", "--batches", "10000", "--json"]) == 0
    assert '"complaint": ""' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((["reinforc"], None), "Did you mean reinforce"),
        ((None, ["lqr-chek"]), "Did you mean lqr-check"),
        (({"n": Method(ActionNoise(10), CostToGo(), Natural(), KLStep(0.1))}, ["bandit"]), "is not a gradient"),
        (({"r": composed(CentredRanks(), ParameterNoise(10, 0.1))}, ["bowl"]), "CentredRanks rescales"),
        (({"r": composed(TotalCost(normalise=True))}, ["bandit"]), "TotalCost rescales"),
        (({"d": composed(TotalCost(), ParameterNoise(10, 0.1, "sphere"))}, ["bandit"]), "None of these methods"),
    ],
)
def test_what_has_no_known_expectation_is_refused_with_the_reason(arguments, words):
    with pytest.raises(ValueError, match=words):
        check.check(*arguments)


def test_what_is_checked_is_what_an_update_moves_by():
    problem = closed_forms.PROBLEMS["lqr-check"]()
    method = composed(CostToGo("leave_one_out"))
    state, key = method.init(problem.policy, problem.task.horizon), jax.random.key(3)
    moved, _ = native.compiled_update(problem.task, method, state, key)
    told = bias._told(problem.task, method, problem.policy, key, 1)
    again = jax.random.fold_in(key, 0)
    offsets, rollouts = eqx.filter_jit(native.batch)(problem.task, method, state, again)
    single = jax.tree.map(lambda leaf: leaf[None], (offsets, rollouts))
    estimate = bias._estimates(method, state, *single)[0]
    np.testing.assert_allclose(estimate, problem.policy.theta() - moved.policy.theta(), rtol=1e-4, atol=1e-4)
    assert told[1].costs.shape == (1, 10, 21)


def dense(problem, shape, std):
    """E[J(θ+β) β/σ²] of a problem of three parameters, by brute force; J of the mode is a polynomial."""
    theta = problem.theta("parameter")
    if shape == "gaussian":
        nodes, weights = np.polynomial.hermite_e.hermegauss(14)
        points = np.array(list(itertools.product(nodes, repeat=3)))
        weight = np.prod(list(itertools.product(weights / weights.sum(), repeat=3)), axis=1)
    else:
        heights, weights = np.polynomial.legendre.leggauss(12)
        angles = 2 * np.pi * np.arange(24) / 24
        points = np.array([
            [np.sqrt(3 * (1 - h * h)) * np.cos(a), np.sqrt(3 * (1 - h * h)) * np.sin(a), np.sqrt(3) * h]
            for h, a in itertools.product(heights, angles)
        ])  # fmt: skip
        weight = np.repeat(weights, 24) / 48
    costs = np.array([problem.cost(theta + std * point) for point in points])
    return (weight * costs) @ points / std


@pytest.mark.parametrize("shape", ["gaussian", "sphere"])
def test_smoothed_gradients_agree_with_dense_quadrature_far_closer_than_the_check_can_see(shape):
    problem = closed_forms.PROBLEMS["lqr-check"]()
    exact, rule = dense(problem, shape, problem.std), problem.smoothed(shape, problem.std)
    plain = problem.slope(problem.theta("parameter"))
    assert np.linalg.norm(rule - exact) < 5e-4 * np.linalg.norm(exact)
    assert np.linalg.norm(plain - exact) > 0.05 * np.linalg.norm(exact)


def test_the_smoothed_gradient_of_a_bandit_is_the_slope_of_its_smoothed_cost():
    problem = closed_forms.PROBLEMS["bandit"]()
    z = np.random.default_rng(0).normal(size=(400_000, 4))
    samples = np.asarray(problem.task.means)[np.argmax(problem.theta("parameter") + 0.5 * z, 1)][:, None] * z / 0.5
    error = samples.std(0) / np.sqrt(len(z))
    assert np.all(np.abs(samples.mean(0) - problem.smoothed("gaussian", 0.5)) < 5 * error)


def test_the_general_gradient_is_right_for_a_gaussian_with_parameters_in_a_dict():
    theta, key = {"mean": 1.0, "log_std": -0.3}, jax.random.key(0)
    x = 1.0 + np.exp(-0.3) * jax.random.normal(key, (40_000,))
    log_prob = lambda t, v: Gaussian(t["mean"][None], t["log_std"][None]).log_prob(v[None])  # noqa: E731
    found = likelihood_ratio_gradient(log_prob, lambda v: v**2, x, theta)
    for name, exact in (("mean", 2.0), ("log_std", 2 * np.exp(-0.6))):
        assert abs(found.gradient[name] - exact) < 5 * found.standard_error[name] < 0.2 * exact


@pytest.mark.parametrize("baseline", ["none", "mean", "leave_one_out", 0.4])
def test_the_general_gradient_is_right_for_a_bandit_with_every_baseline(baseline):
    bandit, logits = Bandit(), jnp.array([0.3, -0.2, 0.1, 0.4])
    arms = jax.random.categorical(jax.random.key(1), logits, shape=(40_000,))
    costs = jnp.asarray(bandit.means)[arms]
    found = likelihood_ratio_gradient(lambda t, arm: Categorical(t).log_prob(arm), costs, arms, logits, baseline)
    assert np.all(np.abs(found.gradient - bandit.gradient(logits)) < 5 * found.standard_error)


def test_the_mean_of_a_batch_shrinks_the_general_gradient_by_exactly_one_share():
    x, log_prob = jax.random.normal(jax.random.key(2), (5,)), lambda t, v: -0.5 * (v - t) ** 2
    shrunk, fair = (likelihood_ratio_gradient(log_prob, jnp.sin, x, 0.0, b) for b in ("mean", "leave_one_out"))
    assert shrunk.gradient == pytest.approx(0.8 * float(fair.gradient), rel=1e-5)
    with pytest.raises(ValueError, match=r"costs of shape \(4,\)"):
        likelihood_ratio_gradient(log_prob, x[:4], x, 0.0)
    with pytest.raises(ValueError, match="baseline is 'median'"):
        likelihood_ratio_gradient(log_prob, x, x, 0.0, "median")


def random_plant(seed, p=5, m=3, horizon=10):
    """A random plant that is not stable by itself, with a policy that nearly holds it."""
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(p, p))
    A *= 1.02 / np.abs(np.linalg.eigvals(A)).max()
    root = 0.2 * rng.normal(size=(p, p))
    plant = LQR(
        A, 0.4 * rng.normal(size=(p, m)), np.diag(rng.uniform(0.5, 2.0, p)), np.diag(rng.uniform(0.1, 0.5, m)),
        noise_covariance=root @ root.T, initial_covariance=np.eye(p), horizon=horizon,
    )  # fmt: skip
    return closed_forms.LinearProblem(
        "random", plant, LinearGaussian(-0.1 * rng.normal(size=(m, p)), std=0.4), 0.02, 0.02
    )


def by_moments(plant, K, std):
    """J of u = K x + std ξ from second moments alone; analytic in K, so that a complex step gives its gradient."""
    A, B, Q, R = (np.asarray(matrix, float) for matrix in (plant.A, plant.B, plant.Q, plant.R))
    noise, S, total = np.asarray(plant.noise_root), np.asarray(plant.initial_root), 0.0
    W, S = noise @ noise.T, S @ S.T
    for _ in range(plant.horizon):
        U = K @ S @ K.T + std**2 * np.eye(len(K))
        total = total + np.trace(Q @ S) + np.trace(R @ U)
        S = (A + B @ K) @ S @ (A + B @ K).T + std**2 * B @ B.T + W
    return total


def complex_step(plant, K, std):
    """∂J/∂K, (m · p,)."""
    found = []
    for place in np.ndindex(K.shape):
        moved = K.astype(complex)
        moved[place] += 1e-30j
        found.append(by_moments(plant, moved, std).imag / 1e-30)
    return np.array(found)


@pytest.mark.slow
def test_every_estimator_has_no_bias_on_a_random_plant_of_five_states_and_three_inputs():
    """About 20 estimators of 15 parameters: |z| < 4 of each, and the χ² of each above 1e-4."""
    problem = random_plant(11)
    K = np.asarray(problem.policy.gain, float)
    np.testing.assert_allclose(problem.gradient(), complex_step(problem.task, K, 0.4), rtol=1e-6)
    np.testing.assert_allclose(problem.slope(K.ravel()), complex_step(problem.task, K, 0.0), rtol=1e-6)
    problem.shapes = ("gaussian",)
    # the standard error of these batches shows a bias of some percent, such as that of a mean that holds its own sample
    rows = list(bias.measure(problem, bias.catalogue(problem), batches=BATCHES, seed=20))
    assert {row.method for row in rows} == {"reinforce", "gpomdp", "weight_perturbation", "finite_differences"}
    for row in rows:
        assert row.worst < 4, row
        assert row.probability > 1e-4, row
