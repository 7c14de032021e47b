"""kill −9 at random moments of default `train` and `resume` commands: does the same policy come out?

A search is killed and resumed until it ends, then its policy is compared with that of a search that nothing stopped.

    python benchmarks/kills.py --kills 500
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

#: kinds of tasks, with default sizes: what `train` is given
KINDS = {
    "plant": ["lqr", "--budget", "3000updates"],
    "plant, trpo": ["cartpole-swingup", "--budget", "60updates"],
    "cost": ["rosenbrock", "--budget", "6000updates"],
    "simulator": ["Pendulum-v1", "--budget", "24000stages", "--workers", "1"],
}


def command(*words: str | Path) -> list[str]:
    """A policysearch command of this interpreter."""
    return [sys.executable, "-m", "policysearch", *map(str, words)]


def digest(folder: Path) -> str:
    """SHA-256 of the policy of a run."""
    return hashlib.sha256((folder / "policy.safetensors").read_bytes()).hexdigest()


def quiet(words: list[str], errors: Path) -> subprocess.Popen[bytes]:
    """Start a command in a group of its own, so that a kill takes this process alone and leaves no group behind."""
    with errors.open("wb") as sink:
        return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=sink, start_new_session=True)


def main() -> None:
    """Print a row for each kind: kills, finished searches, and whether all ended with the same policy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=40, help="in all, shared by the kinds [40]")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--seed", type=int, default=0, help="of the moments [0]")
    arguments = parser.parse_args()
    rng, wrong = random.Random(arguments.seed), 0
    with tempfile.TemporaryDirectory() as place:
        for kind in arguments.kinds:
            # the second one starts as fast as those that are killed: what was compiled is kept
            for whole in Path(place, kind, "first"), Path(place, kind, "whole"):
                start = time.monotonic()
                subprocess.run(command("train", *KINDS[kind], "--out", whole), check=True, capture_output=True)
                length, right = time.monotonic() - start, digest(whole)
            kills = searches = same = 0
            errors = Path(place, "errors.txt")
            while kills < arguments.kills / len(arguments.kinds):
                folder = Path(place, kind, f"cut{searches}")
                while True:
                    again = (folder / "run.sqlite").exists()
                    words = command("resume", folder) if again else command("train", *KINDS[kind], "--out", folder)
                    process = quiet(words, errors)
                    try:
                        code = process.wait(rng.uniform(0.0, 1.2 * length))
                    except subprocess.TimeoutExpired:
                        os.kill(process.pid, signal.SIGKILL)
                        process.wait()
                        kills += 1
                        continue
                    if code == 0:
                        break
                    # killed after the last update: what is left is to write the result
                    if (folder / "policy.safetensors").exists() and code == 2:
                        break
                    said = errors.read_text(errors="replace").strip().splitlines()[-3:]
                    raise SystemExit(f"{kind}: exit code {code} of {' '.join(words[3:])} after {kills} kills: {said}")
                searches += 1
                same += digest(folder) == right
            wrong += searches - same
            print(f"{kind:14} {kills:4} kills, {searches:3} searches, {same:3} with the same policy", flush=True)
    raise SystemExit(wrong > 0)


if __name__ == "__main__":
    main()
