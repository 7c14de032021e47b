"""What a search shows while it runs: live lines on a terminal, plain ones now and then in a log. No JAX."""

from __future__ import annotations

import math
import sys
import time
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.text import Text

#: seconds between two lines in a log
QUIET = 5.0
WIDTH = 30


class Progress:
    """Shows records as they come; a context manager.

    Args:
        title: what runs, in a few words.
        place: where its results will be.
        noun: "cost" or "return"; records hold it with its standard error.
        stream: where to; standard error by default, so that standard output holds results alone.
    """

    def __init__(self, title: str, place: str, noun: str = "cost", stream: TextIO | None = None):
        self.title, self.place, self.noun = title, place, noun
        self.stream = sys.stderr if stream is None else stream
        self._started = time.monotonic()
        self._record: dict[str, Any] | None = None
        self._marks: list[tuple[float, float]] = []
        self._count = 0
        self._note = ""
        self._last = -QUIET
        self._live: Any = None

    def __enter__(self) -> Progress:
        if self.stream.isatty():
            from rich.console import Console
            from rich.live import Live

            self._live = Live(
                console=Console(file=self.stream),
                get_renderable=self._render,
                refresh_per_second=8,
                transient=True,
            )
            self._live.start()
        else:
            self._print(f"{self.title} → {self.place}")
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, record: dict[str, Any]) -> None:
        """Show an update's record, at once or with the next refresh."""
        self._record = record
        self._count += 1
        doubling = self._count & (self._count - 1) == 0
        if doubling:
            # the speed is told from the last half of the updates or more: the first ones also compile
            self._marks = [*self._marks[-1:], (time.monotonic(), record.get("share", 0.0))]
        if self._live is None and (doubling or time.monotonic() - self._last >= QUIET):
            self._print("  ".join(self._parts(record)))

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
        if self._live is None:
            self._print(text)

    def _print(self, line: str) -> None:
        self._last = time.monotonic()
        print(line, file=self.stream, flush=True)

    def _left(self, share: float) -> float | None:
        """Seconds till the budget is spent, or None."""
        if not self._marks or share <= self._marks[0][1]:
            return None
        then, before = self._marks[0]
        return (1 - share) * (time.monotonic() - then) / (share - before)

    def _parts(self, record: dict[str, Any]) -> list[str]:
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
        share = record.get("share", 0.0)
        left = self._left(share)
        parts.append(f"{100 * share:.0f} %" + ("" if left is None else f", {duration(left)} left"))
        troubles = [f"{record[name]:.0f} {name}" for name in ("failed", "lost") if record.get(name)]
        return parts + troubles

    def _render(self) -> Text:
        from rich.text import Text

        gone = duration(time.monotonic() - self._started)
        text = Text(overflow="ellipsis", no_wrap=True)
        text.append(self.title + "\n", style="dim")
        record = self._record
        if record is None:
            text.append(f"preparing, {gone}")
        else:
            share = record.get("share", 0.0)
            full, left = round(WIDTH * share), self._left(share)
            text.append("━" * full, style="cyan").append("─" * (WIDTH - full), style="dim")
            text.append(f"  {100 * share:.0f} %  {gone}" + ("" if left is None else f", {duration(left)} left"))
            # the bar has the percentage, so the line of numbers goes without
            text.append("\n" + "  ".join(part for part in self._parts(record) if "%" not in part))
        if self._note:
            text.append("\n" + self._note, style="yellow")
        return text


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
