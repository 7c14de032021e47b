"""What a search shows while it runs: on terminals of any width, in logs, in notebooks; the curve in one line."""

from __future__ import annotations

import io
import math
import re

import pytest

from policysearch import train
from policysearch.search import progress as module
from policysearch.search.progress import Progress, folded, quantity, wrapped
from policysearch.search.sparkline import Sparkline


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def record(update: int, **more: float) -> dict[str, float]:
    share = update / 1000
    numbers = {"update": float(update), "share": share, "cost": 3.14159 + 1 / update, "cost_sem": 0.0213, "snr": 5.17}
    return numbers | {"stages_per_second": 1.234e6, "failed": 2.0 * (update == 1)} | more


@pytest.fixture
def terminal(monkeypatch):
    """A function that makes the terminal of this process so many columns wide."""
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLORTERM", "JUPYTER_COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")

    def wide(columns: int) -> None:
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("LINES", "24")

    return wide


# logs


def test_a_log_gets_few_lines_however_many_updates_there_are():
    stream = io.StringIO()
    with Progress("lqr, gpomdp, seed 0", "runs/x", stream=stream) as progress:
        for update in range(1, 1001):
            progress.update(record(update))
    lines = stream.getvalue().splitlines()
    assert lines[0] == "lqr, gpomdp, seed 0 → runs/x"
    updates = [line for line in lines[1:] if not line.startswith("  ")]
    assert [line.split()[1] for line in updates] == [*(str(2**i) for i in range(10)), "1000"]
    assert lines[1] == "update 1  cost 4.142 ± 0.021  SNR 5.2  1.2M stages/s  0 %  2 failed"
    assert "left" in updates[-2]
    assert updates[-1] == "update 1000  cost 3.143 ± 0.021  SNR 5.2  1.2M stages/s  100 %  2 failed"


def test_the_last_update_stands_in_a_log_once_and_before_a_remark():
    stream = io.StringIO()
    with Progress("t", stream=stream) as progress:
        for update in (1, 2, 3):
            progress.update(record(update))
        progress.note("evaluating")
    assert [line.split()[:2] for line in stream.getvalue().splitlines()] == [
        ["t"],
        ["update", "1"],
        ["update", "2"],
        ["update", "3"],
        ["evaluating"],
    ]


def test_lines_of_a_log_fit_80_columns_and_numbers_stay_whole():
    stream = io.StringIO()
    with Progress("t", stream=stream) as progress:
        progress.update(record(123456, cost=-123456.7, cost_sem=1.5, failed=123.0, lost=45.0, share=0.271))
    assert stream.getvalue().splitlines()[1:] == [
        "update 123456  cost -123456.7 ± 1.5  SNR 5.2  1.2M stages/s  27 %  123 failed",
        "  45 lost",
    ]


def test_a_terminal_that_can_do_nothing_is_a_log(terminal, monkeypatch):
    terminal(80)
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    with Progress("t", stream=stream) as progress:
        progress.update(record(1))
    assert "\x1b" not in stream.getvalue()
    assert "update 1" in stream.getvalue()


def test_failures_are_counted_over_all_updates():
    stream = io.StringIO()
    with Progress("t", stream=stream) as progress:
        for failed, lost in ((2.0, 0.0), (0.0, 1.0), (math.nan, 0.0), (3.0, 0.0)):
            progress.update(record(1, failed=failed, lost=lost))
    assert "5 failed  1 lost" in stream.getvalue().splitlines()[-1]


def test_several_searches_are_shown_by_name_with_and_without_records():
    stream = io.StringIO()
    with Progress("t", stream=stream) as progress:
        progress.step("ars", {}, 0.0)
        progress.step("ars", record(7), 0.25)
    assert stream.getvalue().splitlines()[1].startswith("ars  0 %")
    assert stream.getvalue().splitlines()[2].startswith("ars  update 7  cost")


# terminals


