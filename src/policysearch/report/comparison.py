"""A comparison as figures, and as one HTML page. No JAX."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from policysearch.comparison.summary import Comparison, Row, interval
from policysearch.core.plain import Plain
from policysearch.report.learning import DECADES
from policysearch.report.page import JOINED, Page
from policysearch.report.provenance import BY_RULE
from policysearch.report.style import INK, MUTED, colour, dash, distinct, dress, figure, plain
from policysearch.search.progress import duration

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = "osD^vP"
SECONDS = "seconds of sampling and updating"


def curves(comparison: Comparison, x: str, size: tuple[float, float] | None = None) -> Figure:
    """IQM over seeds of cost or return during the search, with 95 % intervals.

    Args:
        comparison: of one method or more.
        x: "rollouts" or "seconds".
        size: in inches; half a page by default.
    """
    fig = figure(*(size or ()))
    axis = fig.subplots()
    shown, places, names = [], [], _names(comparison)
    for index, method in enumerate(comparison.methods):
        curve = comparison.curve(method)
        place = getattr(curve, x)
        seen = (place > 0) & np.isfinite(curve.value)
        axis.plot(
            place[seen], curve.value[seen], color=colour(index), linestyle=dash(index), linewidth=1.5,
            marker=MARKERS[index % len(MARKERS)], markersize=3, label=names[method],
        )  # fmt: skip
        axis.fill_between(place[seen], curve.low[seen], curve.high[seen], color=colour(index), alpha=0.18, linewidth=0)
        shown.append(curve.value[seen])
        places.append(place[seen])
    values = np.concatenate(shown) if shown else np.array([])
    if comparison.baseline is not None and np.isfinite(comparison.baseline[1]):
        name, mean, _ = comparison.baseline
        axis.axhline(mean, color=MUTED[0], linewidth=1.1, linestyle=(0, (2, 2)), label=plain(f"{name}, not searched"))
        values = np.append(values, mean)
    _logarithmic(axis, "x", np.concatenate(places), prefixes=x == "rollouts")
    _scaled(axis, values, comparison)
    label = "rollouts of the search" if x == "rollouts" else SECONDS + " [s]"
    dress(axis, label, f"{comparison.noun} of the policy, IQM", legend=True)
    return fig


def _scaled(axis: Axes, values: np.ndarray, comparison: Comparison, along: str = "y") -> None:
    """A logarithmic axis if positive costs span decades."""
    good = values[np.isfinite(values)]
    if good.size and not comparison.specification.returns and good.min() > 0 and good.max() >= DECADES * good.min():
        _logarithmic(axis, along, good)


def _logarithmic(axis: Axes, along: str, values: np.ndarray, prefixes: bool = True) -> None:
    """Plain numbers at 1, 2, 5, or at powers of ten where these are many; nothing without positive values."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter, StrMethodFormatter

    if not (np.isfinite(values) & (values > 0)).any():
        return

    chosen = axis.yaxis if along == "y" else axis.xaxis
    (axis.set_yscale if along == "y" else axis.set_xscale)("log")
    low, high = sorted(chosen.get_view_interval())
    few = high < 300 * max(low, 1e-300)
    chosen.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if few else (1.0,), numticks=9))
    chosen.set_major_formatter(EngFormatter(sep=" ") if prefixes else StrMethodFormatter("{x:g}"))
    chosen.set_minor_formatter(NullFormatter())


def ends(comparison: Comparison) -> Figure:
    """Cost or return of each seed's last policy, with the IQM of its method."""
    rows, names = comparison.table(), _names(comparison)
    fig = figure(height=1.3 + 0.42 * len(rows))
    axis = fig.subplots()
    everything = []
    for place, row in enumerate(rows):
        index = comparison.methods.index(row.method)
        values = comparison.values(row.method)
        good = values[np.isfinite(values)]
        everything.append(good)
        spread = np.linspace(-0.16, 0.16, len(good)) if len(good) > 1 else np.zeros(len(good))
        axis.plot(
            good, place + spread, linestyle="none", marker=MARKERS[index % len(MARKERS)], markersize=4.5,
            color=colour(index), alpha=0.75, markeredgewidth=0,
        )  # fmt: skip
        if np.isfinite(row.iqm.value):
            if np.isfinite([row.iqm.low, row.iqm.high]).all():
                axis.plot([row.iqm.low, row.iqm.high], [place + 0.3] * 2, color=INK[0], linewidth=1.4)
            axis.plot(row.iqm.value, place + 0.3, color=INK[0], marker="|", markersize=9, markeredgewidth=1.6)
    if comparison.baseline is not None and np.isfinite(comparison.baseline[1]):
        axis.axvline(comparison.baseline[1], color=MUTED[0], linewidth=1.1, linestyle=(0, (2, 2)))
        everything.append(np.array([comparison.baseline[1]]))
    axis.set_yticks(range(len(rows)), [names[row.method] for row in rows])
    axis.set_ylim(len(rows) - 0.4, -0.6)
    _scaled(axis, np.concatenate(everything), comparison, "x")
    dress(axis, f"final {comparison.noun}, one mark per seed")
    return fig


