"""Who can be asked for in `rivals.py`, one update at a time; a tool is imported when a search of it is made.

`update` makes one and tells the stages so far, all of training, and whether the budget is spent. `mode` gives the
policy without its noise, with whatever it does to observations and actions: a function (n, ·) → (n, ·).
"""

import ast
import logging

import gymnasium
import jax
import numpy as np

from policysearch.methods.settings import method_settings
from policysearch.search.search import Search
from policysearch.tasks import BUILT_IN, build
from policysearch.tasks.gymnasium_task import GymnasiumTask
from policysearch.tasks.task import clip


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


def environment(name):
    """What a rival trains on."""
    return Plant(build(name)) if name in BUILT_IN else gymnasium.make(name)


class Ours:
    """The product's search."""

    def __init__(self, name, method, options, seed, budget):
        self.search = Search(name, method_settings(method, options), budget=f"{budget}stages", seed=seed, workers=1)
        self.close = self.search.close

    def update(self):
        self.search.update()
        return self.search.stages, self.search.done

    def mode(self):
        return self.search.policy.controller().mode


class StableBaselines:
    """TRPO or ARS of sb3-contrib."""

    def __init__(self, name, method, options, seed, budget):
        import torch
        from sb3_contrib import ARS, TRPO

        torch.set_num_threads(1)
        kind, policy = {"trpo": (TRPO, "MlpPolicy"), "ars": (ARS, "LinearPolicy")}[method]
        self.model = kind(policy, environment(name), seed=seed, device="cpu", **options)
        self.budget = budget
        self.close = self.model.env.close

    def update(self):
        # `learn` makes whole updates until at least so many stages are done, here one
        self.model.learn(1, reset_num_timesteps=False)
        return self.model.num_timesteps, self.model.num_timesteps >= self.budget

    def mode(self):
        return lambda observations: self.model.predict(observations, deterministic=True)[0]


class EvoTorch:
    """PGPE of EvoTorch, an affine policy of normalised observations; as in its examples/scripts/rl_gym.py.

    As there, training leaves out the survival bonus. The centre follows a population at the start of the next update.
    """

    def __init__(self, name, method, options, seed, budget):
        import torch
        from evotorch.algorithms import PGPE
        from evotorch.neuroevolution import GymNE

        torch.set_num_threads(1)
        logging.getLogger("evotorch").setLevel(logging.WARNING)

        def seeded():
            env = environment(name)
            env.reset(seed=seed)
            return env

        bonus = 0.0 if name in BUILT_IN else GymnasiumTask(name).declared_bonus
        self.problem = GymNE(
            seeded, "Linear(obs_length, act_length)", observation_normalization=True, decrease_rewards_by=bonus
        )
        self.problem.manual_seed(seed)
        settings = {
            "popsize": 200,
            "popsize_max": 3200,
            "num_interactions": 150_000,
            "center_learning_rate": 0.01125,
            "stdev_learning_rate": 0.1,
            "radius_init": 0.27,
            "optimizer": "clipup",
            "optimizer_config": {"max_speed": 0.015},
        }
        self.searcher = PGPE(self.problem, **settings | options)
        self.budget = budget
        self.close = self.problem.get_env().close

    def update(self):
        self.searcher.step()
        return self.problem.interaction_count, self.problem.interaction_count >= self.budget

    def mode(self):
        import torch

        policy = self.problem.to_policy(self.searcher.status["center"])
        discrete = isinstance(self.problem.get_env().action_space, gymnasium.spaces.Discrete)

        @torch.no_grad()
        def mode(observations):
            actions = policy(torch.as_tensor(observations, dtype=torch.float32)).numpy()
            return actions.argmax(axis=1) if discrete else actions

        return mode


