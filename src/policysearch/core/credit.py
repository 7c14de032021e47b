"""Credit: from the costs of an update to the advantages a, (n, T) per stage or (n,) per rollout, less a baseline.

Costs come discounted and settled (see `rollouts`). A baseline that does not depend on its sample adds no bias (18.27).
"""

from __future__ import annotations

import abc
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PyTree

from policysearch.core import baselines
from policysearch.core.baselines._base import Baseline, End, Predictor, Sample, differ, spread
from policysearch.core.explore import Explore, Layout, positive, positive_number, share
from policysearch.core.rollouts import OK, Rollouts
from policysearch.core.score import PolicyScore, Score

#: smallest share of its last value that the divisor of normalised costs keeps
SLOWEST_FALL = 0.95

Info = dict[str, Array]


class Credit(eqx.Module):
    """Turns rollouts into advantages."""

    @property
    @abc.abstractmethod
    def per_stage(self) -> bool:
        """Whether advantages are (n, T), one row per stage, rather than (n,)."""

    def init(self, horizon: int, size: int = 0) -> PyTree:
        """State that must persist between updates, for rollouts of `horizon` stages with `size` observations."""
        return ()

    def refuse(self, explore: Explore) -> str:
        """Why it cannot go with the trials of an explorer; "" if it can."""
        return ""

    @abc.abstractmethod
    def __call__(self, rollouts: Rollouts, score: Score, layout: Layout, state: PyTree) -> tuple[Array, PyTree, Info]:
        """Advantages, the next state, and what to report."""


def _baseline(given: str | Baseline) -> Baseline:
    return baselines.named(given)() if isinstance(given, str) else given


def _check_baseline(given: Baseline, kind: str) -> None:
    """Raise ValueError for a baseline that does not serve this kind of cost."""
    if not isinstance(given, Baseline):
        raise TypeError(f"baseline is a {type(given).__name__}; give a name or a Baseline.")
    if kind not in given.serves:
        what = "a total cost" if kind == "total" else "a cost-to-go"
        known = ", ".join(baselines.serving(kind))
        raise ValueError(f"baseline is {given.name!r}, which does not serve {what}; use one of {known}.")


class TotalCost(Credit):
    """Total cost of a rollout less a baseline: REINFORCE, weight perturbation, finite differences.

    Args:
        baseline: a name or a `Baseline`, with numbers of its own. "none"; "reference": the cost of θ itself, (18.20);
            "running": (18.25), used before it is updated and started from the first measured cost; "mean": of the
            batch, which shrinks the estimate by exactly 1 − 1/n; "leave_one_out": mean of the other pairs;
            "least_variance": the number for which the gradient's covariance has the least trace, from the other pairs
            and earlier updates.
        normalise: divide by the standard deviation of the batch's costs, so that their unit does not matter; the
            divisor falls by at most 5 % per update, so that steps still shrink as the cost flattens.
    """

    baseline: Any = eqx.field(converter=_baseline, default="leave_one_out")
    normalise: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        """Refuse baselines that do not serve a total cost."""
        _check_baseline(self.baseline, "total")

    @property
    def per_stage(self) -> bool:
        """A number per rollout."""
        return False

    def init(self, horizon: int, size: int = 0) -> PyTree:
        """What the baseline remembers, and the divisor."""
        return self.baseline.init((), size), jnp.zeros(()) if self.normalise else ()

    def refuse(self, explore: Explore) -> str:
        """What the baseline refuses."""
        return self.baseline.refuse(explore)

    def __call__(self, rollouts: Rollouts, score: Score, layout: Layout, state: PyTree) -> tuple[Array, PyTree, Info]:
        """Advantages (n,)."""
        total, (memory, divisor) = rollouts.costs.sum(1), state
        level = jnp.zeros(()) if rollouts.level is None else rollouts.level.sum()
        counted = score.counted
        sample = Sample(total, counted.astype(total.dtype), level, rollouts, score, layout)
        baseline, weight, memory = self.baseline(sample, memory)
        info: Info = {"baseline": (weight * baseline).sum() / jnp.maximum(weight.sum(), 1)}
        # trials of θ itself have no advantage, but tell whether the others differ from it
        compared = counted | (jnp.asarray(layout.reference) & rollouts.used)
        a = jnp.where(differ(total, compared.astype(total.dtype)), weight * (total - baseline), 0.0)
        if self.normalise:
            std = spread(total, compared)
            divisor = jnp.maximum(jnp.where(jnp.isfinite(std), std, 0.0), SLOWEST_FALL * divisor)
            a = jnp.where(divisor > 0, a / jnp.where(divisor > 0, divisor, 1.0), 0.0)
        return a, (memory, divisor), info


