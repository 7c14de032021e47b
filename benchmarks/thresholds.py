"""Rollouts and seconds until `ars` with the paper's settings reaches a return, against a plain reference ARS.

Both run the same settings, seeds and budget of training rollouts. The threshold counts as crossed by one rule for both:
after the first update that ends at or beyond each multiple of k training rollouts (`EVERY`) the unperturbed policy runs
EVALUATION rollouts on fresh environment seeds, the same ones for both, and their mean return, survival bonus included,
is at least the threshold. Those rollouts and their time are counted apart, in neither column. Seconds are wall-clock
from the first update, starting workers and compiling included. A seed that spends the budget without a crossing has
failed: it counts in the success rate and in no median.

Every finished search adds a line to the results file, and what stands there is not run again: an interrupted run goes
on where it was. The table is made from that file.

`--who natural_rbf` runs the preset of `natural_gradient` with random features instead, `natural_linear` with a gain
matrix. Their budgets are the rollouts that Rajeswaran et al. (2017) needed with such policies, by table 1 of Mania et
al. (2018); their k is 50.

`--same` runs no race: it gives the reference our perturbations and environment seeds (partners share one), lets both
make updates from the same parameters, and prints by how much the results differ.
Run: python benchmarks/thresholds.py [--tasks A,B] [--seeds 5] [--workers 2] [--results FILE] [--table] [--same]
"""

import argparse
import functools
import os
import statistics
import time
import warnings
from pathlib import Path

import gymnasium
import numpy as np
from cells import filled, spread
from reference_ars import PAPER, ReferenceARS

from policysearch.core.rng import Purpose, environment_seed, perturbations
from policysearch.methods.presets import preset
from policysearch.search.search import Search

#: return to reach, the paper's
THRESHOLDS = {
    "Swimmer-v5": 325.0,
    "Hopper-v5": 3120.0,
    "HalfCheetah-v5": 3430.0,
    "Walker2d-v5": 4390.0,
    "Ant-v5": 3580.0,
}
#: what runs unless it is asked for more; the other two take an hour a seed
SHORT = ("Swimmer-v5", "Hopper-v5", "HalfCheetah-v5")
#: training rollouts of a search at most; of the two long ones 1.25 times what the paper needed in the mean
BUDGETS = {"Swimmer-v5": 1000, "Hopper-v5": 6000, "HalfCheetah-v5": 6400, "Walker2d-v5": 30000, "Ant-v5": 26000}
#: training rollouts between evaluations, whole updates of `ars`
EVERY = {"Swimmer-v5": 20, "Hopper-v5": 80, "HalfCheetah-v5": 128, "Walker2d-v5": 400, "Ant-v5": 600}
#: updates that `--same` compares; only the first of HalfCheetah, since scaling in float32 changes its later rollouts
SAME = {"Swimmer-v5": 3, "Hopper-v5": 10, "HalfCheetah-v5": 1}
#: rollouts of an evaluation
EVALUATION = 5
#: who can be asked for; "shared" is ours where partners share an environment seed, which the preset leaves out;
#: "natural_…" is the preset of natural_gradient with such a policy
WHO = ("ours", "reference", "shared", "natural_rbf", "natural_linear")
#: training rollouts of a natural gradient at most, with RBF and with linear policies, and between its evaluations
RBF_BUDGETS = {
    "Swimmer-v5": 1550,
    "Hopper-v5": 8640,
    "HalfCheetah-v5": 6000,
    "Walker2d-v5": 25680,
    "Ant-v5": 30000,
}
LINEAR_BUDGETS = {
    "Swimmer-v5": 1450,
    "Hopper-v5": 13920,
    "HalfCheetah-v5": 11250,
    "Walker2d-v5": 36840,
    "Ant-v5": 39240,
}
NATURAL_EVERY = 50
SHARED = {"common_random_numbers": True}


