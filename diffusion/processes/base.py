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
    is_traced,
    on_host,
    per_example,
    require,
    sum_features,
    value_and_ddt,
)
from diffusion.processes.inversion import along_time, compiled, invert, log_abs_det
from diffusion.types import ODE, Coefficients, Key, Scalar, Time

Data = Float[Array, "batch *data"]


@dataclass(frozen=True, kw_only=True)
class Process(abc.ABC):
    """A conditional path x_t = interpolate(x_0, z, t) from data to noise."""

    t_min: Scalar = 1e-3
    t_max: Scalar = 1.0

    finish_evaluations: ClassVar[int] = 0  # of the model, by `finish`
    exact_prior: ClassVar[bool] = False  # nothing of x_0 is left at t_max
    coordinatewise: ClassVar[bool] = False  # x_t[i] depends on x_0[i] and z[i] alone
    smooth_paths: ClassVar[bool] = True  # `velocity` is the time derivative of `interpolate`

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
        return along_time(lambda u: self.interpolate(x_0, z, u), t, x_0)[1]

    def label(self, x_t: Data, x_0: Data, t: Time) -> Data:
        """Return the z whose path from x_0 passes through x_t at time t: interpolate(x_0, z, t) = x_t.

        Found by damped Newton steps unless a definition knows its inverse: d forward derivatives per
        step, or one where the path is `coordinatewise`.

        Raises:
            TypeError: z is not shaped like the data.
            ValueError: no such z was found (outside of compiled code, where it can be seen).
        """
        self._require_label_like(x_t)
        return self._checked(self._solved_label(x_t, x_0, t), x_t, x_0, t)

    @compiled
    def _solved_label(self, x_t: Data, x_0: Data, t: Time) -> Data:
        path = lambda z: self.interpolate(x_0, z, t)
        return invert(path, x_t, x_t, diagonal=self.coordinatewise)

    def _checked(self, z: Data, x_t: Data, x_0: Data, t: Time) -> Data:
        """Return z if its path passes through x_t; in compiled code, where nobody can see, as it is."""
        if not is_traced(z, x_t, x_0, t, self):
            distance = jnp.abs(self.interpolate(x_0, z, t) - x_t) / (1 + jnp.abs(x_t))
            require(
                float(jnp.max(distance)) < 1e-3,  # NaN fails as well
                f"{type(self).__name__} breaks the law that paths are invertible: no z with "
                f"interpolate(x_0, z, t) = x_t was found (off by {jnp.max(distance):.2g}). Two paths from "
                "one x_0 may cross, or a point lies where no path goes.",
            )
        return z

    def _require_label_like(self, x: Data) -> None:
        drawn = jax.eval_shape(lambda key: self.sample_noise(key, x.shape), jax.random.key(0))
        if drawn.shape != x.shape:
            raise TypeError(
                f"{type(self).__name__} labels its paths by z of shape {drawn.shape} for data of shape "
                f"{x.shape}: such paths cannot be inverted, so it has no density and no exact field."
            )

    def conditional_velocity(self, x_t: Data, x_0: Data, t: Time) -> Data:
        """Return the velocity at x_t of the path from x_0 that passes through it: f_t(x_t | x_0)."""
        return self.velocity(x_0, self.label(x_t, x_0, t), t)

    def log_density(self, x_t: Data, x_0: Data, t: Time) -> Float[Array, " batch"]:
        """Return log p(x_t | x_0), the Green's function of the definition, in nats per example.

        By change of variables, log p(z) - log |det d interpolate / dz|. A definition with a closed form
        overrides it; otherwise it costs d forward derivatives, or one where paths are `coordinatewise`.
        """
        z = self.label(x_t, x_0, t)
        volume = log_abs_det(lambda z: self.interpolate(x_0, z, t), z, diagonal=self.coordinatewise)
        return self.noise_log_prob(z) - volume

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

    def input_scale(self, t: Time) -> Array:
        """Return the factor that brings x_t to order 1 before a network sees it, elementwise in t."""
        return jnp.ones_like(as_time(t))

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
        """Return the log-density of what `sample_prior` draws: that of the path from 0 at t_max."""
        return self.log_density(x, jnp.zeros_like(x), self.t_max)


