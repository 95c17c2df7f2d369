"""Bilinear resizing by the rule of TensorFlow 1, with which published networks were trained.

Row i of the output reads from row i * (old / new) of the input, without a shift by half a pixel and
without antialiasing when the image shrinks. `jax.image.resize` has both, so its results differ.
Images are (batch, height, width, channels).
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffusion.numerics import at_least


def _rows(old: int, new: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the two input rows from which each output row reads, and the weight of the second.

    Computed in float32, as in TensorFlow's kernel: 298 * (32 / 299) is not the same in float64.
    """
    at = np.arange(new, dtype=np.float32) * (np.float32(old) / np.float32(new))
    low = np.minimum(np.floor(at).astype(np.int32), old - 1)
    return low, np.minimum(low + 1, old - 1), at - low.astype(np.float32)


def _along(x: Array, axis: int, new: int) -> Array:
    low, high, weight = _rows(x.shape[axis], new)
    weight = weight.reshape(-1, *([1] * (x.ndim - 1 - axis))).astype(x.dtype)
    first, second = jnp.take(x, low, axis=axis), jnp.take(x, high, axis=axis)
    return first + (second - first) * weight


def resize_bilinear_tf1(
    x: Float[Array, "batch height width channels"], size: int
) -> Float[Array, "batch {size} {size} channels"]:
    """Resize images to size x size as `tf.image.resize_bilinear` of TensorFlow 1 does.

    Raises:
        ValueError: the size is not positive.
    """
    at_least(1, size=size)
    if x.shape[1:3] == (size, size):
        return x
    return _along(_along(x, 2, size), 1, size)
