"""`policysearch resume`: continue a run of `train` that was killed or interrupted, to the same end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from policysearch.cli import shared
from policysearch.core.plain import Plain
from policysearch.core.settings import Budget
from policysearch.runs.reader import open_run

if TYPE_CHECKING:
    from policysearch.tasks import AnyTask


def main(given: list[str]) -> int:
    """Run the command with its arguments; the exit code."""
    parser = shared.Parser(
        "resume",
        "Continue a run that was killed or interrupted. It ends with the policy that it would have ended "
        "with; at most the last half second of updates is recomputed.",
    )
    parser.add_argument("folder", metavar="DIR", help="folder of the run")
    parser.add_argument(
        "--budget", metavar="B", help="a new budget: 2000 (rollouts), 2e6stages or 50updates [the run's]"
    )
    parser.add_argument("--workers", metavar="N", help="number of worker processes for Gymnasium tasks [as before]")
    parser.add_argument("--cluster", metavar="ADDRESS", help=shared.CLUSTER_HELP)
    parser.add_argument(
        "--tensorboard", nargs="?", const="", metavar="DIR", help=f"{shared.TENSORBOARD_HELP}; without it, as before"
    )
    rig = parser.add_argument_group("searches on a rig", "hand out trials again after a safety stop")
    rig.add_argument("--by", default="", metavar="NAME", help="who checked the machine; kept with the run")
    rig.add_argument("--back-to", metavar="P", help="continue from the `incumbent`, or from a policy file")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    arguments = parser.parsed(given)
    arguments.workers = shared.number("--workers", arguments.workers, int)
    if arguments.budget is not None:
        Budget.parse(arguments.budget)

    directory = Path.cwd()  # user code may change the directory
    if "trials" in open_run(arguments.folder).configuration:
        from policysearch.cli import rig as trials

        return trials.resume(arguments.folder, arguments.by, arguments.back_to, arguments.budget)
    run = open_run(arguments.folder)
    if arguments.by or arguments.back_to is not None:
        raise ValueError(f"--by and --back-to are for searches on a rig; {run.folder} is a simulated task's.")
    place = shared.scalars_place(arguments.tensorboard, run.folder)
    programs, known = shared.prepare_jax(), run.configuration
    from policysearch.search import resume
    from policysearch.search.search import Search

    def make(known: Plain) -> AnyTask:
        return shared.task(resume.placed(known), known["task_options"], known.get("timeout"))

    folder = run.folder.absolute()
    search, journal = resume.continued(
        Search, run.folder, None, None, arguments.budget, arguments.workers, arguments.cluster, programs, make
    )
    search.journal = journal
    with search:
        if search.done:
            raise ValueError(
                f"{run.folder} has spent its budget of {search.budget}. To continue, give a larger one with --budget."
            )
        if place is not None:
            journal.amend({"tensorboard": place})
        arguments.tensorboard = known.get("tensorboard") if place is None else place
        arguments.task, arguments.directory = known["task"], directory
        arguments.evaluation_rollouts = known.get("evaluation_rollouts")
        from policysearch.cli.train import carry_out

        return carry_out(search, folder, arguments)
