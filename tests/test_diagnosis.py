"""`diagnose` finds the signal-to-noise ratios that theory gives, and says what they mean."""

from __future__ import annotations

import json
import math

import jax.numpy as jnp
import numpy as np
import pytest

from policysearch import LinearGaussian
from policysearch.cli.diagnose import default, followed, table
from policysearch.cli.main import main
from policysearch.core.credit import CostToGo, TotalCost
from policysearch.core.direction import Euclidean
from policysearch.core.explore import ActionNoise, ParameterNoise
from policysearch.core.method import Method
from policysearch.core.step import LearningRate
from policysearch.report import gradients
from policysearch.tasks import build, resolve
from policysearch.tasks.task import Function
from policysearch.verify.diagnosis import Row, advice, diagnose, nearest

SLOPE = np.array([1.0, -2.0, 0.5, 1.5, -0.3])


def method(explore, credit):
    return Method(explore, credit, Euclidean(), LearningRate(1.0))


@pytest.mark.parametrize(("shape", "law"), [("gaussian", 1 / 6), ("sphere", 1 / 4), ("rademacher", 1 / 4)])
def test_one_perturbation_of_a_linear_cost_has_the_ratio_of_theory(shape, law):
    """1/(d + 1) for normal perturbations, 1/(d - 1) for those of a fixed length (Roberts & Tedrake 2009), d = 5."""
    linear = Function(lambda values, key: jnp.dot(jnp.asarray(SLOPE), values), (0.0,) * 5)
    pair = {("pair", "", ""): method(ParameterNoise(1, 0.1, shape), TotalCost("none"))}
    (row,) = diagnose(linear, methods=pair, batches=1500)
    assert row.rollouts == 2
    assert row.snr_error < 0.15 * law
    assert abs(row.snr - law) < 3 * row.snr_error
    assert row.norm == pytest.approx(np.linalg.norm(SLOPE), rel=0.2)


def test_the_ratio_grows_with_the_rollouts_and_the_rollouts_that_it_asks_for_are_right():
    plant = build("lqr-check")
    sizes = {(str(n), "", ""): method(ActionNoise(n), CostToGo("leave_one_out")) for n in (10, 40)}
    few, many = sorted(diagnose(plant, methods=sizes, batches=400), key=lambda row: row.rollouts)
    # leave-one-out from 10 rollouts is noisier by 1/9 of the noise of a baseline
    error = 3 * math.hypot(many.snr_error / 4, few.snr_error)
    assert abs(many.snr / 4 - few.snr) < error + 0.12 * few.snr
    assert few.needed(many.snr) == pytest.approx(40, rel=0.3)


def test_norm_and_noise_are_those_of_the_closed_form_gradient():
    """Four standard errors of the mean over 400 batches."""
    plant = build("lqr-check")
    K, std = np.array([[-0.5, -0.8]]), 0.3
    explore = {("gpomdp", "", "none"): method(ActionNoise(64), CostToGo("none"))}
    (row,) = diagnose(plant, LinearGaussian(K, std=std), methods=explore, batches=400)
    exact = np.linalg.norm(np.asarray(plant.gradient(K, std)["gain"]))
    assert abs(row.norm - exact) < 4 * row.norm_error / math.sqrt(400)


def test_causality_and_a_baseline_lower_the_variance_as_they_do_in_theory():
    """Of u = K x + 0.3 ξ on the check problem: 2.7 and 6.2 times by coordinate, a mean a stage 3.1 and 2.5 times more.

    A ratio of two variances from B batches is known to √(4/B); three of these, and 0.05 for the digits of the law.
    """
    plant, B = build("lqr-check"), 2500
    variants = {
        ("total", "", ""): method(ActionNoise(64), TotalCost("none")),
        ("to go", "", ""): method(ActionNoise(64), CostToGo("none")),
        ("mean", "", ""): method(ActionNoise(64), CostToGo("per_stage_mean")),
    }
    rows = diagnose(plant, LinearGaussian([[-0.5, -0.8]], std=0.3), methods=variants, batches=B)
    variance = {row.estimator: np.square(row.errors) for row in rows}
    for noisy, calm, law in (("total", "to go", [2.7, 6.2]), ("to go", "mean", [3.1, 2.5])):
        ratio = variance[noisy] / variance[calm]
        assert np.all(np.abs(ratio - law) < 3 * ratio * math.sqrt(4 / B) + 0.05)


def row(label, snr, **more):
    words = {"estimator": label, "variant": "", "baseline": "", "space": "action", "rollouts": 64, "batches": 100}
    return Row(**words | {"snr": snr, "snr_error": 0.01, "cosine": 0.5, "norm": 1.0, "norm_error": 1.0} | more)


