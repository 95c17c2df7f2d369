import numpy as np
import pytest

from diffusion.data import order


def test_words_depend_on_the_position_alone():
    key = order.stream_key(3, order.POINTS)
    for width in (1, 3, 8):
        whole = order.words(key, np.arange(50), width)
        np.testing.assert_array_equal(order.words(key, np.arange(17, 31), width), whole[17:31])
        np.testing.assert_array_equal(
            order.words(key, np.array([40, 2, 2]), width), whole[[40, 2, 2]]
        )
    assert order.words(key, np.arange(0), 3).shape == (0, 3)


def test_words_far_out():
    """Position 2^40 is reached without drawing what lies before it."""
    key = order.stream_key(0)
    assert order.words(key, np.array([2**40]), 1).shape == (1, 1)


def test_streams_differ_by_purpose():
    a, b = (order.words(order.stream_key(0, p), np.arange(64), 1) for p in (0, 1))
    assert not (a == b).any()


def test_uniforms_and_normals():
    n = 50_000
    u = order.uniforms(order.words(order.stream_key(0), np.arange(n), 2))
    z = order.normals(order.words(order.stream_key(1), np.arange(n), 4))
    assert u.min() > 0
    assert u.max() < 1
    assert z.shape == (n, 4)
    assert np.abs(u.mean(0) - 0.5).max() < 4 * np.sqrt(1 / 12 / n)
    correlation = z.T @ z / n
    assert np.abs(z.mean(0)).max() < 4 / np.sqrt(n)
    assert np.abs(correlation - np.eye(4)).max() < 4 * np.sqrt(2 / n)


def test_permutations_are_uniform():
    """Every place holds every example equally often over many epochs (chi-square)."""
    size, num_epochs = 6, 3000
    counts = np.zeros((size, size))
    for epoch in range(num_epochs):
        counts[np.arange(size), order.permutation(0, epoch, size)] += 1
    expected = num_epochs / size
    chi_square = ((counts - expected) ** 2 / expected).sum()
    freedom = (size - 1) ** 2
    assert chi_square < freedom + 4 * np.sqrt(2 * freedom)  # four standard deviations


def test_words_are_those_of_philox():
    """The stream is NumPy's Philox under the hashed key, from counter 0."""
    key = order.stream_key(5, 1)
    raw = np.random.Philox(key=np.array(key, np.uint64)).random_raw(12)
    np.testing.assert_array_equal(order.words(key, np.arange(12), 1)[:, 0], raw)


@pytest.mark.parametrize("fraction", [0.1, 0.5])
def test_hold_out_cuts_in_two(fraction):
    train, test = (order.hold_out(101, fraction, split) for split in ("train", "test"))
    assert len(test) == round(101 * fraction)
    np.testing.assert_array_equal(np.sort(np.concatenate([train, test])), np.arange(101))
    np.testing.assert_array_equal(order.hold_out(101, fraction, "all"), np.arange(101))


@pytest.mark.parametrize(
    ("fraction", "split", "word"),
    [(1.0, "train", "test_fraction"), (0.0, "test", "empty"), (0.1, "x", "split")],
)
def test_hold_out_refuses(fraction, split, word):
    with pytest.raises(ValueError, match=word):
        order.hold_out(10, fraction, split)
