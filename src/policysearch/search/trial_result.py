"""`Told`: what a rig said of one trial, checked before anything is kept of it.

L stages, p observations, m actions.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import load, save

from policysearch.core.controller import Controller
from policysearch.core.method import Method
from policysearch.core.specification import FAILED, OK, Discrete, Specification
from policysearch.workers.jobs import Episode

#: how a trial may end without a cost: the word of `Search.tell`, the status that is kept, and whose fault it is
ENDS = {
    "failed": ("failed", "policy"),
    "safety_stop": ("safety stop", "policy"),
    "vetoed": ("vetoed", "policy"),
    "lost": ("lost", "rig"),
    "abandoned": ("abandoned", "rig"),
    "timed_out": ("timed out", "rig"),
}


class Told(NamedTuple):
    """What a rig said of one trial, checked: an end of `ENDS` with a reason, a cost, or a recorded rollout.

    arrays: observations (L, p) or (L + 1, p), sampled actions (L, m) or (L,), stage costs (L,) and whether the task
        ended by itself, (), as safetensors; None for a cost.
    """

    status: str
    fault: str | None
    reason: str
    cost: float | None
    stages: int = 0
    arrays: bytes | None = None

    @classmethod
    def of(
        cls,
        specification: Specification,
        method: Method | None,
        given: dict[str, Any],
        terminated: bool | None = None,
    ) -> Told:
        """From the arguments of `Search.tell`, exactly one of which is not None.

        Args:
            specification: of the task.
            method: that learns from the trial; None of a measurement, of which the cost is enough.
            given: by name.
            terminated: the task ended the rollout by itself, so that nothing follows; None where that was not said.

        Raises:
            ValueError: none or several of them, or a rollout of the wrong shape.
        """
        if terminated not in (None, True, False):
            raise ValueError(f"terminated is {terminated!r}; it is True, False or None.")
        told = {name: value for name, value in given.items() if value is not None}
        if len(told) != 1:
            raise ValueError(f"Tell exactly one of {', '.join(given)}; {len(told)} were given.")
        (name, value), *_ = told.items()
        if terminated is not None and name != "rollout":
            raise ValueError(f"terminated={terminated} says how a rollout ended; {name}=… has no stages. Leave it out.")
        if name in ENDS:
            return cls(*ENDS[name], str(value), None)
        if name == "cost":
            if method is not None and method.space == "action":
                raise ValueError(
                    "A likelihood-ratio method learns from every stage: tell rollout=(observations, actions, costs)."
                )
            cost = float(value)
            if not math.isfinite(cost):
                return cls("failed", "policy", f"its cost is {cost}", None)
            return cls("done", None, "", cost)
        observations, actions, costs = _checked(value, specification)
        length = len(costs)
        follows = method is not None and getattr(method.credit, "bootstrap", False) and math.isfinite(costs[-1])
        if follows and terminated is None and length < specification.horizon:
            raise ValueError(
                f"A rollout ended after {length} of {specification.horizon} stages, and this method predicts what "
                "would follow. Tell terminated=True if the task ended by itself (a fall, a goal: nothing follows), "
                "terminated=False if it was cut short."
            )
        if follows and not terminated and len(observations) == length:
            raise ValueError(
                f"A rollout of {length} stages came with as many observations; bootstrap needs one more, what was "
                "seen after the last stage."
            )
        ended = bool(terminated)
        episode = _recorded(observations, actions, costs, ended, specification)
        good = episode.outcome == OK
        told_arrays = {"observations": observations, "actions": actions, "costs": costs}
        arrays = save(told_arrays | ({"terminated": np.array(True)} if ended else {}))
        return cls(
            "done" if good else "failed",
            None if good else "policy",
            episode.reason,
            episode.total if good else None,
            len(costs),
            arrays,
        )

    def refuse_applied(self, controller: Controller, noise: np.ndarray | None) -> None:
        """Raise ValueError for actions as the machine got them, within limits that they were drawn beyond.

        Args:
            controller: that ran.
            noise: of the trial, (T, m); None where the mode ran.
        """
        limits = controller.interface.limits
        if self.arrays is None or noise is None or limits is None:
            return
        arrays, hold = load(self.arrays), controller.interface.hold
        actions = arrays["actions"][::hold]
        drawn = controller.output(arrays["observations"][: len(arrays["actions"])][::hold])
        drawn = drawn + controller.std * noise[: len(arrays["actions"])][::hold]
        for limit, beyond in ((np.array(limits.low), -1.0), (np.array(limits.high), 1.0)):
            far = beyond * (drawn - limit) > 1e-3 * np.maximum(np.abs(limit), 1e-3)
            for k, i in np.argwhere(far & np.isclose(actions, limit, rtol=1e-6, atol=0))[:1]:
                raise ValueError(
                    f"The action of stage {k * hold} is at its limit, {limit[i]:g}, and was drawn beyond it, "
                    f"{drawn[k, i]:g}. Tell actions as sampled: act(…).sampled, not act(…).applied."
                )

    def episode(self, specification: Specification) -> Episode | None:
        """What an update learns from it; None where the rig was at fault."""
        if self.fault == "rig":
            return None
        if self.arrays is not None:
            arrays = load(self.arrays)
            ended = "terminated" in arrays
            return _recorded(arrays["observations"], arrays["actions"], arrays["costs"], ended, specification)
        return Episode.of_cost(math.nan if self.cost is None else self.cost, self.reason)


def _checked(rollout: Any, specification: Specification) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A told rollout of the right shape: observations and costs of floats, actions as they were sampled."""
    observations, actions, costs = (np.array(part, order="C") for part in rollout)
    if actions.dtype == object:
        raise ValueError("A rollout's actions are no arrays of numbers; tell them as sampled: action.sampled of each.")
    observations, costs = observations.astype(float), costs.astype(float)
    length, p, action = len(costs), specification.observation_size, specification.action
    shape = (length,) if isinstance(action, Discrete) else (length, getattr(action, "size", 0))
    if costs.ndim != 1 or not 1 <= length <= specification.horizon:
        raise ValueError(
            f"A rollout's costs have shape {costs.shape}; between 1 and {specification.horizon} stages are allowed."
        )
    if observations.shape not in ((length, p), (length + 1, p)) or actions.shape != shape:
        raise ValueError(
            f"A rollout of {length} stages came with observations {observations.shape} and actions {actions.shape}; "
            f"({length}, {p}), or a row more with what was seen at the end, and {shape} are needed, with the actions "
            "as sampled, before clipping."
        )
    if not np.all(np.isfinite(observations)) or not np.all(np.isfinite(actions)):
        raise ValueError("A rollout has observations or actions that are not finite; tell failed='…' instead.")
    drawn = np.repeat(actions[:: specification.hold], specification.hold, axis=0)[:length]
    changed = np.flatnonzero(np.any((drawn != actions).reshape(length, -1), axis=1))
    if changed.size:
        k, hold = int(changed[0]), specification.hold
        raise ValueError(
            f"The action of stage {k} is {actions[k].tolist()}; with hold={hold} it must be that of stage "
            f"{k - k % hold}, {drawn[k].tolist()}. Draw an action where k % trial.hold == 0, and keep it."
        )
    return observations, actions, costs


def _recorded(
    observations: np.ndarray, actions: np.ndarray, costs: np.ndarray, terminated: bool, specification: Specification
) -> Episode:
    """A rollout with discounted costs, a row for each action that was drawn."""
    length, hold = len(costs), specification.hold
    paid = costs * specification.discount ** np.arange(length)
    seen = observations[:length]
    total, mean = float(paid.sum()), seen.mean(axis=0)
    outcome = OK if math.isfinite(total) else FAILED
    return Episode(
        total=total,
        returns=-float(np.sum(costs)),
        length=length,
        outcome=outcome,
        reason="" if outcome == OK else "costs that are not finite",
        terminated=terminated,
        mean=mean,
        m2=((seen - mean) ** 2).sum(axis=0),
        record=(
            np.concatenate([seen[::hold], observations[length:]]),
            actions[::hold],
            np.add.reduceat(paid, np.arange(0, length, hold)),
        ),
    )
