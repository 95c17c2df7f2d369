"""The three classes of forward processes.

A process defines how data is demolished: x_t = interpolate(x_0, z, t), with time running *up* from data
(`t_min`) to noise (`t_max`), opposite to many flow-matching papers. A definition derives from the most
special class that fits it, and functions require the most general class that suffices:

    Process           interpolate(x_0, z, t)       training by velocity, any ODE solver
    AffineProcess     alpha(t) x_0 + sigma(t) z    models are denoisers E[x_0 | x_t]; DDIM, DPM-Solver
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
    invert_decreasing,
    on_host,
    per_example,
    sum_features,
    value_and_ddt,
)
from diffusion.processes.process import Process, geometric_times
from diffusion.registry import build
from diffusion.types import ODE, Coefficients, Data, Scalar, Time

__all__ = ["AffineProcess", "GaussianProcess", "Process", "geometric_times", "require_process"]


@dataclass(frozen=True, kw_only=True)
class AffineProcess(Process):
    """x_t = alpha(t) x_0 + sigma(t) z for any noise z.

    If the density of z depends on |z| alone, set `isotropic = True` and write `radial_log_prob`, from
    which `noise_log_prob` and fast exact fields follow. Otherwise write `noise_log_prob`, if the density
    is known.
    """

    denoise_final_evaluations: ClassVar[int] = 1
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

    def noise_conditioning(self, t: Time) -> Array:
        """Return the log-SNR, (batch,) or (): a network conditioned on it can be used with other processes."""
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
        before = jax.tree_util.Partial(self._scales_before, t, shape)
        return Coefficients(*scales, before=before)

    @property
    def chain_step(self) -> Scalar:
        """The default step, in units of t, of everything defined by a step of a discrete chain."""
        return 1e-3

    def _scales_before(
        self, t: Time, like: Float[Array, "..."], step: Scalar | None = None, trained: bool = False
    ) -> tuple[Array, Array]:
        """Return alpha and sigma at t - step; before the start of the definition, those of the data, 1 and 0.

        `step=None` means `chain_step`. With `trained` the earliest time is t_min instead.
        """
        step = self.chain_step if step is None else step
        low = self.t_min if trained else self.t_domain[0]
        s = jnp.maximum(t - step, low)
        alpha, sigma = self.alpha(s), self.sigma(s)
        if not trained:
            alpha, sigma = jnp.where(s <= low, 1.0, alpha), jnp.where(s <= low, 0.0, sigma)
        return per_example(alpha, like), per_example(sigma, like)

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

    def noise_of(self, x_t: Data, x_0: Data, t: Time) -> Data:
        """Return z = (x_t - alpha(t) x_0) / sigma(t)."""
        t = jnp.asarray(t, x_t.dtype)
        alpha, sigma = (per_example(c, x_t) for c in (self.alpha(t), self.sigma(t)))
        return (x_t - alpha * x_0) / sigma

    def flow(self, model: Callable[[Array, Any], Array]) -> ODE:
        """Return the generative ODE of a model, which for this class is a denoiser E[x_0 | x_t].

        The expectation of the conditional velocity passes through the affine map, whatever the law
        of z: dx/dt = alpha' E[x_0 | x] + sigma' E[z | x], with E[z | x] = (x - alpha E[x_0 | x]) / sigma.
        """

        def velocity(x_t: Array, t: Time) -> Array:
            c = self.coefficients(t, x_t)
            x_0 = model(x_t, t)
            z = (x_t - c.alpha * x_0) / c.sigma
            return c.d_alpha * x_0 + c.d_sigma * z

        return ODE(velocity)

    def denoise_final(self, model: Callable[[Array, Any], Array], x: Data, t: Time) -> Data:
        """Return E[x_0 | x_t], which removes the remaining noise in one step."""
        return model(x, jnp.asarray(t, x.dtype))

    def log_snr_ends(self) -> np.ndarray:
        """Return the log-SNR at t_max and t_min in float64, finite.

        If alpha or sigma vanishes at an end, the time is moved inside by 0.1 percent of the range.
        """
        inside = 1e-3 * (float(self.t_max) - float(self.t_min))
        ends = np.array([self.t_max, self.t_min], np.float64)
        near = on_host(self.log_snr, ends + inside * np.array([-1.0, 1.0]))
        exact = on_host(self.log_snr, ends)
        return np.where(np.isfinite(exact), exact, near)

    def default_times(self, num_steps: int) -> np.ndarray:
        """Return decreasing float64 times, (num_steps + 1,), uniform in log-SNR."""
        first, last = self.log_snr_ends()
        times = on_host(self.time_of_log_snr, np.linspace(first, last, num_steps + 1))
        times[0], times[-1] = float(self.t_max), float(self.t_min)  # without round-off
        return times

    def prior_log_prob(self, x: Data) -> Float[Array, " batch"]:
        """Return the log-density of sigma(t_max) z at x."""
        sigma = jnp.asarray(self.sigma(as_time(self.t_max)), x.dtype)
        return self.noise_log_prob(x / sigma) - x[0].size * jnp.log(sigma)

    def log_density(self, x_t: Data, x_0: Data, t: Time) -> Float[Array, " batch"]:
        """Return log p(x_t | x_0), the Green's function of the definition, per example."""
        sigma = jnp.asarray(self.sigma(jnp.asarray(t, x_t.dtype)), x_t.dtype)
        scale = jnp.log(jnp.broadcast_to(sigma.reshape(-1), x_t.shape[:1]))
        return self.noise_log_prob(self.noise_of(x_t, x_0, t)) - x_t[0].size * scale


@dataclass(frozen=True, kw_only=True)
class GaussianProcess(AffineProcess):
    """An affine process with z ~ N(0, I): the marginal of dx = f(t) x dt + g(t) dW.

    f = alpha' / alpha and g^2 = 2 sigma (sigma' - f sigma) follow from the two functions (Su,
    kexue.fm 9209). A definition may override them with a more accurate closed form; the laws in
    `diffusion.testing` check that the two agree.
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
        """Return this process with its log-SNR lowered by 2 log s, as for images of s times the resolution."""
        return build("process", {"name": "shifted", "process": self, "scale": s})

    def radial_log_prob(self, square: Array, num_dims: int) -> Array:
        """Return the standard normal log-density from |z|^2."""
        return -0.5 * square - 0.5 * num_dims * np.log(2 * np.pi)


def require_process(process: Process, requires: type[Process], who: str) -> None:
    """Raise TypeError unless the process is an instance of the class `requires`."""
    if isinstance(process, requires):
        return
    needs = {
        AffineProcess: "alpha(t) and sigma(t) (an AffineProcess)",
        GaussianProcess: "Gaussian noise, so a score (a GaussianProcess)",
    }
    kind = "an AffineProcess" if isinstance(process, AffineProcess) else "a Process"
    raise TypeError(
        f"{who} needs {needs.get(requires, requires.__name__)}; {type(process).__name__} is {kind} only. "
        "Every process has the samplers euler, heun, midpoint, rk4, diffrax, the grids uniform, uniform_log_snr, "
        "quadratic, cosine, and the times default, uniform, logit_normal."
    )
