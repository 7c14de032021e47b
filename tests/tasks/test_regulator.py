import jax.numpy as jnp
import numpy as np
import pytest
import scipy

from policysearch import LQR, Continuous, Specification, evaluate, lqr
from policysearch.tasks import build
from policysearch.tasks.cartpole import CartPole
from policysearch.tasks.pendulum import Pendulum
from policysearch.tasks.task import Equilibrium, Task

A, B, Q, R = np.array([[1.0, 0.1], [0.2, 0.8]]), np.array([[0.0], [0.1]]), np.diag([2.0, 0.3]), np.array([[0.4]])


CROSS = np.array([[0.1], [0.2]])


def riccati(discount=1.0, cross=0.0):
    a, b, S = np.sqrt(discount) * A, np.sqrt(discount) * B, cross * CROSS
    P = scipy.linalg.solve_discrete_are(a, b, Q, R, s=S)
    return -np.linalg.solve(R + b.T @ P @ b, b.T @ P @ a + S.T)


class Shifted(Task):
    """The linear plant about another equilibrium, x* = (1, 2) with u* = 3, seen through a square matrix."""

    seen: float = 2.0
    discount: float = 1.0
    cross: float = 0.0

    @property
    def specification(self):
        return Specification(
            name="shifted", action=Continuous((-99.0,), (99.0,)), observation_size=2, horizon=9, discount=self.discount
        )

    def reset(self, key):
        return jnp.array([1.5, 2.0])

    def noise(self, key):
        return jnp.ones((9, 2))

    def step(self, x, u, w):
        return jnp.array([1.0, 2.0]) + A @ (x - jnp.array([1.0, 2.0])) + B @ (u - 3) + w

    def cost(self, x, u):
        x = x - jnp.array([1.0, 2.0])
        return x @ Q @ x + (u - 3) @ R @ (u - 3) + 2 * self.cross * (x @ CROSS @ (u - 3))

    def observe(self, x):
        return jnp.array([[self.seen, 1.0], [0.0, 1.0]]) @ x

    def equilibrium(self):
        return Equilibrium((1.0, 2.0), (3.0,), lambda z: z, lambda x: x)


def test_an_lqr_task_has_its_best_gain():
    task = LQR(A, B, Q, R, initial_mean=[1.0, 0.0], horizon=15)
    np.testing.assert_allclose(lqr(task).physical_gain()[0], task.best_gain()[0], rtol=1e-5)


@pytest.mark.parametrize(("discount", "cross"), [(1.0, 0.0), (0.9, 0.0), (1.0, 1.0)])
def test_other_tasks_are_linearised_where_they_rest(discount, cross):
    """The gain is the Riccati equation's, turned to the observations, and holds u* at the equilibrium."""
    gain, bias = lqr(Shifted(discount=discount, cross=cross)).physical_gain()
    C = np.array([[2.0, 1.0], [0.0, 1.0]])
    np.testing.assert_allclose(gain @ C, riccati(discount, cross), rtol=1e-4)
    np.testing.assert_allclose(gain @ C @ [1.0, 2.0] + bias, [3.0], rtol=1e-4)


def test_it_balances_the_pole_and_holds_the_pendulum():
    assert evaluate(build("cartpole-balance"), lqr(build("cartpole-balance")).controller()).solved

    class Upright(Pendulum):
        def reset(self, key):
            return self.state(jnp.asarray(0.15), jnp.asarray(0.0))

    assert evaluate(Upright(), lqr(Pendulum()).controller(), 1).solved


def test_there_is_none_where_nothing_rests_or_is_seen():
    assert lqr(build("bandit")) is None
    assert lqr(build("bowl")) is None
    assert lqr(Shifted(seen=0.0)) is None  # one coordinate is invisible


def test_a_plant_that_no_force_moves_has_none():
    class Loose(CartPole):
        def step(self, x, u, w):
            return super().step(x, 0 * u, w)

    assert lqr(Loose("balance")) is None


def test_a_state_that_the_plant_leaves_is_no_equilibrium():
    class Wrong(Shifted):
        def equilibrium(self):
            return Equilibrium((1.0, 2.0), (4.0,), lambda z: z, lambda x: x)

    with pytest.warns(UserWarning, match="names a state that the plant leaves"):
        assert lqr(Wrong()) is None
