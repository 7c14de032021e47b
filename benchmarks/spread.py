"""How the noise that explores decides how clear a gradient is: SNR of 64 rollouts against std, on `lqr-check`.

Run: python benchmarks/spread.py
"""

from policysearch import (
    ActionNoise,
    CostToGo,
    Euclidean,
    LearningRate,
    LinearGaussian,
    Method,
    ParameterNoise,
    TotalCost,
    diagnose,
)

GAIN = [[-0.5, -0.8]]  # N/m, N s/m


def ratio(policy, explore, credit):
    """SNR with its standard error, as text."""
    method = Method(explore, credit, Euclidean(), LearningRate(1.0))
    (row,) = diagnose("lqr-check", policy, methods={("", "", ""): method})
    return f"{row.snr:.2g} ± {row.snr_error:.1g}"


def main():
    print("| action noise std [N] | `gpomdp`, value baseline |\n|---|---|")
    for std in (0.03, 0.1, 0.3, 1.0, 3.0):
        print(f"| {std} | {ratio(LinearGaussian(GAIN, std=std), ActionNoise(64), CostToGo('value'))} |")
    print("\n| σ of the gain [N/m, N s/m] | pairs, shared seeds | pairs, seeds of their own |\n|---|---|---|")
    for std in (0.01, 0.03, 0.1, 0.3, 1.0):
        cells = [
            ratio(LinearGaussian(GAIN), ParameterNoise(32, std, common=common), TotalCost("none"))
            for common in (True, False)
        ]
        print(f"| {std} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