@pytest.mark.parametrize("columns", [20, 40, 60, 80, 200])
def test_a_view_fits_its_terminal_and_no_number_is_cut(columns, terminal):
    terminal(columns)
    stream = Terminal()
    with Progress("a-task-name " * 12 + "seed 4", stream=stream) as progress:
        for update in range(1, 201):
            progress.update(record(update, lost=1.0))
        progress.note("training leaves out a survival bonus of 1 a stage; returns and evaluations have it")
        lines = progress._render().plain.splitlines()
    assert max(map(len, lines)) <= columns - 1
    words = " ".join(lines)
    for part in ("seed 4", "20 %", "left", "update 200", "cost 3.147 ± 0.021", "SNR 5.2", "1.2M stages/s", "2 failed"):
        assert part in words
    assert "200 lost" in words
    assert ("cost █" in words) == (columns >= 40)
    assert "evaluations have it" in words


def test_a_view_on_80_columns_has_a_title_a_bar_numbers_and_a_curve(terminal, monkeypatch):
    terminal(80)
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    shown = Progress("lqr, gpomdp, seed 0", stream=Terminal())
    for update in range(1, 501):
        now[0] += 1.0
        shown.update(record(update))
    title, bar, numbers, curve = ["".join(text for text, _ in line) for line in shown._lines(79)]
    assert title == "lqr, gpomdp, seed 0"
    assert bar == "━" * 15 + "─" * 15 + "  50 %  8 min, 8 min left"
    assert numbers == "update 500  cost 3.144 ± 0.021  SNR 5.2  1.2M stages/s  2 failed"
    assert re.fullmatch(r"cost █▂▂▁+  3\.14 to 3\.2\d", curve)


def test_a_terminal_gets_the_view_and_is_left_as_it_was_unless_it_is_to_stay(terminal):
    terminal(80)
    for stay in (False, True):
        stream = Terminal()
        with Progress("a title", stream=stream, stay=stay) as progress:
            progress.update(record(500))
        text = stream.getvalue()
        assert "update 500" in text
        assert text.endswith("\x1b[2K") != stay, "the view is erased"
        assert "\x1b[36m" in text, "in colour"


def test_no_colour_is_used_where_the_user_wants_none(terminal, monkeypatch):
    terminal(80)
    monkeypatch.setenv("NO_COLOR", "1")
    stream = Terminal()
    with Progress("a title", stream=stream) as progress:
        progress.update(record(500))
        progress.note("a remark")
    text = stream.getvalue()
    assert "update 500" in text
    assert "a remark" in text
    assert not re.search(r"\x1b\[[\d;]*\b[349]\dm", text)


