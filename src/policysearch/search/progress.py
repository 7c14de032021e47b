"""What a search shows while it runs: a view on a terminal or in a notebook, a line now and then in a log. No JAX."""

from __future__ import annotations

import math
import os
import shutil
import sys
import textwrap
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TextIO

from policysearch.search.sparkline import Sparkline

if TYPE_CHECKING:
    from rich.text import Text

#: seconds between two lines in a log, and between two views in a notebook
QUIET, GLANCE = 5.0, 0.25
#: columns of a log and of a notebook; of the bar and of the curve
COLUMNS, WIDTH = 79, 30
#: text with its style
Segment = tuple[str, str]


class Progress:
    """Shows records as they come; a context manager.

    Args:
        title: what runs, in a few words.
        place: where its results will be, or "".
        noun: "cost" or "return"; records hold it with its standard error.
        stream: where to; by default the cell of a notebook, else standard error, so that standard output holds results
            alone.
        stay: leave the last view on a terminal; in a notebook and in a log it stays anyway.
    """

    def __init__(
        self, title: str, place: str = "", noun: str = "cost", stream: TextIO | None = None, stay: bool = False
    ):
        self.title, self.place, self.noun = title, place, noun
        self._cell = _in_notebook() if stream is None else False
        self.stream = sys.stderr if stream is None else stream
        self._stay = stay
        self._started = time.monotonic()
        self._record: dict[str, Any] | None = None
        self._marks: list[tuple[float, float]] = []
        self._count = 0
        self._troubles = {"failed": 0.0, "lost": 0.0}
        self._curve, self._name = Sparkline(WIDTH), ""
        self._note = ""
        self._last = -math.inf
        self._printed: dict[str, Any] | None = None
        self._console: Any = None
        self._live: Any = None
        self._handle: Any = None

    def __enter__(self) -> Progress:
        if self._cell:
            from IPython.display import display

            self._handle = display(self._bundle(), raw=True, display_id=True)
        elif self.stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown"):
            from rich.console import Console
            from rich.live import Live

            self._console = Console(file=self.stream)
            self._live = Live(
                console=self._console,
                get_renderable=self._render,
                refresh_per_second=8,
                transient=not self._stay,
            )
            self._live.start()
        else:
            self._print(f"{self.title} → {self.place}" if self.place else self.title)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live is not None:
            self._live.stop()
        elif self._handle is not None:
            self._handle.update(self._bundle(), raw=True)
        elif self._record is not self._printed:
            self._print_record()

    def update(self, record: dict[str, Any]) -> None:
        """Show an update's record, at once or with the next refresh."""
        self._record = record
        self._count += 1
        for name in self._troubles:
            count = record.get(name, 0.0)
            self._troubles[name] += count if math.isfinite(count) else 0.0
        if record.get("name", "") != self._name:
            self._curve, self._name = Sparkline(WIDTH), record["name"]
        if self.noun in record:
            self._curve.add(record[self.noun])
        doubling = self._count & (self._count - 1) == 0
        now = time.monotonic()
        if doubling:
            # the speed is told from the last half of the updates or more: the first ones also compile
            self._marks = [*self._marks[-1:], (now, record.get("share", 0.0))]
        if self._handle is not None and now - self._last >= GLANCE:
            self._last = now
            self._handle.update(self._bundle(), raw=True)
        elif self._plain and (doubling or now - self._last >= QUIET):
            self._print_record()

    def step(self, name: str, record: dict[str, Any], share: float) -> None:
        """Show a record of one of several searches that are run for one purpose.

        Args:
            name: of the search.
            record: empty where it has none.
            share: of the whole.
        """
        self.update({**record, "name": name, "share": share})

    def note(self, text: str) -> None:
        """Show a remark from now on."""
        self._note = text
        if self._handle is not None:
            self._handle.update(self._bundle(), raw=True)
        elif self._plain:
            if self._record is not self._printed:
                self._print_record()
            self._print(text)

    @property
    def _plain(self) -> bool:
        return self._live is None and self._handle is None

    def _print_record(self) -> None:
        self._printed = record = self._record
        if record is not None:
            parts = [*self._numbers(record), self._spent(record), *self._gone_wrong()]
            self._print("\n".join(folded(parts, COLUMNS, "  ")))

    def _print(self, line: str) -> None:
        self._last = time.monotonic()
        print(line, file=self.stream, flush=True)

    def _left(self, share: float) -> float | None:
        """Seconds till the budget is spent, or None."""
        if not self._marks or share <= self._marks[0][1]:
            return None
        then, before = self._marks[0]
        return (1 - share) * (time.monotonic() - then) / (share - before)

    def _numbers(self, record: dict[str, Any]) -> list[str]:
        """What is said of an update; a line is broken between these."""
        parts = [record["name"]] if "name" in record else []
        if "update" in record:
            parts += [
                f"update {record['update']:.0f}",
                f"{self.noun} {quantity(record.get(self.noun), record.get(self.noun + '_sem'))}",
            ]
        if math.isfinite(record.get("snr", math.nan)):
            snr = record["snr"]
            parts.append(f"SNR {snr:.2g}" if abs(snr) >= 0.005 else "SNR 0")
        if math.isfinite(record.get("stages_per_second", math.nan)):
            parts.append(f"{magnitude(record['stages_per_second'])} stages/s")
        return parts

    def _gone_wrong(self) -> list[str]:
        return [f"{count:.0f} {name}" for name, count in self._troubles.items() if count]

    def _spent(self, record: dict[str, Any]) -> str:
        share = record.get("share", 0.0)
        left = self._left(share) if share < 1 else None
        return f"{100 * share:.0f} %" + ("" if left is None else f", {duration(left)} left")

    def _lines(self, width: int) -> list[list[Segment]]:
        """The view: title, bar, numbers, curve, remark; no line is longer than `width`."""
        lines: list[list[Segment]] = [[(line, "dim")] for line in textwrap.wrap(self.title, width)]
        record = self._record
        gone = duration(time.monotonic() - self._started)
        if record is None:
            # a notebook is not refreshed till there is a record
            lines.append([("preparing" if self._cell else f"preparing, {gone}", "")])
        else:
            share = record.get("share", 0.0)
            percent, _, left = self._spent(record).partition(", ")
            times = [percent, f"{gone}, {left}" if left else gone]
            room = min(WIDTH, width - 2 - len("  ".join(times)))
            full = round(room * share)
            if room >= 8:
                times[0] = f"  {times[0]}"
                lines.append([("━" * full, "cyan"), ("─" * (room - full), "dim"), ("  ".join(times), "")])
            else:
                lines += [[(line, "")] for line in folded(times, width)]
            lines += [[(line, "")] for line in folded([*self._numbers(record), *self._gone_wrong()], width)]
            blocks, words = self._curve.drawn()
            if blocks and len(self.noun) + 1 + len(blocks) <= width:
                lines += [[(line, "")] for line in folded([f"{self.noun} {blocks}", words], width)]
        return lines + [[(line, "yellow")] for line in textwrap.wrap(self._note, width)]

    def _render(self) -> Text:
        from rich.text import Text

        # a line that fills a terminal to its last column is broken by some
        width = max(8, self._console.width - 1)
        return Text("\n").join(Text.assemble(*line, no_wrap=True) for line in self._lines(width))

    def _bundle(self) -> dict[str, str]:
        """The view as what a notebook displays."""
        return {"text/plain": "\n".join("".join(text for text, _ in line) for line in self._lines(COLUMNS))}


