"""Duplicates across splits, against brute force in integers and against planted copies."""

import numpy as np
import pytest

from diffusion.data import (
    ArrayFile,
    Digits,
    FashionMNIST,
    FiniteDataset,
    Points2D,
    data_root,
    duplicates,
)
from diffusion.data.base import DataSpec, Table
from diffusion.data.duplicates import find_duplicates, nearest
from diffusion.data.records import newest_version


def brute_force(queries, references):
    """Return positions and squared distances of the nearest, in 64-bit integers or float64."""
    wide = np.int64 if queries.dtype == np.uint8 else np.float64
    a, b = (x.reshape(len(x), -1).astype(wide) for x in (queries, references))
    squared = ((a[:, None] - b[None]) ** 2).sum(-1)
    return squared.argmin(1), squared.min(1)


@pytest.mark.parametrize("shape", [(5, 4, 1), (28, 28, 1), (40, 40, 3)])
def test_nearest_is_exact_for_levels(monkeypatch, shape):
    monkeypatch.setattr(duplicates, "_TILE", (7, 11))  # tiles that do not divide the sets
    rng = np.random.default_rng(0)
    queries, references = (rng.integers(0, 256, (n, *shape), np.uint8) for n in (30, 45))
    references[[8, 20]], references[33] = queries[3], queries[5]  # the first of equals counts
    references[40].flat[:] = queries[6].ravel()
    references[40].flat[-1] ^= 1  # one level in one value
    where, squared = nearest(queries, references)
    expected = brute_force(queries, references)
    np.testing.assert_array_equal(where, expected[0])
    np.testing.assert_array_equal(squared, expected[1])
    assert (where[3], squared[3], squared[6]) == (8, 0, 1)


def test_the_largest_sums_are_exact():
    """All black against all white: the terms are the largest there are, in 12,288 dimensions."""
    black, white = np.zeros((1, 64, 64, 3), np.uint8), np.full((1, 64, 64, 3), 255, np.uint8)
    assert nearest(black, white)[1][0] == 255**2 * 12288
    white[0, 0, 0, 0] = 254
    assert nearest(black, white)[1][0] == 255**2 * 12287 + 254**2


def test_nearest_of_floats():
    rng = np.random.default_rng(1)
    queries, references = rng.normal(size=(20, 7)), rng.normal(size=(50, 7))
    where, squared = nearest(queries, references)
    expected = brute_force(queries, references)
    np.testing.assert_array_equal(where, expected[0])
    # |a|^2 + |b|^2 - 2 a.b of about ten terms of size 10 in float64
    np.testing.assert_allclose(squared, expected[1], atol=100 * np.finfo(np.float64).eps * 10)


class Split(FiniteDataset):
    """Given images, as a split."""

    def __init__(self, images, labels=None):
        self.images, self.labels = images, labels

    @property
    def source(self):
        """The images."""
        return Table(values=self.images, labels=self.labels)

    @property
    def spec(self):
        """Their shape."""
        return DataSpec(shape=self.images.shape[1:], size=len(self.images), bits=8)


def planted():
    rng = np.random.default_rng(2)
    train, test = (rng.integers(0, 256, (n, 8, 8, 3), np.uint8) for n in (200, 40))
    test[7], test[11] = train[150], train[150]
    test[20] = train[33]
    test[20, 0, 0, 0] ^= 4  # near: four levels in one of 192 values
    train[9] = train[8]
    return train, test


def test_planted_copies_are_found(monkeypatch):
    monkeypatch.setattr(duplicates, "_QUERY_BYTES", 13 * 192)  # several lots of queries
    train, test = planted()
    calls = []
    found = find_duplicates(Split(train), Split(test), progress=lambda *c: calls.append(c))
    assert (found.exact, found.repeats, found.num_train) == (2, (1, 1), 200)
    *copies, (ours, theirs, distance) = found.closest(3)
    assert copies == [(7, 150, 0.0), (11, 150, 0.0)]
    assert (ours, theirs, distance) == (20, 33, pytest.approx(4 / np.sqrt(192), rel=1e-15))
    where, squared = brute_force(test, train)
    np.testing.assert_array_equal(found.nearest, where)
    np.testing.assert_allclose(found.distance, np.sqrt(squared / 192), rtol=1e-15)
    assert calls[-1] == (40 * 200, 40 * 200)
    assert len(found.closest(1000)) == 40


@pytest.mark.parametrize("width", [1, 2])
def test_labels_of_the_nearest(width):
    """Copies keep their labels but for a quarter of them, of which one of several differs."""
    rng = np.random.default_rng(3)
    images = rng.integers(0, 256, (40, 4, 4, 1), np.uint8)
    labels = rng.integers(0, 3, (40, width))
    order = rng.permutation(40)
    others = labels[order]
    others[:10, 0] += 1
    if width == 1:
        labels, others = labels[:, 0], others[:, 0]
    found = find_duplicates(Split(images, labels), Split(images[order], others))
    np.testing.assert_array_equal(found.nearest, order)
    assert found.same_label == 0.75
    assert find_duplicates(Split(images), Split(images[order])).same_label is None


def test_a_limit_spreads_over_the_sets_and_still_counts_all_copies():
    train, test = planted()
    found = find_duplicates(Split(train), Split(test), limit=10)
    np.testing.assert_array_equal(found.index, np.arange(10) * 4)
    assert (found.num_train, found.exact) == (10, 2)
    assert set(found.nearest) <= set(np.arange(10) * 20)
    where, squared = brute_force(test[::4], train[::20])
    np.testing.assert_array_equal(found.nearest, 20 * where)
    np.testing.assert_allclose(found.distance, np.sqrt(squared / 192), rtol=1e-15)


@pytest.mark.slow
def test_digits_hold_no_copies(digits_root):
    train = Digits(data_dir=digits_root)
    found = find_duplicates(train, train.held_out())
    assert (found.exact, found.repeats) == (0, (0, 0))
    assert found.distance.min() > 0
    np.testing.assert_array_equal(found.index, np.arange(359))


def test_fashion_mnist_holds_a_garment_twice():
    """The nearest pair of all, as docs/data.md reports it."""
    if newest_version(data_root() / "fashion_mnist") is None:
        pytest.skip("no prepared copy of Fashion-MNIST is here")
    train, test = (FashionMNIST(split=s).source for s in ("train", "test"))
    queries = test.take(np.array([4998, 9867]))[0]
    where, squared = nearest(queries, train.take(np.arange(20_000))[0])
    assert where[0] == 13360
    assert squared[0] == 433  # of 784 values: 0.74 levels
    first = train.take(where[:1])[0].astype(np.int64)
    assert squared[0] == ((queries[:1].astype(np.int64) - first) ** 2).sum()


def test_what_cannot_be_compared_is_refused(digits_root, tmp_path):
    digits = Digits(data_dir=digits_root)
    with pytest.raises(ValueError, match="finite"):
        find_duplicates(Points2D(kind="moons"), Points2D(kind="moons"))
    with pytest.raises(ValueError, match="with itself"):
        find_duplicates(digits, Digits(data_dir=digits_root))
    with pytest.raises(ValueError, match="limit"):
        find_duplicates(digits, digits.held_out(), limit=0)
    np.save(tmp_path / "x.npy", np.zeros((4, 5, 5), np.uint8))
    with pytest.raises(ValueError, match=r"one shape.*\(8, 8, 1\), \(5, 5, 1\)"):
        find_duplicates(digits, ArrayFile(path=str(tmp_path / "x.npy")))
