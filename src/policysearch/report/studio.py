"""What turns rollouts into pictures, for videos and for films on a page, and the pace at which they play. No JAX."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np

#: frames per second, approximately, and the fewest: what is left of real time at that rate is given up
FRAMES, FEWEST = 30.0, 5.0
INSTALL_VIDEO = "pip install 'policysearch[video]'"


class NoRendererError(RuntimeError):
    """Something that drawing or writing a video needs is not installed or does not work; the message says what."""


class Pace(NamedTuple):
    """Stages from one frame to the next, frames per second, times real time (None: no time step is known).

    Example:
        >>> Pace.of(0.008)
        Pace(stride=4, rate=31.25, speed=1.0)
        >>> Pace.of(60.0).speed
        300.0
    """

    stride: int
    rate: float
    speed: float | None

    @classmethod
    def of(cls, dt: float | None, fallback: float | None = None, stride: int = 1) -> Pace:
        """The pace of a task: real time, unless that shows fewer than `FEWEST` frames per second.

        Args:
            dt: time step in seconds.
            fallback: stages per second if there is no time step.
            stride: the smallest, so that a long rollout has no more frames than can be kept.
        """
        if dt is None:
            rate = float(fallback or FRAMES)
            return cls(stride, max(rate / stride, min(rate, FEWEST)), None)
        stride = max(stride, round(1 / (FRAMES * dt)))
        rate = max(1 / (stride * dt), FEWEST)
        return cls(stride, rate, rate * stride * dt)

    @classmethod
    def within(cls, frames: int, stages: int, dt: float | None, fallback: float | None = None) -> Pace:
        """The pace at which `stages` take at most about that many frames.

        Example:
            >>> Pace.within(150, 500, 0.02)
            Pace(stride=4, rate=12.5, speed=1.0)
        """
        return cls.of(dt, fallback, max(1, math.ceil(stages / max(frames, 1))))


class Studio(Protocol):
    """Draws the rollouts of a task: `camera.Environment` or `plant.Plant`."""

    dt: float | None
    fallback_rate: float | None

    def rollout(
        self, index: int, stages: int, stride: int, show: Callable[[np.ndarray], None], title: str
    ) -> tuple[float, int, str]:
        """Show each `stride`-th stage of a rollout; its cost or return, number of stages, why it failed or ""."""

    def close(self) -> None:
        """Free what drawing needed."""
