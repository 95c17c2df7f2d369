"""Characteristics: processes defined by their paths, from which the density follows.

For each x_0 a family of curves leaves x_0, each labeled by its end point x_T; along a curve the quantity

    conserved(x_t, x_0, t) = x_T

does not change. Differentiating in t gives the velocity, and the continuity equation along the curve
gives the density (Su, kexue.fm 9379):

    f_t(x_t | x_0) = -(d conserved / d x_t)^-1 d conserved / dt
    p_t(x_t | x_0) = p_T(conserved(x_t, x_0, t)) |det d conserved / d x_t|

so both ends are exact: x_0 at t = 0 by construction, the prior at t_max. The divergence integral of the
article is the logarithm of that determinant. A definition may write `conserved` or its inverse `path`; the
other one is then solved for by Newton steps.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, final

import jax.numpy as jnp
from jaxtyping import Array, Float

from diffusion.numerics import as_time, in_interval, per_example
from diffusion.processes.interpolants import Interpolant, straight
from diffusion.processes.inversion import along_time, compiled, invert, log_abs_det, solve_linear
from diffusion.registry import load, register
from diffusion.types import Data, Scalar, Time


@dataclass(frozen=True, kw_only=True)
class Characteristics(Interpolant):
    """Paths with conserved(x_t, x_0, t) = x_T. Subclass it and write `conserved`, `path`, or both.

    In both, t is shaped so that it multiplies x_0. Set `coordinatewise = True` if each coordinate of x_t
    depends on the same coordinate of x_0 and x_T alone: Jacobians are then diagonal, and images of any size
    are cheap.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        kind = type(self)
        if kind.conserved is Characteristics.conserved and kind.path is Characteristics.path:
            raise TypeError(
                f"{kind.__name__} must write `conserved(x_t, x_0, t)`, the end point of the path through "
                "x_t, or `path(x_0, x_T, t)`, the state on the way to it."
            )

    @compiled
    def conserved(self, x_t: Data, x_0: Data, t: Array) -> Data:
        """Return the end point x_T of the path from x_0 that passes through x_t at time t."""
        start = x_0 + (x_t - x_0) * (self.t_max / t)
        path = lambda x_T: self.path(x_0, x_T, t)
        return invert(path, x_t, start, diagonal=self.coordinatewise)

    @compiled
    def path(self, x_0: Data, x_T: Data, t: Array) -> Data:
        """Return the state at time t of the path from x_0 to x_T."""
        start = x_0 + (x_T - x_0) * (t / self.t_max)
        end = lambda x_t: self.conserved(x_t, x_0, t)
        return invert(end, x_T, start, diagonal=self.coordinatewise)

    @property
    def knows_end(self) -> bool:
        """Whether the subclass writes `conserved`, so that it need not be solved for."""
        return type(self).conserved is not Characteristics.conserved

    def noise_of(self, x_t: Data, x_0: Data, t: Time) -> Data:
        """Return the end point of the path through x_t."""
        return self._checked(self._end(x_t, x_0, t), x_t, x_0, t)

    def _end(self, x_t: Data, x_0: Data, t: Time) -> Data:
        return self.conserved(x_t, x_0, per_example(as_time(t), x_0))

    def conditional_velocity(self, x_t: Data, x_0: Data, t: Time) -> Data:
        """Return -(d conserved / d x_t)^-1 d conserved / dt, or d path / dt on the path through x_t."""
        if not self.knows_end:
            return super().conditional_velocity(x_t, x_0, t)
        rate = along_time(lambda u: self._end(x_t, x_0, u), t, x_t)[1]
        end = lambda x: self._end(x, x_0, t)
        return -solve_linear(end, x_t, rate, diagonal=self.coordinatewise)

    def log_density(self, x_t: Data, x_0: Data, t: Time) -> Float[Array, " batch"]:
        """Return log p_T(conserved) + log |det d conserved / d x_t|, or - log |det d path / d x_T|."""
        if not self.knows_end:
            return super().log_density(x_t, x_0, t)
        end = lambda x: self._end(x, x_0, t)
        volume = log_abs_det(end, x_t, diagonal=self.coordinatewise)
        log_p = self.noise_log_prob(end(x_t))
        # far from the path the sum may be -inf + inf
        return jnp.where(log_p > -jnp.inf, log_p + volume, -jnp.inf)


