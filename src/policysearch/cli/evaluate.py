"""`policysearch evaluate`: a run's policy on fresh seeds. Without JAX for Gymnasium tasks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from policysearch.cli import shared
from policysearch.core.plain import Plain
from policysearch.tasks import BUILT_IN

if TYPE_CHECKING:
    from policysearch.runs.reader import Run

LABELS = {
    "min": "min",
    "q05": "5 %",
    "q25": "25 %",
    "median": "median",
    "q75": "75 %",
    "q95": "95 %",
    "max": "max",
}


def main(given: list[str]) -> int:
    """Run the command with its arguments; the exit code."""
    parser = shared.Parser(
        "evaluate",
        "Measure a trained policy on fresh seeds.",
    )
    parser.add_argument("folder", metavar="DIR", help="folder of a run")
    parser.add_argument("--rollouts", metavar="N", help="number of rollouts [20 for Gymnasium tasks, else 100]")
    parser.add_argument("--seed", metavar="S", help="random seed of the rollouts [the run's]")
    parser.add_argument("--workers", metavar="N", help="number of worker processes for Gymnasium tasks [one per core]")
    parser.add_argument("--cluster", metavar="ADDRESS", help=shared.CLUSTER_HELP)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    arguments = parser.parsed(given)
    rollouts = shared.number("--rollouts", arguments.rollouts, int)
    seed = shared.number("--seed", arguments.seed, int)
    workers = shared.number("--workers", arguments.workers, int)
    from policysearch.runs.reader import open_run

    run = open_run(arguments.folder)
    controller = run.controller()
    name, options = reference(run), run.configuration.get("task_options", {})
    if name in BUILT_IN:
        shared.prepare_jax()
    task = shared.task(name, options, run.configuration.get("timeout"))
    seed = run.configuration["seed"] if seed is None else seed
    from policysearch.search.evaluation import evaluate

    evaluation = evaluate(task, controller, rollouts, seed, workers, arguments.cluster)
    result = {
        "task": name,
        "seed": seed,
        **evaluation.summary(),
        "criterion": task.specification.solved,
    }
    shared.say(shared.as_json(result) if arguments.json else "\n".join([*shared.outcome(result), *_spread(result)]))
    return 0


def _spread(result: Plain) -> list[str]:
    """Lines about the spread between rollouts; none for a single rollout."""
    if result["rollouts"] - result["failed"] < 2:
        return []
    noun = "cost" if result["return_mean"] is None else "return"
    lines = [f"{noun}: " + ", ".join(f"{LABELS[name]} {value:.4g}" for name, value in result["quantiles"].items())]
    length = result["length"]
    if length["max"] > 1:
        spread = f"{length['max']} each"
        if length["min"] < length["max"]:
            spread = f"mean {length['mean']:.4g}, min {length['min']}, max {length['max']}"
        lines.append(f"stages: {spread}")
    return lines


def reference(run: Run) -> str:
    """The run's task as it can be built here; ValueError if it has no name."""
    name = run.configuration.get("task")
    if name is None:
        raise ValueError(
            f"The task of {run.folder} was a Python object, which has no name to build it from. In Python: "
            f"policysearch.evaluate(task, policysearch.load({str(run.folder)!r}))."
        )
    there = Path(run.configuration.get("directory", "."), name.rpartition(":")[0])
    if there.suffix == ".py" and not Path(name.rpartition(":")[0]).exists() and there.exists():
        return f"{there}:{name.rpartition(':')[2]}"
    return name
