"""`policysearch render`: a run's policy as a video, drawn without a display. Without JAX for Gymnasium tasks."""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from policysearch.cli import shared
from policysearch.cli.evaluate import reference
from policysearch.core.plain import Plain
from policysearch.tasks import BUILT_IN

if TYPE_CHECKING:
    from policysearch.report.video import Video
    from policysearch.tasks import AnyTask


def main(given: list[str]) -> int:
    """Run the command with its arguments; the exit code, 1 if nothing can be drawn on this machine."""
    parser = shared.Parser(
        "render",
        "Write a video of a trained policy, without a display.",
    )
    parser.add_argument("folder", metavar="DIR", help="folder of a run")
    parser.add_argument("--out", metavar="FILE", help="an .mp4 or .gif file [DIR/video.mp4, .gif without ffmpeg]")
    parser.add_argument("--rollouts", metavar="N", help="number of rollouts, shown one after another [1]")
    parser.add_argument("--seed", metavar="S", help="random seed of the rollouts, as for evaluate [the run's]")
    parser.add_argument("--size", metavar="WxH", help="width and height in pixels [480x480, or the environment's own]")
    parser.add_argument("--seconds", metavar="N", help="show only the first N seconds of each rollout [all]")
    arguments = parser.parsed(given)
    rollouts = shared.number("--rollouts", arguments.rollouts or "1", int)
    seed = shared.number("--seed", arguments.seed, int)
    seconds = shared.number("--seconds", arguments.seconds, float)
    size = _size(arguments.size)
    from policysearch.runs.reader import open_run

    run = open_run(arguments.folder)
    controller = run.controller()
    name, options = reference(run), run.configuration.get("task_options", {})
    from policysearch.report import studio, video

    default = run.folder / ("video.mp4" if video.mp4_is_possible() else "video.gif")
    try:
        task = drawable(name, options)
        with _progress(task.specification.name) as progress:
            written = video.render(
                task,
                controller,
                arguments.out or default,
                rollouts=rollouts,
                seed=run.configuration["seed"] if seed is None else seed,
                size=size,
                seconds=seconds,
                progress=progress,
            )
    except studio.NoRendererError as error:
        if arguments.debug:
            traceback.print_exc()
        print(f"policysearch: {error}", file=sys.stderr)
        return 1
    print("\n".join(_block(written, task.specification.noun)))
    return 0


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d+)x(\d+)", text)
    if found is None:
        raise ValueError(f"--size is {text!r}; give width and height in pixels: 480x480.")
    return int(found[1]), int(found[2])


def drawable(name: str, options: Plain) -> AnyTask:
    """A run's task; MuJoCo's renderer is chosen before MuJoCo is imported."""
    if name in BUILT_IN:
        shared.prepare_jax()
        return shared.task(name, options)
    from policysearch.report.camera import OPENGL, prepare_opengl
    from policysearch.report.studio import NoRendererError

    works = prepare_opengl()
    try:
        return shared.task(name, options)
    except (AttributeError, ImportError, RuntimeError) as error:
        if works or "MUJOCO_GL" not in os.environ:
            raise
        # if a library is missing, MuJoCo cannot even be imported
        raise NoRendererError(f"{name} cannot be drawn with MUJOCO_GL={os.environ['MUJOCO_GL']}. {OPENGL}") from error


@contextmanager
def _progress(title: str) -> Iterator[Callable[[int, int], None] | None]:
    """On a terminal, a progress bar that disappears when the video is complete."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        line = bar.add_task(title, total=None)
        yield lambda frames, most: bar.update(line, completed=frames, total=most)


def _block(written: Video, noun: str) -> list[str]:
    """Lines that say what was shown and where it was saved."""
    lines = []
    for number, rollout in enumerate(written.rollouts, 1):
        failed = f", failed: {rollout.reason}" if rollout.reason else ""
        lines.append(f"rollout {number}: {noun} {rollout.total:.4g} in {rollout.stages} stages{failed}")
    speed = written.speed
    pace = "" if speed is None or abs(speed - 1) < 0.01 else f", {speed:.3g} times real time"
    lines.append(f"saved: {written.path}, {written.frames} frames, {written.frames / written.rate:.1f} s{pace}")
    return lines
