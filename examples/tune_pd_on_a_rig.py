"""Tune kp and kd of a position servo from trials alone: ask for a trial, run it on the rig, tell what it cost.

The rig here is a NumPy simulation of a motor with friction and a noisy encoder. Replace `run_on_the_rig` by yours.
Run: python examples/tune_pd_on_a_rig.py [TRIALS]
"""

import sys

import numpy as np

from policysearch import Parameters, Rig, Specification, WeightPerturbation

DT, STAGES = 0.005, 200  # s; 1 s a trial


class SafetyStopError(Exception):
    """The shaft went where it must not: the gains' doing."""


class ConnectionLostError(Exception):
    """The rig did not answer: nobody's doing."""


def run_on_the_rig(kp, kd, rng):
    """Step of 1 rad: mean squared error in rad² plus a price on voltage, with gains in V/rad and V s/rad."""
    if rng.random() < 0.03:
        raise ConnectionLostError("no answer from the drive")
    angle = speed = cost = 0.0
    before = None
    for _ in range(STAGES):
        seen = angle + 0.002 * rng.standard_normal()
        rate = 0.0 if before is None else (seen - before) / DT
        before = seen
        volts = np.clip(kp * (1.0 - seen) - kd * rate, -12.0, 12.0)
        speed += DT * (8.0 * volts - 3.0 * speed - 4.0 * np.tanh(20.0 * speed))  # rad/s²
        angle += DT * speed
        if abs(angle) > 1.35:
            raise SafetyStopError("more than 0.35 rad of overshoot")
        cost += ((1.0 - seen) ** 2 + 1e-3 * volts**2) / STAGES
    return cost


def main(trials=160):
    rng = np.random.default_rng(1)
    bench = Specification(name="servo", repeatable=False)
    gains = Parameters(
        ["kp", "kd"], [4.0, 0.1], bounds={"kp": (0.1, 100.0), "kd": (0.01, 5.0)}, log=["kp", "kd"], scale=0.3
    )
    method = WeightPerturbation(rollouts=8, std=1.0)  # factors e^(±0.3 ξ) on each gain, ξ standard normal
    search = Rig(bench, method, policy=gains, budget=int(trials))
    while not search.done:
        trial = search.ask()
        try:
            record = search.tell(trial, cost=run_on_the_rig(**trial.values, rng=rng))
        except SafetyStopError as reason:
            record = search.tell(trial, failed=str(reason))
        except ConnectionLostError as reason:
            record = search.tell(trial, lost=str(reason))
        if record is not None:
            print(f"update {search.updates:2d}: mean cost of its trials {record['cost']:.4f}")
    result = search.result()
    found = result.controller.values()
    print(f"trials: {result.counts['gradient']}, {result.counts['failed']} failed, {result.counts['lost']} lost")
    print("found: " + ", ".join(f"{name} = {value:.3g}" for name, value in found.items()))


if __name__ == "__main__":
    main(*sys.argv[1:])
