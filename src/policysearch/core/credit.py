"""Credit: from the costs of an update to the advantages a, (n, T) per stage or (n,) per rollout, less a baseline.

Costs come discounted and settled (see `rollouts`). A baseline that does not depend on its sample adds no bias (18.27).
"""

from __future__ import annotations

import abc
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from policysearch.core import baselines, value, value_network
from policysearch.core.explore import Layout, choice, positive, positive_number
from policysearch.core.rollouts import OK, Rollouts
from policysearch.core.score import PolicyScore, Score

#: baselines of a total cost
TOTAL_BASELINES = ("none", "reference", "running", "mean", "leave_one_out", "least_variance")
#: baselines of a cost-to-go
STAGE_BASELINES = ("none", "running", "mean", "per_stage_mean", "leave_one_out", "least_variance", "value", "network")
#: those that predict costs from observations
PREDICTING = ("value", "network")
#: those of a cost-to-go that absorb what all rollouts pay at a stage, and remember nothing of it
ABSORBING = ("per_stage_mean", "leave_one_out", "value")

#: least share of its last value that the divisor of normalised costs keeps
SLOWEST_FALL = 0.95

Info = dict[str, Array]


class Credit(eqx.Module):
    """Turns rollouts into advantages."""

    @property
    @abc.abstractmethod
    def per_stage(self) -> bool:
        """Whether advantages are (n, T), a row per stage, rather than (n,)."""

    def init(self, horizon: int, size: int = 0) -> Any:
        """State that must persist between updates, for rollouts of `horizon` stages with `size` observations."""
        return ()

    @abc.abstractmethod
    def __call__(self, rollouts: Rollouts, score: Score, layout: Layout, state: Any) -> tuple[Array, Any, Info]:
        """Advantages, the next state, and what is worth reporting."""


class TotalCost(Credit):
    """Total cost of a rollout less a baseline: REINFORCE, weight perturbation, finite differences.

    Args:
        baseline: "none"; "reference": the cost of θ itself, (18.20); "running": (18.25), used before it is updated and
            started from the first measured cost; "mean": of the batch, which shrinks the estimate by exactly 1 − 1/n;
            "leave_one_out": mean of the other pairs; "least_variance": the number for which the gradient's covariance
            has the least trace, from the other pairs and earlier updates (see `baselines.Moments`).
        rate: at which running and least_variance forget, 0 to 1.
        normalise: divide by the standard deviation of the batch's costs, so that their unit does not matter; the
            divisor falls by at most 5 % an update, so that steps still shrink as the cost flattens.
    """

    baseline: str = eqx.field(static=True, default="leave_one_out")
    rate: ArrayLike = eqx.field(converter=jnp.asarray, default=0.1)
    normalise: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        """Refuse unknown baselines."""
        choice("baseline", self.baseline, TOTAL_BASELINES)
        _share("rate", self.rate)

    @property
    def per_stage(self) -> bool:
        """A number per rollout."""
        return False

    def init(self, horizon: int, size: int = 0) -> Any:
        """What the baseline remembers, and the divisor."""
        memory: Any = ()
        if self.baseline == "running":
            memory = baselines.Running(jnp.full((), jnp.nan), jnp.zeros(()))
        elif self.baseline == "least_variance":
            memory = baselines.Moments(jnp.zeros(()), jnp.zeros(()), jnp.zeros(()))
        return memory, jnp.zeros(()) if self.normalise else ()

    def __call__(self, rollouts: Rollouts, score: Score, layout: Layout, state: Any) -> tuple[Array, Any, Info]:
        """Advantages (n,)."""
        total, (memory, divisor) = rollouts.costs.sum(1), state
        level = jnp.zeros(()) if rollouts.level is None else rollouts.level.sum()
        pair, counted = jnp.asarray(layout.pair), score.counted
        weight = counted.astype(total.dtype)
        info: Info = {}
        if self.baseline == "none":
            # what all rollouts pay cancels in pairs; else it is part of the estimate, as noise
            baseline = jnp.zeros(()) if layout.antithetic else -level
        elif self.baseline == "reference":
            baseline, found = baselines.reference(total, rollouts.used, layout)
            weight = weight * found
        elif self.baseline == "running":
            baseline, memory = baselines.running(total, weight, layout, memory.at(level), jnp.asarray(self.rate))
        elif self.baseline == "mean":
            baseline = (weight * total).sum() / jnp.maximum(weight.sum(), 1)
        elif self.baseline == "leave_one_out":
            baseline, others = baselines.leave_pair_out(total, weight, pair, layout.pairs)
            weight = weight * (others > 0)
        else:
            memory = memory.at(level)
            with_costs = score.group_gradients(weight * total, layout.pairs)
            alone = score.group_gradients(weight, layout.pairs)
            numerator, denominator = (with_costs * alone).sum(1), (alone * alone).sum(1)
            baseline = memory.ratio(numerator.sum() - numerator, denominator.sum() - denominator)[pair]
            memory = memory.after(numerator.sum(), denominator.sum(), jnp.asarray(self.rate))
        info["baseline"] = (weight * baseline).sum() / jnp.maximum(weight.sum(), 1)
        # trials of θ itself have no advantage, but tell whether the others differ from it
        compared = counted | (jnp.asarray(layout.reference) & rollouts.used)
        a = jnp.where(baselines.differ(total, compared.astype(total.dtype)), weight * (total - baseline), 0.0)
        if self.normalise:
            spread = baselines.spread(total, compared)
            divisor = jnp.maximum(jnp.where(jnp.isfinite(spread), spread, 0.0), SLOWEST_FALL * divisor)
            a = jnp.where(divisor > 0, a / jnp.where(divisor > 0, divisor, 1.0), 0.0)
        return a, (memory, divisor), info


