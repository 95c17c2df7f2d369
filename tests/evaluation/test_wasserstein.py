"""Wasserstein distances on lines against definitions and closed forms."""

import numpy as np
import pytest

from diffusion.evaluation import sliced_wasserstein
from diffusion.evaluation.wasserstein import squared_on_lines


def test_unequal_numbers_on_a_line():
    """3 against 2 points: copies of each to 6 points, sorted and matched, is the definition."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(3, 4)), rng.normal(size=(2, 4))
    copies = squared_on_lines(np.repeat(x, 2, axis=0), np.repeat(y, 3, axis=0))
    np.testing.assert_allclose(squared_on_lines(x, y), copies, rtol=1e-12)
    assert squared_on_lines(np.zeros((1, 1)), np.array([[1.0], [2.0]]))[0] == 2.5


def test_a_shift():
    """W_2 = |delta| on a line, exactly; SW_2^2 = |delta|^2 / d within 4 standard errors over the lines."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(50, 1))
    assert sliced_wasserstein(x, x + 0.7).value == pytest.approx(0.7, rel=1e-12)
    x, delta = rng.normal(size=(50, 8)), rng.normal(size=8)
    found = sliced_wasserstein(x, x + delta, num_projections=2000)
    assert abs(found.value - np.sqrt(delta @ delta / 8)) < 4 * found.standard_error


def test_gaussians():
    """SW_2 of N(0, I) and N(0, 4 I) is 1: within 2 %, which is what 20,000 examples leave."""
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(20_000, 3)), 2 * rng.normal(size=(20_000, 3))
    assert abs(sliced_wasserstein(x, y, num_projections=50).value - 1) < 0.02


def test_lines_are_seeded():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(40, 5)), rng.normal(size=(30, 5))
    assert sliced_wasserstein(x, y) == sliced_wasserstein(x, y)
    assert sliced_wasserstein(x, y) != sliced_wasserstein(x, y, seed=1)
    assert sliced_wasserstein(x, x[::-1]).value == 0.0
    with pytest.raises(ValueError, match="num_projections"):
        sliced_wasserstein(x, y, num_projections=1)
