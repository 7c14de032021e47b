"""Frames with a button and a slider to play them on a page; without JavaScript the first one is shown. No JAX.

The player never starts by itself. If the reader prefers reduced motion, it plays once instead of in a loop.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from policysearch.report.page import Page, escaped

#: largest width and height of a frame, in pixels
LARGEST = 440
#: of lossy pictures, on Pillow's scale
QUALITY = 60


class Film(NamedTuple):
    """Frames as encoded pictures, each with its time in words; frames per second; width, height in pixels.

    drawing: dark lines on white, which can be shown as light lines on black.
    """

    frames: list[str]
    times: list[str]
    rate: float
    size: tuple[int, int]
    drawing: bool


def encoded(frame: np.ndarray) -> tuple[str, tuple[int, int]]:
    """A picture as a data URI, made smaller if it is large, and its size.

    Args:
        frame: RGB (height, width, 3), bytes.

    Returns:
        WebP, or PNG if Pillow has no WebP; (width, height).
    """
    from PIL import Image, features

    image = Image.fromarray(frame)
    image.thumbnail((LARGEST, LARGEST))
    out, kind = io.BytesIO(), "webp" if features.check("webp") else "png"
    if kind == "webp":
        image.save(out, "WEBP", quality=QUALITY, method=3)
    else:
        image.quantize(64).save(out, "PNG")
    return f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode()}", image.size


def add(page: Page, film: Film, alt: str, caption: str, times: Sequence[str] | None = None) -> None:
    """Add a film to a page.

    Args:
        page: to add to.
        film: what to show.
        alt: a sentence that says what there is to see.
        caption: below it.
        times: of the frames, in words; the film's by default.
    """
    times = film.times if times is None else times
    width, height = film.size
    pictures = "".join(
        f'<img src="{uri}" width="{width}" height="{height}" decoding="sync" alt=""{" hidden" if number else ""}>'
        for number, uri in enumerate(film.frames)
    )
    kind = "frames drawing" if film.drawing else "frames"
    words = escaped("|".join(word.replace("|", "/") for word in times))
    page.raw(
        f'<figure class="player" data-rate="{film.rate:g}" data-times="{words}">'
        f'<div class="{kind}" role="img" aria-label="{escaped(alt)}">{pictures}</div>'
        '<div class="controls" hidden><button type="button">Play</button>'
        f'<input type="range" min="0" max="{len(film.frames) - 1}" value="0" step="1" aria-label="Time">'
        f"<output>{escaped(times[0])}</output></div><figcaption>{escaped(caption)}</figcaption></figure>"
    )
    page.css(CSS)
    page.script(SCRIPT)


CSS = """
.player { max-width: 30rem; margin: 1rem 0; }
.frames img { display: block; width: 100%; height: auto; border-radius: .4rem; }
.frames img[hidden], .controls[hidden] { display: none; }
.controls { display: flex; align-items: center; gap: .7rem; margin-top: .4rem; }
.controls button { font: inherit; min-width: 5rem; min-height: 2.75rem; color: var(--ink); background: var(--tint);
  border: 1px solid var(--muted); border-radius: .4rem; cursor: pointer; }
.controls input { flex: 1; min-width: 0; min-height: 2.75rem; accent-color: var(--link); }
.controls output { min-width: 4.5rem; text-align: right; font-variant-numeric: tabular-nums; }
@media (prefers-color-scheme: dark) {
  .frames.drawing { background: var(--back); isolation: isolate; }
  .frames.drawing img { filter: invert(1) hue-rotate(180deg); mix-blend-mode: screen; }
}
"""

#: space or the button plays and pauses; arrows, Home and End move by frames, on the slider and beside it
SCRIPT = """
for (const player of document.querySelectorAll(".player")) {
  const frames = player.querySelectorAll(".frames img"), times = player.dataset.times.split("|");
  const button = player.querySelector("button"), slider = player.querySelector("input");
  const output = player.querySelector("output"), rate = Number(player.dataset.rate), last = frames.length - 1;
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  let shown = 0, timer = 0, start = 0, from = 0;
  function show(k) {
    frames[shown].hidden = true;
    frames[k].hidden = false;
    shown = k;
    slider.value = k;
    slider.setAttribute("aria-valuetext", times[k]);
    output.textContent = times[k];
  }
  function pause() {
    cancelAnimationFrame(timer);
    timer = 0;
    button.textContent = "Play";
  }
  function tick(now) {
    let k = from + Math.floor((now - start) / 1000 * rate);
    if (k > last) {
      if (still.matches) { show(last); pause(); return; }
      start = now;
      from = k = 0;
    }
    if (k !== shown && k >= 0) show(k);
    timer = requestAnimationFrame(tick);
  }
  function play() {
    if (timer) { pause(); return; }
    if (shown === last) show(0);
    from = shown;
    start = performance.now();
    button.textContent = "Pause";
    timer = requestAnimationFrame(tick);
  }
  button.addEventListener("click", play);
  slider.addEventListener("input", () => { pause(); show(Number(slider.value)); });
  player.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: shown - 1, ArrowRight: shown + 1, Home: 0, End: last };
    if (event.key === " " && event.target !== button) play();
    else if (event.key in moves) { pause(); show(Math.min(last, Math.max(0, moves[event.key]))); }
    else return;
    event.preventDefault();
  });
  player.querySelector(".controls").hidden = last === 0;
}
"""
