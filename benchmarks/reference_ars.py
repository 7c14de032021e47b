"""Augmented random search as its paper states it (Mania, Guy & Recht 2018): V1, V2 and their -t forms. No policysearch.

NumPy and Gymnasium in one process, every random number from one seed. The paper does not ask that the partners of a
pair share their resets, and here they do not. Actions are clipped to the environment's limits before they are applied,
so that control costs are those of what was applied; `--unclipped` applies them as they are.
Run: python benchmarks/reference_ars.py --environment Swimmer-v5 --seed 0 --threshold 325
"""

import argparse
import time

import gymnasium
import numpy as np

#: the paper's settings: version, N directions, b of them used, step α, std ν, survival bonus taken out of training
PAPER = {
    "Swimmer-v5": ("v1", 1, 1, 0.02, 0.01, 0.0),
    "Hopper-v5": ("v2-t", 8, 4, 0.01, 0.025, 1.0),
    "HalfCheetah-v5": ("v2-t", 32, 4, 0.02, 0.03, 0.0),
    "Walker2d-v5": ("v2-t", 40, 30, 0.03, 0.025, 1.0),
    "Ant-v5": ("v2-t", 60, 20, 0.015, 0.025, 1.0),
}


class ReferenceARS:
    """A linear policy u = M (x − μ)/σ and its search; `rollouts` and `stages` count what training has used."""

    def __init__(self, environment, seed, version, directions, top, step, std, bonus=0.0, clip=True):
        self.env = gymnasium.make(environment, disable_env_checker=True)
        space = self.env.action_space
        self.low, self.high = (space.low, space.high) if clip else (-np.inf, np.inf)
        self.random = np.random.default_rng(np.random.SeedSequence((seed, 1)))
        self.env.reset(seed=int(np.random.SeedSequence((seed, 2)).generate_state(1)[0]) & 0x7FFFFFFF)
        p = self.env.observation_space.shape[0]
        self.M = np.zeros((space.shape[0], p))
        self.scales = version.startswith("v2")
        self.top = top if version.endswith("-t") else directions
        self.directions, self.step, self.std, self.bonus = directions, step, std, bonus
        self.count, self.mean, self.m2 = 0, np.zeros(p), np.zeros(p)
        self.shift, self.scale = np.zeros(p), np.ones(p)
        self.rollouts = self.stages = 0

    def rollout(self, M, env=None, seed=None):
        """Return of one rollout and how long it was; training rollouts (no `env`) feed μ, σ and the counts."""
        training, env = env is None, env or self.env
        x, _ = env.reset(seed=seed)
        total, length, over = 0.0, 0, False
        while not over:
            if training:  # Welford
                self.count += 1
                delta = x - self.mean
                self.mean += delta / self.count
                self.m2 += delta * (x - self.mean)
            u = M @ ((x - self.shift) / self.scale)
            x, reward, terminated, truncated, _ = env.step(np.clip(u, self.low, self.high))
            total, length, over = total + reward, length + 1, terminated or truncated
        if training:
            self.rollouts, self.stages = self.rollouts + 1, self.stages + length
        return total, length

    def update(self):
        """One update from 2N rollouts."""
        deltas = self.random.standard_normal((self.directions, *self.M.shape))
        rewards = np.empty((self.directions, 2))
        for k, delta in enumerate(deltas):
            for side, sign in enumerate((1.0, -1.0)):
                total, length = self.rollout(self.M + sign * self.std * delta)
                rewards[k, side] = total - self.bonus * length
        best = np.argsort(-rewards.max(axis=1))[: self.top]
        sigma = rewards[best].std() or 1.0
        slope = np.tensordot(rewards[best, 0] - rewards[best, 1], deltas[best], axes=1)
        self.M = self.M + self.step / (self.top * sigma) * slope
        if self.scales:
            self.shift, deviation = self.mean.copy(), np.sqrt(self.m2 / self.count)
            self.scale = np.where(deviation < 1e-7, np.inf, deviation)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environment", default="Swimmer-v5", choices=list(PAPER))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threshold", type=float, default=np.inf, help="stop at this mean return")
    parser.add_argument("--budget", type=int, default=2000, help="training rollouts")
    parser.add_argument("--every", type=int, default=20, help="updates between evaluations")
    parser.add_argument("--rollouts", type=int, default=5, help="of an evaluation, not counted in the budget")
    parser.add_argument("--unclipped", action="store_true")
    arguments = parser.parse_args()
    search = ReferenceARS(
        arguments.environment, arguments.seed, *PAPER[arguments.environment], clip=not arguments.unclipped
    )
    env = gymnasium.make(arguments.environment, disable_env_checker=True)
    seeds = np.random.SeedSequence((arguments.seed, 3))
    start, updates, reached = time.perf_counter(), 0, False
    while not reached and search.rollouts + 2 * search.directions <= arguments.budget:
        search.update()
        updates += 1
        if updates % arguments.every == 0:
            fresh = [int(seed) & 0x7FFFFFFF for seed in seeds.spawn(1)[0].generate_state(arguments.rollouts)]
            mean = np.mean([search.rollout(search.M, env, seed)[0] for seed in fresh])
            reached = mean >= arguments.threshold
            print(f"{search.rollouts:6} rollouts {time.perf_counter() - start:7.1f} s  return {mean:8.1f}", flush=True)


if __name__ == "__main__":
    main()
