"""What durable trials cost: ask + tell of a rig on this disk, opening a run of many trials, memory of a long search.

Run: python benchmarks/journal.py [--folder DIR] [--trials N] [--stored N] [--living N]
The folder's file system is what is measured; a memory file system gives numbers that mean nothing. Memory (--living,
minutes) is measured without syncs, which change nothing about it.
"""

import argparse
import gc
import os
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from policysearch import Parameters, Rig, Specification, WeightPerturbation, open_run
from policysearch.runs.history import Row
from policysearch.runs.journal import Journal


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", default=".", help="where a temporary folder is made")
    parser.add_argument("--trials", type=int, default=400)
    parser.add_argument("--stored", type=int, default=100_000)
    parser.add_argument("--living", type=int, default=0, help="trials of a search whose memory is measured: 100000")
    parser.add_argument("--rollouts", type=int, default=8, help="of an update of that search")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        print(f"fsync of 4 KiB                 median {1e3 * sync(Path(folder)):8.2f} ms")
        pairs, updates = ask_tell(Path(folder, "rig"), arguments.trials)
        print(f"ask + tell, {len(pairs):4d} trials        median {1e3 * statistics.median(pairs):8.2f} ms")
        print(f"ask + tell that makes an update median {1e3 * statistics.median(updates):7.2f} ms")
        many(Path(folder, "many"), arguments.stored)
        if arguments.living:
            living(Path(folder, "living"), arguments.living, arguments.rollouts)


def sync(folder):
    """Seconds that the disk takes for a write of one page."""
    descriptor, times = os.open(folder / "page", os.O_WRONLY | os.O_CREAT), []
    for _ in range(100):
        before = time.perf_counter()
        os.pwrite(descriptor, bytes(4096), 0)
        os.fsync(descriptor)
        times.append(time.perf_counter() - before)
    os.close(descriptor)
    return statistics.median(times)


def ask_tell(folder, trials):
    """Seconds of a trial's ask and tell, apart for the last one of an update; the first update compiles."""
    rig = Specification(name="servo", repeatable=False)
    gains = Parameters(["kp", "kd"], [4.0, 0.1], log=["kp", "kd"], scale=0.3)
    pairs, updates = [], []
    with Rig(rig, WeightPerturbation(rollouts=8, std=1.0), policy=gains, budget=trials, folder=folder) as search:
        while not search.done:
            before = time.perf_counter()
            trial = search.ask()
            asked = time.perf_counter() - before
            cost = sum((value - 1.0) ** 2 for value in trial.values.values())
            before = time.perf_counter()
            record = search.tell(trial, cost=cost)
            seconds = asked + time.perf_counter() - before
            if search.updates > 1 or (search.updates == 1 and record is None):
                (pairs if record is None else updates).append(seconds)
    return pairs, updates


def many(folder, trials, update=100):
    """Print how long a run of many trials takes to open, and what memory that needs."""
    journal = Journal(folder, {"task": "servo", "trials": "rig"}, keep=True)
    for first in range(0, trials, update):
        rows = []
        for number in range(first, first + update):
            asked = {"number": number, "update": first // update, "index": number - first, "attempt": 1, "client": ""}
            asked |= {"asked": 1.76e9 + number, "purpose": "gradient"}
            told = {"number": number, "attempt": 1, "status": "done", "fault": None, "reason": "", "stages": 0}
            told |= {"cost": 1.0 / (1 + number), "told": 1.76e9 + number, "retry": False, "notes": ""}
            rows.append(Row("asked", msgspec.json.encode(asked), None, number))
            rows.append(Row("told", msgspec.json.encode(told), None, number))
        record = {"update": float(first // update + 1), **{f"number {i}": 1.5 for i in range(20)}}
        counts = {"updates": first // update + 1}
        rows.append(Row("update", msgspec.json.encode({"record": record, "counts": counts}), bytes(1000)))
        journal._history.append(rows)
    journal.close()
    for name, reads in (
        ("to go on with", lambda: Journal.reopen(folder)[0].close()),
        ("to read", lambda: open_run(folder)),
    ):
        before = time.perf_counter()
        reads()
        seconds = time.perf_counter() - before
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"opening {trials} trials {name:13s}    {seconds:8.2f} s, largest memory so far {memory:.0f} MB")
    print(f"size of its database {(folder / 'run.sqlite').stat().st_size / 1e6:.1f} MB")


def living(folder, trials, rollouts):
    """Print the memory of a search at a fifth of its trials and at their end, and what its records take of it."""
    rig = Specification(name="servo", repeatable=False)
    gains = Parameters(["kp", "kd"], [4.0, 0.1], log=["kp", "kd"], scale=0.3)
    method = WeightPerturbation(rollouts=rollouts, std=1.0)
    with Rig(rig, method, policy=gains, budget=trials, folder=folder) as search:
        search._journal._history._connection.execute("PRAGMA synchronous=OFF")
        at, before = {trials // 5, trials // 5 * 5 - rollouts}, None
        while not search.done:
            trial = search.ask()
            search.tell(trial, cost=sum((value - 1.0) ** 2 for value in trial.values.values()))
            if trial.number in at:
                gc.collect()
                memory = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6
                records = sum(map(size, search.records)) / 1e6
                grown = "" if before is None else f", grown by {memory - before:.1f} MB"
                print(f"living search, trial {trial.number:6d}   {memory:.1f} MB{grown}; records {records:.1f} MB")
                before = memory


def size(record):
    return sys.getsizeof(record) + sum(map(sys.getsizeof, record.values()))


if __name__ == "__main__":
    main()
