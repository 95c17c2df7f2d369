"""Processes that only add noise: alpha = 1."""

from dataclasses import dataclass
from typing import final

import jax.numpy as jnp
from jaxtyping import Array

from diffusion.numerics import as_time, ordered, positive
from diffusion.processes.base import GaussianProcess
from diffusion.registry import register
from diffusion.types import Scalar, Time


@register("process", "ve")
@final
@dataclass(frozen=True, kw_only=True)
class VarianceExploding(GaussianProcess):
    """x_t = x_0 + sigma_min (sigma_max / sigma_min)^t z (Song et al., 2021, eq. 30).

    The marginal is the definition, so that sigma(0) = sigma_min. The SDE dx = g dW that starts at t = 0
    from clean data has the variance sigma^2(t) - sigma_min^2 instead, a difference that matters near
    the data: start it from the marginal at t_min.
    """

    t_min: Scalar = 0.0
    sigma_min: Scalar = 0.01
    sigma_max: Scalar = 50.0

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(sigma_min=self.sigma_min)
        ordered(sigma_min=self.sigma_min, sigma_max=self.sigma_max)

    def _log_ratio(self) -> Array:
        return jnp.log(self.sigma_max) - jnp.log(self.sigma_min)

    def alpha(self, t: Time) -> Array:
        return jnp.ones_like(as_time(t))

    def sigma(self, t: Time) -> Array:
        return self.sigma_min * jnp.exp(as_time(t) * self._log_ratio())

    def f(self, t: Time) -> Array:
        return jnp.zeros_like(as_time(t))

    def g(self, t: Time) -> Array:
        return self.sigma(t) * jnp.sqrt(2 * self._log_ratio())

    def time_of_log_snr(self, log_snr: Time) -> Array:
        return (-0.5 * as_time(log_snr) - jnp.log(self.sigma_min)) / self._log_ratio()


@register("process", "edm")
@final
@dataclass(frozen=True, kw_only=True)
class EDM(GaussianProcess):
    """x_t = x_0 + t z: the time is the noise level sigma (Karras et al., 2022, table 1)."""

    t_min: Scalar = 0.002
    t_max: Scalar = 80.0

    @property
    def t_domain(self) -> tuple[Scalar, Scalar]:
        return 0.0, float("inf")

    def alpha(self, t: Time) -> Array:
        return jnp.ones_like(as_time(t))

    def sigma(self, t: Time) -> Array:
        return as_time(t)

    def f(self, t: Time) -> Array:
        return jnp.zeros_like(as_time(t))

    def g(self, t: Time) -> Array:
        return jnp.sqrt(2 * as_time(t))

    def time_of_log_snr(self, log_snr: Time) -> Array:
        return jnp.exp(-0.5 * as_time(log_snr))
