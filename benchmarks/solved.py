"""Which method solves each built-in task with its defaults: first rollouts and seconds at which the criterion held.

The mode is evaluated on fresh seeds after every 5th update (not counted); `ends` says how many seeds are solved at the
end of the default budget. Seconds are of sampling and updating alone, compilation included in the first column.
Run: python benchmarks/solved.py [--seeds 5] [--tasks a,b] [--methods a,b] [--first] [--set NAME=VALUE]
"""

import argparse
import json
import time
import warnings

import numpy as np

from policysearch.methods.settings import METHODS, method_settings
from policysearch.search.search import Search
from policysearch.tasks import BUILT_IN, build


def first_solved(task, method, seed, first, every=5):
    """(rollouts, seconds) when the criterion first held, or None; and whether it holds at the end."""
    from policysearch.search.evaluation import evaluate

    with Search(build(task), method, seed=seed) as search:
        seconds, found, solved = 0.0, None, False
        while not search.done:
            start = time.perf_counter()
            search.update()
            seconds += time.perf_counter() - start
            if search.updates % every == 0 or search.done:
                solved = bool(evaluate(search.task, search.policy.controller(), None, seed).solved)
                if solved and found is None:
                    found = (search.rollouts, seconds)
                    if first:
                        break
        return found, solved


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tasks", default=",".join(BUILT_IN))
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--first", action="store_true", help="end each search when its criterion first holds")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a method's setting")
    arguments = parser.parse_args()
    options = {}
    for option in arguments.set:
        name, _, text = option.partition("=")
        try:
            options[name] = json.loads(text)
        except ValueError:
            options[name] = text
    warnings.simplefilter("ignore")
    print(
        "task                method               first solved  rollouts (median)  seconds (median)  solved at the end"
    )
    for task in arguments.tasks.split(","):
        for method in arguments.methods.split(","):
            given = method_settings(method, options)
            try:
                results = [first_solved(task, given, seed, arguments.first) for seed in range(arguments.seeds)]
            except ValueError:
                continue  # the method does not serve the task
            found = [first for first, _ in results if first]
            rollouts, seconds = np.median(found, axis=0) if found else (np.nan, np.nan)
            print(
                f"{task:19} {method:20} {len(found):5} of {len(results)} {rollouts:17.0f} {seconds:17.1f} "
                f"{sum(end for _, end in results):10} of {len(results)}",
                flush=True,
            )


if __name__ == "__main__":
    main()
