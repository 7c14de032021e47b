"""Trials of JAX tasks: sampling and update are one compiled program. n rollouts, T stages.

Random numbers are JAX keys derived from (seed, purpose, update); action noise and disturbances come in blocks.
"""

from __future__ import annotations

import operator
import time
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from policysearch.core.controller import Controller
from policysearch.core.credit import Info
from policysearch.core.explore import Layout
from policysearch.core.initial import from_controller
from policysearch.core.method import Method, State
from policysearch.core.normalize import statistics
from policysearch.core.policies import Policy
from policysearch.core.policies.registry import NUMBERS
from policysearch.core.rng import Purpose
from policysearch.core.rollouts import OK, Rollouts, saturated
from policysearch.runners import DEFAULTS, Outcomes, Recording, Resources, motionless
from policysearch.tasks.task import Function, Task, clip
from policysearch.workers.jobs import Event


class Trace(NamedTuple):
    """A rollout of a plant: states (leaves (T + 1, …)), observations (T, p), sampled actions, discounted costs (T,)."""

    states: Any
    observations: Array
    actions: Array
    costs: Array


def simulate(task: Task, policy: Policy, key: PRNGKeyArray, noise: Array | None) -> Trace:
    """One rollout.

    Args:
        task: the plant.
        policy: its mode runs if there is no noise.
        key: of the initial state and the disturbances.
        noise: standard action noise (T, …) for `Distribution.transform`, or None.
    """
    specification = task.specification
    T = specification.horizon
    reset_key, noise_key = jax.random.split(key)
    start, disturbances = task.reset(reset_key), task.noise(noise_key)
    memory, mode = policy.begin(jnp)

    def stage(before: Any, inputs: tuple[Array | None, Any]) -> tuple[Any, tuple[Any, Array, Array, Array]]:
        (x, memory), (standard, w) = before, inputs
        observation = task.observe(x)
        if standard is None:
            memory, u = mode(memory, observation)
        else:
            u = policy(observation).transform(standard)
        applied = clip(u, specification.action)
        return (task.step(x, applied, w), memory), (x, observation, u, task.cost(x, applied))

    begun, given = (start, memory), (noise, disturbances)
    (end, _), (states, observations, actions, costs) = jax.lax.scan(stage, begun, given, length=T)
    weight = jnp.asarray(specification.discount, costs.dtype) ** jnp.arange(T)
    costs = (costs.at[-1].add(task.final_cost(end))) * weight
    # a state that is not finite fails the rollout even if its cost saturates
    costs = jnp.where(jnp.all(jnp.isfinite(observations), axis=-1), costs, jnp.nan)
    states = jax.tree.map(lambda xs, x: jnp.concatenate([xs, x[None]]), states, end)
    return Trace(states, observations, actions, costs)


def action_noise(policy: Policy, observation_size: int, key: PRNGKeyArray, shape: tuple[int, ...]) -> Array:
    """Standard noise for a block of actions, drawn at once."""
    return policy(jnp.zeros(observation_size)).noise(key, shape)


def sample(
    task: Task | Function,
    method: Method,
    policy: Policy,
    layout: Layout,
    offsets: Array | None,
    key: PRNGKeyArray,
) -> Rollouts:
    """The rollouts of one update's layout."""
    environment_key, noise_key = jax.random.split(key)
    keys = jax.vmap(lambda index: jax.random.fold_in(environment_key, index))(jnp.asarray(layout.environment))
    n = layout.size
    if offsets is None:
        if not isinstance(task, Task):
            raise TypeError("A cost g(θ) has no actions to sample; use a method that perturbs parameters.")
        T, p = task.specification.horizon, task.specification.observation_size
        noise = action_noise(policy, p, noise_key, (n, T))
        trace = jax.vmap(lambda k, z: simulate(task, policy, k, z))(keys, noise)
        mask = jnp.ones((n, T), bool)
        last = jax.vmap(lambda states: task.observe(jax.tree.map(lambda xs: xs[-1], states)))(trace.states)
        cut = jnp.zeros(n, bool)
        return Rollouts(trace.costs, mask, jnp.full(n, OK), trace.observations, trace.actions, cut, last=last)
    theta = policy.theta("parameter")
    run = lambda offset, k: total(task, policy.with_theta(theta + offset, "parameter"), k)  # noqa: E731
    totals, seen = jax.vmap(run)(offsets, keys)
    if seen is not None:
        seen = _pool(*seen)
    return Rollouts(totals[:, None], jnp.ones((n, 1), bool), jnp.full(n, OK), statistics=seen)


