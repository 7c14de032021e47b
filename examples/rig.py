"""A search on a rig that crashes, hangs and aborts, by a program that is killed and started again: nothing is lost.

Three programs in one file. `rig.py` starts a driver and kills it three times; the driver asks and tells trials that are
on disk; each trial is a process of its own, which stands for the rig. In the end the trials are told to a fresh search,
in order and undisturbed: it must come to the same gains to the last bit.
Run: python examples/rig.py [FOLDER]
"""

import math
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

DT, STAGES = 0.005, 200  # s; 1 s a trial
TIMEOUT = 2.0  # s


def trial(kp, kd, seed):
    """The rig: a servo's step of 1 rad; prints the mean squared error in rad² plus a price on voltage."""
    rng = random.Random(seed)
    trouble = rng.random()
    if trouble < 0.04:
        os.kill(os.getpid(), signal.SIGKILL)  # the controller board resets
    if trouble < 0.06:
        time.sleep(3600)  # the drive does not answer
    angle = speed = cost = 0.0
    before = None
    for stage in range(STAGES):
        seen = angle + 0.002 * rng.gauss(0, 1)
        rate = 0.0 if before is None else (seen - before) / DT
        before = seen
        volts = min(max(kp * (1.0 - seen) - kd * rate, -12.0), 12.0)
        speed += DT * (8.0 * volts - 3.0 * speed - 4.0 * math.tanh(20.0 * speed))
        angle += DT * speed
        if angle > 1.35:
            print(f"overshoot of {angle - 1:.2f} rad at stage {stage}")
            sys.exit(3)
        cost += ((1.0 - seen) ** 2 + 1e-3 * volts**2) / STAGES
    print(cost)


def start(folder=None):
    """The search: new, or where the last process left it."""
    from policysearch import Parameters, Rig, Specification, WeightPerturbation

    if folder is not None and (folder / "run.sqlite").exists():
        return Rig.open(folder)
    gains = Parameters(
        ["kp", "kd"], [4.0, 0.1], bounds={"kp": (0.1, 100.0), "kd": (0.01, 5.0)}, log=["kp", "kd"], scale=0.3
    )
    bench = Specification(name="servo", repeatable=False)
    return Rig(
        bench,
        WeightPerturbation(rollouts=8, std=1.0),
        policy=gains,
        budget=100,
        measure=(4, 3),  # of the gains themselves, to know what they cost and how noisy a trial is
        largest_step={"kp": 2.0, "kd": 2.0},  # factors
        folder=folder,
    )


def drive(folder):
    """Ask, run, tell, till the budget is spent."""
    with start(folder) as search:
        while not search.done:
            asked = search.ask("bench")  # its own unfinished trial again after a crash
            seed = 10 * asked.number + asked.attempt
            command = [sys.executable, __file__, "trial", *map(str, asked.values.values()), str(seed)]
            again = asked.attempt < 3
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
            except subprocess.TimeoutExpired:
                search.tell(asked, timed_out=f"no answer within {TIMEOUT:g} s", retry=again)
                continue
            if done.returncode == 3:
                search.tell(asked, failed=done.stdout.strip())
            elif done.returncode:
                search.tell(asked, lost=f"the rig ended with {done.returncode}", retry=again)
            else:
                search.tell(asked, cost=float(done.stdout))


def told(folder):
    """How many trials have an answer on disk."""
    from policysearch import open_run

    try:
        return sum(trial.status != "asked" for trial in open_run(folder).trials.values())
    except FileNotFoundError:  # the driver has not got so far, or makes the run right now
        return 0


def main(folder):
    from policysearch import load, open_run

    moments = sorted(random.Random(0).sample(range(5, 80), 3))
    while True:
        driver = subprocess.Popen([sys.executable, __file__, "drive", str(folder)])
        while driver.poll() is None:
            time.sleep(0.05)
            if moments and told(folder) >= moments[0]:
                moments.pop(0)
                driver.kill()
                print(f"killed the driver after {told(folder)} trials", flush=True)
        if driver.returncode == -signal.SIGKILL:
            continue
        if driver.returncode:
            raise SystemExit(f"the driver failed with {driver.returncode}")
        break

    run = open_run(folder)
    print(
        "trials: " + ", ".join(f"{n} {status}" for status, n in Counter(t.status for t in run.trials.values()).items())
    )
    print(f"asked again: {sum(t.attempt > 1 for t in run.trials.values())}")
    search = start()
    for known in run.trials.values():
        asked = search.ask()
        said = {"cost": known.cost} if known.status == "done" else {known.status.replace(" ", "_"): known.reason}
        search.tell(asked, **said)
    found = load(folder).values()
    print("found: " + ", ".join(f"{name} = {value:.3g}" for name, value in found.items()))
    best = search.incumbent
    print(f"they cost about {best.cost:.4f} ± {best.error:.4f}; one trial's noise is {search.measuring.noise:.4f}")
    same = search.policy.controller().values() == found
    print(f"the gains that these trials lead to without any trouble: {'the same' if same else 'OTHERS'}")
    if not same:
        raise SystemExit(1)


if __name__ == "__main__":
    role, *rest = sys.argv[1:] if len(sys.argv) > 1 else ["servo-run"]
    if role == "trial":
        trial(float(rest[0]), float(rest[1]), int(rest[2]) if len(rest) > 2 else None)
    elif role == "drive":
        drive(Path(rest[0]))
    else:
        main(Path(role))
