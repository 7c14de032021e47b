"""Your own plant in JAX: an electric heater warms up a room whose walls store heat.

From the command line: policysearch train examples/own_plant.py:Thermostat --std 300
From Python:           python examples/own_plant.py [BUDGET]
"""

import sys

import jax
import jax.numpy as jnp

from policysearch import Continuous, PolicySettings, Specification, Task, train


class Thermostat(Task):
    """Air, wall and outdoor temperature in °C; heating in W, 0 to 2000; 4 hours of one decision a minute."""

    @property
    def specification(self):
        return Specification(
            name="thermostat",
            action=Continuous(low=(0.0,), high=(2000.0,)),
            observation_size=3,
            observation_scale=(1.0, 3.0, 10.0),
            observation_names=("air error [K]", "wall error [K]", "outdoor error [K]"),
            horizon=240,
            dt=60.0,
        )

    def reset(self, key):
        return jnp.array([18.0, 18.0, 5.0]) + 3.0 * jax.random.normal(key, (3,))

    def step(self, x, u, w):
        air, wall, outdoor = x
        to_wall, draught, through = 150.0 * (air - wall), 20.0 * (air - outdoor), 80.0 * (wall - outdoor)  # W
        air, wall = air + 60.0 * (u[0] - to_wall - draught) / 200e3, wall + 60.0 * (to_wall - through) / 4e6
        return jnp.stack([air, wall, outdoor])

    def cost(self, x, u):
        return ((x[0] - 21.0) ** 2 + 0.2 * u[0] / 1000.0) / 60.0  # K²h, and 0.2 for each kWh

    def observe(self, x):
        return x - 21.0


def main(budget="100updates"):
    # one minute of 100 W, the default action noise, warms this room by 0.03 K; 300 W teach more
    result = train(Thermostat(), policy=PolicySettings(std=300.0), budget=budget)
    gain, bias = result.policy.physical_gain()
    print(f"cost {result.evaluation.cost_mean:.1f} ± {result.evaluation.cost_sem:.1f} K²h")
    print(f"heating [W] = {gain[0].round(0)} · errors [K] + {bias[0]:.0f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
