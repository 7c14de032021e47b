"""Your own Gymnasium environment: a pump fills an upper tank that drains into a lower one, whose level is to be held.

From the command line, in this folder: policysearch train own_environment:Tanks --horizon 150
From Python:                           python examples/own_environment.py [BUDGET] [WORKERS]
"""

import sys

import gymnasium
import numpy as np


class Tanks(gymnasium.Env):
    """Levels in m, pump voltage 0 to 10 V, a decision every 2 s; each episode has its mark."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,))
    action_space = gymnasium.spaces.Box(0.0, 10.0, (1,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)  # seeds self.np_random, the only source of chance
        self.upper, self.lower = self.np_random.uniform(0.02, 0.10, 2)
        self.mark = self.np_random.uniform(0.08, 0.16)
        return self._seen(), {}

    def step(self, action):
        volts = float(action[0])
        for _ in range(10):  # of 0.2 s
            falling, out = 0.011 * np.sqrt([self.upper, self.lower])  # m/s
            self.upper = np.clip(self.upper + 0.2 * (1.2e-3 * volts - falling), 0.0, 0.3)
            self.lower = np.clip(self.lower + 0.2 * (falling - out), 0.0, 0.3)
        self.lower = max(0.0, self.lower + 5e-4 * self.np_random.standard_normal())  # waves
        reward = -((10.0 * (self.lower - self.mark)) ** 2) - 1e-3 * (volts / 10.0) ** 2
        return self._seen(), reward, False, False, {}

    def _seen(self):
        errors = self.lower - self.mark, self.upper - self.mark
        return np.array([*errors, self.mark], np.float32)


def main(budget="60updates", workers=2):
    from policysearch import ARS, GymnasiumTask, train

    task = GymnasiumTask("own_environment:Tanks", horizon=150)
    result = train(task, ARS(), budget=budget, workers=int(workers))
    print(f"return {result.evaluation.return_mean:.2f} ± {result.evaluation.return_sem:.2f} on fresh seeds")
    gain, bias = result.policy.physical_gain()
    print(f"pump [V] = {gain[0].round(1)} · (lower error, upper error, mark) [m] + {bias[0]:.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
