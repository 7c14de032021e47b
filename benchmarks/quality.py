"""What measuring the gradient's quality costs: an update with group gradients and all figures, in one without any.

Without: a single group, so that the gradient is one product and nothing is known of its noise. Medians of ratios of
updates that follow each other; each is one compiled program, sampling included.
Run: python benchmarks/quality.py [--repetitions 40]
"""

import argparse
import os
import time

import equinox as eqx
import jax
import numpy as np

from policysearch.core import quality
from policysearch.methods.settings import method_settings
from policysearch.runners.native import search_update
from policysearch.search.search import Search

CASES = [
    ("lqr", "gpomdp", {"rollouts": 64}),
    ("pendulum", "gpomdp", {"rollouts": 64}),
    ("cartpole-swingup", "gpomdp", {"rollouts": 64}),
    ("cartpole-swingup", "natural_gradient", {"rollouts": 64}),
    ("cartpole-swingup", "trpo", {}),
    ("cartpole-swingup", "ars", {}),
]


def program(search, grouped):
    """The compiled update, with its quality measured or not."""
    usual = quality.group_count
    quality.group_count = usual if grouped else lambda samples, d=1: 1
    try:
        seed = jax.device_put(np.uint32(0))
        plan = (search.task, search.method)
        compiled = eqx.filter_jit(lambda *given: search_update(*given)).lower(plan, search.state, seed).compile()
    finally:
        quality.group_count = usual
    return lambda state: compiled(plan, state, seed)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=40)
    arguments = parser.parse_args()
    print(f"{'case':36}  n     update, ms   ratio (quartiles)      load {os.getloadavg()[0]:.1f}")
    for task, method, options in CASES:
        search = Search(task, method_settings(method, options))
        programs, seconds = [program(search, grouped) for grouped in (True, False)], [[], []]
        for _ in range(arguments.repetitions + 1):
            for run, taken in zip(programs, seconds, strict=True):
                start = time.perf_counter()
                jax.block_until_ready(run(search.state))
                taken.append(time.perf_counter() - start)
        measured, bare = (np.array(taken[1:]) for taken in seconds)
        low, middle, high = np.quantile(measured / bare, [0.25, 0.5, 0.75])
        label = f"{task}, {method}"
        ms = 1e3 * np.median(measured)
        print(f"{label:36} {search.layout.size:4} {ms:9.1f}   {middle:6.2f} ({low:.2f}–{high:.2f})", flush=True)


if __name__ == "__main__":
    main()
