"""`Baseline`: what is subtracted from costs, and what all of them are computed from.

n rollouts, T stages, p observations. A baseline that does not depend on its sample adds no bias (18.27).
"""

from __future__ import annotations

import abc
from typing import ClassVar, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from policysearch.core.explore import Explore, Layout
from policysearch.core.rollouts import Rollouts
from policysearch.core.score import Score

#: relative differences between costs, in units of the last digit, that are mere rounding
ROUNDING = 4


class Sample(NamedTuple):
    """What a baseline is computed from.

    outcome: what is compared, total costs (n,) or costs-to-go (n, T). weight: 1 for entries that count, 0 for others,
    shaped like it. level: what was taken off all costs (see `Rollouts.level`), ().
    """

    outcome: Array
    weight: Array
    level: Float[Array, ""]
    rollouts: Rollouts
    score: Score
    layout: Layout

    @property
    def pair(self) -> Array:
        """Number of each rollout's pair, (n,)."""
        return jnp.asarray(self.layout.pair)

    @property
    def total(self) -> bool:
        """Whether outcomes are those of whole rollouts."""
        return self.outcome.ndim == 1


class Baseline(eqx.Module):
    """Subtracted from costs.

    serves: "total" costs, costs "to_go". absorbs: it takes in what all rollouts pay at a stage, and remembers nothing
    of it. predicts: it is a `Predictor`.
    """

    serves: ClassVar[tuple[str, ...]] = ("total", "to_go")
    absorbs: ClassVar[bool] = False
    predicts: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """As users name it."""
        return type(self).__module__.rpartition(".")[2]

    def init(self, shape: tuple[int, ...], observations: int) -> PyTree:
        """State that must persist between updates.

        Args:
            shape: of a rollout's outcome, () or (T,).
            observations: p.
        """
        return ()

    def refuse(self, explore: Explore) -> str:
        """Why it cannot go with the trials of an explorer; "" if it can."""
        return ""


class Number(Baseline):
    """A baseline that is a number for each outcome."""

    @abc.abstractmethod
    def __call__(self, sample: Sample, state: PyTree) -> tuple[Array, Array, PyTree]:
        """The baseline, which broadcasts against the outcome; the weight of what it serves; and the next state."""


class End(NamedTuple):
    """How rollouts end that go on beyond their horizon.

    observations: scaled, after the last stage, (n, p).
    cut: 1 where the horizon cut the rollout, 0 where it ended by itself, (n,).
    discount: γ per stage.
    """

    observations: Float[Array, "n p"]
    cut: Float[Array, " n"]
    discount: Float[Array, ""]


class Predictor(Baseline):
    """A baseline that predicts costs-to-go from observations."""

    serves: ClassVar[tuple[str, ...]] = ("to_go",)
    predicts: ClassVar[bool] = True

    @abc.abstractmethod
    def predict(
        self, sample: Sample, observations: Float[Array, "n T p"], end: End | None, state: PyTree
    ) -> tuple[Float[Array, "n T"], Float[Array, " n"]]:
        """Costs-to-go of every stage and after the last, 0 there unless the horizon cut the rollout.

        Args:
            sample: what is compared.
            observations: scaled, (n, T, p).
            end: how rollouts end that go on; None where all end.
            state: of earlier updates.
        """

    def learn(
        self,
        sample: Sample,
        observations: Float[Array, "n T p"],
        target: Float[Array, "n T"],
        end: End | None,
        state: PyTree,
    ) -> PyTree:
        """The next state, after what should have been predicted is known."""
        return state


class Mean(Number):
    """A mean that includes the sample: it shrinks the estimate by O(1/n), and needs two of them."""

    def refuse(self, explore: Explore) -> str:
        """A single sample is its own mean."""
        return single(self.name, explore)


def single(name: str, explore: Explore) -> str:
    """Why a mean over samples cannot go with a single one; "" where there are more."""
    samples = getattr(explore, "directions", None) or getattr(explore, "rollouts", None)
    if samples != 1:
        return ""
    return (
        f"Baseline {name!r} of a single sample is the sample itself or nothing. Ask for at least 2, or use "
        "'running' or 'reference'."
    )


def leave_pair_out(values: Array, weight: Array, pair: Array, pairs: int) -> tuple[Array, Array]:
    """Mean over the other pairs, shaped like `values`, and the weight behind it."""
    weighted = weight * values
    own_sum, own_weight = weighted, weight
    if pairs < values.shape[0]:
        shape = (pairs, *values.shape[1:])
        own_sum = jnp.zeros(shape, values.dtype).at[pair].add(weighted)[pair]
        own_weight = jnp.zeros(shape, values.dtype).at[pair].add(weight)[pair]
    others = weight.sum(0) - own_weight
    mean = (weighted.sum(0) - own_sum) / jnp.maximum(others, 1)
    return mean, others


def differ(outcomes: Array, weight: Array) -> Array:
    """Whether outcomes (n,) or (n, T) of rollouts differ at any stage by more than rounding; yes of fewer than two."""
    n = jnp.maximum(weight.sum(0), 1)
    mean = (weight * outcomes).sum(0) / n
    spread = jnp.sqrt((weight * (outcomes - mean) ** 2).sum(0) / n)
    rounding = ROUNDING * jnp.finfo(outcomes.dtype).eps * jnp.max(weight * jnp.abs(outcomes))
    alone = jnp.sum(weight.reshape(len(weight), -1).any(1)) < 2
    return jnp.any(spread > rounding) | alone


def spread(total: Array, counted: Array) -> Array:
    """Standard deviation of the costs that count; infinite where it is mere rounding, so that advantages vanish."""
    weight = counted.astype(total.dtype)
    n = jnp.maximum(weight.sum(), 1)
    mean = (weight * total).sum() / n
    std = jnp.sqrt((weight * (total - mean) ** 2).sum() / n)
    rounding = ROUNDING * jnp.finfo(total.dtype).eps * jnp.max(weight * jnp.abs(total))
    return jnp.where(std > rounding, std, jnp.inf)
