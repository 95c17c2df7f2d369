"""Dequantization of integer data: noise of one quantization step, and its change of variables.

Integers v = 0 .. levels - 1 are scaled to x = low + (high - low) v / (levels - 1). For noise u in (0, 1) of density
q(u | v), v + u has a density, and

    -log P(v) <= E_q[ -log p(x) + log q(u | v) ] - d log |dx / dv|

with equality on average for the uniform q when p is constant within each bin (Theis et al., 2016; Ho et
al., 2019, eq. 5).
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from diffusion.likelihood.checks import check_batch
from diffusion.numerics import as_pytree, at_least, draw, ordered, sum_features
from diffusion.types import Data, Key, PerExample


@runtime_checkable
class Dequantizer(Protocol):
    """A conditional distribution of the noise within a bin, given the integers."""

    def sample_and_log_prob(self, key: Key, x: Array) -> tuple[Array, Array]:
        """Return u in (0, 1) shaped like x, and log q(u | x) in nats per example."""
        ...


@dataclass(frozen=True, kw_only=True)
class Dequantization:
    """Uniform dequantization of integers v = 0 .. levels - 1, with its log-Jacobian.

    By default x = 2 v / (levels - 1) - 1, so that adjacent levels are 2 / (levels - 1) apart, and the noise
    fills that distance (Theis et al., 2016). For the scaling 2 (v + 1/2) / levels - 1 of some papers set
    low = -1 + 1 / levels, high = 1 - 1 / levels.

    Args:
        levels: number of integers.
        low: x of the integer 0.
        high: x of the integer levels - 1.
    """

    levels: int = 256
    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        at_least(2, levels=self.levels)
        ordered(low=self.low, high=self.high)

    @property
    def spacing(self) -> float:
        """The distance |dx / dv| between adjacent levels."""
        return (self.high - self.low) / (self.levels - 1)

    @property
    def log_jacobian(self) -> float:
        """The logarithm of |dv / dx| per dimension, in nats."""
        return float(-np.log(self.spacing))

    def __call__(self, key: Key, x: Data) -> Data:
        """Add centered uniform noise of one quantization step."""
        u = draw(lambda k, s: jax.random.uniform(k, s, x.dtype), key, x.shape)
        return x + (u - 0.5) * self.spacing

    def bits_per_dim(self, log_p: PerExample, num_dims: int) -> PerExample:
        """Return -log2 of the probability of the integers, per dimension, from a log-density of x in nats."""
        return (-log_p / num_dims + self.log_jacobian) / np.log(2)


@dataclass(frozen=True, kw_only=True)
class VariationalDequantization:
    """Noise from a learnable q(u | v) instead of the uniform one (Ho et al., 2019, section 3.1).

    Args:
        dequantizer: an object with `sample_and_log_prob(key, x)`, u within (0, 1).
        scale: levels and range of the integers.
    """

    dequantizer: Dequantizer
    scale: Dequantization = Dequantization()

    def __call__(self, key: Key, x: Data) -> tuple[Data, PerExample]:
        """Return x with the noise added, and log q of that noise in nats per example."""
        x = check_batch(x)
        u, log_q = self.dequantizer.sample_and_log_prob(key, x)
        return x + (u - 0.5) * self.scale.spacing, log_q

    def bits_per_dim(self, log_p: PerExample, log_q: PerExample, num_dims: int) -> PerExample:
        """Return the bound on -log2 of the probability of the integers, per dimension."""
        return self.scale.bits_per_dim(log_p - log_q, num_dims)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LogisticDequantizer:
    """u = sigmoid(shift(x) + exp(log_scale(x)) e), e logistic, pixel by pixel.

    Shift 0 and scale 1 give exactly uniform noise, so that training starts from the uniform bound.

    Args:
        network: x -> (shift, log_scale), each shaped like x: a callable pytree whose arrays are learned.
    """

    network: Callable[[Array], tuple[Array, Array]]

    def sample_and_log_prob(self, key: Key, x: Array) -> tuple[Array, Array]:
        """Return u and log q(u | x)."""
        shift, log_scale = as_pytree(self.network)(x)
        e = draw(lambda k, s: jax.random.logistic(k, s, x.dtype), key, x.shape)
        y = shift + jnp.exp(log_scale) * e
        log_p = lambda a: jax.nn.log_sigmoid(a) + jax.nn.log_sigmoid(-a)  # the logistic density
        log_q = log_p(e) - log_scale - log_p(y)  # log_p(y) is also log du/dy
        return jax.nn.sigmoid(y), sum_features(log_q)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PixelNetwork:
    """A network of one hidden layer, applied to each pixel separately: v -> (shift, log_scale).

    `PixelNetwork.init(key)` starts with zero output.
    """

    weights: Any  # hidden layer: (2, hidden), slopes and offsets
    readout: Any  # (hidden, 2)

    @classmethod
    def init(cls, key: Key, hidden: int = 16) -> "PixelNetwork":
        """Draw the hidden layer; the readout is zero, so the noise is initially uniform."""
        key_slope, key_offset = jax.random.split(key)
        slopes = 3.0 * jax.random.normal(key_slope, (hidden,))
        offsets = -slopes * jax.random.uniform(key_offset, (hidden,), minval=-1.0)
        return cls(jnp.stack([slopes, offsets]), jnp.zeros((hidden, 2)))

    def __call__(self, x: Array) -> tuple[Array, Array]:
        """Return shift and log_scale, each shaped like x."""
        slopes, offsets = jnp.asarray(self.weights, x.dtype)
        out = jnp.tanh(x[..., None] * slopes + offsets) @ jnp.asarray(self.readout, x.dtype)
        return out[..., 0], out[..., 1]

    def replace(self, **fields: Any) -> "PixelNetwork":
        """Return a copy with some fields changed."""
        return dataclasses.replace(self, **fields)
