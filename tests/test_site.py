"""The documentation site builds without a warning, is complete, and needs no network to be read."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import policysearch
from policysearch.cli.main import COMMANDS

pytest.importorskip("sphinx")
pytest.importorskip("furo")
pytest.importorskip("myst_nb")
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
EXECUTED = sorted(page for page in (ROOT / "docs").rglob("*.md") if "\n```{code-cell}" in page.read_text())
#: attributes by which a page makes a browser fetch something
LOADS = {"src", "srcset", "data", "poster", "action"}
STYLESHEET_LOAD = re.compile(r"url\(\s*[\"']?([^\"')]+)|@import\s+[\"']([^\"']+)")


class Elements(HTMLParser):
    """Every start tag of a page with its attributes."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site")
    paths = os.pathsep.join(filter(None, (str(ROOT / "src"), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "-b", "html", "-d", str(out / "doctrees"), "docs", str(out / "html")],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    return out / "html"


@pytest.fixture(scope="module")
def pages(site):
    found = {str(page.relative_to(site)): Elements(page.read_text()).found for page in site.rglob("*.html")}
    assert len(found) > 15
    return found


def test_every_public_name_has_an_anchor_in_the_reference(pages):
    anchors = {attributes.get("id") for _, attributes in pages["reference/api.html"]}
    assert [name for name in policysearch.__all__ if f"policysearch.{name}" not in anchors] == []


def test_annotations_are_those_of_the_source(site):
    text = re.sub(r"<[^>]+>", "", (site / "reference" / "api.html").read_text())
    for spelled_out in ("jaxlib", "_SupportsArray", "msgspec.Meta", "~typing"):
        assert spelled_out not in text
    assert all(name in text for name in ("Float[Array, ", "ArrayLike", "Positive"))
    # a setting's text is no type
    assert "of observations – by the task" in text


def test_every_command_has_an_anchor_and_its_flags(pages, site):
    anchors = {attributes.get("id") for _, attributes in pages["reference/commands.html"]}
    assert [name for name in COMMANDS if f"command-{name}" not in anchors] == []
    assert "--evaluation-rollouts" in (site / "reference" / "commands.html").read_text()


def test_no_page_loads_anything_from_elsewhere(pages, site):
    loaded = [
        (page, value)
        for page, elements in pages.items()
        for tag, attributes in elements
        for name, value in attributes.items()
        if name in LOADS or (name == "href" and tag == "link")
    ]
    for style in site.rglob("*.css"):
        loaded += [(style.name, "".join(found)) for found in STYLESHEET_LOAD.findall(style.read_text())]
    assert len(loaded) > 100
    remote = [(where, what) for where, what in loaded if what and re.match(r"(https?:)?//", what)]
    assert remote == []


def test_what_a_page_loads_is_there(pages, site):
    missing = []
    for page, elements in pages.items():
        for tag, attributes in elements:
            target = attributes.get("src") or (attributes.get("href") if tag == "link" else None)
            if target and not re.match(r"(data|https?):|#", target):
                path = (site / page).parent / target.split("?")[0].split("#")[0]
                if not path.exists():
                    missing.append((page, target))
    assert missing == []
    assert (site / "_static" / "STIXTwoMath.woff").stat().st_size > 100_000


@pytest.mark.parametrize("page", EXECUTED, ids=lambda page: page.stem)
def test_executed_pages_have_their_figures_with_alternative_texts(page, pages, site):
    built = str(page.relative_to(ROOT / "docs").with_suffix(".html"))
    figures = [attributes for tag, attributes in pages[built] if tag == "img" and "_images" in attributes["src"]]
    drawn = page.read_text().count("plt.show()")
    assert len(figures) == drawn >= 2
    # a figure without a text of its own gets the name of its file
    assert all(len(figure["alt"]) > 60 and "_images" not in figure["alt"] for figure in figures)
    text = (site / built).read_text()
    assert "&lt;matplotlib" not in text
    assert "Traceback" not in text


def test_formulas_are_mathml_and_keep_the_numbers_of_the_equations(pages, site):
    text = "".join((site / page).read_text() for page in pages if page.startswith("theory/"))
    assert text.count("<math") > 100
    numbers = {int(number) for number in re.findall(r'id="equation-18-(\d+)"', text)}
    # (18.3) and (18.6) are said in words
    assert numbers == set(range(1, 41)) - {3, 6}
    assert not re.search(r"\\(frac|theta|mathbb|sum)\b", re.sub(r"(?s)<pre>.*?</pre>", "", text))


def test_executed_pages_are_those_that_walk_through_the_lecture():
    assert {page.stem for page in EXECUTED} >= {
        "likelihood_ratio",
        "natural_gradient",
        "policy_gradient",
        "weight_perturbation",
    }
