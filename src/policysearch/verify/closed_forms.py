"""What an estimator estimates: the exact expectation of Sᵀa/n or B⁺a on problems with closed forms, float64 NumPy.

J(θ): expected cost of the mode under parameter noise β, of sampled actions under action noise; d parameters, T stages.
"""

from __future__ import annotations

import abc
import copy
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import scipy.special
import scipy.stats
from jaxtyping import Float

from policysearch.core.credit import CentredRanks, CostToGo, TopPairs
from policysearch.core.explore import ActionNoise, Coordinates, ParameterNoise
from policysearch.core.method import Method
from policysearch.core.policies import LinearGaussian, Parameters, Policy, Softmax
from policysearch.tasks.bandit import Bandit
from policysearch.tasks.functions import bowl
from policysearch.tasks.linear_plants import check_problem, two_masses
from policysearch.tasks.lqr import LQR

Vector = Float[np.ndarray, " d"]

#: largest number of parameters for which all corners of a cube are visited
MOST_CORNERS = 12


class Problem(abc.ABC):
    """A task and a policy whose gradients are known.

    Args:
        name: of the built-in task.
        task: itself.
        policy: at the θ where gradients are compared.
        std: σ of perturbations, in parameter units.
        epsilon: ε of finite differences, in parameter units.
    """

    #: what may vary: actions, parameters
    spaces: tuple[str, ...] = ("action", "parameter")
    #: laws of parameter noise whose smoothed gradient is known
    shapes: tuple[str, ...] = ("gaussian", "sphere", "rademacher", "orthogonal")
    #: the mode's cost has a derivative
    smooth = True

    def __init__(self, name: str, task: Any, policy: Policy, std: float, epsilon: float):
        self.name, self.task, self.policy, self.std, self.epsilon = name, task, policy, std, epsilon
        self._smoothed: dict[tuple[str, bytes], Vector] = {}

    def theta(self, space: str) -> Vector:
        """θ (d,) of the searched space."""
        return np.asarray(self.policy.theta(space), np.float64)

    def gradient(self, horizon: int | None = None) -> Vector:
        """∇J of sampled actions; of the first `horizon` stages alone if that is given."""
        raise TypeError(f"{self.name} has no actions to sample.")

    @abc.abstractmethod
    def cost(self, theta: Vector) -> float:
        """J of the mode at θ (d,)."""

    def slope(self, theta: Vector) -> Vector:
        """∇J of the mode at θ (d,)."""
        raise TypeError(f"The mode's cost on {self.name} has no derivative.")

    def smoothed(self, shape: str, std: float | Vector) -> Vector:
        """E[J(θ+β) β/σ²] for a law of β: the gradient of a smoothed cost."""
        key = (shape, np.asarray(std, np.float64).tobytes())
        if key not in self._smoothed:
            self._smoothed[key] = smoothed_gradient(self.cost, self.slope, self.theta("parameter"), shape, std)
        return self._smoothed[key]


class LinearProblem(Problem):
    """A linear plant under a linear-Gaussian policy."""

    task: LQR
    policy: LinearGaussian

    def gradient(self, horizon: int | None = None) -> Vector:
        """By the moment recursion; a plant without final cost may be cut short."""
        plant = self.task
        if horizon is not None:
            plant = copy.copy(plant)
            object.__setattr__(plant, "horizon", horizon)  # plants are frozen
        gain, bias = self._parts(self.theta("parameter"))
        std = np.exp(np.asarray(self.policy.log_std, np.float64))
        return self._flat(plant.gradient(gain, std, bias), "action")

    def cost(self, theta: Vector) -> float:
        """By the moment recursion."""
        gain, bias = self._parts(theta)
        return self.task.expected_cost(gain, 0.0, bias)

    def slope(self, theta: Vector) -> Vector:
        """By the moment recursion."""
        gain, bias = self._parts(theta)
        return self._flat(self.task.gradient(gain, 0.0, bias), "parameter")

    def _parts(self, theta: Vector) -> tuple[np.ndarray, np.ndarray | None]:
        # θ is sorted by name: bias, gain
        m, p = self.policy.gain.shape
        return theta[-m * p :].reshape(m, p), theta[:m] if "bias" in self.policy.parameters else None

    def _flat(self, gradient: dict[str, np.ndarray], space: str) -> Vector:
        return np.concatenate([gradient[name].ravel() for name in self.policy.searched(space)])


