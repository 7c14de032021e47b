"""A pendulum in NumPy, all rollouts of an update in one loop, against the same in JAX and as a Gymnasium class.

The three take turns in one process on the same search, updates of `ars` from where they are; medians and ratios are
printed. The Gymnasium class runs on worker processes, one environment each; `--workers 1` has a single one.
"""

import argparse
import statistics
import time

import gymnasium
import numpy as np

from policysearch import ARS, GymnasiumTask, Plant, Search
from policysearch.tasks.pendulum import GRAVITY, Pendulum

DT, HORIZON, DAMPING, LIMIT = 0.05, 200, 0.05, 2.0
SCALE = (1.0, 1.0, 5.0)


def slope(x, u):
    angle, rate = x
    return np.array([rate, 3.0 * (GRAVITY * np.sin(angle) / 2 - DAMPING * rate + u[0])])


def step(x, u):
    """The semi-implicit Euler step of the JAX plant."""
    angle, rate = x
    rate = rate + DT * 3.0 * (GRAVITY * np.sin(angle) / 2 - DAMPING * rate + u[0])
    return np.array([angle + DT * rate, rate])


def cost(x, u):
    return DT * ((1 - np.cos(x[0])) / 2 + 0.003 * (x[1] ** 2 + (u[0] / LIMIT) ** 2))


def output(x):
    return np.array([np.sin(x[0]), np.cos(x[0]), x[1]])


def reset(generator):
    return np.array([np.pi, 0.0]) + 0.1 * generator.standard_normal(2)


class Rod(gymnasium.Env):
    """The same for Gymnasium, as people write it."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float64)
    action_space = gymnasium.spaces.Box(-LIMIT, LIMIT, (1,), np.float64)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = reset(self.np_random)
        return output(self.x), {}

    def step(self, action):
        reward = -cost(self.x, action)
        self.x = step(self.x, action)
        return output(self.x), float(reward), False, False, {}


def plant(f=step, discrete=True, **more):
    return Plant(
        f,
        dt=DT,
        horizon=HORIZON,
        cost=cost,
        limits=(-LIMIT, LIMIT),
        reset=reset,
        output=output,
        observation_scale=SCALE,
        discrete=discrete,
        **more,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directions", type=int, nargs="+", default=[4, 16, 64], help="of ars; two rollouts each")
    parser.add_argument("--rounds", type=int, default=15, help="updates of each that are timed")
    parser.add_argument("--workers", type=int, default=1, help="processes of the Gymnasium class")
    arguments = parser.parse_args()
    tasks = {
        "JAX": Pendulum,
        "NumPy": plant,
        "NumPy, rk4": lambda: plant(slope, False),
        "Gymnasium": lambda: GymnasiumTask("plants:Rod", horizon=HORIZON),
    }
    for directions in arguments.directions:
        method = ARS(version="v1", directions=directions)
        searches = {
            name: Search(make(), method, policy="linear", budget="1000000updates", workers=arguments.workers)
            for name, make in tasks.items()
        }
        times = {name: [] for name in searches}
        for index in range(arguments.rounds + 2):
            for name, search in searches.items():
                start = time.perf_counter()
                search.update()
                if index >= 2:  # the first compile, and start processes
                    times[name].append(time.perf_counter() - start)
        for search in searches.values():
            search.close()
        found = {name: statistics.median(values) for name, values in times.items()}
        print(f"{2 * directions} rollouts: " + ", ".join(f"{name} {1e3 * t:.2f} ms" for name, t in found.items()))
        for name in ("NumPy", "NumPy, rk4"):
            slower, faster = found[name] / found["JAX"], found["Gymnasium"] / found[name]
            print(f"  {name}: {slower:.1f} times the time of JAX; {faster:.1f} times faster than Gymnasium", flush=True)


if __name__ == "__main__":
    main()
