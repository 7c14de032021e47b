"""The built-in tasks: physics against independent integration, criteria, closed forms, robustness."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate

from policysearch.core.specification import Continuous
from policysearch.tasks import BUILT_IN, build
from policysearch.tasks.bandit import Bandit
from policysearch.tasks.cartpole import CartPole
from policysearch.tasks.functions import bowl, rosenbrock
from policysearch.tasks.pendulum import Pendulum
from policysearch.tasks.task import Task, clip

PLANTS = [name for name in BUILT_IN if name not in ("bowl", "rosenbrock")]
NOTHING = jnp.zeros(1)


def simulator(task, policy, n):
    """parameter → states (n, T + 1, …), costs (n, T), success (n,) under u = policy(x, parameter)."""
    specification = task.specification

    def rollout(key, parameter):
        start, disturbance = jax.random.split(key)

        def stage(x, w):
            u = clip(policy(x, parameter), specification.action)
            return task.step(x, u, w), (x, task.cost(x, u), u)

        start = task.reset(start)
        end, (states, costs, actions) = jax.lax.scan(
            stage, start, task.noise(disturbance), length=specification.horizon
        )
        states = jax.tree.map(lambda xs, x: jnp.concatenate([xs, x[None]]), states, end)
        return states, costs, task.success(states, actions)

    keys = jax.random.split(jax.random.key(0), n)
    return jax.jit(lambda parameter: jax.vmap(rollout, (0, None))(keys, parameter))


def test_listing_the_tasks_imports_no_jax():
    code = (
        "import sys, policysearch.tasks as t, policysearch.tasks.python_function\n"
        "assert t.resolve(abs).evaluate([-2.0]) == 2.0\n"
        "sys.exit('jax' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", list(BUILT_IN))
def test_every_built_in_task_describes_itself(name):
    task = build(name)
    specification = task.specification
    assert specification.name == name
    assert BUILT_IN[name].summary
    assert BUILT_IN[name].solved
    if not isinstance(task, Task):
        assert task.solved_cost() < float(task.cost(jnp.asarray(task.initial), None))
        return
    observation = jax.eval_shape(lambda key: task.observe(task.reset(key)), jax.random.key(0))
    assert observation.shape == (specification.observation_size,)
    assert observation.dtype == jnp.float32
    assert len(specification.observation_scale) == specification.observation_size
    assert len(specification.observation_names) == specification.observation_size
    assert specification.solved
    if isinstance(specification.action, Continuous):
        assert len(specification.action_names) == specification.action.size
    # a task is judged either by a physical criterion or by its cost
    assert hasattr(type(task), "success")


@pytest.mark.parametrize("name", ["pendulum", "cartpole-swingup"])
def test_no_policy_makes_a_plant_diverge(name):
    task = build(name)
    pumped = simulator(task, lambda x, gain: gain * x.rate[None] * jnp.cos(x.angle), 16)
    states, costs, _ = jax.tree.map(lambda *a: jnp.concatenate(a), *(pumped(gain) for gain in (1e3, 0.1, -1e3)))
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(states))
    assert jnp.all(costs >= 0)
    # pumped as hard as the motor can, the rate's share stays within a few times that of hanging
    assert float(costs.max()) < 30 * task.dt


def test_pendulum_follows_its_equation_of_motion():
    fine = Pendulum(dt=1e-3, damping=0.3)

    def flow(t, z):
        angle, rate = z
        return [rate, 3 * (9.81 / 2 * np.sin(angle) - 0.3 * rate + 1.2)]

    exact = scipy.integrate.solve_ivp(flow, (0, 1), [2.0, -1.0], rtol=1e-9).y[:, -1]
    start = fine.state(jnp.array(2.0), jnp.array(-1.0))
    end = jax.lax.fori_loop(0, 1000, lambda _, x: fine.step(x, jnp.array([1.2]), None), start)
    np.testing.assert_allclose([end.angle, end.rate], exact, atol=0.01)
    np.testing.assert_allclose(fine.observe(end), [jnp.sin(end.angle), jnp.cos(end.angle), end.rate])


def test_pendulum_keeps_its_energy_without_damping():
    task = Pendulum(damping=0.0)
    states, _, _ = simulator(task, lambda x, _: NOTHING, 8)(0.0)
    energy = states.rate**2 / 6 + 9.81 / 2 * states.cos
    assert jnp.max(jnp.abs(energy - energy[:, :1])) < 0.1 * 9.81


def test_pendulum_cannot_be_lifted_directly_but_energy_pumping_solves_it():
    task = Pendulum()

    def policy(x, pump):
        energy = x.rate**2 / 6 + 9.81 / 2 * (x.cos - 1)
        hold = -12.0 * x.sin - 3.0 * x.rate
        push = jnp.where(pump, jnp.where(energy < 0, jnp.sign(x.rate), 0.0), 1.0) * task.torque_limit
        return jnp.where(x.cos > 0.9, hold, push)[None]

    rollouts = simulator(task, policy, 100)
    _, costs, success = rollouts(True)
    assert success.mean() >= 0.95
    assert costs.sum(1).mean() < 5
    assert not rollouts(False)[2].any()


@pytest.mark.parametrize("start", [(0.1, 0.5, 2.0, -1.0), (-0.3, 0.0, 0.2, 3.0)])
def test_cartpole_follows_its_equations_of_motion(start):
    fine = CartPole(dt=1e-3, pole_mass=0.4, cart_friction=0.3, joint_friction=0.05)
    force, M, m, half = 1.5, 1.0, 0.4, 0.5

    def flow(t, z):
        _, v, angle, rate = z
        mass = [[M + m, m * half * np.cos(angle)], [m * half * np.cos(angle), 4 / 3 * m * half**2]]
        push = [
            force - 0.3 * v + m * half * rate**2 * np.sin(angle),
            m * 9.81 * half * np.sin(angle) - 0.05 * rate,
        ]
        return [v, np.linalg.solve(mass, push)[0], rate, np.linalg.solve(mass, push)[1]]

    exact = scipy.integrate.solve_ivp(flow, (0, 1), start, rtol=1e-9).y[:, -1]
    x = fine.state(*(jnp.array(value) for value in start))
    end = jax.lax.fori_loop(0, 1000, lambda _, x: fine.step(x, jnp.array([force]), None), x)
    np.testing.assert_allclose(end[:4], exact, atol=0.02)


@pytest.mark.parametrize("angle", [0.3, 2.0])
def test_a_stop_ends_the_travel_and_takes_energy_only(angle):
    task = CartPole(dt=1e-4, cart_friction=0.0, joint_friction=0.0)

    def kinetic(x):
        coupling = task.pole_mass * task.half_length * x.cos
        inertia = 4 / 3 * task.pole_mass * task.half_length**2
        moving = (task.cart_mass + task.pole_mass) * x.velocity**2 / 2
        return moving + coupling * x.velocity * x.rate + inertia * x.rate**2 / 2

    def about_hinge(x):
        return x.velocity * x.cos + 4 / 3 * task.half_length * x.rate

    before = task.state(jnp.array(2.4), jnp.array(1.5), jnp.array(angle), jnp.array(-1.0))
    after = task.step(before, NOTHING, None)
    assert after.position == jnp.float32(2.4)
    assert after.velocity == 0
    assert kinetic(after) < kinetic(before)
    # the stop pushes through the hinge, so the pole's angular momentum about it stays
    assert float(about_hinge(after)) == pytest.approx(float(about_hinge(before)), abs=0.01)


def test_cartpole_balances_with_a_stabilising_gain_and_falls_without():
    task = build("cartpole-balance")
    gain = jnp.array([1.0, 2.0, 30.0, 6.0])
    rollouts = simulator(task, lambda x, gain: (gain @ jnp.stack(x[:4]))[None], 100)
    assert rollouts(gain)[2].mean() >= 0.95
    assert not rollouts(0 * gain)[2].any()
    # positive angle: the pole leans, and falls, towards positive positions
    start = task.state(*(jnp.array(value) for value in (0.0, 0.0, 0.1, 0.0)))
    assert task.step(start, NOTHING, None).rate > 0
    assert task.step(start, jnp.array([10.0]), None).rate < 0


@pytest.mark.parametrize("task", [Pendulum(), CartPole("swingup")])
def test_success_asks_for_upright_throughout_the_last_two_seconds(task):
    T, last = task.specification.horizon, round(2 / task.dt)
    zeros = jnp.zeros(T + 1)

    def succeeds(angle):
        coordinates = (angle, zeros) if isinstance(task, Pendulum) else (zeros, zeros, angle, zeros)
        return bool(task.success(task.state(*coordinates), None))

    assert succeeds(zeros + 2 * jnp.pi + 0.19)
    assert not succeeds(zeros + 0.21)
    assert succeeds(zeros.at[T - last].set(3.0))
    assert not succeeds(zeros.at[T - last + 1].set(3.0))
    assert not succeeds(zeros.at[T].set(3.0))


def test_cartpole_succeeds_only_within_two_metres():
    task = CartPole()
    zeros = jnp.zeros(task.specification.horizon + 1)
    assert task.success(task.state(zeros + 1.9, zeros, zeros, zeros), None)
    assert not task.success(task.state(zeros - 2.1, zeros, zeros, zeros), None)


@pytest.mark.parametrize("build_task", [Pendulum, CartPole])
def test_randomised_plants_differ_between_rollouts_and_stay_for_each(build_task):
    fixed, task = build_task(), build_task(randomise=0.2)

    @jax.jit
    @jax.vmap
    def start_and_next(key):
        x = task.reset(key)
        return x, task.step(x, NOTHING, None), fixed.step(type(x)(*x[:-1], None), NOTHING, None)

    x, moved, as_standard = start_and_next(jax.random.split(jax.random.key(0), 200))
    for value, nominal in zip(x[-1], standard_plant(fixed), strict=True):
        ratio = np.asarray(value) / nominal
        assert 0.8 <= ratio.min() < 0.85
        assert 1.15 < ratio.max() <= 1.2
    assert abs(np.corrcoef(x[-1][0], x[-1][1])[0, 1]) < 4 / np.sqrt(200)
    np.testing.assert_array_equal(moved[-1], x[-1])
    assert fixed.reset(jax.random.key(0))[-1] is None
    assert np.mean(np.abs(moved.rate - as_standard.rate) > 1e-6) > 0.9


def standard_plant(task):
    if isinstance(task, Pendulum):
        return task.mass, task.length
    return task.cart_mass, task.pole_mass, task.half_length


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Pendulum(mass=0.0), "Pendulum.mass is 0.0"),
        (lambda: Pendulum(randomise=1.0), "randomise is 1.0"),
        (lambda: CartPole("fly"), '"balance" and "swingup" are allowed'),
        (lambda: CartPole(force_limit=float("nan")), "force_limit is nan"),
        (lambda: Bandit(means=(1.0,)), "two or more"),
        (lambda: bowl(d=0), "d=0"),
        (lambda: rosenbrock(d=1), "d must be 2 or more"),
        (lambda: Bandit().gradient([0.0]), r"logits have shape \(1,\)"),
    ],
)
def test_impossible_constants_are_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_bandit_closed_forms_agree_with_each_other_and_with_samples():
    task, logits = Bandit(), np.array([0.3, -0.2, 0.5, 0.1])
    step = 1e-6
    slope = [
        (task.expected_cost(logits + step * e) - task.expected_cost(logits - step * e)) / (2 * step) for e in np.eye(4)
    ]
    np.testing.assert_allclose(task.gradient(logits), slope, atol=1e-9)
    # (18.36): the Fisher matrix is the second moment of the score e_u − p
    p = np.exp(logits) / np.exp(logits).sum()
    scores = np.eye(4) - p
    np.testing.assert_allclose(task.fisher(logits), (scores.T * p) @ scores, atol=1e-15)
    np.testing.assert_allclose(task.fisher(logits) @ np.ones(4), 0, atol=1e-15)
    n = 20_000

    @jax.jit
    @jax.vmap
    def sample(key):
        arm, noise = jax.random.split(key)
        return task.cost(task.reset(noise), jax.random.categorical(arm, jnp.asarray(logits)))

    costs = np.asarray(sample(jax.random.split(jax.random.key(0), n)))
    assert abs(costs.mean() - task.expected_cost(logits)) < 4 * costs.std() / np.sqrt(n)
    assert task.success(None, jnp.array([3]))
    assert not task.success(None, jnp.array([2]))


def test_partners_on_one_seed_meet_the_same_bandit_noise():
    task = Bandit()
    x = task.reset(jax.random.key(5))
    assert float(task.cost(x, jnp.array(0)) - task.cost(x, jnp.array(3))) == pytest.approx(1.0)
    noise = [float(task.cost(task.reset(jax.random.key(seed)), jnp.array(3))) for seed in range(50)]
    assert np.std(noise) == pytest.approx(0.5, rel=4 / np.sqrt(100))


def test_bowl_closed_forms_agree_with_perturbed_costs():
    task = bowl(d=5, condition=30.0)
    theta, std, n = np.linspace(-1, 2, 5), 0.3, 20_000
    with jax.enable_x64(True):
        assert float(task.cost(jnp.asarray(theta), None)) == pytest.approx(task.expected_cost(theta), rel=1e-12)
        np.testing.assert_allclose(jax.grad(task.cost)(jnp.asarray(theta), None), task.gradient(theta), rtol=1e-12)
    np.testing.assert_allclose(np.linalg.eigvalsh(task.hessian)[[0, -1]], [1.0, 30.0])
    perturbed = theta + std * np.random.default_rng(0).normal(size=(n, 5))
    costs = np.asarray(jax.vmap(lambda values: task.cost(values, None))(jnp.asarray(perturbed)))
    assert abs(costs.mean() - task.expected_cost(theta, std)) < 4 * costs.std() / np.sqrt(n)
    assert abs(costs.mean() - task.expected_cost(theta)) > 8 * costs.std() / np.sqrt(n)
    assert task.solved_cost() == pytest.approx(0.01 * task.expected_cost(task.initial))


def test_rosenbrock_has_its_minimum_at_ones():
    task = rosenbrock(d=4)
    assert float(task.cost(jnp.ones(4), None)) == 0
    assert not jnp.any(jax.grad(task.cost)(jnp.ones(4), None))
    assert float(rosenbrock().cost(jnp.array([-1.2, 1.0]), None)) == pytest.approx(24.2, rel=1e-5)


def test_actions_are_clipped_inside_a_compiled_program():
    limits = Continuous(low=(-1.0, -np.inf), high=(2.0, 5.0))
    clipped = jax.jit(lambda u: clip(u, limits))(jnp.array([-3.0, 7.0]))
    np.testing.assert_array_equal(clipped, [-1.0, 5.0])
    free = Continuous(low=(-np.inf,), high=(np.inf,))
    np.testing.assert_array_equal(clip(jnp.array([1e9]), free), [1e9])
