"""Radial laws of r / t: an `AffineProcess` whose noise has any radial law.

Every cumulative law of the form psi(r, t) = Psi(r / t) has the conditional field (x - x_0) / t (Su, kexue.fm
9370). So only the law of the noise distinguishes it from gravity (`poisson_flow`) and from the Gaussian
(`edm`), and the network need only learn the posterior mean of the data. Other laws psi(r, t) are in `radial`.
Lengths are Euclidean norms of whole examples, or these divided by the square root of the dimension with
`rms=True`. Without `rms`, t_max must exceed the norm of a whole image, not that of a pixel.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, final

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffusion.numerics import as_time, draw, one_of, per_example, sum_features
from diffusion.processes.base import AffineProcess
from diffusion.types import Data, Key, KeyLike, Scalar, Time


def log_sphere(num_dims: int) -> float:
    """Return log S_d, the area of the unit sphere in d dimensions; S_1 = 2."""
    from math import lgamma

    return float(np.log(2) + num_dims / 2 * np.log(np.pi) - lgamma(num_dims / 2))


def lengths(x: Data) -> Float[Array, " batch"]:
    """Return |x| per example, with gradient 0 at x = 0."""
    square = sum_features(x * x)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)


def random_direction_of_length(key: KeyLike, shape: tuple[int, ...], quantile: Callable) -> Array:
    """Draw vectors of uniform direction and of length quantile(v), with v uniform on (0, 1)."""

    def sample(key: Key, shape: tuple[int, ...]) -> Array:
        key_u, key_v = jax.random.split(key)
        direction = jax.random.normal(key_u, shape)
        tiny = jnp.finfo(direction.dtype).tiny
        v = jax.random.uniform(key_v, shape[:1], minval=tiny)
        return per_example(quantile(v) / lengths(direction), direction) * direction

    return draw(sample, key, shape)


def _log_sech2(r: Array) -> Array:
    """Return log(1 / cosh(r)^2), finite where cosh overflows."""
    return 2 * (np.log(2) - r - jnp.log1p(jnp.exp(-2 * r)))


class Law(NamedTuple):
    """A law of r / t: its quantile function, and the logarithm of r^(1 - d) times its derivative."""

    quantile: Callable[[Array, int], Array]  # (v, d) -> r
    log_profile: Callable[[Array, int], Array]  # (r, d) -> log(r^(1 - d) d Psi / dr)


def away(r: Array, num_dims: int) -> Array:
    """Return log r^(1 - d); for d = 1 it is 0, also at r = 0."""
    return (1 - num_dims) * jnp.log(r) if num_dims > 1 else jnp.zeros_like(r)


LAWS: dict[str, Law] = {
    "tanh": Law(lambda v, d: jnp.arctanh(v), lambda r, d: away(r, d) + _log_sech2(r)),
    "exponential": Law(lambda v, d: -jnp.log1p(-v), lambda r, d: away(r, d) - r),
    # tanh(r^d): its density has no spike at r = 0
    "tanh_power": Law(
        lambda v, d: jnp.arctanh(v) ** (1 / d), lambda r, d: np.log(d) + _log_sech2(r**d)
    ),
}


@final
@dataclass(frozen=True, kw_only=True)
class ScaledRadial(AffineProcess):
    """x_t = x_0 + t z with |z| of the law Psi, so psi(r, t) = Psi(r / t).

    Args:
        law: tanh, exponential, or tanh_power, Psi = tanh(r^d), whose density has no spike at x_0 for d > 1.
        rms: whether to divide lengths by the square root of the dimension, so that the coordinates of z are
            of order 1.
    """

    isotropic: ClassVar[bool] = True

    t_min: Scalar = 0.002
    t_max: Scalar = 200.0
    law: str = "tanh"
    rms: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(LAWS, law=self.law)

    @property
    def t_domain(self) -> tuple[Scalar, Scalar]:
        return 0.0, float("inf")

    def alpha(self, t: Time) -> Array:
        return jnp.ones_like(as_time(t))

    def sigma(self, t: Time) -> Array:
        return as_time(t)

    def time_of_log_snr(self, log_snr: Time) -> Array:
        return jnp.exp(-0.5 * as_time(log_snr))

    def _unit(self, num_dims: int) -> float:
        return num_dims**0.5 if self.rms else 1.0

    def sample_noise(self, key: KeyLike, shape: tuple[int, ...]) -> Array:
        """Draw vectors of uniform direction, with lengths drawn from the law."""
        d = int(np.prod(shape[1:]))
        quantile = lambda v: self._unit(d) * LAWS[self.law].quantile(v, d)
        return random_direction_of_length(key, shape, quantile)

    def radial_log_prob(self, square: Array, num_dims: int) -> Array:
        """Return log Psi'(r) - (d - 1) log r - log S_d at r = sqrt(square)."""
        unit = self._unit(num_dims)
        r = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0) / unit
        profile = LAWS[self.law].log_profile(r, num_dims)
        return profile - num_dims * np.log(unit) - log_sphere(num_dims)
