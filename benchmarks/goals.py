"""When a search of `rivals.py` is there: the mode of its policy is judged on seeds that are the same for all sides.

n rollouts. A mode is a function from observations (n, ·) to actions (n, ·), whatever made the policy.
"""

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from policysearch.core.rng import Purpose, environment_seed
from policysearch.runners.native import purpose_key
from policysearch.tasks import build
from policysearch.tasks.task import clip

#: return to reach in the mean of so many rollouts; a plant has its own criterion, which asks for more of them
RETURNS = {
    "CartPole-v1": 475.0,
    "Pendulum-v1": -200.0,
    "Swimmer-v5": 325.0,
    "Hopper-v5": 3120.0,
    "HalfCheetah-v5": 3430.0,
}
ROLLOUTS, PLANT_ROLLOUTS = 10, 100


class MeanReturn:
    """Evaluations of a Gymnasium task: of a mode, a search's seed and the evaluation's number."""

    def __init__(self, name):
        self.goal = RETURNS[name]
        self.envs = [gymnasium.make(name, disable_env_checker=True) for _ in range(ROLLOUTS)]

    def __call__(self, mode, seed, number):
        seeds = [environment_seed(seed, Purpose.EVALUATION, number, index) for index in range(ROLLOUTS)]
        observations = np.array([env.reset(seed=s)[0] for env, s in zip(self.envs, seeds, strict=True)])
        totals, running, space = np.zeros(ROLLOUTS), set(range(ROLLOUTS)), self.envs[0].action_space
        while running:
            actions = mode(observations)
            if isinstance(space, gymnasium.spaces.Box):
                actions = np.clip(actions, space.low, space.high).astype(space.dtype)
            for index in list(running):
                observations[index], reward, terminated, truncated, _ = self.envs[index].step(actions[index])
                totals[index] += reward
                if terminated or truncated:
                    running.discard(index)
        return float(totals.mean())


class SuccessShare:
    """Evaluations of a plant by its own criterion: the share of rollouts that must succeed."""

    def __init__(self, name):
        self.task = build(name)
        self.goal = self.task.solved_share
        self._start = jax.jit(jax.vmap(self.task.reset))
        self._observe = jax.jit(jax.vmap(self.task.observe))
        self._step = jax.jit(jax.vmap(lambda x, u: self.task.step(x, u, None)))
        self._judge = jax.jit(jax.vmap(self.task.success, in_axes=1))

    def __call__(self, mode, seed, number):
        key = jax.random.fold_in(purpose_key(seed, Purpose.EVALUATION), number)
        states, applied = [self._start(jax.random.split(key, PLANT_ROLLOUTS))], []
        for _ in range(self.task.specification.horizon):
            wanted = jnp.asarray(mode(np.asarray(self._observe(states[-1]))), jnp.float32)
            applied.append(clip(wanted, self.task.specification.action))
            states.append(self._step(states[-1], applied[-1]))
        return float(self._judge(jax.tree.map(lambda *xs: jnp.stack(xs), *states), jnp.stack(applied)).mean())
