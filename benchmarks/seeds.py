"""What ten seeds in one program cost, in ten single searches that are compiled already: an update of all, in order.

`vectorised` is a program with the seeds as a dimension of every array, `in turn` one in which they follow each other;
`*` marks the one that `train_seeds` and `compare` take. Medians of ratios to ten single updates measured next to them.
Run: python benchmarks/seeds.py [--seeds 10] [--repetitions 20]
"""

import argparse
import os
import time

import equinox as eqx
import jax
import numpy as np

from policysearch.methods.settings import method_settings
from policysearch.runners.native import search_update
from policysearch.search import many_seeds as together
from policysearch.search.search import Search

CASES = [
    ("bowl", "weight_perturbation", {"rollouts": 64}),
    ("lqr", "natural_gradient", {"rollouts": 64}),
    ("lqr", "gpomdp", {"rollouts": 64}),
    ("pendulum", "gpomdp", {"rollouts": 64}),
    ("cartpole-swingup", "gpomdp", {"rollouts": 64}),
    ("cartpole-swingup", "trpo", {}),
]


def case(task, method, options, count, repetitions):
    searches = [Search(task, method_settings(method, options), seed=seed) for seed in range(count)]
    plan, first = (searches[0].task, searches[0].method), searches[0]
    seeds = [jax.device_put(np.uint32(seed)) for seed in range(count)]
    single = eqx.filter_jit(search_update).lower(plan, first.state, seeds[0]).compile()
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *jax.device_get([search.state for search in searches]))
    stacked, all_seeds = jax.device_put(stacked), jax.device_put(np.arange(count, dtype=np.uint32))
    going = jax.device_put(np.ones(count, bool))
    programs = {v: together._update.lower(plan, stacked, all_seeds, going, v).compile() for v in (True, False)}
    states, held = [search.state for search in searches], dict.fromkeys(programs, stacked)
    ratios, alone = {v: [] for v in programs}, []
    for _ in range(repetitions + 1):
        start = time.perf_counter()
        for index in range(count):
            states[index], info = single(plan, states[index], seeds[index])
            jax.device_get(info)
        alone.append(time.perf_counter() - start)
        for v, program in programs.items():
            start = time.perf_counter()
            held[v], info = program(plan, held[v], all_seeds, going, v)
            jax.device_get(info)
            ratios[v].append((time.perf_counter() - start) / alone[-1])
    chosen = together._vectorised(first)
    shown = [f"{np.median(ratios[v][1:]):6.2f}{'*' if v == chosen else ' '}" for v in (True, False)]
    ms = 1e3 * np.median(alone[1:])
    label = f"{task}, {method}"
    print(f"{label:34} {first.layout.size:4} {ms:10.1f}   {shown[0]:>10} {shown[1]:>8}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--repetitions", type=int, default=20)
    arguments = parser.parse_args()
    print(f"{'case':34} n    alone, ms   vectorised  in turn   load {os.getloadavg()[0]:.1f}")
    for task, method, options in CASES:
        case(task, method, options, arguments.seeds, arguments.repetitions)


if __name__ == "__main__":
    main()
