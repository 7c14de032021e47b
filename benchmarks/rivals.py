"""Stages and seconds until a search of ours, or of another tool, reaches a goal; and what an update of TRPO costs.

The rivals live in an environment of their own (PyTorch's CPU wheel is enough):

    python -m venv build/rivals
    build/rivals/bin/pip install torch==2.13.0 sb3-contrib evotorch tianshou -e '.[mujoco]'

One rule for all sides: after the first update that ends at or beyond each multiple of k stages (see BUDGETS), and after
the last one, the mode of the policy is evaluated on fresh environment seeds, the same ones for all. A Gymnasium task is
reached when the mean return of 10 rollouts is at least its threshold, a plant of ours when its own criterion holds, in
95 of 100 rollouts. Neither stages nor seconds of evaluations count. Seconds begin with the making of the search;
compiling and starting a worker are in them, since compiled programs are forgotten between searches; so is the import of
a rival, in the first search of a process with it. A seed that spends its budget has failed: it is in no median, and
slower than all others in the probability of improvement.

A side is `ours:METHOD` or one of `sb3:trpo`, `sb3:ars`, `evotorch:pgpe`, `tianshou:npg`, `tianshou:trpo`. Ours and sb3
have their own defaults, the others what their MuJoCo examples set; `ours:natural_gradient:kl=0.05` sets something. Ours
has one worker and PyTorch one thread. To a rival a plant is a Gymnasium environment that runs a compiled step a stage.
Every finished search is a line of the file `--results`; `--table` prints what is there.

`--speed` instead measures the update of sb3-contrib's TRPO (its `train()` on a full buffer, with the critic left out or
in) in plain policy gradients of the same batch; `natural.py` does so with our directions.
Run: OMP_NUM_THREADS=1 build/rivals/bin/python benchmarks/rivals.py [--tasks A,B] [--who ours:ars,sb3:ars] [--seeds 10]
     [--results FILE] [--table] [--speed]
"""

import argparse
import itertools
import os
import time
import warnings
from pathlib import Path

import jax
import numpy as np
from cells import filled, spread
from goals import RETURNS, MeanReturn, SuccessShare
from sides import parsed

#: training stages at most, up to the end of an update, and k; an update takes 2048 in TRPO of sb3, 16 rollouts in its
#: ARS, 1024 stages in Tianshou and in EvoTorch as many times 200 rollouts as go beyond 150 000
BUDGETS = {
    "CartPole-v1": (200_000, 2048),
    "Pendulum-v1": (200_000, 2048),
    "pendulum": (200_000, 2048),
    "cartpole-swingup": (200_000, 2048),
    "Swimmer-v5": (1_000_000, 16_000),
    "Hopper-v5": (1_000_000, 32_000),
    "HalfCheetah-v5": (1_000_000, 32_000),
}