class Tianshou:
    """NPG or TRPO of Tianshou; settings of its examples/mujoco/mujoco_npg.py and mujoco_trpo.py, but one environment.

    There it is 16, which `environments=16` gives in one process; its README says that 4 learn better. As there,
    observations are normalised and the critic's step size falls to 0, here at the budget.
    """

    def __init__(self, name, method, options, seed, budget):
        import torch
        from tianshou.algorithm import NPG, TRPO
        from tianshou.algorithm.modelfree.reinforce import DiscreteActorPolicy, ProbabilisticActorPolicy
        from tianshou.algorithm.optim import AdamOptimizerFactory, LRSchedulerFactoryLinear
        from tianshou.data import Collector, VectorReplayBuffer
        from tianshou.env import DummyVectorEnv, VectorEnvNormObs
        from tianshou.utils.net.common import Net
        from tianshou.utils.net.continuous import ContinuousActorProbabilistic, ContinuousCritic
        from tianshou.utils.net.discrete import DiscreteActor

        torch.set_num_threads(1)
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002 – Tianshou draws from it
        options = dict(options)
        envs = [environment(name) for _ in range(options.pop("environments", 1))]
        space, observed = envs[0].action_space, envs[0].observation_space.shape

        def hidden():
            return Net(state_shape=observed, hidden_sizes=(64, 64), activation=torch.nn.Tanh)

        def gaussian(parameters):
            return torch.distributions.Independent(torch.distributions.Normal(*parameters), 1)

        if isinstance(space, gymnasium.spaces.Discrete):
            actor = DiscreteActor(preprocess_net=hidden(), action_shape=space.n, softmax_output=False)
            self.policy = DiscreteActorPolicy(actor=actor, action_space=space, deterministic_eval=True)
            last = actor.last
        else:
            actor = ContinuousActorProbabilistic(preprocess_net=hidden(), action_shape=space.shape, unbounded=True)
            self.policy = ProbabilisticActorPolicy(
                actor=actor, dist_fn=gaussian, action_space=space, deterministic_eval=True
            )
            torch.nn.init.constant_(actor.sigma_param, -0.5)
            last = actor.mu
        critic = ContinuousCritic(preprocess_net=hidden())
        for layer in [*actor.modules(), *critic.modules()]:
            if isinstance(layer, torch.nn.Linear):
                torch.nn.init.orthogonal_(layer.weight, gain=2**0.5)
                torch.nn.init.zeros_(layer.bias)
        for layer in last.modules():
            if isinstance(layer, torch.nn.Linear):
                layer.weight.data *= 0.01
        self.batch = 1024
        rate = LRSchedulerFactoryLinear(max_epochs=1, epoch_num_steps=budget, collection_step_num_env_steps=self.batch)
        settings = {"gamma": 0.99, "gae_lambda": 0.95, "return_scaling": True, "optim_critic_iters": 20}
        kind, more = {
            "npg": (NPG, {"trust_region_size": 0.1}),
            "trpo": (TRPO, {"max_kl": 0.01, "backtrack_coeff": 0.8, "max_backtracks": 10}),
        }[method]
        optim = AdamOptimizerFactory(lr=1e-3).with_lr_scheduler_factory(rate)
        self.algorithm = kind(policy=self.policy, critic=critic, optim=optim, **settings | more | options)
        self.envs = VectorEnvNormObs(DummyVectorEnv([lambda env=env: env for env in envs]))
        self.envs.seed(seed)
        self.collector = Collector(self.algorithm, self.envs, VectorReplayBuffer(4096, len(envs)))
        self.collector.reset()
        self.stages, self.budget = 0, budget
        self.close = self.envs.close

    def update(self):
        from tianshou.utils.torch_utils import policy_within_training_step

        with policy_within_training_step(self.policy):
            self.stages += self.collector.collect(n_step=self.batch).n_collected_steps
            self.algorithm.update(self.collector.buffer, batch_size=None, repeat=1)
        self.collector.reset_buffer(keep_statistics=True)
        return self.stages, self.stages >= self.budget

    def mode(self):
        import torch
        from tianshou.data import Batch

        @torch.no_grad()
        def mode(observations):
            normalised = self.envs.get_obs_rms().norm(observations)
            return self.policy.map_action(self.policy(Batch(obs=normalised, info={})).act)

        return mode


#: the sides other than ours: their class and what it has
RIVALS = {
    "sb3": (StableBaselines, ("trpo", "ars")),
    "evotorch": (EvoTorch, ("pgpe",)),
    "tianshou": (Tianshou, ("npg", "trpo")),
}


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
        return Ours, method, options
    kind, methods = RIVALS.get(side, (None, ()))
    if method not in methods:
        there = ", ".join(f"{side}:{method}" for side, (_, methods) in RIVALS.items() for method in methods)
        raise ValueError(f"{who} is no side; choose ours:METHOD or {there}.")
    return kind, method, options
