"""Positions of tokens on a grid of one or two dimensions.

A grid is the tuple of numbers of tokens per axis, (height, width) or (length,); tokens are in row-major
order. Tables are computed on the host in float64.

References: Vaswani et al. 2017 (sines and cosines), Su et al. 2021 (rotary; axial for images, with the
base 100 of Heo et al. 2024, since images have few tokens per axis).
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffusion.networks.base import precision
from diffusion.networks.initializers import normal
from diffusion.numerics import multiple_of

POSITIONS = ("rotary", "learned", "sincos", "none")


def coordinates(grid: tuple[int, ...]) -> Float[np.ndarray, "tokens axes"]:
    """Return the integer coordinates of all tokens of a grid."""
    return (
        np.stack(np.meshgrid(*map(np.arange, grid), indexing="ij"), -1).reshape(-1, len(grid)) * 1.0
    )


def sincos_positions(grid: tuple[int, ...], features: int) -> Float[np.ndarray, "tokens features"]:
    """Return sines and cosines of the coordinates, with an equal number of features for every axis.

    Raises:
        ValueError: the number of features is not a multiple of twice the number of axes.
    """
    divisor = 2 * len(grid)
    multiple_of(divisor, width=features, hint="Positions 'sincos' divide it.")
    w = 10_000.0 ** -(np.arange(features // divisor) * divisor / features)
    angles = (coordinates(grid)[:, :, None] * w).reshape(math.prod(grid), -1)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=-1)


def rotary_angles(
    grid: tuple[int, ...], head_features: int, base: float = 100.0
) -> Float[np.ndarray, "tokens pairs"]:
    """Return the angle by which each pair of features of a head is rotated at each token.

    Raises:
        ValueError: the pairs of a head cannot be divided equally among the axes.
    """
    divisor = 2 * len(grid)
    multiple_of(divisor, features=head_features, of="a rotary head", hint="Change `heads`.")
    w = base ** -(np.arange(head_features // divisor) * divisor / head_features)
    return (coordinates(grid)[:, :, None] * w).reshape(math.prod(grid), -1)


def rotate(
    x: Float[Array, "batch tokens heads features"],
    angles: Float[np.ndarray, "tokens pairs"] | Float[Array, "tokens pairs"],
) -> Float[Array, "batch tokens heads features"]:
    """Rotate the pairs (first half, second half) of features by the angles of their token.

    Inner products of two rotated vectors depend on the difference of their positions only.
    """
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    turn = jnp.asarray(angles, dtype)[:, None]
    cos, sin = jnp.cos(turn), jnp.sin(turn)
    a, b = jnp.split(x.astype(dtype), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1).astype(x.dtype)


class LearnedPositions(nn.Module):
    """A learned vector per token, interpolated on grids other than that of training."""

    features: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, grid: tuple[int, ...]) -> Float[Array, "tokens features"]:
        """Return the table for a grid, (tokens, features)."""
        shape = (*grid, self.features)
        if self.has_variable("params", "table"):
            table = nn.unbox(self.get_variable("params", "table"))
        else:
            dtype = precision(self.dtype)["param_dtype"]
            table = self.param("table", normal(0.02), shape, dtype)
        if table.shape != shape:
            table = jax.image.resize(table, shape, "linear")
        return table.reshape(-1, self.features)
