"""Processes derived from other processes: a shifted log-SNR, and a zero terminal SNR."""

import dataclasses
from dataclasses import dataclass
from typing import Any, final

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from diffusion.numerics import as_time, at_most, is_traced, on_host, positive, require
from diffusion.processes.base import GaussianProcess, require_process
from diffusion.processes.variance_preserving import VariancePreserving
from diffusion.registry import register, takes_names
from diffusion.types import Scalar, Time

INNER = {"kind": "process"}


@register("process", "shifted")
@final
@dataclass(frozen=True, kw_only=True)
class Shifted(GaussianProcess):
    """The process with log_snr - 2 log(scale) at every t, and alpha^2 + sigma^2 unchanged.

    Pooling an image over scale x scale pixels raises its SNR by scale^2, so this transfers a schedule tuned at
    one resolution to a resolution `scale` times as high (Hoogeboom et al., 2023, simple diffusion; Su,
    kexue.fm 10047). With n^2 = alpha^2 + sigma^2 and m^2 = alpha^2 + scale^2 sigma^2

        alpha -> alpha n / m,  sigma -> scale sigma n / m,  f -> n'/n - scale^2 g^2 / (2 m^2),  g -> scale g n / m.

    Args:
        process: any Gaussian process.
        scale: the ratio of the resolutions; above 1 means more noise.
        t_min, t_max: by default those of the inner process.
    """

    t_min: Any = None
    t_max: Any = None
    process: GaussianProcess = dataclasses.field(default=VariancePreserving(), metadata=INNER)
    scale: Scalar = 2.0

    def __post_init__(self) -> None:
        require_process(self.process, GaussianProcess, "the wrapper `shifted`")
        positive(scale=self.scale, hint="It is a ratio of resolutions.")
        _take_over_times(self, self.process.t_max)
        super().__post_init__()
        _hand_down_times(self, ("t_min", "t_max"))

    @property
    def t_domain(self) -> tuple[Scalar, Scalar]:
        return self.process.t_domain

    @property
    def chain_step(self) -> Scalar:
        return self.process.chain_step

    def _ratio(self, t: Time) -> Array:
        """Return n / m."""
        alpha2, sigma2 = self.process.alpha(t) ** 2, self.process.sigma(t) ** 2
        return jnp.sqrt((alpha2 + sigma2) / (alpha2 + self.scale**2 * sigma2))

    def alpha(self, t: Time) -> Array:
        t = as_time(t)
        return self.process.alpha(t) * self._ratio(t)

    def sigma(self, t: Time) -> Array:
        t = as_time(t)
        return self.scale * self.process.sigma(t) * self._ratio(t)

    def log_snr(self, t: Time) -> Array:
        return self.process.log_snr(t) - 2 * jnp.log(self.scale)

    def f(self, t: Time) -> Array:
        t = as_time(t)
        alpha2, sigma2 = self.process.alpha(t) ** 2, self.process.sigma(t) ** 2
        half = self.process.g(t) ** 2 / 2
        growth = self.process.f(t) + half / (alpha2 + sigma2)  # n'/n, 0 if variance preserving
        return growth - self.scale**2 * half / (alpha2 + self.scale**2 * sigma2)

    def g(self, t: Time) -> Array:
        t = as_time(t)
        return self.scale * self.process.g(t) * self._ratio(t)

    def time_of_log_snr(self, log_snr: Time) -> Array:
        return self.process.time_of_log_snr(as_time(log_snr) + 2 * jnp.log(self.scale))


