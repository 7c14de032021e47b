"""Array annotations of the core are checked at run time; JAX stays on the CPU. Shared: policies and rollouts of each.

n rollouts, T stages, p observations.
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from beartype import BeartypeConf, beartype

#: where shapes are the mathematics; what takes its arguments from users says itself what is wrong with them
CORE = (
    "core.credit core.direction core.distributions core.explore core.method core.normalize core.quality "
    "core.rollouts core.score core.step core.baselines.value core.baselines.network runners.native tasks.task"
)
#: an int is a float
checker = beartype(conf=BeartypeConf(is_pep484_tower=True))
jaxtyping.install_import_hook([f"policysearch.{name}" for name in CORE.split()], f"{__name__}.checker")

from policysearch.core.initial import random_layers  # noqa: E402
from policysearch.core.normalize import Scaling  # noqa: E402
from policysearch.core.policies import LinearGaussian, NeuralGaussian, Softmax  # noqa: E402
from policysearch.core.rollouts import OK, Rollouts  # noqa: E402


def _scaling(p):
    return Scaling(jnp.asarray(4.0), jnp.linspace(-0.5, 0.5, p), jnp.linspace(1.0, 9.0, p), running=True)


#: one of each kind; p = 3 observations, m = 2 actions or k = 3 choices
POLICIES = {
    "rbf": lambda: NeuralGaussian(
        [(np.array(w), np.array(b) + 0.1) for w, b in random_layers([3, 5, 2], 4, last=0.5)],
        std=0.4,
        activation="sin",
        frozen=1,
        scaling=_scaling(3),
    ),
    "linear": lambda: LinearGaussian([[-0.5, 0.3, 0.1], [0.2, -0.7, 0.4]], bias=[0.1, -0.2], std=[0.3, 0.6]),
    "linear with learned std, scaled": lambda: LinearGaussian(
        [[-0.5, 0.3, 0.1], [0.2, -0.7, 0.4]], std=[0.3, 0.6], learned_std=True, scaling=_scaling(3)
    ),
    "structured": lambda: LinearGaussian(
        [[-0.5, 0.0, 0.1], [0.0, -0.7, 0.0]], mask=[[True, False, True], [False, True, False]], std=0.4
    ),
    "network": lambda: NeuralGaussian(
        random_layers([3, 4, 2], 0, last=0.5),
        std=[0.3, 0.6],
        action_centre=[0.5, -1.0],
        action_scale=[2.0, 0.5],
        scaling=_scaling(3),
    ),
    "relu network with fixed std": lambda: NeuralGaussian(
        random_layers([3, 4, 2], 1, last=0.5), std=0.5, learned_std=False, activation="relu"
    ),
    "softmax": lambda: Softmax(random_layers([3, 3], 2, last=0.8), scaling=_scaling(3)),
    "softmax network": lambda: Softmax(random_layers([3, 4, 3], 3, last=0.8)),
}


@pytest.fixture(scope="module", autouse=True)
def forgotten():
    """Compiled programs live until their module's tests are over: all of them together take gigabytes."""
    yield
    jax.clear_caches()


@pytest.fixture
def float64():
    """64-bit numbers for the length of a test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(params=POLICIES)
def policy(request):
    """Each kind of policy in turn; p = 3."""
    return POLICIES[request.param]()


@pytest.fixture(scope="session")
def policies():
    """Makers of a policy by name, p = 3."""
    return POLICIES


@pytest.fixture(scope="session")
def sampled():
    """A function that makes rollouts of sampled actions at random observations."""
    return _sampled


def _sampled(policy, n=6, T=4, seed=0, p=3, lengths=None, cost=None):
    """Rollouts (n, T) of `policy`; costs are those of the actions plus noise unless given."""
    rng = np.random.default_rng(seed)
    observations = jnp.asarray(rng.normal(size=(n, T, p)))
    actions = policy.sample(observations, jax.random.key(seed))
    if cost is None:
        felt = jnp.sum(jnp.reshape(actions, (n, T, -1)) * 1.0, -1)
        cost = (felt - 0.7) ** 2 + observations[..., 0] * felt + 0.1 * jnp.asarray(rng.normal(size=(n, T)))
    ends = np.full(n, T) if lengths is None else np.asarray(lengths)
    mask = jnp.asarray(np.arange(T)[None, :] < ends[:, None])
    return Rollouts(jnp.asarray(cost), mask, jnp.full(n, OK), observations, actions)
