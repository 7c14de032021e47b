"""Run a trained gain matrix on a machine without JAX: load the run's folder, act on observations.

First: policysearch train double-integrator
Run:   python examples/load_policy_without_jax.py [DIR]
"""

import sys

import policysearch


def main(folder="runs/double-integrator-natural_gradient-seed0"):
    controller = policysearch.load(folder)
    print(controller)
    position, velocity, dt = 0.5, 0.0, controller.interface.dt  # m, m/s, s
    for _ in range(100):
        force = float(controller.mode([position, velocity])[0])  # N on 1 kg, within the limits that the file knows
        position, velocity = position + dt * velocity + dt**2 / 2 * force, velocity + dt * force
    print(f"after 5 s: {1000 * position:.1f} mm, {1000 * velocity:.1f} mm/s")
    print(f"JAX was imported: {'jax' in sys.modules}")


if __name__ == "__main__":
    main(*sys.argv[1:])
