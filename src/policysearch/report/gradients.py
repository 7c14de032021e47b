"""The signal-to-noise ratios of gradient estimators as a picture. No JAX."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from policysearch.verify.diagnosis import Row

#: by what varies; also told by the marker, for those who see no colours
STYLE = {"action": ("#1f5fa8", "o", "actions vary"), "parameter": ("#c4451c", "D", "parameters vary")}


def draw(path: str | os.PathLike[str], rows: Sequence[Row], *, title: str) -> None:
    """Draw a PNG: a row an estimator, its SNR with two standard errors on a logarithmic axis.

    Args:
        path: of the picture.
        rows: in the order in which they are drawn, from the top.
        title: short.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, StrMethodFormatter

    # what shows no signal, or has no noise, stands at an edge
    shown = [row.snr for row in rows if 0 < row.snr < math.inf] or [1.0]
    low, high = min(*shown, 1.0) / 3, max(*shown, 1.0) * 3
    figure = Figure(figsize=(8.0, 1.6 + 0.32 * len(rows)), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    axis.set_title(title, fontsize=11, loc="left", pad=24)
    for place, row in enumerate(rows):
        colour, marker, label = STYLE[row.space]
        first = all(other.space != row.space for other in rows[:place])
        if 0 < row.snr < math.inf:
            reach = [[min(2 * row.snr_error, row.snr - low / 2)], [2 * row.snr_error]]
            axis.errorbar(
                row.snr, place, xerr=reach, color=colour, marker=marker, markersize=5, capsize=3, linestyle="none",
                linewidth=1.2, label=label if first else None,
            )  # fmt: skip
        else:
            noiseless = row.snr > 0
            axis.plot(
                high if noiseless else low, place, color=colour, marker=">" if noiseless else "<", linestyle="none",
                label=label if first else None,
            )  # fmt: skip
            words = "no noise at all " if noiseless else "  no signal seen"
            axis.text(
                high if noiseless else low, place, words, fontsize=8, va="center", ha="right" if noiseless else "left"
            )
    axis.set_xscale("log")
    axis.set_xlim(low / 1.5, high * 1.5)
    axis.xaxis.set_major_locator(LogLocator(numticks=9))
    axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.axvline(1, color="black", linewidth=0.8, linestyle=":")
    axis.set_yticks(range(len(rows)), [row.label for row in rows], fontsize=8)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    most = max(row.rollouts for row in rows)
    axis.set_xlabel(f"signal-to-noise ratio of an estimate from {most} rollouts, ± 2 standard errors", fontsize=9)
    axis.grid(axis="x", alpha=0.25, linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncol=2, frameon=False, fontsize=8, borderaxespad=0.2)
    figure.savefig(path, format="png")