def _names(comparison: Comparison) -> dict[str, str]:
    """The methods' names in figures."""
    methods = comparison.methods
    return {method: plain(name) for method, name in zip(methods, distinct(methods), strict=True)}


def reached(comparison: Comparison) -> Figure:
    """Share of seeds that have met the criterion, against rollouts."""
    fig = figure()
    axis = fig.subplots()
    names = _names(comparison)
    most = max(cell.final.rollouts for cell in comparison.cells)
    least = most
    for index, method in enumerate(comparison.methods):
        cells = comparison.of(method)
        when = sorted(point.rollouts for cell in cells if (point := cell.reached) is not None)
        least = min([least, *(max(1, w) for w in when)])
        x = [0.0, *map(float, when), float(most)]
        y = [0.0, *(np.arange(1, len(when) + 1) / len(cells)), len(when) / len(cells)]
        axis.step(
            np.maximum(x, 1e-9), 100 * np.array(y), where="post", color=colour(index), linestyle=dash(index),
            linewidth=1.6, label=names[method],
        )  # fmt: skip
    axis.set_xlim(least / 2, most * 1.1)
    _logarithmic(axis, "x", np.array([most]))
    axis.set_ylim(-4, 104)
    dress(axis, "rollouts of the search", "seeds that met the criterion [%]", legend=True)
    return fig


