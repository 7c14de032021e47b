"""The four figures of `docs/natural_gradient.md`, and the numbers that the page states of them.

    python docs/figures/natural_gradient.py            # writes them next to this file; one to two minutes
    python docs/figures/natural_gradient.py --quick    # the same with few rollouts, to see that it runs

n rollouts, T stages, p states, d parameters; 64-bit numbers, fixed seeds. Estimates are those of the library's parts;
exact gradients and Fisher matrices are the closed forms of `policysearch.LQR`.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from PIL import Image

from policysearch import LQR, ActionNoise, CostToGo, Euclidean, LearningRate, LinearGaussian, Method, Natural, Policy
from policysearch.core.distributions import Distribution
from policysearch.core.quality import measure
from policysearch.core.rollouts import LOST, OK, settle
from policysearch.core.score import PolicyScore
from policysearch.core.step import Estimate, KLStep
from policysearch.runners import native
from policysearch.tasks import build

#: what a step does not look at: direction, groups, rollouts, credit, info
REST = (None, None, None, (), {})

BLUE, RED, GREY, GREEN = "#1f5fa8", "#c4451c", "#666666", "#2b8a3e"
NAMES = ("natural_field", "natural_invariance", "natural_angle", "natural_convergence")


def canvas(width: float, height: float, columns: int = 1) -> tuple[Figure, Any]:
    """A figure with its axes, without global style."""
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, columns, sharey=True)
    for axis in np.atleast_1d(axes):
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def save(figure: Figure, path: Path) -> None:
    """A PNG of few colours, a third as large."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    Image.open(drawn).convert("RGB").quantize(64, dither=Image.Dither.NONE).save(path, optimize=True)


def exact(plant: LQR, policy: LinearGaussian) -> tuple[PolicyScore, jax.Array]:
    """A score on p states whose second moment is exactly that of the visited ones, and the exact ∇J (d,) for it.

    A score of p stages has p/T of the Fisher matrix of a rollout, so the gradient is scaled by that too.
    """
    K, std = np.asarray(policy.gain), np.exp(np.asarray(policy.log_std))
    values, vectors = np.linalg.eigh(plant.visited(K, std).second)
    p = len(values)
    score = PolicyScore(
        policy=policy,
        observations=jnp.asarray((np.sqrt(p * values) * vectors).T[None]),
        actions=jnp.zeros((1, p, len(K))),
        mask=jnp.ones((1, p), bool),
        counted=jnp.ones(1, bool),
    )
    parts = plant.gradient(K, std)
    gradient = np.concatenate([parts[name].ravel() for name in policy.searched("action")])
    return score, jnp.asarray(gradient * p / plant.horizon)


