"""What is promised of a natural gradient as a whole: the same policy step in any units, the truth, and never a NaN."""

import dataclasses
import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Array

from policysearch.core.credit import CostToGo, TotalCost
from policysearch.core.direction import Natural
from policysearch.core.distributions import Distribution
from policysearch.core.explore import ActionNoise
from policysearch.core.initial import random_layers
from policysearch.core.method import Method
from policysearch.core.policies import LinearGaussian, NeuralGaussian, Policy, Softmax
from policysearch.core.rollouts import FAILED, LOST, OK, Rollouts
from policysearch.core.score import PolicyScore
from policysearch.core.step import KLStep

tell = eqx.filter_jit(lambda method, state, rollouts: method.tell(state, None, rollouts))


def step(policy, came, direction=None, credit=None, memory=None):
    """θ before and after an update, and what it reports."""
    n, T = came.costs.shape
    method = Method(ActionNoise(n), credit or CostToGo("value"), direction or Natural(), KLStep(0.01, memory=memory))
    after, info = tell(method, method.init(policy, T), came)
    assert int(info["fallback"]) == 0
    return np.asarray(policy.theta()), np.asarray(after.policy.theta()), info


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("solver", ["parameter", "sample"])
@pytest.mark.parametrize("credit", [CostToGo("value"), CostToGo("leave_one_out"), TotalCost()])
def test_the_unit_of_cost_does_not_matter(solver, credit, sampled):
    policy = LinearGaussian([[-0.5, 0.3, 0.1]], std=0.4, learned_std=True)
    came = sampled(policy, 30, 4)
    steps = []
    for unit in (1.0, 1e6):
        theta, after, _ = step(policy, came._replace(costs=unit * came.costs), Natural(solver=solver), credit)
        steps.append(after - theta)
    assert np.linalg.norm(steps[0]) > 0.01
    np.testing.assert_allclose(steps[1], steps[0], rtol=1e-6, atol=1e-6 * np.abs(steps[0]).max())


def test_the_unit_of_cost_does_not_matter_in_float32(sampled):
    """To 1e-3: 1e6 is no power of two, so that every cost is rounded anew."""
    policy = LinearGaussian([[-0.5, 0.3, 0.1]], std=0.4)
    came = sampled(policy, 30, 4)
    assert came.costs.dtype == jnp.float32
    steps = []
    for unit in (1.0, 1e6):
        theta, after, _ = step(policy, came._replace(costs=unit * came.costs))
        steps.append(after - theta)
    np.testing.assert_allclose(steps[1], steps[0], rtol=1e-3, atol=1e-3 * np.abs(steps[0]).max())


@dataclasses.dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Mapped(Policy):
    """The policy `inner` with its θ = A z, searched in z."""

    parameters: dict[str, Array]
    inner: Any
    A: Array

    def __call__(self, observation: Array) -> Distribution:
        return self.inner.with_theta(self.A @ self.parameters["z"])(observation)

    def controller(self):
        raise NotImplementedError

    @classmethod
    def of(cls, inner, condition, seed=0):
        """A random map of this condition."""
        rng, d = np.random.default_rng(seed), inner.theta().size
        left, right = (np.linalg.qr(rng.normal(size=(d, d)))[0] for _ in range(2))
        A = jnp.asarray(left * np.logspace(0, -np.log10(condition), d) @ right)
        return cls(parameters={"z": jnp.linalg.solve(A, inner.theta())}, inner=inner, A=A, scaling=None)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("memory", [None, 0.8], ids=["full steps", "steps that shrink"])
@pytest.mark.parametrize("condition", [10.0, 1e4])
def test_any_linear_parametrisation_gives_the_same_policy(condition, memory, sampled):
    policy = LinearGaussian([[-0.5, 0.3, 0.1]], bias=[0.2], std=0.4, learned_std=True)
    came = sampled(policy, 60, 4)
    # noise, so that the signal-to-noise ratio is one that shortens the step and not beyond what counts as clear
    noise = 1.5 * np.random.default_rng(5).normal(size=came.costs.shape)
    came = came._replace(costs=came.costs + jnp.where(came.mask, noise, 0.0))
    mapped = Mapped.of(policy, condition)
    theta, after, info = step(policy, came, memory=memory)
    _, z, mapped_info = step(mapped, came, Natural(rcond=1e-14), memory=memory)
    assert float(info["snr"]) == float(step(policy, came)[2]["snr"]) < 2
    assert (1e-4 < float(info["kl_predicted"]) < 0.005) == (memory is not None)
    np.testing.assert_allclose(mapped.A @ z - theta, after - theta, rtol=1e-6, atol=1e-6 * np.abs(after - theta).max())
    assert float(info["kl"]) == pytest.approx(float(mapped_info["kl"]), rel=1e-6)
    # what is compared is not small by itself: the plain gradient of the mapped policy leads elsewhere
    assert float(jnp.linalg.norm(mapped.A @ mapped.A.T / condition - jnp.eye(len(z)))) > 1


