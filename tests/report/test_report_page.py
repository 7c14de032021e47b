"""Pages hold what they were given, escaped, and ask nothing of anybody."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from policysearch.report import style
from policysearch.report.page import Page

HOSTILE = "<script>alert('x')</script> & \"q\" $x$ {y} \x00\x1b]0;\u202e\ud800"


class Outline(HTMLParser):
    """Elements with their attributes, text, and whether every element that was opened was closed in order."""

    VOID = ("meta", "link", "img", "input", "br", "wbr", "path", "use", "rect", "circle")

    def __init__(self, text):
        super().__init__()
        self.elements, self.words, self._open = [], "", []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self._open.pop() == tag

    def handle_data(self, data):
        self.words += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def sine(label="a line", **size):
    figure = style.figure(**size)
    axis = figure.subplots()
    axis.plot([0, 1, 2], [3.123456789, 1, 2], color=style.colour(1), label=style.plain(label))
    style.dress(axis, label, f"y {label}", legend=True)
    return figure


def full(text=HOSTILE):
    page = Page(text, text)
    page.section(text)
    page.text(text)
    page.note(text)
    page.facts({text: text})
    page.section(text, 3)
    page.table([text, "n"], [[text, "1"]], text)
    page.figure(sine(text), text, text)
    return page


def test_hostile_text_is_text_wherever_it_stands():
    outline = Outline(full().html())
    assert outline.all("script") == []
    # heading, subtitle and title; contents, two headings, text, note, fact, table, figure: text and labels
    assert outline.words.count("<script>alert('x')</script> & \"q\"") >= 14
    assert not set("\x00\x1b\u202e\ud800") & set(full().html())
    assert any("<script>" in svg["aria-label"] for svg in outline.all("svg"))
    assert "{y}" in outline.words
    assert "$x$" in outline.words


def test_nothing_is_loaded_and_only_given_scripts_run():
    page = full()
    text = page.html()
    assert not re.search(r"(src|href)=\"(?!#|data:)", text)
    assert "http:" not in text
    assert "https:" not in text
    policy = next(m["content"] for m in Outline(text).all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; script-src 'none';")
    page.script("let a = 1;")
    page.script("let a = 1;")
    text = page.html()
    assert text.count("let a = 1;") == 1
    # by `printf 'let a = 1;' | openssl dgst -sha256 -binary | base64`
    assert "script-src 'sha256-xY6QKfH9PRsQnLz56nj6MBwiK5oHg+im1Jkpdp1x/Ck=';" in text


def test_a_table_has_a_caption_heads_and_numbers_to_the_right():
    page = Page("t")
    rows = [["a", "3.1 ± 0.2", "x", "40 %"], ["b", "–", "2", "−1.5e-3"]]
    page.table(["run", "cost", "mixed", "share"], rows, "All.")
    outline = Outline(page.html())
    assert [th["scope"] for th in outline.all("th")] == ["col"] * 4 + ["row"] * 2
    assert [td.get("class") for td in outline.all("td")] == ["number", None, "number"] * 2
    assert len(outline.all("caption")) == 1
    with pytest.raises(ValueError, match="2 cells, the table 4 columns"):
        page.table(["run", "cost", "mixed", "share"], [["a", "b"]], "")


def test_figures_are_svg_with_text_names_of_their_own_and_colours_of_the_page():
    page = Page("t")
    page.figure(sine(), "A line falls.", "One.")
    page.figure(sine(), "A line falls.", "Two.")
    page.text("between")
    page.figure(sine(width=8.0), "A line falls.", "Three.")
    text = page.html()
    outline = Outline(text)
    assert [svg["aria-label"] for svg in outline.all("svg")] == ["A line falls."] * 3
    assert "a line" in outline.words
    names = [attributes["id"] for _, attributes in outline.elements if "id" in attributes]
    assert len(names) == len(set(names))
    used = {attributes["href"][1:] for attributes in outline.all("use")}
    clips = set(re.findall(r"url\(#([^)]+)\)", text))
    assert used
    assert clips
    assert used | clips <= set(names)
    drawing = text[text.index("<main>") :]
    assert "var(--series-1)" in drawing
    assert not re.search(r"#[0-9a-f]{6}", drawing)
    assert "DejaVu" not in text
    assert "3.123456" not in text
    assert [div.get("class") for div in outline.all("div")] == ["figures", "figures", "scroll"]
    assert [figure.get("class") for figure in outline.all("figure")] == [None, None, "wide"]


def test_sections_are_listed_and_nested():
    page = Page("t")
    with pytest.raises(ValueError, match="level 3"):
        page.section("c", 3)
    page.section("a")
    page.section("b", 3)
    page.section("c")
    outline = Outline(page.html())
    assert [a["href"] for a in outline.all("a")] == ["#s1", "#s3"]
    assert [section["aria-labelledby"] for section in outline.all("section")] == ["s1", "s3"]
    assert [len(outline.all(tag)) for tag in ("h1", "h2", "h3", "header", "nav", "main", "footer")] == [1, 2, 1] + [
        1
    ] * 4


def test_the_same_content_gives_the_same_bytes():
    assert full().html() == full().html()


def test_an_older_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "r.html"
    path.write_text("older")
    page = full()
    with monkeypatch.context() as patched:
        patched.setattr("os.replace", lambda *a: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            page.write(path)
    assert path.read_text() == "older"
    assert page.write(path) == path
    assert path.read_text(encoding="utf-8") == page.html().encode("utf-8", "replace").decode()
    assert [inside.name for inside in tmp_path.iterdir()] == ["r.html"]


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a, b):
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("look", [0, 1])
def test_colours_stand_out_from_the_background(look):
    for name in ("ink", "muted", *(f"series-{i}" for i in range(len(style.SERIES)))):
        assert contrast(style.ROLES[name][look], style.BACK[look]) >= 4.5, name
    tint = re.findall(r"--tint: (#\w+)", style.CSS)[look]
    assert contrast(style.MUTED[look], tint) >= 4.5
