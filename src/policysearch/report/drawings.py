"""Drawings of plants with matplotlib: each is set up once, then its parts are moved to stage k.

L stages; states have leading axis L + 1 (L where a rollout failed), actions (L, …), discounted costs (L,).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import singledispatch
from typing import TYPE_CHECKING

import numpy as np

from policysearch.core.specification import Discrete
from policysearch.runners import Recording
from policysearch.tasks.cartpole import CartPole
from policysearch.tasks.lqr import LQR
from policysearch.tasks.pendulum import Pendulum
from policysearch.tasks.task import Task

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

BLUE, RED, GREY = "#1f5fa8", "#c4451c", "#9a9a9a"
#: number of observations and actions shown, if a task has more
MOST_CURVES, MOST_ACTIONS = 6, 4


#: moves the parts of a drawing to stage k and returns them
Move = Callable[[int], list["Artist"]]


@singledispatch
def draw(task: Task, axes: Axes, motion: Recording) -> Move:
    """Draw a plant; `@draw.register(MyPlant)` above a function adds a class of tasks.

    Args:
        task: the plant; its class decides what is drawn, by default its observations over time.
        axes: to draw in; they fill the picture between the caption and the actions.
        motion: the whole rollout, for limits and whatever varies between rollouts.

    Returns:
        A function of the stage that moves the moving parts, and returns them.
    """
    return _curves(task, axes, motion)


@draw.register(Pendulum)
def _pendulum(task: Pendulum, axes: Axes, motion: Recording) -> Move:
    x = motion.states
    length = np.full(len(x.angle), task.length) if x.rod is None else x.rod.length
    _window(axes, (0.0, 0.0), 2.3 * length[0], 2.3 * length[0])
    turn = np.linspace(0, 2 * np.pi, 100)
    axes.plot(length[0] * np.sin(turn), length[0] * np.cos(turn), color=GREY, linewidth=0.8, linestyle=":")
    axes.plot(0, length[0], marker="v", color=GREY, markersize=7)
    (rod,) = axes.plot([], [], color=BLUE, linewidth=9, solid_capstyle="round")
    (pivot,) = axes.plot(0, 0, marker="o", color="black", markersize=7)

    def move(k: int) -> list[Artist]:
        rod.set_data([0, length[k] * x.sin[k]], [0, length[k] * x.cos[k]])
        return [rod, pivot]

    return move


@draw.register(CartPole)
def _cart_pole(task: CartPole, axes: Axes, motion: Recording) -> Move:
    x = motion.states
    pole = 2 * (np.full(len(x.angle), task.half_length) if x.plant is None else x.plant.half_length)
    width, height = 0.6, 0.3  # of the cart, in m
    reach = task.travel + width / 2
    _window(axes, (0.0, 0.0), 2.15 * reach, 2.4 * (pole[0] + height))
    axes.plot([-reach, reach], [-height / 2] * 2, color="black", linewidth=1.2)
    for side in (-reach, reach):
        axes.plot([side, side], [-height / 2, height / 2], color="black", linewidth=3)
    axes.plot(0, -0.75 * height, marker="^", color=GREY, markersize=7)
    cart = axes.fill(np.zeros(4), np.zeros(4), facecolor="#d8e3f0", edgecolor="black", linewidth=1.2)[0]
    (beam,) = axes.plot([], [], color=BLUE, linewidth=6, solid_capstyle="round")
    (hinge,) = axes.plot([], [], marker="o", color="black", markersize=5)

    def move(k: int) -> list[Artist]:
        p = x.position[k]
        left, right = p - width / 2, p + width / 2
        cart.set_xy(np.array([[left, -height / 2], [right, -height / 2], [right, height / 2], [left, height / 2]]))
        beam.set_data([p, p + pole[k] * x.sin[k]], [0, pole[k] * x.cos[k]])
        hinge.set_data([p], [0])
        return [cart, beam, hinge]

    return move


@draw.register(LQR)
def _masses(task: LQR, axes: Axes, motion: Recording) -> Move:
    """Each position on its own line; other linear plants as curves."""
    rows = [i for i, name in enumerate(task.observation_names) if name.startswith("position")]
    if not rows:
        return _curves(task, axes, motion)
    positions = motion.states[:, rows]
    low, high = min(0.0, positions.min()), max(0.0, positions.max())
    margin = 0.12 * (high - low) or 1.0
    left, bottom, width, height = axes.get_position().bounds
    axes.set_position((left, bottom + 0.07, width, height - 0.07))  # room for the label
    axes.set(xlim=(low - margin, high + margin), ylim=(-len(rows) + 0.5, 0.5), yticks=[])
    axes.spines[["top", "left", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.set_xlabel(task.observation_names[rows[0]].replace(" 1", ""), fontsize=9, labelpad=1)
    axes.axvline(0, color=GREY, linewidth=0.8, linestyle=":")
    points = 26.0  # side of a mass, in 1/72 inch
    floor = points / 72 * axes.figure.dpi / 2 / axes.get_window_extent().height * len(rows)
    masses = []
    for row in range(len(rows)):
        axes.axhline(-row - floor, color="black", linewidth=1.0)
        masses += axes.plot([], [], "s", color=BLUE, markersize=points, markeredgecolor="black")
        if len(rows) > 1:
            axes.text(low - margin, -row + floor, f" {row + 1}", fontsize=9, color=GREY)

    def move(k: int) -> list[Artist]:
        for row, mass in enumerate(masses):
            mass.set_data([positions[k, row]], [-row])
        return list(masses)

    return move


def _curves(task: Task, axes: Axes, motion: Recording) -> Move:
    """Observations over time, with a dot at stage k."""
    specification = task.specification
    shown = min(motion.observations.shape[1], MOST_CURVES)
    stages = len(motion.observations)
    time = np.arange(stages) * (specification.dt or 1.0)
    names = specification.observation_names or [f"observation {i}" for i in range(shown)]
    axes.axis("off")
    moving: list[tuple[Line2D, Line2D, np.ndarray]] = []
    for i in range(shown):
        panel = axes.inset_axes((0.08, 1 - (i + 0.9) / shown, 0.9, 0.72 / shown))
        panel.plot(time, motion.observations[:, i], color=GREY, linewidth=0.8)
        panel.set_title(names[i], fontsize=8, loc="left", pad=2)
        panel.tick_params(labelsize=7, labelbottom=i == shown - 1)
        panel.spines[["top", "right"]].set_visible(False)
        panel.margins(x=0.02)
        (line,) = panel.plot([], [], color=BLUE, linewidth=1.6)
        (dot,) = panel.plot([], [], color=RED, marker="o", markersize=5)
        moving.append((line, dot, motion.observations[:, i]))

    def move(k: int) -> list[Artist]:
        for line, dot, values in moving:
            line.set_data(time[: k + 1], values[: k + 1])
            dot.set_data([time[k]], [values[k]])
        return [artist for line, dot, _ in moving for artist in (line, dot)]

    return move


@singledispatch
def quantities(task: Task, motion: Recording) -> dict[str, np.ndarray]:
    """Quantities of a rollout drawn over time; `@quantities.register(MyPlant)` above a function adds a class of tasks.

    Args:
        task: the plant; the observations by default.
        motion: the whole rollout.

    Returns:
        Values (L + 1,), or (L,) if it failed, by name with unit.
    """
    size = motion.observations.shape[1]
    names = task.specification.observation_names or [f"observation {i}" for i in range(size)]
    return {names[i]: motion.observations[:, i] for i in range(size)}


@quantities.register(Pendulum)
def _pendulum_states(task: Pendulum, motion: Recording) -> dict[str, np.ndarray]:
    return {"angle [rad]": _settled(motion.states.angle), "rate [rad/s]": motion.states.rate}


@quantities.register(CartPole)
def _cart_pole_states(task: CartPole, motion: Recording) -> dict[str, np.ndarray]:
    x = motion.states
    return {
        "position [m]": x.position,
        "velocity [m/s]": x.velocity,
        "angle [rad]": _settled(x.angle),
        "rate [rad/s]": x.rate,
    }


def _settled(angle: np.ndarray) -> np.ndarray:
    """An angle without jumps, less the whole turns at its end: 0 is upright at the end."""
    angle = np.asarray(angle, float)
    return angle - 2 * np.pi * np.round(angle[-1:] / (2 * np.pi))


def _window(axes: Axes, centre: tuple[float, float], width: float, height: float) -> None:
    """Show at least `width` × `height` around `centre`, with equal scales and no ticks."""
    box = axes.get_window_extent()
    scale = max(width / box.width, height / box.height) / 2
    axes.set(
        xlim=(centre[0] - scale * box.width, centre[0] + scale * box.width),
        ylim=(centre[1] - scale * box.height, centre[1] + scale * box.height),
    )
    axes.axis("off")


def draw_actions(task: Task, axes: Axes, actions: np.ndarray) -> Move:
    """Draw the current action: bars from zero, or which of the discrete ones; nothing at the end.

    Args:
        task: the plant, for names and limits.
        axes: to draw in.
        actions: as applied, (L, m), or (L,) integers.

    Returns:
        As `draw`.
    """
    specification = task.specification
    axes.spines[["top", "left", "right", "bottom"]].set_visible(False)
    axes.set(yticks=[], xticks=[])
    rows = min(actions.shape[1], MOST_ACTIONS) if actions.ndim > 1 else 1
    names = specification.action_names or [f"action {i}" if rows > 1 else "action" for i in range(rows)]
    axes.set_ylim(-rows + 0.5, 0.5)
    for row in range(rows):
        axes.text(-0.03, -row, names[row], transform=axes.get_yaxis_transform(), fontsize=9, ha="right", va="center")
    limits = specification.action
    if isinstance(limits, Discrete):
        count = limits.n
        axes.set_xlim(-0.5, count - 0.5)
        axes.plot(np.arange(count), np.zeros(count), linestyle="none", marker="s", color="#e4e4e4", markersize=12)
        (choice,) = axes.plot([], [], linestyle="none", marker="s", color=RED, markersize=12)

        def choose(k: int) -> list[Artist]:
            choice.set_data([actions[k]] if k < len(actions) else [], [0] if k < len(actions) else [])
            return [choice]

        return choose
    largest = np.abs(actions).max(axis=0, initial=0.0)
    full = np.where(largest > 0, largest, 1.0)
    if limits is not None:
        limit = np.maximum(np.abs(limits.low), np.abs(limits.high))
        full = np.where(np.isfinite(limit), limit, full)
    axes.set_xlim(-1.02, 1.02)
    axes.barh(-np.arange(rows), 2.0, left=-1.0, height=0.6, color="#eeeeee")
    axes.plot([0, 0], [-rows + 0.5, 0.5], color="black", linewidth=0.8)
    bars = list(axes.barh(-np.arange(rows), 0.0, height=0.6, color=RED))

    def move(k: int) -> list[Artist]:
        for row, bar in enumerate(bars):
            bar.set_width(actions[k, row] / full[row] if k < len(actions) else 0.0)
        return list(bars)

    return move
