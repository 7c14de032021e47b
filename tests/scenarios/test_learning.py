"""Learning curves: what the records of runs show as figures."""

from __future__ import annotations

import numpy as np
import pytest
from test_report_command import records

from policysearch.report import learning
from policysearch.report.learning import Final, thinned


def test_long_runs_are_thinned_to_means_with_their_range():
    rows = [{"rollouts": float(i), "cost": float(i % 4), "cost_sem": 9.0} for i in range(1, 1001)]
    curve = thinned(rows, "cost", "cost_sem", most=250)
    assert curve.updates == 4
    assert np.allclose(curve.values, 1.5)
    assert (curve.low.min(), curve.high.max()) == (0.0, 3.0)
    assert (curve.rollouts[0], curve.rollouts[-1]) == (4.0, 1000.0)
    short = thinned(rows[:10], "cost", "cost_sem")
    assert np.allclose(short.high - short.values, 18.0)
    rows[5]["cost"] = float("nan")
    assert np.allclose(thinned(rows, "cost", most=250).values[1], np.mean([1, 3, 0]))


@pytest.mark.parametrize("count", [1, 2, 50, 2000])
def test_legends_stand_above_the_data_and_every_axis_has_a_label(count):
    runs = {f"a run with a long name {i}": records(count) for i in range(7)}
    for rows in (runs, {"one": records(count)}):
        for drawn in learning.figures(rows, "cost", dict.fromkeys(rows, Final(2.0, 0.1))):
            drawn.figure.canvas.draw()
            axis = drawn.figure.axes[0]
            assert axis.get_xlabel() == "rollouts"
            assert axis.get_ylabel()
            legend = axis.get_legend()
            if legend is not None:
                box = legend.get_window_extent()
                assert box.y0 >= axis.get_window_extent().y1
                assert box.x1 <= drawn.figure.bbox.x1
            if count > learning.POINTS:
                assert "Each point is the mean over 9 updates" in drawn.caption


def test_what_is_not_known_is_no_point():
    rows = records(3)
    for row in rows:
        row["cost"] = row["cost_sem"] = float("nan")
    first = learning.figures({"a": rows}, "cost")[0]
    assert first.alt == "The mean cost per rollout is unknown."
    assert learning.figures({"a": []}, "cost") == []


def test_a_final_cost_far_below_does_not_flatten_the_curve():
    first = learning.figures({"a": records()}, "cost", {"a": Final(1e-12, 0.0)})[0]
    assert first.figure.axes[0].get_ylim()[0] > 1e-3
    assert "arrow" in first.caption
    assert "1e-12" in first.alt


@pytest.mark.parametrize(("most", "drawn"), [(0.04, 0), (0.3, 1)])
def test_saturation_is_drawn_where_there_is_some(most, drawn):
    rows = [{**row, "saturated": most * share} for row, share in zip(records(3), (0.1, 1.0, 0.5), strict=True)]
    shown = [figure.alt for figure in learning.figures({"one": rows}, "cost", {})]
    assert sum("beyond limits" in alt for alt in shown) == drawn
