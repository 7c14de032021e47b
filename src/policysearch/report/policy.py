"""The section of a report about the policy: gains in physical units, named numbers, a network in words. No JAX.

p observations, m actions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from policysearch.core.controller import Controller
from policysearch.core.interface import Interface
from policysearch.report.page import Page

#: rows and columns of a matrix that are printed
MOST_ROWS, MOST_COLUMNS = 100, 40
_NOISE = "Methods that perturb parameters, and evaluations, run without this noise."


def describe(page: Page, controller: Controller, best: tuple[str, np.ndarray] | None = None) -> None:
    """Add a description of a policy.

    Args:
        page: to add to.
        controller: the policy; unknown names are replaced by numbers.
        best: what to compare a gain matrix with: what it is, and the matrix (m, p).
    """
    if controller.outputs == "numbers":
        _named_numbers(page, controller)
        return
    p, m = controller.observation_size, controller.action_size
    observations = _names(controller.interface.observation_names, p, "observation")
    noun = "choice" if controller.discrete else "action"
    actions = _names(controller.interface.action_names, m, noun)
    account = controller.record.account()
    for what, content in account:
        if what == "text":
            page.text(content)
        else:
            page.table(*content)
    if account:
        page.text(f"Its actions are {clipped(controller.interface)}.")
        _limits(page, controller, actions)
        return
    if controller.policy == "linear_gaussian":
        _gain(page, controller, observations, actions, best)
    else:
        _network(page, controller, noun)
    _limits(page, controller, actions)
    std = controller.parameters.get("log_std", controller.constants.get("log_std"))
    if std is not None:
        rows = [[name, f"{value:.4g}"] for name, value in zip(actions, controller.std, strict=True)][:MOST_ROWS]
        page.table(["action", "std"], rows, f"Standard deviation of the policy's actions. {_NOISE}")
    if controller.policy != "linear_gaussian":
        _scaling(page, controller, observations)


def _gain(
    page: Page,
    controller: Controller,
    observations: Sequence[str],
    actions: Sequence[str],
    best: tuple[str, np.ndarray] | None,
) -> None:
    gain, offset = physical_gain(controller)
    mask = controller.constants.get("mask")
    free = np.ones(gain.shape, bool) if mask is None else mask.astype(bool)
    page.text(
        f"A gain matrix: u = K x{' + k' if offset.any() else ''}, {clipped(controller.interface)}; "
        f"{np.count_nonzero(free)} searched gains, in the units of observations and actions."
    )
    _matrix(page, gain, observations, actions, "K as found.", free)
    if offset.any():
        page.table(["action", "k"], [[n, f"{v:.5g}"] for n, v in zip(actions, offset, strict=True)], "Offset k.")
    if best is not None and best[1].shape == gain.shape:
        _matrix(page, best[1], observations, actions, best[0])
        distance = np.linalg.norm(gain - best[1]) / np.linalg.norm(best[1])
        page.text(f"The gain found differs from this by {100 * distance:.2g} % of its Frobenius norm.")


def physical_gain(controller: Controller) -> tuple[np.ndarray, np.ndarray]:
    """K (m, p) and k (m,) with u = K x + k of a linear policy, for observations in their own units.

    Raises:
        ValueError: a different kind of policy.
    """
    if controller.policy != "linear_gaussian":
        raise ValueError(f"A {controller.policy} policy has no gain matrix.")
    zero = np.zeros(controller.observation_size)
    offset = controller.output(zero)
    scale = controller.constants.get("scaling_scale", np.ones(len(zero)))
    mask, gain = controller.constants.get("mask"), controller.parameters["gain"]
    if mask is not None:
        full = np.zeros(mask.shape)
        full[mask.astype(bool)] = gain
        gain = full
    return gain / scale, offset


def _matrix(
    page: Page,
    matrix: np.ndarray,
    observations: Sequence[str],
    actions: Sequence[str],
    caption: str,
    free: np.ndarray | None = None,
) -> None:
    """A matrix, one row per action; entries that are not `free` are dashes."""
    if matrix.shape[1] > MOST_COLUMNS or matrix.shape[0] > MOST_ROWS:
        caption += f" Shown are the first of {matrix.shape[0]} × {matrix.shape[1]} entries."
    rows = []
    for i, name in enumerate(actions[:MOST_ROWS]):
        cells = [f"{value:.5g}" for value in matrix[i, :MOST_COLUMNS]]
        if free is not None:
            cells = [cell if free[i, j] else "–" for j, cell in enumerate(cells)]
        rows.append([name, *cells])
    if free is not None and not free.all():
        caption += " Dashes are entries held at 0."
    page.table(["", *observations[:MOST_COLUMNS]], rows, caption)


def _named_numbers(page: Page, controller: Controller) -> None:
    constants, names = controller.constants, list(controller.description["names"])
    values = controller.values()
    rows = [
        [
            name,
            f"{values[name]:.6g}",
            f"{constants['initial'][i]:.6g}",
            _limit(constants["low"][i]),
            _limit(constants["high"][i]),
            "logarithmic" if constants["log"][i] else "linear",
        ]
        for i, name in enumerate(names[:MOST_ROWS])
    ]
    caption = "Named numbers: the values found, the initial values, and the bounds."
    if len(names) > MOST_ROWS:
        caption += f" Shown are the first {MOST_ROWS} of {len(names)}."
    page.table(["name", "value", "initial", "lowest", "highest", "searched as"], rows, caption)


def _network(page: Page, controller: Controller, noun: str) -> None:
    arrays = {**controller.constants, **controller.parameters}
    layers = [arrays[f"weight_{i}"] for i in range(sum(name.startswith("weight_") for name in arrays))]
    sizes = [controller.observation_size, *(len(layer) for layer in layers)]
    count = sum(controller.parameters[name].size for name in controller.searched)
    what = {"softmax": "A softmax policy", "neural_gaussian": "A Gaussian policy whose mean is a network"}
    text = f"{what[controller.policy]}: {sizes[0]} observations, "
    if len(layers) > 1:
        hidden = ", ".join(map(str, sizes[1:-1]))
        text += f"hidden layers of {hidden} units with {controller.description['activation']}, "
    plural = "" if sizes[-1] == 1 else "s"
    within = "" if controller.discrete else f", {clipped(controller.interface)}"
    page.text(f"{text}{sizes[-1]} {noun}{plural}{within}; {count} searched parameters.")
    rows = [
        [str(number), str(inputs), str(outputs), f"{np.linalg.norm(layer):.4g}"]
        for number, (layer, inputs, outputs) in enumerate(zip(layers, sizes[:-1], sizes[1:], strict=True), 1)
    ]
    page.table(
        ["layer", "inputs", "outputs", "norm"],
        rows,
        "Layers, with the Frobenius norm of their weights.",
    )


def _scaling(page: Page, controller: Controller, observations: Sequence[str]) -> None:
    shift, scale = (controller.constants.get(f"scaling_{name}") for name in ("shift", "scale"))
    if shift is None or scale is None:
        return
    rows = [[name, f"{a:.4g}", f"{b:.4g}"] for name, a, b in zip(observations, shift, scale, strict=True)][:MOST_ROWS]
    page.table(["observation", "shift", "scale"], rows, "Scaling inside the policy: (observation − shift)/scale.")


def clipped(interface: Interface) -> str:
    """The limits of continuous actions in words.

    Example:
        >>> from policysearch import Continuous
        >>> clipped(Interface(limits=Continuous([-10], [10]), action_names=["force [N]"]))
        'clipped to ±10 N'
    """
    limits, units = interface.limits, {*interface.action_units} or {""}
    if limits is None:
        return "not clipped, because its limits are unknown"
    sides = {*zip(limits.low, limits.high, strict=True)}
    if len(sides) > 1 or len(units) > 1:
        return "each clipped to its own limits"
    (low, high), unit = sides.pop(), f" {units.pop()}".rstrip()
    if not np.isfinite([low, high]).any():
        return "without limits"
    if low == -high:
        return f"clipped to ±{high:.6g}{unit}"
    words = {f"at least {low:.6g}{unit}": low, f"at most {high:.6g}{unit}": high}
    return f"clipped to {' and '.join(word for word, limit in words.items() if np.isfinite(limit))}"


def _limits(page: Page, controller: Controller, actions: Sequence[str]) -> None:
    """Limits that differ between actions, and how often the controller acts."""
    interface = controller.interface
    limits = interface.limits
    if limits is not None and len({*zip(limits.low, limits.high, strict=True)} | {*interface.action_units}) > 1:
        rows = [[n, _limit(lo), _limit(hi)] for n, lo, hi in zip(actions, limits.low, limits.high, strict=True)]
        page.table(["action", "lowest", "highest"], rows[:MOST_ROWS], "Limits that actions are clipped to.")
    if interface.dt is not None:
        page.text(f"It acts every {interface.hold * interface.dt:.6g} s.")


def _names(given: Sequence[str], count: int, noun: str) -> list[str]:
    if len(given) == count:
        return list(given)
    return [noun] if count == 1 else [f"{noun} {i}" for i in range(count)]


def _limit(value: float) -> str:
    return f"{value:.6g}" if np.isfinite(value) else "–"
