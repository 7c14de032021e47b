import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policysearch import ARS, PGPE, Specification
from policysearch.core.policies import LinearGaussian
from policysearch.core.quality import group_count
from policysearch.core.rollouts import LOST, Rollouts
from policysearch.core.seeded_perturbations import Regenerated
from policysearch.core.specification import Continuous
from policysearch.methods.rule import Problem
from policysearch.methods.table import build
from policysearch.runners import host

POLICY = LinearGaussian(np.zeros((2, 3)))
RIG = Specification(name="rig", action=Continuous((-1.0,) * 2, (1.0,) * 2), observation_size=3, horizon=1)


@pytest.mark.parametrize("given", [ARS(directions=5, top=3), PGPE(directions=6)], ids=["ars", "pgpe"])
def test_an_update_is_the_same_whether_its_perturbations_are_kept_or_made_anew(given, monkeypatch):
    monkeypatch.setattr("policysearch.core.seeded_perturbations.CHUNK", 12)
    method = build(given, Problem(RIG, 6, False, 0.1))
    state = method.init(POLICY, 1)
    requested = host.jobs(method, state, seed=3)
    kept = jnp.asarray(host.offsets(requested), jnp.float32)
    anew = host.offsets(requested, largest=0)
    assert isinstance(anew, Regenerated)
    n = len(requested)
    outcome = jnp.zeros(n, int).at[2].set(LOST)
    costs = jnp.asarray(np.random.default_rng(0).normal(size=(n, 1)))
    came = Rollouts(costs, jnp.ones((n, 1), bool), outcome)
    tell = eqx.filter_jit(method.tell)
    (one, info), (other, same) = tell(state, kept, came), tell(state, anew, came)
    assert float(info["step_norm"]) > 0
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), (one, info), (other, same))
    score = [method.explore.score(POLICY, b, came, method.layout(POLICY), state.explore) for b in (kept, anew)]
    w = jnp.asarray(np.random.default_rng(1).normal(size=score[0].dense().shape[1]), jnp.float32)
    np.testing.assert_allclose(score[0].dense(), score[1].dense(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(score[0].mv(w), score[1].mv(w), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(score[0].rmv(costs[:, 0]), score[1].rmv(costs[:, 0]), rtol=1e-3, atol=1e-4)


def test_group_gradients_of_many_parameters_do_not_fill_the_memory():
    assert group_count(128, 1_000_000) * 1_000_000 <= 8_000_000
    assert group_count(128, 1_000) == 32
