"""Processes defined by a nonlinear SDE, whose paths are simulated.

    dx = drift(x, t) dt + diffusion(t) dW

No closed form of x_t given x_0 is needed. A path to t is a chain of steps that ends at t; each step is

    half the noise of the step,  the drift by the midpoint rule,  the other half of the noise

(Strang's splitting, with a weak error of O(h^2); the Euler-Maruyama step has O(h), which is visible in samples
at step sizes that are cheap enough for training). The label z of a path consists of all of its noises. The last
noise is Gaussian given the state before it, with a standard deviation s, so that the expectation of its score
-z_last / s given x_t is the score of p_t. Hence

    velocity = drift(x_t, t) + diffusion(t)^2 z_last / (2 s)

has as its expectation given x_t the velocity of the probability flow, drift - diffusion^2/2 score (Song et
al., 2021; Su, kexue.fm 9209, 9228), exactly for the chain, and the flow-matching loss trains it like that of
any other process.
"""

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, final

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffusion.numerics import at_least, draw, per_example, positive, require, sum_features
from diffusion.processes.base import Process
from diffusion.processes.linear_sde import linear_beta_diffusion
from diffusion.registry import load, register
from diffusion.types import Data, KeyLike, Scalar, Time

Noise = Float[Array, "batch *steps_and_data"]


