"""Reports in a real browser, from disk: nothing is requested, everything is seen, in both looks and on a phone."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from test_comparison import cell, grid
from test_report_command import failing, gain, journal_event, rig, stored
from test_report_page import sine

from policysearch.report import comparison, document
from policysearch.report.page import Page
from policysearch.tasks.pendulum import Pendulum

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
pytestmark = pytest.mark.slow
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
           "--disable-sync"]  # fmt: skip
LONG = "a_very_long_name_without_any_space_" * 6


@pytest.fixture(scope="module")
def browser():
    """Chromium, without a display."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the group dev")
    if CHROMIUM is None:
        pytest.skip("no chromium on PATH")
    with playwright.sync_playwright() as control:
        chromium = control.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield chromium
        chromium.close()


def settings_compared():
    """Seven methods, labelled by their settings."""
    names = ["trpo", "cma", "natural_gradient(max_kl=0.05,fisher=analytic)"]
    names += [
        "natural_gradient(max_kl=0.1,fisher=analytic,baseline=network)",
        "weight_perturbation(std=0.1,rollouts=64)",
    ]
    names += ["weight_perturbation(std=0.1,rollouts=256)", "natural_gradient(max_kl=0.2,fisher=analytic)"]
    return grid(*(cell(m, seed, [900.0, 123.4 + seed], [False, True]) for m in names for seed in range(4)))


