"""Variance-preserving processes defined by one decreasing function, the log-SNR.

    alpha^2 = sigmoid(log_snr),  sigma^2 = sigmoid(-log_snr),  f = sigmoid(-log_snr) log_snr' / 2,  g^2 = -2 f

Both alpha and sigma keep their relative accuracy in float32 at both ends, because neither square is computed
as 1 minus the other.
"""

import abc
from dataclasses import dataclass
from typing import final

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from diffusion.numerics import as_time, on_host, ordered, positive, value_and_ddt
from diffusion.processes.base import GaussianProcess
from diffusion.registry import register
from diffusion.types import Scalar, Time


@dataclass(frozen=True, kw_only=True)
class LogSNRSchedule(GaussianProcess):
    """alpha^2 = sigmoid(log_snr(t)), variance preserving. Subclass it and write `log_snr`."""

    @abc.abstractmethod
    def log_snr(self, t: Time) -> Array:
        """Return log(alpha^2 / sigma^2), decreasing in t, elementwise."""

    def alpha(self, t: Time) -> Array:
        # not sqrt(sigmoid): its derivative is 0/0 once the sigmoid has underflowed
        return jnp.exp(0.5 * jax.nn.log_sigmoid(self.log_snr(t)))

    def sigma(self, t: Time) -> Array:
        return jnp.exp(0.5 * jax.nn.log_sigmoid(-self.log_snr(t)))

    def f(self, t: Time) -> Array:
        log_snr, rate = value_and_ddt(self.log_snr, t)
        return 0.5 * jax.nn.sigmoid(-log_snr) * rate

    def g(self, t: Time) -> Array:
        return jnp.sqrt(-2 * self.f(t))  # variance preserving: g^2 = -2 f


@register("process", "linear_log_snr")
@final
@dataclass(frozen=True, kw_only=True)
class LinearLogSNR(LogSNRSchedule):
    """log_snr falls linearly from log_snr_max at t = 0 to log_snr_min at t = 1.

    Kingma et al. (2021), where gamma = -log_snr goes from -13.3 to 5. At t = 0 the noise is sigma = 0.0013,
    far below one step of 8-bit data.
    """

    t_min: Scalar = 0.0
    log_snr_max: Scalar = 13.3
    log_snr_min: Scalar = -5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        ordered(log_snr_min=self.log_snr_min, log_snr_max=self.log_snr_max)

    def log_snr(self, t: Time) -> Array:
        return self.log_snr_max + as_time(t) * (self.log_snr_min - self.log_snr_max)

    def time_of_log_snr(self, log_snr: Time) -> Array:
        return (self.log_snr_max - as_time(log_snr)) / (self.log_snr_max - self.log_snr_min)


@register("process", "laplace")
@final
@dataclass(frozen=True, kw_only=True)
class Laplace(LogSNRSchedule):
    """log_snr = mu - b sign(1/2 - t) log(1 - 2 |t - 1/2|): Laplace distributed if t is uniform.

    Hang et al. (2024), table 1. Most of the time range is spent at log-SNRs near mu. The log-SNR is infinite
    at t = 0 and 1 and grows only like b log t, so that t_min is much closer to 0 than for other processes.
    At t = 1/2 the first derivative of the log-SNR is continuous, the second is not.
    """

    t_min: Scalar = 1e-8
    t_max: Scalar = 0.9999
    mu: Scalar = 0.0
    b: Scalar = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(b=self.b, hint="It is a scale.")

    @property
    def t_domain(self) -> tuple[Scalar, Scalar]:
        return 0.0, 1.0

    def log_snr(self, t: Time) -> Array:
        t = as_time(t)
        early = t < 0.5
        tail = jnp.where(early, t, 1 - t)
        return self.mu + jnp.where(early, -self.b, self.b) * jnp.log(2 * tail)

    def time_of_log_snr(self, log_snr: Time) -> Array:
        y = (as_time(log_snr) - self.mu) / self.b
        tail = 0.5 * jnp.exp(-jnp.abs(y))
        return jnp.where(y > 0, tail, 1 - tail)

    def default_times(self, num_steps: int) -> np.ndarray:
        """Return times uniform in log-SNR, with the time nearest to the kink at t = 1/2 moved onto it.

        A step across the kink would lower the order of a high-order solver.
        """
        first, last = self.log_snr_ends()
        levels = np.linspace(first, last, num_steps + 1)
        nearest = int(np.argmin(np.abs(levels - float(self.mu))))
        if 0 < nearest < num_steps:
            levels[nearest] = float(self.mu)
        times = on_host(self.time_of_log_snr, levels)
        times[0], times[-1] = float(self.t_max), float(self.t_min)
        return times


@register("process", "sigmoid")
@final
@dataclass(frozen=True, kw_only=True)
class SigmoidSchedule(LogSNRSchedule):
    """alpha^2 = (S(end) - S(u)) / (S(end) - S(start)), S(x) = sigmoid(x / tau), u between start and end.

    Jabri et al. (2022) and Chen (2023), algorithm 1, without their clipping: alpha vanishes at t = 1, so
    t_max stops before it. With w = (end - start) / (2 tau) and S(a) - S(b) = sinh((a - b) / 2 tau) /
    (2 cosh(a / 2 tau) cosh(b / 2 tau)) it is

        log_snr = log sinh((1 - t) w) - log sinh(t w) + log cosh(start / 2 tau) - log cosh(end / 2 tau).
    """

    t_max: Scalar = 0.999
    start: Scalar = -3.0
    end: Scalar = 3.0
    tau: Scalar = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        ordered(start=self.start, end=self.end)
        positive(tau=self.tau, hint="It is a temperature.")

    @property
    def t_domain(self) -> tuple[Scalar, Scalar]:
        return 0.0, 1.0

    def _width(self) -> Scalar:
        return (self.end - self.start) / (2 * self.tau)

    def _offset(self) -> Array:
        log_cosh = lambda x: jnp.logaddexp(x, -x)  # plus log 2, which cancels
        return log_cosh(self.start / (2 * self.tau)) - log_cosh(self.end / (2 * self.tau))

    def log_snr(self, t: Time) -> Array:
        t, w = as_time(t), self._width()
        log_sinh = lambda x: x + jnp.log(-jnp.expm1(-2 * x))  # plus log 2, which cancels
        return log_sinh((1 - t) * w) - log_sinh(t * w) + self._offset()

    def f(self, t: Time) -> Array:
        t, w = as_time(t), self._width()
        rate = -w * (1 / jnp.tanh((1 - t) * w) + 1 / jnp.tanh(t * w))
        return 0.5 * jax.nn.sigmoid(-self.log_snr(t)) * rate

    def time_of_log_snr(self, log_snr: Time) -> Array:
        w = self._width()
        ratio = jnp.exp(as_time(log_snr) - self._offset())  # of the two sinh
        return jnp.log1p(2 * jnp.sinh(w) / (ratio + jnp.exp(-w))) / (2 * w)
