"""`Page`: one self-contained HTML file: text, tables and figures, for phones and desktops, light or dark.

All text is escaped, and a content security policy forbids anything outside the file: no request leaves the reader's
machine, and no script runs but those the page was given. No JAX; matplotlib only by the figures that come in.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import html
import io
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from policysearch.core import files
from policysearch.report.style import CSS, ROLES, WIDE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: number of characters from which a cell gets room for longer lines
LONG = 40
#: a cell that counts as a number: 12, −3.5e-4, 1.2 ± 0.3, 1.2 (0.9 to 1.5), 40 %, 3.2 s, or a dash for no value
_NUMBER = re.compile(
    r"[-+−]?(\d[\d.,\u202f  ]*)(e[-+]?\d+)?( ± [\d.e+-]+| \(-?[\d.e+-]+ to -?[\d.e+-]+\))?( ?(%|s|ms|min|h|k|M|G))?"
    r"|[-+−]?∞|[–—-]?"
)
#: control characters but tab and new line, halves of surrogates, changes of direction
_FORBIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")
_INTERVAL = re.compile(r" (\(.*\))$")
#: characters up to which a name stays in one piece, and after which a longer one may wrap
JOINED, _JOINTS = 18, re.compile(r"(?<=\w)([(,/])(?=[^\s)])")
_TAG = re.compile(r"<[^>]*>")
_HEX = {pair[0]: f"var(--{name})" for name, pair in ROLES.items()} | {"#000000": "var(--ink)"}
_COLOURS = re.compile("|".join(_HEX))


def escaped(text: object) -> str:
    """Text for any place in HTML; forbidden characters, and those that change the text's direction, are replaced."""
    return html.escape(_FORBIDDEN.sub("\ufffd", str(text)))


def _cell(text: object, numeric: bool = False) -> str:
    """Text of a table cell, which may wrap between settings, in paths and before an interval."""
    text = escaped(text)
    if numeric:
        return _INTERVAL.sub(r" <span>\1</span>", text)
    return _JOINTS.sub(r"\1<wbr>", text) if len(text) > JOINED else text


