"""Interpolants: paths between data and a prior, labeled by their end points.

x_t = path(x_0, x_T, t) with path = x_0 at t = 0 and x_T ~ prior at t_max: both ends are exact (Liu et al.,
2023; Albergo and Vanden-Eijnden, 2023; Su, kexue.fm 9379 and 9497). The velocity is the derivative in
time, and the regression needs no inverse. The density p(x_t | x_0) needs one, and exists where the path is
invertible in x_T. The pairing of x_0 with x_T is a coupling (`diffusion.objectives.coupling`), not a process.
"""

import abc
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, final

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffusion.numerics import as_time, of_type, one_of_or_function, per_example, positive
from diffusion.processes.base import AffineProcess, Process, geometric_times
from diffusion.processes.priors import DataPrior, Normal, Prior
from diffusion.registry import load, register
from diffusion.types import Data, KeyLike, Time


@dataclass(frozen=True, kw_only=True)
class WithPrior(Process):
    """Base class of processes that end exactly in a prior: z is the end point x_T."""

    exact_prior: ClassVar[bool] = True

    prior: Prior = field(default=Normal(), metadata={"kind": "prior"})

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(t_min=self.t_min, hint="All paths from x_0 meet at t = 0.")
        of_type(Prior, "Normal() (names are for `build`)", prior=self.prior)

    def sample_noise(self, key: KeyLike, shape: tuple[int, ...]) -> Array:
        """Draw end points from the prior."""
        return self.prior.sample(key, shape)

    def noise_log_prob(self, z: Data) -> Float[Array, " batch"]:
        """Return the log-density of the prior."""
        return self.prior.log_prob(z)

    def default_times(self, num_steps: int) -> np.ndarray:
        """Return geometric times, since near the data the field has the form (x - x_0) / t."""
        return geometric_times(self, num_steps)


@dataclass(frozen=True, kw_only=True)
class Interpolant(WithPrior):
    """x_t = path(x_0, x_T, t). Subclass it and write the path."""

    @abc.abstractmethod
    def path(self, x_0: Data, x_T: Data, t: Array) -> Data:
        """Return the state at t of the path from x_0 to x_T; t is shaped so that it multiplies x_0."""

    def interpolate(self, x_0: Data, z: Data, t: Time) -> Data:
        """Return path(x_0, z, t)."""
        return self.path(x_0, z, per_example(as_time(t), x_0))


class LinearPath(NamedTuple):
    """The scalar functions alpha and sigma of a path alpha(t) x_0 + sigma(t) x_T."""

    alpha: Callable[[Array], Array]
    sigma: Callable[[Array], Array]


def straight(x_0: Array, x_T: Array, t: Array) -> Array:
    """Return (1 - t) x_0 + t x_T."""
    return (1 - t) * x_0 + t * x_T


def _eased(t: Array) -> Array:
    """Return 3 t^2 - 2 t^3, from 0 to 1 with zero speed at both ends."""
    return t * t * (3 - 2 * t)


PATHS: dict[str, LinearPath] = {
    "straight": LinearPath(lambda t: 1 - t, lambda t: t),
    # of constant variance, for independent end points of unit variance
    "quarter_turn": LinearPath(
        lambda t: jnp.sin(0.5 * jnp.pi * (1 - t)), lambda t: jnp.sin(0.5 * jnp.pi * t)
    ),
    "eased": LinearPath(lambda t: 1 - _eased(t), _eased),
}


@register("process", "bridge")
@final
@dataclass(frozen=True, kw_only=True)
class Bridge(Interpolant):
    """x_t = phi(x_0, x_T, t) from one data set to another, or to any prior; the model is a velocity.

    Args:
        path_fn: straight, quarter_turn or eased, a function phi(x_0, x_T, t) with t shaped to multiply
            x_0, or "module:function".
        prior: the distribution of the end points; the default is two points, so name your data set:
            prior=dict(name="data", dataset=dict(name="digits")).
    """

    path_fn: Callable[..., Array] | str = "straight"
    prior: Prior = field(default=DataPrior(), metadata={"kind": "prior"})

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of_or_function(PATHS, path_fn=self.path_fn)

    @property
    def _line(self) -> LinearPath | None:
        return PATHS.get(self.path_fn) if isinstance(self.path_fn, str) else None

    @property
    def coordinatewise(self) -> bool:
        return self._line is not None

    def path(self, x_0: Data, x_T: Data, t: Array) -> Data:
        if self._line is not None:
            return self._line.alpha(t) * x_0 + self._line.sigma(t) * x_T
        return load(self.path_fn)(x_0, x_T, t)

    def noise_of(self, x_t: Data, x_0: Data, t: Time) -> Data:
        """Return (x_t - alpha(t) x_0) / sigma(t) for a named path; solve by Newton steps for others."""
        if self._line is None:
            return super().noise_of(x_t, x_0, t)
        t = per_example(jnp.asarray(t, x_t.dtype), x_t)
        return (x_t - self._line.alpha(t) * x_0) / self._line.sigma(t)


_LAST_ALPHA = 1e-3  # lower bound of alpha in the log-SNR, which is infinite at t = 1


@register("process", "straight_line")
@final
@dataclass(frozen=True, kw_only=True)
class StraightLine(WithPrior, AffineProcess):
    """x_t = (1 - t) x_0 + t x_T, x_T from any prior (Su, kexue.fm 9379, example 1).

    The path is affine for every prior, so the model is a denoiser. At t = 1 alpha vanishes, and x_0 cannot
    be recovered from the prediction `noise`; predict data or velocity instead.
    """

    def alpha(self, t: Time) -> Array:
        return 1 - as_time(t)

    def sigma(self, t: Time) -> Array:
        return as_time(t)

    def log_snr(self, t: Time) -> Array:
        """Return log(alpha^2 / sigma^2), with alpha bounded below by 0.001 so that it is finite at t = 1."""
        t = as_time(t)
        return 2 * (jnp.log(jnp.maximum(1 - t, _LAST_ALPHA)) - jnp.log(t))

    def time_of_log_snr(self, log_snr: Time) -> Array:
        ratio = jnp.exp(0.5 * as_time(log_snr))
        t = 1 / (1 + ratio)
        return jnp.where(t > 1 - _LAST_ALPHA, jnp.minimum(_LAST_ALPHA / ratio, 1.0), t)

    def default_times(self, num_steps: int) -> np.ndarray:
        """Return times uniform in log-SNR, hence geometric near the data."""
        return AffineProcess.default_times(self, num_steps)
