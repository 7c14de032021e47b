"""A program that tunes a rig through ask and tell, to be killed: run with a folder, and a line on stdin per life.

Each life is a fork of this process, which has imported everything but computed nothing, so that lives start fast. It
prints a life's process id, then how it ended.
"""

import os
import sys
import traceback
from pathlib import Path

import numpy as np

from policysearch import Parameters, Search, Specification, WeightPerturbation
from policysearch.samplers import host  # noqa: F401 - imported before the fork

BUDGET = 24
SERVO = Specification(name="servo", repeatable=False)


def gains():
    return Parameters(["kp", "kd"], [4.0, 0.1], bounds={"kp": (0.1, 100.0)}, log=["kp", "kd"], scale=0.3)


def servo(folder, budget=BUDGET):
    method = WeightPerturbation(rollouts=4, std=1.0)
    return Search(SERVO, method, policy=gains(), budget=budget, folder=folder)


def cost(trial):
    return float(sum((np.log(value) - 1.0) ** 2 for value in trial.values.values()))


def live(folder, budget):
    """Go on till the end; whatever was told is noted beside the run after `tell` has returned."""
    log = os.open(folder.parent / "acknowledged", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    with Search.open(folder) if (folder / "run.sqlite").exists() else servo(folder, budget) as search:
        while not search.done:
            trial = search.ask()
            search.tell(trial, cost=cost(trial))
            os.write(log, f"{trial.number} {cost(trial)!r}\n".encode())


if __name__ == "__main__":
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                live(Path(sys.argv[1]), int(sys.argv[2]))
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
