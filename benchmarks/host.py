"""Training on MuJoCo tasks against the bare simulator: useful stages per second over replayed `mj_step`s per second.

Raw: a thread a worker runs `mujoco.rollout` (faster than `mj_step` called from Python) from the very start states and
with the very controls of the measured rollouts, interleaved with training, so that both see the same contacts and the
same machine. A stage is one step of the environment, all its frames. Shares count updates, messages and idle workers.
Run: python benchmarks/host.py [--tasks A,B] [--methods ars,natural_gradient] [--policies FOLDER]
"""

import argparse
import dataclasses
import itertools
import os
import threading
import time
import warnings
from pathlib import Path

import mujoco
import numpy as np
from mujoco.rollout import Rollout

from policysearch import Controller
from policysearch.core.rng import environment_seed
from policysearch.core.settings import PolicySettings
from policysearch.methods.presets import preset
from policysearch.methods.settings import NaturalGradient
from policysearch.runners import host
from policysearch.search.search import Search
from policysearch.tasks.gymnasium_task import GymnasiumTask

#: the share of raw that each task is meant to reach in ARS training; in natural-gradient training it is NATURAL
TARGETS = {"Swimmer-v5": 0.50, "Hopper-v5": 0.50, "HalfCheetah-v5": 0.55, "Walker2d-v5": 0.55, "Ant-v5": 0.50}
NATURAL = 0.35
#: return of the policy that is measured; a policy that falls at once would mostly measure resets
RETURNS = {"Swimmer-v5": 100.0, "Hopper-v5": 2000.0, "HalfCheetah-v5": 1500.0, "Walker2d-v5": 2000.0, "Ant-v5": 500.0}
#: where no gain matrix of ours gets so far, and a network that `trpo` trains does
BY_NETWORK = ("Walker2d-v5",)
#: of the networks that are measured
NETWORK = PolicySettings(kind="network", hidden=(64, 64))
TICKS = os.sysconf("SC_CLK_TCK")


def trained(task, folder, budget):
    """The file of a policy of about the wanted return: found in `folder`, or trained into it."""
    path = folder / f"{task}.safetensors"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        print(f"training {task} to a return of {RETURNS[task]:g}", flush=True)
        method, policy = ("trpo", NETWORK) if task in BY_NETWORK else ("ars", None)
        with Search(task, method, policy=policy, budget=f"{budget}stages") as search:
            while not search.done and search.update()["return"] < RETURNS[task]:
                pass
            search.policy.controller().save(path)
    return path


def network(path, task, std=0.1):
    """Two tanh layers of 64 that do nearly what a linear policy does: small weights keep tanh linear."""
    linear = Controller.load(path)
    if linear.policy == "neural_gaussian":
        return linear
    gain = linear.parameters["gain"]
    m, p = gain.shape
    small = 0.01 / max(np.abs(gain).max(), 1e-6)
    first, second, last = np.zeros((64, p)), np.zeros((64, 64)), np.zeros((m, 64))
    rows = np.arange(m)
    first[:m], second[rows, rows], last[rows, rows] = small * gain, 1.0, 1 / small
    action = task.specification.action
    last /= np.asarray(action.half_range)[:, None]
    layers = {"weight_0": first, "weight_1": second, "weight_2": last}
    layers |= {f"bias_{i}": np.zeros(len(layers[f"weight_{i}"])) for i in range(3)}
    constants = {name: value for name, value in linear.constants.items() if name.startswith("scaling")}
    constants |= {"action_centre": np.asarray(action.centre), "action_scale": np.asarray(action.half_range)}
    parameters = layers | {"log_std": np.full(m, np.log(std))}
    return Controller({"policy": "neural_gaussian", "activation": "tanh"}, parameters, constants)


def search_for(method, name, path, workers):
    """A search whose policy is the one that is measured."""
    task = GymnasiumTask(name)
    if method == "ars":
        given = NETWORK if Controller.load(path).policy == "neural_gaussian" else None
        return Search(task, preset("paper", "ars", name).method, policy=given, initial=path, workers=workers)
    return Search(task, NaturalGradient(rollouts=16), policy=NETWORK, initial=network(path, task), workers=workers)


