"""Discrete chains x_k = sqrt(1 - beta_k) x_(k-1) + sqrt(beta_k) noise, k = 1 .. T, in continuous time.

Point k of the chain is at time k / T, where alpha is exact: the product of sqrt(1 - beta_i). Between
the points log alpha is a cubic spline, so that every continuous solver keeps its order. The spline is
fitted once, on the host, in float64. `beta` here is the variance of the DDPM paper; the article's
beta_t is a standard deviation and its alpha_t the square root of the paper's.
"""

import abc
import functools
from dataclasses import dataclass, field
from typing import Any, final

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from diffusion.numerics import as_time, in_interval
from diffusion.processes.base import GaussianProcess
from diffusion.registry import register
from diffusion.types import Scalar, Time

MOST_STEPS = 10**6  # limit on T: the table of betas is held in memory


@dataclass(frozen=True, kw_only=True)
class Chain(GaussianProcess):
    """A variance-preserving chain defined by its betas; by default t_min = 1 / T, its first point."""

    t_min: Any = field(default=None, metadata={"formerly": 1e-3})
    num_chain_steps: int = 1000

    def __post_init__(self) -> None:
        in_interval(f"[2, {MOST_STEPS}]", num_chain_steps=self.num_chain_steps)
        if self.t_min is None:
            object.__setattr__(self, "t_min", self.chain_step)
        super().__post_init__()
        betas = self.betas()
        in_interval("(0, 1)", **{"min(betas)": betas.min(), "max(betas)": betas.max()})

    @property
    def chain_step(self) -> float:
        """The distance between two points of the chain, 1 / T."""
        return 1 / self.num_chain_steps

    @abc.abstractmethod
    def betas(self) -> np.ndarray:
        """Return beta_1 .. beta_T in float64, shape (num_chain_steps,)."""

    def log_alpha(self, t: Time) -> Array:
        """Return log alpha: exact at t = k / T, a cubic spline between."""
        t = as_time(t) * self.num_chain_steps
        c = jnp.asarray(_spline(self), t.dtype)
        k = jnp.clip(jnp.floor(t), 0, self.num_chain_steps - 1).astype(int)
        u = t - k
        return ((c[0, k] * u + c[1, k]) * u + c[2, k]) * u + c[3, k]

    def alpha(self, t: Time) -> Array:
        return jnp.exp(self.log_alpha(t))

    def sigma(self, t: Time) -> Array:
        return jnp.sqrt(-jnp.expm1(2 * self.log_alpha(t)))


@functools.lru_cache(maxsize=32)
def _spline(chain: Chain) -> np.ndarray:
    """Fit log alpha over the points 0 .. T; shape (4, T), highest power first."""
    from scipy.interpolate import CubicSpline  # SciPy comes with JAX; its import is not free

    log_alpha = np.concatenate([[0.0], 0.5 * np.cumsum(np.log1p(-chain.betas()))])
    return CubicSpline(np.arange(len(log_alpha)), log_alpha).c


@register("process", "ddpm")
@final
@dataclass(frozen=True, kw_only=True)
class DDPM(Chain):
    """beta_k linear from beta_first to beta_last over T steps (Ho et al., 2020, section 4)."""

    beta_first: Scalar = 1e-4
    beta_last: Scalar = 0.02

    def betas(self) -> np.ndarray:
        return np.linspace(float(self.beta_first), float(self.beta_last), self.num_chain_steps)


@register("process", "proportional_beta", renamed_from="article")
@final
@dataclass(frozen=True, kw_only=True)
class ProportionalBeta(Chain):
    """One-step alpha_k = sqrt(1 - rate k / T), so beta_k = rate k / T (Su, kexue.fm 9119).

    `proportional_beta_limit` is its continuous limit, alpha = exp(-5 t^2) for rate 0.02 and T = 1000.
    """

    rate: Scalar = 0.02

    def betas(self) -> np.ndarray:
        return float(self.rate) * np.arange(1, self.num_chain_steps + 1) / self.num_chain_steps