def test_time_left_follows_the_recent_speed(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    shown = Progress("t", "p", stream=io.StringIO())
    for update in range(1, 101):
        now[0] += 60.0 if update <= 2 else 1.0  # the first two compile
        shown.update(record(update))
    assert shown._left(0.1) == pytest.approx(900.0)


def test_results_are_broken_at_words_on_a_terminal_only(terminal):
    terminal(40)
    text = "solved: pole within 0.2 rad of upright in 95 of 100 rollouts\nsaved: /a/long-path/that-must-stay-whole/x"
    assert wrapped(text, io.StringIO()) == text
    lines = wrapped(text, Terminal()).splitlines()
    assert lines[:2] == ["solved: pole within 0.2 rad of upright", "  in 95 of 100 rollouts"]
    assert lines[2:] == ["saved:", "  /a/long-path/that-must-stay-whole/x"]


# Python and notebooks


def test_training_from_python_is_silent_unless_asked(capsys):
    seen = []
    train("bowl", "weight_perturbation", budget="3updates", on_update=seen.append)
    assert capsys.readouterr() == ("", "")
    train("bowl", "weight_perturbation", budget="3updates", on_update=seen.append, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines[0] == "bowl, weight_perturbation, seed 0"
    assert [line.split()[1] for line in lines[1:4]] == ["1", "2", "3"]
    assert re.fullmatch(r"cost \S+( ± \S+)? on fresh seeds; budget spent", lines[-1])
    assert len(seen) == 6


def test_a_notebook_has_one_view_that_is_replaced():
    """Run by a kernel of its own; the saved notebook holds what somebody sees."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    code = (
        "from policysearch import train\n"
        "seen = []\n"
        "result = train('bowl', 'weight_perturbation', budget='300updates', on_update=seen.append, progress=True)\n"
        "len(seen)"
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    messages = []
    client = nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3")
    handle = client.process_message
    client.process_message = lambda message, *more: (messages.append(message), handle(message, *more))[1]
    client.execute()
    view, count = notebook.cells[0].outputs
    assert count["data"]["text/plain"] == "300"
    lines = view["data"]["text/plain"].splitlines()
    assert lines[0] == "bowl, weight_perturbation, seed 0"
    assert lines[1].startswith("━" * 30 + "  100 %")
    assert lines[2].startswith("update 300  cost")
    assert lines[-1].endswith("on fresh seeds; budget spent")
    kinds = [message["msg_type"] for message in messages]
    first = messages[kinds.index("display_data")]["content"]["data"]["text/plain"]
    assert first == "bowl, weight_perturbation, seed 0\npreparing"
    assert kinds.count("display_data") == 1
    # the first, those at most four times a second, two remarks, the last
    assert 2 <= kinds.count("update_display_data") < 300


# numbers


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (3.14159, 0.0213, "3.142 ± 0.021"),
        (-1234.5, 87.0, "-1234 ± 87"),
        (5.0, 0.0, "5"),
        (float("nan"), 1.0, "unknown"),
        (None, None, "unknown"),
        (1.234e-5, 2e-7, "1.234e-05 ± 2e-07"),
    ],
)
def test_a_measured_number_is_rounded_at_its_standard_error(value, error, words):
    assert quantity(value, error) == words


def test_parts_share_a_line_as_far_as_it_goes():
    assert folded(["aaaa", "bbbb"], 10) == ["aaaa  bbbb"]
    assert folded(["aaaa", "bbbb"], 9, " ") == ["aaaa", " bbbb"]


def test_a_part_wider_than_a_line_ends_with_a_mark():
    assert folded(["a" * 30, "b"], 10) == ["a" * 9 + "…", "b"]


# the curve in one line


def drawn(values, width: int = 8) -> tuple[str, str]:
    line = Sparkline(width)
    for value in values:
        line.add(value)
    return line.drawn()


def test_a_curve_of_any_length_has_at_most_its_width_and_falls_where_the_number_falls():
    for count in (2, 7, 8, 9, 16, 17, 33, 1000):
        blocks, _ = drawn([1000.0 + count - i for i in range(count)])
        assert len(blocks) == count if count <= 8 else 4 < len(blocks) <= 8
        assert list(blocks) == sorted(blocks, reverse=True)
        assert (blocks[0], blocks[-1]) == ("█", "▁")


def test_a_stretch_is_drawn_at_its_mean():
    assert drawn([1.0, 3.0, 5.0, 7.0, 9.0, 11.0], 3) == ("▁▅█", "2 to 10")


def test_a_cost_over_decades_has_a_logarithmic_scale():
    assert drawn([1.0, 10.0, 100.0]) == ("▁▅█", "1 to 100, log scale")
    assert drawn([-1.0, 10.0, 100.0])[1] == "-1 to 100"


def test_numbers_that_are_not_finite_leave_a_gap():
    assert drawn([1.0, math.nan, math.inf, 8.0]) == ("▁  █", "1 to 8")
    assert drawn([1.7e308, -1.7e308]) == ("", "")
    assert drawn([1.7e308] * 20 + [-1.7e308] * 3) == ("", "")


@pytest.mark.parametrize("values", [[], [3.0], [3.0, 3.0], [math.nan, 3.0]])
def test_nothing_is_drawn_of_numbers_that_do_not_differ(values):
    assert drawn(values) == ("", "")
