"""Figures of evaluation rollouts: quantities, actions, cost or return over time; a phase portrait. No JAX."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from policysearch.core.plain import Plain
from policysearch.core.specification import Continuous, Discrete
from policysearch.report import style
from policysearch.report.learning import Drawn
from policysearch.report.motion import Recorded, portrait

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: of a figure over time, in inches
HEIGHT = 2.3
#: points of a line over time, at most
POINTS = 130


def figures(recorded: Recorded) -> list[Drawn]:
    """Figures of some rollouts, the first of which stands out.

    Args:
        recorded: at least one rollout.

    Returns:
        Quantities, actions, cost or return so far; last, for two quantities, a phase portrait.
    """
    first = recorded.rollouts[0]
    drawn = [_over_time(recorded, "quantities", name) for name in first.quantities]
    drawn += [_over_time(recorded, "actions", name) for name in first.actions]
    drawn.append(_total(recorded))
    pair = portrait(first.quantities)
    if pair is not None:
        drawn.append(_portrait(recorded, *pair))
    return drawn


def _over_time(recorded: Recorded, kind: str, name: str) -> Drawn:
    figure = style.figure(height=HEIGHT)
    axis = figure.subplots()
    action = recorded.specification.action
    held = kind == "actions"
    every = [np.asarray(getattr(rollout, kind)[name], float) for rollout in recorded.rollouts]
    for index, values in enumerate(every):
        _line(axis, recorded, index, values, drawstyle="steps-post" if held else "default")
    caption = f"{name} over time."
    if held:
        caption = f"{name} over time, as applied: held through each stage."
        if isinstance(action, Discrete):
            axis.set_yticks(range(action.n) if action.n <= 8 else [0, action.n - 1])
        elif isinstance(action, Continuous):
            place = list(recorded.rollouts[0].actions).index(name)
            for limit in (action.low[place], action.high[place]):
                if math.isfinite(limit):
                    axis.axhline(limit, color=style.MUTED[0], linewidth=1.0, linestyle=":")
                    caption = f"{name} over time, as applied: held through each stage; dotted: its limits."
    per = _stages(every[0])
    if per > 1:
        caption += f" Each point is the mean over {per} stages; the band is the range of rollout 1 within them."
    style.dress(axis, _time(recorded), name, legend=len(every) > 1)
    return Drawn(figure, _told(name, every), caption)


def _total(recorded: Recorded) -> Drawn:
    figure = style.figure(height=HEIGHT)
    axis = figure.subplots()
    reward, noun = recorded.specification.returns, recorded.specification.noun
    every = []
    for rollout in recorded.rollouts:
        so_far = np.cumsum(-rollout.costs if reward else rollout.costs)
        every.append(np.concatenate([[0.0], so_far]))
    for index, total in enumerate(every):
        axis.plot(np.arange(len(total)) * (recorded.specification.dt or 1.0), total, **_look(index))
    style.dress(axis, _time(recorded), f"{noun} so far", legend=len(every) > 1)
    discount = recorded.specification.discount
    how = f", discounted by {discount:g} per stage" if discount != 1 and not reward else ""
    ends = [float(values[np.isfinite(values)][-1]) for values in every]
    alt = f"The {noun} of the first rollout adds up to {ends[0]:.4g}"
    alt += f"; those of all {len(ends)} end between {min(ends):.4g} and {max(ends):.4g}." if len(ends) > 1 else "."
    return Drawn(figure, alt, f"{noun.capitalize()} so far{how}.")


def _portrait(recorded: Recorded, x: str, y: str) -> Drawn:
    figure = style.figure()
    axis = figure.subplots()
    for index in range(len(recorded.rollouts)):
        quantities = recorded.rollouts[index].quantities
        look = _look(index)
        axis.plot(quantities[x], quantities[y], **look)
        axis.plot(quantities[x][:1], quantities[y][:1], "o", color=look["color"], markersize=5, fillstyle="none")
        axis.plot(quantities[x][-1:], quantities[y][-1:], "s", color=look["color"], markersize=5)
    style.dress(axis, x, y, legend=len(recorded.rollouts) > 1)
    first = recorded.rollouts[0].quantities
    seen = np.flatnonzero(np.isfinite(first[x]) & np.isfinite(first[y]))
    if not len(seen):
        return Drawn(figure, "No state is finite.", f"Phase portrait: {y} over {x}.")
    start, end = ((float(first[x][k]), float(first[y][k])) for k in (seen[0], seen[-1]))
    alt = f"The first rollout goes from ({start[0]:.3g}, {start[1]:.3g}) to ({end[0]:.3g}, {end[1]:.3g})."
    return Drawn(figure, alt, f"Phase portrait: {y} over {x}. Circles are starts, squares ends.")


def _line(axis: Axes, recorded: Recorded, index: int, values: np.ndarray, **more: Any) -> None:
    """A rollout's values; for a long one, means over some stages, with a band from minimum to maximum."""
    per = _stages(values)
    time = np.arange(len(values)) * (recorded.specification.dt or 1.0)
    if per == 1:
        axis.plot(time, values, **_look(index), **more)
        return
    starts = np.arange(0, len(values) - per + 1, per)
    parts = values[: len(starts) * per].reshape(-1, per)
    middle = time[starts] + (per - 1) / 2 * (recorded.specification.dt or 1.0)
    axis.plot(middle, parts.mean(1), **_look(index))
    if index == 0:
        axis.fill_between(middle, parts.min(1), parts.max(1), color=style.colour(0), alpha=0.2, linewidth=0, zorder=2.5)


def _stages(values: np.ndarray) -> int:
    """The number of stages per point."""
    return max(1, -(-len(values) // POINTS))


def _look(index: int) -> Plain:
    """The first rollout in front, the others muted and with one entry in the legend."""
    if index == 0:
        return {"color": style.colour(0), "linewidth": 1.6, "label": "rollout 1", "zorder": 3}
    return {"color": style.MUTED[0], "linewidth": 0.8, "alpha": 0.6, "label": "others" if index == 1 else None}


def _time(recorded: Recorded) -> str:
    return "stage" if recorded.specification.dt is None else "time [s]"


def _told(name: str, every: list[np.ndarray]) -> str:
    """A sentence with the numbers shown."""
    finite = [values[np.isfinite(values)] for values in every]
    if not len(finite[0]):
        return f"{name}: no value is finite."
    first = finite[0]
    text = f"{name} of the first rollout starts at {first[0]:.3g} and ends at {first[-1]:.3g}, "
    text += f"between {first.min():.3g} and {first.max():.3g}"
    if len(every) > 1:
        ends = [values[-1] for values in finite if len(values)]
        text += f"; all {len(every)} end between {min(ends):.3g} and {max(ends):.3g}"
    return f"{text}."