def total(task: Task | Function, policy: Policy, key: PRNGKeyArray) -> tuple[Array, Any]:
    """Total cost () of the policy's mode on one environment seed, and running statistics of observations, or None."""
    if isinstance(task, Function):
        return _plain(task, policy, key), None
    trace = simulate(task, policy, key, None)
    if policy.scaling is None or not policy.scaling.running:
        return trace.costs.sum(), None
    observations = trace.observations[None]
    return trace.costs.sum(), statistics(observations, jnp.all(jnp.isfinite(observations), -1))


def _plain(task: Function, policy: Policy, key: PRNGKeyArray) -> Array:
    if policy.outputs != NUMBERS:
        raise TypeError(f"A cost g(θ) is evaluated at named numbers, not at a {type(policy).__name__}.")
    return task.cost(policy.vector(), key)


def _pool(counts: Array, means: Array, m2s: Array) -> tuple[Array, Array, Array]:
    total = counts.sum()
    mean = (counts[:, None] * means).sum(0) / jnp.maximum(total, 1)
    return total, mean, (m2s + counts[:, None] * (means - mean) ** 2).sum(0)


def batch(task: Task | Function, method: Method, state: State, key: PRNGKeyArray) -> tuple[Array | None, Rollouts]:
    """Offsets and rollouts of one update, from its own key."""
    offset_key, sample_key = jax.random.split(key)
    layout, offsets = method.layout(state.policy), None
    if method.space == "parameter":
        theta = state.policy.theta("parameter")
        z = jax.random.normal(offset_key, (method.explore.draws(theta.size), theta.size), theta.dtype)
        offsets = method.offsets(state, z, layout)
    return offsets, sample(task, method, state.policy, layout, offsets, sample_key)


def update(task: Task | Function, method: Method, state: State, key: PRNGKeyArray) -> tuple[State, Info]:
    """Ask, sample and tell: one update, to be compiled as a whole and vectorised over (state, key)."""
    offsets, rollouts = batch(task, method, state, jax.random.fold_in(key, state.update))
    state, info = method.tell(state, offsets, rollouts)
    return state, {**info, **saturated(rollouts, task.specification.action)}


#: `update`, compiled; numbers are traced and sizes are static, so new numbers do not compile again
compiled_update = eqx.filter_jit(update)


def search_update(plan: tuple[Task | Function, Method], state: State, seed: Array) -> tuple[State, Info]:
    """`update` of a search with this seed (uint32): even its key is made in the compiled program."""
    return update(*plan, state, purpose_key(seed, Purpose.ACTION))


compiled_search_update = eqx.filter_jit(search_update)


@eqx.filter_jit
def compiled_batch(task: Task | Function, method: Method, state: State, seed: Array) -> tuple[Array | None, Rollouts]:
    """`batch` of the next update of a search with this seed (uint32)."""
    return batch(task, method, state, jax.random.fold_in(purpose_key(seed, Purpose.ACTION), state.update))


class Modes(NamedTuple):
    """Costs (n,) of the policy's mode, whether each rollout succeeded (n,) or None, and the traces."""

    costs: Array
    success: Array | None
    trace: Trace | None


def evaluate(task: Task | Function, policy: Policy, key: PRNGKeyArray, rollouts: int) -> Modes:
    """Run the policy's mode on `rollouts` environment seeds."""
    keys = jax.random.split(key, rollouts)
    if isinstance(task, Function):
        return Modes(jax.vmap(lambda k: _plain(task, policy, k))(keys), None, None)
    trace = jax.vmap(lambda k: simulate(task, policy, k, None))(keys)
    applied = clip(trace.actions, task.specification.action)
    success = jax.vmap(task.success)(trace.states, applied) if _judges(task) else None
    return Modes(trace.costs.sum(1), success, trace)


compiled_evaluate = eqx.filter_jit(evaluate)


def _judges(task: Task) -> bool:
    return type(task).success is not Task.success


def purpose_key(seed: int | Array, purpose: Purpose) -> PRNGKeyArray:
    """The stream of random numbers for one purpose of one search."""
    return jax.random.fold_in(jax.random.key(seed), int(purpose))


