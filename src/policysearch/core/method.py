"""`Method`: explore + credit + direction + step, with pure init, layout and tell. See `methods` for the named ones.

estimate   S = explore.score(policy, offsets, rollouts)    a linear operator, nothing formed yet
           a = credit(rollouts, S)                         (n, T): one per stage; (n,): one per rollout
           w = direction(S, a)                             (d,)
advance    θ = step(θ, w)
report     a flat dict of scalars
"""

from __future__ import annotations

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PyTree

from policysearch.core import normalize, quality
from policysearch.core.credit import CentredRanks, CostToGo, Credit, Elites, Info, TopPairs, TotalCost
from policysearch.core.direction import Direction, Euclidean, LeastSquares, Natural
from policysearch.core.explore import Coordinates, Explore, Layout, ParameterNoise
from policysearch.core.policies import Policy
from policysearch.core.rollouts import LOST, OK, Rollouts, settle
from policysearch.core.seeded_perturbations import Regenerated
from policysearch.core.step import Estimate, KLStep, Optimizer, Refit, Step


class State(eqx.Module):
    """What must persist from one update to the next; a pytree.

    policy holds θ and the observation scaling; explore, credit and step belong to those parts; update counts from 0.
    """

    policy: Policy
    explore: PyTree
    credit: PyTree
    step: PyTree
    update: Array


