"""The straight line between data and Gaussian noise."""

from dataclasses import dataclass
from typing import final

import jax.numpy as jnp
from jaxtyping import Array

from diffusion.numerics import as_time
from diffusion.processes.base import GaussianProcess
from diffusion.registry import register
from diffusion.types import Scalar, Time


@register("process", "rectified_flow")
@final
@dataclass(frozen=True, kw_only=True)
class RectifiedFlow(GaussianProcess):
    """x_t = (1 - t) x_0 + t z (Liu et al., 2023; Lipman et al., 2023; Su, kexue.fm 9497).

    The drift f = -1 / (1 - t) is singular at t = 1, so the default t_max is below 1; a solver that uses only
    alpha and sigma may start from 1.
    """

    t_max: Scalar = 0.999

    @property
    def t_domain(self) -> tuple[Scalar, Scalar]:
        return 0.0, 1.0

    def alpha(self, t: Time) -> Array:
        return 1 - as_time(t)

    def sigma(self, t: Time) -> Array:
        return as_time(t)

    def f(self, t: Time) -> Array:
        return -1 / (1 - as_time(t))

    def g(self, t: Time) -> Array:
        return jnp.sqrt(2 * as_time(t) / (1 - as_time(t)))

    def time_of_log_snr(self, log_snr: Time) -> Array:
        return 1 / (1 + jnp.exp(0.5 * as_time(log_snr)))