class Ours:
    """The product's search, one update at a time."""

    def __init__(self, name, seed, workers, method="ars", options=None, policy=None):
        chosen = preset("paper", method, name, options, policy)
        self.seed = seed
        self.budget, self.every = (BUDGETS[name], EVERY[name])
        if method == "natural_gradient":
            budgets = RBF_BUDGETS if chosen.policy.kind == "rbf" else LINEAR_BUDGETS
            self.budget, self.every = budgets[name], NATURAL_EVERY
        self.search = Search(name, chosen.method, policy=chosen.policy, budget=self.budget, seed=seed, workers=workers)

    @property
    def done(self):
        return self.search.done

    def update(self):
        self.search.update()
        return self.search.rollouts, self.search.stages

    def evaluate(self, update):
        pool = self.search._runner.workers
        return pool.evaluate(self.search.policy.controller(), self.seed, EVALUATION, update).returns

    def close(self):
        self.search.close()


class Reference:
    """The plain loop with the same settings, on evaluation seeds that are those of `Ours`."""

    def __init__(self, name, seed, workers):
        self.seed, self.budget, self.every = seed, BUDGETS[name], EVERY[name]
        self.search = ReferenceARS(name, seed, *PAPER[name])
        self.env = gymnasium.make(name, disable_env_checker=True)

    @property
    def done(self):
        return self.search.rollouts + 2 * self.search.directions > self.budget

    def update(self):
        self.search.update()
        return self.search.rollouts, self.search.stages

    def evaluate(self, update):
        seeds = [environment_seed(self.seed, Purpose.EVALUATION, update, index) for index in range(EVALUATION)]
        return [self.search.rollout(self.search.M, self.env, seed)[0] for seed in seeds]

    def close(self):
        self.search.env.close()
        self.env.close()


def run(name, who, seed, workers, policies=None):
    """One search until it crosses the threshold or its budget is spent; what a line of the results file holds."""
    if who == "reference":
        search = Reference(name, seed, workers)
    elif who.startswith("natural_"):
        search = Ours(name, seed, workers, "natural_gradient", policy={"kind": who.removeprefix("natural_")})
    else:
        search = Ours(name, seed, workers, options=SHARED if who == "shared" else None)
    seconds, updates, rollouts, tested, curve, load = 0.0, 0, 0, 0, [], []
    crossed = False
    try:
        while not crossed and not search.done:
            before = time.perf_counter()
            rollouts, stages = search.update()
            seconds += time.perf_counter() - before
            updates += 1
            if rollouts // search.every > tested:
                tested = rollouts // search.every
                mean = float(np.mean(search.evaluate(updates)))
                load.append(os.getloadavg()[0])
                curve.append((rollouts, round(seconds, 2), round(mean, 1)))
                crossed = mean >= THRESHOLDS[name]
                if policies and who != "reference" and mean >= max(m for _, _, m in curve):
                    policies.mkdir(parents=True, exist_ok=True)
                    search.search.policy.controller().save(policies / f"{name}.safetensors")
                print(f"{name} {who} seed {seed}: {rollouts} rollouts {seconds:.0f} s return {mean:.0f}", flush=True)
    finally:
        search.close()
    return {
        "task": name,
        "who": who,
        "seed": seed,
        "workers": 1 if who == "reference" else workers,
        "threshold": THRESHOLDS[name],
        "budget": search.budget,
        "crossed": crossed,
        "rollouts": rollouts,
        "stages": stages,
        "seconds": seconds,
        "best": max((mean for _, _, mean in curve), default=None),
        "load": float(np.mean(load)) if load else os.getloadavg()[0],
        "curve": curve,
    }


