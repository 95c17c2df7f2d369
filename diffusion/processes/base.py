"""The three rungs of forward processes.

A process says how data is demolished: x_t = interpolate(x_0, z, t), with time running *up* from data
(`t_min`) to noise (`t_max`); flow-matching papers run the other way, we never do. A definition sits
on the highest rung that it deserves, and functions ask for the lowest rung that they need:

    Process           interpolate(x_0, z, t)       training by velocity, any ODE solver
    AffineProcess     alpha(t) x_0 + sigma(t) z    E[x_0 | x_t] as currency, DDIM, DPM-Solver
    GaussianProcess   the same with z ~ N(0, I)    score, forward and reverse SDE, posterior

References: Song et al. 2021 (SDE and probability flow), Karras et al. 2022 (EDM), Lipman et al. 2023
(flow matching), Su, kexue.fm 9209, 9228, 9370, 9379 (SDE, ODE, Green's functions, characteristics).
"""

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffusion.numerics import (
    as_time,
    draw,
    invert_decreasing,
    on_host,
    per_example,
    require,
    sum_features,
    value_and_ddt,
)
from diffusion.types import ODE, Coefficients, Key, Scalar, Time

Data = Float[Array, "batch *data"]


@dataclass(frozen=True, kw_only=True)
class Process(abc.ABC):
    """A conditional path x_t = interpolate(x_0, z, t) from data to noise."""

    t_min: Scalar = 1e-3
    t_max: Scalar = 1.0

    finish_evaluations: ClassVar[int] = 0  # of the model, by `finish`

    def __post_init__(self) -> None:
        """Check the time range."""
        require(
            self.t_min >= 0,
            f"`t_min` must not be negative, since the data is at time 0; got {self.t_min}.",
        )
        require(
            self.t_min < self.t_max,
            f"`t_min` must lie below `t_max`; got t_min={self.t_min}, t_max={self.t_max}.",
        )

    @abc.abstractmethod
    def interpolate(self, x_0: Data, z: Data, t: Time) -> Data:
        """Return the state at time t of the path that starts in x_0 and is labelled z."""

    @property
    def reach(self) -> tuple[Scalar, Scalar]:
        """The times at which the definition makes sense; it contains [t_min, t_max]."""
        return 0.0, self.t_max

    def sample_noise(self, key: Key, shape: tuple[int, ...]) -> Array:
        """Draw z of shape (batch, ...) from one key, or row i from key i."""
        return draw(jax.random.normal, key, shape)

    def sample_prior(self, key: Key, shape: tuple[int, ...]) -> Array:
        """Draw the state at t_max with the data forgotten: where generation starts."""
        z = self.sample_noise(key, shape)
        return self.interpolate(jnp.zeros_like(z), z, self.t_max)

    def velocity(self, x_0: Data, z: Data, t: Time) -> Data:
        """Return d/dt interpolate(x_0, z, t): the speed that flow matching regresses."""
        t = jnp.broadcast_to(jnp.asarray(t, x_0.dtype), x_0.shape[:1])
        return value_and_ddt(lambda u: self.interpolate(x_0, z, u), t)[1]

    def flow(self, model: Callable[[Array, Any], Array]) -> ODE:
        """Return the generative ODE. On this rung the model predicts the velocity itself."""
        return ODE(model)

    def finish(self, model: Callable[[Array, Any], Array], x: Data, t: Time) -> Data:
        """Remove what noise is left at the end of sampling; nothing can be said on this rung."""
        del model, t
        return x

    def noise_level(self, t: Time) -> Array:
        """Return the label of t that a network sees: the log-SNR that a straight line has there."""
        u = (as_time(t) - self.t_min) / (self.t_max - self.t_min)
        u = jnp.clip(u, 1e-4, 1 - 1e-4)  # finite at both ends
        return 2 * (jnp.log1p(-u) - jnp.log(u))

    def natural_times(self, num_steps: int) -> np.ndarray:
        """Return decreasing float64 times, (num_steps + 1,), that suit this process: uniform."""
        return np.linspace(float(self.t_max), float(self.t_min), num_steps + 1)

    def noise_log_prob(self, z: Data) -> Float[Array, " batch"]:
        """Return the log-density of z, in nats per example.

        Raises:
            TypeError: the process draws its noise without stating a density.
        """
        raise TypeError(
            f"{type(self).__name__} states no density for its noise; likelihoods need "
            "`noise_log_prob(z)`, a method that returns log p(z) of shape (batch,)."
        )

    def prior_log_prob(self, x: Data) -> Float[Array, " batch"]:
        """Return the log-density of what `sample_prior` draws."""
        raise TypeError(
            f"{type(self).__name__} states no density for its prior; likelihoods need "
            "`prior_log_prob(x)`, a method that returns log p(x) of shape (batch,)."
        )


