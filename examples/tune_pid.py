"""Tune a PID on a motor whose load and speed differ from trial to trial, within the limits of its voltage.

Run:  python examples/tune_pid.py [UPDATES]

The speed shall follow the setpoint, 100 rad/s, against a load torque that the controller does not know: without its
integral it would stay below. The cost is the squared error of the speed, and a little for the voltage.
"""

import sys

import jax
import jax.numpy as jnp

from policysearch import ARS, PID, Continuous, Search, Specification, Task, evaluate

SETPOINT = 100.0  # rad/s


class Motor(Task):
    """A direct-current motor: state (speed, load), observation speed, action voltage."""

    @property
    def specification(self):
        return Specification(
            name="motor",
            action=Continuous((0.0,), (24.0,)),  # V
            observation_size=1,
            observation_scale=(SETPOINT,),
            observation_names=("speed [rad/s]",),
            action_names=("voltage [V]",),
            horizon=200,
            dt=0.02,
        )

    def reset(self, key):
        speed, load = jax.random.uniform(key, (2,), minval=0.0, maxval=1.0)
        return jnp.array([50.0 * speed, 0.2 + 0.6 * load])  # rad/s, N m

    def observe(self, state):
        return state[:1]

    def step(self, state, action, disturbance):
        speed, load = state
        current = (action[0] - 0.1 * speed) / 0.5  # A, of 0.5 Ω and 0.1 V s/rad
        return jnp.array([speed + 0.02 * (0.1 * current - load) / 0.02, load])  # 0.02 kg m²

    def cost(self, state, action):
        return ((state[0] - SETPOINT) / SETPOINT) ** 2 + 1e-5 * action[0] ** 2


def main(updates=40):
    motor = Motor()
    pid = PID(0.05, 0.02, observation="speed", setpoint=SETPOINT)  # V s/rad, V/rad
    before = evaluate(motor, pid.fitted(motor.specification).controller())
    with Search(motor, ARS(), policy=pid, budget=f"{updates}updates", seed=0) as search:
        search.run()
        result = search.result()
    after = result.evaluation
    print(f"cost {before.cost_mean:.2f} → {after.cost_mean:.2f}")
    print(", ".join(f"{name} = {value:.3g}" for name, value in result.controller.values().items()))
    controller = result.controller
    print(f"first voltages from rest: {[round(float(controller.mode([0.0])[0]), 1) for _ in range(3)]}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