def run(name, who, seed):
    """One search until it reaches the goal or its budget is spent; what a line of the results file holds."""
    kind, method, options = parsed(who)
    budget, every = BUDGETS[name]
    evaluate = MeanReturn(name) if name in RETURNS else SuccessShare(name)
    jax.clear_caches()
    before = time.perf_counter()
    search = kind(name, method, options, seed, budget)
    seconds, first, stages, tested, curve, load = time.perf_counter() - before, None, 0, 0, [], []
    crossed = done = False
    error = ""
    while not (crossed or done):
        before = time.perf_counter()
        try:
            stages, done = search.update()
        except ValueError as problem:  # PyTorch's distributions refuse parameters that are not finite
            error, done = str(problem), True
        seconds += time.perf_counter() - before
        first = first or (stages, seconds)
        if (stages // every > tested or done) and not error:
            tested = stages // every
            measured = evaluate(search.mode(), seed, tested)
            load.append(os.getloadavg()[0])
            curve.append((stages, round(seconds, 2), round(measured, 3)))
            crossed = measured >= evaluate.goal
    search.close()
    best = max((measured for *_, measured in curve), default=None)
    print(f"{name} {who} seed {seed}: {stages} stages {seconds:.0f} s best {best} {error}", flush=True)
    return {
        "task": name,
        "who": who,
        "seed": seed,
        "goal": evaluate.goal,
        "budget": budget,
        "crossed": crossed,
        "stages": stages,
        "seconds": seconds,
        "first": first,
        "best": best,
        "error": error,
        "load": float(np.mean(load)) if load else os.getloadavg()[0],
        "curve": curve,
    }


def improvement(ours, theirs, key):
    """P(ours needs less than theirs) over all pairs of seeds, ties half, and its 95 % bootstrap interval over seeds."""
    first, second = (np.array([r[key] if r["crossed"] else np.inf for r in side]) for side in (ours, theirs))
    wins = (first[:, None] < second) + 0.5 * (first[:, None] == second)
    draw = np.random.default_rng(0).integers
    again = [
        wins[draw(len(first), size=len(first))][:, draw(len(second), size=len(second))].mean() for _ in range(2000)
    ]
    low, high = np.quantile(again, [0.025, 0.975])
    return f"{wins.mean():.2f} ({low:.2f}–{high:.2f})"


def table(found, names, asked):
    """A row for each task and side, then one for each task, side of ours and rival; each over its own seeds."""
    sides = {}
    for (name, who, _), result in sorted(found.items()):
        sides.setdefault((name, who), []).append(result)
    titles = "task goal budget who success stages seconds first_update,_s stages/s load failed_seeds:_best"
    print("|", " | ".join(title.replace("_", " ") for title in titles.split()), "|\n|" + "---|" * 11)
    for name, who in itertools.product(names, asked):
        results = sides.get((name, who))
        if not results:
            continue
        good = [result for result in results if result["crossed"]]
        stages, seconds = ([result[key] for result in good] for key in ("stages", "seconds"))
        # what follows the first update is training alone, without compiling and starting
        later = [r for r in results if r["stages"] > r["first"][0]]
        rates = [(r["stages"] - r["first"][0]) / (r["seconds"] - r["first"][1]) for r in later]
        starts = [result["first"][1] for result in results]
        failed = ", ".join(f"{r['seed']}: {r['best']:.4g}" for r in results if not r["crossed"])
        print(
            f"| {name} | {results[0]['goal']:g} | {results[0]['budget']} | {who} | {len(good)}/{len(results)} | "
            f"{spread(stages, 0)} | {spread(seconds, 1)} | {spread(starts, 1)} | {spread(rates, 0)} | "
            f"{np.mean([result['load'] for result in results]):.1f} | {failed or '–'} |"
        )
    pairs = [(a, b) for a in asked for b in asked if a.startswith("ours:") and not b.startswith("ours:")]
    rows = [(name, a, b) for name in names for a, b in pairs if (name, a) in sides and (name, b) in sides]
    if rows:
        print("\n| task | P(first is sooner): first | second | seeds | in stages | in seconds |\n|" + "---|" * 6)
    for name, a, b in rows:
        ours, theirs = sides[name, a], sides[name, b]
        chances = " | ".join(improvement(ours, theirs, key) for key in ("stages", "seconds"))
        print(f"| {name} | {a} | {b} | {len(ours)} and {len(theirs)} | {chances} |")


def update_cost(n, repetitions):
    """Print what an update of sb3-contrib's TRPO takes in plain gradients of n stages; p and m of HalfCheetah."""
    import torch
    from sb3_contrib import TRPO
    from stable_baselines3.common.logger import Logger

    torch.set_num_threads(1)
    model = TRPO("MlpPolicy", "HalfCheetah-v5", n_steps=n, seed=0, device="cpu")
    model.set_logger(Logger(None, []))
    policy, buffer, epochs = model.policy, model.rollout_buffer, model.n_critic_updates
    observations = torch.randn(n, 17)
    with torch.no_grad():
        actions, values, log_prob = policy(observations)
        noise = actions - policy.get_distribution(observations).mode()
        advantages = noise[:, 0] * torch.tanh(observations[:, 0]) + torch.randn(n)
    content = {"observations": observations, "actions": actions, "values": values, "log_probs": log_prob}
    content |= {"advantages": advantages, "returns": advantages + values.flatten()}
    for name, tensor in content.items():
        array = getattr(buffer, name)
        array[:] = tensor.numpy().reshape(array.shape)
    buffer.pos, buffer.full = n, True
    parameters = [value for name, value in policy.named_parameters() if "value" not in name]
    start = {name: value.clone() for name, value in policy.state_dict().items()}
    products, exact = [], model.hessian_vector_product
    model.hessian_vector_product = lambda *given, **named: products.append(1) or exact(*given, **named)

    def gradient():
        log_prob = policy.get_distribution(observations).log_prob(actions)
        torch.autograd.grad((advantages * log_prob).mean(), parameters)

    def update(critic):
        model.n_critic_updates = critic
        model.train()

    jobs = {"plain": gradient, "update": lambda: update(0), "critic": lambda: update(epochs)}
    seconds = {name: [] for name in jobs}
    for _ in range(repetitions + 1):
        for name, job in jobs.items():
            policy.load_state_dict(start)  # every update starts where the batch was sampled
            products.clear()
            before = time.perf_counter()
            job()
            seconds[name].append(time.perf_counter() - before)
    plain, alone, whole = (np.array(seconds[name][1:]) for name in jobs)
    ratios = [spread((part / plain).tolist(), 1) for part in (alone, whole)]
    sizes = "x".join(str(layer.out_features) for layer in policy.mlp_extractor.policy_net[::2])
    print(f"{sizes:8} {n:7} {1e3 * np.median(plain):13.1f}  {ratios[0]:22} {ratios[1]:22} {len(products)}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default="CartPole-v1,Pendulum-v1,pendulum,cartpole-swingup", help="of BUDGETS")
    parser.add_argument("--who", default="ours:natural_gradient,sb3:trpo")
    parser.add_argument("--seeds", type=int, default=10, help="from 0")
    parser.add_argument("--results", type=Path, default=Path("build/rivals.jsonl"))
    parser.add_argument("--table", action="store_true", help="run nothing, print what is there")
    parser.add_argument("--speed", action="store_true", help="the cost of an update instead")
    parser.add_argument("--repetitions", type=int, default=7, help="of --speed")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    if arguments.speed:
        print("network   stages  gradient, ms  update (range)         with critic (range)    Fisher products")
        for n in (2048, 16384):
            update_cost(n, arguments.repetitions)
        print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
        return
    names, asked = arguments.tasks.split(","), arguments.who.split(",")
    if unknown := set(names) - set(BUDGETS):
        parser.error(f"--tasks has {', '.join(unknown)}; choose of {', '.join(BUDGETS)}")
    try:
        for who in asked:
            parsed(who)
    except ValueError as error:
        parser.error(str(error))
    table(filled(arguments.results, [] if arguments.table else names, arguments.seeds, asked, run), names, asked)


if __name__ == "__main__":
    main()
