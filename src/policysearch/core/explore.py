"""Where variation comes from: noise on the action, noise on the parameters, or one coordinate at a time.

An explorer lays out the trials of an update and gives the score operator of their results. n trials, d parameters.
"""

from __future__ import annotations

import abc
import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PyTree

from policysearch.core.policies import Policy
from policysearch.core.rng import SHAPES, shape_rows
from policysearch.core.rollouts import Rollouts
from policysearch.core.score import PerturbationScore, PolicyScore, Score
from policysearch.core.seeded_perturbations import Regenerated

#: largest number of rollouts in an update by stages, and the ratio of the numbers that are compiled
MOST, RATIO = 64, 4


class Layout(NamedTuple):
    """The trials of one update, in index order; all (n,) NumPy arrays.

    perturbation: which β a trial uses, −1 for none (a reference trial).
    sign: +1 or −1 on β; 0 for none.
    environment: number of the environment seed; partners share one if seeds can repeat a rollout.
    pair: trials that must be kept or dropped together.
    """

    perturbation: np.ndarray
    sign: np.ndarray
    environment: np.ndarray
    pair: np.ndarray

    @property
    def size(self) -> int:
        """Number of trials, n."""
        return len(self.sign)

    @property
    def perturbations(self) -> int:
        """Number of distinct β."""
        return int(self.perturbation.max()) + 1

    @property
    def pairs(self) -> int:
        """Number of pairs."""
        return int(self.pair.max()) + 1

    @property
    def reference(self) -> np.ndarray:
        """(n,) True for trials of θ itself."""
        return self.perturbation < 0

    @property
    def antithetic(self) -> bool:
        """Whether each θ + β has its θ − β, so that the common cost of all trials cancels."""
        return bool(self.sign.any()) and not np.bincount(self.pair, self.sign).any()


class Explore(eqx.Module):
    """Lays out trials; `space` says whether actions or parameters vary."""

    @property
    @abc.abstractmethod
    def space(self) -> str:
        """ "action" or "parameter"."""

    def init(self, d: int) -> PyTree:
        """What must persist between updates: the logarithm of a learned spread (d,), else nothing."""
        return ()

    @abc.abstractmethod
    def layout(self, d: int) -> Layout:
        """The trials of an update for d parameters."""

    def draws(self, d: int) -> int:
        """The number of standard normal rows that `rows` needs."""
        return self.layout(d).perturbations

    def rows(self, z: Float[Array, "k d"], state: PyTree = ()) -> Float[Array, "k d"]:
        """β of each distinct perturbation from standard normal rows z; only in parameter space."""
        raise TypeError(f"{type(self).__name__} perturbs no parameters.")

    def sized(self, length: float) -> Explore:
        """The explorer for the next update, after rollouts of mean length `length`; the same if nothing adapts."""
        return self

    @abc.abstractmethod
    def score(
        self,
        policy: Policy,
        offsets: Array | Regenerated | None,
        rollouts: Rollouts,
        layout: Layout,
        state: PyTree = (),
    ) -> Score:
        """S for these rollouts."""


class ActionNoise(Explore):
    """Each stage's action is sampled from the policy; likelihood-ratio methods (18.16) learn from that.

    Args:
        rollouts: per update.
        stages: target for an update on a simulator, in whole rollouts; `rollouts` is then for the first update, and
            `sized` gives the number for the next one. None for a fixed number of rollouts.
        least: fewest rollouts of an update by `stages`; the others are 4 and 16 times as many.
    """

    rollouts: int = eqx.field(static=True)
    stages: int | None = eqx.field(static=True, default=None)
    least: int = eqx.field(static=True, default=4)

    def __check_init__(self):
        """Refuse sizes that are not positive integers."""
        positive("rollouts", self.rollouts)
        positive("least", self.least)
        if self.stages is not None:
            positive("stages", self.stages)

    @property
    def space(self) -> str:
        """Actions vary."""
        return "action"

    def layout(self, d: int) -> Layout:
        """`rollouts` independent trials, each its own pair."""
        index = np.arange(self.rollouts)
        return Layout(np.full(self.rollouts, -1), np.zeros(self.rollouts), index, index)

    def sized(self, length: float) -> ActionNoise:
        """As many rollouts of `length` stages as take about `stages`: `least`, or 4 or 16 times as many, up to 64.

        Every number of rollouts is compiled separately, so there are only a few.
        """
        if self.stages is None:
            return self
        wanted, sizes = self.stages / max(length, 1.0), [self.least]
        while sizes[-1] * RATIO <= MOST:
            sizes.append(sizes[-1] * RATIO)
        return ActionNoise(min(sizes, key=lambda size: abs(math.log(size / wanted))), self.stages, self.least)

    def score(
        self,
        policy: Policy,
        offsets: Array | Regenerated | None,
        rollouts: Rollouts,
        layout: Layout,
        state: PyTree = (),
    ) -> PolicyScore:
        """Rows ∂log π/∂θ."""
        return PolicyScore.of(policy, rollouts)


