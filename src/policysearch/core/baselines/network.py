"""Value baseline by a small network: observation and time to cost-to-go; it predicts a batch before it learns from it.

So a prediction does not depend on the rollout that it is subtracted from, and adds no bias (18.27). n, T, p.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from policysearch.core.baselines._base import End, Predictor, Sample
from policysearch.core.policies.network import random_layers

#: units of the hidden layers; rows of a step of the fit, passes over the stages that count, and most steps
HIDDEN, ROWS, PASSES, MOST_STEPS = (64, 64), 128, 10, 400
#: learning rate of Adam
RATE = 3e-3


class State(NamedTuple):
    """layers: [(W, b), …] of a network with outputs of about unit size; mean, std: of the outputs in the cost's unit.

    fits: how many were made. horizon: stages that time 1 stands for.
    """

    layers: list[tuple[Array, Array]]
    mean: Float[Array, ""]
    std: Float[Array, ""]
    fits: Array
    horizon: Float[Array, ""]


def init(size: int, horizon: int) -> State:
    """A network for `size` observations that predicts 0."""
    layers = [(jnp.asarray(W), jnp.asarray(b)) for W, b in random_layers([size + 1, *HIDDEN, 1], 0, last=0.0)]
    return State(layers, jnp.zeros(()), jnp.zeros(()), jnp.zeros((), int), jnp.asarray(float(horizon)))


def _output(layers: list[tuple[Array, Array]], inputs: Float[Array, "*b q"]) -> Float[Array, "*b"]:
    x = inputs
    for W, b in layers[:-1]:
        x = jnp.tanh(x @ W.T + b)
    W, b = layers[-1]
    return (x @ W.T + b)[..., 0]


def _inputs(state: State, observations: Float[Array, "n T p"], timed: bool) -> Float[Array, "n T q"]:
    n, T, _ = observations.shape
    time = jnp.arange(T) / state.horizon * timed
    time = jnp.broadcast_to(time.astype(observations.dtype)[:, None], (n, T, 1))
    return jnp.concatenate([jnp.clip(observations, -10.0, 10.0), time], axis=-1)


def predicted(
    state: State, observations: Float[Array, "n T p"], end: End | None
) -> tuple[Float[Array, "n T"], Float[Array, " n"]]:
    """Cost-to-go of every stage (n, T) and after the last (n,), 0 there unless the horizon cut the rollout."""
    stages = state.mean + state.std * _output(state.layers, _inputs(state, observations, end is None))
    if end is None:
        return stages, jnp.zeros_like(stages[:, 0])
    after = _output(state.layers, _inputs(state, end.observations[:, None], False))[:, 0]
    return stages, end.cut * (state.mean + state.std * after)


def fit(
    state: State,
    observations: Float[Array, "n T p"],
    target: Float[Array, "n T"],
    weight: Float[Array, "n T"],
    timed: bool,
) -> State:
    """Continue from the last fit: Adam on rows drawn from the stages that count.

    Args:
        state: of the last fit.
        observations: scaled, (n, T, p).
        target: what is predicted, (n, T).
        weight: 1 for stages that count, 0 for others.
        timed: whether the prediction may depend on time.
    """
    import optax  # takes half a second, which searches without a network are spared

    alive = weight.ravel() > 0
    live = jnp.maximum(alive.sum(), 1)
    mean = jnp.sum(weight * target) / live
    std = jnp.sqrt(jnp.sum(weight * (target - mean) ** 2) / live)
    std = jnp.where(std > 0, std, jnp.where(state.std > 0, state.std, 1.0))
    # the same predictions in the new unit (van Hasselt et al. 2016)
    W, b = state.layers[-1]
    layers = [*state.layers[:-1], (W * state.std / std, (b * state.std + state.mean - mean) / std)]
    inputs = _inputs(state, observations, timed).reshape(alive.size, -1)
    wanted = ((target - mean) / std).ravel()
    place = jnp.nonzero(alive, size=alive.size, fill_value=0)[0]
    most = int(np.clip(PASSES * alive.size // ROWS, 1, MOST_STEPS))
    steps = jnp.clip(PASSES * live // ROWS, 1, most)
    key = jax.random.fold_in(jax.random.key(0), state.fits)
    rows = place[jax.random.randint(key, (most, min(ROWS, alive.size)), 0, live)]
    adam = optax.adam(RATE)

    def error(layers: list[tuple[Array, Array]], row: Array) -> Array:
        return jnp.mean((_output(layers, inputs[row]) - wanted[row]) ** 2)

    def step(number: Array, carry: PyTree) -> PyTree:
        layers, moments = carry
        change, moments = adam.update(jax.grad(error)(layers, rows[number]), moments)
        return optax.apply_updates(layers, change), moments

    layers, _ = jax.lax.fori_loop(0, steps, step, (layers, adam.init(layers)))
    usable = jnp.any(alive) & jnp.all(jnp.isfinite(target * weight))
    new = State(layers, mean, std, state.fits + 1, state.horizon)
    return jax.tree.map(lambda x, y: jnp.where(usable, x, y).astype(y.dtype), new, state)


class Network(Predictor):
    """The cost-to-go of a stage by a small network, used before it is fitted to the batch."""

    def init(self, shape: tuple[int, ...], observations: int) -> State:
        """A network that predicts 0."""
        return init(observations, shape[0])

    def predict(
        self, sample: Sample, observations: Float[Array, "n T p"], end: End | None, state: State
    ) -> tuple[Float[Array, "n T"], Float[Array, " n"]]:
        """See `predicted`."""
        return predicted(state, observations, end)

    def learn(
        self,
        sample: Sample,
        observations: Float[Array, "n T p"],
        target: Float[Array, "n T"],
        end: End | None,
        state: PyTree,
    ) -> State:
        """See `fit`."""
        return fit(state, observations, target, sample.weight, end is None)