class Same(ReferenceARS):
    """The reference with the random numbers of ours."""

    def __init__(self, name, seed):
        super().__init__(name, seed, *PAPER[name])
        # contacts make another rollout of a rounding in the eighth digit, so that is done as ours does it
        self.std = float(np.float32(self.std))
        self.env = gymnasium.wrappers.TransformAction(self.env, np.float32, None)
        self.seed, self.number, self.random = seed, 0, self

    def standard_normal(self, shape):
        rows = perturbations(self.seed, self.number, range(shape[0]), self.M.size)
        self.first = self.rollouts
        return rows.reshape(shape)

    def rollout(self, M, env=None, seed=None):
        pair = (self.rollouts - self.first) // 2
        return super().rollout(M, seed=environment_seed(self.seed, Purpose.ENVIRONMENT, self.number, pair))

    def update(self):
        super().update()
        self.number += 1


def same(name, seed, workers, updates):
    """Print the largest difference of each update between ours and the reference, relative to the update."""
    ours, reference = Ours(name, seed, workers, options=SHARED), Same(name, seed)
    found = []
    for _ in range(updates):
        before = reference.M
        reference.update()
        ours.update()
        theirs = ours.search.policy.controller().theta().reshape(before.shape)
        found.append(np.abs(theirs - reference.M).max() / np.abs(reference.M - before).max())
        reference.M = theirs.astype(float)
    ours.close()
    print(f"{name}: relative differences of {updates} updates {' '.join(f'{x:.0e}' for x in found)}")


def table(found, asked):
    """A row for each task and side, over the seeds that all sides have finished."""
    print(
        "| task | threshold | budget | who | success | rollouts | ratio | seconds | ratio | load | failed seeds: best |"
    )
    print("|" + "---|" * 11)
    for name in THRESHOLDS:
        seeds = sorted(set.intersection(*({s for n, w, s in found if (n, w) == (name, who)} for who in asked)))
        good = {who: [s for s in seeds if found[name, who, s]["crossed"]] for who in asked}
        for who in asked if seeds else ():
            numbers = {key: [found[name, who, seed][key] for seed in good[who]] for key in ("rollouts", "seconds")}
            ratios = dict.fromkeys(numbers, "")
            if who != "reference" and good[who] and good.get("reference"):
                for key, values in numbers.items():
                    theirs = [found[name, "reference", seed][key] for seed in good["reference"]]
                    ratios[key] = f"{statistics.median(values) / statistics.median(theirs):.2f}"
            load = statistics.mean(found[name, who, seed]["load"] for seed in seeds)
            failed = ", ".join(f"{s}: {found[name, who, s]['best']:.0f}" for s in seeds if s not in good[who])
            print(
                f"| {name} | {THRESHOLDS[name]:g} | {found[name, who, seeds[0]]['budget']} | {who} | "
                f"{len(good[who])}/{len(seeds)} | "
                f"{spread(numbers['rollouts'], 0)} | {ratios['rollouts']} | {spread(numbers['seconds'], 0)} | "
                f"{ratios['seconds']} | {load:.1f} | {failed or '–'} |"
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default=",".join(SHORT), help=f"of {', '.join(THRESHOLDS)}")
    parser.add_argument("--who", default="ours,reference", help=f"of {', '.join(WHO)}")
    parser.add_argument("--seeds", type=int, default=5, help="from 0")
    parser.add_argument("--workers", type=int, default=2, help="of ours; the reference is one process")
    parser.add_argument("--results", type=Path, default=Path("build/thresholds.jsonl"))
    parser.add_argument("--policies", type=Path, help="folder for the best policies of ours, as TASK.safetensors")
    parser.add_argument("--table", action="store_true", help="run nothing, print what is there")
    parser.add_argument("--same", action="store_true", help="compare single updates instead")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    if arguments.same:
        for name in arguments.tasks.split(","):
            same(name, 0, arguments.workers, SAME[name])
        return
    asked = arguments.who.split(",")
    if unknown := set(asked) - set(WHO):
        parser.error(f"--who has {', '.join(unknown)}; choose of {', '.join(WHO)}")
    tasks = [] if arguments.table else arguments.tasks.split(",")
    one = functools.partial(run, workers=arguments.workers, policies=arguments.policies)
    table(filled(arguments.results, tasks, arguments.seeds, asked, one), asked)


if __name__ == "__main__":
    main()