class Method(eqx.Module):
    """A policy-search method as four parts. Combinations that are wrong by theory are refused with the reason.

    Args:
        explore: `ActionNoise`, `ParameterNoise` or `Coordinates`.
        credit: `TotalCost`, `CostToGo`, `TopPairs` or `CentredRanks`.
        direction: `Euclidean`, `Natural` or `LeastSquares`.
        step: `LearningRate`, `Optimizer` or `KLStep`.
        failure_cost: cost of a trial that fails because of the policy; NaN for the worst finite cost of its update.
        largest_step: the most an update may move θ, () or (d,) per entry; a longer step is shortened as a whole.

    Example:
        >>> from policysearch import ActionNoise, CostToGo, KLStep, Natural
        >>> method = Method(ActionNoise(64), CostToGo("leave_one_out"), Natural(), KLStep(0.01))
    """

    explore: Explore
    credit: Credit
    direction: Direction
    step: Step
    failure_cost: ArrayLike = eqx.field(converter=jnp.asarray, default=jnp.nan)
    largest_step: ArrayLike = eqx.field(converter=jnp.asarray, default=jnp.inf)

    def __check_init__(self):
        """Refuse what theory refuses."""
        refusal = refuse(self.explore, self.credit, self.direction, self.step)
        if refusal:
            raise ValueError(refusal)

    @property
    def space(self) -> str:
        """ "action" or "parameter": what varies."""
        return self.explore.space

    def init(self, policy: Policy, horizon: int) -> State:
        """The first state.

        Raises:
            ValueError: a policy of named numbers under a method that needs an action distribution.
        """
        if self.space == "action" and not policy.stochastic:
            raise ValueError(
                "Methods that sample actions need a policy with an action distribution; "
                f"{type(policy).__name__} has none. Use weight_perturbation, finite_differences or ars."
            )
        theta = policy.theta(self.space)
        explore = self.explore.init(theta.size)
        step = self.step.init(_point(theta, explore))
        state = State(policy, explore, self.credit.init(horizon, _observations(policy)), step, jnp.zeros((), int))
        # weakly typed numbers become strongly typed after one update, and would compile it a second time
        return jax.tree.map(lambda x: jnp.asarray(x, x.dtype), state)

    def sized(self, length: float) -> Method:
        """The method for the next update, after rollouts of mean length `length`; see `ActionNoise`."""
        explore = self.explore.sized(length)
        return self if explore is self.explore else dataclasses.replace(self, explore=explore)

    def layout(self, policy: Policy) -> Layout:
        """The trials of an update, in index order."""
        return self.explore.layout(policy.theta(self.space).size)

    def offsets(self, state: State, z: Float[Array, "k d"], layout: Layout) -> Float[Array, "n d"]:
        """β of every trial (n, d) from standard normal rows z, one per distinct perturbation."""
        rows = self.explore.rows(z, state.explore)
        sign = jnp.asarray(layout.sign, rows.dtype)
        return sign[:, None] * rows[jnp.asarray(layout.perturbation)]

    def tell(self, state: State, offsets: Array | Regenerated | None, rollouts: Rollouts) -> tuple[State, Info]:
        """One update from the results of its trials.

        Args:
            state: as it was when the trials were asked for.
            offsets: β (n, d) of parameter-space trials, or what generates them; None in action space.
            rollouts: in index order, as received; failures are settled here.

        Returns:
            The next state, equal to the old one but for its counter if no result was usable or the new parameters
            would not be finite (`skipped` is 1 then); and a flat dict of scalars.
        """
        estimate = self.estimate(state, offsets, rollouts)
        after, moved = self.advance(state, estimate)
        return after, self.report(state, estimate, rollouts) | moved

    def estimate(self, state: State, offsets: Array | Regenerated | None, rollouts: Rollouts) -> Estimate:
        """Score, advantages, gradient, direction and quality; moves nothing. For the arguments see `tell`."""
        layout = self.layout(state.policy)
        settled = settle(rollouts, jnp.asarray(self.failure_cost))
        score = self.explore.score(state.policy, offsets, settled, layout, state.explore)
        a, credit, credit_info = self.credit(settled, score, layout, state.credit)
        groups = score.group_gradients(a, quality.group_count(score.size, state.policy.theta(self.space).size))
        gradient = groups.mean(0)
        w, followed, direction_info = self.direction(score, a, groups)
        return Estimate(score, a, gradient, followed, w, groups, settled, credit, credit_info | direction_info)

    def advance(self, state: State, estimate: Estimate) -> tuple[State, Info]:
        """The next state: θ a step along the direction, observation scaling updated; and what that step reports."""
        policy, score = state.policy, estimate.score
        theta = policy.theta(self.space)
        point = _point(theta, state.explore)
        after, step_state, step_info = self.step(point, estimate.direction, estimate, state.step)
        moved, spread = after[: theta.size], after[theta.size :]
        excess = jnp.max(jnp.abs(moved - theta) / self.largest_step)
        moved = jnp.where(excess > 1, theta + (moved - theta) / excess, moved)

        ok = jnp.all(jnp.isfinite(after)) & jnp.any(score.counted)
        keep = lambda new, old: jnp.where(ok, new, old)  # noqa: E731
        carry = lambda new, old: _tree_where(ok, new, old)  # noqa: E731
        next_policy = self._rescaled(policy.with_theta(keep(moved, theta), self.space), policy, estimate.rollouts)
        info = {
            "step_norm": jnp.where(ok, jnp.linalg.norm(moved - theta), 0.0),
            "skipped": jnp.where(ok, 0, 1),
            "limited": jnp.where(excess > 1, 1, 0),
            **step_info,
        }
        if spread.size:
            info["std"] = jnp.exp(jnp.mean(spread))
        elif self.space == "action" and "log_std" in next_policy.parameters:
            info["std"] = jnp.exp(jnp.mean(next_policy.parameters["log_std"]))
        next_state = State(
            next_policy,
            keep(spread, state.explore) if spread.size else state.explore,
            carry(estimate.credit, state.credit),
            carry(step_state, state.step),
            state.update + 1,
        )
        return next_state, info

    def _rescaled(self, moved: Policy, asked: Policy, rollouts: Rollouts) -> Policy:
        """The moved policy, its observation scaling updated with the observations of the rollouts, if it is running."""
        if asked.scaling is None or not asked.scaling.running:
            return moved
        seen = rollouts.statistics
        if seen is None and rollouts.observations is not None:
            seen = normalize.statistics(rollouts.observations, rollouts.mask & rollouts.used[:, None])
        if seen is None:
            return moved
        scaling = asked.scaling.merge(*seen)
        # in action space a step is as long as its KL says, so the scaling must not move the policy as well
        return moved.rescaled(scaling) if self.space == "action" else moved.with_scaling(scaling)

    def report(self, state: State, estimate: Estimate, told: Rollouts) -> Info:
        """Scalars by name: cost, how good the gradient is, and how many trials failed or were lost of those told."""
        score, rollouts, d = estimate.score, estimate.rollouts, state.policy.theta(self.space).size
        # a learned spread is searched besides θ, but the gradient's quality is that of θ alone
        measured = quality.measure(estimate.groups[:, :d])
        total, counted = rollouts.costs.sum(1), score.counted
        n = score.count
        mean = jnp.where(counted, total, 0.0).sum() / n
        variance = jnp.where(counted, (total - mean) ** 2, 0.0).sum() / jnp.maximum(n - 1, 1)
        return {
            "cost": jnp.where(jnp.any(counted), mean, jnp.nan),
            "cost_sem": jnp.sqrt(variance / n),
            "gradient_norm": jnp.linalg.norm(estimate.gradient[:d]),
            "gradient_error": measured.error,
            "snr": measured.snr,
            "snr_error": measured.uncertainty,
            "cosine": measured.cosine,
            "effective_rollouts": measured.effective * n,
            "needed_rollouts": jnp.where(measured.snr > 0, n / jnp.maximum(measured.snr, 1e-30), jnp.nan),
            "failed": jnp.sum((rollouts.outcome != OK) & (told.outcome != LOST)),
            "lost": jnp.sum(told.outcome == LOST),
            **estimate.info,
        }


