"""The built-in linear plants: two joined carts, the documentation's check problem, MushroomRL's example."""

from __future__ import annotations

import numpy as np
import scipy

from policysearch.tasks.lqr import LQR


def two_masses() -> LQR:
    """The built-in `lqr`: two 1 kg carts joined by a spring and a damper, a force on each, 30 × 0.1 s."""
    stiffness, damping, dt = 2.0, 0.2, 0.1  # N/m, N s/m, s; both masses are 1 kg
    joint = np.array([[-1.0, 1.0], [1.0, -1.0]])
    flow = np.zeros((6, 6))  # d/dt (positions, velocities, held forces)
    flow[:2, 2:4], flow[2:4, 4:] = np.eye(2), np.eye(2)
    flow[2:4, :2], flow[2:4, 2:4] = stiffness * joint, damping * joint
    held = scipy.linalg.expm(dt * flow)
    return LQR(
        held[:4, :4],
        held[:4, 4:],
        np.diag([1.0, 1.0, 0.1, 0.1]),
        0.1 * np.eye(2),
        noise_covariance=1e-3 * np.eye(4),
        initial_mean=[1.0, -0.5, 0.0, 0.0],
        initial_covariance=0.1 * np.eye(4),
        horizon=30,
        dt=dt,
        observation_names=(
            "position 1 [m]",
            "position 2 [m]",
            "velocity 1 [m/s]",
            "velocity 2 [m/s]",
        ),
        action_names=("force 1 [N]", "force 2 [N]"),
        name="lqr",
    )


def check_problem() -> LQR:
    """The built-in `lqr-check`: a pushed 1 kg mass, 21 × 0.1 s, whose gradient the documentation prints."""
    return LQR(
        [[1.0, 0.1], [0.0, 1.0]],
        [[0.0], [0.1]],
        np.diag([1.0, 0.1]),
        [[0.1]],
        noise_covariance=1e-3 * np.eye(2),
        initial_mean=[1.0, 0.0],
        initial_covariance=0.1 * np.eye(2),
        horizon=21,
        dt=0.1,
        observation_names=("position [m]", "velocity [m/s]"),
        action_names=("force [N]",),
        name="lqr-check",
    )


def mushroom() -> LQR:
    """The built-in `lqr-mushroom`: MushroomRL's clipped two-state example; its best gain costs 1.058."""
    return LQR(
        np.eye(2),
        np.eye(2),
        np.diag([0.9, 0.1]),
        np.diag([0.1, 0.9]),
        initial_mean=[0.9, 0.9],
        horizon=50,
        discount=0.9,
        action_limit=1.0,
        state_limit=1.0,
        threshold=1.05 * 1.058,
        name="lqr-mushroom",
    )