def _pair(values: Any) -> Any:
    """Numbers as arrays, so that other values do not compile again."""
    return None if values is None else tuple(jnp.asarray(value, float) for value in values)


class ActionLimitPenalty(NamedTuple):
    """A charge for actions beyond the limits: without it nothing pulls such an action back, whatever its cost.

    At stage k discount^k · weight · (‖v‖² − ‖clip(v)‖²), v the action in half-ranges about the centre.

    weight: in the unit of cost, (). centre, half_range: of the action, (m,). discount: of the task itself, ().
    """

    weight: ArrayLike
    centre: ArrayLike
    half_range: ArrayLike
    discount: ArrayLike = 1.0

    def costs(self, actions: Float[Array, "n T m"], held: Float[Array, "n T"] | None = None) -> Float[Array, "n T"]:
        """The charge on top of the cost, for each action that was drawn.

        Args:
            actions: as sampled.
            held: for how many stages each was applied; one each by default.
        """
        asked = (actions - jnp.asarray(self.centre)) / jnp.asarray(self.half_range)
        excess = jnp.sum(asked**2 - jnp.clip(asked, -1.0, 1.0) ** 2, axis=-1)
        discount = jnp.asarray(self.discount, excess.dtype)
        if held is None:
            return jnp.asarray(self.weight) * discount ** jnp.arange(excess.shape[1]) * excess
        first = jnp.cumsum(held, axis=1) - held
        discounted = discount < 1
        rest = jnp.where(discounted, 1 - discount, 1.0)
        stages = jnp.where(discounted, (1 - discount**held) / rest, held)
        return jnp.asarray(self.weight) * discount**first * stages * excess


