"""Environments that keep their interface in an unusual way, or break it in one place each.

They are plain subclasses of `Sound`, which has two observations, one action and 20 stages.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, Graph, MultiBinary, MultiDiscrete, Sequence, Text, Tuple

if os.environ.get("ODD_PRINTS"):
    print("printed at import")


class Sound(gymnasium.Env):
    """x' = 0.9 x + 0.1 u, reward −|x|², 20 stages."""

    observation_space: Any = Box(-10.0, 10.0, (2,), np.float64)
    action_space: Any = Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.stage, self.x = 0, self.np_random.uniform(-1, 1, 2)
        return self.see(), {}

    def step(self, action: Any) -> Any:
        self.stage += 1
        self.x = 0.9 * self.x + 0.1 * float(np.ravel(action)[0])
        return self.see(), self.pay(-float(self.x @ self.x)), False, self.stage >= 20, {}

    def see(self) -> Any:
        return self.x.copy()

    def pay(self, reward: float) -> Any:
        return reward


class Seen(Sound):
    """Gives as its observation what it is told to."""

    def __init__(self, value: Any, space: Any = None):
        self.value, self.observation_space = value, Sound.observation_space if space is None else space

    def see(self) -> Any:
        return self.value


class Paid(Sound):
    """Pays what it is told to."""

    def __init__(self, value: Any):
        self.value = value

    def pay(self, reward: float) -> Any:
        return self.value


class Answers(Sound):
    """Gives for a step, or a reset, what it is told to; `...` stands for the observation."""

    def __init__(self, step: Any = "", reset: Any = ""):
        self.answers = step, reset

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        came = super().reset(seed=seed)
        return self._answer(self.answers[1], came)

    def step(self, action: Any) -> Any:
        return self._answer(self.answers[0], super().step(action))

    def _answer(self, told: Any, came: Any) -> Any:
        if isinstance(told, str):
            return came
        if isinstance(told, tuple):
            return tuple(came[0] if value is ... else value for value in told)
        return told


class Acts(Sound):
    """Takes actions of a space that it is told, and no other: of its type, dtype and shape, within its limits."""

    def __init__(self, space: Any, observed: Any = None):
        self.action_space = space
        self.taken: list[Any] = []
        if observed is not None:
            self.observation_space = observed

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action), f"{action!r} is not in {self.action_space}"
        assert np.asarray(action).dtype == self.action_space.dtype, f"{action!r} is of another dtype"
        assert type(action) is type(self.action_space.sample()), f"{action!r} is of another type"
        self.taken.append(np.array(action))
        return super().step(np.ravel(np.asarray(action, float)))


class Mixed(Sound):
    """Observes a nested Dict, with a tuple and whole numbers in it."""

    observation_space = Dict(
        pose=Tuple((Box(-np.inf, np.inf, (2, 2)), Discrete(3, start=5))),
        gears=MultiDiscrete([[2, 3]]),
        switches=MultiBinary(2),
        temperature=Box(0.0, 1.0, ()),
    )

    def see(self) -> Any:
        return {
            "pose": (np.float32([[self.x[0], self.x[1]], [1.0, 2.0]]), 5 + self.stage % 3),
            "gears": np.array([[self.stage % 2, self.stage % 3]]),
            "switches": np.int8([1, self.stage % 2]),
            "temperature": np.float32(0.5),
        }


class Noisy(Sound):
    """Equal seeds give equal first observations, but not equal steps."""

    clock = np.random.default_rng()

    def step(self, action: Any) -> Any:
        self.stage += 1
        self.x = 0.9 * self.x + self.clock.uniform(-0.1, 0.1, 2)
        return self.see(), -float(self.x @ self.x), False, self.stage >= 20, {}


class Bounded(Sound):
    """Declares limits of ±`limit` around observations of about 1; float32."""

    def __init__(self, limit: float):
        self.observation_space = Box(-limit, limit, (2,), np.float64)


