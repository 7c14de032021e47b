"""The look of pages and their figures: colours that most colour-blind people can tell apart, light and dark.

Contrast with the background is at least 4.5 for text and 3 for lines (WCAG 2.2, AA), in both looks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: colours by role, (light, dark); a figure is drawn in the light ones, and the page puts both in their place
INK, MUTED, RULE, BACK = ("#1b1f24", "#e8eaed"), ("#555d68", "#a9b1bc"), ("#c9cdd3", "#434a54"), ("#ffffff", "#14171b")
#: colours of series (light, dark), in order of use; after Okabe and Ito
SERIES = (
    ("#0a62a9", "#6cb4f5"),
    ("#b5430b", "#ff9c63"),
    ("#05715a", "#47c9a2"),
    ("#8a3a84", "#e69adb"),
    ("#7d5f00", "#e3bd4b"),
    ("#46505e", "#b9c2ce"),
)
#: dashes of series, so that nothing depends on colour alone
DASHES = ("-", (0, (5, 1.6)), (0, (1.2, 1.2)), (0, (6, 1.4, 1.2, 1.4)), (0, (9, 2)), (0, (3, 1, 1, 1, 1, 1)))
#: width and height of a figure, two of which fit side by side on a desktop, in inches; text stays readable on a phone
HALF = (4.7, 3.1)
#: characters of a name in a figure
LONGEST = 36
#: figures from this width on, in inches, take the whole width of a page and scroll on a phone
WIDE = 6.0

ROLES = {"ink": INK, "muted": MUTED, "rule": RULE, "back": BACK} | {f"series-{i}": p for i, p in enumerate(SERIES)}


def colour(index: int) -> str:
    """The colour of a series by its number, from 0, as figures are drawn; they repeat."""
    return SERIES[index % len(SERIES)][0]


def dash(index: int) -> str | tuple[int, tuple[float, ...]]:
    """The line style of a series by its number, from 0; they repeat later than the colours."""
    return DASHES[(index + index // len(SERIES)) % len(DASHES)]


def figure(width: float = HALF[0], height: float = HALF[1]) -> Figure:
    """An empty figure, without pyplot or a global style: it looks the same whatever else the process does.

    Args:
        width, height: in inches; a page shows half a page's width for `HALF`, all of it from `WIDE` on.
    """
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=100, layout="constrained")


def dress(axis: Axes, x: str = "", y: str = "", legend: bool = False) -> None:
    """Give axes their labels, a quiet grid, colours of the page, and a legend above the data.

    Args:
        axis: with everything drawn.
        x, y: labels with units, as plain text.
        legend: show one, outside the axes.
    """
    axis.grid(color=RULE[0], linewidth=0.6, alpha=0.7)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(MUTED[0])
    axis.tick_params(labelsize=9, color=MUTED[0], labelcolor=INK[0])
    if x:
        axis.set_xlabel(plain(x), fontsize=9.5, color=INK[0])
    if y:
        axis.set_ylabel(plain(y), fontsize=9.5, color=INK[0])
    if legend:
        names = axis.get_legend_handles_labels()[1]
        longest = max((len(name) for name in names), default=0)
        columns = max(1, min(len(names), int(axis.figure.bbox.width / axis.figure.dpi * 12 / (longest + 6))))
        axis.legend(
            loc="lower left", bbox_to_anchor=(0, 1.0), borderaxespad=0.3, columnspacing=1.2, handlelength=2.4,
            ncol=columns, frameon=False, fontsize=9, labelcolor=INK[0],
        )  # fmt: skip


def plain(text: str) -> str:
    """Text as matplotlib shows it letter by letter: a dollar sign starts no formula; a long text loses its middle.

    Example:
        >>> plain("cost in $")
        'cost in \\\\$'
        >>> plain("a run with a name that fits no legend at all")
        'a run with a nam…ts no legend at all'
    """
    if len(text) > LONGEST:
        text = f"{text[: LONGEST - 20]}…{text[-19:]}"
    shown = (" " if c.isspace() else c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return "".join(shown).replace("$", r"\$")


def distinct(names: Sequence[str]) -> list[str]:
    """The names of what a figure shows, numbered in order if two of them would read alike.

    Example:
        >>> distinct(["ars", "pgpe"])
        ['ars', 'pgpe']
        >>> [plain(n) for n in distinct([f"ars on a swimmer with {n} hidden units for 9000 rollouts" for n in (8, 9)])]
        ['1: ars on a swim…s for 9000 rollouts', '2: ars on a swim…s for 9000 rollouts']
    """
    if len({plain(name) for name in names}) == len(names):
        return list(names)
    return [f"{number}: {name}" for number, name in enumerate(names, 1)]


def _variables(place: int) -> str:
    return " ".join(f"--{name}: {pair[place]};" for name, pair in ROLES.items())


CSS = (
    f"""
