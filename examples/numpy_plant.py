"""Your own plant in NumPy: a tank heated by steam, whose level and temperature are held by a valve and a pump.

From the command line: policysearch train examples/numpy_plant.py:tank
From Python:           python examples/numpy_plant.py [BUDGET]
"""

import sys

import numpy as np

from policysearch import Plant, train

LEVEL, TEMPERATURE = 1.0, 60.0  # where it should rest: m, °C


def flow(x, u):
    """Level [m] and temperature [°C] change by inflow, outflow and heat: m/s and K/s."""
    level, temperature = x
    inflow, heat = u
    deep = np.maximum(level, 0.05)
    outflow = 0.02 * np.sqrt(deep)
    return np.array([0.05 * inflow - outflow, (heat - 0.05 * inflow * (temperature - 15.0)) / deep])


def cost(x, u):
    return (x[0] - LEVEL) ** 2 + ((x[1] - TEMPERATURE) / 10.0) ** 2 + 0.01 * (u[0] ** 2 + u[1] ** 2)


def errors(x):
    return np.array([x[0] - LEVEL, (x[1] - TEMPERATURE) / 10.0])


def start(generator):
    return np.array([0.8, 50.0]) + np.array([0.1, 5.0]) * generator.standard_normal(2)


def empty(x):
    return x[0] < 0.1


def damage(x):
    return 200.0 * (x[0] < 0.1)


def tank():
    return Plant(
        flow,
        dt=1.0,
        horizon=120,
        cost=cost,
        limits=([0.0, 0.0], [1.0, 3.0]),
        reset=start,
        output=errors,
        end=empty,
        final_cost=damage,
        observation_scale=(0.3, 1.0),
        observation_names=("level error [m]", "temperature error [10 K]"),
        action_names=("pump", "heat [K m/s]"),
    )


def main(budget="60updates"):
    plant = tank()
    assert plant.equations.batched  # all rollouts of an update run in one loop
    result = train(plant, budget=budget)
    gain, bias = result.policy.physical_gain()
    print(
        f"cost {result.evaluation.cost_mean:.1f} ± {result.evaluation.cost_sem:.1f}, {result.evaluation.failed} failed"
    )
    print(f"pump and heat = {gain.round(2).tolist()} · errors + {bias.round(2).tolist()}")


if __name__ == "__main__":
    main(*sys.argv[1:])
