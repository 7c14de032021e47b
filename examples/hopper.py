"""MuJoCo's Hopper from Python with augmented random search, on worker processes. Needs policysearch[mujoco].

Run: python examples/hopper.py [BUDGET] [WORKERS]; a budget of 2e6stages learns to hop, the default only to begin.
"""

import sys

from policysearch import ARS, GymnasiumTask, train


def main(budget="20updates", workers=2):
    task = GymnasiumTask("Hopper-v5")
    print(f"{task.specification.observation_size} observations, {task.specification.action.size} actions")
    result = train(
        task,
        ARS(directions=8, top=4),
        budget=budget,
        workers=int(workers),
        on_update=lambda record: print(f"update {record['update']:.0f}: return {record['return']:.1f}"),
    )
    print(f"return {result.evaluation.return_mean:.1f} ± {result.evaluation.return_sem:.1f} on fresh seeds")


if __name__ == "__main__":
    main(*sys.argv[1:])