@dataclass(frozen=True, kw_only=True)
class NonlinearSDE(Process):
    """dx = drift(x, t) dt + diffusion(t) dW. Subclass it and write the two functions.

    The path to t takes steps of h = t_max / num_demolition_steps, counted back from t, so that the first
    step is shorter. The variance of the regression target is diffusion^2 / (2 h): more steps are closer to
    the SDE, and make training noisier.

    Args:
        num_demolition_steps: number of steps from 0 to t_max.
        prior_std: standard deviation of the normal prior, for an SDE that is known to end in it; None
            simulates the prior from x_0 = 0, which has no density.
    """

    smooth_paths: ClassVar[bool] = False  # `velocity` is a derivative of paths only in expectation

    t_min: Scalar = 0.01
    num_demolition_steps: int = 50
    prior_std: Scalar | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, num_demolition_steps=self.num_demolition_steps)
        positive(prior_std=self.prior_std, none="a simulated prior")

    @abc.abstractmethod
    def drift(self, x: Array, t: Array) -> Array:
        """Return the drift, shaped like x; t has the shape () or (batch, 1, ...), to multiply x."""

    @abc.abstractmethod
    def diffusion(self, t: Array) -> Scalar:
        """Return the coefficient of dW, elementwise in t, positive inside (0, t_max)."""

    def sample_noise(self, key: KeyLike, shape: tuple[int, ...]) -> Array:
        """Draw all noises, (batch, num_demolition_steps + 1, ...), for data of this shape."""
        num = self.num_demolition_steps + 1
        return draw(lambda k, s: jax.random.normal(k, (s[0], num, *s[1:])), key, shape)

    def _chain(self, x_0: Array, z: Array, t: Time) -> tuple[Array, Array, Array]:
        """Return the times between the steps, the noises there, and their standard deviations.

        The first axis runs over the points 0 .. num_steps; the last point is at t.
        """
        t = per_example(jnp.asarray(t, x_0.dtype), x_0)
        if z.ndim == x_0.ndim:  # a single step from 0 to t, with all noise added at its end
            times, spans = jnp.stack([jnp.zeros_like(t), t]), jnp.stack([jnp.zeros_like(t), t])
            return times, jnp.stack([jnp.zeros_like(z), z]), self._spread(times - spans / 2, spans)
        require(
            z.ndim == x_0.ndim + 1 and z.shape[1] >= 2 and z.shape[2:] == x_0.shape[1:],
            f"`z` must be (batch, num_steps + 1, ...), or (batch, ...) for one; got {z.shape} for data {x_0.shape}.",
        )
        num = z.shape[1] - 1
        back = jnp.arange(num, -1, -1).reshape(-1, *(1,) * t.ndim) * (self.t_max / num)
        times = jnp.maximum(t - back.astype(x_0.dtype), 0.0)
        half = jnp.diff(times, axis=0) / 2  # half of each step, before and after a noise
        none = jnp.zeros_like(t)[None]
        before, after = jnp.concatenate([none, half]), jnp.concatenate([half, none])
        spread = self._spread(times + (after - before) / 2, before + after)
        return times, jnp.moveaxis(z, 1, 0), spread

    def _spread(self, middle: Array, span: Array) -> Array:
        """Return the standard deviation of the noise of a span of time, 0 for an empty one."""
        some = span > 0
        root = jnp.sqrt(jnp.where(some, span, 1.0))  # keeps the derivative in t finite
        return jnp.where(some, self.diffusion(middle) * root, 0.0)

    def interpolate(self, x_0: Data, z: Noise, t: Time) -> Data:
        """Simulate the SDE from x_0 at time 0 to t, driven by z.

        Args:
            x_0: clean examples, (batch, ...).
            z: the noises of every step, (batch, num_steps + 1, ...), or of a single step, (batch, ...).
            t: a time, or one per example.
        """
        times, z, spread = self._chain(x_0, z, t)

        def step(x: Array, row: tuple[Array, ...]) -> tuple[Array, None]:
            t, end, z, spread = row
            middle = x + (end - t) / 2 * self.drift(x, t)
            return x + (end - t) * self.drift(middle, (t + end) / 2) + spread * z, None

        start = x_0 + spread[0] * z[0]
        return jax.lax.scan(step, start, (times[:-1], times[1:], z[1:], spread[1:]))[0]

    def velocity(self, x_0: Data, z: Noise, t: Time) -> Data:
        """Return the target of flow matching; its expectation given x_t is the generative velocity."""
        times, noises, spread = self._chain(x_0, z, t)
        x_t, t = self.interpolate(x_0, z, t), times[-1]
        score = -noises[-1] / spread[-1]
        return self.drift(x_t, t) - self.diffusion(t) ** 2 / 2 * score

    def sample_prior(self, key: KeyLike, shape: tuple[int, ...]) -> Array:
        """Draw normal noise of standard deviation `prior_std`, or simulate the SDE from x_0 = 0."""
        if self.prior_std is not None:
            return self.prior_std * draw(jax.random.normal, key, shape)
        z = self.sample_noise(key, shape)
        return self.interpolate(jnp.zeros(shape, z.dtype), z, self.t_max)

    def prior_log_prob(self, x: Data) -> Float[Array, " batch"]:
        """Return the normal log-density, in nats per example.

        Raises:
            TypeError: `prior_std` is None, so the prior is simulated and has no known density.
        """
        if self.prior_std is None:
            raise TypeError(
                f"{type(self).__name__} simulates its prior, without density; state `prior_std` if it is near normal."
            )
        return sum_features(jax.scipy.stats.norm.logpdf(x, scale=self.prior_std))


def bounded_pull(x: Array, t: Array) -> Array:
    """Return the bounded drift -beta(t) x / sqrt(1 + x^2), with the default beta of `vp`."""
    return -(0.1 + 19.9 * t) * x * jax.lax.rsqrt(1 + x**2)


@register("process", "nonlinear_sde")
@final
@dataclass(frozen=True, kw_only=True)
class GivenNonlinearSDE(NonlinearSDE):
    """dx = drift(x, t) dt + diffusion(t) dW from two functions, or from "module:function" in a config.

    The default is `vp` with its drift -x/2 replaced by -x / sqrt(1 + x^2), elementwise: it ends near the
    density exp(-2 sqrt(1 + x^2)), which has a standard deviation of 0.95 and exponential tails.
    """

    drift_fn: Callable[[Array, Array], Array] | str = bounded_pull
    diffusion_fn: Callable[[Array], Any] | str = linear_beta_diffusion

    def drift(self, x: Array, t: Array) -> Array:
        return load(self.drift_fn)(x, t)

    def diffusion(self, t: Array) -> Scalar:
        return load(self.diffusion_fn)(t)