def test_advice_names_the_clearest_and_what_it_lacks():
    rows = [row("gpomdp", 0.1, baseline="value"), row("gpomdp", 0.02, baseline="none")]
    said = " ".join(advice(rows))
    assert "Clearest: gpomdp, baseline value, with an SNR of 0.1 from 64 rollouts." in said
    assert "use 10 times the rollouts (640)" in said
    assert "The value baseline is worth 5 times the rollouts of gpomdp." in said


def test_advice_on_fewer_rollouts_keeps_to_whole_batches():
    said = lambda label, snr, **more: " ".join(advice([row(label, snr, **more)]))  # noqa: E731
    assert "Fewer rollouts would do: 15 give an SNR of 2" in said("gpomdp", 9.0)
    assert "Fewer rollouts would do: 6 give" in said("finite_differences", 999.0, errors=(1.0, 1.0, 1.0))
    assert "Fewer" not in said("finite_differences", 999.0, errors=(1.0,) * 32)


def test_advice_on_shared_seeds_and_on_bias():
    perturbed = {"space": "parameter"}
    rows = [
        row("weight_perturbation", 4.0, variant="two-sided, shared seeds", **perturbed),
        row("weight_perturbation", 0.5, variant="two-sided", **perturbed),
        row("gpomdp", 9.0, variant="γ 0.9, λ 0.95, biased", baseline="value"),
    ]
    said = " ".join(advice(rows))
    assert "Clearest: weight_perturbation, two-sided, shared seeds" in said
    assert "shared seeds" in said
    assert "worth 8 times the rollouts of weight_perturbation" in said
    assert "estimates another gradient" in said
    assert "No estimator shows a signal" in advice([row("gpomdp", 0.01)])[0]


def test_the_table_and_the_picture_bear_no_noise_and_no_signal(tmp_path):
    rows = [row("finite_differences", math.inf), row("gpomdp", 1.0), row("reinforce", -0.01)]
    lines = table(rows)
    assert lines[1].split()[2:4] == ["inf", "-"]
    assert lines[3].split()[-1] == "-"
    gradients.draw(tmp_path / "x.png", rows, title="x")
    assert (tmp_path / "x.png").stat().st_size > 10_000


def test_the_command_measures_a_task_and_a_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["diagnose", "bowl", "--rollouts", "32", "--batches", "10", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["rows"][0]["estimator"] == "finite_differences"
    assert found["method"] == "weight_perturbation"
    assert (tmp_path / "diagnose.png").exists()
    assert main(["train", "bowl", "--method", "cem", "--budget", "2updates", "--out", "run"]) == 0
    capsys.readouterr()
    assert main(["diagnose", "run", "--batches", "4", "--rollouts", "32", "--picture", "at.png"]) == 0
    text = capsys.readouterr().out
    assert "weight_perturbation, one-sided, baseline leave_one_out" in text
    assert "Method: cem, with which run was made.\nNone of these gradients is its own.\n" in text
    assert all(len(line) < 100 for line in text.splitlines())
    assert (tmp_path / "at.png").exists()
    assert main(["diagnose", "bowl", "--batches", "2"]) == 2
    assert "at least 4 batches" in capsys.readouterr().err
    assert main(["diagnose", "bowl", "--picture", "nowhere/x.png"]) == 2
    assert "there is no folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("task", "method", "why"),
    [
        ("bowl", "weight_perturbation", "a cost of parameters"),
        ("lqr", "natural_gradient", "a plant that wants a gain matrix"),
        ("pendulum", "trpo", "a plant that wants a network"),
        ("Pendulum-v1", "trpo", "a simulator"),
    ],
)
def test_the_method_that_train_would_take_is_named_with_the_reason(task, method, why):
    assert default(resolve(task).specification) == (method, f"the default for {why}")


def test_the_row_whose_gradient_a_method_follows_is_found():
    def made(estimator, variant="", baseline="", snr=2.0):
        return row(estimator, snr, variant=variant, baseline=baseline)

    pairs = [made("weight_perturbation", f"two-sided{end}") for end in ("", ", shared seeds")]
    rows = [made("gpomdp", "γ 0.9, λ 0.9, biased", "value"), made("gpomdp", "", "value"), *pairs]
    rows = [made("weight_perturbation", "one-sided", "none"), made("reinforce", "", "none"), *rows]
    assert nearest(rows, "trpo") is rows[2]
    assert nearest(rows[3:], "trpo") is nearest(rows, "natural_gradient") is rows[3]
    assert nearest(rows, "ars") is rows[5]
    assert nearest(rows[:5], "pgpe") is rows[4]
    assert nearest(rows, "enac") is nearest(rows, "cem") is None
    said = "Nearest to its gradient: weight_perturbation, two-sided, shared seeds, SNR 2 from 64 rollouts."
    assert followed("ars", rows) == said


def test_simulators_are_measured_by_their_workers():
    rows = diagnose("CartPole-v1", rollouts=6, batches=4, workers=1)
    assert {row.space for row in rows} == {"action", "parameter"}
    assert all(math.isfinite(row.norm_error) for row in rows)
