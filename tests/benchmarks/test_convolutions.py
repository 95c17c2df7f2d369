"""All ways to compute a convolution, and the gradient of its kernel, are one function."""

import jax
import numpy as np
import pytest

from benchmarks.cases import case_of
from benchmarks.convolutions import (
    A_T,
    B_T,
    FORWARD,
    GRADIENT,
    G,
    layers,
    of_networks,
    run,
    tasks_of,
)
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


@pytest.mark.slow
def test_layers_of_the_networks_are_the_plain_ones():
    case = case_of("unet", "tiny").replaced(dtype="float64")
    for what, ways, arguments, _ in tasks_of(case, 8, 8)[2:]:
        plain, ours = (way(*arguments) for way in ways.values())
        for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(ours), strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-10, atol=1e-9, err_msg=what)


def test_matrices_of_winograd_correlate_a_line():
    """A^T ((G g) * (B^T d)) is the correlation of six numbers with three: four numbers."""
    rng = np.random.default_rng(0)
    d, g = rng.normal(size=6), rng.normal(size=3)
    np.testing.assert_allclose(A_T @ ((G @ g) * (B_T @ d)), np.correlate(d, g), atol=1e-13)


@pytest.mark.slow
def test_every_way_is_measured_on_every_level():
    case = case_of("unet", "tiny")
    rows = run(case, Plan(rounds=1, repeats=1, least_seconds=0.0))["rows"]
    of_a_level = (
        len(FORWARD) + len(GRADIENT) + 2 * sum(len(ways) for ways, _ in of_networks(8).values())
    )
    assert len(rows) == len(layers(case)) * of_a_level
    assert all(r["seconds"]["median"] > 0 for r in rows)
