"""The most general process: a conditional path x_t = interpolate(x_0, z, t), labeled by z.

A definition writes this one function. Forward differentiation and Newton steps derive from it the velocity,
the label z of the path through a point, the field f_t(x_t | x_0), and the Green's function p(x_t | x_0) (Su,
kexue.fm 9370, 9379); a definition overrides those that it knows in closed form.
"""

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffusion.numerics import as_time, at_least, draw, is_traced, ordered, require
from diffusion.processes.inversion import along_time, compiled, invert, log_abs_det
from diffusion.registry import adopt_earlier_names
from diffusion.types import ODE, Data, KeyLike, Scalar, Time

# Earlier names of methods that user-written definitions may still use.
_RENAMED = {
    "finish": "denoise_final", "finish_evaluations": "denoise_final_evaluations", "label": "noise_of",
    "natural_times": "default_times", "noise_level": "noise_conditioning", "reach": "t_domain",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Process(abc.ABC):
    """A conditional path x_t = interpolate(x_0, z, t) from data to noise."""

    t_min: Scalar = 1e-3
    t_max: Scalar = 1.0

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        adopt_earlier_names(cls, _RENAMED)

    denoise_final_evaluations: ClassVar[int] = 0  # evaluations of the model in `denoise_final`
    exact_prior: ClassVar[bool] = False  # x_t at t_max does not depend on x_0
    coordinatewise: ClassVar[bool] = False  # x_t[i] depends on x_0[i] and z[i] alone
    smooth_paths: ClassVar[bool] = True  # `velocity` is the time derivative of `interpolate`

    def __post_init__(self) -> None:
        """Check the time range."""
        at_least(0, t_min=self.t_min, hint="The data is at time 0.")
        ordered(t_min=self.t_min, t_max=self.t_max)

    @abc.abstractmethod
    def interpolate(self, x_0: Data, z: Data, t: Time) -> Data:
        """Return the state at time t of the path with label z that starts at x_0."""

    @property
    def t_domain(self) -> tuple[Scalar, Scalar]:
        """The interval of times for which the definition is valid; it contains [t_min, t_max]."""
        return 0.0, self.t_max

    def sample_noise(self, key: KeyLike, shape: tuple[int, ...]) -> Array:
        """Draw z of shape (batch, ...) from one key, or row i from key i."""
        return draw(jax.random.normal, key, shape)

    def sample_prior(self, key: KeyLike, shape: tuple[int, ...]) -> Array:
        """Draw the state at t_max, independent of the data, from which generation starts."""
        z = self.sample_noise(key, shape)
        return self.interpolate(jnp.zeros_like(z), z, self.t_max)

    def velocity(self, x_0: Data, z: Data, t: Time) -> Data:
        """Return d/dt interpolate(x_0, z, t), the regression target of flow matching."""
        return along_time(lambda u: self.interpolate(x_0, z, u), t, x_0)[1]

    def noise_of(self, x_t: Data, x_0: Data, t: Time) -> Data:
        """Return the z whose path from x_0 passes through x_t at time t: interpolate(x_0, z, t) = x_t.

        The default solves by damped Newton steps, each with d forward derivatives, or one if the path is
        `coordinatewise`; a definition with a known inverse overrides it.

        Raises:
            TypeError: z is not shaped like the data.
            ValueError: no such z was found (checked only outside of compiled code).
        """
        self._require_label_like(x_t)
        return self._checked(self._solved_label(x_t, x_0, t), x_t, x_0, t)

    @compiled
    def _solved_label(self, x_t: Data, x_0: Data, t: Time) -> Data:
        path = lambda z: self.interpolate(x_0, z, t)
        return invert(path, x_t, x_t, diagonal=self.coordinatewise)

    def _checked(self, z: Data, x_t: Data, x_0: Data, t: Time) -> Data:
        """Return z if its path passes through x_t, else raise ValueError; compiled code is not checked."""
        if not is_traced(z, x_t, x_0, t, self):
            distance = jnp.abs(self.interpolate(x_0, z, t) - x_t) / (1 + jnp.abs(x_t))
            off = float(jnp.max(distance))
            require(
                off < 1e-3,  # NaN fails as well
                f"{type(self).__name__} breaks the law that paths are invertible: no z with interpolate(x_0, z, t) = "
                f"x_t was found ({off:.2g} off). Two paths from one x_0 may cross, or a point lies where no path goes.",
            )
        return z

    def _require_label_like(self, x: Data) -> None:
        drawn = jax.eval_shape(lambda key: self.sample_noise(key, x.shape), jax.random.key(0))
        if drawn.shape != x.shape:
            raise TypeError(
                f"{type(self).__name__} has z of shape {drawn.shape} for data {x.shape}: its paths cannot be inverted."
            )

    def conditional_velocity(self, x_t: Data, x_0: Data, t: Time) -> Data:
        """Return the velocity at x_t of the path from x_0 that passes through it: f_t(x_t | x_0)."""
        return self.velocity(x_0, self.noise_of(x_t, x_0, t), t)

    def log_density(self, x_t: Data, x_0: Data, t: Time) -> Float[Array, " batch"]:
        """Return log p(x_t | x_0), the Green's function of the definition, in nats per example.

        By change of variables, log p(z) - log |det d interpolate / dz|. This default costs d forward
        derivatives, or one if paths are `coordinatewise`; a definition with a closed form overrides it.
        The result is -inf at points that no path reaches.
        """
        z = self.noise_of(x_t, x_0, t)
        volume = log_abs_det(lambda z: self.interpolate(x_0, z, t), z, diagonal=self.coordinatewise)
        log_p = self.noise_log_prob(z)
        return jnp.where(log_p > -jnp.inf, log_p - volume, -jnp.inf)  # also if z is not finite

    def flow(self, model: Callable[[Array, Any], Array]) -> ODE:
        """Return the generative ODE of a model, which for this class predicts the velocity itself."""
        return ODE(model)

    def denoise_final(self, model: Callable[[Array, Any], Array], x: Data, t: Time) -> Data:
        """Remove the noise that remains at the end of sampling; for this class x is returned unchanged."""
        del model, t
        return x

    def noise_conditioning(self, t: Time) -> Array:
        """Return the scalar that conditions a network on t: here the log-SNR of a straight path at t."""
        u = (as_time(t) - self.t_min) / (self.t_max - self.t_min)
        u = jnp.clip(u, 1e-4, 1 - 1e-4)  # keeps the result finite at both ends
        return 2 * (jnp.log1p(-u) - jnp.log(u))

    def input_scale(self, t: Time) -> Array:
        """Return the factor that scales x_t to order 1 for the network's input, elementwise in t."""
        return jnp.ones_like(as_time(t))

    def default_times(self, num_steps: int) -> np.ndarray:
        """Return the default sampling times of this process: decreasing, uniform, float64, (num_steps + 1,)."""
        return np.linspace(float(self.t_max), float(self.t_min), num_steps + 1)

    def noise_log_prob(self, z: Data) -> Float[Array, " batch"]:
        """Return the log-density of z, in nats per example.

        Raises:
            TypeError: the process defines no density of its noise.
        """
        raise TypeError(
            f"{type(self).__name__} states no density for its noise; write `noise_log_prob(z)`, of shape (batch,)."
        )

    def prior_log_prob(self, x: Data) -> Float[Array, " batch"]:
        """Return the log-density of the draws of `sample_prior`: that of the path from x_0 = 0 at t_max."""
        return self.log_density(x, jnp.zeros_like(x), self.t_max)


def geometric_times(process: Process, num_steps: int) -> np.ndarray:
    """Return decreasing float64 times, (num_steps + 1,), with equal ratios from t_max to t_min.

    Such times suit fields of the form (x - E[x_0 | x]) / t, whose solutions are smooth in log t.
    """
    times = np.geomspace(float(process.t_max), float(process.t_min), num_steps + 1)
    times[0], times[-1] = float(process.t_max), float(process.t_min)
    return times
