"""Green's functions from a radial law: the probability that x_t lies within the distance r of x_0.

A cumulative law psi(r, t), increasing in r from 0 to 1 and tending to 1 for every r > 0 as t -> 0, gives a
field isotropic in space that satisfies the continuity equation (Su, kexue.fm 9370): along a path psi does
not change, so

    x_t = x_0 + r(v, t) u,   psi(r, t) = v uniform on (0, 1),   u a uniform direction
    dr/dt = -(d psi / dt) / (d psi / dr)
    p(x_t | x_0) = r^(1 - d) (d psi / dr) / S_d,   S_d = 2 pi^(d/2) / Gamma(d/2)

Laws of r / t are an `AffineProcess`; see `radial_law`.
"""

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffusion.numerics import (
    as_time,
    is_traced,
    one_of_or_function,
    per_example,
    positive,
    require,
)
from diffusion.processes.base import Process, geometric_times
from diffusion.processes.inversion import compiled
from diffusion.processes.radial_law import (
    LAWS,
    ScaledRadial,
    away,
    lengths,
    log_sphere,
    random_direction_of_length,
)
from diffusion.registry import load, register
from diffusion.types import Data, KeyLike, Scalar, Time


@dataclass(frozen=True, kw_only=True)
class Radial(Process):
    """x_t = x_0 + r(v, t) u for any psi(r, t). Subclass it and write psi, and its inverse `radius` if known.

    The label z is v u, a vector inside the unit ball. Lengths are Euclidean norms of whole examples.
    """

    t_min: Scalar = 0.002
    t_max: Scalar = 200.0

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(t_min=self.t_min, hint="psi jumps at 0.")
        if not is_traced(self):
            self._check_psi()

    def _check_psi(self) -> None:
        """Check conditions (i) to (iii) of the construction for psi numerically, at a few points."""
        with jax.ensure_compile_time_eval():
            r = jnp.geomspace(1e-4, 1e4, 65)
            values = np.stack(
                [np.asarray(self.psi(r, jnp.asarray(t, r.dtype))) for t in (self.t_min, self.t_max)]
            )
            near = float(self.psi(jnp.asarray(1e-12), jnp.asarray(self.t_max)))
        who = type(self).__name__
        fall = -np.diff(values, axis=1).min()
        require(
            np.all(np.isfinite(values)) and fall <= 1e-6,
            f"{who}: psi(r, t), a probability, must be finite and increase in r; its largest fall is {fall:.3g}.",
        )
        far = values[1, -1]
        require(
            near < 1e-3 and abs(far - 1) < 0.05,
            f"{who}: psi(r, t) must rise from 0 to 1; at t_max it goes from {near:.3g} to {far:.3g} at r = 1e4.",
        )
        rise = (values[1] - values[0]).max()
        require(
            rise <= 1e-6,
            f"{who}: psi(r, t) must fall with t; it rises by {rise:.3g}. Is time reversed?",
        )

    @abc.abstractmethod
    def psi(self, r: Array, t: Array) -> Array:
        """Return the probability that |x_t - x_0| <= r, elementwise."""

    @compiled
    def radius(self, v: Array, t: Array) -> Array:
        """Solve psi(r, t) = v for r, elementwise, by bisection in log r with an exact derivative."""
        v, t = jnp.broadcast_arrays(v, t)
        frozen_v, frozen_t = jax.lax.stop_gradient((v, t))

        def halve(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = ends
            middle = (low + high) / 2
            below = self.psi(jnp.exp(middle), frozen_t) < frozen_v
            return jnp.where(below, middle, low), jnp.where(below, high, middle)

        low, high = jax.lax.fori_loop(
            0, 64, halve, (jnp.full_like(v, -40.0), jnp.full_like(v, 40.0))
        )
        r = jnp.exp((low + high) / 2)
        slope = jax.lax.stop_gradient(self._slopes(r, frozen_t)[1])
        miss = self.psi(r, t) - v  # 0 up to round-off; only its derivative is needed
        return r - jnp.where(slope > 0, miss / jnp.where(slope > 0, slope, 1.0), 0.0)

    def _slopes(self, r: Array, t: Array) -> tuple[Array, Array]:
        """Return d psi / dt and d psi / dr, elementwise."""
        one = jnp.ones_like(r)
        t = jnp.broadcast_to(jnp.asarray(t, r.dtype), r.shape)
        d_t = jax.jvp(lambda u: self.psi(r, u), (t,), (one,))[1]
        return d_t, jax.jvp(lambda q: self.psi(q, t), (r,), (one,))[1]

    def _time(self, x: Data, t: Time) -> Array:
        return jnp.broadcast_to(jnp.asarray(t, x.dtype), x.shape[:1])

    def sample_noise(self, key: KeyLike, shape: tuple[int, ...]) -> Array:
        """Draw vectors of uniform direction and of length v, uniform on (0, 1)."""
        return random_direction_of_length(key, shape, lambda v: v)

    def noise_log_prob(self, z: Data) -> Float[Array, " batch"]:
        """Return -(d - 1) log |z| - log S_d inside the unit ball."""
        v, d = lengths(z), z[0].size
        return jnp.where(v < 1, away(v, d) - log_sphere(d), -jnp.inf)

    def interpolate(self, x_0: Data, z: Data, t: Time) -> Data:
        """Return x_0 + r(|z|, t) z / |z|."""
        v = lengths(z)
        fraction = jnp.where(
            v > 0, self.radius(v, self._time(z, t)) / jnp.where(v > 0, v, 1.0), 0.0
        )
        return x_0 + per_example(fraction, z) * z

    def velocity(self, x_0: Data, z: Data, t: Time) -> Data:
        """Return -(d psi / dt) / (d psi / dr) in the direction of z."""
        return self.conditional_velocity(self.interpolate(x_0, z, t), x_0, t)

    def conditional_velocity(self, x_t: Data, x_0: Data, t: Time) -> Data:
        """Return -(d psi / dt) / (d psi / dr) (x_t - x_0) / r."""
        r, time = lengths(x_t - x_0), self._time(x_t, t)
        d_t, d_r = self._slopes(r, time)
        seen = d_r > 0  # elsewhere psi is 1 up to round-off, far out: use the rate of laws of r / t
        rate = jnp.where(seen, -d_t / jnp.where(seen & (r > 0), d_r * r, 1.0), 1 / time)
        return per_example(jnp.where(r > 0, rate, 0.0), x_t) * (x_t - x_0)

    def noise_of(self, x_t: Data, x_0: Data, t: Time) -> Data:
        """Return psi(r, t) (x_t - x_0) / r."""
        r = lengths(x_t - x_0)
        v = self.psi(r, self._time(x_t, t))
        return per_example(jnp.where(r > 0, v / jnp.where(r > 0, r, 1.0), 0.0), x_t) * (x_t - x_0)

    def log_density(self, x_t: Data, x_0: Data, t: Time) -> Float[Array, " batch"]:
        """Return log(r^(1 - d) d psi / dr) - log S_d; -inf where psi is 1 up to round-off."""
        r, d = lengths(x_t - x_0), x_t[0].size
        slope = self._slopes(r, self._time(x_t, t))[1]
        seen = slope > 0  # cancellation may round the slope to 0 or below
        log_slope = jnp.where(seen, jnp.log(jnp.where(seen, slope, 1.0)), -jnp.inf)
        return away(r, d) + log_slope - log_sphere(d)

    def noise_conditioning(self, t: Time) -> Array:
        """Return -2 log t, the log-SNR of a law of r / t, which separates times of all magnitudes."""
        return -2 * jnp.log(as_time(t))

    def input_scale(self, t: Time) -> Array:
        """Return 1 / sqrt(1 + median(r)^2)."""
        t = as_time(t)
        return jax.lax.rsqrt(1 + self.radius(jnp.full_like(t, 0.5), t) ** 2)

    def default_times(self, num_steps: int) -> np.ndarray:
        """Return geometric times, since near the data the field has the form (x - x_0) / t."""
        return geometric_times(self, num_steps)


def tanh_sinh(r: Array, t: Array) -> Array:
    """Return tanh(s sinh(r / s) / t), s = 50: dr/dt = s tanh(r / s) / t, bounded far away."""
    return jnp.tanh(50.0 * jnp.sinh(jnp.minimum(r / 50.0, 60.0)) / t)


@register("process", "radial_flow")
@final
@dataclass(frozen=True, kw_only=True)
class GivenRadial(Radial):
    """x_t = x_0 + r(v, t) u from a function psi(r, t), or from "module:function" in a config.

    Args:
        psi_fn: the cumulative law, elementwise in r and t.
        radius_fn: the inverse r(v, t), if known; None solves by bisection.
    """

    t_max: Scalar = 2000.0

    psi_fn: Callable[..., Array] | str = tanh_sinh
    radius_fn: Callable[..., Array] | str | None = None

    def psi(self, r: Array, t: Array) -> Array:
        return load(self.psi_fn)(r, t)

    def radius(self, v: Array, t: Array) -> Array:
        if self.radius_fn is None:
            return super().radius(v, t)
        return load(self.radius_fn)(v, t)


@register("process", "radial")
def radial(
    *,
    law: Callable[..., Array] | str = "tanh",
    t_min: Scalar | None = None,
    t_max: Scalar | None = None,
    rms: bool = False,
) -> Process:
    """Return the process of a radial law: a `ScaledRadial` for laws of r / t, else a `GivenRadial`.

    Args:
        law: tanh, exponential or tanh_power, laws of r / t; or tanh_sinh, a function psi(r, t), or
            "module:function".
        t_min: by default that of the class.
        t_max: by default that of the class.
        rms: whether to divide lengths by the square root of the dimension; only for laws of r / t.
    """
    given = {"t_min": t_min, "t_max": t_max}
    times: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
    if isinstance(law, str) and law in LAWS:
        return ScaledRadial(law=law, rms=rms, **times)
    one_of_or_function((*LAWS, "tanh_sinh"), law=law)
    require(not rms, f"`rms` is for laws of r / t ({', '.join(LAWS)}); write it into psi instead.")
    return GivenRadial(psi_fn=tanh_sinh if law == "tanh_sinh" else law, **times)
