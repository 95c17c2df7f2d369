"""Gaussian data of any covariance: denoiser, score, density and flow in closed form."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffusion.numerics import is_traced, require
from diffusion.processes import AffineProcess, GaussianProcess
from diffusion.processes.base import require_process
from diffusion.testing.targets import Bound, at
from diffusion.types import Denoiser, KeyLike, Score, Time

Data = Float[Array, "batch d"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CorrelatedGaussian:
    """N(mean, covariance), the image of independent normals under a linear map.

    Args:
        mean: (d,).
        covariance: (d, d), symmetric and positive semi-definite; zero variances are allowed.
        variances: (d,), along the principal axes; computed.
        axes: (d, d), the principal axes as columns; computed.
    """

    mean: Any
    covariance: Any
    variances: Any = None
    axes: Any = None

    def __post_init__(self) -> None:
        if is_traced(vars(self)) or not isinstance(self.covariance, np.ndarray | list | tuple):
            return  # rebuilt by JAX from its leaves
        mean, cov = np.asarray(self.mean, np.float64), np.asarray(self.covariance, np.float64)
        require(
            mean.ndim == 1 and cov.shape == (len(mean), len(mean)),
            f"`mean` must be (d,) and `covariance` (d, d); got {list(mean.shape)} and {list(cov.shape)}.",
        )
        variances, axes = np.linalg.eigh((cov + cov.T) / 2)
        slack = 1e-10 * max(1.0, float(np.abs(cov).max()))
        require(
            np.allclose(cov, cov.T, atol=slack) and variances[0] >= -slack,
            f"`covariance` must be symmetric without negative eigenvalues; the smallest is {variances[0]:.3g}.",
        )
        fields = dict(mean=mean, covariance=cov, variances=np.maximum(variances, 0), axes=axes)
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    def _parts(self, process: AffineProcess, x: Data, t: Time) -> tuple[Array, ...]:
        """Return alpha, the axes, x - alpha mean along the axes, and the variances of the data and of x."""
        require_process(process, GaussianProcess, "the closed form of Gaussian data")
        alpha, sigma = at(process, x, t)
        axes, variances = jnp.asarray(self.axes, x.dtype), jnp.asarray(self.variances, x.dtype)
        along = (x - alpha * jnp.asarray(self.mean, x.dtype)) @ axes
        return alpha, axes, along, variances, alpha**2 * variances + sigma**2

    def posterior_mean(self, process: AffineProcess, x: Data, t: Time) -> Data:
        """Return E[x_0 | x_t = x]."""
        alpha, axes, along, variances, total = self._parts(process, x, t)
        return jnp.asarray(self.mean, x.dtype) + (alpha * variances / total * along) @ axes.T

    def log_density(self, process: AffineProcess, x: Data, t: Time) -> Float[Array, " batch"]:
        """Return log p_t(x)."""
        _, _, along, _, total = self._parts(process, x, t)
        return -0.5 * (along**2 / total + jnp.log(2 * jnp.pi * total)).sum(axis=-1)

    def flow(
        self, process: GaussianProcess, x: Data, t: Time, s: Time
    ) -> tuple[Data, Float[Array, " batch"]]:
        """Solve the ODE exactly from x at t to s; return x_s and log |det dx_s / dx_t|."""
        _, axes, along, _, before = self._parts(process, x, t)
        alpha_s, _, _, _, after = self._parts(process, x, s)
        stretch = jnp.sqrt(after / before)
        x_s = alpha_s * jnp.asarray(self.mean, x.dtype) + (stretch * along) @ axes.T
        return x_s, jnp.log(stretch).sum(axis=-1)

    def moments(self, process: GaussianProcess, t: Time) -> tuple[Array, Array]:
        """Return the mean (d,) and the covariance (d, d) of p_t."""
        alpha, sigma = process.alpha(t), process.sigma(t)
        cov = jnp.asarray(self.covariance)
        return alpha * jnp.asarray(self.mean), alpha**2 * cov + sigma**2 * jnp.eye(len(cov))

    def denoiser(self, process: GaussianProcess) -> Denoiser:
        """Return E[x_0 | x_t] as a callable pytree."""
        return Bound(self, "posterior_mean", process)

    def score(self, process: GaussianProcess) -> Score:
        """Return grad log p_t by automatic differentiation of the log-density, independent of the denoiser."""
        return lambda x, t: jax.grad(lambda y: self.log_density(process, y, t).sum())(x)

    def sample(self, key: KeyLike, num_samples: int) -> Array:
        """Draw clean examples, (num_samples, d)."""
        z = jax.random.normal(key, (num_samples, len(self.mean)))
        return jnp.asarray(self.mean) + (z * jnp.sqrt(self.variances)) @ jnp.asarray(self.axes).T