def compared():
    """Four methods, one of which failed, one with a name that is too long."""
    ends = {"trpo": 1.0, LONG: 20.0, "<b>": 400.0}
    cells = [cell(m, seed, [900.0, 500.0, v + seed], [False, False, v < 9]) for m, v in ends.items() for seed in (0, 1)]
    return grid(*cells, cell("none", 0, [900.0, None, None]))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Reports by name: of a pendulum with a film; of a rig; of several runs with names that are too long."""
    folder = tmp_path_factory.mktemp("reports")
    task, policy = Pendulum(horizon=40), gain([0.0, 0.0, -0.2])
    swing = stored(folder / "swing", "pendulum", policy)
    events = [journal_event(reason=LONG)]
    many = [stored(folder / f"{name}{LONG}", LONG, events=events, count=300, method=LONG) for name in "ab"]
    wide = Page("wide")
    wide.section("A wide figure and a wide table")
    wide.figure(sine(width=9.0), "A line falls and rises.", "Wide.")
    wide.table([LONG] * 5, [["1"] * 5], LONG)
    return {
        "swing": document.write([swing], load=lambda run: task, rollouts=2),
        "rig": document.write([rig(folder / "servo")], load=failing(ValueError())),
        "many": document.write(many, load=failing(ValueError(LONG))),
        "wide": wide.write(folder / "wide.html"),
        "compared": comparison.write(compared(), folder / "compared.html"),
        "settings": comparison.write(settings_compared(), folder / "settings.html"),
    }


@pytest.fixture
def opened(browser, files):
    """A function that opens a report in the browser, and records console messages and requests."""
    contexts = []

    def open_report(name, width=1200, **options):
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.said, page.requested = [], []
        page.on("console", lambda message: page.said.append(message.text))
        page.on("pageerror", lambda error: page.said.append(str(error)))
        page.on("request", lambda request: page.requested.append(request.url))
        page.goto(files[name].as_uri())
        return page

    yield open_report
    for context in contexts:
        context.close()


REPORTS = ["swing", "rig", "many", "wide", "compared", "settings"]


@pytest.mark.parametrize("name", REPORTS)
def test_nothing_is_requested_and_nothing_complained_of(opened, files, name):
    page = opened(name)
    assert page.requested == [files[name].as_uri()]
    assert page.said == []


def test_the_policy_refuses_requests_and_scripts_that_got_in(opened):
    page = opened("swing")
    refused = page.evaluate(
        """async () => {
          const refused = [];
          document.addEventListener("securitypolicyviolation", (event) => refused.push(event.effectiveDirective));
          const image = '<img src="http://127.0.0.1:9/x.png" onerror="window.ran = 1">';
          document.body.insertAdjacentHTML("beforeend", image);
          const script = document.createElement("script");
          script.textContent = "window.ran = 1";
          document.body.append(script);
          await fetch("http://127.0.0.1:9/").catch(() => null);
          await new Promise((done) => setTimeout(done, 100));
          return [refused.map((name) => name.split("-")[0]).sort(), window.ran ?? null];
        }"""
    )
    assert set(refused[0]) >= {"connect", "img", "script"}
    assert refused[1] is None


#: of every figure: its name, its size, what it draws, and how far text reaches out of it
FIGURES = """() => [...document.querySelectorAll("figure svg")].map((svg) => {
  const box = svg.getBoundingClientRect(), text = [...svg.querySelectorAll("text")];
  const out = text.map((t) => t.getBoundingClientRect()).map((t) =>
    Math.max(box.left - t.left, t.right - box.right, box.top - t.top, t.bottom - box.bottom));
  const lines = [...svg.querySelectorAll("path, use")].filter((p) => p.getBoundingClientRect().width > 20);
  return [svg.getAttribute("aria-label"), box.width, box.height, lines.length, text.length, Math.max(...out)];
})"""


@pytest.mark.parametrize("name", ["swing", "rig", "settings"])
def test_a_desk_shows_every_column_of_every_table(opened, name):
    page = opened(name, 1280)
    boxes = page.evaluate("[...document.querySelectorAll('.scroll')].map((b) => [b.scrollWidth, b.clientWidth])")
    assert boxes
    assert all(wide <= room for wide, room in boxes)


@pytest.mark.parametrize("width", [1200, 380])
@pytest.mark.parametrize("name", REPORTS)
def test_every_figure_is_drawn_named_and_within_its_frame(opened, name, width):
    figures = opened(name, width).evaluate(FIGURES)
    assert len(figures) == {"swing": 9, "rig": 3, "many": 12, "wide": 1, "compared": 4, "settings": 4}[name]
    for label, wide, high, lines, texts, out in figures:
        assert len(label) > 10
        assert min(wide, high) > 90, label
        assert lines > 3, label
        assert texts > 5, label
        assert out < 2, label


@pytest.mark.parametrize("name", REPORTS)
def test_a_phone_scrolls_downwards_only(opened, name):
    page = opened(name, 380)
    assert page.evaluate("document.documentElement.scrollWidth") <= 380
    page.evaluate("window.scrollTo(500, 0)")
    assert page.evaluate("window.scrollX") == 0
    boxes = page.evaluate(
        "[...document.querySelectorAll('.scroll')].map((b) => [b.scrollWidth > b.clientWidth, b.tabIndex, b.ariaLabel])"
    )
    assert all(index == 0 and label for _, index, label in boxes)
    if name == "wide":
        assert [wide for wide, *_ in boxes] == [True, True]


#: the least contrast of text with what is behind it (WCAG 2.2), and where
CONTRAST = """() => {
  const parts = (text) => text.match(/[\\d.]+/g).map(Number);
  const linear = (c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = parts(getComputedStyle(e).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  let least = [99, ""], count = 0;
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || element.closest("script") || !element.getClientRects().length) continue;
    const style = getComputedStyle(element), colour = element.closest("svg") ? style.fill : style.color;
    const [a, b] = [light(parts(colour)), light(behind(element))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    count += 1;
    if (ratio < least[0]) least = [ratio, element.textContent.trim().slice(0, 40)];
  }
  return [...least, count];
}"""


@pytest.mark.parametrize("name", ["swing", "rig", "many"])
def test_text_can_be_read_in_both_looks_which_differ(opened, name):
    backgrounds, pictures = [], []
    for scheme in ("light", "dark"):
        page = opened(name, color_scheme=scheme)
        least, where, count = page.evaluate(CONTRAST)
        assert least >= 4.5, where
        assert count > 50
        backgrounds.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        pictures.append(page.locator("figure svg [style*='stroke: var(--series-0)']").first.evaluate(STROKE))
    assert backgrounds == ["rgb(255, 255, 255)", "rgb(20, 23, 27)"]
    assert pictures == ["rgb(10, 98, 169)", "rgb(108, 180, 245)"]


STROKE = "(line) => getComputedStyle(line).stroke"
SHOWN = "() => [...document.querySelectorAll('.frames img')].flatMap((image, k) => image.offsetHeight ? [k] : [])"


def wait_for_frame(page, least):
    """Wait for this frame or a later one; Playwright's own way to wait evaluates text, which the page forbids."""
    for _ in range(100):
        if page.evaluate(SHOWN)[0] >= least:
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"frame {least} did not come within 5 s")


