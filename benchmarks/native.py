"""Native `gpomdp` training against a hand-fused jit loop of the same arithmetic, interleaved in one process.

Cart-pole, linear policy, 1024 rollouts of 200 stages: noise, dynamics, leave-one-out baseline, gradient, KL-sized step.
Run: python benchmarks/native.py [repetitions]
"""

import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from policysearch.core.credit import CostToGo
from policysearch.core.direction import Euclidean
from policysearch.core.explore import ActionNoise
from policysearch.core.method import Method
from policysearch.core.normalize import Scaling
from policysearch.core.policies import LinearGaussian
from policysearch.core.step import KLStep
from policysearch.runners.native import compiled_update
from policysearch.tasks.cartpole import CartPole
from policysearch.tasks.task import clip

ROLLOUTS, STAGES, KL = 1024, 200, 0.01


def hand_fused(task, std):
    """One function per update, written for this plant, policy and method alone."""
    specification = task.specification
    scale = jnp.asarray(specification.observation_scale)

    @jax.jit
    def update(gain, key):
        reset_key, noise_key = jax.random.split(key)
        start = jax.vmap(task.reset)(jax.random.split(reset_key, ROLLOUTS))
        noise = jax.random.normal(noise_key, (STAGES, ROLLOUTS))

        def stage(x, z):
            o = jax.vmap(task.observe)(x) / scale
            u = o @ gain + std * z
            applied = clip(u[:, None], specification.action)
            cost = jax.vmap(task.cost)(x, applied)
            return jax.vmap(lambda a, b: task.step(a, b, None))(x, applied), (o, cost)

        _, (o, costs) = jax.lax.scan(stage, start, noise)
        to_go = jnp.cumsum(costs[::-1], axis=0)[::-1]
        a = (to_go - to_go.mean(1, keepdims=True)) * (ROLLOUTS / (ROLLOUTS - 1))
        gradient = jnp.einsum("tn,tnp->p", a * noise / std, o) / ROLLOUTS
        quadratic = jnp.mean((noise / std * (o @ gradient)) ** 2)
        step = jnp.sqrt(2 * KL / quadratic)
        kl = jnp.mean((step * (o @ gradient) / std) ** 2) / 2
        return gain - step * gradient, costs.sum(0).mean(), kl

    return update


def main():
    repetitions = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    task = CartPole(goal="balance", horizon=STAGES)
    specification = task.specification
    std = 0.3 * specification.action.half_range[0]
    p = specification.observation_size
    policy = LinearGaussian(np.zeros((1, p)), std=std, scaling=Scaling.fixed(specification.observation_scale))
    method = Method(ActionNoise(ROLLOUTS), CostToGo("leave_one_out"), Euclidean(), KLStep(KL, memory=None))
    fused = hand_fused(task, std)

    def library():
        state = method.init(policy, STAGES)
        for _ in range(3):
            state, info = compiled_update(task, method, state, jax.random.key(0))
        return float(info["cost"])

    def by_hand():
        gain = jnp.zeros(p)
        for number in range(3):
            gain, cost, _ = fused(gain, jax.random.fold_in(jax.random.key(0), number))
        return float(cost)

    library(), by_hand()
    seconds = {library: [], by_hand: []}
    for _ in range(repetitions):
        for run in (library, by_hand):
            start = time.perf_counter()
            run()
            seconds[run].append(time.perf_counter() - start)
    ratios = np.array(seconds[by_hand]) / np.array(seconds[library])
    stages = 3 * ROLLOUTS * STAGES
    for name, run in (("policysearch", library), ("hand-fused", by_hand)):
        print(f"{name:13} {stages / np.median(seconds[run]) / 1e6:6.1f} million stages/s (median of {repetitions})")
    print(f"share of hand-fused: median {np.median(ratios):.2f}, range {ratios.min():.2f} to {ratios.max():.2f}")


if __name__ == "__main__":
    main()
