"""A method made of four parts: evolution strategies with ranks and Adam (Salimans et al. 2017), on a linear plant.

Run: python examples/compose_a_method.py [BUDGET]
"""

import sys

import optax

from policysearch import (
    ActionNoise,
    CentredRanks,
    Euclidean,
    Method,
    Natural,
    Optimizer,
    ParameterNoise,
    TotalCost,
    train,
)


def main(budget="300updates"):
    ranks = Method(
        explore=ParameterNoise(directions=8, std=0.1, shape="orthogonal"),
        credit=CentredRanks(),
        direction=Euclidean(),
        step=Optimizer(optax.adam(0.05)),
    )
    result = train("double-integrator", ranks, budget=budget)
    best = result.policy.physical_gain()[0]
    print(f"cost {result.evaluation.cost_mean:.3f}, gain {best.round(2).tolist()}, solved: {result.evaluation.solved}")

    try:
        Method(ActionNoise(20), TotalCost(), Natural(), Optimizer(optax.adam(0.05)))
    except ValueError as reason:
        print(f"refused: {reason}")


if __name__ == "__main__":
    main(*sys.argv[1:])
