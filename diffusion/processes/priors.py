"""Priors: the distributions from which generation starts, for processes whose paths end exactly in them.

A prior draws x_T of any shape (batch, ...) and returns its log-density. Parameters that are tuples extend
along the last axes of the data; numbers hold for every coordinate. Registered under the kind `prior`.
"""

import abc
import functools
from dataclasses import dataclass, field
from typing import Any, final

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import laplace, logistic, norm
from jaxtyping import Array

from diffusion.numerics import at_least, draw, ordered, positive, require, sum_features
from diffusion.registry import register
from diffusion.types import Data, Key, KeyLike, PerExample, Scalar


@dataclass(frozen=True, kw_only=True)
class Prior(abc.ABC):
    """A distribution of end points."""

    @abc.abstractmethod
    def sample(self, key: KeyLike, shape: tuple[int, ...]) -> Array:
        """Draw end points, (batch, ...), from one key, or row i from key i."""

    def log_prob(self, x: Data) -> PerExample:
        """Return the log-density in nats per example.

        Raises:
            TypeError: the prior has no density.
        """
        raise TypeError(
            f"the prior {type(self).__name__} states no density; write `log_prob(x)`, log p(x) of shape (batch,)."
        )


@register("prior", "normal")
@final
@dataclass(frozen=True, kw_only=True)
class Normal(Prior):
    """N(mean, std^2), independent coordinates."""

    mean: Scalar | tuple = 0.0
    std: Scalar = 1.0

    def __post_init__(self) -> None:
        positive(std=self.std, of="a normal prior")

    def sample(self, key: KeyLike, shape: tuple[int, ...]) -> Array:
        return jnp.asarray(self.mean) + self.std * draw(jax.random.normal, key, shape)

    def log_prob(self, x: Data) -> PerExample:
        return sum_features(norm.logpdf(x, jnp.asarray(self.mean, x.dtype), self.std))


@register("prior", "uniform")
@final
@dataclass(frozen=True, kw_only=True)
class Uniform(Prior):
    """Uniform on [low, high] in every coordinate."""

    low: Scalar = -1.0
    high: Scalar = 1.0

    def __post_init__(self) -> None:
        ordered(low=self.low, high=self.high, of="a uniform prior")

    def sample(self, key: KeyLike, shape: tuple[int, ...]) -> Array:
        return self.low + (self.high - self.low) * draw(jax.random.uniform, key, shape)

    def log_prob(self, x: Data) -> PerExample:
        inside = ((x >= self.low) & (x <= self.high)).reshape(len(x), -1).all(axis=-1)
        width = jnp.log(jnp.asarray(self.high - self.low, x.dtype))
        return jnp.where(inside, -x[0].size * width, -jnp.inf)


@register("prior", "laplace")
@final
@dataclass(frozen=True, kw_only=True)
class Laplace(Prior):
    """exp(-|x - loc| / scale) / (2 scale), independent coordinates."""

    loc: Scalar = 0.0
    scale: Scalar = 1.0

    def __post_init__(self) -> None:
        positive(scale=self.scale, of="a Laplace prior")

    def sample(self, key: KeyLike, shape: tuple[int, ...]) -> Array:
        return self.loc + self.scale * draw(jax.random.laplace, key, shape)

    def log_prob(self, x: Data) -> PerExample:
        return sum_features(laplace.logpdf(x, self.loc, self.scale))


@register("prior", "logistic")
@final
@dataclass(frozen=True, kw_only=True)
class Logistic(Prior):
    """The logistic law, independent coordinates."""

    loc: Scalar = 0.0
    scale: Scalar = 1.0

    def __post_init__(self) -> None:
        positive(scale=self.scale, of="a logistic prior")

    def sample(self, key: KeyLike, shape: tuple[int, ...]) -> Array:
        return self.loc + self.scale * draw(jax.random.logistic, key, shape)

    def log_prob(self, x: Data) -> PerExample:
        return sum_features(logistic.logpdf(x, self.loc, self.scale))


def _scattered(
    key: KeyLike, shape: tuple[int, ...], centers: Array, weights: Array | None, std: Scalar
) -> Array:
    """Draw a center by its weight (None means equal weights), and add isotropic normal noise.

    One random number per draw selects the center, however many centers there are.
    """

    def sample(key: Key, shape: tuple[int, ...]) -> Array:
        key_k, key_z = jax.random.split(key)
        chosen = jax.random.choice(key_k, centers, shape[:1], p=weights)
        chosen = chosen.reshape(shape[0], *(1,) * (len(shape) - centers.ndim), *centers.shape[1:])
        return jnp.broadcast_to(chosen, shape) + std * jax.random.normal(key_z, shape)

    return draw(sample, key, shape)


