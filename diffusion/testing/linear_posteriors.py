"""Posteriors of linear measurements in closed form, the reference for samples of p(x_0 | y).

For y = A x_0 + std n and normal data N(m, S), with the gain K = S A^T (A S A^T + std^2 I)^-1,

    x_0 | y  ~  N(m + K (y - A m), S - K A S)

A mixture remains one: component k is conditioned as above and weighted by w_k N(y; A m_k, A S_k A^T + std^2 I).
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffusion.inverse_problems.operators import Operator
from diffusion.numerics import require
from diffusion.processes import AffineProcess, GaussianProcess
from diffusion.registry import takes_names
from diffusion.testing.correlated import CorrelatedGaussian
from diffusion.testing.targets import Bound, GaussianMixture
from diffusion.types import Denoiser, KeyLike, Time

Data = Float[Array, "batch d"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CorrelatedMixture:
    """sum_k weights_k N(mean_k, covariance_k), with a tuple of `CorrelatedGaussian` as components."""

    weights: Any
    components: Any

    def log_density(self, process: AffineProcess, x: Data, t: Time) -> Float[Array, " batch"]:
        """Return log p_t(x)."""
        return jax.nn.logsumexp(self._log_joint(process, x, t), axis=-1)

    def _log_joint(self, process: AffineProcess, x: Data, t: Time) -> Float[Array, "batch k"]:
        parts = [c.log_density(process, x, t) for c in self.components]
        return jnp.stack(parts, axis=-1) + jnp.log(jnp.asarray(self.weights, x.dtype))

    def posterior_mean(self, process: AffineProcess, x: Data, t: Time) -> Data:
        """Return E[x_0 | x_t = x]."""
        fraction = jax.nn.softmax(self._log_joint(process, x, t), axis=-1)
        means = [c.posterior_mean(process, x, t) for c in self.components]
        return (fraction[..., None] * jnp.stack(means, axis=1)).sum(axis=1)

    def denoiser(self, process: GaussianProcess) -> Denoiser:
        """Return E[x_0 | x_t] as a callable pytree."""
        return Bound(self, "posterior_mean", process)

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean (d,) and the covariance (d, d) of the data."""
        w = np.asarray(self.weights)
        means = np.stack([np.asarray(c.mean) for c in self.components])
        within = sum(
            w_k * np.asarray(c.covariance) for w_k, c in zip(w, self.components, strict=True)
        )
        mean = w @ means
        return mean, within + (means - mean).T @ (w[:, None] * (means - mean))

    def sample(self, key: KeyLike, num_samples: int) -> Array:
        """Draw clean examples, (num_samples, d)."""
        key_k, *keys = jax.random.split(key, 1 + len(self.components))
        k = jax.random.choice(
            key_k, len(self.components), (num_samples,), p=jnp.asarray(self.weights)
        )
        draws = [c.sample(key, num_samples) for key, c in zip(keys, self.components, strict=True)]
        return jnp.take_along_axis(jnp.stack(draws), k[None, :, None], axis=0)[0]


def matrix_of(operator: Operator, shape: tuple[int, ...]) -> Float[np.ndarray, "rows columns"]:
    """Return the matrix of an operator on flattened examples of a shape, one row per entry of y."""
    size = int(np.prod(shape))
    columns = operator.forward(jnp.eye(size).reshape(size, *shape))
    return np.asarray(columns, np.float64).reshape(size, -1).T


def _conditioned(
    mean: np.ndarray, covariance: np.ndarray, A: np.ndarray, y: np.ndarray, std: float
) -> tuple[CorrelatedGaussian, float]:
    """Return N(m, S) conditioned on y, and log p(y) up to a constant that all components share."""
    total = A @ covariance @ A.T + std**2 * np.eye(len(A))
    used = np.flatnonzero(np.abs(A).sum(axis=1) > 0)  # without the zero rows of a mask
    A, y, total = A[used], y[used], total[np.ix_(used, used)]
    gain = np.linalg.solve(total, A @ covariance).T
    off = y - A @ mean
    found = covariance - gain @ A @ covariance
    log_p = -0.5 * (off @ np.linalg.solve(total, off) + np.linalg.slogdet(total)[1])
    return CorrelatedGaussian(mean + gain @ off, (found + found.T) / 2), float(log_p)


@takes_names
def linear_posterior(
    data: CorrelatedGaussian | GaussianMixture,
    operator: Operator,
    y: Float[Array, " 1 *out"] | Float[np.ndarray, " 1 *out"],
    std: float = 0.0,
) -> CorrelatedGaussian | CorrelatedMixture:
    """Return p(x_0 | y) for y = A x_0 + std n.

    Args:
        data: distribution of x_0, vectors (d,).
        operator: A on examples of shape (d,).
        y: one measurement, (1, ...).
        std: standard deviation of its noise; if 0, the rows of A must be linearly independent.

    Raises:
        ValueError: the data are not vectors.
    """
    flat = np.asarray(y, np.float64).reshape(-1)
    if isinstance(data, CorrelatedGaussian):
        mean, covariance = np.asarray(data.mean), np.asarray(data.covariance)
        return _conditioned(mean, covariance, matrix_of(operator, mean.shape), flat, std)[0]
    means = np.asarray(data.means)
    require(means.ndim == 2, f"`data` must be made of vectors; got means of shape {means.shape}.")
    A, eye = matrix_of(operator, means.shape[1:]), np.eye(means.shape[1])
    pairs = [
        _conditioned(m, s**2 * eye, A, flat, std)
        for m, s in zip(means, np.asarray(data.stds), strict=True)
    ]
    log_w = np.log(np.asarray(data.weights)) + np.array([log_p for _, log_p in pairs])
    weights = np.exp(log_w - log_w.max())
    return CorrelatedMixture(weights / weights.sum(), tuple(c for c, _ in pairs))
