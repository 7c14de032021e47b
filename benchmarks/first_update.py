"""Time from the start of `policysearch train` to its first line of numbers, against `python -c "import jax"`.

The cache of compiled programs is warm: one round that fills it is not counted. Rounds are interleaved, each in fresh
processes; wall-clock and processor seconds (of all threads) are medians, ratios are medians over rounds.
Run: python benchmarks/first_update.py [--rounds 7] [--tasks lqr,cartpole-swingup]
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

REFERENCE = 'python -c "import jax"'


def measure(command, environment, line=None):
    """Wall-clock and processor seconds of a command, until a line on standard error begins with `line` if given."""
    start = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    heard = []
    for text in process.stderr:
        heard.append(text)
        if line is not None and text.startswith(line):
            wall = time.perf_counter() - start
            process.kill()
            break
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stderr.close()
    if line is None:
        wall = time.perf_counter() - start
    elif not heard[-1].startswith(line):
        raise RuntimeError(f"{command} ended before its first update:\n{''.join(heard)}")
    return wall, used.ru_utime + used.ru_stime


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tasks", default="lqr,cartpole-swingup")
    arguments = parser.parse_args()
    tasks = arguments.tasks.split(",")
    seconds = {name: [] for name in (REFERENCE, *tasks)}
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": f"{folder}/cache"}
        # byte code is kept between processes, as it is for users, and apart from the sources
        environment |= {"PYTHONPYCACHEPREFIX": f"{folder}/bytecode"}
        for name in ("JAX_COMPILATION_CACHE_DIR", "PYTHONDONTWRITEBYTECODE"):
            environment.pop(name, None)
        for number in range(arguments.rounds + 1):
            round_ = {REFERENCE: measure([sys.executable, "-c", "import jax"], environment)}
            for task in tasks:
                out = str(Path(folder, f"{task}-{number}"))
                command = [sys.executable, "-m", "policysearch", "train", task, "--out", out]
                round_[task] = measure(command, environment, "update 1 ")
            if number:
                for name, spent in round_.items():
                    seconds[name].append(spent)
    print(f"{'medians of ' + str(arguments.rounds):24} {'wall s':>7} {'ratio':>6}   {'processor s':>11} {'ratio':>6}")
    reference = np.array(seconds[REFERENCE])
    for name, spent in seconds.items():
        (wall, cpu), ratio = np.median(spent, axis=0), np.median(np.array(spent) / reference, axis=0)
        print(f"{name:24} {wall:7.2f} {ratio[0]:6.2f}   {cpu:11.2f} {ratio[1]:6.2f}")


if __name__ == "__main__":
    main()