class CostToGo(Credit):
    """Discounted cost-to-go less a baseline, one row per stage: the causal form (18.16), GPOMDP.

    Args:
        baseline: a name or a `Baseline`, with numbers of its own. "none"; "running": one number per stage, used before
            it is updated; "mean": one number, that of all costs-to-go; "per_stage_mean"; "leave_one_out": per stage,
            the mean of the other rollouts; "least_variance": per stage, the mean weighted by the squared length of the
            score, from the other rollouts and earlier updates; "value": a function of observation and time, fitted to
            the others; "network": a small network of them, used before it is fitted to the batch. Means that include
            the sample bias by O(1/n).
        normalise: divide by the standard deviation of the batch's advantages.
        discounting: (γ, λ), or None for neither: γ discounts the costs that follow, on top of the task's own discount;
            λ is that of generalised advantage estimation (Schulman et al. 2016), which relies on the value baseline as
            far as λ is below 1. Both trade bias for less noise: the gradient is no longer that of the expected cost.
        bootstrap: if the horizon cut a rollout, what would have followed is predicted from its last observation, as
            if the task went on forever, by a baseline that uses observations alone, not time. Otherwise
            nothing follows: J ends at the horizon. Costs must not be discounted by the task itself.
        action_limit_penalty: an `ActionLimitPenalty` added to the costs that are learned from, not to those reported.
    """

    baseline: Any = eqx.field(converter=_baseline, default="leave_one_out")
    normalise: bool = eqx.field(static=True, default=False)
    discounting: Any = eqx.field(converter=_pair, default=None)
    bootstrap: bool = eqx.field(static=True, default=False)
    action_limit_penalty: ActionLimitPenalty | None = eqx.field(
        converter=lambda given: None if given is None else ActionLimitPenalty(*map(jnp.asarray, given)), default=None
    )

    def __check_init__(self):
        """Refuse unknown baselines, and discounts that mean nothing or that nothing can carry."""
        _check_baseline(self.baseline, "to_go")
        if self.action_limit_penalty is not None:
            positive_number("weight of action_limit_penalty", self.action_limit_penalty.weight)
            positive_number("half_range of action_limit_penalty", self.action_limit_penalty.half_range)
        if self.bootstrap and (self.discounting is None or not self.baseline.predicts):
            raise ValueError(
                f"bootstrap with baseline {self.baseline.name!r} and discounting {self.discounting}: what follows the "
                "horizon is predicted by the baseline value or network, and discounted by discounting=(γ, λ)."
            )
        if self.discounting is not None:
            if len(self.discounting) != 2:
                raise ValueError(f"discounting is {self.discounting}; give (γ, λ).")
            for name, value in zip(("γ", "λ"), self.discounting, strict=True):
                share(name, value)
            decay = self.discounting[1]
            if not self.baseline.predicts and not isinstance(decay, jax.core.Tracer) and decay != 1:
                raise ValueError(
                    f"λ is {decay} with baseline {self.baseline.name!r}; below 1 it needs 'value' or 'network'."
                )

    @property
    def per_stage(self) -> bool:
        """A number per stage."""
        return True

    def init(self, horizon: int, size: int = 0) -> PyTree:
        """What the baseline remembers of each stage; or the network."""
        return self.baseline.init((horizon,), size)

    def refuse(self, explore: Explore) -> str:
        """What the baseline refuses."""
        return self.baseline.refuse(explore)

    def __call__(self, rollouts: Rollouts, score: Score, layout: Layout, state: PyTree) -> tuple[Array, PyTree, Info]:
        """Advantages (n, T)."""
        if rollouts.level is not None and not self.baseline.absorbs:
            rollouts = rollouts._replace(costs=rollouts.costs + jnp.where(rollouts.mask, rollouts.level, 0.0))
        if self.action_limit_penalty is not None:
            if not isinstance(score, PolicyScore):
                raise TypeError("Only sampled actions can exceed their limits; perturbed rollouts keep none.")
            charged = jnp.where(rollouts.mask, self.action_limit_penalty.costs(score.actions, rollouts.held), 0.0)
            rollouts = rollouts._replace(costs=rollouts.costs + charged)
        costs = rollouts.costs
        to_go = jax.lax.cumsum(costs, axis=1, reverse=True)
        if self.discounting is not None:
            to_go = _discounted(costs, self.discounting[0])
        weight = (rollouts.mask & score.counted[:, None]).astype(costs.dtype)
        sample = Sample(to_go, weight, jnp.zeros(()), rollouts, score, layout)
        if isinstance(self.baseline, Predictor):
            return self._predicted(sample, self.baseline, state)
        baseline, weight, state = self.baseline(sample, state)
        a = self._scaled(weight * (to_go - baseline), to_go, weight)
        first = jnp.broadcast_to(baseline, to_go.shape)[:, 0]
        return a, state, {"baseline": jnp.mean(first)}

    def _scaled(self, a: Array, outcome: Array, weight: Array) -> Array:
        """Advantages in the requested unit; zero if no stage's outcome differs between rollouts.

        Such rollouts teach nothing, and a step of stated KL would follow their rounding errors.
        """
        if self.normalise:
            n = jnp.maximum(weight.sum(), 1)
            spread = jnp.sqrt((weight * (a - a.sum() / n) ** 2).sum() / n)
            a = a / jnp.where(spread > 0, spread, 1.0)
        return jnp.where(differ(outcome, weight), a, 0.0)

    def _predicted(self, sample: Sample, predictor: Predictor, state: PyTree) -> tuple[Array, PyTree, Info]:
        """Advantages by a baseline that predicts costs from observations: V_k of stage k, V_L after the last one."""
        to_go, weight, rollouts, score = sample.outcome, sample.weight, sample.rollouts, sample.score
        if not isinstance(score, PolicyScore):
            raise TypeError("A value baseline needs the observations of sampled actions; perturbed rollouts have none.")
        costs, scaled = rollouts.costs, score.policy.scaling or (lambda o: o)
        gamma, decay = (1.0, 1.0) if self.discounting is None else self.discounting
        observations, end = scaled(score.observations), None
        if self.bootstrap:
            if rollouts.last is None:
                raise ValueError(
                    "bootstrap needs the observation after the last stage: pass Rollouts.last, or tell one observation "
                    "more."
                )
            cut = (rollouts.outcome == OK) & (weight.sum(1) > 0)
            if rollouts.terminated is not None:
                cut = cut & ~rollouts.terminated
            end = End(scaled(rollouts.last), cut.astype(costs.dtype), jnp.asarray(gamma, costs.dtype))
        baseline, after = predictor.predict(sample, observations, end, state)
        if self.discounting is None:
            a = weight * (to_go - baseline)
        else:
            a = weight * _discounted(self._differences(costs, weight, baseline, after), gamma * decay)
        state = predictor.learn(sample, observations, a + baseline, end, state)
        left = jax.lax.cumsum(weight, axis=1, reverse=True)
        outcome = to_go + gamma**left * after[:, None]
        return self._scaled(a, outcome, weight), state, {"baseline": jnp.mean(baseline[:, 0])}

    def _differences(self, costs: Array, weight: Array, baseline: Array, after: Array) -> Array:
        """Temporal differences c_k + γV_(k+1) − V_k; `after` is the prediction after the last stage, or None."""
        at_last = jnp.arange(costs.shape[1]) == weight.sum(1)[:, None] - 1
        follows = jnp.pad((weight * baseline)[:, 1:], ((0, 0), (0, 1))) + jnp.where(at_last, after[:, None], 0.0)
        return weight * (costs + self.discounting[0] * follows - baseline)


