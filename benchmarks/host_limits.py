"""What host workers must keep to: time to start, memory of large policies, time to replace a worker that hangs.

Memory is the proportional set size of the driver and all workers, the largest that was seen while they ran (Linux).
Run: python benchmarks/host_limits.py
"""

import itertools
import os
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from policysearch import Controller
from policysearch.runners.pool import Workers
from policysearch.tasks.gymnasium_task import GymnasiumTask
from policysearch.workers.jobs import Jobs

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))


def start(name="Swimmer-v5", workers=2, repetitions=7):
    """Seconds until all workers have their environment."""
    task = GymnasiumTask(name)
    seconds = []
    for _ in range(repetitions):
        with Workers(task, workers) as pool:
            before = time.perf_counter()
            pool.start()
            seconds.append(time.perf_counter() - before)
    print(
        f"{workers} workers ready with {name}: median {statistics.median(seconds):.2f} s, "
        f"range {min(seconds):.2f} to {max(seconds):.2f} s of {repetitions} (at most 1.5)"
    )


def resident(pids):
    """Proportional set size of some processes, in bytes."""
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return 1024 * total


class Peak:
    """The largest memory of this process and some others while a block of code runs."""

    def __init__(self, pids):
        self.pids, self.bytes, self._over = [os.getpid(), *pids], 0, threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self):
        while not self._over.wait(0.05):
            self.bytes = max(self.bytes, resident(self.pids))

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exception):
        self._over.set()
        self._thread.join()


def large(parameters=1_000_000, trials=256, workers=2):
    """A network of about a million parameters, perturbed 256 times; and an update of a search with it."""
    task = GymnasiumTask("Swimmer-v5", horizon=10)
    width = round((parameters + 36) ** 0.5 - 6)
    sizes = (8, width, width, 2)
    layers = {}
    for i, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        layers |= {f"weight_{i}": np.zeros((outputs, inputs)), f"bias_{i}": np.zeros(outputs)}
    constants = {"action_centre": np.zeros(2), "action_scale": np.ones(2)}
    controller = Controller({"policy": "neural_gaussian", "activation": "tanh"}, layers, constants)
    pair = np.arange(trials) // 2
    sign = np.where(np.arange(trials) % 2, -1.0, 1.0)
    jobs = Jobs(controller=controller, seed=0, update=0, environment=pair, perturbation=pair, sign=sign, std=0.01)
    with Workers(task, workers) as pool:
        pool.start()
        with Peak([worker.process.pid for worker in pool._workers]) as peak:
            came = pool.run(jobs)
    failed = int((came.outcome != 0).sum())
    print(
        f"{controller.theta().size} parameters, {trials} trials, {workers} workers, sampling: "
        f"{peak.bytes / 2**20:.0f} MiB at most in all processes, {failed} trials failed"
    )
    del jobs, controller, layers
    from policysearch.core.settings import PolicySettings
    from policysearch.methods.settings import ARS
    from policysearch.search.search import Search

    policy = PolicySettings(kind="network", hidden=(width, width))
    with Search(task, ARS(directions=trials // 2), policy=policy, workers=workers, budget=10**9) as search:
        with Peak([]) as driver:
            search.update()
        pids = [worker.process.pid for worker in search._runner.workers._workers]
        with Peak(pids) as peak:
            search.update()
    print(
        f"{search.layout.size} trials of {search.settings['parameters']} parameters, a whole update: "
        f"{peak.bytes / 2**20:.0f} MiB at most in all processes (at most 1024); "
        f"driver alone while it compiles {driver.bytes / 2**20:.0f} MiB"
    )


def hung(timeout=2.0):
    """Seconds that a trial takes which hangs once: the timeout, a new worker for the only one, its second run."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for repetition in range(5):
            options = {"fault": "hang", "share": 1.0, "marker": f"{folder}/{repetition}"}
            task = GymnasiumTask("environments:Drift", horizon=30, environment_options=options)
            controller = Controller({"policy": "linear_gaussian"}, {"gain": np.zeros((2, 2))})
            with Workers(task, 1, timeout=timeout) as pool:
                pool.start()
                before = time.perf_counter()
                pool.evaluate(controller, 0, 1)
                found.append(time.perf_counter() - before)
    print(
        f"trial that hangs once, timeout {timeout:g} s, one worker: done after {statistics.median(found):.2f} s, "
        f"range {min(found):.2f} to {max(found):.2f} s of {len(found)} (at most {timeout + 5:g})"
    )


if __name__ == "__main__":
    start()
    hung()
    large()