class Ends(Sound):
    """Terminates at once, and bears no step after that."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.over = False
        return super().reset(seed=seed)

    def step(self, action: Any) -> Any:
        assert not self.over, "stepped after the end"
        self.over = True
        observation, reward, *_ = super().step(action)
        return observation, reward, True, False, {}


class Cut(Sound):
    """Truncates itself after `cut` stages and declares no time limit; with `near`, where it comes near the origin."""

    def __init__(self, cut: int = 30, near: bool = False):
        self.cut, self.near = cut, near

    def step(self, action: Any) -> Any:
        observation, reward, _, _, info = super().step(action)
        gone = abs(self.x[0]) < 0.1 if self.near else self.stage >= self.cut
        return observation, reward, False, bool(gone), info


class Grows(Sound):
    """Observes one number more than it declares, or fewer, from a stage on."""

    def __init__(self, size: int):
        self.size = size

    def see(self) -> Any:
        return np.ones(self.size) if self.stage > 5 else self.x.copy()


class Loud(Sound):
    """Prints in every way at every call, and starts a program that does."""

    def __init__(self, **options: Any):
        self.loud("init")

    def loud(self, where: str) -> None:
        print("print", where)
        sys.stdout.write(f"write {where}\n")
        os.write(1, f"os.write {where}\n".encode())
        sys.__stdout__.write(f"original {where}\n")
        library = ctypes.CDLL(None)
        library.puts(f"puts {where}".encode())
        logger = logging.getLogger("loud")
        if not logger.handlers:
            logger.addHandler(logging.StreamHandler(sys.stdout))
        logger.warning("logging %s", where)
        subprocess.run(["echo", "program", where], check=True)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.loud("reset")
        return super().reset(seed=seed)

    def step(self, action: Any) -> Any:
        if self.stage == 0:
            self.loud("step")
        return super().step(action)

    def close(self) -> None:
        self.loud("close")


class Rude(Sound):
    """Sets what belongs to its process alone: folder, signals, alarms of NumPy, filters, threads, random numbers."""

    def __init__(self, place: str = "/"):
        os.chdir(place)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        np.seterr(all="raise")
        warnings.simplefilter("error")
        np.random.seed(0)  # noqa: NPY002
        threading.Thread(target=time.sleep, args=(1000,)).start()


class ClosesBadly(Sound):
    """Its `close` raises, ends the process, interrupts or never comes back."""

    def __init__(self, how: str):
        self.how = how

    def close(self) -> None:
        if self.how == "raise":
            raise RuntimeError("cannot close")
        if self.how == "interrupt":
            raise KeyboardInterrupt
        if self.how == "exit":
            os._exit(7)
        time.sleep(1000)


class BreaksOnce(ClosesBadly):
    """Raises at stage 3 until a file exists, and then cannot be closed either."""

    def __init__(self, marker: str, how: str = "raise"):
        super().__init__(how)
        self.marker = marker

    def step(self, action: Any) -> Any:
        if self.stage == 2 and not os.path.exists(self.marker):
            open(self.marker, "w").close()
            raise OSError("the licence was lost")
        return super().step(action)


class CloseRaises(ClosesBadly):
    def __init__(self) -> None:
        super().__init__("raise")


class CloseExits(ClosesBadly):
    def __init__(self) -> None:
        super().__init__("exit")


class CloseHangs(ClosesBadly):
    def __init__(self) -> None:
        super().__init__("hang")


class Stuck(Sound):
    """`reset` or `step` or making it raises, ends the process, or never comes back."""

    def __init__(self, where: str, how: str):
        self.where, self.how = where, how
        self.now("init")

    def now(self, where: str) -> None:
        if where != self.where:
            return
        if self.how == "raise":
            raise OSError("the licence was lost")
        if self.how == "exit":
            os._exit(5)
        if self.how == "sys.exit":
            sys.exit(4)
        time.sleep(1000)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.now("reset")
        return super().reset(seed=seed)

    def step(self, action: Any) -> Any:
        self.now("step")
        return super().step(action)


class NoSeed(gymnasium.Env):
    """A reset of the time before Gymnasium."""

    observation_space, action_space = Sound.observation_space, Sound.action_space

    def reset(self) -> Any:
        return np.zeros(2), {}


class NoOptions(Sound):
    """A reset that knows of a seed alone."""

    def reset(self, seed: int | None = None) -> Any:
        return super().reset(seed=seed)


class NoSpace(gymnasium.Env):
    """Has no space of one kind."""

    def __init__(self, **spaces: Any):
        for name, space in spaces.items():
            setattr(self, name, space)


class Elsewhere(Sound):
    """Notes in a file where its process was when it was made, and goes away."""

    folder: ClassVar[str] = "/"

    def __init__(self, note: str = ""):
        if note:
            with open(note, "a") as file:
                print(os.getcwd(), file=file)
        os.chdir(self.folder)


class OldBox:
    """A space of another package."""

    low, high, shape = np.zeros(2), np.ones(2), (2,)


def unserved(what: str) -> gymnasium.Env:
    """Observations that cannot be flattened."""
    image, words = Box(0, 255, (4, 4, 3), np.uint8), Text(10)
    space: Any = {
        "text": words,
        "image": image,
        "mission": Dict(image=image, direction=Discrete(4), mission=words),
        "camera": Dict(camera=image, x=Box(-1, 1, (2,))),
        "nested": Dict(a=Dict(b=words, c=Box(-1, 1, (2,))), d=Discrete(2)),
        "sequence": Sequence(Discrete(2)),
        "graph": Dict(g=Graph(Box(-1, 1, (2,)), Discrete(2)), x=Box(-1, 1, (2,))),
        "tuple": Tuple((words, Discrete(2))),
    }[what]
    env = Seen(None, space)
    env.see = space.sample  # type: ignore[method-assign]
    return env


def mass(value: float, **options: Any) -> gymnasium.Env:
    """A factory that needs an argument."""
    return Sound()


gymnasium.register("Odd/Closure-v0", lambda **options: Sound(), max_episode_steps=20)
gymnasium.register("Odd/Partial-v0", functools.partial(mass, 2.0), max_episode_steps=20)
gymnasium.register("Odd/NoOptions-v0", NoOptions, max_episode_steps=20)
