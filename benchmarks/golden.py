"""Does a change of the code leave every search as it was, to the bit? Digests of policies after some updates.

    python benchmarks/golden.py --write before.json     # on the old code
    python benchmarks/golden.py --against before.json   # on the new code, on the same machine

Rounding depends on the machine and on the versions of its libraries, so digests are compared, not kept.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from policysearch import CostToGo, Euclidean, LearningRate, Method, Parameters, Rig, Search, Specification, TotalCost
from policysearch.core.explore import ActionNoise, ParameterNoise
from policysearch.methods.settings import METHODS, method_settings
from policysearch.tasks import resolve

#: kinds of tasks: what the search is of, and updates
KINDS: dict[str, tuple[str, int]] = {
    "plant": ("lqr", 4),
    "network": ("cartpole-swingup", 2),
    "softmax": ("bandit", 4),
    "cost": ("bowl", 4),
    "simulator": ("Pendulum-v1", 3),
    "falling": ("CartPole-v1", 3),
}
#: settings of methods that are not defaults, on one kind of task
VARIANTS: list[tuple[str, str, dict[str, Any]]] = [
    *[("plant", "gpomdp", {"baseline": b}) for b in ("none", "running", "mean", "per_stage_mean", "leave_one_out")],
    *[("plant", "gpomdp", {"baseline": b}) for b in ("least_variance", "value", "network")],
    *[("plant", "reinforce", {"baseline": b}) for b in ("none", "running", "mean", "leave_one_out", "least_variance")],
    *[
        ("plant", "weight_perturbation", {"baseline": b, "two_sided": False})
        for b in ("none", "reference", "running", "mean", "leave_one_out")
    ],
    *[("cost", "weight_perturbation", {"shape": s}) for s in ("sphere", "rademacher", "orthogonal")],
    ("plant", "finite_differences", {"central": False}),
    ("plant", "ars", {"version": "v1"}),
    ("plant", "natural_gradient", {"solver": "sample", "damping": 0.1}),
    ("plant", "natural_gradient", {"solver": "conjugate_gradient", "damping": 0.1, "fisher": "analytic"}),
    ("plant", "natural_gradient", {"discount": 0.9, "gae_lambda": 0.9, "bootstrap": True}),
    ("plant", "trpo", {"baseline": "value"}),
    ("simulator", "gpomdp", {"action_limit_penalty": 0.1, "stages": 1000}),
]
RIG_ROLLOUTS = 3


def digest(search: Rig | Search) -> str:
    """SHA-256 of the searched parameters, the scaling of observations and the costs that were reported."""
    policy, parts = search.policy, [np.asarray(search.policy.theta(search.method.space))]
    if policy.scaling is not None:
        parts += [np.asarray(policy.scaling.shift), np.asarray(policy.scaling(policy.scaling.shift + 1))]
    parts.append(np.array([record["cost"] for record in search.records]))
    return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()[:16]


def simulated(task: Any, method: Any, updates: int) -> str:
    """Digest of a search on a task that is run here."""
    options = {"workers": 1} if isinstance(task, str) and task.endswith(("-v1", "-v5")) else {}
    with Search(task, method, seed=3, budget=f"{updates}updates", **options) as search:
        search.run()
        return digest(search)


def parabola(a: float, b: float) -> float:
    """A cost in Python."""
    return (a - 1) ** 2 + 3 * (b + 0.5) ** 2


def rig(method: str, records: bool) -> str:
    """Digest of a search whose trials are told: costs of named numbers, or rollouts of two observations."""
    task = resolve("double-integrator").specification if records else Specification(name="rig")
    policy = None if records else Parameters(["a", "b"], [0.2, 0.1])
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, "run")
        with Rig(task, method, policy=policy, seed=3, folder=place, budget=f"{RIG_ROLLOUTS}updates") as search:
            while not search.done:
                trial = search.ask()
                if not records:
                    search.tell(trial, cost=parabola(**trial.values) + 0.1 * rng.normal())
                    continue
                length, p = task.horizon, task.observation_size
                observations = np.cumsum(0.1 * rng.normal(size=(length + 1, p)), axis=0)
                costs = (observations[:-1] ** 2).sum(1)
                if trial.noise is None:
                    search.tell(trial, cost=float(costs.sum()))
                else:
                    taken = [
                        trial.controller.act(o, z).sampled for o, z in zip(observations, trial.noise, strict=False)
                    ]
                    search.tell(trial, rollout=(observations, np.array(taken), costs))
            return digest(search)


def cases() -> Iterator[tuple[str, Callable[[], str]]]:
    """Names and what computes their digests."""
    perturbing = ("finite_differences", "weight_perturbation", "ars", "pgpe", "cem")
    for kind, (task, updates) in KINDS.items():
        for method in METHODS:
            if kind != "cost" or method in perturbing:
                yield f"{kind} {method}", lambda t=task, m=method, u=updates: simulated(t, m, u)
    for kind, method, options in VARIANTS:
        task, updates = KINDS[kind]
        yield (
            f"{kind} {method} {' '.join(f'{k}={v}' for k, v in options.items())}",
            lambda t=task, m=method, o=options, u=updates: simulated(t, method_settings(m, o), u),
        )
    for method in perturbing:
        yield f"function {method}", lambda m=method: simulated(python_cost(), m, 4)
        yield f"rig of costs {method}", lambda m=method: rig(m, False)
    for method in METHODS:
        yield f"rig of rollouts {method}", lambda m=method: rig(m, True)
    parts = Euclidean(), LearningRate(1e-3)
    yield "composed stages", lambda: simulated("lqr", Method(ActionNoise(6), CostToGo("running"), *parts), 3)
    yield "composed totals", lambda: simulated("lqr", Method(ParameterNoise(6, 0.1), TotalCost("mean"), *parts), 3)


def python_cost() -> Any:
    """A Python function as a task."""
    from policysearch import PythonFunction

    return PythonFunction(lambda x: float(np.sum((np.asarray(x) - 1) ** 2)), initial=[0.0, 0.5, 2.0])


def main() -> None:
    """Compute all digests; write them, or say which differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, help="file for the digests")
    parser.add_argument("--against", type=Path, help="file of an earlier --write")
    parser.add_argument("--only", default="", help="part of the names of those that are computed")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    known = json.loads(arguments.against.read_text()) if arguments.against else {}
    found: dict[str, str] = {}
    for name, compute in cases():
        if arguments.only in name:
            found[name] = compute()
            if known and known.get(name) != found[name]:
                print(f"{name}: {known.get(name, 'not there')} before, {found[name]} now", flush=True)
    if arguments.write:
        arguments.write.write_text(json.dumps(found, indent=1))
    missing = [name for name in known if arguments.only in name and name not in found]
    same = sum(known.get(name) == value for name, value in found.items())
    print(f"{len(found)} searches" + (f", {same} as before, {len(missing)} left out" if known else ""))
    if known and (same < len(found) or missing):
        sys.exit(1)


if __name__ == "__main__":
    main()
