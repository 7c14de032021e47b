"""A program that tunes rigs through ask and tell, to be killed. It takes a command a line, and answers in lines:

warm METHOD: search once, so that what follows compiles nothing.
live METHOD BUDGET MOST FOLDER: in a fork of this process go on with a search, and wait to be killed after MOST trials;
    the process id of the fork, then how it ended.
finish METHOD BUDGET FOLDER: go on in this process to the end; the policy's SHA-256.
whole METHOD BUDGET: the same of a search that nothing stopped.
"""

import hashlib
import os
import signal
import sys
import tempfile
import traceback
from pathlib import Path

# a fork has none of its parent's threads, so that nothing may be left to them
if __name__ == "__main__":
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
    os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np

from policysearch import LinearGaussian, Parameters, Rig, Specification, WeightPerturbation
from policysearch.core import controller_file
from policysearch.core.specification import Continuous
from policysearch.methods.settings import method_settings

BUDGET = 24
SERVO = Specification(name="servo", repeatable=False)
PLANT = Specification(
    name="plant",
    action=Continuous((-np.inf,), (np.inf,)),
    observation_size=2,
    observation_scale=(1.0, 1.0),
    horizon=4,
)
#: method → settings of a small update
SMALL = {
    "weight_perturbation": {"rollouts": 4, "std": 1.0},
    "finite_differences": {},
    "ars": {"directions": 2},
    "pgpe": {"directions": 2},
    "cem": {"rollouts": 5},
    # fitted values take threads, which a fork has not
    "gpomdp": {"rollouts": 4, "baseline": "running"},
    "natural_gradient": {"rollouts": 4, "baseline": "running"},
    "trpo": {"rollouts": 4, "baseline": "running"},
    "reinforce": {"rollouts": 4},
    "enac": {"rollouts": 6},
}
SAMPLED = ("gpomdp", "natural_gradient", "reinforce", "trpo", "enac")


def gains():
    return Parameters(["kp", "kd"], [4.0, 0.1], bounds={"kp": (0.1, 100.0)}, log=["kp", "kd"], scale=0.3)


def servo(folder, budget=BUDGET):
    method = WeightPerturbation(rollouts=4, std=1.0)
    return Rig(SERVO, method, policy=gains(), budget=budget, folder=folder)


def started(name, budget, folder=None):
    """A search by a method, of gains or of a feedback law."""
    sampled = name in SAMPLED
    policy = LinearGaussian([[0.0, 0.0]], std=0.5) if sampled else gains()
    method = method_settings(name, SMALL[name])
    return Rig(PLANT if sampled else SERVO, method, policy=policy, budget=budget, folder=folder)


def cost(trial):
    return float(sum((np.log(value) - 1.0) ** 2 for value in trial.values.values()))


def outcome(trial):
    """What the rig brings, always the same of the same trial: arguments of `tell`."""
    if trial.noise is None:
        return {"cost": cost(trial)}
    state, observations, actions, costs = np.array([1.0, 0.0]), [], [], []
    for noise in trial.noise:
        action = trial.controller.act(state, noise).sampled
        observations.append(state)
        actions.append(action)
        costs.append(float(state @ state + 0.1 * action @ action))
        state = np.array([state[0] + 0.5 * state[1], state[1] + 0.5 * action[0]])
    return {"rollout": (np.array(observations), np.array(actions), np.array(costs))}


def total(given):
    return given["cost"] if "cost" in given else float(given["rollout"][2].sum())


def opened(folder, name, budget):
    return Rig.open(folder) if (folder / "run.sqlite").exists() else started(name, budget, folder)


def live(folder, name, budget, most):
    """Go on with a search; whatever was told is noted beside it after `tell` has returned."""
    log = os.open(folder.parent / "acknowledged", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    with opened(folder, name, budget) as search:
        for _ in range(most):
            if search.done:
                break
            trial = search.ask()
            given = outcome(trial)
            search.tell(trial, **given)
            os.write(log, f"{trial.number} {total(given)!r}\n".encode())
        signal.pause()


def fork(*arguments):
    """A life; its process id, and how it ended."""
    child = os.fork()
    if child == 0:
        try:
            live(*arguments)
        except BaseException:
            traceback.print_exc()
        os._exit(1)
    print(child, flush=True)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def finish(search):
    """Run a search to its end; the SHA-256 of its policy's file."""
    with search:
        while not search.done:
            trial = search.ask()
            search.tell(trial, **outcome(trial))
        return hashlib.sha256(controller_file.content(search.policy.controller())).hexdigest()


def warm(name):
    """Compile what lives need, which is also what it takes to open a search."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "run")
        with started(name, 13, folder) as search:
            search.tell(trial := search.ask(), **outcome(trial))
        finish(opened(folder, name, 13))


if __name__ == "__main__":
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    for line in sys.stdin:
        command, name, *rest = line.split()
        if command == "warm":
            print(warm(name), flush=True)
        elif command == "live":
            print(fork(Path(rest[2]), name, int(rest[0]), int(rest[1])), flush=True)
        elif command == "finish":
            print(finish(opened(Path(rest[1]), name, int(rest[0]))), flush=True)
        else:
            print(finish(started(name, int(rest[0]))), flush=True)
