"""Figures of a run's records against rollouts: cost or return, SNR, KL, spread, length, failures. No JAX.

Several runs are overlaid. Long runs are thinned: a point stands for some updates, a band for their range.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from policysearch.core.plain import Plain
from policysearch.report import style
from policysearch.search.progress import magnitude, quantity

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: points of a curve, at most
POINTS = 240
#: a positive cost whose largest value is this many times the smallest is shown on a logarithmic axis
DECADES = 30.0
#: a final cost this many times smaller than all others is drawn at the edge of its figure
FAR = 1e3
Records = Sequence[Mapping[str, float]]


class Drawn(NamedTuple):
    """A figure with its text alternative and its caption."""

    figure: Figure
    alt: str
    caption: str


class Final(NamedTuple):
    """The final policy on fresh seeds: mean and standard error, in the unit of the curve."""

    mean: float
    error: float


class Curve(NamedTuple):
    """Points to draw, (k,) each: rollouts, values, the band's edges (NaN: no band); updates per point."""

    rollouts: np.ndarray
    values: np.ndarray
    low: np.ndarray
    high: np.ndarray
    updates: int


class Quantity(NamedTuple):
    """What a figure shows: a key of the records, its label with unit, a phrase for captions, reference line, scale.

    least: drawn only if some update exceeds this.
    """

    key: str
    label: str
    words: str
    line: float | None = None
    floor: bool = False
    least: float = -np.inf


QUANTITIES = (
    Quantity(
        "snr",
        "gradient SNR [–]",
        "Signal-to-noise ratio of the gradient estimate: its squared length over its variance, without bias. Below 1 "
        "(dotted) the noise exceeds the signal; estimates of a small ratio scatter around zero.",
        1.0,
    ),
    Quantity(
        "kl",
        "KL [nats per stage]",
        "How far an update moves the policy: the KL divergence measured after the step on the same observations.",
        floor=True,
    ),
    Quantity(
        "std",
        "learned std",
        "Exploration spread learned by the method, as a geometric mean: of parameters in the units of the "
        "search, or of actions in their own units.",
    ),
    Quantity(
        "saturated",
        "share of actions beyond limits [–]",
        "Share of the sampled actions beyond their limits, which are clipped without a penalty: "
        "if it is large and the cost does not improve, try action_limit_penalty=0.1.",
        floor=True,
        least=0.05,
    ),
    Quantity("length", "stages per rollout", "Mean number of stages until a rollout ends.", floor=True),
)


def column(records: Records, key: str) -> np.ndarray:
    """A number from each record, (k,); NaN where it is missing or not a number.

    Example:
        >>> column([{"cost": 1.5}, {"cost": "?"}, {}], "cost").tolist()
        [1.5, nan, nan]
    """
    found = []
    for record in records:
        value = record.get(key, math.nan)
        found.append(float(value) if isinstance(value, (int, float)) else math.nan)
    return np.array(found, dtype=np.float64)


