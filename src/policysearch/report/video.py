"""`render`: a video of a policy's mode, MP4 or GIF. Frames are made and written one at a time."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import GifImagePlugin, Image, ImageChops

from policysearch.core import files
from policysearch.core.controller import Controller
from policysearch.report.filming import studio
from policysearch.report.studio import INSTALL_VIDEO, NoRendererError, Pace
from policysearch.search.evaluation import fit

if TYPE_CHECKING:
    from policysearch.tasks import AnyTask


SMALLEST, LARGEST = 64, 4096
_INSTEAD = "GIF needs no extra package: --out FILE.gif."


class Shown(NamedTuple):
    """One rollout of a video: its cost or return over the stages shown, their number, why it failed or ""."""

    total: float
    stages: int
    reason: str


class Video(NamedTuple):
    """What was written: path, the rollouts shown, number of frames, frames per second, times real time or None."""

    path: Path
    rollouts: list[Shown]
    frames: int
    rate: float
    speed: float | None


def render(
    task: AnyTask,
    controller: Controller,
    path: str | os.PathLike[str],
    *,
    rollouts: int = 1,
    seed: int = 0,
    size: tuple[int, int] | None = None,
    seconds: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Video:
    """Write a video of the policy's mode: the first rollouts of `evaluate` with the same seed.

    Args:
        task: as `policysearch.tasks.resolve` gives it: a JAX plant or a Gymnasium environment.
        controller: the policy.
        path: .mp4 or .gif; an older file is replaced when the new one is complete.
        rollouts: how many, one after another.
        seed: from which the environment seeds derive.
        size: width and height in pixels; 480 × 480, or the environment's own. MP4 leaves out the last row or
            column of odd sizes.
        seconds: of each rollout, from its start; all by default.
        progress: called with the number of frames so far and the largest number there can be.

    Returns:
        What was written.

    Raises:
        ValueError: an argument out of range, a policy that does not fit, a task in which nothing moves.
        NoRendererError: something that drawing or writing needs is missing; the message says what to install.
    """
    path = Path(path)
    _check(rollouts, size, seconds)
    writer = _writer_for(path)
    fit(task.specification, controller)
    with contextlib.closing(studio(task, controller, rollouts, seed, size)) as camera:
        pace = Pace.of(camera.dt, camera.fallback_rate)
        stages = task.specification.horizon
        if seconds is not None:
            stages = min(stages, max(1, math.ceil(seconds / (camera.dt or 1 / pace.rate) - 1e-9)))
        most = rollouts * (math.ceil(stages / pace.stride) + 1)
        shown, frames = [], 0
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.replacing(path) as part, contextlib.closing(writer(part, pace.rate)) as video:

            def show(frame: np.ndarray) -> None:
                nonlocal frames
                video.add(frame)
                frames += 1
                if progress is not None:
                    progress(frames, most)

            for index in range(rollouts):
                title = f"rollout {index + 1}/{rollouts}" if rollouts > 1 else ""
                shown.append(Shown(*camera.rollout(index, stages, pace.stride, show, title)))
            if not frames:
                raise ValueError(f"{task.specification.name} has nothing to show: {shown[0].reason}.")
    return Video(path, shown, frames, pace.rate, pace.speed)


def _check(rollouts: int, size: tuple[int, int] | None, seconds: float | None) -> None:
    if rollouts < 1:
        raise ValueError(f"rollouts is {rollouts}; show at least 1.")
    if size is not None and not all(SMALLEST <= length <= LARGEST for length in size):
        raise ValueError(f"size is {size[0]}x{size[1]}; width and height must lie in {SMALLEST} … {LARGEST} pixels.")
    if seconds is not None and not (math.isfinite(seconds) and seconds > 0):
        raise ValueError(f"seconds is {seconds}; show more than 0 s, or leave it out for whole rollouts.")


def mp4_is_possible() -> bool:
    """Whether MP4 can be written here."""
    return importlib.util.find_spec("imageio_ffmpeg") is not None


def _writer_for(path: Path) -> type[_Mp4] | type[_Gif]:
    writers: dict[str, type[_Mp4] | type[_Gif]] = {".mp4": _Mp4, ".gif": _Gif}
    if path.suffix not in writers:
        raise ValueError(f"the video's name is {path.name!r}; it must end with .mp4 or .gif.")
    if path.suffix == ".mp4" and not mp4_is_possible():
        raise NoRendererError(f"MP4 needs imageio-ffmpeg: {INSTALL_VIDEO}. {_INSTEAD}")
    return writers[path.suffix]


class _Mp4:
    """H.264 by imageio-ffmpeg's ffmpeg, which gets the frames through a pipe."""

    def __init__(self, path: Path, rate: float):
        self._path, self._rate = path, rate
        self._process: subprocess.Popen[bytes] | None = None

    def add(self, frame: np.ndarray) -> None:
        height, width = (2 * (length // 2) for length in frame.shape[:2])  # colours come in squares of 2 × 2
        if self._process is None:
            self._process = self._start(width, height)
        pipe = self._process.stdin
        assert pipe is not None
        try:
            pipe.write(np.ascontiguousarray(frame[:height, :width]).data)
        except BrokenPipeError:
            self.close()
            raise

    def _start(self, width: int, height: int) -> subprocess.Popen[bytes]:
        import imageio_ffmpeg

        source = [
            "-f",
            "rawvideo",
            "-pix_fmt",
            "rgb24",
            "-s",
            f"{width}x{height}",
            "-r",
            f"{self._rate:.6g}",
            "-i",
            "-",
        ]
        coding = ["-c:v", "libx264", "-crf", "20", "-pix_fmt", "yuv420p", "-movflags", "+faststart"]
        try:
            # not with the package's own writer, whose way of starting a process warns if JAX is loaded
            return subprocess.Popen(
                [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error", *source, *coding, str(self._path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,  # a terminal's Ctrl-C does not reach it
            )
        except (OSError, RuntimeError) as error:
            raise NoRendererError(f"MP4 needs ffmpeg, which does not start: {error}. {_INSTEAD}") from error

    def close(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        _, complaint = process.communicate()
        if process.returncode:
            text = complaint.decode(errors="replace").strip()
            raise NoRendererError(f"ffmpeg could not write {self._path.suffix} ({process.returncode}): {text}")


class _Gif:
    """GIF89a with a palette per frame, of which only the changed part is kept.

    Pillow's own way to save an animation holds all frames in memory until the last one.
    """

    def __init__(self, path: Path, rate: float):
        self._file, self._rate = path.open("wb"), rate
        self._count = 0
        self._before: Image.Image | None = None

    def add(self, frame: np.ndarray) -> None:
        image = Image.fromarray(frame)
        area = (0, 0, *image.size)
        if self._before is None:
            self._file.write(b"GIF89a" + struct.pack("<HHBBB", *image.size, 0x70, 0, 0))
            self._file.write(b"!\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00")  # repeat endlessly
        else:
            area = ImageChops.difference(self._before, image).getbbox() or (0, 0, 1, 1)
        patch = image.crop(area).quantize(256, Image.Quantize.FASTOCTREE)
        # delays are whole hundredths of a second; rounding their sum keeps the length of the film
        delay = round(100 * (self._count + 1) / self._rate) - round(100 * self._count / self._rate)
        options = {"duration": 10 * delay, "include_color_table": True}
        for block in GifImagePlugin.getdata(patch, area[:2], **options):
            self._file.write(block)
        self._before = image
        self._count += 1

    def close(self) -> None:
        if self._count:
            self._file.write(b";")
        self._file.close()