class Page:
    """A page that grows from top to bottom and is written at the end.

    Args:
        title: of the page, as plain text.
        subtitle: a line below it.

    Example:
        >>> page = Page("Two runs", "lqr")
        >>> page.section("Results")
        >>> page.table(["run", "cost"], [["a", "3.1"], ["<b>", "2.9"]], "Mean cost on fresh seeds.")
        >>> "&lt;b&gt;" in page.html()
        True
    """

    def __init__(self, title: str, subtitle: str = ""):
        self.title, self.subtitle = title, subtitle
        #: (kind, HTML), kind "figure" or ""
        self._pieces: list[tuple[str, str]] = []
        self._headings: list[tuple[int, str]] = []
        self._scripts: list[str] = []
        self._css: list[str] = []
        self._count = 0

    def section(self, heading: str, level: int = 2) -> None:
        """Begin a section, which lasts to the next one.

        Args:
            heading: as plain text; those of level 2 are listed at the top of the page.
            level: 2, or 3 for a section within one of level 2.

        Raises:
            ValueError: another level, or level 3 at the beginning of a page.
        """
        if level not in (2, 3) or (level == 3 and not self._headings):
            raise ValueError(f"A section of level {level} is not possible here; 2 is a section, 3 one within it.")
        self._headings.append((level, heading))
        self._pieces.append((f"h{level}", f'<h{level} id="s{len(self._headings)}">{escaped(heading)}</h{level}>'))

    def text(self, text: str) -> None:
        """Add a paragraph of plain text."""
        self.raw(f"<p>{escaped(text)}</p>")

    def note(self, text: str) -> None:
        """Add a highlighted paragraph: something is missing, or went wrong."""
        self.raw(f'<p class="note" role="note">{escaped(text)}</p>')

    def facts(self, facts: Mapping[str, object]) -> None:
        """Add a list of names with their values, all plain text."""
        rows = []
        for name, value in facts.items():
            mark = ' class="long"' if len(str(value)) > LONG else ""
            rows.append(f"<div{mark}><dt>{escaped(name)}</dt><dd>{escaped(value)}</dd></div>")
        self.raw(f'<dl class="facts">{"".join(rows)}</dl>')

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> None:
        """Add a table, which scrolls in its own box if it is too wide; columns of numbers are right-aligned.

        Args:
            head: names of the columns, k.
            rows: k cells each, plain text; the first one names its row.
            caption: what the table shows.

        Raises:
            ValueError: a row with a different number of cells.
        """
        for row in rows:
            if len(row) != len(head):
                raise ValueError(f"A row has {len(row)} cells, the table {len(head)} columns: {list(row)}.")
        columns = list(zip(*rows, strict=True)) or [()] * len(head)
        numeric = [any(column) and all(_NUMBER.fullmatch(str(cell)) for cell in column) for column in columns]
        marks = [' class="number"' if is_number else "" for is_number in numeric]
        top = "".join(f'<th scope="col"{mark}>{_cell(cell)}</th>' for cell, mark in zip(head, marks, strict=True))
        body, long = [], ' class="long"'
        for row in rows:
            cells = [
                f"<td{mark or long * (len(str(cell)) > LONG)}>{_cell(cell, bool(mark))}</td>"
                for cell, mark in zip(row[1:], marks[1:], strict=True)
            ]
            body.append(f'<tr><th scope="row"{marks[0]}>{_cell(row[0])}</th>{"".join(cells)}</tr>')
        self.raw(
            f"{_box(caption)}<table><caption><span>{escaped(caption)}</span></caption>"
            f"<thead><tr>{top}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
        )

    def figure(self, fig: Figure, alt: str, caption: str) -> None:
        """Add a figure as SVG, whose text is text and whose colours follow the reader's choice of light or dark.

        Args:
            fig: of matplotlib, best from `style.figure` and in the light colours of `style`, the only ones exchanged;
                black counts as ink. Consecutive figures stand side by side if there is room.
            alt: a sentence that says what there is to see, as text alternative.
            caption: what is shown, with the meaning of bands and marks.
        """
        self._count += 1
        svg = _svg(fig, f"f{self._count}", alt)
        wide = fig.get_figwidth() >= WIDE
        shown = f"{_box(caption)}{svg}</div>" if wide else svg
        kind = ' class="wide"' if wide else ""
        self._pieces.append(("figure", f"<figure{kind}>{shown}<figcaption>{escaped(caption)}</figcaption></figure>"))

    def raw(self, html: str) -> None:
        """Add HTML as it is; the caller has escaped any foreign text."""
        self._pieces.append(("", html))

    def script(self, code: str) -> None:
        """Let JavaScript run at the end of the page, once, however often it is added; `code` holds no `</script`."""
        if code not in self._scripts:
            self._scripts.append(code)

    def css(self, rules: str) -> None:
        """Let style rules hold in the page, once, however often they are added; `style.CSS` has the colours."""
        if rules not in self._css:
            self._css.append(rules)

    def html(self) -> str:
        """The page so far."""
        hashes = " ".join(f"'sha256-{_digest(code)}'" for code in self._scripts) or "'none'"
        policy = (
            f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; "
            "base-uri 'none'; form-action 'none'"
        )
        contents = "".join(
            f'<li><a href="#s{number}">{escaped(heading)}</a></li>'
            for number, (level, heading) in enumerate(self._headings, 1)
            if level == 2
        )
        nav = f'<nav aria-label="Contents"><ul>{contents}</ul></nav>\n' if contents else ""
        subtitle = f"<p>{escaped(self.subtitle)}</p>" if self.subtitle else ""
        css = CSS + "".join(self._css)
        scripts = "".join(f"<script>{code}</script>\n" for code in self._scripts)
        return (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            '<meta name="color-scheme" content="light dark">\n<meta name="referrer" content="no-referrer">\n'
            f'<title>{escaped(self.title)}</title>\n<link rel="icon" href="data:,">\n<style>{css}</style>\n</head>\n'
            f"<body>\n<header><h1>{escaped(self.title)}</h1>{subtitle}</header>\n{nav}<main>\n{self._body()}\n</main>\n"
            f"<footer>Made by policysearch {escaped(_version())}. This file is complete: it loads nothing.</footer>\n"
            f"{scripts}</body>\n</html>\n"
        )

    def _body(self) -> str:
        """The pieces, in sections, with consecutive figures side by side."""
        lines, before, section = [], "", 0
        for kind, piece in self._pieces:
            if before == "figure" != kind:
                lines.append("</div>")
            if kind == "figure" != before:
                lines.append('<div class="figures">')
            if kind in ("h2", "h3"):
                section += 1
            if kind == "h2":
                lines.append(("</section>\n" if section > 1 else "") + f'<section aria-labelledby="s{section}">')
            lines.append(piece)
            before = kind
        if before == "figure":
            lines.append("</div>")
        return "\n".join(lines + (["</section>"] if section else []))

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Write the page; an older file is replaced when the new one is complete.

        Args:
            path: of the file, in a folder that exists.

        Returns:
            The path.

        Raises:
            OSError: it cannot be written there.
        """
        files.write(path, self.html().encode("utf-8", "replace"))
        return Path(path)


def _box(label: str) -> str:
    """The start of a box that scrolls sideways by itself, with the keyboard too."""
    return f'<div class="scroll" role="region" tabindex="0" aria-label="{escaped(label)}">'


def _digest(code: str) -> str:
    return base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()


def _version() -> str:
    from importlib import metadata

    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version("policysearch")
    return ""


def _svg(fig: Figure, prefix: str, alt: str) -> str:
    """A figure as SVG within HTML: its own ids, colours as variables, numbers to a hundredth of a point."""
    import matplotlib

    out = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": prefix}), warnings.catch_warnings():
        # the reader's fonts draw the letters, not the fonts that matplotlib measures with
        warnings.filterwarnings("ignore", message="(?s).*[Gg]lyph.*missing from")
        fig.savefig(out, format="svg", transparent=True, metadata=nothing)
    drawn = out.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    drawn = re.sub(r"\s*<style.*?</style>\s*|\s*<metadata>.*?</metadata>\s*", "", drawn, flags=re.DOTALL)

    def tag(found: re.Match[str]) -> str:
        text = re.sub(r"\s+", " ", found[0])
        text = re.sub(r"-?\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}".rstrip("0").rstrip("."), text)
        text = text.replace("xlink:href=", "href=")
        text = re.sub(r' id="', f' id="{prefix}-', text)
        text = re.sub(r"(url\(|href=\")#", rf"\1#{prefix}-", text)
        text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
        text = re.sub(r"(?<=font: )([^\"]*?px) [^;\"]*", r"\1 sans-serif", text)
        return _COLOURS.sub(lambda hit: _HEX[hit[0]], text)

    drawn = re.sub(r">\s+<", "><", _TAG.sub(tag, drawn))
    width, height = 72 * fig.get_figwidth(), 72 * fig.get_figheight()
    opening = f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escaped(alt)}">'
    return opening + drawn[drawn.index(">") + 1 :].strip()
