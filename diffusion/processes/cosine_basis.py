"""The orthonormal cosine basis over the spatial axes of (batch, ..., channels), or of (batch, n)."""

import functools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from diffusion.types import Data


@functools.lru_cache(maxsize=16)
def dct_matrix(n: int) -> np.ndarray:
    """Return the orthonormal DCT-II matrix in float64: row k holds sqrt(2/n) cos(pi k (i + 1/2) / n)."""
    k, i = np.arange(n)[:, None], np.arange(n)[None]
    basis = np.sqrt(2 / n) * np.cos(np.pi * k * (i + 0.5) / n)
    basis[0] /= np.sqrt(2)
    return basis


def spatial_axes(x: Data) -> tuple[int, ...]:
    """Return the axes to transform: all but batch and channels, or axis 1 of vectors, (batch, n)."""
    return (1,) if x.ndim == 2 else tuple(range(1, x.ndim - 1))


def to_frequencies(x: Data) -> Data:
    """Return the coefficients V^T x, shaped like x."""
    return _apply(x, inverse=False)


def from_frequencies(c: Data) -> Data:
    """Return V c, the inverse of `to_frequencies`."""
    return _apply(c, inverse=True)


def _apply(x: Data, inverse: bool) -> Data:
    for axis in spatial_axes(x):
        basis = dct_matrix(x.shape[axis])
        matrix = jnp.asarray(basis.T if inverse else basis, x.dtype)
        x = jnp.moveaxis(jnp.tensordot(matrix, x, axes=(1, axis), precision="highest"), 0, axis)
    return x


def squared_frequencies(sizes: tuple[int, ...]) -> np.ndarray:
    """Return the eigenvalues of minus the Laplacian, sum_a (pi k_a / n_a)^2, of shape `sizes`."""
    parts = [(np.pi * np.arange(n) / n) ** 2 for n in sizes]
    return np.sum(np.stack(np.meshgrid(*parts, indexing="ij")), axis=0)


def scale_frequencies(x: Data, factors: Array) -> Data:
    """Return V (factors * V^T x)."""
    return from_frequencies(factors * to_frequencies(x))