def straight_end(x_t: Array, x_0: Array, t: Array) -> Array:
    """Return the end point of the straight line from x_0 through x_t."""
    return x_0 + (x_t - x_0) / t


@register("process", "characteristics")
@final
@dataclass(frozen=True, kw_only=True)
class GivenCharacteristics(Characteristics):
    """Characteristics from functions, or from "module:function" in a config.

    Args:
        conserved_fn: (x_t, x_0, t) -> x_T; by default, without `path_fn`, that of the straight line.
        path_fn: (x_0, x_T, t) -> x_t; instead of `conserved_fn`, or in addition if both are known.
        elementwise: whether each coordinate of the result depends on the same coordinate of the inputs alone.
    """

    conserved_fn: Callable[..., Array] | str | None = None
    path_fn: Callable[..., Array] | str | None = None
    elementwise: bool = False

    @property
    def coordinatewise(self) -> bool:
        """The field `elementwise`."""
        return self.elementwise

    @property
    def knows_end(self) -> bool:
        """Whether `conserved` is a known function; that of the straight line is."""
        return self.conserved_fn is not None or self.path_fn is None

    def conserved(self, x_t: Data, x_0: Data, t: Array) -> Data:
        if self.conserved_fn is None:
            if self.path_fn is None:
                return straight_end(x_t, x_0, t)
            return super().conserved(x_t, x_0, t)
        return load(self.conserved_fn)(x_t, x_0, t)

    def path(self, x_0: Data, x_T: Data, t: Array) -> Data:
        if self.path_fn is None:
            neither = self.conserved_fn is None
            return straight(x_0, x_T, t) if neither else super().path(x_0, x_T, t)
        return load(self.path_fn)(x_0, x_T, t)


@register("process", "parabola")
@final
@dataclass(frozen=True, kw_only=True)
class Parabola(Characteristics):
    """Every coordinate follows a parabola in t, and all of them bend to the same side.

    With y = x_T - x_0, x_t = x_0 + t y + bend t (1 - t) (sqrt(1 + y^2) - 1). The last factor has slopes
    between -1 and 1, so for |bend| < 1 the map from y is increasing at every t, and curves from one
    x_0 never cross. Its inverse: with c = bend (1 - t) and u = (x_t - x_0) / t + c, the equation
    u = y + c sqrt(1 + y^2) has the root y = (u - c sqrt(u^2 + 1 - c^2)) / (1 - c^2).
    """

    coordinatewise: ClassVar[bool] = True

    bend: Scalar = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        in_interval("(-1, 1)", bend=self.bend, hint="Paths from one x_0 would cross.")

    def path(self, x_0: Data, x_T: Data, t: Array) -> Data:
        y = x_T - x_0
        return x_0 + t * y + self.bend * t * (1 - t) * (jnp.sqrt(1 + y * y) - 1)

    def conserved(self, x_t: Data, x_0: Data, t: Array) -> Data:
        c = self.bend * (1 - t)
        u = (x_t - x_0) / t + c
        return x_0 + (u - c * jnp.sqrt(u * u + 1 - c * c)) / (1 - c * c)


@register("process", "asinh_path")
@final
@dataclass(frozen=True, kw_only=True)
class AsinhPath(Characteristics):
    """x_t - x_0 = sinh(t asinh(x_T - x_0)) in every coordinate: far points travel late.

    With y = x_t - x_0 the velocity is sqrt(1 + y^2) asinh(y) / t.
    """

    coordinatewise: ClassVar[bool] = True

    def path(self, x_0: Data, x_T: Data, t: Array) -> Data:
        return x_0 + jnp.sinh(t * jnp.arcsinh(x_T - x_0))

    def conserved(self, x_t: Data, x_0: Data, t: Array) -> Data:
        return x_0 + jnp.sinh(jnp.arcsinh(x_t - x_0) / t)

    def conditional_velocity(self, x_t: Data, x_0: Data, t: Time) -> Data:
        y = x_t - x_0
        return jnp.sqrt(1 + y * y) * jnp.arcsinh(y) / per_example(as_time(t), x_0)
