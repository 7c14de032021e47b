import subprocess
import sys

import numpy as np
import pytest

from policysearch.core.rng import SHAPES, Purpose, action_stream, environment_seed, perturbations, shape_rows, stream


@pytest.mark.parametrize("shape", SHAPES)
def test_a_row_is_the_same_alone_and_in_any_company(shape):
    every = perturbations(3, 5, range(20), 6, shape)
    order = [17, 2, 11, 2]
    assert np.array_equal(perturbations(3, 5, order, 6, shape), every[order])
    for index in (0, 7, 19):
        assert np.array_equal(perturbations(3, 5, [index], 6, shape)[0], every[index])


@pytest.mark.parametrize("shape", SHAPES)
def test_rows_are_the_same_in_another_process(shape):
    code = (
        "from policysearch.core.rng import perturbations;"
        f"print(perturbations(9, 4, range(8, 13), 5, {shape!r}).tobytes().hex())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert other.strip() == perturbations(9, 4, range(8, 13), 5, shape).tobytes().hex()


def test_neither_seed_nor_update_nor_index_nor_purpose_share_numbers():
    keys = [(s, p, u, i) for s in (0, 1, 2**40) for p in (1, 3, 4) for u in (0, 1, 2) for i in (0, 1, 2)]
    firsts = {tuple(stream(*key).random(2)) for key in keys}
    assert len(firsts) == len(keys)
    assert len({environment_seed(*key) for key in keys}) == len(keys)


@pytest.mark.parametrize(
    ("purpose", "own", "action", "environment"),
    [
        ("PERTURBATION", 0.2368582118594773, 0.6959493581166442, 850689729),
        ("ACTION", 0.10576833708881905, 0.7483490162823696, 1908305465),
        ("ENVIRONMENT", 0.18565884869021676, 0.10576833708881905, 63940798),
        ("EVALUATION", 0.1881987616325408, 0.8530955500304118, 180763983),
        ("REFERENCE", 0.1277493758924959, 0.8253222750687783, 1389133475),
        ("NORMALISER", 0.5325278687844063, 0.23534731484595162, 1245377173),
        ("INITIAL", 0.9039569223549166, 0.18357757453424317, 234049803),
        ("MEASUREMENT", 0.9521717917679999, 0.1286578160196009, 38209509),
    ],
)
def test_numbers_are_those_of_earlier_versions_so_that_an_old_run_goes_on_as_it_began(
    purpose, own, action, environment
):
    key = (7, Purpose[purpose], 2, 3)
    assert (stream(*key).random(), action_stream(*key).random(), environment_seed(*key)) == (own, action, environment)


def test_perturbations_are_those_of_earlier_versions():
    earlier = {
        "gaussian": [[-0.320153, -0.980106], [0.806252, -0.314835]],
        "sphere": [[-0.439121, -1.344311], [1.317339, -0.514411]],
        "rademacher": [[-1.0, -1.0], [1.0, -1.0]],
        "orthogonal": [[0.594506, -1.283185], [-1.028481, 0.970684]],
    }
    for shape, rows in earlier.items():
        np.testing.assert_allclose(perturbations(7, 2, [1, 3], 2, shape), rows, atol=1e-6)


@pytest.mark.parametrize(("place", "bits"), [(0, 64), (1, 32), (2, 32), (3, 32)])
def test_numbers_of_a_stream_reach_from_zero_to_the_limit_of_their_kind(place, bits):
    key = [5, 1, 2, 3]
    seen = set()
    for value in (0, (1 << bits) - 1):
        key[place] = value
        seen.add(stream(*key).random())
    assert len(seen) == 2
    for value in (-1, 1 << bits):
        key[place] = value
        with pytest.raises(ValueError, match=f"is {value}; it must lie in 0 … 2\\*\\*{bits} − 1"):
            stream(*key)


def test_neighbouring_seeds_share_no_environment():
    seeds = [{environment_seed(s, Purpose.ENVIRONMENT, 0, i) for i in range(200)} for s in (3, 4)]
    assert not seeds[0] & seeds[1]
    assert all(0 <= s < 2**31 for s in seeds[0])


def test_action_noise_of_evaluations_differs_from_that_of_the_gradient():
    draws = [action_stream(1, purpose, 2, 3).random() for purpose in Purpose]
    assert len(set(draws)) == len(draws)
    assert action_stream(1, Purpose.ENVIRONMENT, 2, 3).random() == stream(1, Purpose.ACTION, 2, 3).random()


@pytest.mark.parametrize("shape", SHAPES)
def test_perturbations_have_zero_mean_and_unit_covariance(shape):
    n, d = 6000, 4
    rows = perturbations(11, 0, range(n), d, shape)
    assert np.all(np.abs(rows.mean(axis=0)) < 5 / np.sqrt(n))  # 5 standard errors
    products = np.einsum("ni,nj->nij", rows, rows)
    # 5 standard errors of each entry; at least 1e-12 where an entry is exact (the squares of signs)
    limit = 5 * products.std(axis=0) / np.sqrt(n) + 1e-12
    assert np.all(np.abs(products.mean(axis=0) - np.eye(d)) < limit)


def test_shapes_are_what_they_say():
    assert np.allclose((perturbations(0, 0, range(9), 7, "sphere") ** 2).sum(axis=1), 7, rtol=1e-14)
    assert set(np.unique(perturbations(0, 0, range(9), 7, "rademacher"))) == {-1.0, 1.0}
    block = perturbations(0, 0, range(7, 14), 7, "orthogonal")
    assert np.allclose(block @ block.T, 7 * np.eye(7), atol=1e-12)


def test_orthogonal_blocks_are_haar_distributed():
    # 5 standard errors; without the sign correction the first entry of LAPACK's Q is always negative
    n, d = 4000, 3
    rows = perturbations(5, 0, range(0, n * d, d), d, "orthogonal")[:, 0]
    assert abs(rows.mean()) < 5 / np.sqrt(n)


def test_wrong_requests_are_refused_with_the_reason():
    with pytest.raises(ValueError, match="'cube' came; choose one of gaussian"):
        perturbations(0, 0, [0], 3, "cube")
    with pytest.raises(ValueError, match="index is -1"):
        perturbations(0, 0, [-1], 3)
    with pytest.raises(ValueError, match="seed is -2"):
        stream(-2, 1, 0, 0)
    with pytest.raises(ValueError, match="blocks of 3"):
        shape_rows(np.zeros((4, 3)), "orthogonal", np)
    with pytest.raises(ValueError, match='shape="sphere"'):
        perturbations(0, 0, [0], 2049, "orthogonal")


def test_orthogonal_rows_are_made_up_to_the_largest_size(monkeypatch):
    monkeypatch.setattr("policysearch.core.rng.LARGEST_ORTHOGONAL", 3)
    assert perturbations(0, 0, [0], 3, "orthogonal").shape == (1, 3)
    with pytest.raises(ValueError, match="of 4 parameters were asked; at most 3"):
        perturbations(0, 0, [0], 4, "orthogonal")


def test_jax_shapes_the_same_normals_alike():
    jax = pytest.importorskip("jax")
    z = np.random.default_rng(0).normal(size=(6, 3))
    with jax.enable_x64(True):
        for shape in SHAPES:
            ours, theirs = shape_rows(z, shape, np), shape_rows(jax.numpy.asarray(z), shape, jax.numpy)
            assert np.allclose(ours, theirs, atol=1e-12)
