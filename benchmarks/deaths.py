"""Deaths of a driver, its supervisor and its trial while a machine moves: what is left, and whether it was stopped.

`policysearch run` drives a script that has a trap, a child in the foreground, one in the background, and two that left
its session. One of the processes is killed, and the same line is typed again at once. Counted are trials that started
beside the one before, processes that were left when the next one started, and traps and --on-abort that ran.
Drivers are forked from a process that has imported the program, else most of the time is spent on that.
Run: python benchmarks/deaths.py --deaths 100 [--kinds driver-KILL trial-KILL]
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import jax  # noqa: F401 (before the forks)

import policysearch.cli.main
import policysearch.search.search
import policysearch.search.trials

KINDS = ("driver-TERM", "driver-HUP", "driver-INT", "driver-KILL", "supervisor-KILL", "trial-KILL", "all-KILL")
#: seconds in which the next trial must start
PATIENCE = 120.0
TRIAL = """#!/bin/sh
trap 'echo "$$ stopped" >> log; exit 143' TERM
if [ -s inside ] && grep -q . "/proc/$(cat inside)/cmdline" 2> /dev/null; then echo "$$ beside" >> log; fi
for file in $(grep -lz "[8]6400.TAG" /proc/[0-9]*/cmdline 2> /dev/null); do echo "$$ left $file" >> log; done
echo $$ > inside
sleep 86400.TAG &
setsid sleep 86400.TAG &
(setsid sh -c 'sleep 86400.TAG & exec sleep 86400.TAG' &)
echo "$$ started" >> log
sleep 86400.TAG
echo 1
"""


def processes(text: str) -> list[int]:
    """Those whose command line holds a text."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if text.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


class Driver:
    """`policysearch` with these arguments, in a process of its own."""

    def __init__(self, folder: Path, *arguments: str):
        self.code: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                os.setsid()
                os.chdir(folder)
                said = os.open("said", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
                os.dup2(said, 1)
                os.dup2(said, 2)
                code = policysearch.cli.main.main(arguments)
            finally:
                os._exit(code)

    def ended(self, wait: bool = False) -> bool:
        """Whether it has ended; its code is known then."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, 0 if wait else os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code is not None


def lines(folder: Path) -> list[list[str]]:
    """What the scripts wrote: their process, and what happened."""
    log = folder / "log"
    return [line.split() for line in log.read_text().splitlines()] if log.exists() else []


def started(folder: Path, before: int, driver: Driver) -> int:
    """The process of the next trial, when it has started."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        found = [int(words[0]) for words in lines(folder) if words[1] == "started"]
        if len(found) > before:
            return found[-1]
        if driver.ended():
            raise SystemExit(f"the driver ended with {driver.code}: {(folder / 'said').read_text()[-2000:]}")
        time.sleep(0.01)
    raise SystemExit("no trial started")


def victims(kind: str, driver: int, trial: int) -> Iterator[tuple[int, int]]:
    """Processes to kill, and by which signal."""
    whom, name = kind.split("-")
    number = getattr(signal, f"SIG{name}")
    if whom in ("driver", "all"):
        yield driver, number
    if whom in ("supervisor", "all"):
        yield int(Path(f"/proc/{trial}/stat").read_text().rpartition(")")[2].split()[1]), number
    if whom == "trial":
        yield trial, number


def deaths(kind: str, count: int, folder: Path) -> Counter[str]:
    """Kill so often; what happened how often."""
    tag = f"{os.getpid()}{random.randrange(10**6)}"
    (folder / "trial.sh").write_text(TRIAL.replace("TAG", tag))
    (folder / "trial.sh").chmod(0o755)
    (folder / "safe.sh").write_text('#!/bin/sh\necho "0 safe $1" >> log\n')
    (folder / "safe.sh").chmod(0o755)
    assert Driver(folder, "new", "rig", "--parameters", "kp=1:0:5", "--budget", "1000000").ended(wait=True)
    going = ("run", "rig", "--attempts", "9999999", "--on-abort", "./safe.sh {kp}", "--", "./trial.sh", "{kp}")
    random_wait, driver, codes = random.Random(0), Driver(folder, *going), Counter[str]()
    for number in range(count):
        trial = started(folder, number, driver)
        time.sleep(random_wait.uniform(0.0, 0.1))
        for pid, kill in list(victims(kind, driver.pid, trial)):
            os.kill(pid, kill)
        if kind != "trial-KILL":
            driver.ended(wait=True)
            codes[f"exit {driver.code}"] += 1
            driver = Driver(folder, *going)
    started(folder, count, driver)
    happened = Counter(words[1] for words in lines(folder))
    safe = {words[2] for words in lines(folder) if words[1] == "safe"}
    os.kill(driver.pid, signal.SIGTERM)
    driver.ended(wait=True)
    happened["started"] -= 1
    happened["at the end"] = len(processes(f"86400.{tag}"))
    assert safe <= {"1.0"}, safe
    return happened + codes + Counter({"": 0})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--deaths", type=int, default=100)
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    arguments = parser.parse_args()
    print("kind             deaths  beside  left  at end  traps  on-abort  exit codes, s a death")
    for kind in arguments.kinds:
        with tempfile.TemporaryDirectory() as folder:
            begun = time.monotonic()
            found = deaths(kind, arguments.deaths, Path(folder))
            codes = ", ".join(f"{count} {name}" for name, count in found.items() if name.startswith("exit"))
            each = (time.monotonic() - begun) / arguments.deaths
            row = [found[name] for name in ("started", "beside", "left", "at the end", "stopped", "safe")]
            numbers = "".join(f"{value:>{width}}" for value, width in zip(row, (7, 8, 6, 8, 7, 10), strict=True))
            print(f"{kind:<16}{numbers}  {codes or '-'}, {each:.1f}", flush=True)


if __name__ == "__main__":
    main()