def table(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table of results."""
    value = f"{comparison.noun}, IQM (95 %)"
    to = ["rollouts to solve", "seconds to solve", "reached by"]
    head = ["method", "solved", value, "median", *to, "rollouts", "seconds", "failed"]
    rows = [_cells(row) for row in comparison.table()]
    if not comparison.criterion:
        keep = [0, 2, 3, 7, 8, 9]
        return [head[i] for i in keep], [[row[i] for i in keep] for row in rows]
    return head, rows


def _cells(row: Row) -> list[str]:
    return [
        row.method,
        "–" if row.solved is None else f"{row.solved} of {row.seeds}",
        interval(row.iqm),
        f"{row.median:.4g}" if np.isfinite(row.median) else "–",
        "–" if row.rollouts is None else f"{row.rollouts:.0f}",
        "–" if row.seconds is None else _short(row.seconds),
        f"{row.reached} of {row.seeds}",
        f"{row.spent:.0f}",
        _short(row.took),
        f"{100 * row.failed:.0f} %" if row.failed else "0",
    ]


def _short(seconds: float) -> str:
    return f"{seconds:.2g}" if seconds < 10 else f"{seconds:.0f}"


def write(comparison: Comparison, path: str | os.PathLike[str], about: Plain | None = None) -> Path:
    """Write the page of a comparison.

    Args:
        comparison: finished or not.
        path: of the HTML file, in a folder that exists.
        about: what `cells.configuration` gives, for the section on how it was made.

    Returns:
        The path.
    """
    spec, methods = comparison.specification, comparison.methods
    seeds = max(len(comparison.of(method)) for method in methods)
    page = Page(f"{spec.name}: {len(methods)} method{'s' * (len(methods) > 1)} compared", ", ".join(methods))
    page.section("Results")
    missing = [method for method in (about or {}).get("methods", {}) if method not in methods]
    if missing:
        page.note(f"Not finished: no search of {', '.join(missing)} has ended yet.")
    for sentence in comparison.words():
        page.text(sentence)
    head, rows = table(comparison)
    page.table([name.replace(" %", "\u00a0%") for name in head], rows, _table_caption(comparison))
    page.section("During the search")
    band = (
        f"Lines: interquartile mean over {seeds} seeds of the policy without exploration, on "
        f"{comparison.evaluation_rollouts} evaluation rollouts, the same for all. Bands: 95 % bootstrap "
        "intervals over seeds."
    )
    finals = ", ".join(f"{row.method} {row.iqm.value:.4g}" for row in comparison.table())
    base = ""
    if comparison.baseline is not None:
        name, mean, _ = comparison.baseline
        base = f" Dotted: {name} ({mean:.4g}), a regulator that knows the plant's equations, for orientation."
    page.figure(
        curves(comparison, "rollouts"),
        f"{comparison.noun} against rollouts for each method; they end at {finals}.",
        f"{band}{base}",
    )
    page.figure(
        curves(comparison, "seconds"),
        f"{comparison.noun} against seconds for each method; they end at {finals}.",
        f"The same against time. {_seconds(comparison)}",
    )
    page.figure(
        ends(comparison),
        f"Each seed's final {comparison.noun} by method; IQM: {finals}.",
        "Each mark is one seed's last policy, on fresh seeds. Below, the IQM with its 95 % interval.",
    )
    if any(cell.reached for cell in comparison.cells):
        counts = ", ".join(f"{row.method} {row.reached} of {row.seeds}" for row in comparison.table())
        page.figure(
            reached(comparison),
            f"Share of seeds that met the criterion against rollouts; in the end {counts}.",
            f"Seeds whose policy met the criterion at a point of its curve: {comparison.criterion}.",
        )
    if len(methods) > 1:
        page.section("Which is better")
        _pairs(page, comparison)
    page.section("How it was made")
    page.facts(
        {
            "task": spec.name,
            "budget per search": comparison.spent,
            "seeds": seeds,
            "criterion": comparison.criterion or "none",
            "evaluation rollouts per point": comparison.evaluation_rollouts,
            "horizon": f"{spec.horizon} stages" + (f" of {spec.dt:g} s" if spec.dt else ""),
        }
    )
    if about:
        settings, chosen = (about["about"].get(name, {}) for name in ("settings", "chosen"))
        rows = [[m, _settings(settings.get(m, about["methods"][m]), chosen.get(m, {}))] for m in methods]
        page.table(
            ["method", "settings"],
            rows,
            "The methods, with every setting that is not off; settings left open follow from the task by rule.",
        )
        made = {
            "command": " ".join(map(str, about.get("command", []))),
            "started": about.get("started", ""),
            "platform": about.get("platform", ""),
            **{f"version of {name}": version for name, version in about.get("versions", {}).items()},
        }
        page.facts(made)
    return page.write(path)


def _pairs(page: Page, comparison: Comparison) -> None:
    """Add the table of which method is better; if labels are long, columns are named by the row numbers."""
    methods = comparison.methods
    rows, columns, hint = list(methods), list(methods), ""
    if max(map(len, methods)) > JOINED:
        columns = [str(number) for number, _ in enumerate(methods, 1)]
        rows = [f"{number}: {method}" for number, method in zip(columns, methods, strict=True)]
        hint = " Columns are named by the row numbers."
    page.table(
        ["P(row better than column)", *columns],
        [
            [name, *("" if a == b else interval(comparison.improvement(a, b), 2) for b in methods)]
            for name, a in zip(rows, methods, strict=True)
        ],
        "Probability that a seed of the row ends better than one of the column, with its 95 % interval (Newcombe) from "
        f"four seeds on. 0.5 is a toss-up; an interval that includes it leaves the question open.{hint}",
    )


def _settings(settings: Plain | str, chosen: Plain) -> str:
    """Settings by name in one line; those chosen by rule are marked."""
    if not isinstance(settings, dict):
        return str(settings)
    off = (None, False, "none")
    return ", ".join(
        (f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}")
        + (f" {BY_RULE}" if name in chosen else "")
        for name, value in {**settings, **chosen}.items()
        if value not in off
    )


def _table_caption(comparison: Comparison) -> str:
    text = "Best first. Final values are measured on seeds that no search and no curve has used."
    if comparison.criterion:
        text += (
            f" Solved: {comparison.criterion}. Rollouts and seconds to solve: to the first point of a curve at which "
            "the criterion is met, medians over the seeds that reached it."
        )
    return text


def _seconds(comparison: Comparison) -> str:
    together = max(cell.together for cell in comparison.cells)
    text = "Seconds are for sampling and updating, without evaluations."
    if together > 1:
        longest = max(cell.compilation for cell in comparison.cells)
        text += " Seeds that ran in one program share its time evenly; compilation, which is left out, took up to "
        text += f"{duration(longest)} per method."
    return text


def headline(comparison: Comparison) -> str:
    """The title of the picture."""
    return f"{plain(comparison.specification.name)}, {comparison.spent} per search"


def save_picture(comparison: Comparison, path: str | os.PathLike[str]) -> None:
    """Write the curve against rollouts as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    fig = curves(comparison, "rollouts", (7.0, 4.2))
    fig.suptitle(headline(comparison), fontsize=11)
    FigureCanvasAgg(fig)
    fig.savefig(path, format="png", dpi=130)