def _pair(values: Any) -> Any:
    """Numbers as arrays, so that other values do not compile again."""
    return None if values is None else tuple(jnp.asarray(value, float) for value in values)


class Saturation(NamedTuple):
    """A charge for asking more than the limits give: without it nothing pulls such an action back, whatever it costs.

    At stage k discount^k · weight · (‖v‖² − ‖clip(v)‖²), v the action in half-ranges about the centre.

    weight: in the unit of cost, (). centre, half_range: of the action, (m,). discount: of the task itself, ().
    """

    weight: ArrayLike
    centre: ArrayLike
    half_range: ArrayLike
    discount: ArrayLike = 1.0

    def costs(self, actions: Float[Array, "n T m"], held: Float[Array, "n T"] | None = None) -> Float[Array, "n T"]:
        """What is charged beside the cost, for each action that was drawn.

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
    """Discounted cost-to-go less a baseline, a row per stage: the causal form (18.16), GPOMDP.

    Args:
        baseline: "none"; "running": one number per stage, used before it is updated; "mean": one number, that of
            all costs-to-go; "per_stage_mean"; "leave_one_out": per stage, the mean of the other rollouts;
            "least_variance": per stage, the mean weighted by the squared length of the score, from the other rollouts
            and earlier updates (see `baselines.Moments`); "value": a function of observation and time, fitted to the
            others (see `value`); "network": a small network of them, used before it is fitted to the batch (see
            `value_network`). Means that include the sample bias by O(1/n).
        rate: at which running and least_variance forget, 0 to 1.
        normalise: divide by the standard deviation of the batch's advantages.
        discounting: (γ, λ), or None for neither: γ discounts the costs that follow, on top of the task's own discount;
            λ is that of generalised advantage estimation (Schulman et al. 2016), which leans on the value baseline as
            far as λ is below 1. Both buy less noise with bias: the gradient is no longer that of the expected cost.
        bootstrap: where the horizon cut a rollout, what would have followed is predicted from its last observation, as
            though the task went on for ever; by a baseline that looks at observations alone, not at time. Otherwise
            nothing follows: J ends at the horizon. Costs must not be discounted by the task itself.
        saturation: a `Saturation` that is added to the costs that are learned from, not to those that are reported.
    """

    baseline: str = eqx.field(static=True, default="leave_one_out")
    rate: ArrayLike = eqx.field(converter=jnp.asarray, default=0.1)
    normalise: bool = eqx.field(static=True, default=False)
    discounting: Any = eqx.field(converter=_pair, default=None)
    bootstrap: bool = eqx.field(static=True, default=False)
    saturation: Saturation | None = eqx.field(
        converter=lambda given: None if given is None else Saturation(*map(jnp.asarray, given)), default=None
    )

    def __check_init__(self):
        """Refuse unknown baselines, and discounts that mean nothing or that nothing can carry."""
        choice("baseline", self.baseline, STAGE_BASELINES)
        _share("rate", self.rate)
        if self.saturation is not None:
            positive_number("weight of saturation", self.saturation.weight)
            positive_number("half_range of saturation", self.saturation.half_range)
        if self.bootstrap and (self.discounting is None or self.baseline not in PREDICTING):
            raise ValueError(
                f"bootstrap with baseline {self.baseline!r} and discounting {self.discounting}: what follows the "
                "horizon is predicted by the baseline value or network, and discounted by discounting=(γ, λ)."
            )
        if self.discounting is not None:
            if len(self.discounting) != 2:
                raise ValueError(f"discounting is {self.discounting}; give (γ, λ).")
            for name, value in zip(("γ", "λ"), self.discounting, strict=True):
                _share(name, value)
            decay = self.discounting[1]
            if self.baseline not in PREDICTING and not isinstance(decay, jax.core.Tracer) and decay != 1:
                raise ValueError(
                    f"λ is {decay} with baseline {self.baseline!r}; below 1 it needs 'value' or 'network'."
                )

    @property
    def per_stage(self) -> bool:
        """A number per stage."""
        return True

    def init(self, horizon: int, size: int = 0) -> Any:
        """What the baseline remembers of each stage; or the network."""
        if self.baseline == "network":
            return value_network.init(size, horizon)
        if self.baseline == "running":
            return baselines.Running(jnp.full(horizon, jnp.nan), jnp.zeros(()))
        if self.baseline == "least_variance":
            return baselines.Moments(jnp.zeros(horizon), jnp.zeros(horizon), jnp.zeros(()))
        return ()

    def __call__(self, rollouts: Rollouts, score: Score, layout: Layout, state: Any) -> tuple[Array, Any, Info]:
        """Advantages (n, T)."""
        if rollouts.level is not None and self.baseline not in ABSORBING:
            rollouts = rollouts._replace(costs=rollouts.costs + jnp.where(rollouts.mask, rollouts.level, 0.0))
        if self.saturation is not None:
            if not isinstance(score, PolicyScore):
                raise TypeError("Only sampled actions can be charged for saturation; perturbed rollouts keep none.")
            charged = jnp.where(rollouts.mask, self.saturation.costs(score.actions, rollouts.held), 0.0)
            rollouts = rollouts._replace(costs=rollouts.costs + charged)
        costs = rollouts.costs
        T = costs.shape[1]
        to_go = jax.lax.cumsum(costs, axis=1, reverse=True)
        if self.discounting is not None:
            to_go = _discounted(costs, self.discounting[0])
        weight = (rollouts.mask & score.counted[:, None]).astype(costs.dtype)
        pair = jnp.asarray(layout.pair)
        if self.baseline in PREDICTING:
            return self._predicted(rollouts, score, pair, to_go, weight, state)
        if self.baseline == "none":
            baseline = jnp.zeros(())
        elif self.baseline == "running":
            baseline, head = baselines.running(to_go, weight, layout, state.head(T), jnp.asarray(self.rate))
            state = state.with_head(head)
        elif self.baseline == "mean":
            baseline = (weight * to_go).sum() / jnp.maximum(weight.sum(), 1)
        elif self.baseline == "per_stage_mean":
            baseline = (weight * to_go).sum(0) / jnp.maximum(weight.sum(0), 1)
        elif self.baseline == "leave_one_out":
            baseline, _ = baselines.leave_pair_out(to_go, weight, pair, layout.pairs)
        else:
            squares = weight * score.squares()
            sums, whole = (jnp.sum(x, 0) for x in (squares * to_go, squares))
            head = state.head(T)
            baseline = head.ratio(sums - squares * to_go, whole - squares)
            state = state.with_head(head.after(sums, whole, jnp.asarray(self.rate)))
        a = self._scaled(weight * (to_go - baseline), to_go, weight)
        first = jnp.broadcast_to(baseline, to_go.shape)[:, 0]
        return a, state, {"baseline": jnp.mean(first)}

    def _scaled(self, a: Array, outcome: Array, weight: Array) -> Array:
        """Advantages in the unit that is wanted; zero where no stage's outcome differs between rollouts.

        Such rollouts teach nothing, and a step of stated KL would follow their rounding errors.
        """
        if self.normalise:
            n = jnp.maximum(weight.sum(), 1)
            spread = jnp.sqrt((weight * (a - a.sum() / n) ** 2).sum() / n)
            a = a / jnp.where(spread > 0, spread, 1.0)
        return jnp.where(baselines.differ(outcome, weight), a, 0.0)

    def _predicted(
        self, rollouts: Rollouts, score: Score, pair: Array, to_go: Array, weight: Array, state: Any
    ) -> tuple[Array, Any, Info]:
        """Advantages by a baseline that predicts costs from observations: V_k of stage k, V_L after the last one."""
        if not isinstance(score, PolicyScore):
            raise TypeError("A value baseline needs the observations of sampled actions; perturbed rollouts have none.")
        costs, scaled = rollouts.costs, score.policy.scaling or (lambda o: o)
        gamma, decay = (1.0, 1.0) if self.discounting is None else self.discounting
        observations, end = scaled(score.observations), None
        if self.bootstrap:
            if rollouts.last is None:
                raise ValueError(
                    "bootstrap needs what was seen after the last stage: pass Rollouts.last, or tell one observation "
                    "more."
                )
            cut = (rollouts.outcome == OK) & (weight.sum(1) > 0)
            if rollouts.terminated is not None:
                cut = cut & ~rollouts.terminated
            end = value.End(scaled(rollouts.last), cut.astype(costs.dtype), jnp.asarray(gamma, costs.dtype))
        if self.baseline == "value":
            baseline, after = value.fitted(observations, to_go, weight, pair % value.FOLDS, end)
        else:
            baseline, after = value_network.predicted(state, observations, end)
        if self.discounting is None:
            a = weight * (to_go - baseline)
        else:
            a = weight * _discounted(self._differences(costs, weight, baseline, after), gamma * decay)
        if self.baseline == "network":
            state = value_network.fit(state, observations, a + baseline, weight, end is None)
        left = jax.lax.cumsum(weight, axis=1, reverse=True)
        outcome = to_go + gamma**left * after[:, None]
        return self._scaled(a, outcome, weight), state, {"baseline": jnp.mean(baseline[:, 0])}

    def _differences(self, costs: Array, weight: Array, baseline: Array, after: Array) -> Array:
        """Temporal differences c_k + γV_(k+1) − V_k; `after` the last stage comes nothing, or what was predicted."""
        at_last = jnp.arange(costs.shape[1]) == weight.sum(1)[:, None] - 1
        follows = jnp.pad((weight * baseline)[:, 1:], ((0, 0), (0, 1))) + jnp.where(at_last, after[:, None], 0.0)
        return weight * (costs + self.discounting[0] * follows - baseline)


class TopPairs(Credit):
    """Augmented random search: of the antithetic pairs only the best count, divided by the spread of their costs.

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

    def __call__(self, rollouts: Rollouts, score: Score, layout: Layout, state: Any) -> tuple[Array, Any, Info]:
        """Advantages (n,), zero for pairs that do not count."""
        total, pair = rollouts.costs.sum(1), jnp.asarray(layout.pair)
        best = jnp.full(layout.pairs, jnp.inf).at[pair].min(jnp.where(score.counted, total, jnp.inf))
        top = min(self.top or layout.pairs, layout.pairs)
        rank = jnp.argsort(jnp.argsort(best))
        chosen = score.counted & (rank[pair] < top)
        share = chosen.sum() / score.count
        a = jnp.where(chosen, total, 0.0) / baselines.spread(total, chosen) / jnp.maximum(share, 1e-12)
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

    def __call__(self, rollouts: Rollouts, score: Score, layout: Layout, state: Any) -> tuple[Array, Any, Info]:
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

    def __call__(self, rollouts: Rollouts, score: Score, layout: Layout, state: Any) -> tuple[Array, Any, Info]:
        """Advantages (n,); equal costs share the mean of their ranks."""
        total, counted = rollouts.costs.sum(1), score.counted
        below = (total[None, :] < total[:, None]) & counted[None, :]
        equal = (total[None, :] == total[:, None]) & counted[None, :]
        rank = below.sum(1) + (equal.sum(1) - 1) / 2
        a = rank / jnp.maximum(counted.sum() - 1, 1) - 0.5
        return jnp.where(counted, a, 0.0), state, {"baseline": jnp.zeros(())}


def _discounted(values: Float[Array, "n T"], discount: ArrayLike) -> Float[Array, "n T"]:
    """Σ_l discount^l values_{k+l} for every stage k."""

    def add(total: Array, value: Array) -> tuple[Array, Array]:
        total = value + discount * total
        return total, total

    return jax.lax.scan(add, jnp.zeros_like(values[:, 0]), values.T, reverse=True)[1].T


def _share(name: str, value: ArrayLike) -> None:
    """Raise ValueError unless `value` lies above 0 and at most at 1."""
    positive_number(name, value)
    if not isinstance(value, jax.core.Tracer) and np.any(np.asarray(value) > 1):
        raise ValueError(f"{name} is {np.asarray(value).tolist()}; it must lie above 0 and at most at 1.")
