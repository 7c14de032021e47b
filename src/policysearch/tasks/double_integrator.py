"""A mass on a frictionless track, pushed back to the origin: position'' = force/mass, sampled exactly.

Two states (position, velocity), one action (force), quadratic cost: an `LQR`, with all its closed forms.
"""

from __future__ import annotations

import numpy as np

from policysearch.tasks.lqr import LQR


def double_integrator(unit: float = 1.0, mass: float = 1.0) -> LQR:
    """The built-in `double-integrator`: 100 stages of 0.05 s from a random start.

    Args:
        unit: metres per unit of length that states are reported in: 1e-3 gives mm and mm/s. Motion and
            cost do not depend on it.
        mass: in kg.

    Returns:
        The task; solved when the mass is within 0.05 m and 0.1 m/s of rest at the origin over the last 0.5 s.

    Raises:
        ValueError: `unit` or `mass` is not positive and finite.

    Example:
        >>> double_integrator(unit=1e-3).specification.observation_names
        ('position [mm]', 'velocity [mm/s]')
    """
    for name, value in (("unit", unit), ("mass", mass)):
        if not (np.isfinite(value) and value > 0):
            raise ValueError(f"double_integrator: {name} is {value!r}; it must be positive and finite")
    dt = 0.05
    length = {1.0: "m", 1e-2: "cm", 1e-3: "mm"}.get(unit, f"{unit:g} m")
    return LQR(
        [[1.0, dt], [0.0, 1.0]],
        np.array([[dt**2 / 2], [dt]]) / (mass * unit),
        np.diag([1.0, 0.1]) * dt * unit**2,
        [[0.1 * dt]],
        initial_covariance=np.diag([0.5, 0.2]) ** 2 / unit**2,
        horizon=100,
        dt=dt,
        tolerance=(0.05 / unit, 0.1 / unit),
        observation_scale=(0.5 / unit, 0.5 / unit),
        observation_names=(f"position [{length}]", f"velocity [{length}/s]"),
        action_names=("force [N]",),
        name="double-integrator",
    )