@eqx.filter_jit
def directions(score: PolicyScore, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The natural direction by the policy's own Fisher matrix; KL, to second order, of steps −∇J and −w."""
    natural, _, _ = Natural(fisher="analytic")(score, jnp.zeros(score.mask.shape), gradient[None])
    forward, _ = score.fisher_root(score.mask.size)
    lengths = [0.5 * jnp.sum(forward(w) ** 2) / score.mask.size for w in (gradient, natural)]
    return natural, jnp.stack(lengths)


# a. two parameters of one policy


def field(folder: Path, quick: bool) -> str:
    """Contours of J over gain and log std, with both gradient fields and descents in steps of the same KL."""
    plant = LQR([[1.0]], [[1.0]], [[0.0]], [[0.1]], final=[[1.0]], initial_mean=[1.0], horizon=1)
    policy = LinearGaussian([[0.0]], learned_std=True)
    best = plant.best_gain()[0][0, 0]
    kl, most = 2e-3, 150

    def both(theta: np.ndarray) -> list[tuple[np.ndarray, float]]:
        score, gradient = exact(plant, policy.with_theta(jnp.asarray(theta)))
        natural, lengths = directions(score, gradient)
        return [(np.asarray(w), float(length)) for w, length in zip((gradient, natural), lengths, strict=True)]

    gains, logs = np.linspace(-1.9, 0.1, 41), np.linspace(-1.5, 1.5, 41)
    costs = np.array([[plant.expected_cost([[k]], np.exp(log)) for k in gains] for log in logs])
    few = 7 if quick else 11
    points = [(k, log) for k in np.linspace(-1.8, 0.0, few) for log in np.linspace(-1.35, 1.35, few)]
    arrows = [both(np.array(point)) for point in points]
    figure, axes = canvas(7.6, 4.1, 2)
    ends = []
    for index, (axis, title, colour) in enumerate(
        zip(axes, ("gradient ∇J", "natural gradient M⁻¹∇J"), (RED, BLUE), strict=True)
    ):
        levels = axis.contour(gains, logs, costs, levels=np.geomspace(0.15, 20, 14), colors=GREY, linewidths=0.6)
        axis.clabel(levels, manual=[(-0.35, 1.3), (-0.35, 0.92), (-1.45, -0.55), (-1.3, -1.1)], fmt="%.2g", fontsize=8)
        # drawn lengths: what each arrow looks like on paper, made equal
        scale = np.array([gains[-1] - gains[0], logs[-1] - logs[0]])
        shown = np.array([-arrow[index][0] / scale for arrow in arrows])
        shown /= np.linalg.norm(shown, axis=1, keepdims=True)
        tails, heads = np.array(points).T, (shown * scale).T / 18
        axis.quiver(*tails, *heads, angles="xy", scale_units="xy", scale=1, width=0.004, color="#999999")
        for start in ((0.0, 1.2), (-1.8, 1.2), (0.0, -0.6)):
            theta, path = np.array(start), [np.array(start)]
            for _ in range(20 if quick else most):
                w, length = both(theta)[index]
                theta = theta - np.sqrt(kl / length) * w
                path.append(theta)
                if not (gains[0] <= theta[0] <= gains[-1] and logs[0] <= theta[1] <= logs[-1]):
                    break
            axis.plot(*np.array(path).T, color=colour, linewidth=1.6)
            axis.plot(*np.array(path)[::10].T, "o", color=colour, markersize=3)
            axis.plot(*start, "o", color="white", markeredgecolor=colour, markersize=6)
            cost = plant.expected_cost([[path[-1][0]]], np.exp(path[-1][1]))
            ends.append(f"{title} from {start}: {len(path) - 1} steps to ({path[-1].round(3)}), J {cost:.3f}")
        axis.axvline(best, color=GREEN, linewidth=1, linestyle="--")
        axis.set_xticks([-1.5, -1.0, -0.5, 0.0])
        axis.set(
            title=title,
            xlabel="gain k [action unit per state unit]",
            xlim=(gains[0], gains[-1]),
            ylim=(logs[0], logs[-1]),
        )
    axes[0].set_ylabel("log of the action's std [action unit]")
    save(figure, folder / "natural_field.png")
    return f"best gain {best:.3f}; " + "; ".join(ends)


# b. two parametrisations of one policy


@dataclasses.dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Mapped(Policy):
    """The policy `inner` with its θ = A z, searched in z."""

    parameters: dict[str, jax.Array]
    inner: Policy
    A: jax.Array

    def now(self) -> Policy:
        """The policy itself."""
        return self.inner.with_theta(self.A @ self.parameters["z"])

    def __call__(self, observation: jax.Array) -> Distribution:
        """Distribution over actions at each observation."""
        return self.now()(observation)

    def controller(self) -> Any:
        """The same policy as plain NumPy."""
        return self.now().controller()


@eqx.filter_jit
def search(plant: LQR, method: Method, policy: Policy, updates: int, key: jax.Array) -> jax.Array:
    """θ before each update and after the last, (updates + 1, d)."""
    layout = method.layout(policy)

    def update(state: Any, key: jax.Array) -> tuple[Any, jax.Array]:
        came = native.sample(plant, method, state.policy, layout, None, key)
        after, _ = method.tell(state, None, came)
        return after, after.policy.theta()

    keys = jax.random.split(key, updates)
    _, thetas = jax.lax.scan(update, method.init(policy, plant.horizon), keys)
    return jnp.concatenate([policy.theta()[None], thetas])


def costs_of(plant: LQR, thetas: np.ndarray) -> np.ndarray:
    """Exact cost of the mode of each gain matrix; infinite where it is beyond all bounds."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.array(
            [
                plant.expected_cost(theta.reshape(plant.B.T.shape)) if np.all(np.abs(theta) < 1e3) else np.inf
                for theta in thetas
            ]
        )


def invariance(folder: Path, quick: bool) -> str:
    """Cost against updates in θ and in z, with θ = A z: for each curve the rate that ended lowest of many."""
    plant, updates, rollouts = build("lqr"), 8 if quick else 60, 16 if quick else 64
    policy = LinearGaussian(np.zeros(plant.B.T.shape), std=1.0)
    d = policy.theta().size
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.normal(size=(d, d)))[0] for _ in range(2))
    A = jnp.asarray(left * np.geomspace(10.0, 0.1, d) @ right)
    figure, axis = canvas(6.6, 3.9)
    best = plant.best_gain()[1]
    said = [f"condition {np.linalg.cond(A):.0f}, best gain {best:.3f}"]
    kinds = (
        ("gradient", Euclidean(), np.geomspace(1e-4, 1.0, 2 if quick else 13), (RED, RED)),
        ("natural gradient", Natural(rcond=1e-14), np.geomspace(1e-2, 1.0, 2 if quick else 7), (BLUE, "#8fd0ff")),
    )
    for kind, direction, rates, colours in kinds:
        curves = []
        for name, style, back, colour in zip(("θ", "z"), ("-", "--"), (jnp.eye(d), A), colours, strict=True):
            mapped = Mapped(parameters={"z": jnp.zeros(d)}, inner=policy, A=back, scaling=None)
            tried = {}
            for rate in rates:
                method = Method(ActionNoise(rollouts), CostToGo(), direction, LearningRate(rate))
                points = np.asarray(search(plant, method, mapped, updates, jax.random.key(0)) @ back.T)
                tried[rate] = costs_of(plant, points[-1:])[0], points
            best_rate = min(rates, key=lambda rate: tried[rate][0])
            curves.append(costs_of(plant, tried[best_rate][1]))
            axis.plot(curves[-1], style, color=colour, linewidth=1.8, label=f"{kind} in {name}")
            said.append(f"{kind} in {name}: rate {best_rate:.2g}, last cost {curves[-1][-1]:.3f}")
        said.append(f"largest relative difference {np.abs(curves[1] / curves[0] - 1).max():.1e}")
    axis.axhline(best, color=GREEN, linewidth=1, linestyle=":", label="best gain")
    axis.set(xlabel="updates", ylabel="expected cost of the mode", xlim=(0, updates))
    axis.legend(frameon=False, fontsize=9)
    save(figure, folder / "natural_invariance.png")
    return "; ".join(said)


# c. how good an estimate is


def angle(folder: Path, quick: bool) -> str:
    """Angle to the exact natural gradient against rollouts, for both Fisher matrices."""
    plant, std = build("lqr"), 1.0
    K = 0.2 * plant.stationary_gain()
    policy = LinearGaussian(K, std=std)
    truth = np.linalg.solve(plant.horizon * plant.fisher(K, std), plant.gradient(K, std)["gain"].ravel())
    numbers = (30, 100) if quick else (30, 55, 100, 170, 300, 550, 1000, 1700, 3000)
    repeats = 2 if quick else 20
    figure, axis = canvas(6.6, 4.0)
    found = np.zeros((2, len(numbers), repeats))
    for i, n in enumerate(numbers):
        pool = 300 if n <= 300 else 3000
        for j, key in enumerate(jax.random.split(jax.random.key(n), repeats)):
            found[:, i, j] = [_angle(w, truth) for w in estimates(plant, policy, pool, jnp.asarray(n), key)]
    said = []
    for fisher, colour, angles in zip(("empirical", "analytic"), (BLUE, RED), found, strict=True):
        low, middle, high = np.quantile(angles, (0.1, 0.5, 0.9), axis=1)
        axis.fill_between(numbers, low, high, color=colour, alpha=0.15, linewidth=0)
        axis.plot(numbers, middle, "o-", color=colour, markersize=4, label=f"{fisher} Fisher matrix")
        slope = np.polyfit(np.log(numbers), np.log(angles.mean(1)), 1)[0]
        said.append(
            f"{fisher}: median {middle[0]:.2f}° at {numbers[0]}, {middle[-1]:.2f}° at {numbers[-1]}, slope {slope:.3f}"
        )
    line = 1.6 * np.median(found[0, 0]) * np.sqrt(numbers[0] / np.array(numbers))
    axis.plot(numbers, line, "--", color=GREY, linewidth=1, label="slope −1/2")
    axis.set(xscale="log", yscale="log", xlabel="rollouts", ylabel="angle to the exact natural gradient [degrees]")
    ticks = [tick for tick in (0.5, 1, 2, 5, 10, 20, 50) if low[-1] / 1.5 < tick < 90]
    axis.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.set_xticks(numbers[:: 1 if quick else 2], [f"{n}" for n in numbers[:: 1 if quick else 2]])
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.grid(alpha=0.25, linewidth=0.6)
    axis.legend(frameon=False, fontsize=9)
    save(figure, folder / "natural_angle.png")
    return "; ".join(said)


@eqx.filter_jit
def estimates(plant: LQR, policy: Policy, pool: int, n: jax.Array, key: jax.Array) -> list[jax.Array]:
    """Natural directions by each Fisher matrix from the same n rollouts, the first of a pool; the rest count as lost.

    So one program serves all n.
    """
    method = Method(ActionNoise(pool), CostToGo("value"), Natural(), KLStep(0.01))
    layout = method.layout(policy)
    came = native.sample(plant, method, policy, layout, None, key)
    came = settle(came._replace(outcome=jnp.where(jnp.arange(pool) < n, OK, LOST)))
    score = method.explore.score(policy, None, came, layout, ())
    a, _, _ = method.credit(came, score, layout, ())
    groups = score.group_gradients(a, 1)
    return [Natural(fisher=fisher)(score, a, groups)[0] for fisher in ("empirical", "analytic")]


def _angle(one: jax.Array, other: np.ndarray) -> float:
    """Degrees between two vectors."""
    one = np.asarray(one)
    return float(np.degrees(np.arccos(np.clip(one @ other / np.linalg.norm(one) / np.linalg.norm(other), -1, 1))))


# d. convergence with a fixed step


def convergence(folder: Path, quick: bool) -> str:
    """Excess cost against updates with a fixed step, with exact quantities and with sampled ones."""
    plant = LQR(
        [[1.0, 0.3, 0.0], [-0.2, 1.0, 0.2], [0.0, 0.1, 0.9]],
        [[0.0, 0.1], [0.5, 0.0], [0.0, 0.4]],
        np.diag([1.0, 0.5, 0.5]),
        np.diag([0.2, 0.4]),
        initial_covariance=np.eye(3),
        horizon=120,
    )
    optimal, best = plant.riccati(), plant.stationary_gain()
    # by this every error of the gain is multiplied by between 1 − 2ηλ_max and 1 − 2ηλ_min
    weights = np.linalg.eigvalsh(plant.R + plant.B.T @ optimal.value @ plant.B)
    step = 0.15 / weights[-1]
    predicted = (1 - 2 * step * weights[0]) ** 2
    updates, rollouts = (30, 50) if quick else (45, 1000)
    rng = np.random.default_rng(0)
    figure, axis = canvas(6.6, 4.0)
    rates, floors = [], []
    for start in range(2 if quick else 5):
        K = best
        while K is best or not 0.9 < np.abs(np.linalg.eigvals(plant.A + plant.B @ K)).max() < 0.99:
            K = best + rng.normal(size=best.shape)
        # so little noise that the best gain with it, whose last stages count, is that without it
        std = 1e-3
        policy = LinearGaussian(K, std=std)
        excess = [plant.expected_cost(K) / optimal.cost - 1]
        rate = LearningRate(step / std**2)
        for _ in range(updates):
            score, gradient = exact(plant, policy)
            w, _ = directions(score, gradient)
            known = Estimate(
                score, jnp.zeros(score.mask.shape), gradient, measure(gradient[None]), None, None, None, (), {}
            )
            theta, _, _ = rate(policy.theta(), w, known, ())
            policy = policy.with_theta(theta)
            excess.append(plant.expected_cost(np.asarray(policy.gain)) / optimal.cost - 1)
        name = None if start else "exact gradient and Fisher matrix"
        axis.plot(excess, color=BLUE, linewidth=1.5, label=name)
        straight = np.array([one for one in excess if 1e-9 < one < 1e-5])
        rates.extend(straight[1:] / straight[:-1])
        method = Method(ActionNoise(rollouts), CostToGo("value"), Natural(), LearningRate(step / 0.3**2))
        thetas = np.asarray(search(plant, method, LinearGaussian(K, std=0.3), updates, jax.random.key(start)))
        sampled = costs_of(plant, thetas) / optimal.cost - 1
        name = None if start else f"{rollouts} rollouts an update"
        axis.plot(sampled, color=RED, linewidth=0.9, label=name)
        floors.append(np.median(sampled[-10:]))
    k = np.arange(updates + 1)
    axis.plot(k, 10 * predicted**k, "--", color=GREY, linewidth=1, label="(1 − 2ηλ)² an update")
    axis.set(
        yscale="log",
        xlabel="updates",
        ylabel="cost over the optimal cost, less 1",
        xlim=(0, updates),
        ylim=(1e-10, 100),
    )
    axis.grid(alpha=0.25, linewidth=0.6)
    axis.legend(frameon=False, fontsize=9, loc="lower left")
    save(figure, folder / "natural_convergence.png")
    return (
        f"predicted ratio {predicted:.4f}, measured {min(rates):.4f} to {max(rates):.4f}; "
        f"floors {min(floors):.1e} to {max(floors):.1e}"
    )


def main() -> None:
    """Draw all four."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rollouts and repeats")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent, help="where the figures go")
    given = parser.parse_args()
    # quick random numbers differ between versions of JAX, and compile in a third of the time
    with jax.enable_x64(True), jax.default_prng_impl("unsafe_rbg" if given.quick else "threefry2x32"):
        for name, draw in zip(NAMES, (field, invariance, angle, convergence), strict=True):
            print(f"{name}: {draw(given.folder, given.quick)}", flush=True)


if __name__ == "__main__":
    main()
