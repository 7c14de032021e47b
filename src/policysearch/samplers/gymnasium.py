"""Gymnasium environments as tasks: their specification, and one rollout of a controller in one. No JAX.

L stages happened of at most T, p observations, m actions. Cost of a stage: discount^k (bonus − reward).
"""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib
import inspect
import math
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from gymnasium.wrappers import OrderEnforcing, TimeLimit

from policysearch.controller import Controller
from policysearch.samplers.jobs import Episode
from policysearch.samplers.lean_steps import lean_step
from policysearch.samplers.mujoco_warnings import tell_once
from policysearch.specification import FAILED, OK, Continuous, Discrete, Specification

if TYPE_CHECKING:
    from jaxtyping import Float

#: observation limits beyond this say nothing about typical magnitudes
LARGEST_LIMIT = 1e3


class GymnasiumTask:
    """An environment, known by its Gymnasium id or by the factory that makes it.

    It is made once here, to read its spaces and time limit, and closed again; workers make their own.

    Args:
        environment: a Gymnasium id ("Hopper-v5"), or "module:attr" of a class or function that returns an
            environment; a class or function of an importable module may be passed itself.
        horizon: largest number of stages; the environment's time limit by default.
        environment_options: keyword arguments of `gymnasium.make` or of the factory.
        survival_bonus: what the environment pays per stage for staying alive; taken out of what training
            optimises, left in returns and evaluations. None leaves it to the method: ARS takes out what the
            environment declares (`declared_bonus`), as its paper does; the others take out nothing.
        discount: per stage, of the cost that is optimised.

    Raises:
        ValueError: if another process could not make it too, if the policies do not serve its spaces, or if
            no time limit is known.

    Example:
        >>> GymnasiumTask("CartPole-v1").specification.horizon
        500
    """

    def __init__(
        self,
        environment: str | Callable[..., gymnasium.Env],
        *,
        horizon: int | None = None,
        environment_options: dict[str, Any] | None = None,
        survival_bonus: float | None = None,
        discount: float = 1.0,
    ):
        if horizon is not None and horizon < 1:
            raise ValueError(f"horizon is {horizon}; it is a number of stages, at least 1.")
        if not 0 < discount <= 1:
            raise ValueError(f"discount is {discount}; it must lie in (0, 1].")
        self.environment = environment if isinstance(environment, str) else _address(environment)
        self.environment_options = dict(environment_options or {})
        if "max_episode_steps" in self.environment_options:
            raise ValueError("environment_options holds max_episode_steps; pass horizon=… instead.")
        if survival_bonus is not None and not math.isfinite(survival_bonus):
            raise ValueError(f"survival_bonus is {survival_bonus}; it must be finite.")
        self.survival_bonus = survival_bonus
        self.discount = float(discount)
        self._source: str | gymnasium.envs.registration.EnvSpec = self.environment
        if not _is_factory(self.environment):
            self._source = _registered(self.environment)
        self._horizon = horizon
        env = self.make()
        try:
            self.specification = self._read(env)
            self.solved_return: float | None = getattr(env.spec, "reward_threshold", None)
            self.declared_bonus = self._declared_bonus(env)
        finally:
            env.close()
        self._horizon = self.specification.horizon

    @property
    def horizon(self) -> int:
        """Largest number of stages in a rollout."""
        return self.specification.horizon

    def make(self) -> gymnasium.Env:
        """A new environment.

        Returns:
            The environment, without Gymnasium's passive checker.

        Raises:
            ValueError: if the factory does not give an environment.
        """
        if isinstance(self._source, str):
            module, _, attribute = self._source.partition(":")
            factory: Any = importlib.import_module(module)
            for name in attribute.split("."):
                factory = getattr(factory, name)
            tell_once()
            env = factory(**self.environment_options)
            tell_once()
            if not isinstance(env, gymnasium.Env):
                raise ValueError(f"{self.environment} gave a {type(env).__name__}; it must return a gymnasium.Env.")
            return env
        if str(self._source.entry_point).startswith("gymnasium.envs.mujoco"):
            with contextlib.suppress(ImportError):  # of which Gymnasium says more
                importlib.import_module("mujoco")
        tell_once()
        return gymnasium.make(
            self._source,
            max_episode_steps=self._horizon,
            disable_env_checker=True,
            **self.environment_options,
        )

    def with_survival_bonus(self, bonus: float) -> GymnasiumTask:
        """This task with what the method takes out of training."""
        task = copy.copy(self)
        task.survival_bonus = bonus
        return task

    def _declared_bonus(self, env: gymnasium.Env) -> float:
        """The `healthy_reward` that MuJoCo environments take as an option; 0 for those that have none."""
        parameter = inspect.signature(type(env.unwrapped).__init__).parameters.get("healthy_reward")
        value = self.environment_options.get("healthy_reward", parameter.default if parameter else 0.0)
        return float(value) if isinstance(value, (int, float)) else 0.0

    def _read(self, env: gymnasium.Env) -> Specification:
        horizon = self._horizon or getattr(env.spec, "max_episode_steps", None)
        if not horizon:
            raise ValueError(
                f"{self.environment} has no time limit (max_episode_steps). Pass horizon=… in stages, so "
                "that every rollout ends."
            )
        size, scale = _observations(self.environment, env.observation_space)
        threshold = getattr(env.spec, "reward_threshold", None)
        dt = getattr(env.unwrapped, "dt", getattr(env.unwrapped, "tau", None))
        return Specification(
            name=self.environment,
            action=_actions(self.environment, env.action_space),
            observation_size=size,
            observation_scale=scale,
            one_hot=isinstance(env.observation_space, gymnasium.spaces.Discrete),
            horizon=int(horizon),
            dt=float(dt) if isinstance(dt, (int, float)) and 0 < dt < math.inf else None,
            discount=self.discount,
            repeatable=not getattr(env.spec, "nondeterministic", False),
            reward=True,
            solved="" if threshold is None else f"mean return of at least {threshold:g}",
        )


