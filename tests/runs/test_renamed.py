"""What earlier versions wrote is read under the names of today."""

import jax
import numpy as np
import pytest
from safetensors.numpy import load, save

from policysearch import LinearGaussian, NeuralGaussian, Parameters, resolve
from policysearch.methods.settings import method_settings
from policysearch.methods.start import problem
from policysearch.methods.table import build
from policysearch.runs import snapshots

OLD = {"log_std": "fixed_log_std"}
POLICIES = {
    "gains": (LinearGaussian([[-0.5, -0.1]], std=0.2), "natural_gradient"),
    "network": (NeuralGaussian([(np.ones((3, 2)), np.zeros(3)), (np.ones((1, 3)), np.zeros(1))]), "trpo"),
    "numbers": (Parameters(["a", "b"], [1.0, 2.0], bounds={"a": (0.0, 3.0)}), "weight_perturbation"),
}


@pytest.mark.parametrize("name", POLICIES)
def test_snapshots_whose_policy_kept_its_constants_as_fields_are_read(name):
    policy, method = POLICIES[name]
    task = resolve("bowl" if name == "numbers" else "double-integrator").specification
    settings = method_settings(method, {})
    seen = problem(task, policy, settings.space)
    state = build(settings.resolved(seen), seen).init(policy, task.draws)
    start = ".policy.constants['"
    arrays = load(snapshots.encode(state))
    old = {
        f".policy.{OLD.get(place[len(start) : -2], place[len(start) : -2])}"
        if place.startswith(start)
        else place: value
        for place, value in arrays.items()
    }
    assert old.keys() != arrays.keys()
    blank = jax.tree.map(np.zeros_like, state)
    back = snapshots.decode(save(old), blank)
    assert all(
        np.asarray(a).tobytes() == np.asarray(b).tobytes()
        for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(state), strict=True)
    )
