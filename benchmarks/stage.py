"""Microseconds of a stage of a rollout: the simulator alone, with the environment's own step, and with the lean one.

One process; a network of two layers of 64 with its action noise, the same rollout three ways, interleaved. The
simulator alone is `mujoco.rollout` over the controls of that rollout. Medians and ranges over repetitions.
Run: python benchmarks/stage.py [--tasks A,B] [--policies FOLDER] [--repetitions 9]
"""

import argparse
import os
import time
import warnings
from pathlib import Path

import gymnasium
import mujoco
import numpy as np
from cells import spread
from host import TARGETS, network, trained
from mujoco.rollout import Rollout

from policysearch.tasks.gymnasium_task import GymnasiumTask
from policysearch.workers.episode import run_rollout

SEED = 3


def measure(name, arguments):
    """A row of the table."""
    task = GymnasiumTask(name)
    controller = network(trained(name, arguments.policies, arguments.budget), task)
    noise = controller.noise(np.random.default_rng(SEED), task.horizon)
    lean, own = task.make(), gymnasium.Wrapper(task.make())  # a wrapper is stepped through
    episode = run_rollout(lean, controller, SEED, noise, task.horizon, record=True)
    core, space = lean.unwrapped, lean.action_space
    lean.reset(seed=SEED)
    start = np.concatenate([[0.0], core.data.qpos, core.data.qvel])[None]
    warm = core.data.qacc_warmstart.copy()[None]
    command = np.clip(episode.record[1].astype(space.dtype), space.low, space.high).astype(float)
    controls = np.repeat(command, core.frame_skip, axis=0)[None]
    data, runner = mujoco.MjData(core.model), Rollout(nthread=0)
    work = {
        "alone": lambda: runner.rollout(core.model, data, start, controls, initial_warmstart=warm),
        "own": lambda: run_rollout(own, controller, SEED, noise, task.horizon),
        "lean": lambda: run_rollout(lean, controller, SEED, noise, task.horizon),
    }
    seconds = {which: [] for which in work}
    for _ in range(arguments.repetitions):
        for which, run in work.items():
            before = time.perf_counter()
            run()
            seconds[which].append(1e6 * (time.perf_counter() - before) / episode.length)
    print(f"| {name} | {episode.length} | " + " | ".join(spread(times, 0) for times in seconds.values()) + " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default=",".join(TARGETS))
    parser.add_argument("--policies", type=Path, default=Path("build/policies"), help="of TASK.safetensors")
    parser.add_argument("--budget", type=int, default=3_000_000, help="stages of the training of a missing one")
    parser.add_argument("--repetitions", type=int, default=9)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    print("| task | stages | simulator alone | with the environment's step | with the lean step |\n|" + "---|" * 5)
    for name in arguments.tasks.split(","):
        measure(name, arguments)
    print(f"load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
