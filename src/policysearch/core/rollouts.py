"""`Rollouts`: what came back from n trials of at most T stages, padded and masked; and how failures are settled.

n rollouts, T stages, p observations, m actions. Costs are minimised.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from policysearch.core.specification import FAILED, LOST, OK, Continuous, Discrete


class Rollouts(NamedTuple):
    """Legend: n rollouts, T stages, p observations, m actions.

    costs (n, T): *discounted* stage costs discount^k g_k, any value where `mask` is False, so that the objective is
        their plain sum and discount^k G_k a plain sum of the rest. (n, 1) where only totals came back.
    mask (n, T): True on stages that happened.
    outcome (n,): `OK`; `FAILED`: the policy caused it (diverged, NaN, safety stop), its cost is settled by
        `settle`; `LOST`: the rig or the worker failed, repeatedly: the trial is left out.
    observations (n, T, p), actions (n, T, m) or (n, T) integers: as *sampled*, before any clipping; None where
        only costs came back.
    terminated (n,): the task ended by itself; False where the horizon cut it.
    last (n, p): what was there to see after the last stage; None where nobody looked.
    held (n, T): for how many stages each action was applied; None for one each.
    level (T,): what was taken off the costs of a stage in float64 before they were rounded to float32, because all
        rollouts pay it; `costs` plus it is what they cost. None for nothing.
    statistics: (count (), mean (p,), sum of squared deviations (p,)) of all observations, where those are wanted
        but not kept.
    """

    costs: Float[Array, "n T"]
    mask: Bool[Array, "n T"]
    outcome: Int[Array, " n"]
    observations: Float[Array, "n T p"] | None = None
    actions: Array | None = None
    terminated: Bool[Array, " n"] | None = None
    statistics: tuple[Array, Array, Array] | None = None
    last: Float[Array, "n p"] | None = None
    held: Float[Array, "n T"] | None = None
    level: Float[Array, " T"] | None = None

    @property
    def used(self) -> Bool[Array, " n"]:
        """(n,) True where the rollout counts in estimates (everything but `LOST`)."""
        return self.outcome != LOST


def saturated(rollouts: Rollouts, action: Continuous | Discrete | None) -> dict[str, Float[Array, ""]]:
    """Share of the sampled actions' components beyond their limits, as "saturated"; empty where there are no limits.

    Args:
        rollouts: of sampled actions, or of perturbed parameters, which keep none.
        action: what the task takes.
    """
    if rollouts.actions is None or not isinstance(action, Continuous):
        return {}
    low, high = np.asarray(action.low), np.asarray(action.high)
    limited = np.isfinite(low) | np.isfinite(high)
    if not limited.any():
        return {}
    beyond = ((rollouts.actions < low) | (rollouts.actions > high)) & rollouts.mask[:, :, None]
    return {"saturated": beyond.sum() / (limited.sum() * jnp.maximum(rollouts.mask.sum(), 1))}


def settle(rollouts: Rollouts, failure_cost: Array | float = jnp.nan) -> Rollouts:
    """Give each failed rollout the worst finite total cost of the batch, or `failure_cost` if that is finite.

    The difference between that and what the rollout had cost so far is added to its last stage, so that stage-wise
    methods see it where it happened. Forgetting failures instead would blind the search to the region that fails.
    Rollouts whose costs are not finite are marked as failed first.

    Args:
        rollouts: as they came.
        failure_cost: in the task's cost unit; NaN for the worst finite one.

    Returns:
        Rollouts with finite costs wherever `used`, and zero cost outside the mask.
    """
    T = rollouts.costs.shape[1]
    stage = jnp.arange(T)[None, :]
    broken = rollouts.mask & ~jnp.isfinite(rollouts.costs)
    # a broken rollout ends before its first non-finite stage
    end = jnp.min(jnp.where(broken, stage, T), axis=1)
    outcome = jnp.where((end < T) & (rollouts.outcome == OK), FAILED, rollouts.outcome)
    mask = rollouts.mask & (stage < end[:, None])
    costs = jnp.where(mask, rollouts.costs, 0.0)
    total = costs.sum(axis=1)
    worst = jnp.max(jnp.where(outcome == OK, total, -jnp.inf))
    level = 0.0 if rollouts.level is None else rollouts.level.sum()
    target = jnp.where(jnp.isfinite(failure_cost), failure_cost - level, worst)
    # the first stage is kept though it failed, if its action was really taken: that action led to the failure
    last = jnp.maximum(mask.sum(axis=1) - 1, 0)
    failed = outcome == FAILED
    # what came before the failure may already be worse than the worst; where nothing came, the target is all there is
    shortfall = jnp.where(jnp.any(mask, axis=1), jnp.maximum(target - total, 0.0), target)
    extra = jnp.where(failed & jnp.isfinite(target), shortfall, 0.0)
    at_last = stage == last[:, None]
    costs = costs + jnp.where(at_last, extra[:, None], 0.0)
    observations, actions = rollouts.observations, rollouts.actions
    kept = at_last & failed[:, None] & rollouts.mask
    if observations is not None and actions is not None:
        real = jnp.isfinite(observations[:, 0]).all(-1) & jnp.isfinite(actions[:, 0]).reshape(len(total), -1).all(-1)
        kept = kept & real[:, None]
    mask = mask | kept
    # with no good rollout to compare with, a failure has no number: leave it out
    outcome = jnp.where(failed & ~jnp.isfinite(target), LOST, outcome)
    seen_last = None if rollouts.last is None else jnp.where((outcome == OK)[:, None], rollouts.last, 0)
    if observations is not None and actions is not None:
        # a NaN outside the mask would still poison a derivative
        observations = jnp.where(mask[..., None], observations, 0)
        actions = jnp.where(mask.reshape(mask.shape + (1,) * (actions.ndim - 2)), actions, 0)
    return rollouts._replace(
        costs=costs, mask=mask, outcome=outcome, observations=observations, actions=actions, last=seen_last
    )
