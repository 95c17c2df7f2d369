"""Kernel distances against double loops and closed forms, and whether they are unbiased."""

import numpy as np
import pytest

from diffusion.evaluation.kernel import (
    cubic_kernel,
    discrepancy,
    gaussian_kernel,
    kernel_distance,
    kernel_distance_of_all,
    median_distance,
    mmd,
    student_quantile,
    unbiased_mmd,
)


def by_loops(x, y, k):
    """The definition of the unbiased estimate."""
    n, m = len(x), len(y)
    own_x = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    own_y = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return own_x + own_y - 2 * sum(k(a, b) for a in x for b in y) / (n * m)


def test_against_double_loops():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(7, 5)), 0.3 + rng.normal(size=(9, 5))
    expected = by_loops(x, y, lambda a, b: (a @ b / 5 + 1) ** 3)
    np.testing.assert_allclose(unbiased_mmd(x, y), expected, rtol=1e-12)
    np.testing.assert_allclose(kernel_distance_of_all(x, y).value, expected, rtol=1e-12)
    expected = by_loops(x, y, lambda a, b: np.exp(-((a - b) ** 2).sum() / (2 * 1.7**2)))
    np.testing.assert_allclose(mmd(x, y, 1.7).value, expected, rtol=1e-12)
    wide = [
        np.concatenate([a, np.zeros((len(a), 8))], axis=1) for a in (x, y)
    ]  # the other way to distances
    np.testing.assert_allclose(mmd(*wide, 1.7).value, expected, rtol=1e-10)


def test_the_linear_kernel_has_a_closed_form():
    """With k(x, y) = x.y it is |mean_x - mean_y|^2 less the variances over n and m."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(40, 3)), 1 + rng.normal(size=(30, 3))
    shift = x.mean(0) - y.mean(0)
    expected = shift @ shift - x.var(0, ddof=1).sum() / 40 - y.var(0, ddof=1).sum() / 30
    found = unbiased_mmd(x, y, lambda a, b: a @ b.T)
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_gaussians_under_a_gaussian_kernel():
    """E k for N(0, 1) and N(a, 1) is s / sqrt(s^2 + 2) exp(-a^2 / (2 (s^2 + 2))): within 4 standard errors."""
    rng, s, a = np.random.default_rng(2), 1.5, 0.4
    found = mmd(rng.normal(size=(1500, 1)), a + rng.normal(size=(1500, 1)), s)
    mean = lambda shift: s / np.sqrt(s**2 + 2) * np.exp(-(shift**2) / (2 * (s**2 + 2)))
    assert abs(found.value - 2 * (mean(0) - mean(a))) < 4 * found.standard_error


@pytest.mark.parametrize("estimate", [kernel_distance_of_all, kernel_distance])
def test_two_halves_of_one_set(estimate):
    """Unbiased: over 60 divisions of fresh draws the mean is within 4 standard errors of 0, and some are negative."""
    rng = np.random.default_rng(3)
    values, covered = [], []
    for _ in range(60):
        x = np.maximum(rng.normal(size=(120, 4)), 0)
        found = estimate(x[:60], x[60:])
        values.append(found.value)
        covered.append(found.low <= 0 <= found.high)
    assert abs(np.mean(values)) < 4 * np.std(values, ddof=1) / np.sqrt(60)
    assert min(values) < 0 < max(values)
    assert np.mean(covered) >= 0.95 - 2 * np.sqrt(0.95 * 0.05 / 60)


def test_the_error_of_subsets_is_honest():
    """Where the sets differ, the interval holds the truth in 95 % of 60 cases, less two standard errors."""
    rng = np.random.default_rng(4)
    truth = kernel_distance_of_all(rng.normal(size=(2000, 3)), 0.5 + rng.normal(size=(2000, 3)))
    covered = []
    for seed in range(60):
        x, y = rng.normal(size=(200, 3)), 0.5 + rng.normal(size=(200, 3))
        found = kernel_distance(x, y, seed=seed)
        covered.append(
            found.low - truth.standard_error <= truth.value <= found.high + truth.standard_error
        )
    assert np.mean(covered) >= 0.95 - 2 * np.sqrt(0.95 * 0.05 / 60)


def test_subsets_are_seeded_and_counted():
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(300, 3)), rng.normal(size=(500, 3))
    a, b = kernel_distance(x, y, seed=1), kernel_distance(x, y, seed=1)
    assert a == b != kernel_distance(x, y, seed=2)
    assert (a.subset_size, a.num_subsets) == (30, 100)
    assert kernel_distance(x, y, subset_size=20, num_subsets=7)[4:] == (7, 20)
    same = kernel_distance(x, y, kernel=cubic_kernel, seed=1)
    assert same == a


def test_student():
    """Tables: 2.262 at 9 degrees of freedom, 3.182 at 3, 12.706 at 1."""
    for freedom, expected in ((1, 12.706), (2, 4.303), (3, 3.182), (9, 2.262), (30, 2.042)):
        assert abs(student_quantile(freedom) / expected - 1) < 0.03


def test_median_and_symmetry():
    x = np.array([[0.0], [1.0], [3.0]])
    assert median_distance(x) == 2.0
    assert gaussian_kernel(1.0)(x, x)[0, 0] == 1.0
    with pytest.raises(ValueError, match="median distance"):
        median_distance(np.zeros((4, 2)))
    y = np.array([[0.5], [2.0]])
    h = lambda a, b: np.abs(a - b.T)
    assert discrepancy(x, y, h).value == pytest.approx(discrepancy(y, x, h).value)


def test_wrong_input():
    with pytest.raises(ValueError, match="at least 4 examples"):
        kernel_distance(np.zeros((3, 2)), np.zeros((5, 2)))
    with pytest.raises(ValueError, match="finite"):
        kernel_distance_of_all(np.full((5, 2), np.inf), np.zeros((5, 2)))
    with pytest.raises(ValueError, match="bandwidth"):
        mmd(np.zeros((5, 2)), np.zeros((5, 2)), 0.0)
