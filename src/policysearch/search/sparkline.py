"""A curve in one line of text: the course of a number over all updates so far. No JAX."""

from __future__ import annotations

import math

BLOCKS = "▁▂▃▄▅▆▇█"
#: a positive number whose largest value is this many times the smallest is shown on a logarithmic scale
DECADES = 30.0


class Sparkline:
    """Means over stretches of equally many numbers; their memory is bounded, whatever their number.

    Args:
        width: blocks at most.

    Example:
        >>> line = Sparkline(4)
        >>> for cost in (9.0, 7.0, 5.0, 5.0, 3.0, 3.0, 1.0, 1.0):
        ...     line.add(cost)
        >>> line.drawn()
        ('█▅▃▁', '1 to 8')
    """

    def __init__(self, width: int):
        self.width = width
        self._stretch = 1
        #: sum and count of the finite numbers of each stretch
        self._cells: list[tuple[float, int]] = []
        self._open = 0

    def add(self, value: float) -> None:
        """Take the next number; one that is not finite leaves no trace but its place."""
        if self._open == 0:
            if len(self._cells) == 2 * self.width:
                pairs = zip(self._cells[::2], self._cells[1::2], strict=True)
                self._cells = [(a + b, m + n) for (a, m), (b, n) in pairs]
                self._stretch *= 2
            self._cells.append((0.0, 0))
        total, count = self._cells[-1]
        if math.isfinite(value):
            self._cells[-1] = total + value, count + 1
        self._open = (self._open + 1) % self._stretch

    def drawn(self) -> tuple[str, str]:
        """Blocks, and what the lowest and the highest stand for; both "" before there are two numbers that differ.

        A place where nothing was finite is empty.
        """
        means = self._means()
        known = [mean for mean in means if mean is not None]
        low, high = min(known, default=0.0), max(known, default=0.0)
        steep = low > 0 and high >= DECADES * low
        scaled = math.log if steep else float
        bottom, span = scaled(low), scaled(high) - scaled(low)
        if not 0 < span < math.inf:
            return "", ""
        top = len(BLOCKS) - 1
        blocks = [" " if mean is None else BLOCKS[round(top * ((scaled(mean) - bottom) / span))] for mean in means]
        return "".join(blocks), f"{low:.3g} to {high:.3g}{', log scale' if steep else ''}"

    def _means(self) -> list[float | None]:
        cells = list(self._cells)  # a view that is refreshed by another thread looks at it as it is now
        if len(cells) > self.width:
            even = [*cells, (0.0, 0)] if len(cells) % 2 else cells
            cells = [(a + b, m + n) for (a, m), (b, n) in zip(even[::2], even[1::2], strict=True)]
        means = [total / count if count else math.nan for total, count in cells]
        return [mean if math.isfinite(mean) else None for mean in means]
