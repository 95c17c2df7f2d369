"""Processes written as a nonlinear SDE, demolished by simulation.

    dx = drift(x, t) dt + diffusion(t) dW

No closed form of x_t given x_0 is needed. The label z of a path is the noise of all of its Euler-Maruyama
steps, which end at t; the last one, of length h, is Gaussian given the state before it, so that its score
-z_last / (diffusion sqrt(h)) has the score of p_t as its expectation given x_t. Hence

    velocity = drift(x_t, t) + diffusion(t)^2 z_last / (2 diffusion_last sqrt(h))

has as its expectation given x_t the velocity of the probability flow, drift - diffusion^2/2 score (Song et
al., 2021; Su, kexue.fm 9209, 9228), and the flow-matching loss trains it like any other process. The
relation is exact for the chain of steps; the chain itself is off the SDE by O(h).
"""

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, final

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffusion.numerics import draw, per_example, require, sum_features
from diffusion.processes.base import Data, Process
from diffusion.processes.linear_sde import linear_beta_diffusion
from diffusion.registry import load, register
from diffusion.types import Key, Scalar, Time

Noise = Float[Array, "batch *steps_and_data"]


@dataclass(frozen=True, kw_only=True)
class NonlinearSDE(Process):
    """dx = drift(x, t) dt + diffusion(t) dW. Subclass it and write the two functions.

    The path to t takes steps of t_max / num_demolition_steps, counted back from t, so that the first one
    is shorter. The variance of the regression target is diffusion^2 / (4 h) for the last step h: more steps
    are closer to the SDE and noisier to train.

    Args:
        num_demolition_steps: from 0 to t_max.
        prior_std: the prior is normal with this standard deviation, for an SDE that is known to end so;
            None: the prior is simulated from x_0 = 0, and has no density.
    """

    smooth_paths: ClassVar[bool] = (
        False  # `velocity` has the right expectation, it is no derivative
    )

    t_min: Scalar = 0.01
    num_demolition_steps: int = 100
    prior_std: Scalar | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.num_demolition_steps >= 1,
            f"`num_demolition_steps` must be at least 1; got {self.num_demolition_steps}.",
        )
        require(
            self.prior_std is None or self.prior_std > 0,
            f"`prior_std` must be positive, or None for a simulated prior; got {self.prior_std}.",
        )

    @abc.abstractmethod
    def drift(self, x: Array, t: Array) -> Array:
        """Return the drift, shaped like x; t has the shape () or (batch, 1, ...), and multiplies x."""

    @abc.abstractmethod
    def diffusion(self, t: Array) -> Scalar:
        """Return the coefficient of dW, elementwise in t, positive inside (0, t_max)."""

    def sample_noise(self, key: Key, shape: tuple[int, ...]) -> Array:
        """Draw the noise of all steps, (batch, num_demolition_steps, ...), for data of this shape."""
        steps = self.num_demolition_steps
        return draw(lambda k, s: jax.random.normal(k, (s[0], steps, *s[1:])), key, shape)

    def _steps(self, x_0: Array, z: Array, t: Time) -> tuple[Array, Array, Array]:
        """Return the noises, steps first, and the start and length of each step."""
        t = per_example(jnp.asarray(t, x_0.dtype), x_0)
        if z.ndim == x_0.ndim:  # one step, from 0 to t
            return z[None], jnp.zeros_like(t)[None], t[None]
        require(
            z.ndim == x_0.ndim + 1 and z.shape[2:] == x_0.shape[1:],
            "`z` must be the noise of every step, (batch, num_steps, ...), or of a single one, "
            f"(batch, ...); got {z.shape} for data of shape {x_0.shape}.",
        )
        num = z.shape[1]
        back = jnp.arange(num, -1, -1).reshape(-1, *(1,) * t.ndim) * (self.t_max / num)
        ends = jnp.maximum(t - back.astype(x_0.dtype), 0.0)
        return jnp.moveaxis(z, 1, 0), ends[:-1], ends[1:] - ends[:-1]

    def _spread(self, start: Array, length: Array) -> Array:
        """Return the standard deviation of the noise of a step, 0 for an empty one."""
        some = length > 0
        root = jnp.sqrt(jnp.where(some, length, 1.0))  # a derivative in t stays finite
        return jnp.where(some, self.diffusion(start + length / 2) * root, 0.0)

    def interpolate(self, x_0: Data, z: Noise, t: Time) -> Data:
        """Simulate the SDE from x_0 at time 0 to t, driven by z.

        Args:
            x_0: clean examples, (batch, ...).
            z: the noise of every step, (batch, num_steps, ...), or of a single step, (batch, ...).
            t: a time, or one per example.
        """

        def step(x: Array, row: tuple[Array, Array, Array]) -> tuple[Array, None]:
            z, start, length = row
            return x + self.drift(x, start) * length + self._spread(start, length) * z, None

        return jax.lax.scan(step, x_0, self._steps(x_0, z, t))[0]

    def velocity(self, x_0: Data, z: Noise, t: Time) -> Data:
        """Return what flow matching regresses; its expectation given x_t is the generative velocity."""
        noise, start, length = (part[-1] for part in self._steps(x_0, z, t))
        x_t = self.interpolate(x_0, z, t)
        t = start + length
        score = -noise / self._spread(start, length)
        return self.drift(x_t, t) - self.diffusion(t) ** 2 / 2 * score

    def sample_prior(self, key: Key, shape: tuple[int, ...]) -> Array:
        """Draw normal noise of the stated deviation, or demolish x_0 = 0."""
        if self.prior_std is not None:
            return self.prior_std * draw(jax.random.normal, key, shape)
        z = self.sample_noise(key, shape)
        return self.interpolate(jnp.zeros(shape, z.dtype), z, self.t_max)

    def prior_log_prob(self, x: Data) -> Float[Array, " batch"]:
        """Return the normal log-density, in nats per example.

        Raises:
            TypeError: no `prior_std` is stated, so the prior is simulated.
        """
        if self.prior_std is None:
            raise TypeError(
                f"{type(self).__name__} simulates its prior, which has no known density; for likelihoods "
                "state `prior_std` if the SDE ends near a normal law."
            )
        return sum_features(jax.scipy.stats.norm.logpdf(x, scale=self.prior_std))


def bounded_pull(x: Array, t: Array) -> Array:
    """Return -beta(t) x / sqrt(1 + x^2), whose strength is bounded, with the default beta of `vp`."""
    return -(0.1 + 19.9 * t) * x * jax.lax.rsqrt(1 + x**2)


@register("process", "nonlinear_sde")
@final
@dataclass(frozen=True, kw_only=True)
class GivenNonlinearSDE(NonlinearSDE):
    """dx = drift(x, t) dt + diffusion(t) dW from two functions, or from "module:function" in a config.

    The default is `vp` with its pull -x/2 replaced by -x / sqrt(1 + x^2), coordinate by coordinate: it
    ends near the density exp(-2 sqrt(1 + x^2)), of standard deviation 0.95 and exponential tails.
    """

    drift_fn: Callable[[Array, Array], Array] | str = bounded_pull
    diffusion_fn: Callable[[Array], Any] | str = linear_beta_diffusion

    def drift(self, x: Array, t: Array) -> Array:
        return _function(self.drift_fn)(x, t)

    def diffusion(self, t: Array) -> Scalar:
        return _function(self.diffusion_fn)(t)


def _function(given: Callable | str) -> Callable:
    return load(given) if isinstance(given, str) else given