def refuse(explore: Explore, credit: Credit, direction: Direction, step: Step) -> str:
    """Why the four parts do not make a method; "" if they do."""
    parameter = explore.space == "parameter"
    baseline = credit.baseline.name if isinstance(credit, (TotalCost, CostToGo)) else ""
    if parameter and credit.per_stage:
        return (
            "Parameter noise gives one score row per rollout; cost-to-go needs one per stage. Use TotalCost, or "
            "ActionNoise."
        )
    if isinstance(explore, Coordinates) != isinstance(direction, LeastSquares) and (
        isinstance(explore, Coordinates) or not parameter
    ):
        return (
            "Finite differences are the least-squares solution B⁺a, not Bᵀa: Coordinates and LeastSquares belong "
            "together. For sampled actions the same solution is called Natural."
        )
    learned = getattr(explore, "learned", False)
    analytic = isinstance(direction, Natural) and direction.fisher == "analytic"
    if isinstance(step, Refit) and not (learned and analytic and isinstance(credit, Elites)):
        return (
            "A refit takes the best rollouts of a learned spread along its exact natural direction: "
            "ParameterNoise(learned=True), Elites, Natural(fisher='analytic')."
        )
    if learned and not (analytic or isinstance(direction, Euclidean)):
        return "A learned spread is moved by its gradient or its exact natural gradient: Natural(fisher='analytic')."
    if getattr(direction, "intercept", False) and (parameter or credit.per_stage):
        return (
            "A constant is fitted to one row per rollout of sampled actions; cost-to-go gives one per stage. Use "
            "TotalCost, or intercept=False."
        )
    if isinstance(direction, Natural) and isinstance(step, Optimizer) and step.preconditions:
        return (
            "A natural direction is already preconditioned by the Fisher matrix; an adaptive optimiser would do it "
            "twice. Use KLStep, LearningRate, or Optimizer(..., preconditions=False) for plain momentum."
        )
    if isinstance(step, KLStep) and parameter:
        return "A KL step needs a policy's action distribution; in parameter space use LearningRate or Optimizer."
    if isinstance(credit, (TopPairs, CentredRanks, Elites)) and not parameter:
        return (
            "Best pairs, elites and ranks compare whole perturbed rollouts; with sampled actions use TotalCost or "
            "CostToGo."
        )
    if isinstance(credit, TopPairs) and not (isinstance(explore, ParameterNoise) and explore.two_sided):
        return "Best pairs need antithetic pairs: ParameterNoise(two_sided=True)."
    if isinstance(explore, Coordinates) and (baseline not in ("reference", "none") or isinstance(credit, CentredRanks)):
        return "Finite differences compare with g(θ) (forward: 'reference') or with the partner (central: 'none')."
    if isinstance(explore, Coordinates) and not explore.central and baseline != "reference":
        return "Forward differences compare with g(θ): TotalCost(baseline='reference')."
    return credit.refuse(explore)


def _observations(policy: Policy) -> int:
    """p, 0 for named numbers."""
    return 0 if policy.scaling is None else int(policy.scaling.shift.size)


def _point(theta: Array, spread: PyTree) -> Array:
    """What a step moves: θ, followed by log σ if the spread is learned."""
    return jnp.concatenate([theta, spread]) if isinstance(spread, jax.Array) else theta


def _tree_where(condition: Array, new: PyTree, old: PyTree) -> PyTree:
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), new, old)
