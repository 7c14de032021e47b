"""Who can be asked for in `rivals.py`, one update at a time, and how the mode of a policy is judged there.

p observations, n rollouts. A mode is a function from observations (n, p) to actions, whatever made the policy, so that
one evaluation serves all sides.
"""

import ast

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from policysearch.samplers.native import purpose_key
from policysearch.search import Search
from policysearch.settings import method_settings
from policysearch.streams import Purpose, environment_seed
from policysearch.tasks import BUILT_IN, build
from policysearch.tasks.task import clip

#: return to reach in the mean of so many rollouts; a plant has its own criterion, which asks for more of them
RETURNS = {"CartPole-v1": 475.0, "Pendulum-v1": -200.0, "Swimmer-v5": 325.0}
ROLLOUTS, PLANT_ROLLOUTS = 10, 100
RIVALS = ("trpo", "ars")


class Plant(gymnasium.Env):
    """A built-in plant without disturbances as a Gymnasium environment; reward is −cost, and the horizon truncates."""

    def __init__(self, task):
        specification = task.specification
        action, self.horizon = specification.action, specification.horizon
        self.action_space = gymnasium.spaces.Box(np.float32(action.low), np.float32(action.high))
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (specification.observation_size,))

        def start(seed):
            x = task.reset(jax.random.key(seed))
            return x, task.observe(x)

        def step(x, u):
            u = clip(u, action)
            following = task.step(x, u, None)
            return following, task.observe(following), task.cost(x, u)

        self._start, self._step = jax.jit(start), jax.jit(step)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.k = 0
        self.x, observation = self._start(np.uint32(self.np_random.integers(2**32)))
        return np.asarray(observation), {}

    def step(self, action):
        self.k += 1
        self.x, observation, cost = self._step(self.x, action)
        return np.asarray(observation), -float(cost), False, self.k >= self.horizon, {}


class Ours:
    """The product's search; `update` tells the stages so far and whether the budget is spent."""

    def __init__(self, name, method, options, seed, budget):
        self.search = Search(name, method_settings(method, options), budget=f"{budget}stages", seed=seed, workers=1)
        self.close = self.search.close

    def update(self):
        self.search.update()
        return self.search.stages, self.search.done

    def mode(self):
        return self.search.policy.controller().mode


class Rival:
    """A search of sb3-contrib."""

    def __init__(self, name, method, options, seed, budget):
        import torch
        from sb3_contrib import ARS, TRPO

        torch.set_num_threads(1)
        env = Plant(build(name)) if name in BUILT_IN else gymnasium.make(name)
        kind, policy = {"trpo": (TRPO, "MlpPolicy"), "ars": (ARS, "LinearPolicy")}[method]
        self.model = kind(policy, env, seed=seed, device="cpu", **options)
        self.budget = budget
        self.close = self.model.env.close

    def update(self):
        # `learn` makes whole updates until at least so many stages are done, here one
        self.model.learn(1, reset_num_timesteps=False)
        return self.model.num_timesteps, self.model.num_timesteps >= self.budget

    def mode(self):
        return lambda observations: self.model.predict(observations, deterministic=True)[0]


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


def parsed(who):
    """The class of a side, its method and what is set of it; ValueError for what there is not."""
    side, _, rest = who.partition(":")
    method, *words = rest.split(":")
    options = {}
    for name, _, value in (word.partition("=") for word in words):
        try:
            options[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):  # a word
            options[name] = value
    if side == "ours":
        method_settings(method, options)
    elif side != "sb3" or method not in RIVALS:
        raise ValueError(f"{who} is no side; choose ours:METHOD or {', '.join(f'sb3:{rival}' for rival in RIVALS)}.")
    return (Ours if side == "ours" else Rival), method, options
