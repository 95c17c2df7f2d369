"""Processes of the heat equation: density flows down its gradient, f = -D grad log p.

The continuity equation with this field is d_t p = div(D grad p). If D = sigma sigma' is a scalar that depends
on time, the Green's function is N(x_0, sigma(t)^2 I); for a constant matrix M and D = sigma sigma' M, it is
N(x_0, sigma(t)^2 M). If every frequency of an image decays at a rate of its own, heat blurs it. (Su,
kexue.fm 9280; Rissanen et al., 2023; Hoogeboom and Salimans, 2023.)
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, final

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffusion.numerics import (
    alike,
    as_time,
    at_least,
    draw,
    in_interval,
    invert_decreasing,
    is_traced,
    one_of_or_function,
    ordered,
    per_example,
    positive,
    require,
    sum_features,
)
from diffusion.processes.base import (
    AffineProcess,
    GaussianProcess,
    Process,
    geometric_times,
)
from diffusion.processes.cosine_basis import scale_frequencies, spatial_axes, squared_frequencies
from diffusion.registry import load, register
from diffusion.types import Data, KeyLike, Scalar, Time


@register("process", "heat")
@final
@dataclass(frozen=True, kw_only=True)
class Heat(GaussianProcess):
    """x_t = x_0 + sigma_max s(t) z with s(0) = 0, s(1) = 1; D(t) = sigma sigma' (Su, kexue.fm 9280).

    Args:
        schedule: linear, s = t; power, s = t^power; exponential, s = expm1(rate t) / expm1(rate); or a
            function s(t), or "module:function".
        t_min: by default the time at which sigma(t) = sigma_min.
        sigma_min: the noise scale at the default t_min, well below the finest detail of the data.
        sigma_max: the noise scale at t = 1, well above the scale of the data.
        power: exponent of the power schedule.
        rate: rate of the exponential schedule.
    """

    t_min: Any = field(default=None, metadata={"formerly": 2.5e-5})
    schedule: Callable[..., Array] | str = "linear"
    sigma_min: Scalar = 0.002
    sigma_max: Scalar = 80.0
    power: Scalar = 2.0
    rate: Scalar = 8.0

    def __post_init__(self) -> None:
        positive(
            sigma_min=self.sigma_min, sigma_max=self.sigma_max, power=self.power, rate=self.rate
        )
        one_of_or_function(_SCHEDULES, schedule=self.schedule)
        if self.t_min is None:
            ordered(sigma_min=self.sigma_min, sigma_max=self.sigma_max)
            object.__setattr__(
                self, "t_min", self._time_of_fraction(self.sigma_min / self.sigma_max)
            )
        super().__post_init__()

    def _time_of_fraction(self, fraction: Scalar) -> Scalar:
        """Return the time at which s(t) equals `fraction`."""
        xp: Any = jnp if is_traced(self) else np
        if self.schedule == "linear":
            return fraction
        if self.schedule == "power":
            return fraction ** (1 / self.power)
        if self.schedule == "exponential":
            t = xp.log1p(fraction * xp.expm1(self.rate)) / self.rate
        else:
            falling = lambda t: -self.sigma(t) / self.sigma_max
            with jax.ensure_compile_time_eval(), jax.enable_x64(True):
                t = invert_decreasing(falling, jnp.asarray(-fraction, float), 0.0, self.t_max)
        return t if is_traced(t) else float(t)

    def alpha(self, t: Time) -> Array:
        return jnp.ones_like(as_time(t))

    def sigma(self, t: Time) -> Array:
        t = as_time(t)
        if isinstance(self.schedule, str) and self.schedule in _SCHEDULES:
            return self.sigma_max * _SCHEDULES[self.schedule](self, t)
        return self.sigma_max * load(self.schedule)(t)

    def f(self, t: Time) -> Array:
        return jnp.zeros_like(as_time(t))


_SCHEDULES: dict[str, Callable[[Heat, Array], Array]] = {
    "linear": lambda heat, t: t,
    "power": lambda heat, t: t**heat.power,
    "exponential": lambda heat, t: jnp.expm1(heat.rate * t) / jnp.expm1(heat.rate),
}


@register("process", "anisotropic_heat")
@final
@dataclass(frozen=True, kw_only=True)
class AnisotropicHeat(AffineProcess):
    """x_t = x_0 + t M^(1/2) z: heat that flows at different speeds in different directions.

    The matrix acts on the last axis: the coordinates of points, the channels of images.

    Args:
        matrix: symmetric and positive definite, as nested tuples (n, n); a tuple (n,) is a diagonal matrix,
            a number a multiple of the identity.
    """

    t_min: Scalar = 0.002
    t_max: Scalar = 80.0
    matrix: Scalar | tuple = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        m = self._square()
        require(
            bool(np.allclose(m, m.T) and np.all(np.linalg.eigvalsh(m) > 0)),
            f"`matrix` must be symmetric and positive definite; got {self.matrix}.",
        )

    def _square(self) -> np.ndarray:
        m = np.asarray(self.matrix, np.float64)
        if m.ndim < 2:
            return np.diag(np.atleast_1d(m))
        require(m.shape == (len(m),) * 2, f"`matrix` must be square; got shape {m.shape}.")
        return m

    def _times(self, x: Array, power: float) -> Array:
        """Return M^power x along the last axis."""
        values, vectors = np.linalg.eigh(self._square())
        root = jnp.asarray((vectors * values**power) @ vectors.T, x.dtype)
        if len(root) == 1:
            return x * root[0, 0]
        alike("size", matrix=len(root), x=x.shape[-1])
        return jnp.tensordot(x, root, axes=1, precision="highest")

    @property
    def t_domain(self) -> tuple[Scalar, Scalar]:
        return 0.0, float("inf")

    def alpha(self, t: Time) -> Array:
        return jnp.ones_like(as_time(t))

    def sigma(self, t: Time) -> Array:
        return as_time(t)

    def time_of_log_snr(self, log_snr: Time) -> Array:
        return jnp.exp(-0.5 * as_time(log_snr))

    def sample_noise(self, key: KeyLike, shape: tuple[int, ...]) -> Array:
        """Draw N(0, M)."""
        return self._times(draw(jax.random.normal, key, shape), 0.5)

    def noise_log_prob(self, z: Data) -> Float[Array, " batch"]:
        """Return the log-density of N(0, M)."""
        m = self._square()
        volume = 0.5 * float(np.linalg.slogdet(m)[1]) * (z[0].size / len(m))
        return sum_features(jax.scipy.stats.norm.logpdf(self._times(z, -0.5))) - volume


@register("process", "blur")
@final
@dataclass(frozen=True, kw_only=True)
class Blur(Process):
    """x_t = a(t) V exp(-w^2(t) k^2 / 2) V^T x_0 + s(t) z: every frequency fades at its own rate.

    V is the orthonormal cosine basis of the image (for points, of the vector), k^2 its squared frequencies,
    and w(t) = width sin^2(pi t / 2) the width of the blur in pixels; a = cos(pi t / 2), s = sin(pi t / 2),
    so that the prior is N(0, I) exactly. As in Hoogeboom and Salimans (2023) the blur leaves at least a
    fraction `floor` of every frequency. The path multiplies x_0 by a matrix, so the model is a velocity.
    """

    exact_prior: ClassVar[bool] = True

    width: Scalar = 8.0
    floor: Scalar = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(t_min=self.t_min)
        at_least(0, width=self.width)
        in_interval("[0, 1)", floor=self.floor)

    def _kept(self, x_0: Data, t: Time) -> Data:
        """Return the blurred and faded data, the part of x_t that depends on x_0."""
        t = per_example(as_time(t), x_0)
        sizes = tuple(x_0.shape[a] for a in spatial_axes(x_0))
        squares = (
            squared_frequencies(sizes) if x_0.ndim == 2 else squared_frequencies(sizes)[..., None]
        )
        spread = (self.width * jnp.sin(0.5 * jnp.pi * t) ** 2) ** 2
        fade = jnp.exp(-0.5 * spread * jnp.asarray(squares, x_0.dtype))
        left = (1 - self.floor) * fade + self.floor
        return jnp.sin(0.5 * jnp.pi * (1 - t)) * scale_frequencies(x_0, left)

    def _sigma(self, x: Data, t: Time) -> Array:
        return jnp.sin(0.5 * jnp.pi * per_example(as_time(t), x))

    def interpolate(self, x_0: Data, z: Data, t: Time) -> Data:
        return self._kept(x_0, t) + self._sigma(x_0, t) * z

    def noise_of(self, x_t: Data, x_0: Data, t: Time) -> Data:
        """Return (x_t - mean) / s, with the mean of x_t given x_0."""
        return (x_t - self._kept(x_0, t)) / self._sigma(x_t, t)

    def noise_log_prob(self, z: Data) -> Float[Array, " batch"]:
        """Return the standard normal log-density."""
        return sum_features(jax.scipy.stats.norm.logpdf(z))

    def log_density(self, x_t: Data, x_0: Data, t: Time) -> Float[Array, " batch"]:
        """Return the log-density of N(mean, s^2 I), with the mean of x_t given x_0."""
        sigma = jnp.broadcast_to(self._sigma(x_t, t).reshape(-1), x_t.shape[:1])
        return self.noise_log_prob(self.noise_of(x_t, x_0, t)) - x_t[0].size * jnp.log(sigma)

    def default_times(self, num_steps: int) -> np.ndarray:
        """Return geometric times, since near the data the field has the form (x - x_0) / t."""
        return geometric_times(self, num_steps)
