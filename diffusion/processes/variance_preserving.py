"""Processes of bounded variance: linear beta, sub-VP, cosine, trigonometric, exp(-5 t^2).

Formulas use expm1 and products of sines, because in float32 1 - alpha^2 loses nearly all digits of sigma^2
below t = 1e-4.
"""

from dataclasses import dataclass
from typing import final

import jax.numpy as jnp
from jaxtyping import Array

from diffusion.numerics import as_time, at_least, positive
from diffusion.processes.base import GaussianProcess
from diffusion.registry import register
from diffusion.types import Scalar, Time


@dataclass(frozen=True, kw_only=True)
class _LinearBeta(GaussianProcess):
    """Base class of VP and sub-VP: beta(t) = beta_min + t (beta_max - beta_min) and its integral."""

    beta_min: Scalar = 0.1
    beta_max: Scalar = 20.0

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(beta_min=self.beta_min)
        at_least(self.beta_min, beta_max=self.beta_max)

    def beta(self, t: Time) -> Array:
        """Return the noise rate."""
        return self.beta_min + as_time(t) * (self.beta_max - self.beta_min)

    def log_alpha(self, t: Time) -> Array:
        """Return -1/2 of the integral of beta from 0 to t."""
        t = as_time(t)
        return -0.25 * t**2 * (self.beta_max - self.beta_min) - 0.5 * t * self.beta_min

    def alpha(self, t: Time) -> Array:
        return jnp.exp(self.log_alpha(t))

    def f(self, t: Time) -> Array:
        return -0.5 * self.beta(t)


@register("process", "vp")
@final
@dataclass(frozen=True, kw_only=True)
class VariancePreserving(_LinearBeta):
    """dx = -beta(t)/2 x dt + sqrt(beta(t)) dW with linear beta (Song et al., 2021, eq. 11)."""

    def sigma(self, t: Time) -> Array:
        return jnp.sqrt(-jnp.expm1(2 * self.log_alpha(t)))

    def log_snr(self, t: Time) -> Array:
        log_alpha = self.log_alpha(t)
        return 2 * log_alpha - jnp.log(-jnp.expm1(2 * log_alpha))

    def g(self, t: Time) -> Array:
        return jnp.sqrt(self.beta(t))

    def time_of_log_snr(self, log_snr: Time) -> Array:
        integral = jnp.logaddexp(-as_time(log_snr), 0.0)  # of beta: -2 log alpha
        slope = self.beta_max - self.beta_min
        return 2 * integral / (self.beta_min + jnp.sqrt(self.beta_min**2 + 2 * slope * integral))


@register("process", "sub_vp")
@final
@dataclass(frozen=True, kw_only=True)
class SubVariancePreserving(_LinearBeta):
    """dx = -beta/2 x dt + sqrt(beta (1 - exp(-2 B))) dW, B the integral of beta (Song et al., 2021, eq. 13).

    The variance is the square of VP's, sigma = 1 - alpha^2.
    """

    def sigma(self, t: Time) -> Array:
        return -jnp.expm1(2 * self.log_alpha(t))

    def g(self, t: Time) -> Array:
        return jnp.sqrt(-self.beta(t) * jnp.expm1(4 * self.log_alpha(t)))


@register("process", "cosine")
@final
@dataclass(frozen=True, kw_only=True)
class Cosine(GaussianProcess):
    """alpha^2 = cos^2(u) / cos^2(u_0), u = pi/2 (t + s)/(1 + s), variance preserving.

    Nichol and Dhariwal (2021), eq. 17, in continuous time. alpha vanishes at t = 1, so the default t_max is
    below 1.
    """

    t_max: Scalar = 0.999
    s: Scalar = 0.008

    @property
    def t_domain(self) -> tuple[Scalar, Scalar]:
        return 0.0, 1.0

    def _angles(self, t: Time) -> tuple[Array, Scalar]:
        return 0.5 * jnp.pi * (as_time(t) + self.s) / (1 + self.s), (
            0.5 * jnp.pi * self.s / (1 + self.s)
        )

    def alpha(self, t: Time) -> Array:
        _, u_0 = self._angles(t)
        # sine of the complement: the cosine loses all relative accuracy as it vanishes at t = 1
        return jnp.sin(0.5 * jnp.pi * (1 - as_time(t)) / (1 + self.s)) / jnp.cos(u_0)

    def sigma(self, t: Time) -> Array:
        u, u_0 = self._angles(t)
        difference = 0.5 * jnp.pi * as_time(t) / (1 + self.s)
        # cos^2 u_0 - cos^2 u = sin(u - u_0) sin(u + u_0)
        return jnp.sqrt(jnp.sin(difference) * jnp.sin(u + u_0)) / jnp.cos(u_0)

    def f(self, t: Time) -> Array:
        complement = 0.5 * jnp.pi * (1 - as_time(t)) / (1 + self.s)
        # ratio of sines: tan of the complement is inaccurate near the data, tan of the angle near t = 1
        return -0.5 * jnp.pi / (1 + self.s) * jnp.sin(self._angles(t)[0]) / jnp.sin(complement)

    def g(self, t: Time) -> Array:
        return jnp.sqrt(-2 * self.f(t))  # variance preserving: g^2 = -2 f


@register("process", "trigonometric")
@final
@dataclass(frozen=True, kw_only=True)
class Trigonometric(GaussianProcess):
    """x_t = cos(pi t / 2) x_0 + sin(pi t / 2) z (Albergo and Vanden-Eijnden, 2023)."""

    t_max: Scalar = 0.999

    @property
    def t_domain(self) -> tuple[Scalar, Scalar]:
        return 0.0, 1.0

    def alpha(self, t: Time) -> Array:
        return jnp.sin(0.5 * jnp.pi * (1 - as_time(t)))

    def sigma(self, t: Time) -> Array:
        return jnp.sin(0.5 * jnp.pi * as_time(t))

    def f(self, t: Time) -> Array:
        # not tan, for the reason in `Cosine.f`
        return -0.5 * jnp.pi * self.sigma(t) / self.alpha(t)

    def g(self, t: Time) -> Array:
        return jnp.sqrt(-2 * self.f(t))


@register("process", "proportional_beta_limit", renamed_from="article_limit")
@final
@dataclass(frozen=True, kw_only=True)
class ProportionalBetaLimit(GaussianProcess):
    """alpha = exp(-rate t^2): the limit of alpha_t = sqrt(1 - 0.02 t/T) (Su, kexue.fm 9119, 9209)."""

    rate: Scalar = 5.0

    def alpha(self, t: Time) -> Array:
        return jnp.exp(-self.rate * as_time(t) ** 2)

    def sigma(self, t: Time) -> Array:
        return jnp.sqrt(-jnp.expm1(-2 * self.rate * as_time(t) ** 2))

    def f(self, t: Time) -> Array:
        return -2 * self.rate * as_time(t)

    def g(self, t: Time) -> Array:
        return 2 * jnp.sqrt(self.rate * as_time(t))
