"""Convolutions in forms that compile to faster programs; values and weights are those of standard convolutions.

Arrays are (batch, *space, channels) and kernels (*window, in, out). Both functions have the arguments of
`jax.lax.conv_general_dilated`, which they replace in Linen.
"""

import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffusion.networks.base import precision
from diffusion.networks.initializers import kernel

Features = Float[Array, "batch *space channels"]
NewFeatures = Float[Array, "batch *new_space new_channels"]
Kernel = Float[Array, "*window channels new_channels"]


def conv(
    features: int,
    dims: int,
    dtype: str,
    *,
    size: int = 3,
    stride: int = 1,
    repeat: bool = False,
    zero: bool = False,
    name: str | None = None,
) -> nn.Conv:
    """Return a convolution over `dims` spatial axes.

    Args:
        features: number of output channels.
        dims: number of spatial axes, 1 or 2.
        dtype: dtype of the computation.
        size: size of the window along every axis.
        stride: stride of the window.
        repeat: first repeat every value twice along each spatial axis; for windows of size 3 with stride 1.
        zero: initialize as the constant 0.
        name: name of the layer.
    """
    special = conv_of_repeated if repeat else pointwise if size == stride == 1 else None
    return nn.Conv(
        features,
        (size,) * dims,
        strides=stride,
        kernel_init=kernel(zero),
        conv_general_dilated=special,
        **precision(dtype),
        name=name,
    )


def pointwise(x: Features, w: Kernel, *_: Any, **options: Any) -> NewFeatures:
    """Return the convolution with a window of size one, as a matrix product with one row per spatial position."""
    y = jnp.matmul(
        x.reshape(-1, x.shape[-1]), w[(0,) * (w.ndim - 2)], precision=options.get("precision")
    )
    return y.reshape(*x.shape[:-1], w.shape[-1])


def _summed(w: Kernel, axis: int, odd: int) -> Array:
    """Return the two weights along an axis that are equivalent to three weights on x_0 x_0 x_1 x_1 ...

    At position 2i they multiply x_{i-1} and x_i, at 2i + 1 x_i and x_{i+1}.
    """
    first, middle, last = jnp.moveaxis(w, axis, 0)
    pair = (first + middle, last) if odd else (first, middle + last)
    return jnp.stack(pair, axis)


def conv_of_repeated(x: Features, w: Kernel, *_: Any, **options: Any) -> NewFeatures:
    """Return the zero-padded convolution, with a window of 3, of x repeated twice along every spatial axis.

    Each of the 2^d classes of positions (even or odd along each axis) is a convolution of x itself with a window
    of 2: for images 4/9 of the multiplications, without computing the repeated array (Shi et al., 2016,
    arXiv 1609.07009).
    """
    axes = range(x.ndim - 2)
    named = {k: options[k] for k in ("dimension_numbers", "precision") if k in options}
    parts = {}
    for odd in itertools.product((0, 1), repeat=len(axes)):
        summed = w.astype(jnp.promote_types(w.dtype, jnp.float32))
        for axis in axes:
            summed = _summed(summed, axis, odd[axis])
        padding = [(1 - o, o) for o in odd]
        parts[odd] = jax.lax.conv_general_dilated(
            x, summed.astype(w.dtype), (1,) * len(axes), padding, **named
        )
    for axis in reversed(axes):
        heads = {odd[:axis] for odd in parts}
        parts = {head: interleave(parts[*head, 0], parts[*head, 1], axis + 1) for head in heads}
    return parts[()]


def interleave(even: Array, odd: Array, axis: int) -> Array:
    """Interleave two arrays along an axis."""
    both = jnp.stack([even, odd], axis=axis + 1)
    return both.reshape(*even.shape[:axis], 2 * even.shape[axis], *even.shape[axis + 1 :])