def _address(factory: Callable[..., Any]) -> str:
    """`module:attr` of a class or function, refusing those that another process cannot import."""
    module = getattr(factory, "__module__", None)
    name = getattr(factory, "__qualname__", None)
    if not callable(factory) or module is None or name is None or "<" in name or module == "__main__":
        raise ValueError(
            f"environment is {factory!r}; workers make their own environments and can import neither "
            "lambdas, closures and objects nor what the main script defines. Put a function that returns "
            'the environment into a module and pass it as "module:function".'
        )
    return f"{module}:{name}"


def _is_factory(environment: str) -> bool:
    module, colon, attribute = environment.partition(":")
    return bool(colon) and all(part.isidentifier() for part in (*module.split("."), *attribute.split(".")))


def _registered(name: str) -> gymnasium.envs.registration.EnvSpec:
    """The registration of an id; it travels to the workers, which do not see what a main script registers."""
    module, colon, rest = name.partition(":")
    if colon:
        importlib.import_module(module)
        name = rest
    try:
        spec = gymnasium.spec(name)
    except gymnasium.error.Error as error:
        raise ValueError(f"Gymnasium does not know the environment {name!r}: {error}") from error
    entry = spec.entry_point
    if callable(entry):
        entry = _address(entry)
    if entry is None or entry.startswith("__main__"):
        raise ValueError(
            f"{name} is registered with entry point {spec.entry_point!r}, which a worker cannot import. "
            'Register it as "module:class" of an importable module.'
        )
    spec = copy.deepcopy(spec)
    spec.entry_point = entry
    return spec


def _observations(name: str, space: gymnasium.Space) -> tuple[int, tuple[float, ...] | None]:
    """Size p and typical magnitudes of what a policy sees."""
    if isinstance(space, gymnasium.spaces.Discrete):
        return int(space.n), (1.0,) * int(space.n)
    image = isinstance(space, Box) and len(space.shape) > 1 and not np.issubdtype(space.dtype, np.floating)
    if not isinstance(space, Box) or image:
        raise ValueError(
            f"{name} has observations {space}; policies take a Box of numbers or Discrete. Wrap it with "
            "gymnasium.wrappers.FlattenObservation (Dict, Tuple, MultiDiscrete) or TransformObservation "
            '(images) in a factory and pass that as "module:function".'
        )
    limit = np.maximum(np.abs(space.low), np.abs(space.high)).astype(np.float64).ravel()
    if np.any(limit >= LARGEST_LIMIT):
        return limit.size, None
    return limit.size, tuple(np.where(limit > 0, limit, 1.0).tolist())


