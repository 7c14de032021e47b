"""A pole on a cart of limited travel, pushed by a force F. Angle θ 0 is upright, l half the pole's length.

(M+m) a + m l (α cos θ − ω² sin θ) = F − b v,  m l a cos θ + J α = m g l sin θ − c ω,  J = 4/3 m l².
"""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from policysearch.core.specification import Continuous, Specification
from policysearch.tasks.task import Equilibrium, Task, check_positive, randomised

GRAVITY = 9.81  # m/s²


class Masses(NamedTuple):
    """One plant: cart mass and pole mass in kg, half the pole's length in m."""

    cart: Array | float
    pole: Array | float
    half_length: Array | float


class CartPoleState(NamedTuple):
    """Position in m, velocity in m/s, angle in rad (0 upright), rate in rad/s; the angle's sine and cosine.

    `plant` was drawn at reset, or is None. The sine and cosine ride along because observation, motion and
    cost all need them, and sines are most of what a stage takes.
    """

    position: Float[Array, ""]
    velocity: Float[Array, ""]
    angle: Float[Array, ""]
    rate: Float[Array, ""]
    sin: Float[Array, ""]
    cos: Float[Array, ""]
    plant: Masses | None


class CartPole(Task):
    """A cart with a pole, to balance or to swing up; the track ends in inelastic stops at ± `travel`.

    Args:
        goal: "balance" (starts near upright) or "swingup" (starts hanging).
        cart_mass, pole_mass: kg.
        half_length: of the uniform pole, m.
        cart_friction: N s/m.
        joint_friction: N m s/rad.
        force_limit: N.
        travel: of the cart to either side, m.
        randomise: relative spread of masses and half-length, drawn uniformly at each reset, in [0, 1).
        dt: seconds per stage; semi-implicit Euler.
        horizon: stages; None for 5 s of balancing, 10 s of swinging up.

    Raises:
        ValueError: a constant is out of its range.

    Example:
        >>> CartPole("swingup").specification.horizon
        500
    """

    summary: ClassVar[str] = "a cart with a pole, to balance or to swing up"

    goal: Literal["balance", "swingup"] = eqx.field(static=True, default="balance")
    cart_mass: float = eqx.field(static=True, default=1.0)
    pole_mass: float = eqx.field(static=True, default=0.1)
    half_length: float = eqx.field(static=True, default=0.5)
    cart_friction: float = eqx.field(static=True, default=0.1)
    joint_friction: float = eqx.field(static=True, default=0.002)
    force_limit: float = eqx.field(static=True, default=10.0)
    travel: float = eqx.field(static=True, default=2.4)
    randomise: float = eqx.field(static=True, default=0.0)
    dt: float = eqx.field(static=True, default=0.02)
    horizon: int | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        if self.goal not in ("balance", "swingup"):
            raise ValueError(f'CartPole.goal is {self.goal!r}; "balance" and "swingup" are allowed')
        check_positive(self, "cart_mass", "pole_mass", "half_length", "force_limit", "travel", "dt")
        if self.horizon is not None:
            check_positive(self, "horizon")

    @property
    def specification(self) -> Specification:
        """Sizes, limits, horizon and time step."""
        duration = 5.0 if self.goal == "balance" else 10.0
        return Specification(
            name=f"cartpole-{self.goal}",
            action=Continuous(low=(-self.force_limit,), high=(self.force_limit,)),
            observation_size=5,
            observation_scale=(1.0, 1.0, 0.2, 1.0, 1.0) if self.goal == "balance" else (1.0, 2.0, 1.0, 1.0, 5.0),
            observation_names=("position [m]", "velocity [m/s]", "sin angle", "cos angle", "rate [rad/s]"),
            action_names=("force [N]",),
            horizon=round(duration / self.dt) if self.horizon is None else self.horizon,
            dt=self.dt,
            policy="network",
            solved="pole within 0.2 rad of upright and cart within 2 m over the last 2 s, in 95 of 100 rollouts",
        )

    def reset(self, key: PRNGKeyArray) -> CartPoleState:
        """At rest in the middle with a spread of 0.05 in all four numbers, upright or hanging."""
        start, plant = jax.random.split(key)
        position, velocity, angle, rate = 0.05 * jax.random.normal(start, (4,))
        angle = angle if self.goal == "balance" else angle + jnp.pi
        return self.state(position, velocity, angle, rate, randomised(plant, self._masses, self.randomise))

    def state(
        self, position: Array, velocity: Array, angle: Array, rate: Array, plant: Masses | None = None
    ) -> CartPoleState:
        """The state with these coordinates, in m, m/s, rad and rad/s."""
        return CartPoleState(position, velocity, angle, rate, jnp.sin(angle), jnp.cos(angle), plant)

    def step(self, x: CartPoleState, u: Float[Array, " 1"], w: None) -> CartPoleState:
        """One stage of the motion under force u, held constant; a stop halts the cart, not the pole."""
        cart, pole, half = self._masses if x.plant is None else x.plant
        moment, inertia, total = pole * half, 4 / 3 * pole * half**2, cart + pole
        push = (u[0] - self.cart_friction * x.velocity + moment * x.rate**2 * x.sin) / total
        turn = moment * GRAVITY * x.sin - self.joint_friction * x.rate - moment * x.cos * push
        turn = turn / (inertia - (moment * x.cos) ** 2 / total)
        velocity = x.velocity + self.dt * (push - moment * x.cos * turn / total)
        rate = x.rate + self.dt * turn
        position = x.position + self.dt * velocity
        stopped = jnp.abs(position) > self.travel
        # the stop's impulse on the hinge: m l cos θ Δv + J Δω = 0 with Δv = −v
        rate = jnp.where(stopped, rate + moment * x.cos * velocity / inertia, rate)
        velocity = jnp.where(stopped, 0.0, velocity)
        position = jnp.clip(position, -self.travel, self.travel)
        return self.state(position, velocity, x.angle + self.dt * rate, rate, x.plant)

    def cost(self, x: CartPoleState, u: Float[Array, " 1"]) -> Float[Array, ""]:
        """dt·[(1 − cos angle)/2 + 0.3 (position/travel)² + 0.003 rate² + 0.01 (force/limit)²]: about seconds.

        The rate's share keeps spinning, and the position's leaning on a stop, from being local minima.
        """
        away = (1 - x.cos) / 2 + 0.3 * (x.position / self.travel) ** 2 + 0.003 * x.rate**2
        return self.dt * (away + 0.01 * (u[0] / self.force_limit) ** 2)

    def observe(self, x: CartPoleState) -> Float[Array, " 5"]:
        """(position, velocity, sin angle, cos angle, rate)."""
        return jnp.stack([x.position, x.velocity, x.sin, x.cos, x.rate])

    def success(self, states: CartPoleState, actions: Array) -> Bool[Array, ""]:
        """Whether pole and cart stayed within 0.2 rad of upright and 2 m of the middle over the last 2 s."""
        last = round(2 / self.dt)
        upright = states.cos[-last:] >= jnp.cos(0.2)
        return jnp.all(upright & (jnp.abs(states.position[-last:]) <= 2.0))

    def equilibrium(self) -> Equilibrium:
        """Upright and at rest in the middle, in (position, velocity, angle, rate)."""
        read = lambda x: jnp.stack([x.position, x.velocity, x.angle, x.rate])  # noqa: E731
        return Equilibrium((0.0,) * 4, (0.0,), lambda z: self.state(*z), read)

    @property
    def _masses(self) -> Masses:
        return Masses(self.cart_mass, self.pole_mass, self.half_length)


def balance() -> CartPole:
    """The built-in `cartpole-balance`."""
    return CartPole("balance")


def swing_up() -> CartPole:
    """The built-in `cartpole-swingup`: 25 decisions a second suffice, so its stages last 0.04 s."""
    return CartPole("swingup", dt=0.04)
