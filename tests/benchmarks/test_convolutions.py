"""All ways to compute a convolution, and the gradient of its kernel, are one function."""

import jax
import numpy as np
import pytest

from benchmarks.cases import case_of
from benchmarks.convolutions import A_T, B_T, FORWARD, GRADIENT, G, layers, run
from benchmarks.rounds import Plan

KEYS = jax.random.split(jax.random.key(0), 3)


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def arrays():
    x = jax.random.normal(KEYS[0], (2, 8, 8, 3), "float64")
    w = jax.random.normal(KEYS[1], (3, 3, 3, 5), "float64")
    return x, w, jax.random.normal(KEYS[2], (2, 8, 8, 5), "float64")


@pytest.mark.parametrize("way", FORWARD)
def test_forward(way):
    x, w, _ = arrays()
    np.testing.assert_allclose(FORWARD[way](x, w), FORWARD["compiler"](x, w), atol=1e-12)


@pytest.mark.parametrize("way", GRADIENT)
def test_gradient_of_the_kernel(way):
    x, w, dy = arrays()
    expected = jax.vjp(lambda w: FORWARD["compiler"](x, w), w)[1](dy)[0]
    np.testing.assert_allclose(GRADIENT[way](x, dy), expected, atol=1e-11)


def test_matrices_of_winograd_correlate_a_line():
    """A^T ((G g) * (B^T d)) is the correlation of six numbers with three: four numbers."""
    rng = np.random.default_rng(0)
    d, g = rng.normal(size=6), rng.normal(size=3)
    np.testing.assert_allclose(A_T @ ((G @ g) * (B_T @ d)), np.correlate(d, g), atol=1e-13)


def test_every_way_is_measured_on_every_level():
    case = case_of("unet", "tiny")
    rows = run(case, Plan(rounds=1, repeats=1, least_seconds=0.0))["rows"]
    assert len(rows) == len(layers(case)) * (len(FORWARD) + len(GRADIENT))
    assert all(r["seconds"]["median"] > 0 for r in rows)
