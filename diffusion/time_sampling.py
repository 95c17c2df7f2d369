"""Which times are trained on.

A distribution of t is its quantile function: a uniform number in (0, 1) becomes a time in [t_min, t_max].
`stratified` replaces independent uniform numbers by u_i = u + i / batch (mod 1), one random shift per
batch (Kingma et al., 2021), which lowers the variance of the loss for every distribution. Row i of a
batch gets a number that depends on the key and on i alone, whatever devices the rows lie on.
"""

import abc
from dataclasses import dataclass
from typing import final

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from diffusion.numerics import require, row_keys
from diffusion.processes import AffineProcess, Process
from diffusion.processes.base import require_rung
from diffusion.registry import register
from diffusion.types import Key, Scalar


@dataclass(frozen=True, kw_only=True)
class TimeDistribution(abc.ABC):
    """A distribution of training times."""

    stratified: bool = False

    @abc.abstractmethod
    def quantile(self, process: Process, u: Float[Array, " batch"]) -> Float[Array, " batch"]:
        """Return the time below which a share u of the training times lies."""

    def draw(
        self, process: Process, key: Key, row: Int[Array, " batch"], batch_size: int
    ) -> Float[Array, " batch"]:
        """Draw one time per row.

        Args:
            process: the process that will be trained.
            key: one key for the whole batch.
            row: the numbers of these rows within the global batch.
            batch_size: the size of the global batch.
        """
        if self.stratified:
            u = (jax.random.uniform(key) + row / batch_size) % 1.0
        else:
            u = jax.vmap(jax.random.uniform)(row_keys(key, row))
        t = self.quantile(process, u)
        return jnp.clip(t, jnp.asarray(process.t_min, t.dtype), jnp.asarray(process.t_max, t.dtype))


@register("time", "uniform")
@final
@dataclass(frozen=True, kw_only=True)
class UniformTime(TimeDistribution):
    """t uniform on [t_min, t_max]."""

    def quantile(self, process: Process, u: Array) -> Array:
        return process.t_min + (process.t_max - process.t_min) * u


@register("time", "low_discrepancy")
@final
@dataclass(frozen=True, kw_only=True)
class LowDiscrepancyTime(TimeDistribution):
    """t uniform on [t_min, t_max], evenly spread over each batch (Kingma et al., 2021, appendix I.1)."""

    stratified: bool = True

    def quantile(self, process: Process, u: Array) -> Array:
        return process.t_min + (process.t_max - process.t_min) * u


@register("time", "uniform_log_snr")
@final
@dataclass(frozen=True, kw_only=True)
class UniformLogSNRTime(TimeDistribution):
    """The log-SNR uniform between its ends."""

    def quantile(self, process: AffineProcess, u: Array) -> Array:
        require_rung(process, AffineProcess, "the time distribution uniform_log_snr")
        high, low = process.log_snr(process.t_min), process.log_snr(process.t_max)
        return process.time_of_log_snr(high + (low - high) * u)


@register("time", "log_normal")
@final
@dataclass(frozen=True, kw_only=True)
class LogNormalTime(TimeDistribution):
    """log(sigma / alpha) normal with this mean and standard deviation (Karras et al., 2022, table 1)."""

    mean: Scalar = -1.2
    std: Scalar = 1.2

    def __post_init__(self) -> None:
        require(self.std > 0, f"`std` must be positive; got {self.std}.")

    def quantile(self, process: AffineProcess, u: Array) -> Array:
        require_rung(process, AffineProcess, "the time distribution log_normal")
        log_sigma = self.mean + self.std * jax.scipy.special.ndtri(_inside(u))
        return process.time_of_log_snr(-2 * log_sigma)


@register("time", "logit_normal")
@final
@dataclass(frozen=True, kw_only=True)
class LogitNormalTime(TimeDistribution):
    """t = t_min + (t_max - t_min) sigmoid(mean + std n), n normal (Esser et al., 2024, section 3.1)."""

    mean: Scalar = 0.0
    std: Scalar = 1.0

    def __post_init__(self) -> None:
        require(self.std > 0, f"`std` must be positive; got {self.std}.")

    def quantile(self, process: Process, u: Array) -> Array:
        share = jax.nn.sigmoid(self.mean + self.std * jax.scipy.special.ndtri(_inside(u)))
        return process.t_min + (process.t_max - process.t_min) * share


def _inside(u: Array) -> Array:
    """Keep u away from 0 and 1, where the normal quantile is infinite."""
    tiny = jnp.finfo(u.dtype).eps / 2
    return jnp.clip(u, tiny, 1 - tiny)
