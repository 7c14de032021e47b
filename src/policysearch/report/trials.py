"""The section of a report about trials on the user's own machine: outcomes, and the cost of each trial. No JAX."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

from policysearch.report import style
from policysearch.report.learning import Drawn, column
from policysearch.report.page import Page
from policysearch.runs.reader import Run, TrialRecord
from policysearch.search.progress import duration, quantity

#: recent failures, and points of the figure, at most
LAST, POINTS = 20, 4000
#: outcome → number of its colour, marker
MARKS = {"done": (0, "o"), "failed": (1, "X"), "safety stop": (3, "D")}


def describe(page: Page, run: Run) -> None:
    """Add the outcomes of the trials.

    Args:
        page: to add to.
        run: of a rig.
    """
    trials = run.trials
    if not trials:
        page.text("No trial has been handed out yet.")
        return
    purposes = sorted({trial.purpose for trial in trials.values()})
    counts = Counter((trial.status, trial.purpose) for trial in trials.values())
    rows = [
        [status, *(str(counts[status, purpose]) for purpose in purposes)]
        for status in dict.fromkeys(trial.status for trial in trials.values())
    ]
    page.table(
        ["outcome", *purposes], rows, "Trials by outcome and purpose; a trial that is asked waits for its result."
    )
    times = [trial.told for trial in trials.values() if trial.told]
    if times:
        page.text(f"Time from handing out the first trial to the last result: {duration(max(times) - _first(trials))}.")
    drawn = costs(trials)
    if drawn is not None:
        page.figure(*drawn)
    measured = measurements(run)
    if measured is not None:
        page.figure(*measured)
    wrong = [trial for trial in trials.values() if trial.fault is not None]
    if wrong:
        rows = [[str(t.number), t.status, t.fault or "", t.reason, t.notes] for t in wrong[-LAST:]]
        caption = "Trials that did not succeed, the cause, and the reason given."
        if len(wrong) > LAST:
            caption += f" Shown are the last {LAST} of {len(wrong)}."
        head = ["trial", "outcome", "by the", "reason", "notes"]
        kept = len(head) if any(row[-1] for row in rows) else len(head) - 1
        page.table(head[:kept], [row[:kept] for row in rows], caption)


def _first(trials: Mapping[int, TrialRecord]) -> float:
    return min((trial.asked for trial in trials.values() if trial.asked), default=0.0)


def costs(trials: Mapping[int, TrialRecord]) -> Drawn | None:
    """The cost of each trial; None if no cost is known."""
    from matplotlib.ticker import MaxNLocator

    known = [t for t in trials.values() if t.cost is not None and math.isfinite(t.cost)][-POINTS:]
    without = [
        t.number for t in trials.values() if (t.cost is None or not math.isfinite(t.cost)) and t.status != "asked"
    ]
    if not known:
        return None
    figure = style.figure()
    axis = figure.subplots()
    for purpose, fill in (("gradient", "full"), ("measurement", "none")):
        for status in dict.fromkeys(t.status for t in known):
            chosen = [t for t in known if t.purpose == purpose and t.status == status]
            if chosen:
                number, marker = MARKS.get(status, (5, "s"))
                label = status if purpose == "gradient" else f"{status}, measuring the policy itself"
                axis.plot(
                    [t.number for t in chosen], [_float(t.cost) for t in chosen], linestyle="none", marker=marker,
                    markersize=4, fillstyle=fill, label=label,
                    color=style.colour(number if purpose == "gradient" else 2),
                )  # fmt: skip
    if without:
        axis.plot(
            without, [0.02] * len(without), linestyle="none", marker="|", markersize=8, color=style.colour(1),
            transform=axis.get_xaxis_transform(), label="no cost: failed or lost",
        )  # fmt: skip
    values = [_float(t.cost) for t in known]
    if min(values) > 0 and max(values) > 30 * min(values):
        from matplotlib.ticker import StrMethodFormatter

        axis.set_yscale("log")
        axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.yaxis.set_minor_formatter("")
    axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    style.dress(axis, "trial", "cost of the trial", legend=True)
    alt = f"{len(known)} trials cost between {min(values):.4g} and {max(values):.4g}; "
    alt += f"the first ten {_mean(values[:10])} on average, the last ten {_mean(values[-10:])}."
    caption = "Cost of each trial in the order handed out; trials for the gradient perturb the parameters."
    return Drawn(figure, alt, caption + (f" Shown are the last {POINTS}." if len(known) == POINTS else ""))


def _mean(values: list[float]) -> str:
    return f"{sum(values) / len(values):.4g}"


def measurements(run: Run) -> Drawn | None:
    """Cost of the policy itself and of the best so far; None if neither was measured."""
    records = [record for record in run.records if math.isfinite(_float(record.get("measured")))]
    if not records:
        return None
    figure = style.figure()
    axis = figure.subplots()
    rollouts = column(records, "rollouts")
    for index, (key, label, marker) in enumerate(
        (("measured", "the policy then", "o"), ("incumbent", "the best", "D"))
    ):
        values, errors = column(records, key), column(records, f"{key}_error")
        errors[~(errors >= 0)] = 0.0
        axis.errorbar(
            rollouts, values, yerr=2 * errors, marker=marker, markersize=4, capsize=3, linewidth=1.2, label=label,
            color=style.colour(index), linestyle=style.dash(index),
        )  # fmt: skip
    axis.set_xlim(left=0)
    style.dress(axis, "trials", "measured cost", legend=True)
    first, last = records[0], records[-1]
    best = quantity(_float(last.get("incumbent")), _float(last.get("incumbent_error")))
    alt = f"The measured cost goes from {_float(first['measured']):.4g} to {_float(last['measured']):.4g}; "
    caption = "Cost of the policy itself, and of the best one so far, measured alongside; bars are ± 2 standard errors."
    return Drawn(figure, f"{alt}the best is {best}.", caption)


def _float(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan
