"""A pendulum, a uniform rod on a motor, to swing up. Angle 0 is upright.

J·angle'' = m g (l/2) sin angle − damping·rate + torque, J = m l²/3. Observation (sin angle, cos angle, rate).
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from policysearch.core.specification import Continuous, Specification
from policysearch.tasks.task import Equilibrium, Task, check_positive, randomised

GRAVITY = 9.81  # m/s²


class Rod(NamedTuple):
    """One rod: mass in kg, length in m."""

    mass: Array | float
    length: Array | float


class PendulumState(NamedTuple):
    """Angle in rad (0 upright), rate in rad/s, the angle's sine and cosine; the rod drawn at reset or None.

    The sine and cosine ride along because observation, motion and cost all need them.
    """

    angle: Float[Array, ""]
    rate: Float[Array, ""]
    sin: Float[Array, ""]
    cos: Float[Array, ""]
    rod: Rod | None


class Pendulum(Task):
    """Swing-up of a pendulum whose motor is too weak to lift it in one go.

    Args:
        mass: of the rod, kg.
        length: of the rod, m.
        damping: of the joint, N m s/rad.
        torque_limit: N m; lifting the standard rod takes up to 4.9 N m.
        randomise: relative spread of mass and length, drawn uniformly at each reset, in [0, 1).
        dt: seconds per stage; semi-implicit Euler.
        horizon: stages.

    Raises:
        ValueError: a constant is out of its range.

    Example:
        >>> Pendulum(torque_limit=1.5).specification.action.high
        (1.5,)
    """

    summary: ClassVar[str] = "swing a pendulum up and hold it, with a motor too weak to lift it directly"

    mass: float = eqx.field(static=True, default=1.0)
    length: float = eqx.field(static=True, default=1.0)
    damping: float = eqx.field(static=True, default=0.05)
    torque_limit: float = eqx.field(static=True, default=2.0)
    randomise: float = eqx.field(static=True, default=0.0)
    dt: float = eqx.field(static=True, default=0.05)
    horizon: int = eqx.field(static=True, default=200)

    def __check_init__(self):
        check_positive(self, "mass", "length", "torque_limit", "dt", "horizon")

    @property
    def specification(self) -> Specification:
        """Sizes, limits, horizon and time step."""
        return Specification(
            name="pendulum",
            action=Continuous(low=(-self.torque_limit,), high=(self.torque_limit,)),
            observation_size=3,
            observation_scale=(1.0, 1.0, 5.0),
            observation_names=("sin angle", "cos angle", "rate [rad/s]"),
            action_names=("torque [N m]",),
            horizon=self.horizon,
            dt=self.dt,
            policy="network",
            solved="within 0.2 rad of upright over the last 2 s, in 95 of 100 rollouts",
        )

    def reset(self, key: PRNGKeyArray) -> PendulumState:
        """Hanging, with a spread of 0.1 rad and 0.1 rad/s."""
        start, plant = jax.random.split(key)
        angle, rate = 0.1 * jax.random.normal(start, (2,))
        rod = randomised(plant, Rod(self.mass, self.length), self.randomise)
        return self.state(jnp.pi + angle, rate, rod)

    def state(self, angle: Array, rate: Array, rod: Rod | None = None) -> PendulumState:
        """The state at this angle (rad) and rate (rad/s)."""
        return PendulumState(angle, rate, jnp.sin(angle), jnp.cos(angle), rod)

    def step(self, x: PendulumState, u: Float[Array, " 1"], w: None) -> PendulumState:
        """One stage of the motion under torque u, held constant."""
        mass, length = Rod(self.mass, self.length) if x.rod is None else x.rod
        torque = mass * GRAVITY * length / 2 * x.sin - self.damping * x.rate + u[0]
        rate = x.rate + self.dt * torque / (mass * length**2 / 3)
        return self.state(x.angle + self.dt * rate, rate, x.rod)

    def cost(self, x: PendulumState, u: Float[Array, " 1"]) -> Float[Array, ""]:
        """dt·[(1 − cos angle)/2 + 0.003 (rate² + (torque/limit)²)]: about the seconds away from upright.

        Without the rate's share, spinning (which halves the first term) would be a local minimum.
        """
        effort = x.rate**2 + (u[0] / self.torque_limit) ** 2
        return self.dt * ((1 - x.cos) / 2 + 0.003 * effort)

    def observe(self, x: PendulumState) -> Float[Array, " 3"]:
        """(sin angle, cos angle, rate)."""
        return jnp.stack([x.sin, x.cos, x.rate])

    def success(self, states: PendulumState, actions: Array) -> Bool[Array, ""]:
        """Whether the angle stayed within 0.2 rad of upright over the last 2 s."""
        return jnp.all(states.cos[-round(2 / self.dt) :] >= jnp.cos(0.2))

    def equilibrium(self) -> Equilibrium:
        """Upright and at rest, in (angle, rate)."""
        return Equilibrium((0.0, 0.0), (0.0,), lambda z: self.state(*z), lambda x: jnp.stack([x.angle, x.rate]))
