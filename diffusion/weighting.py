"""How strongly each noise level counts in the loss.

A weight is a function of the process's coefficients at t and of `out`, the factor that turns an error of
the network's output into an error of the data. It multiplies the squared error of the *network's output*,
so that w(SNR) |x_0 - x_0_hat|^2 is the weight w(SNR) out^2. SNR is alpha^2 / sigma^2.

References: Song et al. 2021b (likelihood), Hang et al. 2023 (min-SNR), Salimans and Ho 2022
(truncated SNR, SNR + 1), Karras et al. 2022 (edm), Kingma and Gao 2023 (sigmoid).
"""

import abc
from dataclasses import dataclass
from typing import final

import jax
import jax.numpy as jnp
from jaxtyping import Array

from diffusion.numerics import require
from diffusion.registry import register
from diffusion.types import Coefficients, Scalar


def snr(c: Coefficients) -> Array:
    """Return alpha^2 / sigma^2."""
    return (c.alpha / c.sigma) ** 2


@dataclass(frozen=True, kw_only=True)
class Weight(abc.ABC):
    """A weight of noise levels."""

    @abc.abstractmethod
    def __call__(self, c: Coefficients, out: Array) -> Array:
        """Return the weight of |y - y_hat|^2, shaped like the coefficients."""


@register("weight", "simple")
@final
@dataclass(frozen=True, kw_only=True)
class Simple(Weight):
    """1 on the network's own target (Ho et al., 2020, eq. 14)."""

    def __call__(self, c: Coefficients, out: Array) -> Array:
        return jnp.ones_like(c.alpha)


@register("weight", "snr")
@final
@dataclass(frozen=True, kw_only=True)
class SNR(Weight):
    """SNR on the data: 1 on the noise."""

    def __call__(self, c: Coefficients, out: Array) -> Array:
        return snr(c) * out**2


@register("weight", "snr_plus_one")
@final
@dataclass(frozen=True, kw_only=True)
class SNRPlusOne(Weight):
    """SNR + 1 on the data: 1 on v, for a variance-preserving process."""

    def __call__(self, c: Coefficients, out: Array) -> Array:
        return (snr(c) + 1) * out**2


@register("weight", "truncated_snr")
@final
@dataclass(frozen=True, kw_only=True)
class TruncatedSNR(Weight):
    """max(SNR, 1) on the data."""

    def __call__(self, c: Coefficients, out: Array) -> Array:
        return jnp.maximum(snr(c), 1) * out**2


@register("weight", "min_snr")
@final
@dataclass(frozen=True, kw_only=True)
class MinSNR(Weight):
    """min(SNR, gamma) on the data."""

    gamma: Scalar = 5.0

    def __post_init__(self) -> None:
        require(self.gamma > 0, f"`gamma` must be positive; got {self.gamma}.")

    def __call__(self, c: Coefficients, out: Array) -> Array:
        return jnp.minimum(snr(c), self.gamma) * out**2


@register("weight", "sigmoid")
@final
@dataclass(frozen=True, kw_only=True)
class Sigmoid(Weight):
    """sigmoid(bias - log SNR) on the noise, so SNR times that on the data."""

    bias: Scalar = -1.0

    def __call__(self, c: Coefficients, out: Array) -> Array:
        return snr(c) * jax.nn.sigmoid(self.bias - jnp.log(snr(c))) * out**2


@register("weight", "edm")
@final
@dataclass(frozen=True, kw_only=True)
class EDMWeight(Weight):
    """((alpha sigma_data)^2 + sigma^2) / (sigma sigma_data)^2 on the data: 1 on the edm target."""

    sigma_data: Scalar = 0.5

    def __call__(self, c: Coefficients, out: Array) -> Array:
        total = (c.alpha * self.sigma_data) ** 2 + c.sigma**2
        return total / (c.sigma * self.sigma_data) ** 2 * out**2


@register("weight", "likelihood")
@final
@dataclass(frozen=True, kw_only=True)
class Likelihood(Weight):
    """-1/2 dSNR/dt on the data, which makes the loss an upper bound of -log p, up to a constant.

    In terms of the score it is g^2 / 2. -1/2 dSNR/dt = alpha (alpha sigma' - alpha' sigma) / sigma^3.
    """

    def __call__(self, c: Coefficients, out: Array) -> Array:
        wronskian = c.alpha * c.d_sigma - c.d_alpha * c.sigma
        return c.alpha * wronskian / c.sigma**3 * out**2