def test_the_player_plays_and_pauses_by_click(opened):
    page = opened("swing")
    assert page.evaluate(SHOWN) == [0]
    button = page.get_by_role("button", name="Play")
    button.click()
    wait_for_frame(page, 2)
    page.get_by_role("button", name="Pause").click()
    shown = page.evaluate(SHOWN)
    page.wait_for_timeout(300)
    assert page.evaluate(SHOWN) == shown
    assert shown[0] >= 2
    output = page.locator(".player output").text_content()
    # 41 states, each second one
    assert float(output.split()[0]) == pytest.approx(shown[0] * 0.05)
    assert output.endswith(" s")


def test_the_player_obeys_the_keyboard(opened):
    page = opened("swing")
    slider = page.get_by_role("slider", name="Time")
    slider.focus()
    last = page.locator(".frames img").count() - 1
    for key, frame in (("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1), ("End", last), ("ArrowRight", last)):
        page.keyboard.press(key)
        assert page.evaluate(SHOWN) == [frame], key
    assert slider.get_attribute("aria-valuetext") == "2.00 s"
    page.keyboard.press("Home")
    assert page.evaluate(SHOWN) == [0]
    page.keyboard.press("Space")
    wait_for_frame(page, 1)
    page.keyboard.press("Space")
    page.get_by_role("button", name="Play").focus()
    before = page.evaluate(SHOWN)[0]
    page.keyboard.press("ArrowRight")
    assert page.evaluate(SHOWN) == [before + 1]
    # the button is pressed with Enter and with Space, once each
    page.keyboard.press("Enter")
    assert page.locator(".player button").text_content() == "Pause"
    page.keyboard.press("Space")
    assert page.locator(".player button").text_content() == "Play"


def test_with_reduced_motion_a_film_plays_once_and_without_it_again(opened):
    for motion, ends in (("reduce", True), ("no-preference", False)):
        page = opened("swing", reduced_motion=motion)
        assert page.evaluate(SHOWN) == [0]
        page.keyboard.press("Tab")
        slider = page.get_by_role("slider", name="Time")
        slider.focus()
        page.keyboard.press("End")
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("Space")
        page.wait_for_timeout(400)
        assert (page.locator(".player button").text_content() == "Play") == ends
        assert (page.evaluate(SHOWN) == [page.locator(".frames img").count() - 1]) == ends


def test_without_scripts_the_first_frame_and_all_else_is_shown(opened):
    page = opened("swing", java_script_enabled=False)
    assert [image.is_visible() for image in page.locator(".frames img").all()][:3] == [True, False, False]
    assert not page.locator(".controls").is_visible()
    assert page.get_by_role("heading", name="Where it comes from").is_visible()


def test_landmarks_and_headings_are_in_order(opened):
    page = opened("many")
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3')].map((h) => Number(h.tagName[1]))")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(np.diff(levels) <= 1)
    for role in ("banner", "navigation", "main", "contentinfo"):
        assert page.get_by_role(role).count() == 1
    target = page.get_by_role("navigation").get_by_role("link").last
    target.click()
    assert page.evaluate("document.querySelector(':target').tagName") == "H2"