@register("process", "zero_terminal_snr")
@final
@dataclass(frozen=True, kw_only=True)
class ZeroTerminalSNR(GaussianProcess):
    """alpha -> alpha_0 (alpha - alpha_T) / (alpha_0 - alpha_T), sigma^2 = 1 - alpha^2.

    Lin et al. (2024), algorithm 1: alpha is unchanged at time 0 and exactly zero at T, the inner process's
    t_max. The drift f is singular at T, so the default t_max is below T; a solver that uses only alpha and
    sigma may start from T, which `t_domain` contains. Predict v or the data: at T a prediction of the noise
    contains no information on x_0.

    Args:
        process: a variance-preserving process.
        t_min, t_max: by default those of the inner process, t_min and 0.999 T.
    """

    t_min: Any = None
    t_max: Any = None
    process: GaussianProcess = dataclasses.field(default=VariancePreserving(), metadata=INNER)

    def __post_init__(self) -> None:
        require_process(self.process, GaussianProcess, "the wrapper `zero_terminal_snr`")
        _take_over_times(self, 0.999 * self.process.t_max)
        super().__post_init__()
        at_most(self.process.t_max, t_max=self.t_max, hint="There no signal is left.")
        _require_variance_preserving(self.process)
        _hand_down_times(self, ("t_min",))

    @property
    def t_domain(self) -> tuple[Scalar, Scalar]:
        return self.process.t_domain[0], self.process.t_max

    @property
    def chain_step(self) -> Scalar:
        return self.process.chain_step

    def _ends(self, t: Array) -> tuple[Scalar, Scalar, Scalar]:
        """Return alpha_0, 1 - alpha_0 and alpha_T in the dtype of t."""
        first, last = jnp.asarray(self.t_domain[0], t.dtype), jnp.asarray(self.t_domain[1], t.dtype)
        alpha_0, sigma_0 = self.process.alpha(first), self.process.sigma(first)
        return alpha_0, sigma_0**2 / (1 + alpha_0), self.process.alpha(last)

    def alpha(self, t: Time) -> Array:
        t = as_time(t)
        alpha_0, _, alpha_T = self._ends(t)
        left = self.process.alpha(t) - alpha_T
        left += jax.lax.stop_gradient(jnp.maximum(left, 0) - left)  # round-off at T may give -1e-10
        return alpha_0 * left / (alpha_0 - alpha_T)

    def sigma(self, t: Time) -> Array:
        t = as_time(t)
        alpha_0, missing_0, alpha_T = self._ends(t)
        # 1 - alpha from sigma, for the relative accuracy of sigma near the data
        missing = self.process.sigma(t) ** 2 / (1 + self.process.alpha(t))
        missing = (alpha_0 * missing - alpha_T * missing_0) / (alpha_0 - alpha_T)
        return jnp.sqrt(missing * (2 - missing))

    def noise_conditioning(self, t: Time) -> Array:
        """Return the log-SNR, bounded below by -25, since it is -inf at T."""
        return jnp.maximum(self.log_snr(t), -25.0)

    def f(self, t: Time) -> Array:
        t = as_time(t)
        alpha, alpha_T = self.process.alpha(t), self._ends(t)[2]
        return self.process.f(t) * alpha / (alpha - alpha_T)

    def g(self, t: Time) -> Array:
        return jnp.sqrt(-2 * self.f(t))  # variance preserving: g^2 = -2 f

    def time_of_log_snr(self, log_snr: Time) -> Array:
        log_snr = as_time(log_snr)
        alpha_0, missing_0, alpha_T = self._ends(log_snr)
        alpha = jnp.exp(0.5 * jax.nn.log_sigmoid(log_snr))
        missing = jax.nn.sigmoid(-log_snr) / (1 + alpha)
        missing = (missing * (alpha_0 - alpha_T) + alpha_T * missing_0) / alpha_0
        inner = 2 * jnp.log1p(-missing) - jnp.log(missing * (2 - missing))
        return self.process.time_of_log_snr(inner)


def _take_over_times(wrapper: Any, t_max: Scalar) -> None:
    """Set the wrapper's t_min and t_max where they are None."""
    for name, value in (("t_min", wrapper.process.t_min), ("t_max", t_max)):
        if getattr(wrapper, name) is None:
            object.__setattr__(wrapper, name, value)


def _hand_down_times(wrapper: Any, names: tuple[str, ...]) -> None:
    """Set the inner process's time range to the wrapper's, between which its `time_of_log_snr` may search."""
    ends = {name: getattr(wrapper, name) for name in names}
    if any(ends[name] is not getattr(wrapper.process, name) for name in names):
        object.__setattr__(wrapper, "process", dataclasses.replace(wrapper.process, **ends))


def _require_variance_preserving(process: GaussianProcess) -> None:
    if is_traced(process):
        return
    times = np.linspace(float(process.t_min), float(process.t_max), 5)
    total = on_host(process.alpha, times) ** 2 + on_host(process.sigma, times) ** 2
    worst = float(total[np.argmax(np.abs(total - 1))])
    require(
        abs(worst - 1) < 1e-6,
        f"`process` must be variance preserving, alpha^2 + sigma^2 = 1; {type(process).__name__} has {worst:.4g}.",
    )


@takes_names
def shift(process: GaussianProcess, s: Scalar) -> GaussianProcess:
    """Return the process with its log-SNR lowered by 2 log s, as for images of s times the resolution."""
    return Shifted(process=process, scale=s)