class Replay:
    """The rollouts of an update as start states and controls, and a run of them by the bare simulator."""

    def __init__(self, task, requested, records, threads):
        env = task.make()
        core = env.unwrapped
        self.model, self.skip = core.model, core.frame_skip
        self.trials, self.error = [], 0.0
        self.stages = sum(len(costs) for _, _, costs in records)
        self.threads = threads
        space, structure = env.action_space, core.observation_structure
        for index, (observations, actions, _) in zip(requested.environment, records, strict=True):
            env.reset(seed=environment_seed(requested.seed, requested.purpose, requested.update, int(index)))
            start = np.concatenate([[0.0], core.data.qpos, core.data.qvel])
            command = np.clip(actions.astype(space.dtype), space.low, space.high).astype(float)
            trial = start[None], np.repeat(command, self.skip, axis=0)[None], core.data.qacc_warmstart.copy()[None]
            self.trials.append(trial)
            # the replay must pass through the very states that the rollout passed through
            state, _ = Rollout(nthread=0).rollout(
                self.model, mujoco.MjData(self.model), *trial[:2], initial_warmstart=trial[2]
            )
            skipped, seen = structure["skipped_qpos"], structure["qpos"]
            positions = state[0, self.skip - 1 :: self.skip, 1 + skipped : 1 + skipped + seen]
            self.error = max(self.error, np.abs(positions - observations[1:, :seen]).max())
        env.close()

    def run(self):
        """All trials once, each on the next free thread."""
        jobs = itertools.count()

        def work():
            data, runner = mujoco.MjData(self.model), Rollout(nthread=0)
            while (number := next(jobs)) < len(self.trials):
                start, controls, warm = self.trials[number]
                runner.rollout(self.model, data, start, controls, initial_warmstart=warm)

        threads = [threading.Thread(target=work) for _ in range(self.threads)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def cpu(pids):
    """Seconds of processor time that some processes have used."""
    total = 0.0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / TICKS
    return total


def machine():
    """Seconds of processor time that all processes have used on this machine."""
    user, nice, system, _idle, _wait, irq, soft, *_ = map(
        int, Path("/proc/stat").read_text().split("\n")[0].split()[1:]
    )
    return (user + nice + system + irq + soft) / TICKS


def timed(work, pids):
    """Wall-clock seconds, processor seconds of `pids`, and cores that other processes used meanwhile."""
    wall, ours, everyone = time.perf_counter(), cpu(pids), machine()
    work()
    wall, ours, everyone = time.perf_counter() - wall, cpu(pids) - ours, machine() - everyone
    return wall, ours, max(0.0, everyone - ours) / wall


def measure(method, name, path, arguments):
    """A row of the table."""
    with search_for(method, name, path, arguments.workers) as search:
        search.update()  # starts workers and compiles
        search.update()
        state, pool = search.state, search._runner.workers
        requested = host.jobs(search.method, state, search.seed)
        came = pool.run(dataclasses.replace(requested, record=True))
        replay = Replay(search.task, requested, came.records, arguments.workers)
        again = max(1, round(arguments.seconds / 2e-4 / replay.stages))

        def train():
            for _ in range(again):
                search.state = state
                search.update()

        def engine():
            for _ in range(again):
                pool.run(requested)

        def raw():
            for _ in range(again):
                replay.run()

        pids = [os.getpid(), *(worker.process.pid for worker in pool._workers)]
        runs = {work: [] for work in (train, raw, engine)}
        for repetition in range(arguments.repetitions):
            order = list(runs) if repetition % 2 else list(runs)[::-1]
            for work in order:
                runs[work].append(timed(work, pids))
    wall, used = ({work: np.array([run[k] for run in runs[work]]) for work in runs} for k in (0, 1))
    others = np.mean([run[2] for work in runs for run in runs[work]])
    share = wall[raw] / wall[train]
    stages = again * replay.stages
    target = TARGETS[name] if method == "ars" else NATURAL
    print(
        f"{name:15} {method:17} {len(came.totals):4} {replay.stages / len(came.totals):6.0f} "
        f"{np.nanmean(came.returns):7.0f} {stages / np.median(wall[raw]):8.0f} {stages / np.median(wall[train]):8.0f} "
        f"{np.median(share):6.0%} {share.min():4.0%}–{share.max():4.0%} {target:5.0%} "
        f"{np.median(wall[raw] / wall[engine]):6.0%} {np.median(used[raw] / used[train]):6.0%} {others:6.2f} "
        f"{os.getloadavg()[0]:5.1f} {replay.error:8.0e}",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default=",".join(TARGETS))
    parser.add_argument("--methods", default="ars,natural_gradient")
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0, help="least time of a repetition, about")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--policies", type=Path, default=Path("build/policies"), help="of TASK.safetensors")
    parser.add_argument("--budget", type=int, default=3_000_000, help="stages of that training, at most")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    print(
        "                                          length            stages/s         share          goal engine "
        "   CPU  other  load   replay\n"
        "task            method               n   (mean)  return      raw training median  range             share"
        "  share  cores        error"
    )
    for name in arguments.tasks.split(","):
        path = trained(name, arguments.policies, arguments.budget)
        for method in arguments.methods.split(","):
            measure(method, name, path, arguments)


if __name__ == "__main__":
    main()