class ParameterNoise(Explore):
    """The parameters of a whole rollout are perturbed, θ + β, and the policy's mode runs (18.20, 18.24).

    Args:
        directions: number of β per update.
        std: σ of β, scalar or (d,), in parameter units.
        shape: "gaussian", "sphere", "rademacher" or "orthogonal"; all have covariance σ²I and are symmetric.
        two_sided: try θ − β as well.
        common: partners share an environment seed (common random numbers).
        reference: "none"; "one" trial of θ per update; "each": one per β, on its seed.
        learned: the spread is searched too: the distribution's parameters are θ and log σ (d,), started from `std`.
            Gaussian rows only, because the score of log σ is that of a normal distribution.
    """

    directions: int = eqx.field(static=True)
    std: ArrayLike = eqx.field(converter=jnp.asarray)
    shape: str = eqx.field(static=True, default="gaussian")
    two_sided: bool = eqx.field(static=True, default=True)
    common: bool = eqx.field(static=True, default=True)
    reference: str = eqx.field(static=True, default="none")
    learned: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        """Refuse sizes, shapes and spreads that make no sense."""
        positive("directions", self.directions)
        choice("shape", self.shape, SHAPES)
        choice("reference", self.reference, ("none", "one", "each"))
        positive_number("std", self.std)
        if self.learned and self.shape != "gaussian":
            raise ValueError(
                f"A learned spread needs Gaussian perturbations, not {self.shape!r}: the score of log σ is theirs."
            )

    @property
    def space(self) -> str:
        """Parameters vary."""
        return "parameter"

    def init(self, d: int) -> PyTree:
        """log σ (d,) if it is learned."""
        return jnp.log(jnp.broadcast_to(jnp.asarray(self.std, float), (d,))) if self.learned else ()

    def spread(self, state: PyTree) -> Array:
        """σ of this update's perturbations, () or (d,)."""
        return jnp.exp(state) if self.learned else jnp.asarray(self.std)

    def layout(self, d: int) -> Layout:
        """θ + β, then θ − β, then the reference, direction by direction."""
        signs = [1.0] + ([-1.0] if self.two_sided else []) + ([0.0] if self.reference == "each" else [])
        sign = np.tile(signs, self.directions)
        pair = np.repeat(np.arange(self.directions), len(signs))
        perturbation = np.where(sign == 0, -1, pair)
        environment = pair if self.common else np.arange(len(sign))
        if self.reference == "one":
            sign, perturbation = np.append(sign, 0.0), np.append(perturbation, -1)
            # alone in its pair: losing it must not drop a direction
            pair = np.append(pair, self.directions)
            environment = np.append(environment, 0 if self.common else environment.max() + 1)
        return Layout(perturbation, sign, environment, pair)

    def draws(self, d: int) -> int:
        """One row per direction; whole blocks of d if rows are orthogonal."""
        return -(-self.directions // d) * d if self.shape == "orthogonal" else self.directions

    def rows(self, z: Float[Array, "k d"], state: PyTree = ()) -> Float[Array, "k d"]:
        """β of each direction from standard normal rows z."""
        return self.spread(state) * shape_rows(z, self.shape, jnp)

    def score(
        self,
        policy: Policy,
        offsets: Array | Regenerated | None,
        rollouts: Rollouts,
        layout: Layout,
        state: PyTree = (),
    ) -> PerturbationScore:
        """Rows β/σ², followed by β²/σ² − 1 if the spread is learned."""
        variance = self.spread(state) ** 2
        return _perturbation_score(
            offsets, variance, rollouts, layout, jnp.asarray(layout.pair), layout.pairs, self.learned
        )


class Coordinates(Explore):
    """One parameter at a time moves by ε: finite differences, forward (18.18) or central.

    Args:
        epsilon: ε, scalar or (d,), in parameter units.
        central: try θ − ε e_i as well; otherwise compare with one reference trial.
        common: all trials that are compared share an environment seed.
        repeats: how often the whole set is tried, each time on new seeds.
    """

    epsilon: ArrayLike = eqx.field(converter=jnp.asarray)
    central: bool = eqx.field(static=True, default=True)
    common: bool = eqx.field(static=True, default=True)
    repeats: int = eqx.field(static=True, default=1)

    def __check_init__(self):
        """Refuse steps and counts that are not positive."""
        positive("repeats", self.repeats)
        positive_number("epsilon", self.epsilon)

    @property
    def space(self) -> str:
        """Parameters vary."""
        return "parameter"

    def layout(self, d: int) -> Layout:
        """2d trials (central) or d + 1 (forward), `repeats` times."""
        signs = [1.0, -1.0] if self.central else [1.0]
        sign = np.tile(signs, d)
        perturbation = np.repeat(np.arange(d), len(signs))
        if not self.central:
            sign, perturbation = np.append(sign, 0.0), np.append(perturbation, -1)
        size = len(sign)
        repeat = np.repeat(np.arange(self.repeats), size)
        # central: a coordinate's two trials are kept or dropped together; forward: everything depends on the reference
        pair = np.tile(perturbation, self.repeats) + repeat * d if self.central else repeat
        environment = repeat if self.common else np.arange(size * self.repeats)
        return Layout(np.tile(perturbation, self.repeats), np.tile(sign, self.repeats), environment, pair)

    def rows(self, z: Float[Array, "k d"], state: PyTree = ()) -> Float[Array, "k d"]:
        """ε e_i; the random rows z are not used."""
        return jnp.diag(jnp.broadcast_to(jnp.asarray(self.epsilon), (z.shape[1],))).astype(z.dtype)

    def score(
        self,
        policy: Policy,
        offsets: Array | Regenerated | None,
        rollouts: Rollouts,
        layout: Layout,
        state: PyTree = (),
    ) -> PerturbationScore:
        """Rows β themselves: a least-squares direction needs B, not B/σ². A repeat is one independent sample."""
        repeat = np.repeat(np.arange(self.repeats), layout.size // self.repeats)
        return _perturbation_score(offsets, jnp.ones(()), rollouts, layout, jnp.asarray(repeat), self.repeats)


def _perturbation_score(
    offsets: Array | Regenerated | None,
    variance: Array,
    rollouts: Rollouts,
    layout: Layout,
    sample: Array,
    samples: int,
    learned: bool = False,
) -> PerturbationScore:
    if offsets is None:
        raise ValueError("Perturbed trials need their offsets (n, d); none were given.")
    counted = pair_used(rollouts.used, layout) & ~jnp.asarray(layout.reference)
    return PerturbationScore(
        offsets=offsets, variance=variance, counted=counted, sample=sample, samples=samples, learned=learned
    )


def pair_used(used: Array, layout: Layout) -> Array:
    """(n,) True where all trials of the pair were returned."""
    lost = jnp.zeros(layout.pairs).at[layout.pair].add(jnp.where(used, 0.0, 1.0))
    return lost[layout.pair] == 0


def positive(name: str, value: object) -> None:
    """Raise ValueError unless `value` is an integer of at least 1."""
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} is {value!r}; it must be a whole number of at least 1.")


def positive_number(name: str, value: ArrayLike, infinite: bool = False, zero: bool = False) -> None:
    """Raise ValueError unless `value` is positive and finite (abstract values pass: they have been checked)."""
    try:
        numbers = np.asarray(value, float)
    except jax.errors.TracerArrayConversionError:
        return
    above = numbers >= 0 if zero else numbers > 0
    if not np.all((np.isfinite(numbers) | (infinite & (numbers == np.inf))) & above):
        sign = "at least 0" if zero else "positive"
        raise ValueError(f"{name} is {numbers.tolist()}; it must be {sign}{'' if infinite else ' and finite'}.")


def share(name: str, value: ArrayLike) -> None:
    """Raise ValueError unless `value` is above 0 and at most 1."""
    positive_number(name, value)
    if not isinstance(value, jax.core.Tracer) and np.any(np.asarray(value) > 1):
        raise ValueError(f"{name} is {np.asarray(value).tolist()}; it must be above 0 and at most 1.")


def choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise ValueError unless `value` is one of `allowed`."""
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; use one of {', '.join(allowed)}.")
