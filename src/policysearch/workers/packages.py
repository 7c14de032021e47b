"""Which public package registers an environment, from its id: a table of well-known ones. No import of any."""

from __future__ import annotations

import re
from typing import NamedTuple


class Package(NamedTuple):
    """module: that registers its ids when it is imported. install: its name for pip."""

    module: str
    install: str


#: patterns of ids
PACKAGES: dict[str, Package] = {
    r"(Fetch|HandReach|HandManipulate|AntMaze|PointMaze|AdroitHand|FrankaKitchen)\w*-v\d+": Package(
        "gymnasium_robotics", "gymnasium-robotics"
    ),
    r"Panda(Reach|Push|Slide|PickAndPlace|Stack|Flip)\w*-v\d+": Package("panda_gym", "panda-gym"),
    r"(MiniGrid|BabyAI)-.+": Package("minigrid", "minigrid"),
    r"MiniWorld-.+": Package("miniworld", "miniworld"),
    r"dm_control/.+": Package("shimmy", "'shimmy[dm-control]'"),
    r"bsuite/.+": Package("shimmy", "'shimmy[bsuite]'"),
    r"(ALE/.+|\w+NoFrameskip-v\d+|\w+-ram-v\d+)": Package("ale_py", "ale-py"),
    r"Meta-World/.+": Package("metaworld", "metaworld"),
    r"\w+BulletEnv-v\d+": Package("pybullet_envs_gymnasium", "pybullet-envs-gymnasium"),
    r"(highway|highway-fast|intersection|merge|merge-generic|parking|racetrack|roundabout|exit|two-way|u-turn"
    r"|lane-keeping)(-[\w-]+)?-v\d+": Package("highway_env", "highway-env"),
    r"PyFlyt/.+": Package("PyFlyt.gym_envs", "pyflyt"),
    r"myo\w+-v\d+": Package("myosuite", "myosuite"),
    r"gym_pusht/.+": Package("gym_pusht", "gym-pusht"),
    r"gym_aloha/.+": Package("gym_aloha", "gym-aloha"),
}


def package_of(name: str) -> Package | None:
    """The package whose ids look like this one; None if none is known.

    Example:
        >>> package_of("FetchReach-v4")
        Package(module='gymnasium_robotics', install='gymnasium-robotics')
    """
    return next((package for pattern, package in PACKAGES.items() if re.fullmatch(pattern, name)), None)


def advice(name: str) -> str:
    """What to type for an id whose package is known; "" for others."""
    package = package_of(name)
    if package is None:
        return ""
    return f"Ids like this are of {package.module}: pip install {package.install}, then type {package.module}:{name}."
