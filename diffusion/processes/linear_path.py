"""Linear paths: x_t = mu_t(x_0) + sigma(t) x_T, for any prior and any map mu_t of the data.

With mu_0(x_0) = x_0, mu_T = 0, sigma(0) = 0 and sigma(t_max) = 1 both ends are exact, and (Su, kexue.fm
9379, example 2; Lipman et al., 2023, eq. 15)

    f_t(x_t | x_0) = d mu_t / dt + sigma'/sigma (x_t - mu_t)
    p_t(x_t | x_0) = p_T((x_t - mu_t) / sigma) / sigma^d
"""

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import jax.numpy as jnp
from jaxtyping import Array, Float

from diffusion.numerics import as_time, per_example, value_and_ddt
from diffusion.processes.cosine_basis import scale_frequencies, squared_frequencies
from diffusion.processes.interpolants import WithPrior
from diffusion.processes.inversion import along_time
from diffusion.registry import load, register
from diffusion.types import Data, Scalar, Time


@dataclass(frozen=True, kw_only=True)
class LinearPath(WithPrior):
    """x_t = mu(x_0, t) + sigma(t) x_T. Subclass it and write the two functions."""

    @abc.abstractmethod
    def mu(self, x_0: Data, t: Array) -> Data:
        """Return mu_t(x_0), any map of x_0 shaped like it; t is shaped so that it multiplies x_0."""

    @abc.abstractmethod
    def sigma(self, t: Time) -> Scalar:
        """Return the coefficient of the end point, increasing from 0 to 1, elementwise in t."""

    def _mu(self, x_0: Data, t: Time) -> Data:
        return self.mu(x_0, per_example(as_time(t), x_0))

    def _sigma(self, x: Data, t: Time) -> Array:
        return per_example(self.sigma(jnp.asarray(t, x.dtype)), x)

    def interpolate(self, x_0: Data, z: Data, t: Time) -> Data:
        """Return mu(x_0, t) + sigma(t) z."""
        return self._mu(x_0, t) + self._sigma(x_0, t) * z

    def noise_of(self, x_t: Data, x_0: Data, t: Time) -> Data:
        """Return (x_t - mu) / sigma."""
        return (x_t - self._mu(x_0, t)) / self._sigma(x_t, t)

    def conditional_velocity(self, x_t: Data, x_0: Data, t: Time) -> Data:
        """Return mu' + sigma'/sigma (x_t - mu)."""
        t = jnp.broadcast_to(jnp.asarray(t, x_t.dtype), x_t.shape[:1])
        mu, d_mu = along_time(lambda u: self._mu(x_0, u), t, x_t)
        sigma, d_sigma = value_and_ddt(self.sigma, t)
        return d_mu + per_example(d_sigma / sigma, x_t) * (x_t - mu)

    def log_density(self, x_t: Data, x_0: Data, t: Time) -> Float[Array, " batch"]:
        """Return log p_T((x_t - mu) / sigma) - d log sigma."""
        sigma = jnp.broadcast_to(self._sigma(x_t, t).reshape(-1), x_t.shape[:1])
        return self.noise_log_prob(self.noise_of(x_t, x_0, t)) - x_t[0].size * jnp.log(sigma)


def fading_blur(x_0: Array, t: Array) -> Array:
    """Return (1 - t) x_0; images and signals are also blurred, by a Gaussian of 4 t pixels.

    Points, (batch, d), are not blurred, since their coordinates have no spatial order.
    """
    if x_0.ndim < 3:
        return (1 - t) * x_0
    squares = squared_frequencies(x_0.shape[1:-1])[..., None]
    return (1 - t) * scale_frequencies(
        x_0, jnp.exp(-0.5 * (4 * t) ** 2 * jnp.asarray(squares, x_0.dtype))
    )


def time_itself(t: Array) -> Array:
    """Return t."""
    return t


@register("process", "linear_path")
@final
@dataclass(frozen=True, kw_only=True)
class GivenLinearPath(LinearPath):
    """x_t = mu(x_0, t) + sigma(t) x_T from two functions, or from "module:function" in a config.

    By default the data fade as (1 - t), images are also blurred (`fading_blur`), and sigma = t.
    """

    mu_fn: Callable[..., Array] | str = fading_blur
    sigma_fn: Callable[..., Scalar] | str = time_itself

    def mu(self, x_0: Data, t: Array) -> Data:
        return load(self.mu_fn)(x_0, t)

    def sigma(self, t: Time) -> Scalar:
        return load(self.sigma_fn)(as_time(t))
