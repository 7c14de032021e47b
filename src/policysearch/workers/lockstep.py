"""Rollouts of a plant's equations in step with each other: one loop over stages for all of them. No JAX.

B rollouts, L of at most T stages, n states, p observations, m actions. One that fails or ends early stands still.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from policysearch.core.controller import Controller
from policysearch.core.policies.registry import NUMBERS
from policysearch.core.specification import FAILED, OK
from policysearch.workers.equations import Equations, agreeing
from policysearch.workers.jobs import Episode

#: numbers that the rollouts of a batch may keep at a time, 8 bytes each
LARGEST = 8_000_000
#: of the stages, where a rollout is compared with the same stage run alone
COMPARED = (0.2, 0.5, 0.8)


class Rollout(NamedTuple):
    """One rollout of L stages, up to the one in which it failed.

    states: (L + 1, n). observations: (L + 1, p). actions: as sampled, (L, m). applied: (L, m). costs: discounted (L,),
    NaN at a failure. reason: why it failed, or "". terminated: `end` was met. mean, m2: of the L observations that led
    to actions, (p,), and the sum of their squared deviations from it.
    """

    states: np.ndarray
    observations: np.ndarray
    actions: np.ndarray
    applied: np.ndarray
    costs: np.ndarray
    reason: str
    terminated: bool
    mean: np.ndarray
    m2: np.ndarray

    def episode(self, record: bool, hold: int = 1) -> Episode:
        """What a search learns from; with records, one row for each action that was drawn."""
        length = len(self.costs)
        seen, paid = self.observations[:length], self.costs[: length - bool(self.reason)]
        total = float(paid.sum())
        kept = None
        if record:
            observations, actions, costs = self.observations, self.actions, self.costs
            if hold > 1:
                observations = np.concatenate([seen[::hold], observations[length:]])
                actions, costs = actions[::hold], np.add.reduceat(costs, np.arange(0, length, hold))
            if self.reason:
                observations, actions = (np.nan_to_num(part, posinf=0, neginf=0) for part in (observations, actions))
            kept = observations, actions, costs
        return Episode(
            total=total,
            returns=-total,
            length=length,
            outcome=FAILED if self.reason else OK,
            reason=self.reason,
            terminated=self.terminated,
            mean=self.mean,
            m2=self.m2,
            record=kept,
        )


def rows(equations: Equations, observation_size: int, horizon: int, parameters: int) -> int:
    """How many rollouts run together at most, so that what they keep fits into memory."""
    n, m = len(equations.start(np.random.default_rng(0))), len(equations.low)
    return max(1, LARGEST // ((horizon + 1) * (n + observation_size + 2 * m) + parameters))


@np.errstate(all="ignore")
def rollouts(
    equations: Equations,
    law: Callable[[np.ndarray], np.ndarray],
    seeds: Sequence[int],
    which: Sequence[int] | np.ndarray,
    deviations: np.ndarray | None,
    horizon: int,
    discount: float = 1.0,
) -> list[Rollout]:
    """Run B rollouts.

    A state, observation, action or cost that is not a finite number makes the rollout fail in that stage.

    Args:
        equations: of the plant.
        law: of `together`, at the start of its rollouts.
        seeds: of the initial states and the sensors' noise, each once.
        which: place of each rollout's seed among them, (B,); partners share one.
        deviations: of the drawn actions from the law, (draws, B, m); None: the mode acts.
        horizon: T.
        discount: per stage.

    Raises:
        ValueError: many states at once did not give what each of them gives alone.
        Exception: anything the functions raise.
    """
    size, m, hold, delay = len(which), len(equations.low), equations.hold, equations.delay
    generators = [np.random.default_rng(seed) for seed in seeds]
    x = np.stack([equations.start(generator) for generator in generators])[np.asarray(which)]
    observation, std = equations.observed(x), equations.sensor_noise
    states, seen = (np.empty((horizon + 1, *part.shape)) for part in (x, observation))
    if std is not None:
        noise = np.stack([std * generator.standard_normal(seen[:, 0].shape) for generator in generators], 1)[
            :, np.asarray(which)
        ]
    acted, applied = np.empty((horizon, size, m)), np.empty((horizon, size, m))
    lengths, alive = np.full(size, horizon), np.ones(size, bool)
    diverged, terminated = np.zeros(size, bool), np.zeros(size, bool)
    compared = {int(share * horizon) for share in COMPARED} if size > 1 else set()
    states[0], seen[0] = x, observation if std is None else observation + noise[0]
    standing, isfinite = False, math.isfinite  # whether any rollout is over
    k = 0
    for k in range(horizon):
        if k % hold == 0:
            u = law(seen[k])
            if deviations is not None:
                u = u + deviations[k // hold]
        acted[k] = u
        due = acted[k - delay] if k >= delay else equations.resting
        command = np.minimum(np.maximum(due, equations.low), equations.high, out=applied[k])
        bad = np.zeros(0, bool)
        if not isfinite(command.sum()):
            bad = ~np.isfinite(command).all(1)
            command = np.where(bad[:, None], equations.resting, command)
        after = equations.advanced(x, command)
        if k in compared:
            row = k % size
            alone = equations.alone.advanced(x[row : row + 1], command[row : row + 1])[0]
            _compare(equations, "f", alone, after[row], x[row])
        if bad.any() or not isfinite(after.sum()):
            lost = alive & ~np.isfinite(after).all(1)
            if bad.any():
                lost |= alive & bad
            diverged |= lost
            lengths[lost], alive, standing = k + 1, alive & ~lost, standing or bool(lost.any())
        x = np.where(alive[:, None], after, x) if standing else after
        if equations.end is not None:
            over = alive & equations.ended(x)
            terminated |= over
            if over.any():
                lengths[over], alive, standing = k + 1, alive & ~over, True
        observation = equations.observed(x)
        states[k + 1], seen[k + 1] = x, observation if std is None else observation + noise[k + 1]
        if standing and not alive.any():
            break
    longest = k + 1
    last = lengths - 1, np.arange(size)
    live: np.ndarray = np.arange(longest)[:, None] < lengths
    whole = bool(live.all())
    costs = np.zeros((longest, size))
    given = [part[:longest].reshape(-1, part.shape[2]) if whole else part[:longest][live] for part in (states, applied)]
    paid = equations.costs(*given)
    if compared:
        row = len(paid) // 2
        alone = equations.alone.costs(*(part[row : row + 1] for part in given))[0]
        _compare(equations, "cost", alone, paid[row], given[0][row])
    costs[live] = paid.ravel()
    costs[last] += equations.final_costs(states[lengths, last[1]])
    if discount != 1:
        costs *= discount ** np.arange(longest)[:, None]
    moved = np.ones((longest, size), bool)
    moved[last] = ~diverged
    checked: dict[str, np.ndarray] = {
        "observation of": np.all(np.isfinite(seen[:longest]), axis=2),
        "action of": np.all(np.isfinite(acted[:longest]), axis=2),
        "state after": moved,
        "cost of": np.isfinite(costs),
    }
    wrong = ~np.logical_and.reduce(list(checked.values())) & live
    failed = wrong.any(0)
    # all rollouts at once: small arrays cost as much as large ones
    counted = seen[:longest] if whole else np.where(live[:, :, None], seen[:longest], 0.0)
    mean = counted.sum(0) / lengths[:, None]
    away = np.where(live[:, :, None], counted - mean, 0.0)
    m2 = np.einsum("kbp,kbp->bp", away, away)
    found = []
    for i in range(size):
        length, reason = int(lengths[i]), ""
        if failed[i]:
            length = int(wrong[:, i].argmax()) + 1
            what = next(what for what, good in checked.items() if not good[length - 1, i])
            reason = f"the {what} stage {length - 1} is not finite"
            costs[length - 1, i] = np.nan
        found.append(
            Rollout(
                states[: length + 1, i],
                seen[: length + 1, i],
                acted[:length, i],
                applied[:length, i],
                costs[:length, i],
                reason,
                bool(terminated[i]) and not reason,
                mean[i],
                m2[i],
            )
        )
    return found


def _compare(equations: Equations, name: str, alone: np.ndarray, together: np.ndarray, x: np.ndarray) -> None:
    """Raise ValueError if what a function gave for a state among many is not what it gives for that state alone."""
    if not agreeing(alone, together) and np.isfinite(alone).all():
        raise ValueError(
            f"{equations.environment}: {name} of many states at once does not give what it gives for each of them: "
            f"{x.tolist()} leads to {together.tolist()} among others, and alone to {alone.tolist()}. An `if`, a sum or "
            "a maximum over all numbers mixes the states: use numpy.where and axes, or give batch=False."
        )


def together(controller: Controller, thetas: np.ndarray | None = None) -> Callable[[np.ndarray], np.ndarray]:
    """The law of B rollouts that run in step with each other, from their start; see `Controller.output`.

    Args:
        controller: that takes observations.
        thetas: searched parameters of each rollout, (B, d); the controller's own in all of them by default.

    Returns:
        A function of their observations (B, p), unchecked, that gives their mean actions (B, m); called once per stage.

    Raises:
        TypeError: the controller only holds named parameters.
    """
    if controller.outputs == NUMBERS:
        raise TypeError("A controller of named parameters takes no observations; read its values().")
    record: Any = controller.record
    if thetas is not None:
        record = record._with(parameters=controller.named(np.asarray(thetas, dtype=np.float64)))
    if not record.recurrent:
        return lambda observations: record.forward(np, controller.scaled(observations))
    memory, act = record.begin(np)

    def remembering(observations: np.ndarray) -> np.ndarray:
        nonlocal memory
        memory, actions = act(memory, observations)
        return actions

    return remembering