class BanditProblem(Problem):
    """A bandit under softmax of logits; its mode's cost is a step function, and smoothed by Gaussian noise only."""

    task: Bandit
    shapes = ("gaussian",)
    smooth = False

    def gradient(self, horizon: int | None = None) -> Vector:
        """p (means − J)."""
        return self.task.gradient(self.theta("action"))

    def cost(self, theta: Vector) -> float:
        """Mean cost of the arm with the largest logit."""
        return self.task.means[int(np.argmax(theta))]

    def smoothed(self, shape: str, std: float | Vector) -> Vector:
        """∂/∂θ_j Σ_i means_i P(arm i has the largest perturbed logit), by quadrature."""
        theta, means = self.theta("parameter"), np.asarray(self.task.means)
        x = np.linspace(theta.min() - 10 * std, theta.max() + 10 * std, 4001)
        z = (x - theta[:, None]) / std
        density, below = scipy.stats.norm.pdf(z) / std, scipy.stats.norm.cdf(z)
        slope = np.zeros(len(means))
        for i, j in itertools.permutations(range(len(means)), 2):
            others = np.delete(below, [i, j], axis=0).prod(0)
            # how fast arm j takes over from arm i
            slope[j] += (means[j] - means[i]) * np.trapezoid(density[i] * density[j] * others, x)
        return slope


class BowlProblem(Problem):
    """A quadratic cost of parameters; θ counts from their initial values."""

    spaces = ("parameter",)

    def cost(self, theta: Vector) -> float:
        """½ xᵀHx, x = initial + θ."""
        return self.task.expected_cost(np.asarray(self.task.initial) + theta)

    def slope(self, theta: Vector) -> Vector:
        """H x."""
        return self.task.gradient(np.asarray(self.task.initial) + theta)


def _bandit() -> Problem:
    return BanditProblem("bandit", Bandit(), Softmax([(np.array([[0.3], [-0.2], [0.1], [0.4]]), None)]), 0.5, 0.1)


def _bowl() -> Problem:
    task = bowl()
    return BowlProblem("bowl", task, Parameters([f"x{i}" for i in range(10)], np.array(task.initial)), 0.3, 0.1)


def _lqr_check() -> Problem:
    policy = LinearGaussian([[-0.5, -0.8]], bias=[0.2], std=1.0, learned_std=True)
    return LinearProblem("lqr-check", check_problem(), policy, 0.3, 0.1)


def _lqr() -> Problem:
    problem = LinearProblem("lqr", two_masses(), LinearGaussian(np.zeros((2, 4)), std=1.0), 0.1, 0.05)
    problem.shapes = ("gaussian",)  # the others would double the time, and `lqr-check` has them
    return problem


#: name of a built-in task → its problem
PROBLEMS: dict[str, Callable[[], Problem]] = {
    "bandit": _bandit,
    "bowl": _bowl,
    "lqr-check": _lqr_check,
    "lqr": _lqr,
}


def smoothed_gradient(
    cost: Callable[[Vector], float], slope: Callable[[Vector], Vector], theta: Vector, shape: str, std: float | Vector
) -> Vector:
    """E[J(θ+β) β/σ²], what two-sided and one-sided weight perturbation estimate (18.24, 18.28).

    For Gaussian β it is E ∇J(θ+β); on the sphere, also for orthogonal blocks, E ∇J over the ball of that radius; for
    signs a mean of difference quotients. The first two by a rule that is exact for J of degree 6, the third exactly.

    Args:
        cost: J of θ (d,).
        slope: ∇J of θ (d,).
        theta: (d,).
        shape: law of β.
        std: σ, scalar or (d,), in parameter units.

    Raises:
        ValueError: too many parameters to visit every corner of a cube.
    """
    d = len(theta)
    if shape == "rademacher":
        if d > MOST_CORNERS:
            raise ValueError(f"{d} parameters have 2^{d} sign patterns; at most {MOST_CORNERS} parameters are summed.")
        corners = np.array(list(itertools.product((-1.0, 1.0), repeat=d)))
        costs = np.array([cost(theta + std * corner) for corner in corners])
        return costs @ corners / len(corners) / std
    # second moment and fourth mixed moment of one coordinate, in units of σ
    second, mixed = (1.0, 1.0) if shape == "gaussian" else (d / (d + 2), d**2 / ((d + 2) * (d + 4)))
    rule = _degree_five(d, second, mixed)
    return np.sum([weight * slope(theta + std * point) for weight, point in rule], axis=0)