:root {{ color-scheme: light dark; {_variables(0)} --tint: #f3f5f8; --link: var(--series-0); }}
@media (prefers-color-scheme: dark) {{ :root {{ {_variables(1)} --tint: #1e2329; }} }}
"""
    + """
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body { margin: 0; background: var(--back); color: var(--ink); overflow-wrap: break-word;
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
header, nav, main, footer { max-width: 72rem; margin: 0 auto; padding: 0 1rem; }
header { padding-top: 1.5rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; line-height: 1.3; margin: 2.2rem 0 .6rem; padding-top: .9rem;
  border-top: 1px solid var(--rule); overflow-wrap: anywhere; }
h3 { font-size: 1.05rem; margin: 1.6rem 0 .4rem; overflow-wrap: anywhere; }
p { margin: .5rem 0; max-width: 46rem; overflow-wrap: anywhere; }
header p, figcaption, caption, footer, dt { color: var(--muted); }
a { color: var(--link); text-underline-offset: .15em; }
:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }
nav ul { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; list-style: none; margin: .8rem 0 0; padding: 0; }
nav li { min-width: 0; }
nav a { display: inline-block; overflow-wrap: anywhere; padding: .2rem 0; }
dl.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 13rem), 1fr)); gap: .6rem;
  margin: .8rem 0; }
dl.facts div { background: var(--tint); border-radius: .4rem; padding: .55rem .8rem; }
@media (min-width: 30rem) { dl.facts .long { grid-column: span 2; } }
dl.facts dt { font-size: .85rem; }
dl.facts dd { margin: 0; font-weight: 600; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
.note { border-left: 4px solid var(--series-1); background: var(--tint); padding: .5rem .8rem; margin: .8rem 0;
  max-width: 46rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1.2rem 1.6rem;
  margin: 1rem 0; align-items: start; }
figure { margin: 0; min-width: 0; }
figure.wide { grid-column: 1 / -1; }
figure svg { display: block; width: 100%; height: auto; color: var(--ink); fill: currentColor;
  stroke-linejoin: round; stroke-linecap: butt; }
figure svg text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
figcaption { font-size: .9rem; margin-top: .3rem; max-width: 46rem; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; margin: .8rem 0; max-width: 100%; }
figure .scroll { margin: 0; }
figure.wide .scroll svg { min-width: 42rem; }
table { border-collapse: collapse; font-size: .93rem; }
caption { text-align: left; font-size: .9rem; padding-bottom: .35rem; }
caption span { display: block; position: sticky; left: 0; width: max-content; max-width: min(46rem, 100vw - 2rem); }
th, td { text-align: left; vertical-align: top; padding: .28rem .9rem .28rem 0; border-bottom: 1px solid var(--rule);
  max-width: 34rem; overflow-wrap: break-word; }
thead th { border-bottom: 2px solid var(--muted); vertical-align: bottom; }
tbody th { font-weight: 500; min-width: 5.5rem; }
td.long { min-width: 15rem; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
td.number, td.number span { white-space: nowrap; }
td.number:has(span) { white-space: normal; }
footer { font-size: .9rem; padding-top: 2rem; padding-bottom: 2rem; }
@media print { .scroll { overflow: visible; } figure, table { break-inside: avoid; } }
"""
)