def _actions(name: str, space: gymnasium.Space) -> Continuous | Discrete:
    if isinstance(space, gymnasium.spaces.Discrete):
        return Discrete(int(space.n))
    if isinstance(space, Box) and np.issubdtype(space.dtype, np.floating):
        return Continuous(tuple(map(float, space.low.ravel())), tuple(map(float, space.high.ravel())))
    raise ValueError(
        f"{name} has actions {space}; policies give a Box of floats or Discrete. Wrap it with "
        'gymnasium.wrappers.TransformAction in a factory and pass that as "module:function".'
    )


def run_rollout(
    env: gymnasium.Env,
    controller: Controller,
    seed: int,
    noise: Float[np.ndarray, "T m"] | None = None,
    horizon: int = 1000,
    record: bool = False,
    survival_bonus: float = 0.0,
    discount: float = 1.0,
) -> Episode:
    """Run one rollout from one `reset(seed=seed)`; actions are clipped before they are applied.

    A reward, observation or action that is not a finite number, or a divergence that MuJoCo noted, makes the
    rollout `FAILED` from that stage on.

    Args:
        env: a single environment.
        controller: the policy, of fitting sizes.
        seed: of the reset.
        noise: action noise as `Controller.noise` draws it, (T, m); None: the mode acts.
        horizon: T, largest number of stages.
        record: also return observations, actions and costs.
        survival_bonus: subtracted from each reward before it becomes a cost.
        discount: per stage.

    Returns:
        The `Episode`.

    Raises:
        Exception: whatever the environment raises, unless a non-finite action caused it.
    """
    inner, limit = _without_time_limit(env, horizon)
    seen = np.zeros((limit + 1, controller.observation_size))
    actions = np.zeros(limit, int) if controller.discrete else np.zeros((limit, controller.action_size))
    rewards = np.zeros(limit)
    taken = np.zeros(actions.shape, env.action_space.dtype)
    write, act = _writer(env.observation_space), _actor(controller, env.action_space, noise, actions, taken)
    lean = lean_step(inner)
    step, isfinite = lean.step, math.isfinite
    terminated = False
    k = 0
    observation, _ = env.reset(seed=seed)
    try:
        for k, row in enumerate(seen[:limit]):
            write(row, observation)
            observation, reward, terminated, truncated, _ = step(act(k, row))
            rewards[k] = reward
            if terminated or truncated or not isfinite(reward):
                break
    except Exception:
        if np.isfinite(actions[k]).all():
            raise
    length = k + 1
    write(seen[length], observation)
    observations, actions, rewards = seen[:length], actions[:length], rewards[:length]
    with np.errstate(invalid="ignore", over="ignore"):
        lean.charge(rewards, taken[:length])
        mean = observations.sum(axis=0) / length
        bad, reason = _first_failure(inner, controller, observations, actions, rewards, mean)
        costs = survival_bonus - rewards
        if discount != 1:
            costs *= discount ** np.arange(length)
        total, returns = float(costs[:bad].sum()), float(rewards[:bad].sum())
        deviations = observations - mean
        m2 = np.einsum("kp,kp->p", deviations, deviations)
    if reason:
        length = min(bad + 1, length)
        seen = np.nan_to_num(seen[: length + 1], posinf=0.0, neginf=0.0)
        actions = np.nan_to_num(actions[:length], posinf=0.0, neginf=0.0)
        costs = costs[:length]
        costs[bad:] = np.nan
    return Episode(
        total=total,
        returns=returns,
        length=length,
        outcome=FAILED if reason else OK,
        reason=reason,
        terminated=bool(terminated),
        mean=mean,
        m2=m2,
        record=(seen[: length + 1], actions, costs) if record else None,
    )


def _without_time_limit(env: gymnasium.Env, horizon: int) -> tuple[gymnasium.Env, int]:
    """The environment below Gymnasium's own time limit and order check, and the stages that they leave of `horizon`.

    A rollout counts its stages and begins with a reset anyway, so it need not pay for the two at each stage. Other
    wrappers stay, and what is below them.
    """
    while isinstance(env, gymnasium.Wrapper) and type(env) in (TimeLimit, OrderEnforcing):
        if isinstance(env, TimeLimit):
            horizon = min(horizon, env._max_episode_steps)
        env = env.env
    return env, horizon


