"""The learning curve shows what the records say, and leaves the process as it was."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure

from policysearch.report import learning


def records(count: int = 20, **columns) -> list[dict[str, float]]:
    rows = [{"rollouts": 10.0 * (i + 1), "cost": 5.0 - 0.1 * i, "cost_sem": 0.1} for i in range(count)]
    for name, values in columns.items():
        for row, value in zip(rows, values, strict=True):
            row[name] = float(value)
    return rows


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """A function that draws to a file and returns the figure."""
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (figures.append(self), save(self, *a, **k)))

    def draw(rows, **options):
        learning.save(tmp_path / "curve.png", rows, title="lqr", **options)
        assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
        return figures[-1]

    return draw


def test_costs_and_the_final_evaluation_stand_where_the_records_say(drawn):
    figure = drawn(records(), final=learning.Final(2.5, 0.05))
    axis = figure.axes[0]
    line = axis.lines[0]
    assert np.allclose(line.get_xdata(), 10.0 * np.arange(1, 21))
    assert np.allclose(line.get_ydata(), 5.0 - 0.1 * np.arange(20))
    point = axis.containers[0].lines[0]
    assert (point.get_xdata()[0], point.get_ydata()[0]) == (200.0, 2.5)
    bar = axis.containers[0].lines[2][0].get_segments()[0]
    assert np.allclose(bar[:, 1], [2.4, 2.6])
    band = axis.collections[0].get_paths()[0].vertices
    assert np.isclose(band[:, 1].max(), 5.2)


def test_a_positive_cost_over_decades_gets_a_logarithmic_axis(drawn):
    decay = 100 * np.exp(-np.arange(20) / 3)
    assert drawn(records(cost=decay)).axes[0].get_yscale() == "log"
    assert drawn(records(cost=decay - 1)).axes[0].get_yscale() == "linear"
    assert drawn(records()).axes[0].get_yscale() == "linear"


def test_returns_are_shown_for_tasks_with_rewards(drawn):
    figure = drawn(records(**{"return": np.arange(20), "return_sem": np.ones(20)}), noun="return")
    assert figure.axes[0].get_ylabel().startswith("return")
    assert np.allclose(figure.axes[0].lines[0].get_ydata(), np.arange(20))


def test_panels_of_snr_and_kl_appear_only_with_numbers(drawn):
    assert len(drawn(records()).axes) == 1
    assert len(drawn(records(snr=np.full(20, np.nan))).axes) == 1
    figure = drawn(records(snr=np.arange(20) - 1.0, kl=np.full(20, 0.01)))
    assert [axis.get_ylabel().split()[0] for axis in figure.axes] == ["cost", "gradient", "KL"]


@pytest.mark.parametrize("count", [1, 2, 500])
def test_any_number_of_updates_and_missing_costs_can_be_drawn(drawn, count):
    rows = records(count)
    rows[0]["cost"] = rows[0]["cost_sem"] = float("nan")
    drawn(rows, final=learning.Final(float("nan"), float("nan")))


def test_the_legend_stands_above_the_data_and_fits(drawn):
    figure = drawn(records(**{"return": np.ones(20)}), final=learning.Final(2.5, 0.05), noun="return")
    legend, axis = figure.axes[0].get_legend().get_window_extent(), figure.axes[0].get_window_extent()
    assert legend.y0 >= axis.y1
    assert legend.x1 <= axis.x1


def test_nothing_to_draw_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no updates"):
        learning.save(tmp_path / "curve.png", [], title="")


def test_drawing_imports_neither_pyplot_nor_jax(tmp_path):
    code = (
        "import sys\n"
        "from policysearch.report import learning\n"
        "assert 'matplotlib' not in sys.modules\n"
        "learning.save(sys.argv[1], [{'rollouts': 1.0, 'cost': 2.0}], title='x')\n"
        "assert 'matplotlib.pyplot' not in sys.modules and 'jax' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "curve.png")], check=True)
