"""Plants in NumPy that workers can import: a damped oscillator for one state, for columns and rows; one that bursts."""

import numpy as np

from policysearch import Plant

A, B = np.array([[0.0, 1.0], [-4.0, -0.4]]), np.array([[0.0], [1.0]])


def columns(x, u):
    return A @ x + B @ u


def rows(x, u):
    return x @ A.T + u @ B.T


def single(x, u):
    position, speed = (float(number) for number in x)  # takes no batch
    return [speed, -4.0 * position - 0.4 * speed + float(u[0])]


def cost(x, u):
    return 0.1 * (x[0] ** 2 + 0.1 * x[1] ** 2 + 0.01 * u[0] ** 2)


def reset(generator):
    return np.array([1.0, 0.0]) + 0.3 * generator.standard_normal(2)


def fallen(x):
    return x[0] < -0.6


def left(x):
    return 5.0 * (x[0] < -0.6) + x[1] ** 2


def explosive(x, u):
    return np.where(x[0] > 1.2, np.inf, 1.0) * np.array([x[1], u[0]])


def oscillator(f=columns, **more):
    given = {"dt": 0.1, "horizon": 25, "cost": cost, "limits": (-1.0, 1.0), "reset": reset}
    return Plant(f, **given | more)


ready = oscillator()


class Ready(Plant):
    def __init__(self):
        super().__init__(columns, dt=0.1, horizon=25, cost=cost, limits=(-1.0, 1.0), reset=reset)
