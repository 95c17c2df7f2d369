"""Decoders, the last step of the evidence lower bound: p(x_0 | x_t) at t_min."""

import abc
from dataclasses import dataclass
from typing import Any, final

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffusion.numerics import at_least, ordered, per_example, sum_features
from diffusion.processes import GaussianProcess
from diffusion.types import Data, Scalar, Time


@dataclass(frozen=True, kw_only=True)
class Decoder(abc.ABC):
    """A distribution of the data given the state at t_min."""

    @abc.abstractmethod
    def log_prob(
        self, process: GaussianProcess, model: Any, x_0: Data, x_t: Data, t: Time
    ) -> Float[Array, " batch"]:
        """Return log p(x_0 | x_t) in nats per example."""


@final
@dataclass(frozen=True, kw_only=True)
class GaussianDecoder(Decoder):
    """N(E[x_0 | x_t], std^2 I): a density, for continuous or dequantized data.

    Args:
        std: standard deviation of the data around its posterior mean; None means sigma / alpha, which is right
            for data that is smooth on that scale. For N(m, s^2) data the exact value is
            s sigma / sqrt(alpha^2 s^2 + sigma^2).
    """

    std: Scalar | None = None

    def log_prob(
        self, process: GaussianProcess, model: Any, x_0: Data, x_t: Data, t: Time
    ) -> Float[Array, " batch"]:
        c = process.coefficients(t, x_t)
        std = c.sigma / c.alpha if self.std is None else per_example(self.std, x_t)
        return sum_features(jax.scipy.stats.norm.logpdf(x_0, model(x_t, t), std))


@final
@dataclass(frozen=True, kw_only=True)
class DiscretizedDecoder(Decoder):
    """p(v | x_t) proportional to q(x_t | x(v)) over the levels, pixel by pixel (Kingma et al., 2021, eq. 15).

    It gives probabilities of integers, so the bound needs neither dequantization nor a Jacobian. The data
    must be exactly at x(v) = low + (high - low) v / (levels - 1). Memory: `levels` numbers per pixel.
    """

    levels: int = 256
    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        at_least(2, levels=self.levels)
        ordered(low=self.low, high=self.high)

    def log_prob(
        self, process: GaussianProcess, model: Any, x_0: Data, x_t: Data, t: Time
    ) -> Float[Array, " batch"]:
        del model
        c = process.coefficients(t, x_t)
        values = jnp.linspace(self.low, self.high, self.levels, dtype=x_0.dtype)
        distance = (x_t / c.alpha)[..., None] - values
        ratio = per_example(jnp.asarray(c.alpha / c.sigma, x_t.dtype), distance)
        logits = jax.nn.log_softmax(-0.5 * (distance * ratio) ** 2, axis=-1)
        spacing = (self.high - self.low) / (self.levels - 1)
        v = jnp.clip(jnp.round((x_0 - self.low) / spacing), 0, self.levels - 1).astype(int)
        return sum_features(jnp.take_along_axis(logits, v[..., None], axis=-1)[..., 0])
