"""Small environments with exact arithmetic, and ones that raise, die, hang or diverge at a given seed."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete


class Drift(gymnasium.Env):
    """x' = 0.9 x + 0.1 u + noise in two dimensions, reward 1 − |x|²; ends by itself after 5 to 14 stages.

    At the seeds `guilty`, and at a `share` of all seeds, it misbehaves on stage 3 as `fault` says; with `marker` only
    until that file exists. Once it has raised it is of no more use. `log` is a file to which every reset adds a line
    with its seed.
    """

    observation_space = Box(-np.inf, np.inf, (2,), np.float64)
    action_space = Box(-1.0, 1.0, (2,), np.float32)
    effect = 0.1

    def __init__(
        self, guilty: tuple[int, ...] = (), fault: str = "", marker: str = "", log: str = "", share: float = 0.0
    ):
        self.guilty, self.fault, self.marker, self.log, self.share = guilty, fault, marker, log, share
        self.spoiled = False
        self.resets: list[int | None] = []
        self.applied: list[np.ndarray] = []

    def reset(self, *, seed: int | None = None, options: Any = None):
        super().reset(seed=seed)
        self.resets.append(seed)
        if self.log:
            with open(self.log, "a") as file:
                print(seed, file=file)
        if self.spoiled:
            raise RuntimeError("this environment has raised before")
        self.guilty_now = seed in self.guilty or in_share(seed, self.share)
        self.x = self.np_random.normal(size=2)
        self.length = int(self.np_random.integers(5, 15))
        self.stage = 0
        return self.x.copy(), {}

    def step(self, action: np.ndarray):
        self.applied.append(action)
        reward = 1.0 - float(self.x @ self.x)
        self.x = 0.9 * self.x + self.effect * action + 0.05 * self.np_random.normal(size=2)
        self.stage += 1
        seen = self.x.copy()
        if self.guilty_now and self.stage == 3 and not (self.marker and Path(self.marker).exists()):
            if self.marker:
                Path(self.marker).touch()
            reward = self.misbehave(reward, seen)
        return seen, reward, self.stage >= self.length, False, {}

    def misbehave(self, reward: float, seen: np.ndarray) -> float:
        if self.fault == "raise then die" and self.log and Path(self.log).read_text().count(str(self.resets[-1])) > 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault.startswith("raise"):
            self.spoiled = True
            raise OSError("the simulator's licence was lost")
        if self.fault == "exit":
            sys.exit(1)
        if self.fault in ("die", "crash"):
            os.kill(os.getpid(), signal.SIGKILL if self.fault == "die" else signal.SIGSEGV)
        if self.fault == "hang":
            time.sleep(1000)
        if self.fault == "nan_observation":
            seen[0] = np.nan
        return np.nan if self.fault == "nan_reward" else reward


def in_share(seed: int, share: float) -> bool:
    """Whether a seed belongs to a given share of all (they are hashed, so their remainders are uniform)."""
    return seed % 1000 < 1000 * share


class Steered(Drift):
    """Drift with actions that matter, quick to learn. `times` is a file: every reset adds its process and the time."""

    effect = 0.5

    def __init__(self, times: str = "", **options: Any):
        super().__init__(**options)
        self.times = times

    def reset(self, *, seed: int | None = None, options: Any = None):
        if self.times:
            with open(self.times, "a") as file:
                print(os.getpid(), time.monotonic(), file=file)
        return super().reset(seed=seed, options=options)


class SlowToMakeAnew(Steered):
    """Takes longer to be made, but for the first time, than a trial may take."""

    def __init__(self, seconds: float, made: str, **options: Any):
        if Path(made).exists():
            time.sleep(seconds)
        Path(made).touch()
        super().__init__(**options)


class Letters(gymnasium.Env):
    """Observation is a letter 10, 11 or 12; actions are 5 and 6; action 6 pays 1. Never ends by itself."""

    observation_space = Discrete(3, start=10)
    action_space = Discrete(2, start=5)

    def reset(self, *, seed: int | None = None, options: Any = None):
        super().reset(seed=seed)
        self.letter = 10
        return self.letter, {}

    def step(self, action: int):
        self.letter = 10 + (self.letter - 9) % 3
        return self.letter, float(action - 5), False, False, {}


class Picky(Drift):
    """Raises for an action that is not a number, as careful environments do."""

    def step(self, action: np.ndarray):
        if np.isnan(action).any():
            raise ValueError("the action is not a number")
        return super().step(action)


class Spinner(gymnasium.Env):
    """A hinge in MuJoCo whose motor is far too strong: large actions make the simulation diverge."""

    observation_space = Box(-np.inf, np.inf, (2,), np.float64)
    action_space = Box(-np.inf, np.inf, (1,), np.float64)
    xml: ClassVar[str] = """<mujoco><worldbody><body><joint name="j" type="hinge"/><geom size=".1"/></body></worldbody>
        <actuator><motor joint="j" gear="1e9"/></actuator></mujoco>"""

    def __init__(self):
        import mujoco

        self.mujoco = mujoco
        self.model = mujoco.MjModel.from_xml_string(self.xml)
        self.data = mujoco.MjData(self.model)

    def observe(self):
        return np.concatenate([self.data.qpos, self.data.qvel])

    def reset(self, *, seed: int | None = None, options: Any = None):
        super().reset(seed=seed)
        self.mujoco.mj_resetData(self.model, self.data)
        return self.observe(), {}

    def step(self, action: np.ndarray):
        self.data.ctrl[:] = action
        self.mujoco.mj_step(self.model, self.data)
        return self.observe(), 1.0, False, False, {}


class Grid(Drift):
    """Observations (2, 1) and actions (1, 2), in float32 with limits."""

    observation_space = Box(-5.0, 5.0, (2, 1), np.float32)
    action_space = Box(np.float32([[-1, -2]]), np.float32([[1, 2]]), dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None):
        x, info = super().reset(seed=seed)
        return x.astype(np.float32)[:, None], info

    def step(self, action: np.ndarray):
        if action.shape != (1, 2):
            raise ValueError(f"action of shape {action.shape}")
        x, *rest = super().step(action[0])
        return x.astype(np.float32)[:, None], *rest


def once(marker: str, ending: str) -> gymnasium.Env:
    """An environment that can be made once: then its licence server is gone, or making it ends the process."""
    if Path(marker).exists():
        if ending == "exit":
            os._exit(3)
        raise ConnectionRefusedError("no licence server for this process")
    Path(marker).touch()
    return Drift()


def not_an_environment() -> int:
    """A factory that gives something else."""
    return 3


class Tiring(gymnasium.Env):
    """x' = 0.95 x + 0.1 u + noise; ends by itself when |x| exceeds 0.2.

    Rollouts end early at first, so that the second update of so many stages has other rollouts than the first.
    """

    observation_space = Box(-np.inf, np.inf, (1,), np.float64)
    action_space = Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None):
        super().reset(seed=seed)
        self.x = self.np_random.uniform(-0.1, 0.1, 1)
        return self.x.copy(), {}

    def step(self, action: np.ndarray):
        self.x = 0.95 * self.x + 0.1 * action + 0.02 * self.np_random.normal(size=1)
        return self.x.copy(), 1.0 - float(self.x[0] ** 2), bool(abs(self.x[0]) > 0.2), False, {}


def bowl(x: Any) -> float:
    """A cost in Python: 1 at the start, 0 at (1, …)."""
    return float(np.mean((np.asarray(x) - 1.0) ** 2))


bowl.initial = (0.0, 0.0, 0.0)  # type: ignore[attr-defined]


class OnNodes(gymnasium.Wrapper):
    """CartPole on the nodes of a cluster that differ by their variable NODE.

    Every reset adds a line to the file `log` of `folder`: node, process, seed. On the node "held" it then waits for a
    file `release`; on the node "broken" the environment cannot be made.
    """

    def __init__(self, folder: str):
        self.folder, self.node = Path(folder), os.environ.get("NODE", "here")
        if self.node == "broken":
            raise ModuleNotFoundError("No module named 'simulator'")
        super().__init__(gymnasium.make("CartPole-v1"))

    def reset(self, *, seed: int | None = None, options: Any = None):
        with open(self.folder / "log", "a") as file:
            print(self.node, os.getpid(), seed, file=file)
        while self.node == "held" and not (self.folder / "release").exists():
            time.sleep(0.02)
        return super().reset(seed=seed, options=options)
