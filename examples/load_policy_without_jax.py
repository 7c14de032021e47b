"""Run a trained gain matrix on a machine without JAX: load the run's folder, act on observations.

First: policysearch train double-integrator
Run:   python examples/load_policy_without_jax.py [DIR]
"""

import sys

import numpy as np

import policysearch


def main(folder="runs/double-integrator-natural_gradient-seed0"):
    controller = policysearch.load(folder)
    position, velocity, dt = 0.5, 0.0, 0.05  # m, m/s, s
    for _ in range(100):
        force = float(controller.act(np.array([position, velocity]))[0])  # N on 1 kg; the mode, without action noise
        position, velocity = position + dt * velocity + dt**2 / 2 * force, velocity + dt * force
    print(f"after 5 s: {1000 * position:.1f} mm, {1000 * velocity:.1f} mm/s")
    print(f"JAX was imported: {'jax' in sys.modules}")


if __name__ == "__main__":
    main(*sys.argv[1:])
