"""The natural gradient against the closed forms of linear plants: how fast estimates near it, how fast it converges.

n rollouts, T stages, p states, m actions. Random numbers have fixed seeds.
"""

import os
import subprocess
import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policysearch.core.credit import CostToGo
from policysearch.core.direction import Natural
from policysearch.core.explore import ActionNoise
from policysearch.core.method import Method
from policysearch.core.policies import LinearGaussian
from policysearch.core.quality import measure
from policysearch.core.rollouts import LOST, OK, settle
from policysearch.core.score import PolicyScore
from policysearch.core.step import Estimate, KLStep, LearningRate
from policysearch.runners import native
from policysearch.tasks import build
from policysearch.tasks.lqr import LQR

#: what a step does not look at: direction, groups, rollouts, credit, info
REST = (None, None, None, (), {})

FIGURES = Path(__file__).parents[1] / "docs" / "figures"
FISHERS = ("empirical", "analytic")
#: numbers of rollouts over two decades, and repeats of each
NUMBERS, REPEATS = (30, 300, 3000), 10


@pytest.fixture(scope="module")
def angles():
    """Radians between estimated and exact natural gradients, (2, numbers, repeats); at each number its own rollouts."""
    with jax.enable_x64(True):
        plant, std = build("lqr"), 1.0
        K = 0.2 * plant.stationary_gain()
        policy = LinearGaussian(K, std=std)
        truth = np.linalg.solve(plant.horizon * plant.fisher(K, std), plant.gradient(K, std)["gain"].ravel())
        method = Method(ActionNoise(NUMBERS[-1]), CostToGo("value"), Natural(), KLStep(0.01))
        layout = method.layout(policy)

        @eqx.filter_jit
        def directions(n, key):
            came = native.sample(plant, method, policy, layout, None, key)
            # one program for every n: the rollouts beyond n count as lost
            outcome = jnp.where(jnp.arange(NUMBERS[-1]) < n, OK, LOST)
            came = settle(came._replace(outcome=outcome))
            score = method.explore.score(policy, None, came, layout, ())
            a, _, _ = method.credit(came, score, layout, ())
            groups = score.group_gradients(a, 1)
            return [Natural(fisher=fisher)(score, a, groups)[0] for fisher in FISHERS]

        def angle(w):
            return np.arccos(np.clip(w @ truth / np.linalg.norm(w) / np.linalg.norm(truth), -1, 1))

        found = np.zeros((2, len(NUMBERS), REPEATS))
        for i, n in enumerate(NUMBERS):
            for j, key in enumerate(jax.random.split(jax.random.key(n), REPEATS)):
                found[:, i, j] = [angle(np.asarray(w)) for w in directions(jnp.asarray(n), key)]
        return found


@pytest.mark.parametrize("fisher", FISHERS)
def test_the_angle_to_the_exact_natural_gradient_falls_as_one_over_the_root_of_the_rollouts(fisher, angles):
    """Weighted least squares of log mean angle on log n; the slope is −1/2 within four standard errors, each < 0.04."""
    found = angles[FISHERS.index(fisher)]
    mean = found.mean(1)
    error = found.std(1, ddof=1) / np.sqrt(REPEATS) / mean
    rows = np.column_stack([np.log(NUMBERS), np.ones(len(NUMBERS))]) / error[:, None]
    covariance = np.linalg.inv(rows.T @ rows)
    slope = (covariance @ rows.T @ (np.log(mean) / error))[0]
    slope_error = np.sqrt(covariance[0, 0])
    assert slope_error < 0.04
    assert abs(slope + 0.5) < 4 * slope_error, f"slope {slope:.3f} ± {slope_error:.3f}"


def regulator():
    """Three states, two actions, no disturbance, starts of full rank, and a horizon beyond which nothing is left."""
    return LQR(
        [[1.0, 0.3, 0.0], [-0.2, 1.0, 0.2], [0.0, 0.1, 0.9]],
        [[0.0, 0.1], [0.5, 0.0], [0.0, 0.4]],
        np.diag([1.0, 0.5, 0.5]),
        np.diag([0.2, 0.4]),
        initial_covariance=np.eye(3),
        horizon=120,
    )