def _in_notebook() -> bool:
    """Whether output goes to the cell of a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


def folded(parts: Sequence[str], width: int, indent: str = "") -> list[str]:
    """Parts side by side in as few lines as they need, each whole unless it is wider than a line.

    Args:
        parts: such as numbers with their names.
        width: of a line.
        indent: of all lines but the first.

    Example:
        >>> folded(["update 12", "cost 3.14 ± 0.02", "SNR 5.2"], 30, "  ")
        ['update 12  cost 3.14 ± 0.02', '  SNR 5.2']
    """
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + 2 + len(part) <= width:
            lines[-1] += "  " + part
            continue
        begin = indent if lines else ""
        lines.append(begin + (part if len(begin + part) <= width else part[: width - len(begin) - 1] + "…"))
    return lines


def wrapped(text: str, stream: TextIO | None = None) -> str:
    """Text with lines broken at words where a terminal would break them anywhere; a log gets it as it is.

    Args:
        text: one line or more.
        stream: where it goes; standard output by default.
    """
    if not (sys.stdout if stream is None else stream).isatty():
        return text
    width = max(20, shutil.get_terminal_size().columns - 1)
    lines = [
        textwrap.wrap(line, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False) or [""]
        for line in text.splitlines()
    ]
    return "\n".join(line for several in lines for line in several)


def quantity(value: float | None, error: float | None = None) -> str:
    """A measured number, rounded where its standard error begins.

    Example:
        >>> quantity(3.14159, 0.0213)
        '3.142 ± 0.021'
        >>> quantity(-1234.5, 87.0)
        '-1234 ± 87'
    """
    if value is None or not math.isfinite(value):
        return "unknown"
    if not error or not math.isfinite(error):
        return f"{value:.4g}"
    places = 1 - math.floor(math.log10(error))
    if places > 6 or places < -4:
        return f"{value:.{max(2, 2 + _order(value) - _order(error))}g} ± {error:.2g}"
    places = max(places, 0)
    return f"{value:.{places}f} ± {error:.{places}f}"


def _order(value: float) -> int:
    return math.floor(math.log10(abs(value))) if value else 0


def magnitude(value: float) -> str:
    """A large number in short.

    Example:
        >>> magnitude(1234567.0)
        '1.2M'
    """
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * limit:
            short = value / limit
            return f"{short:.1f}{letter}" if short < 9.95 else f"{short:.0f}{letter}"
    return f"{value:.0f}"


def duration(seconds: float) -> str:
    """Seconds as people say them.

    Example:
        >>> duration(7500)
        '2 h 5 min'
    """
    if seconds < 99.5:
        return f"{seconds:.0f} s" if seconds >= 9.95 else f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
