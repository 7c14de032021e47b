"""What a natural direction costs, in plain gradients of the same batch, for networks of three sizes.

Gradient and direction alternate in one process; the figures are medians of their ratios. `10 steps` forces ten
conjugate-gradient iterations; `default` ends at its own tolerance; the last row of a size has a row a rollout of 64
stages. Memory: that of the compiled program beside its arguments, as XLA counts it, over the gradient's.

`--crossover` instead compares eigenvalues of the d × d matrix with conjugate gradients over d, on both sides of
`direction.LARGEST_SIDE`, above which the latter are taken.
Run: python benchmarks/natural.py [--sizes 64,256,1024] [--samples 2048,16384] [--repetitions 5] [--crossover]
"""

import argparse
import functools
import itertools
import os
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from policysearch.core.direction import Natural
from policysearch.core.initial import random_layers
from policysearch.core.policies import NeuralGaussian
from policysearch.core.rollouts import Rollouts
from policysearch.core.score import PolicyScore

P, M, T = 17, 6, 256
#: stages of a rollout where a rollout is a row
SHORT = 64


def batch(width, samples, stages=T):
    """The score of a batch and advantages that depend on the action noise; p and m of HalfCheetah."""
    generator = np.random.default_rng(0)
    policy = NeuralGaussian(random_layers([P, width, width, M], 0), std=0.3 * np.ones(M), learned_std=True)
    n, T = samples // stages, stages
    observations = jnp.asarray(generator.normal(size=(n, T, P)), jnp.float32)
    noise = jnp.asarray(0.3 * generator.normal(size=(n, T, M)), jnp.float32)
    actions = policy.mode(observations) + noise
    rollouts = Rollouts(
        jnp.zeros((n, T)), jnp.ones((n, T), bool), jnp.zeros(n, int), observations=observations, actions=actions
    )
    advantages = noise[..., 0] * jnp.tanh(observations[..., 0]) + jnp.asarray(
        generator.normal(size=(n, T)), jnp.float32
    )
    return PolicyScore.of(policy, rollouts), advantages


def compiled(function, *arguments):
    """A compiled function of arrays, and the bytes that it needs beside its arguments."""
    lowered = eqx.filter_jit(function).lower(*arguments).compile()
    memory = lowered.compiled.memory_analysis()
    return functools.partial(lowered, *arguments), memory.temp_size_in_bytes + memory.output_size_in_bytes


def seconds(run):
    """Of one call."""
    start = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - start


def compared(width, samples, directions, repetitions, rows=False):
    """Print what each direction costs; with `rows` of shorter rollouts, whose advantages are summed over stages."""
    score, a = batch(width, samples, SHORT if rows else T)
    plain, plain_bytes = compiled(lambda s, a: s.rmv(a) / s.count, score, a)
    gradient = plain()
    a = a.sum(1) if rows else a
    for name, direction in directions.items():
        run, used = compiled(lambda d, s, a, g: d(s, a, g[None]), direction, score, a, gradient)
        steps = int(run()[2].get("iterations", 0))
        ratios = []
        for _ in range(repetitions):
            base = seconds(plain)
            ratios.append(seconds(run) / base)
        print(
            f"{width:4}x{width:<5} {score.policy.theta().size:10} {samples:7}  {name:21} "
            f"{np.median(ratios):6.1f}  ({min(ratios):.1f} to {max(ratios):.1f})".ljust(74)
            + f"{steps:6} {used / plain_bytes:8.1f}",
            flush=True,
        )


def crossover(samples, repetitions):
    """Print for growing d what both solvers take, interleaved, and eigenvalues over conjugate gradients."""
    print("  d     stages  matrix      eigenvalues, ms  conjugate gradients, ms  ratio  (range)")
    for width, fisher in itertools.product((4, 8, 12, 16, 24, 32), ("empirical", "analytic")):
        score, a = batch(width, samples)
        gradient = score.rmv(a) / score.count
        runs = [
            compiled(lambda d, s, a, g: d(s, a, g[None]), Natural(None, 0.1, solver, fisher), score, a, gradient)[0]
            for solver in ("parameter", "conjugate_gradient")
        ]
        found = np.array([[seconds(run) for run in runs] for _ in range(repetitions + 1)])[1:]
        ratios = found[:, 0] / found[:, 1]
        eigenvalues, conjugate = 1e3 * np.median(found, 0)
        print(
            f"{gradient.size:5} {samples:7}  {fisher:10} {eigenvalues:13.1f} {conjugate:18.1f} "
            f"{np.median(ratios):16.2f}  "
            f"({ratios.min():.2f} to {ratios.max():.2f})",
            flush=True,
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="64,256,1024")
    parser.add_argument("--samples", default="2048,16384")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--crossover", action="store_true", help="the two solvers over d instead")
    arguments = parser.parse_args()
    if arguments.crossover:
        for samples in map(int, arguments.samples.split(",")):
            crossover(samples, arguments.repetitions)
        print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
        return
    directions = {
        "empirical, 10 steps": Natural(None, 0.1, "conjugate_gradient", tolerance=1e-9, iterations=10),
        "empirical, default": Natural(None, 0.1, "conjugate_gradient"),
        "analytic, 10 steps": Natural(None, 0.1, "conjugate_gradient", "analytic", tolerance=1e-9, iterations=10),
        "analytic, default": Natural(None, 0.1, "conjugate_gradient", "analytic"),
    }
    by_rollout = {"sample, row a rollout": Natural(None, 0.1, "sample")}
    print("network    parameters  stages  direction              ratio  (range)        steps  memory ratio")
    for width in map(int, arguments.sizes.split(",")):
        for samples in map(int, arguments.samples.split(",")):
            compared(width, samples, directions, arguments.repetitions)
        samples = int(arguments.samples.split(",")[-1])
        compared(width, samples, by_rollout, arguments.repetitions, rows=True)
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
