"""Data distributions with denoiser, score, density and flow in closed form.

Each is a record of arrays; `denoiser(process)` returns E[x_0 | x_t] as a callable pytree for any sampler.
The package is tested against these exact solutions, and they serve to try a definition before anything is
trained.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffusion.numerics import at_least, is_traced, per_example, positive, shaped
from diffusion.processes import AffineProcess, GaussianProcess
from diffusion.processes.base import require_process
from diffusion.types import Data, Denoiser, KeyLike, Scalar, Score, Time


def at(process: AffineProcess, x: Data, t: Time) -> tuple[Array, Array]:
    """Return alpha and sigma of shape (batch, 1), in the dtype of x."""
    t = jnp.asarray(t, x.dtype)
    scales = (jnp.asarray(c, x.dtype) for c in (process.alpha(t), process.sigma(t)))
    alpha, sigma = (jnp.broadcast_to(c, x.shape[:1])[:, None] for c in scales)
    return alpha, sigma


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Bound:
    """A method of a target bound to a process, as a callable pytree."""

    target: Any
    method: str = dataclasses.field(metadata={"static": True})
    process: AffineProcess = dataclasses.field(metadata={"static": True})

    def __call__(self, x_t: Data, t: Time) -> Array:
        return getattr(self.target, self.method)(self.process, x_t, t)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class GaussianMixture:
    """sum_k weights_k N(means_k, stds_k^2 I).

    Args:
        weights: (k,), normalized here if necessary.
        means: (k, ...data); (k,) means points on a line, data of shape (batch, 1).
        stds: (k,) or one number; 0 is a point mass.
    """

    weights: Any
    means: Any
    stds: Any

    def __post_init__(self) -> None:
        if is_traced(vars(self)) or not isinstance(
            self.means, np.ndarray | list | tuple | float | int
        ):
            return  # rebuilt by JAX from its leaves
        means = np.asarray(self.means, np.float64)
        means = means[:, None] if means.ndim == 1 else means
        weights = np.asarray(self.weights, np.float64)
        stds = np.broadcast_to(np.asarray(self.stds, np.float64), weights.shape)
        shaped("`weights`", weights, (len(means),), "one for each mean")
        positive(weights=weights.min())
        at_least(0, stds=stds.min())
        for name, value in (("weights", weights / weights.sum()), ("means", means), ("stds", stds)):
            object.__setattr__(self, name, value)

    def _parts(self, process: AffineProcess, x: Data, t: Time) -> tuple[Array, ...]:
        """Return alpha, flat x, flat means, variances and log-densities of the components, (batch, k)."""
        require_process(process, GaussianProcess, "the closed form of a Gaussian mixture")
        flat = x.reshape(len(x), 1, -1)
        means = jnp.asarray(self.means, x.dtype).reshape(len(self.means), -1)
        alpha, sigma = at(process, x, t)
        variance = alpha**2 * jnp.asarray(self.stds, x.dtype) ** 2 + sigma**2
        difference = flat - alpha[..., None] * means
        square = (difference**2).sum(axis=-1) / variance
        d = means.shape[-1]
        log_p = -0.5 * (square + d * jnp.log(2 * jnp.pi * variance)) + jnp.log(
            jnp.asarray(self.weights, x.dtype)
        )
        return alpha, difference, means, variance, log_p

    def mean(self, process: AffineProcess, x: Data, t: Time) -> Data:
        """Return E[x_0 | x_t = x]."""
        alpha, difference, means, variance, log_p = self._parts(process, x, t)
        gain = alpha * jnp.asarray(self.stds, x.dtype) ** 2 / variance
        component = means + gain[..., None] * difference
        posterior = jax.nn.softmax(log_p, axis=-1)
        return (posterior[..., None] * component).sum(axis=1).reshape(x.shape)

    def log_density(self, process: AffineProcess, x: Data, t: Time) -> Float[Array, " batch"]:
        """Return log p_t(x)."""
        return jax.nn.logsumexp(self._parts(process, x, t)[-1], axis=-1)

    def log_posterior(self, process: AffineProcess, x: Data, t: Time) -> Float[Array, "batch k"]:
        """Return log p(component | x_t = x), the exact classifier."""
        return jax.nn.log_softmax(self._parts(process, x, t)[-1], axis=-1)

    def denoiser(self, process: GaussianProcess) -> Denoiser:
        """Return E[x_0 | x_t] as a callable pytree."""
        return Bound(self, "mean", process)

    def score(self, process: GaussianProcess) -> Score:
        """Return grad log p_t by automatic differentiation of the log-density, independent of the denoiser."""
        return lambda x, t: jax.grad(lambda y: self.log_density(process, y, t).sum())(x)

    def component(self, k: int) -> "GaussianMixture":
        """Return component k as a target, the class-conditional distribution."""
        return GaussianMixture(
            np.ones(1), np.asarray(self.means)[k : k + 1], np.asarray(self.stds)[k : k + 1]
        )

    def sample(self, key: KeyLike, num_samples: int) -> Array:
        """Draw clean examples, (num_samples, ...data)."""
        key_k, key_z = jax.random.split(key)
        k = jax.random.choice(key_k, len(self.weights), (num_samples,), p=jnp.asarray(self.weights))
        means = jnp.asarray(self.means)[k]
        noise = jax.random.normal(key_z, means.shape, means.dtype)
        return means + per_example(jnp.asarray(self.stds)[k], means) * noise


def gaussian(mean: float = 0.3, std: float = 0.5, dim: int = 1) -> GaussianMixture:
    """Return N(mean, std^2 I) in `dim` dimensions, whose ODE also has a closed-form solution."""
    return GaussianMixture(np.ones(1), np.full((1, dim), mean), np.full(1, std))


def gaussian_flow(
    process: GaussianProcess, x: Data, t: Time, s: Time, mean: Scalar = 0.3, std: Scalar = 0.5
) -> Data:
    """Solve the ODE of N(m, std^2) exactly from x at t to s: x_s = alpha_s m + sqrt(V_s / V_t) (x - alpha_t m)."""
    alpha_t, sigma_t = process.alpha(t), process.sigma(t)
    alpha_s, sigma_s = process.alpha(s), process.sigma(s)
    ratio = (alpha_s**2 * std**2 + sigma_s**2) / (alpha_t**2 * std**2 + sigma_t**2)
    return alpha_s * mean + jnp.sqrt(ratio) * (x - alpha_t * mean)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class FinitePoints:
    """Weighted points, a finite data set, for any `AffineProcess` with a known noise density.

    Args:
        points: (n, ...data).
        weights: (n,), uniform by default.
    """

    points: Any
    weights: Any = None

    def _log_posterior(self, process: AffineProcess, x: Data, t: Time) -> Float[Array, "batch n"]:
        points = jnp.asarray(self.points, x.dtype)
        t = jnp.broadcast_to(jnp.asarray(t, x.dtype), x.shape[:1])
        likelihood = jax.vmap(lambda p: process.log_density(x, jnp.broadcast_to(p, x.shape), t))
        log_p = likelihood(points).T
        if self.weights is not None:
            log_p = log_p + jnp.log(jnp.asarray(self.weights, x.dtype))
        return log_p

    def mean(self, process: AffineProcess, x: Data, t: Time) -> Data:
        """Return E[x_0 | x_t = x], the mean of the points with posterior weights."""
        posterior = jax.nn.softmax(self._log_posterior(process, x, t), axis=-1)
        points = jnp.asarray(self.points, x.dtype)
        return jnp.tensordot(posterior, points, axes=1)

    def log_density(self, process: AffineProcess, x: Data, t: Time) -> Float[Array, " batch"]:
        """Return log p_t(x)."""
        log_p = self._log_posterior(process, x, t)
        norm = 0.0 if self.weights is not None else jnp.log(log_p.shape[-1])
        return jax.nn.logsumexp(log_p, axis=-1) - norm

    def denoiser(self, process: AffineProcess) -> Denoiser:
        """Return E[x_0 | x_t] as a callable pytree."""
        return Bound(self, "mean", process)
