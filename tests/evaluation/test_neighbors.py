"""Neighbors: hand-made points with known answers, blocks, equal and disjoint sets, duplicates."""

import math

import numpy as np
import pytest

from diffusion.evaluation import neighbors
from diffusion.evaluation.neighbors import chance_of_as_many, nearest, overlap, squared_radii

REAL = np.array([[0.0], [1.0], [2.0], [10.0]])


def test_known_answers():
    """k = 1: real radii 1, 1, 1, 8; generated 0.5 and 3 with radii 2.5: 3 is in the balls of 2 and of 10."""
    made = np.array([[0.5], [3.0]])
    np.testing.assert_array_equal(squared_radii(REAL, 1), [1, 1, 1, 64])
    found = overlap(REAL, made, 1)
    assert found.precision == 1.0  # |3 - 2| = 1: the boundary belongs to the ball
    assert found.recall == 3 / 4  # 10 is 7 away from 3
    assert found.density == 4 / 2  # 0.5 in the balls of 0 and 1, 3 in those of 2 and 10
    assert found.coverage == 1.0


def test_equal_and_disjoint_sets():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 10))
    same = overlap(x, x, 3)
    assert same.precision == same.recall == same.coverage == 1.0
    assert same.density >= 1.0
    assert overlap(x, x + 100, 3)[:4] == (0, 0, 0, 0)


def test_roles():
    """Precision of one way is recall of the other."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(70, 3)), 0.8 + rng.normal(size=(50, 3))
    there, back = overlap(x, y, 3), overlap(y, x, 3)
    assert (there.precision, there.recall) == (back.recall, back.precision)
    assert 0 < there.precision < 1


def test_density_and_coverage_of_one_distribution():
    """Their expectations are 1 and 1 - (1 - k/n)-ish = 1 - C(2n-k-1, n) / C(2n-1, n), at n = m (Naeem, 2020)."""
    rng, n, k = np.random.default_rng(2), 200, 5
    found = [overlap(rng.normal(size=(n, 12)), rng.normal(size=(n, 12)), k) for _ in range(20)]
    expected = 1 - math.prod((n - 1 - i) / (2 * n - 1 - i) for i in range(k))
    for values, truth in (
        ([f.density for f in found], 1.0),
        ([f.coverage for f in found], expected),
    ):
        assert abs(np.mean(values) - truth) < 4 * np.std(values, ddof=1) / np.sqrt(20)


@pytest.mark.parametrize("dim", [2, 30])
def test_blocks_change_nothing(dim, monkeypatch):
    rng = np.random.default_rng(3)
    x, y = rng.integers(0, 4, size=(2, 50, dim)).astype(float)  # many equal distances
    whole, near = overlap(x, y, 3), nearest(x, [y], 2)
    monkeypatch.setattr(neighbors, "_CHUNK", 128)
    assert overlap(x, y, 3) == whole
    parts = nearest(x, np.array_split(y, 7), 2)
    np.testing.assert_array_equal(parts.distances, near.distances)
    brute = np.sort(np.linalg.norm(x[:, None] - y[None], axis=2), axis=1)[:, :2]
    np.testing.assert_allclose(near.distances, brute, rtol=1e-12)


def test_duplicates():
    """Four equal points have radius 0, and hold each other all the same."""
    x = np.repeat(np.random.default_rng(4).normal(size=(5, 20)), 4, axis=0)
    np.testing.assert_array_equal(squared_radii(x, 3), np.zeros(20))
    assert overlap(x, x[::4].repeat(4, axis=0), 3).precision == 1.0
    near = nearest(x, [x], 1)
    np.testing.assert_array_equal(near.distances[:, 0], np.zeros(20))
    np.testing.assert_array_equal(near.index[:, 0], np.repeat(np.arange(0, 20, 4), 4))  # the first


def test_chance_of_as_many():
    """P(0 or more) = 1; with one of each, below the only one with probability 1/2; sums over all give the mean."""
    assert chance_of_as_many(0, 10, 2, 30) == pytest.approx(1.0)
    assert chance_of_as_many(1, 1, 1, 1) == pytest.approx(0.5)
    tail = sum(chance_of_as_many(j, 12, 3, 20) for j in range(1, 13))
    assert tail == pytest.approx(12 * 3 / 21)  # E B = n a / (a + b)


def test_too_few():
    with pytest.raises(ValueError, match="more than 3 examples; got 3"):
        overlap(np.zeros((3, 2)), np.zeros((9, 2)), 3)
    with pytest.raises(ValueError, match="2 nearest of 1"):
        nearest(np.zeros((3, 2)), [np.zeros((1, 2))], 2)
