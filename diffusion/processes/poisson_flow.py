"""Poisson flow (diffusion by gravity): heavy-tailed noise with the ODE of an affine process.

The field of a point mass in d + D dimensions, isotropic in space and D additional dimensions, has the
conditional velocity (x - x_0) / t and the density of a Student vector with D degrees of freedom (Su,
kexue.fm 9305 and 9370; Xu et al., 2022 and 2023). It differs from `edm`, x_0 + t z, only in the law of z.
"""

from dataclasses import dataclass
from typing import ClassVar, final

import jax
import jax.numpy as jnp
from jaxtyping import Array

from diffusion.numerics import as_time, draw, per_example, positive
from diffusion.processes.base import AffineProcess
from diffusion.registry import register
from diffusion.types import Key, KeyLike, Scalar, Time


@register("process", "poisson_flow")
@final
@dataclass(frozen=True, kw_only=True)
class PoissonFlow(AffineProcess):
    """x_t = x_0 + t z, with z a multivariate Student vector of `extra_dims` degrees of freedom.

    One extra dimension is the Poisson flow, D of them are PFGM++ with t = r / sqrt(D), infinitely many EDM.
    The tails are heavy: with one extra dimension z has no mean, so predict the data, not the noise.
    """

    isotropic: ClassVar[bool] = True

    t_min: Scalar = 0.002
    t_max: Scalar = 200.0
    extra_dims: Scalar = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(extra_dims=self.extra_dims)

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
        """Draw normal vectors divided by sqrt(chi^2 / D), with an independent chi^2 of D degrees of freedom."""
        return draw(self._student, key, shape)

    def _student(self, key: Key, shape: tuple[int, ...]) -> Array:
        key_normal, key_radius = jax.random.split(key)
        x = jax.random.normal(key_normal, shape)
        chi2 = jax.random.chisquare(key_radius, jnp.asarray(self.extra_dims, x.dtype), shape[:1])
        return x / per_example(jnp.sqrt(chi2 / self.extra_dims), x)

    def radial_log_prob(self, square: Array, num_dims: int) -> Array:
        """Return the log-density of the multivariate Student law from |z|^2."""
        nu, d = self.extra_dims, num_dims
        gammaln = jax.scipy.special.gammaln
        scale = gammaln((nu + d) / 2) - gammaln(nu / 2) - d / 2 * jnp.log(nu * jnp.pi)
        return scale - (nu + d) / 2 * jnp.log1p(square / nu)