@eqx.filter_jit
def _totals(task: Task | Function, policy: Policy, rows: Array, key: PRNGKeyArray) -> Array:
    """Costs (n,) of the mode with parameters (n, d), each on an environment seed of its own."""
    keys = jax.random.split(key, len(rows))
    return jax.vmap(lambda row, k: total(task, policy.with_theta(row, "parameter"), k)[0])(rows, keys)


class Native:
    """Runs the trials of a JAX task; see `Runner`.

    Args:
        task: the plant or cost.
        seed: of the search, 0 to 2³² − 1.
        resources: `programs`, where the traced update is kept for the next process; None to trace it in each.
    """

    slow: ClassVar[bool] = False
    vectorised: ClassVar[bool] = True

    def __init__(self, task: Task | Function, seed: int, resources: Resources = DEFAULTS):
        self.task, self.seed = task, seed
        self.events: list[Event] = []
        self.compilation = 0.0
        self._seed = jax.device_put(np.uint32(seed))
        self._programs = resources.programs
        self._run: Callable[[State], tuple[State, Info]] | None = None
        self._sized: dict[int, Any] = {}
        self._horizon = task.specification.horizon

    def update(self, method: Method, state: State, trials: int) -> tuple[State, Info, int]:
        """See `Runner`; every call takes the same method, and the state returned by the previous one."""
        plan = (self.task, method)
        if self._programs is not None and self._run is None:
            from policysearch.runners import export_cache

            self._run = export_cache.kept(self._programs, search_update, plan, state, self._seed)
            self._programs = None
        if self._run is not None:
            state, info = self._run(state)
        else:
            state, info = compiled_search_update(plan, state, self._seed)
        return state, info, trials * self._horizon

    def sample(self, method: Method, state: State) -> tuple[Array | None, Rollouts]:
        """See `Runner`."""
        return compiled_batch(self.task, method, state, self._seed)

    def costs(self, policy: Policy, rows: np.ndarray, call: int) -> tuple[np.ndarray, int]:
        """See `Runner`; a program is compiled for each number of rows."""
        key = jax.random.fold_in(purpose_key(self.seed, Purpose.ENVIRONMENT), call)
        given = (self.task, policy, jnp.asarray(rows, policy.theta().dtype), key)
        if len(rows) not in self._sized:
            start = time.perf_counter()
            program: Any = _totals
            self._sized[len(rows)] = program.lower(*given).compile()
            self.compilation += time.perf_counter() - start
        return np.asarray(self._sized[len(rows)](*given), float), len(rows) * self._horizon

    def evaluate(self, controller: Controller, rollouts: int, seed: int) -> Outcomes:
        """See `Runner`."""
        key = purpose_key(seed, Purpose.EVALUATION)
        found = compiled_evaluate(self.task, from_controller(controller), key, rollouts)
        success = None if found.success is None else np.asarray(found.success)
        # no rollout of a plant ends early
        return Outcomes(np.asarray(found.costs, float), np.full(rollouts, self._horizon), None, success)

    def record(self, controller: Controller, rollouts: int, seed: int) -> list[Recording]:
        """See `Runner`."""
        specification = self.task.specification
        if not isinstance(self.task, Task) or self._horizon < 2:
            raise motionless(specification)
        key = purpose_key(seed, Purpose.EVALUATION)
        trace: Any = compiled_evaluate(self.task, from_controller(controller), key, rollouts).trace
        observations: Any = jax.vmap(jax.vmap(self.task.observe))(trace.states)
        applied: Any = clip(trace.actions, specification.action)
        every = jax.tree.map(np.asarray, (trace.states, observations, applied, trace.costs))
        return [_up_to_failure(*jax.tree.map(operator.itemgetter(index), every)) for index in range(rollouts)]

    def close(self) -> None:
        """Nothing to end."""


def _up_to_failure(states: Any, observations: np.ndarray, actions: np.ndarray, costs: np.ndarray) -> Recording:
    """A rollout up to the first cost that is not finite."""
    finite = np.isfinite(costs)
    good = len(costs) if finite.all() else int(np.argmin(finite))
    last = good + 1 if finite.all() else good  # a rollout that did not fail has a state after its last stage
    reason = "" if finite.all() else f"the state or cost of stage {good} is not finite"
    states = jax.tree.map(lambda leaf: leaf[:last], states)
    return Recording(states, observations[:last], actions[:good], costs[:good], reason)