def exact(plant, policy):
    """A score on p states with exactly the visited second moment, and ∇J (d,) scaled to p of T stages."""
    K, std = np.asarray(policy.gain), np.exp(np.asarray(policy.log_std))
    values, vectors = np.linalg.eigh(plant.visited(K, std).second)
    p, m = len(values), len(K)
    score = PolicyScore(
        policy=policy,
        observations=jnp.asarray((np.sqrt(p * values) * vectors).T[None]),
        actions=jnp.zeros((1, p, m)),
        mask=jnp.ones((1, p), bool),
        counted=jnp.ones(1, bool),
    )
    return score, jnp.asarray(plant.gradient(K, std)["gain"].ravel() * p / plant.horizon)


@pytest.mark.usefixtures("float64")
def test_with_a_fixed_step_the_cost_of_a_linear_plant_converges_linearly_to_the_optimal_cost():
    """Fazel et al. (2018): natural gradient multiplies each error of the gain by 1 − 2ηλ, λ of R + BᵀPB.

    So near the optimum the excess cost falls by (1 − 2ηλ_min)² an update or faster, and never rises on the way.
    """
    plant, std = regulator(), 1e-3
    optimal, best = plant.riccati(), plant.stationary_gain()
    curvature = np.linalg.eigvalsh(plant.R + plant.B.T @ optimal.value @ plant.B)
    rate = 0.15 / curvature[-1]
    slowest = (1 - 2 * rate * curvature[0]) ** 2
    step = LearningRate(rate / std**2)
    natural = eqx.filter_jit(
        lambda score, gradient: Natural(fisher="analytic")(score, jnp.zeros((1, 3)), gradient[None])[0]
    )
    rng = np.random.default_rng(0)
    for _ in range(3):
        K = best
        while K is best or not 0.9 < np.abs(np.linalg.eigvals(plant.A + plant.B @ K)).max() < 0.99:
            K = best + rng.normal(size=best.shape)
        policy, excess = LinearGaussian(K, std=std), [plant.expected_cost(K) / optimal.cost - 1]
        assert excess[0] > 1
        for _ in range(32):
            score, gradient = exact(plant, policy)
            estimate = Estimate(score, jnp.zeros((1, 3)), gradient, measure(gradient[None]), *REST)
            theta, _, _ = step(policy.theta(), natural(score, gradient), estimate, ())
            policy = policy.with_theta(theta)
            excess.append(plant.expected_cost(np.asarray(policy.gain)) / optimal.cost - 1)
        ratio = np.array(excess[1:]) / excess[:-1]
        assert excess[-1] < 1e-6
        assert ratio.max() < 0.8
        assert ratio[-1] <= slowest * 1.001
        assert ratio[-1] > slowest**2


def test_the_script_of_the_figures_writes_them(tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "error", str(FIGURES / "natural_gradient.py"), "--quick", "--folder", str(tmp_path)],
        env=os.environ | {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    drawn = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert sorted(drawn) == sorted(path.name for path in FIGURES.glob("natural_*.png"))
    assert all(content.startswith(b"\x89PNG") and 5_000 < len(content) < 100_000 for content in drawn.values())
    assert [line.split(":")[0] + ".png" for line in done.stdout.splitlines()] == [
        "natural_field.png",
        "natural_invariance.png",
        "natural_angle.png",
        "natural_convergence.png",
    ]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("damping", "same"), [(0.0, True), (0.1, False)])
def test_a_change_of_units_leaves_the_pseudo_inverse_and_not_the_damped_direction(damping, same, sampled):
    policy, unit = LinearGaussian([[-0.5, 0.3, 0.1]], std=0.4), jnp.asarray([1.0, 10.0, 0.1])
    came = sampled(policy, 20, 4)
    a = came.costs - came.costs.mean()
    found = []
    for scale in (jnp.ones(3), unit):
        other = LinearGaussian(policy.gain / scale, std=0.4)
        score = PolicyScore.of(other, came._replace(observations=came.observations * scale))
        w, _, _ = eqx.filter_jit(lambda s: Natural(damping=damping)(s, a, s.group_gradients(a, 2)))(score)
        found.append(np.asarray(w * scale))
    assert np.allclose(found[0], found[1], rtol=1e-6) == same
