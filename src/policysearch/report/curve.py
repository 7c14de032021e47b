"""The learning curve as a picture: cost or return, signal-to-noise ratio and KL against rollouts. No JAX."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINE, FINAL = "#1f5fa8", "#c4451c"
#: a positive cost whose largest value is this many times the smallest is shown on a logarithmic axis
DECADES = 30.0


def draw(
    path: str | os.PathLike[str],
    records: Sequence[dict[str, Any]],
    *,
    title: str,
    reward: bool = False,
    final: tuple[float | None, float | None] | None = None,
) -> None:
    """Draw a PNG.

    Args:
        path: of the picture.
        records: one per update, with rollouts, cost and cost_sem (or return and return_sem), and perhaps snr
            and kl (nats per stage).
        title: a short one.
        reward: show returns instead of costs.
        final: mean cost (or return) of the final policy on fresh seeds and its standard error.

    Raises:
        ValueError: there are no records.
    """
    if not records:
        raise ValueError("There are no updates to draw; run at least one.")
    # neither pyplot nor a global style: a picture looks the same whatever else the process does
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, MaxNLocator

    rollouts = _column(records, "rollouts")
    panels = [name for name in ("snr", "kl") if np.isfinite(_column(records, name)).any()]
    figure = Figure(figsize=(7.0, 3.6 + 1.1 * len(panels)), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    ratios = [3.2] + [1.0] * len(panels)
    axes = figure.subplots(len(ratios), 1, sharex=True, squeeze=False, height_ratios=ratios)[:, 0]
    figure.suptitle(title, fontsize=11)
    marker = "o" if len(records) <= 40 else None
    _objective(axes[0], records, reward, final, marker)
    for axis, name in zip(axes[1:], panels, strict=True):
        _quality(axis, rollouts, _column(records, name), name, marker)
    for axis in axes:
        axis.grid(alpha=0.25, linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=9)
    axes[-1].set_xlabel("rollouts")
    axes[-1].xaxis.set_major_formatter(EngFormatter(sep=" "))
    axes[-1].xaxis.set_major_locator(MaxNLocator(7, integer=True, steps=[1, 2, 5, 10]))
    axes[-1].set_xlim(0, 1.03 * float(np.nanmax(rollouts)))
    figure.align_ylabels()
    figure.savefig(path, format="png")


def _objective(
    axis: Axes,
    records: Sequence[dict[str, Any]],
    reward: bool,
    final: tuple[float | None, float | None] | None,
    marker: str | None,
) -> None:
    from matplotlib.ticker import LogLocator, StrMethodFormatter

    noun = "return" if reward else "cost"
    rollouts, mean = _column(records, "rollouts"), _column(records, noun)
    error = 2 * np.nan_to_num(_column(records, f"{noun}_sem"))
    axis.plot(
        rollouts,
        mean,
        color=LINE,
        linewidth=1.2,
        marker=marker,
        markersize=3,
        label=f"mean {noun} while exploring",
    )
    axis.fill_between(
        rollouts, mean - error, mean + error, color=LINE, alpha=0.2, linewidth=0, label="± 2 standard errors"
    )
    shown = mean[np.isfinite(mean)]
    if final is not None and final[0] is not None and np.isfinite(final[0]):
        shown = np.append(shown, final[0])
        axis.errorbar(
            np.nanmax(rollouts),
            final[0],
            yerr=2 * float(np.nan_to_num(final[1] or 0.0)),
            color=FINAL,
            marker="D",
            markersize=5,
            capsize=4,
            linestyle="none",
            clip_on=False,
            zorder=5,
            label="final policy, not exploring",
        )
    if shown.size and not reward and shown.min() > 0 and shown.max() >= DECADES * shown.min():
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        # the band of a noisy cost may reach below zero, which a logarithmic axis cannot show
        axis.set_ylim(0.5 * shown.min(), 2 * shown.max())
    axis.set_ylabel(f"{noun} per rollout")
    axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncol=3, frameon=False, fontsize=8, borderaxespad=0.2)


def _quality(axis: Axes, rollouts: np.ndarray, values: np.ndarray, name: str, marker: str | None) -> None:
    from matplotlib.ticker import StrMethodFormatter

    axis.plot(rollouts, values, color=LINE, linewidth=1.0, marker=marker, markersize=3)
    if name == "kl":
        axis.set_ylabel("KL [nats\nper stage]", fontsize=8)
        axis.set_ylim(bottom=0)
        return
    axis.set_ylabel("gradient\nSNR", fontsize=8)
    axis.axhline(1, color="black", linewidth=0.6, linestyle=":")
    if np.nanmax(np.abs(values)) > 10:
        axis.set_yscale("symlog", linthresh=1.0)
        axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))


def _column(records: Sequence[dict[str, Any]], name: str) -> np.ndarray:
    return np.array([record.get(name, np.nan) for record in records], dtype=np.float64)