def _first_failure(
    env: gymnasium.Env,
    controller: Controller,
    observations: np.ndarray,
    actions: np.ndarray,
    rewards: np.ndarray,
    mean: np.ndarray,
) -> tuple[int, str]:
    """The stage of the first failure and what it was; (L, "") for none."""
    length = len(rewards)
    # a stage's observation comes before its action, its action before its reward
    seen = [("observation", observations), ("action", actions), ("reward", rewards)]
    if controller.discrete:  # the largest of logits that are NaN is a valid action
        seen[1] = ("vector of logits", controller.output(observations))
    # a sum is finite only where all are, and the stages are looked at one by one only where it is not
    if not math.isfinite(mean.sum() + seen[1][1].sum() + rewards.sum()):
        found = []
        for name, values in seen:
            finite = np.isfinite(values)
            if not finite.all():
                stage = int(np.argmin(finite.reshape(length, -1).all(axis=1)))
                found.append((stage, f"the {name} of stage {stage} is not finite"))
        if found:
            return min(found, key=lambda pair: pair[0])
    warning = getattr(getattr(env.unwrapped, "data", None), "warning", None)
    if warning is not None:
        noted = _mujoco_divergence(warning)
        if noted:
            return length - 1, f"MuJoCo noted {noted}: the simulation diverged"
    return length, ""


@functools.cache
def _divergences() -> list[tuple[str, int]]:
    """Names and numbers of MuJoCo's warnings of a state that is not finite."""
    kinds = sys.modules["mujoco"].mjtWarning.__members__.items()
    return [(name.removeprefix("mjWARN_"), int(kind)) for name, kind in kinds if "BAD" in name]


def _mujoco_divergence(warning: Any) -> str:
    """Names of the divergences that MuJoCo counted since the reset: it restarts itself and goes on."""
    numbers = getattr(warning, "number", None)
    if numbers is None or "mujoco" not in sys.modules:
        return ""
    return ", ".join(name for name, kind in _divergences() if numbers[kind])


def _writer(space: gymnasium.Space) -> Callable[[np.ndarray, Any], None]:
    """A function that puts one observation into a row of zeros, (p,)."""
    if isinstance(space, gymnasium.spaces.Discrete):
        start = int(space.start)

        def write_one_hot(row: np.ndarray, observation: Any) -> None:
            row[int(observation) - start] = 1.0

        return write_one_hot

    def write(row: np.ndarray, observation: Any) -> None:
        row[:] = observation

    def write_flat(row: np.ndarray, observation: Any) -> None:
        row[:] = np.ravel(observation)

    return write if len(space.shape or ()) == 1 else write_flat


def _actor(
    controller: Controller, space: gymnasium.Space, noise: np.ndarray | None, actions: np.ndarray, taken: np.ndarray
) -> Callable[[int, np.ndarray], Any]:
    """A function of a stage and its observation that writes the sampled action into `actions`.

    It returns what the environment takes: the row of `taken` that holds the action within limits, or an int.
    """
    output = controller.unchecked_output
    if isinstance(space, gymnasium.spaces.Discrete):
        start = int(space.start)

        def choose(k: int, observation: np.ndarray) -> int:
            logits = output(observation, None)
            action = int(logits.argmax() if noise is None else (logits + noise[k]).argmax())
            actions[k] = action
            return action + start

        return choose
    if not isinstance(space, Box):
        raise ValueError(f"Actions {space} came; a Box or Discrete is needed.")
    shape, low, high = space.shape, space.low.ravel(), space.high.ravel()
    deviations = None if noise is None else controller.std * noise

    def act(k: int, observation: np.ndarray) -> np.ndarray:
        action, command = actions[k], taken[k]
        output(observation, action)
        if deviations is not None:
            action += deviations[k]
        command[:] = action
        return command.clip(low, high, command)

    return act if len(shape) == 1 else lambda k, observation: act(k, observation).reshape(shape)