@pytest.mark.usefixtures("float64")
def test_with_more_parameters_than_samples_the_same_policy_follows_on_the_samples(sampled):
    """S (A Δz) = S Δθ: among all solutions the shortest one depends on the parametrisation, its effect does not."""
    policy = Softmax(random_layers([3, 4], 0, last=0.5))
    came = sampled(policy, 3, 2)
    mapped = Mapped.of(policy, 100.0)
    theta, after, info = step(policy, came, credit=CostToGo("none"))
    _, z, _ = step(mapped, came, Natural(rcond=1e-14), CostToGo("none"))
    assert int(info["rank"]) < theta.size
    rows = lambda change: np.asarray(PolicyScore.of(policy, came).mv(jnp.asarray(change)))  # noqa: E731
    np.testing.assert_allclose(rows(mapped.A @ z - theta), rows(after - theta), rtol=1e-6, atol=1e-9)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("fisher", ["empirical", "analytic"])
def test_a_constant_added_to_all_logits_changes_no_step(fisher, sampled):
    layers = random_layers([3, 4], 0, last=0.5)
    policy = Softmax(layers)
    shifted = Softmax([(layers[0][0], layers[0][1] + 50.0)])
    came = sampled(policy, 40, 4)
    (theta, after, _), (other, moved, _) = (step(p, came, Natural(fisher=fisher)) for p in (policy, shifted))
    assert np.linalg.norm(after - theta) > 0.01
    np.testing.assert_allclose(moved - other, after - theta, rtol=1e-6, atol=1e-8)


# never a NaN

#: policies by name, for 3 observations; θ of a few to 60 numbers
POLICIES = {
    "gain": lambda std: LinearGaussian([[-0.5, 0.3, 0.1]], std=std),
    "gain, learned std": lambda std: LinearGaussian([[-0.5, 0.3, 0.1], [0.0, 0.0, 0.0]], std=std, learned_std=True),
    "network": lambda std: NeuralGaussian(random_layers([3, 5, 1], 0), std=std),
    "softmax": lambda std: Softmax([(np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 0]]) / std, np.zeros(3))]),
}
DIRECTIONS = {
    "pseudo-inverse": Natural(),
    "sample space": Natural(solver="sample"),
    "own Fisher matrix": Natural(fisher="analytic"),
    "conjugate gradients": Natural(solver="conjugate_gradient", damping=0.1),
    "their own Fisher matrix": Natural(solver="conjugate_gradient", fisher="analytic", damping=0.0),
    "constant": Natural(intercept=True),
}
SIZES = [(1, 1), (4, 3)]
#: what is compiled, each for the sizes above
CASES = [
    ("pseudo-inverse", "gain, learned std", False),
    ("sample space", "network", True),
    ("own Fisher matrix", "softmax", True),
    ("conjugate gradients", "gain", False),
    ("their own Fisher matrix", "network", False),
    ("constant", "gain, learned std", True),
]
STAGE = st.one_of(
    st.sampled_from([0.0, 1.0, -1.0, 1e-30, 1e15, -1e15, 3e38, np.nan, np.inf]), st.floats(-9, 9, width=32)
)


@functools.cache
def method_of(name, n, line_search):
    credit = TotalCost("mean" if n > 1 else "none") if name == "constant" else CostToGo("value", discounting=(0.9, 0.9))
    return Method(ActionNoise(n), credit, DIRECTIONS[name], KLStep(0.05, line_search=line_search))


@pytest.mark.parametrize(("direction", "name", "line_search"), CASES)
@settings(max_examples=20, deadline=None, database=None, derandomize=True)
@given(data=st.data())
def test_an_update_is_finite_or_refused_with_its_reason(direction, name, line_search, data):
    draw = data.draw
    n, T = draw(st.sampled_from(SIZES))
    std = draw(st.sampled_from([1e-12, 1e-3, 1.0, 1e6, 1e15]))
    policy = POLICIES[name](std)
    rng = np.random.default_rng(draw(st.integers(0, 3)))
    observations = rng.normal(size=(n, T, 3)) * draw(st.sampled_from([1e-20, 1.0, 1e10]))
    if draw(st.booleans()):
        observations[:] = observations[:1, :1]  # duplicated rows
    observations = jnp.asarray(observations, jnp.float32)
    actions = draws(policy, observations, rng.integers(5))
    costs = draw(
        st.one_of(
            STAGE.map(lambda c: [[c] * T] * n),
            st.lists(st.lists(STAGE, min_size=T, max_size=T), min_size=n, max_size=n),
        )
    )
    outcome = draw(st.lists(st.sampled_from([OK, OK, OK, FAILED, LOST]), min_size=n, max_size=n))
    came = Rollouts(
        jnp.asarray(costs, jnp.float32), jnp.ones((n, T), bool), jnp.asarray(outcome), observations, actions
    )
    method = method_of(direction, n, line_search)
    state = method.init(policy, T)
    after, info = tell(method, state, came)
    info = {name: float(value) for name, value in info.items()}
    theta, moved = np.asarray(policy.theta()), np.asarray(after.policy.theta())
    assert np.isfinite(moved).all()
    if np.array_equal(theta, moved):
        refused = info["skipped"] or info["fallback"] or info["step_scale"] == 0
        too_small = info["step_norm"] < 1e-6 * np.linalg.norm(theta)
        assert refused or too_small
    else:
        # a KL near 0 is rounded in float32
        assert -1e-6 < info["kl"] <= 1.05 * 0.05


@eqx.filter_jit
def draws(policy, observations, seed):
    return policy.sample(observations, jax.random.key(seed))