def thinned(records: Records, key: str, error: str = "", most: int = POINTS) -> Curve:
    """A curve of at most `most` points.

    Args:
        records: one per update.
        key: of the values.
        error: key of their standard errors; the band is ± 2 of them if a point stands for one update.
        most: points, at most.

    Returns:
        One point per update or, with more than `most` updates, per mean over several, with a band from their
        least to their greatest value.

    Example:
        >>> thinned([{"rollouts": i, "snr": i % 2} for i in range(1, 5)], "snr", most=2)[:4]
        (array([2., 4.]), array([0.5, 0.5]), array([0., 0.]), array([1., 1.]))
    """
    rollouts, values = column(records, "rollouts"), column(records, key)
    per = max(1, -(-len(values) // most))
    if per == 1:
        half = 2 * column(records, error) if error else np.full(len(values), math.nan)
        return Curve(rollouts, values, values - half, values + half, 1)
    starts = range(0, len(values), per)
    bins = [values[start : start + per] for start in starts]
    bins = [part[np.isfinite(part)] for part in bins]
    mean, low, high = (
        np.array([reduce(part) if len(part) else math.nan for part in bins]) for reduce in (np.mean, np.min, np.max)
    )
    last = np.array([rollouts[min(start + per, len(values)) - 1] for start in starts])
    return Curve(last, mean, low, high, per)


def figures(runs: Mapping[str, Records], noun: str, finals: Mapping[str, Final] | None = None) -> list[Drawn]:
    """Figures of the records of some runs of one task.

    Args:
        runs: records by the run's label; one run needs no legend.
        noun: "cost" or "return".
        finals: of the runs that were evaluated.

    Returns:
        Cost or return first; no figures for runs without records.
    """
    runs = {label: records for label, records in runs.items() if records}
    if not runs:
        return []
    drawn = [_objective(runs, noun, finals or {})]
    for shown in QUANTITIES:
        if _is_known(runs, shown):
            drawn.append(_quantity(runs, shown))
    troubles = [name for name in ("failed", "lost") if any(np.nansum(column(r, name)) for r in runs.values())]
    drawn += [_trouble(runs, name) for name in troubles]
    return drawn


def save(
    path: str | os.PathLike[str],
    records: Records,
    *,
    title: str,
    noun: str = "cost",
    final: Final | None = None,
) -> None:
    """Draw the learning curve of a run as a PNG, and below it the SNR and the KL where they are known.

    Args:
        path: of the picture.
        records: one per update.
        title: a short one.
        noun: "cost" or "return".
        final: of the policy, if it was evaluated.

    Raises:
        ValueError: there are no records.
    """
    if not records:
        raise ValueError("There are no updates to draw; run at least one.")
    runs = {title: records}
    panels = [shown for shown in QUANTITIES if shown.key in ("snr", "kl") and _is_known(runs, shown)]
    heights = [3.4] + [1.4] * len(panels)
    figure = style.figure(7.0, sum(heights))
    figure.suptitle(title.replace("$", r"\$"), fontsize=11)
    axes = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    _draw_objective(axes[0], runs, noun, {} if final is None else {title: final})
    for axis, shown in zip(axes[1:], panels, strict=True):
        _draw_quantity(axis, runs, shown)
    for axis in axes:
        axis.label_outer()
    figure.align_ylabels()
    figure.savefig(path, format="png", dpi=130)


def _is_known(runs: Mapping[str, Records], shown: Quantity) -> bool:
    return any(np.any(column(records, shown.key) > shown.least) for records in runs.values())


def _objective(runs: Mapping[str, Records], noun: str, finals: Mapping[str, Final]) -> Drawn:
    figure = _figure(runs)
    curves, arrow = _draw_objective(figure.subplots(), runs, noun, finals)
    alt = " ".join(
        _told(f"The mean {noun} per rollout" + ("" if len(runs) == 1 else f" of {label}"), curve)
        + (f" The final policy's is {quantity(*finals[label])}." if label in finals else "")
        for label, curve in curves.items()
    )
    caption = f"Mean {noun} of the exploring rollouts behind each update."
    caption += _band(curves.values(), " The band is ± 2 standard errors of that mean.")
    if finals:
        caption += (
            f" The diamond is the final policy's mean {noun} on fresh seeds, without exploration, ± 2 standard errors."
        )
    if arrow:
        caption += " An arrow marks one that is far below."
    return Drawn(figure, alt, caption)


def _draw_objective(
    axis: Axes, runs: Mapping[str, Records], noun: str, finals: Mapping[str, Final]
) -> tuple[dict[str, Curve], bool]:
    """The curves, by label, and whether an arrow stands for a final policy."""
    curves = {label: thinned(records, noun, f"{noun}_sem") for label, records in runs.items()}
    seen: list[float] = []
    arrow = False
    for index, (label, curve) in enumerate(curves.items()):
        _draw(axis, curve, index, f"mean {noun} while exploring" if len(runs) == 1 else label)
        own = [float(value) for value in curve.values[np.isfinite(curve.values)]]
        seen += own
        final = finals.get(label)
        if final is None or not math.isfinite(final.mean):
            continue
        far = bool(noun == "cost" and min(own, default=0.0) > 0 and final.mean < min(own) / FAR)
        arrow |= far
        place = min(own) / DECADES if far else final.mean  # an arrow at the edge, so as not to flatten the rest
        seen.append(place)
        words = f"final policy: {final.mean:.3g}, far below" if far else "final policy, not exploring"
        axis.errorbar(
            np.nanmax(curve.rollouts), place, yerr=0.0 if far else 2 * np.nan_to_num(final.error), linestyle="none",
            marker="v" if far else "D", markersize=5, capsize=0 if far else 4, clip_on=False, zorder=5,
            color=style.colour(1) if len(runs) == 1 else style.colour(index), label=words if len(runs) == 1 else None,
        )  # fmt: skip
    _scale(axis, seen, noun)
    _finish(axis, runs, f"{noun} per rollout", legend=True)
    return curves, arrow


def _quantity(runs: Mapping[str, Records], shown: Quantity) -> Drawn:
    figure = _figure(runs)
    curves, predicted = _draw_quantity(figure.subplots(), runs, shown)
    words = shown.words + (" The prediction is from the Fisher matrix, before the step." if predicted else "")
    name = shown.label.split(" [")[0]
    alt = " ".join(
        _told(f"The {name}" + ("" if len(runs) == 1 else f" of {label}"), curve) for label, curve in curves.items()
    )
    return Drawn(figure, alt, words + _band(curves.values(), ""))


def _draw_quantity(axis: Axes, runs: Mapping[str, Records], shown: Quantity) -> tuple[dict[str, Curve], bool]:
    """The curves, by label, and whether the predicted KL is beside the measured one."""
    curves = {label: thinned(records, shown.key) for label, records in runs.items()}
    both = shown.key == "kl" and len(runs) == 1
    for index, (label, curve) in enumerate(curves.items()):
        _draw(axis, curve, index, "measured" if both else label)
    predicted = False
    if both:
        prediction = thinned(next(iter(runs.values())), "kl_predicted")
        predicted = bool(np.isfinite(prediction.values).any())
        if predicted:
            _draw(axis, prediction, 1, "predicted")
    if shown.line is not None:
        axis.axhline(shown.line, color=style.MUTED[0], linewidth=1.0, linestyle=":")
    values = np.concatenate([curve.values for curve in curves.values()])
    if shown.floor and np.nanmin(values) >= 0:
        axis.set_ylim(bottom=0)
    if shown.key == "snr" and np.nanmax(np.abs(values)) > 10:
        from matplotlib.ticker import StrMethodFormatter

        axis.set_yscale("symlog", linthresh=1.0)
        axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    _finish(axis, runs, shown.label, legend=both or len(runs) > 1)
    return curves, predicted


def _trouble(runs: Mapping[str, Records], key: str) -> Drawn:
    from matplotlib.ticker import MaxNLocator

    figure = _figure(runs)
    axis = figure.subplots()
    curves = {label: thinned(records, key) for label, records in runs.items()}
    for index, (label, curve) in enumerate(curves.items()):
        _draw(axis, curve, index, label)
    axis.set_ylim(bottom=0)
    axis.yaxis.set_major_locator(MaxNLocator(5, min_n_ticks=1, integer=True))
    _finish(axis, runs, f"{key} trials per update", legend=len(runs) > 1)
    totals = {label: int(np.nansum(column(records, key))) for label, records in runs.items()}
    alt = "; ".join(
        f"{total} trials {key} in all" + ("" if len(runs) == 1 else f" ({n})") for n, total in totals.items()
    )
    meaning = {
        "failed": "Trials that the policy caused to fail (divergence, a safety stop); they count with a high cost.",
        "lost": "Trials lost by the rig or a worker; they are left out, each with its partner.",
    }[key]
    return Drawn(figure, f"{alt}.", meaning + _band(curves.values(), ""))


def _figure(runs: Mapping[str, Records]) -> Figure:
    """Half a page for one run; for several, room for their names above the data."""
    longest = min(max(map(len, runs)), style.LONGEST)
    rows = 0 if len(runs) == 1 else -(-len(runs) // max(1, int(style.HALF[0] * 12 / (longest + 6))))
    return style.figure(height=style.HALF[1] + 0.18 * max(0, rows - 1))


def _draw(axis: Axes, curve: Curve, index: int, label: str) -> None:
    few = len(curve.values) <= 40
    line = {"linewidth": 1.5, "marker": "o" if few else None, "markersize": 3}
    look: Plain = {"color": style.colour(index), "linestyle": style.dash(index), **line}
    axis.plot(curve.rollouts, curve.values, label=style.plain(label), **look)
    if np.isfinite(curve.low).any():
        axis.fill_between(curve.rollouts, curve.low, curve.high, color=style.colour(index), alpha=0.2, linewidth=0)


def _scale(axis: Axes, seen: Sequence[float], noun: str) -> None:
    from matplotlib.ticker import LogLocator, StrMethodFormatter

    if noun == "cost" and seen and min(seen) > 0 and max(seen) >= DECADES * min(seen):
        axis.set_yscale("log")
        few = max(seen) < 1e3 * min(seen)
        axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if few else (1.0,), numticks=9))
        axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.yaxis.set_minor_formatter("")
        # the band of a noisy cost may reach below zero, which a logarithmic axis cannot show
        axis.set_ylim(0.5 * min(seen), 2 * max(seen))


def _finish(axis: Axes, runs: Mapping[str, Records], label: str, legend: bool) -> None:
    from matplotlib.ticker import EngFormatter, MaxNLocator

    most = max((float(np.nanmax(column(r, "rollouts"), initial=0.0)) for r in runs.values()), default=0.0)
    axis.xaxis.set_major_formatter(EngFormatter(sep=" "))
    axis.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
    axis.set_xlim(0, 1.03 * most or 1.0)
    style.dress(axis, "rollouts", label, legend)


def _told(what: str, curve: Curve) -> str:
    """A sentence with a curve's numbers."""
    finite = np.flatnonzero(np.isfinite(curve.values))
    if not len(finite):
        return f"{what} is unknown."
    values, last = curve.values[finite], magnitude(float(curve.rollouts[finite[-1]]))
    first, end = f"{values[0]:.4g}", f"{values[-1]:.4g}"
    if len(values) == 1 or first == end:
        path = f"is {end} at {last} rollouts"
    else:
        path = f"{'falls' if values[-1] < values[0] else 'rises'} from {first} to {end} within {last} rollouts"
    return f"{what} {path}, between {values.min():.4g} and {values.max():.4g}."


def _band(curves: Iterable[Curve], single: str) -> str:
    """What the band means, for a caption."""
    per = [curve.updates for curve in curves]
    if max(per) == 1:
        return single
    each = f"{per[0]}" if len(set(per)) == 1 else f"{min(per)} to {max(per)}"
    return f" Each point is the mean over {each} updates; the band spans their range."