def _degree_five(d: int, second: float, mixed: float) -> Iterator[tuple[float, Vector]]:
    """Weights and points of a mean over a spherically symmetric law, exact for polynomials of degree 5."""
    # the fourth moment of a coordinate is three times the mixed one
    radius = np.sqrt(3 * mixed / second)
    pair, axis = mixed / (4 * radius**4), (4 - d) * mixed / (2 * radius**4)
    yield 1 - 2 * d * axis - 2 * d * (d - 1) * pair, np.zeros(d)
    unit = radius * np.eye(d)
    for i, sign in itertools.product(range(d), (-1, 1)):
        yield axis, sign * unit[i]
    for (i, j), (first, other) in itertools.product(
        itertools.combinations(range(d), 2), itertools.product((-1, 1), repeat=2)
    ):
        yield pair, first * unit[i] + other * unit[j]


def estimand(problem: Problem, method: Method) -> tuple[str, Vector]:
    """The quantity that a method's gradient estimate estimates without bias, in words and exactly, (d,).

    A baseline that includes the sample shrinks the estimate: by 1 − 1/n if it is compared with its own stage or
    total; one number for all stages takes 1/(nT) of the gradient of Σ_k (k+1) g_k instead.

    Raises:
        ValueError: ranks, best pairs and divided costs, which do not estimate the gradient of any cost.
    """
    explore, credit = method.explore, method.credit
    if isinstance(credit, (TopPairs, CentredRanks)) or getattr(credit, "normalise", False):
        raise ValueError(
            f"{type(credit).__name__} rescales each batch by its own costs, so its expectation is not a gradient; "
            "check a TotalCost or CostToGo with normalise=False."
        )
    baseline = getattr(credit, "baseline", "none")
    if isinstance(explore, Coordinates):
        return _quotient(problem, np.asarray(explore.epsilon, np.float64), explore.central)
    if isinstance(explore, ParameterNoise):
        words = f"smoothed gradient, {explore.shape}"
        exact = problem.smoothed(explore.shape, np.asarray(explore.std, np.float64))
        # the partner of a pair cancels any baseline
        inclusive = baseline == "mean" and not explore.two_sided
        n = explore.directions
    elif isinstance(explore, ActionNoise):
        words, exact, n = "gradient", problem.gradient(), explore.rollouts
        inclusive = baseline in ("mean", "per_stage_mean")
        if baseline == "mean" and isinstance(credit, CostToGo):
            T = problem.task.specification.horizon
            short = sum((problem.gradient(h) for h in range(1, T)), np.zeros_like(exact))
            return f"{words} − O(1/n)", (1 - 1 / n) * exact + short / (n * T)
    else:
        raise ValueError(f"The estimand of {type(explore).__name__} is unknown; use action or parameter noise.")
    return (f"{words} · (1 − 1/{n})", (1 - 1 / n) * exact) if inclusive else (words, exact)


def _quotient(problem: Problem, epsilon: np.ndarray, central: bool) -> tuple[str, Vector]:
    theta = problem.theta("parameter")
    moves = np.diag(np.broadcast_to(epsilon, theta.shape))
    steps = np.diag(moves)
    above = np.array([problem.cost(theta + move) for move in moves])
    if not central:
        return "forward difference", (above - problem.cost(theta)) / steps
    below = np.array([problem.cost(theta - move) for move in moves])
    return "central difference", (above - below) / (2 * steps)