_CENTERS = 64  # number of centers per chunk


def _scattered_log_prob(x: Data, centers: Array, weights: Array, std: Scalar) -> PerExample:
    def component(center: Array) -> Array:
        return sum_features(norm.logpdf(x, jnp.broadcast_to(center, x.shape), std))

    @jax.checkpoint
    def add(total: Array, chunk: tuple[Array, Array]) -> tuple[Array, None]:
        parts = jax.vmap(component)(chunk[0]) + chunk[1][:, None]
        return jnp.logaddexp(total, jax.nn.logsumexp(parts, axis=0)), None

    more = -len(centers) % min(_CENTERS, len(centers))
    centers = jnp.concatenate([centers, centers[:more]])
    log_weights = jnp.pad(jnp.log(weights), (0, more), constant_values=-jnp.inf)
    split = lambda a: a.reshape(-1, min(_CENTERS, len(a)), *a.shape[1:])
    nothing = jnp.full(x.shape[:1], -jnp.inf, x.dtype)
    return jax.lax.scan(add, nothing, (split(centers), split(log_weights)))[0]


@register("prior", "mixture")
@final
@dataclass(frozen=True, kw_only=True)
class Mixture(Prior):
    """sum_k weights_k N(means_k, std^2 I); a mean is a number, or a tuple along the last axes."""

    means: tuple = (-1.0, 1.0)
    weights: tuple[float, ...] = ()
    std: Scalar = 0.3

    def __post_init__(self) -> None:
        require(
            len(self.weights) in (0, len(self.means)) and all(w > 0 for w in self.weights),
            f"`weights` must be positive, one for each of {len(self.means)} means, or (): equal; got {self.weights}.",
        )
        positive(std=self.std, of="a mixture")

    def _parts(self) -> tuple[Array, Array]:
        weights = np.asarray(self.weights or (1.0,) * len(self.means), np.float64)
        return jnp.asarray(self.means), jnp.asarray(weights / weights.sum())

    def sample(self, key: KeyLike, shape: tuple[int, ...]) -> Array:
        return _scattered(key, shape, *self._parts(), self.std)

    def log_prob(self, x: Data) -> PerExample:
        centers, weights = (c.astype(x.dtype) for c in self._parts())
        return _scattered_log_prob(x, centers, weights, self.std)


@register("prior", "data")
@final
@dataclass(frozen=True, kw_only=True)
class DataPrior(Prior):
    """Examples of another data set, each with normal noise of standard deviation `bandwidth`.

    Without noise there is no density. For large data name a data set instead of passing points.

    Args:
        points: a nested tuple or array, (n, ...), used if no data set is named.
        dataset: a data set by name; its first `size` examples are kept in memory.
        size: number of examples to keep.
        bandwidth: standard deviation of the noise; 0 for the examples themselves.
    """

    points: Any = (-1.0, 1.0)
    dataset: Any = field(default=None, metadata={"kind": "dataset"})
    size: int = 10_000
    bandwidth: Scalar = 0.0

    def __post_init__(self) -> None:
        at_least(0, bandwidth=self.bandwidth, of="a data prior")
        if not isinstance(self.points, tuple):  # arrays are not hashable
            object.__setattr__(self, "points", _nested(np.asarray(self.points).tolist()))

    def sample(self, key: KeyLike, shape: tuple[int, ...]) -> Array:
        return _scattered(key, shape, jnp.asarray(_held(self)), None, self.bandwidth)

    def log_prob(self, x: Data) -> PerExample:
        if self.bandwidth == 0:
            return super().log_prob(x)
        points = jnp.asarray(_held(self), x.dtype)
        equal = jnp.full(len(points), 1 / len(points), x.dtype)
        return _scattered_log_prob(x, points, equal, self.bandwidth)


def _nested(value: Any) -> Any:
    return tuple(_nested(v) for v in value) if isinstance(value, list) else value


@functools.lru_cache(maxsize=8)
def _held(prior: DataPrior) -> np.ndarray:
    """Return the points of a data prior, cached after the first read."""
    if prior.dataset is None:
        return np.asarray(prior.points, np.float64)
    known = prior.dataset.spec.size
    count = prior.size if known is None else min(prior.size, known)
    return np.asarray(prior.dataset.examples(0, count)["data"])