class TopPairs(Credit):
    """Augmented random search: only the best antithetic pairs count, divided by the spread of their costs.

    A pair is as good as the better of its two (Mania, Guy & Recht 2018).

    Args:
        top: how many pairs count; None for all.
    """

    top: int | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        """Refuse a number of pairs that is not positive."""
        if self.top is not None:
            positive("top", self.top)

    @property
    def per_stage(self) -> bool:
        """A number per rollout."""
        return False

    def __call__(self, rollouts: Rollouts, score: Score, layout: Layout, state: PyTree) -> tuple[Array, PyTree, Info]:
        """Advantages (n,), zero for pairs that do not count."""
        total, pair = rollouts.costs.sum(1), jnp.asarray(layout.pair)
        best = jnp.full(layout.pairs, jnp.inf).at[pair].min(jnp.where(score.counted, total, jnp.inf))
        top = min(self.top or layout.pairs, layout.pairs)
        rank = jnp.argsort(jnp.argsort(best))
        chosen = score.counted & (rank[pair] < top)
        share = chosen.sum() / score.count
        a = jnp.where(chosen, total, 0.0) / spread(total, chosen) / jnp.maximum(share, 1e-12)
        return a, state, {"baseline": jnp.zeros(())}


class Elites(Credit):
    """The cross-entropy method: only the best rollouts count, all alike (Rubinstein 1999).

    Advantages are −n/k for the k best and 0 for the others, so that −Sᵀa/n is the mean of the best rows.

    Args:
        count: k, how many are best.
    """

    count: int = eqx.field(static=True)

    def __check_init__(self):
        """Refuse a count that is not positive."""
        positive("count", self.count)

    @property
    def per_stage(self) -> bool:
        """A number per rollout."""
        return False

    def __call__(self, rollouts: Rollouts, score: Score, layout: Layout, state: PyTree) -> tuple[Array, PyTree, Info]:
        """Advantages (n,)."""
        total = jnp.where(score.counted, rollouts.costs.sum(1), jnp.inf)
        best = score.counted & (jnp.argsort(jnp.argsort(total)) < self.count)
        a = jnp.where(best, -score.count / jnp.maximum(best.sum(), 1), 0.0)
        return a, state, {"baseline": jnp.zeros(())}


class CentredRanks(Credit):
    """Ranks of the costs spread evenly over −½ … ½: only the order counts (Salimans et al. 2017)."""

    @property
    def per_stage(self) -> bool:
        """A number per rollout."""
        return False

    def __call__(self, rollouts: Rollouts, score: Score, layout: Layout, state: PyTree) -> tuple[Array, PyTree, Info]:
        """Advantages (n,); equal costs share the mean of their ranks."""
        total, counted = rollouts.costs.sum(1), score.counted
        below = (total[None, :] < total[:, None]) & counted[None, :]
        equal = (total[None, :] == total[:, None]) & counted[None, :]
        rank = below.sum(1) + (equal.sum(1) - 1) / 2
        a = rank / jnp.maximum(counted.sum() - 1, 1) - 0.5
        # a single one has nothing to be compared with
        return jnp.where(counted & (counted.sum() > 1), a, 0.0), state, {"baseline": jnp.zeros(())}


def _discounted(values: Float[Array, "n T"], discount: ArrayLike) -> Float[Array, "n T"]:
    """Σ_l discount^l values_{k+l} for every stage k."""

    def add(total: Array, value: Array) -> tuple[Array, Array]:
        total = value + discount * total
        return total, total

    return jax.lax.scan(add, jnp.zeros_like(values[:, 0]), values.T, reverse=True)[1].T