@dataclass(frozen=True, kw_only=True)
class AffineProcess(Process):
    """x_t = alpha(t) x_0 + sigma(t) z for any noise z.

    Where the density of z depends on |z| alone, a definition says so by `isotropic` and writes
    `radial_log_prob`, from which `noise_log_prob` and fast exact fields follow; otherwise it writes
    `noise_log_prob`, if it has one.
    """

    finish_evaluations: ClassVar[int] = 1
    coordinatewise: ClassVar[bool] = True
    isotropic: ClassVar[bool] = False

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
        scales = (per_example(c, like) for c in (alpha, sigma, d_alpha, d_sigma))
        shape = jnp.zeros((1,) * like.ndim, like.dtype)
        return Coefficients(*scales, jax.tree_util.Partial(self._scales_before, t, shape))

    def _scales_before(
        self, t: Time, like: Float[Array, "..."], step: Scalar, trained: bool = False
    ) -> tuple[Array, Array]:
        """Return alpha and sigma at t - step, but not below the reach, or t_min."""
        s = jnp.maximum(t - step, self.t_min if trained else self.reach[0])
        return per_example(self.alpha(s), like), per_example(self.sigma(s), like)

    def interpolate(self, x_0: Data, z: Data, t: Time) -> Data:
        """Return alpha(t) x_0 + sigma(t) z."""
        t = jnp.asarray(t, x_0.dtype)
        return per_example(self.alpha(t), x_0) * x_0 + per_example(self.sigma(t), x_0) * z

    def velocity(self, x_0: Data, z: Data, t: Time) -> Data:
        """Return alpha'(t) x_0 + sigma'(t) z."""
        c = self.coefficients(t, x_0)
        return c.d_alpha * x_0 + c.d_sigma * z

    def radial_log_prob(self, square: Array, num_dims: int) -> Array:
        """Return log p(z) from |z|^2, elementwise, for isotropic noise in `num_dims` dimensions."""
        raise TypeError(
            f"{type(self).__name__} states no isotropic density; set `isotropic = True` and write "
            "`radial_log_prob(square, num_dims)`, or write `noise_log_prob(z)`."
        )

    def noise_log_prob(self, z: Data) -> Float[Array, " batch"]:
        if not self.isotropic:
            return super().noise_log_prob(z)
        return self.radial_log_prob(sum_features(z**2), z[0].size)

    def label(self, x_t: Data, x_0: Data, t: Time) -> Data:
        """Return z = (x_t - alpha(t) x_0) / sigma(t)."""
        t = jnp.asarray(t, x_t.dtype)
        alpha, sigma = (per_example(c, x_t) for c in (self.alpha(t), self.sigma(t)))
        return (x_t - alpha * x_0) / sigma

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
        sigma = jnp.asarray(self.sigma(jnp.asarray(t, x_t.dtype)), x_t.dtype)
        scale = jnp.log(jnp.broadcast_to(sigma.reshape(-1), x_t.shape[:1]))
        return self.noise_log_prob(self.label(x_t, x_0, t)) - x_t[0].size * scale


@dataclass(frozen=True, kw_only=True)
class GaussianProcess(AffineProcess):
    """An affine process with z ~ N(0, I): the marginal of dx = f(t) x dt + g(t) dW.

    f = alpha' / alpha and g^2 = 2 sigma (sigma' - f sigma) follow from the two functions (Su,
    kexue.fm 9209). A definition overrides them where a closed form is more accurate; the laws hold it
    to agreement.
    """

    isotropic: ClassVar[bool] = True

    def f(self, t: Time) -> Array:
        """Return the drift coefficient d log alpha / dt."""
        return value_and_ddt(lambda u: jnp.log(self.alpha(u)), t)[1]

    def g(self, t: Time) -> Array:
        """Return the diffusion coefficient sqrt(d sigma^2 / dt - 2 f sigma^2)."""
        sigma, d_sigma = value_and_ddt(self.sigma, t)
        return jnp.sqrt(jnp.maximum(2 * sigma * (d_sigma - self.f(t) * sigma), 0.0))

    def shift(self, s: Scalar) -> "GaussianProcess":
        """Return this process with its log-SNR lowered by 2 log s, as for images s times as large."""
        from diffusion.processes.wrappers import shift  # it wraps this class in a subclass of it

        return shift(self, s)

    def radial_log_prob(self, square: Array, num_dims: int) -> Array:
        """Return the standard normal log-density from |z|^2."""
        return -0.5 * square - 0.5 * num_dims * np.log(2 * np.pi)


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
