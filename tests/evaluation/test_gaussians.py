"""Closed forms between Gaussians: one dimension, known relations, numerical integrals."""

import numpy as np
import pytest

from diffusion.evaluation import bhattacharyya, gaussian_kl, wasserstein_2


def draw(rng, dim):
    a = rng.normal(size=(dim, dim))
    return rng.normal(size=dim), a @ a.T + 0.1 * np.eye(dim)


def test_one_dimension_against_integrals():
    """By the trapezoidal rule on a wide grid, whose error for smooth, vanishing integrands is round-off."""
    m_1, s_1, m_2, s_2 = 0.3, 0.7, -0.4, 1.1
    u = np.linspace(-15, 15, 20_001)
    p, q = (
        np.exp(-((u - m) ** 2) / (2 * s**2)) / np.sqrt(2 * np.pi * s**2)
        for m, s in ((m_1, s_1), (m_2, s_2))
    )
    log = lambda m, s: -((u - m) ** 2) / (2 * s**2) - np.log(s)
    given = (np.array([m_1]), np.array([[s_1**2]]), np.array([m_2]), np.array([[s_2**2]]))
    kl = np.trapezoid(p * (log(m_1, s_1) - log(m_2, s_2)), u)
    np.testing.assert_allclose(gaussian_kl(*given), kl, rtol=1e-10)
    np.testing.assert_allclose(
        bhattacharyya(*given), -np.log(np.trapezoid(np.sqrt(p * q), u)), rtol=1e-10
    )
    np.testing.assert_allclose(wasserstein_2(*given), np.hypot(m_1 - m_2, s_1 - s_2), rtol=1e-12)


@pytest.mark.parametrize("distance", [gaussian_kl, bhattacharyya])
def test_independent_coordinates_add_and_coordinates_do_not_matter(distance):
    """Both are sums over independent parts, and do not change under invertible affine maps."""
    rng = np.random.default_rng(0)
    (m_1, c_1), (m_2, c_2), (m_3, c_3), (m_4, c_4) = (draw(rng, d) for d in (3, 3, 2, 2))
    block = lambda a, b: np.block([[a, np.zeros((3, 2))], [np.zeros((2, 3)), b]])
    both = distance(np.r_[m_1, m_3], block(c_1, c_3), np.r_[m_2, m_4], block(c_2, c_4))
    np.testing.assert_allclose(
        both, distance(m_1, c_1, m_2, c_2) + distance(m_3, c_3, m_4, c_4), rtol=1e-10
    )
    a = rng.normal(size=(3, 3))
    moved = distance(a @ m_1, a @ c_1 @ a.T, a @ m_2, a @ c_2 @ a.T)
    np.testing.assert_allclose(moved, distance(m_1, c_1, m_2, c_2), rtol=1e-8)


def test_equal_gaussians_and_symmetry():
    rng = np.random.default_rng(1)
    (m_1, c_1), (m_2, c_2) = draw(rng, 4), draw(rng, 4)
    for distance in (gaussian_kl, bhattacharyya):
        assert abs(distance(m_1, c_1, m_1, c_1)) < 1e-12
    np.testing.assert_allclose(
        bhattacharyya(m_1, c_1, m_2, c_2), bhattacharyya(m_2, c_2, m_1, c_1), rtol=1e-12
    )
    assert gaussian_kl(m_1, c_1, m_2, c_2) > 0


def test_singular_covariances():
    flat, full, zero = np.diag([1.0, 0.0]), np.eye(2), np.zeros(2)
    for distance in (gaussian_kl, bhattacharyya):
        with pytest.raises(ValueError, match="singular"):
            distance(zero, flat, zero, full)
    np.testing.assert_allclose(wasserstein_2(zero, flat, zero, full), 1.0, rtol=1e-12)
