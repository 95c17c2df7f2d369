"""Resizing: TensorFlow 1's bilinear rule against its definition, and PIL's cubic one against its own."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.evaluation.features.dinov2 import resize_bicubic
from diffusion.networks.resize import resize_bilinear_tf1


def by_definition(x, new):
    """Resize a line of whole numbers with rational arithmetic."""
    old, found = len(x), []
    for i in range(new):
        at = Fraction(i * old, new)
        low = at.numerator // at.denominator
        high = min(low + 1, old - 1)
        found.append(x[low] + (x[high] - x[low]) * (at - low))
    return np.array([float(v) for v in found])


@pytest.mark.parametrize(("old", "new"), [(2, 3), (3, 2), (32, 299), (8, 299), (1, 5), (640, 299)])
def test_bilinear_is_its_definition(old, new):
    """Positions are float32, below 640, so errors are at most 255 * 640 * 2^-23 of a level or so."""
    x = np.random.default_rng(old).integers(0, 256, old)
    wanted = by_definition([int(v) for v in x], new)
    down = jnp.asarray(np.broadcast_to(x[None, :, None, None], (1, old, old, 1)), jnp.float32)
    found = np.asarray(resize_bilinear_tf1(down, new))[0, :, :, 0]
    np.testing.assert_allclose(found, np.broadcast_to(wanted[:, None], (new, new)), atol=0.02)
    across = np.asarray(resize_bilinear_tf1(down.transpose(0, 2, 1, 3), new))[0, :, :, 0]
    np.testing.assert_allclose(across, found.T, atol=0.02)


def test_two_become_three():
    x = jnp.asarray([0.0, 3.0]).reshape(1, 2, 1, 1).repeat(2, axis=2)
    np.testing.assert_allclose(resize_bilinear_tf1(x, 3)[0, :, 0, 0], [0, 2, 3], atol=1e-6)


def test_constants_stay_and_the_same_size_is_the_same_image():
    x = jnp.full((1, 7, 5, 3), 37.0)
    np.testing.assert_array_equal(resize_bilinear_tf1(x, 299), np.full((1, 299, 299, 3), 37.0))
    y = jnp.asarray(np.random.default_rng(0).normal(size=(2, 9, 9, 3)), jnp.float32)
    np.testing.assert_array_equal(resize_bilinear_tf1(y, 9), y)


@pytest.mark.parametrize("old", [32, 640])
def test_it_is_not_the_resizing_of_jax(old):
    """Which shifts by half a pixel, and smooths before it shrinks: nobody may swap it in."""
    x = jnp.asarray(np.random.default_rng(1).integers(0, 256, (1, old, old, 1)), jnp.float32)
    other = jax.image.resize(x, (1, 299, 299, 1), "bilinear", antialias=True)
    assert float(jnp.abs(resize_bilinear_tf1(x, 299) - other).mean()) > 5  # levels


def test_a_size_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        resize_bilinear_tf1(jnp.zeros((1, 2, 2, 3)), 0)


def cubic(old, new):
    """Return the matrix of PIL's cubic resizing: a = -1/2, widened where the image shrinks."""
    scale = old / new
    width = 2 * max(scale, 1)
    matrix = np.zeros((new, old))
    for i in range(new):
        center = (i + 0.5) * scale
        low, high = max(int(center - width + 0.5), 0), min(int(center + width + 0.5), old)
        s = np.abs((np.arange(low, high) + 0.5 - center) / max(scale, 1))
        near, far = (1.5 * s - 2.5) * s * s + 1, ((-0.5 * s + 2.5) * s - 4) * s + 2
        weight = np.where(s < 1, near, np.where(s < 2, far, 0))
        matrix[i, low:high] = weight / weight.sum()
    return matrix


@pytest.mark.parametrize("shape", [(32, 32), (28, 20), (300, 260)])
def test_cubic_is_its_definition(shape):
    pytest.importorskip("PIL")
    x = np.random.default_rng(2).integers(0, 256, (2, *shape, 3)).astype(np.uint8)
    rows, columns = cubic(shape[0], 224), cubic(shape[1], 224)
    wanted = np.einsum("ij,bjkc,lk->bilc", rows, x.astype(float), columns, optimize=True)
    np.testing.assert_allclose(resize_bicubic(x, 224, "float"), wanted.clip(0, 255), atol=1e-3)
    rounded = resize_bicubic(x, 224, "8bit")
    np.testing.assert_array_equal(rounded, np.round(rounded))
    # Rounded and clipped after each direction: half a level each, and what clipping in between takes away.
    assert np.abs(rounded - wanted.clip(0, 255)).mean() < 1.5
    assert rounded.dtype == np.float32