@dataclass(frozen=True, kw_only=True)
class AffineProcess(Process):
    """x_t = alpha(t) x_0 + sigma(t) z for any noise z."""

    finish_evaluations: ClassVar[int] = 1

    @abc.abstractmethod
    def alpha(self, t: Time) -> Scalar:
        """Return the signal scale, elementwise in t."""

    @abc.abstractmethod
    def sigma(self, t: Time) -> Scalar:
        """Return the noise scale, elementwise in t."""

    def log_snr(self, t: Time) -> Array:
        """Return log(alpha^2 / sigma^2), decreasing in t."""
        t = as_time(t)
        return 2 * (jnp.log(self.alpha(t)) - jnp.log(self.sigma(t)))

    def noise_level(self, t: Time) -> Array:
        """Return the log-SNR: weights of a network that sees it do not know which process they serve."""
        return self.log_snr(t)

    def time_of_log_snr(self, log_snr: Time) -> Array:
        """Return the time in [t_min, t_max] at which the log-SNR has this value."""
        return invert_decreasing(self.log_snr, log_snr, self.t_min, self.t_max)

    def coefficients(self, t: Time, like: Float[Array, "..."]) -> Coefficients:
        """Return alpha, sigma and their derivatives at t, shaped to multiply `like`."""
        t = jnp.asarray(t, like.dtype)
        alpha, d_alpha = value_and_ddt(self.alpha, t)
        sigma, d_sigma = value_and_ddt(self.sigma, t)
        return Coefficients(*(per_example(c, like) for c in (alpha, sigma, d_alpha, d_sigma)))

    def interpolate(self, x_0: Data, z: Data, t: Time) -> Data:
        """Return alpha(t) x_0 + sigma(t) z."""
        t = jnp.asarray(t, x_0.dtype)
        return per_example(self.alpha(t), x_0) * x_0 + per_example(self.sigma(t), x_0) * z

    def velocity(self, x_0: Data, z: Data, t: Time) -> Data:
        """Return alpha'(t) x_0 + sigma'(t) z."""
        c = self.coefficients(t, x_0)
        return c.d_alpha * x_0 + c.d_sigma * z

    def flow(self, model: Callable[[Array, Any], Array]) -> ODE:
        """Return the generative ODE. On this rung the model is a denoiser E[x_0 | x_t].

        The expectation of the conditional velocity passes through the affine map, whatever the law
        of z: dx/dt = alpha' E[x_0 | x] + sigma' E[z | x], with E[z | x] = (x - alpha E[x_0 | x]) / sigma.
        """

        def velocity(x_t: Array, t: Time) -> Array:
            c = self.coefficients(t, x_t)
            x_0 = model(x_t, t)
            z = (x_t - c.alpha * x_0) / c.sigma
            return c.d_alpha * x_0 + c.d_sigma * z

        return ODE(velocity)

    def finish(self, model: Callable[[Array, Any], Array], x: Data, t: Time) -> Data:
        """Return E[x_0 | x_t]: the last noise is removed in one step."""
        return model(x, jnp.asarray(t, x.dtype))

    def log_snr_ends(self) -> np.ndarray:
        """Return the log-SNR at t_max and t_min in float64, finite.

        Where one of the scales vanishes at an end, the value 0.1 percent of the range inside counts.
        """
        inside = 1e-3 * (float(self.t_max) - float(self.t_min))
        ends = np.array([self.t_max, self.t_min], np.float64)
        near = on_host(self.log_snr, ends + inside * np.array([-1.0, 1.0]))
        exact = on_host(self.log_snr, ends)
        return np.where(np.isfinite(exact), exact, near)

    def natural_times(self, num_steps: int) -> np.ndarray:
        """Return decreasing float64 times, (num_steps + 1,), uniform in log-SNR."""
        first, last = self.log_snr_ends()
        times = on_host(self.time_of_log_snr, np.linspace(first, last, num_steps + 1))
        times[0], times[-1] = float(self.t_max), float(self.t_min)  # exactly, not to round-off
        return times

    def prior_log_prob(self, x: Data) -> Float[Array, " batch"]:
        """Return the log-density of sigma(t_max) z at x."""
        sigma = jnp.asarray(self.sigma(as_time(self.t_max)), x.dtype)
        return self.noise_log_prob(x / sigma) - x[0].size * jnp.log(sigma)

    def log_density(self, x_t: Data, x_0: Data, t: Time) -> Float[Array, " batch"]:
        """Return log p(x_t | x_0), the Green's function of the definition, per example."""
        t = jnp.asarray(t, x_t.dtype)
        alpha, sigma = (per_example(c, x_t) for c in (self.alpha(t), self.sigma(t)))
        scale = jnp.log(jnp.broadcast_to(sigma.reshape(-1), x_t.shape[:1]))
        return self.noise_log_prob((x_t - alpha * x_0) / sigma) - x_t[0].size * scale


@dataclass(frozen=True, kw_only=True)
class GaussianProcess(AffineProcess):
    """An affine process with z ~ N(0, I): the marginal of dx = f(t) x dt + g(t) dW.

    f = alpha' / alpha and g^2 = 2 sigma (sigma' - f sigma) follow from the two functions (Su,
    kexue.fm 9209). A definition overrides them where a closed form is more accurate; the laws hold it
    to agreement.
    """

    def f(self, t: Time) -> Array:
        """Return the drift coefficient d log alpha / dt."""
        return value_and_ddt(lambda u: jnp.log(self.alpha(u)), t)[1]

    def g(self, t: Time) -> Array:
        """Return the diffusion coefficient sqrt(d sigma^2 / dt - 2 f sigma^2)."""
        sigma, d_sigma = value_and_ddt(self.sigma, t)
        return jnp.sqrt(jnp.maximum(2 * sigma * (d_sigma - self.f(t) * sigma), 0.0))

    def noise_log_prob(self, z: Data) -> Float[Array, " batch"]:
        """Return the standard normal log-density, in nats per example."""
        return sum_features(jax.scipy.stats.norm.logpdf(z))


def require_rung(process: Process, rung: type[Process], who: str) -> None:
    """Raise TypeError unless the process stands on this rung or above it."""
    if isinstance(process, rung):
        return
    needs = {
        AffineProcess: "alpha(t) and sigma(t) (an AffineProcess)",
        GaussianProcess: "Gaussian noise, so a score (a GaussianProcess)",
    }
    raise TypeError(
        f"{who} needs {needs.get(rung, rung.__name__)}; {type(process).__name__} is "
        f"{'an AffineProcess' if isinstance(process, AffineProcess) else 'a Process'} only. "
        "Samplers for every process: euler, heun, midpoint, rk4, diffrax."
    )
