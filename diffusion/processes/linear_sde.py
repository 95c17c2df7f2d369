"""Processes defined by the drift and diffusion coefficients of a linear SDE.

    dx = drift(t) x dt + diffusion(t) dW
    alpha(t) = exp(integral of drift),  sigma(t)^2 = integral of (diffusion(u) alpha(t) / alpha(u))^2

Both integrals are Gauss-Legendre sums of 48 nodes: differentiable, and exact to round-off for smooth
coefficients.
"""

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import jax.numpy as jnp
from jaxtyping import Array

from diffusion.numerics import as_time, integral
from diffusion.processes.base import GaussianProcess
from diffusion.registry import load, register
from diffusion.types import Scalar, Time


@dataclass(frozen=True, kw_only=True)
class LinearSDE(GaussianProcess):
    """dx = drift(t) x dt + diffusion(t) dW. Subclass it and write the two functions."""

    @abc.abstractmethod
    def drift(self, t: Time) -> Scalar:
        """Return the coefficient of x, per unit time, elementwise in t."""

    @abc.abstractmethod
    def diffusion(self, t: Time) -> Scalar:
        """Return the coefficient of dW, elementwise in t."""

    def log_alpha(self, t: Time) -> Array:
        """Return the integral of the drift from 0 to t."""
        return integral(lambda u: jnp.broadcast_to(self.drift(u), u.shape), t)

    def alpha(self, t: Time) -> Array:
        return jnp.exp(self.log_alpha(t))

    def sigma(self, t: Time) -> Array:
        log_alpha_t = self.log_alpha(t)[..., None]

        def integrand(u: Array) -> Array:
            return (self.diffusion(u) * jnp.exp(log_alpha_t - self.log_alpha(u))) ** 2

        return jnp.sqrt(integral(integrand, t))

    def f(self, t: Time) -> Array:
        t = as_time(t)
        return jnp.broadcast_to(jnp.asarray(self.drift(t), t.dtype), t.shape)

    def g(self, t: Time) -> Array:
        t = as_time(t)
        return jnp.broadcast_to(jnp.asarray(self.diffusion(t), t.dtype), t.shape)


def linear_beta_drift(t: Array) -> Array:
    """Return the drift of the VP process with its default beta."""
    return -0.5 * (0.1 + 19.9 * t)


def linear_beta_diffusion(t: Array) -> Array:
    """Return the diffusion of the VP process with its default beta."""
    return jnp.sqrt(0.1 + 19.9 * t)


@register("process", "linear_sde")
@final
@dataclass(frozen=True, kw_only=True)
class GivenLinearSDE(LinearSDE):
    """dx = drift(t) x dt + diffusion(t) dW from two functions, or from "module:function" in a config.

    The default functions are those of `vp`.
    """

    drift_fn: Callable[[Array], Scalar] | str = linear_beta_drift
    diffusion_fn: Callable[[Array], Scalar] | str = linear_beta_diffusion

    def drift(self, t: Time) -> Scalar:
        return load(self.drift_fn)(as_time(t))

    def diffusion(self, t: Time) -> Scalar:
        return load(self.diffusion_fn)(as_time(t))
