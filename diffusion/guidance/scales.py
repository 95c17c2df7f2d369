"""Scales of guidance: a number, one per example, or a function of t.

In a config a scale is a number or an entry of the kind `scale`, a `Schedule`: a record that, bound to a process,
gives t -> scale as a callable pytree whose numbers are leaves. In Python any callable of t is accepted.
"""

import abc
import dataclasses
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias, final

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from diffusion.numerics import as_pytree, finite, is_traced, ordered, per_example, require
from diffusion.processes import Process
from diffusion.registry import register
from diffusion.types import Scalar, Time

LARGEST = 10_000  # beyond this scale, float32 rounding of the guidance term hides the model itself

Scale: TypeAlias = Scalar | Callable[..., Any]  # a number, (batch,), or t -> either


@dataclass(frozen=True, kw_only=True)
class Schedule(abc.ABC):
    """A scale that depends on t through the process: an entry of the kind `scale`."""

    @abc.abstractmethod
    def bind(self, process: Process) -> Callable[[Any], Array]:
        """Return t -> scale as a callable pytree."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Interpolated:
    """A scale defined by values at knots of the log-SNR, linear between them, constant beyond."""

    knots: Any  # increasing, (count,)
    values: Any  # (count,)
    process: Process = dataclasses.field(metadata={"static": True})

    def __call__(self, t: Time) -> Array:
        """Return the scale at t."""
        level = jnp.asarray(self.process.noise_conditioning(t))
        knots, values = (jnp.asarray(a, level.dtype) for a in (self.knots, self.values))
        return jnp.interp(level, knots, values)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Stepped:
    """A piecewise constant scale in t: values[i] between edges[i - 1] and edges[i]."""

    edges: Any  # increasing, (count - 1,)
    values: Any  # (count,)

    def __call__(self, t: Time) -> Array:
        """Return the scale at t; at an edge, that of the noisier side."""
        t = jnp.asarray(t)
        edges = jnp.asarray(self.edges, t.dtype)
        return jnp.asarray(self.values, t.dtype)[jnp.searchsorted(edges, t, side="right")]


@register("scale", "linear_log_snr")
@final
@dataclass(frozen=True, kw_only=True)
class LinearLogSNR(Schedule):
    """scale = noisy + (clean - noisy) u, with u = (log_snr - low) / (high - low) clipped to [0, 1].

    `noisy` is the scale at log-SNRs up to `low`, `clean` the scale from `high` on.
    """

    noisy: Scalar = 1.0
    clean: Scalar = 3.0
    low: Scalar = -5.0
    high: Scalar = 5.0

    def __post_init__(self) -> None:
        ordered(low=self.low, high=self.high, hint="Both are log-SNR.")
        finite(noisy=self.noisy, clean=self.clean)

    def bind(self, process: Process) -> Interpolated:
        knots, values = (self.low, self.high), (self.noisy, self.clean)
        return Interpolated(_array(knots), _array(values), process)


@register("scale", "piecewise")
@final
@dataclass(frozen=True, kw_only=True)
class Piecewise(Schedule):
    """scale = values[i] where edges[i - 1] <= t < edges[i]; there is one value more than edges.

    edges=(0.3,), values=(1.0, 3.0) means 1 for t < 0.3, toward the data, and 3 above.
    """

    edges: tuple[float | int, ...] = (0.5,)
    values: tuple[float | int, ...] = (1.0, 3.0)

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in itertools.pairwise(self.edges))
        if not rising or len(self.values) != len(self.edges) + 1:
            raise ValueError(
                f"`edges` must increase in t, with one entry more in `values`; got {self.edges} and {self.values}."
            )
        finite(values=self.values)

    def bind(self, process: Process) -> Stepped:
        del process
        return Stepped(_array(self.edges), _array(self.values))


def _array(values: tuple[Any, ...]) -> Any:
    """Return numbers as an array, on the host unless they are traced."""
    return jnp.stack([jnp.asarray(v) for v in values]) if is_traced(values) else np.array(values)


def scale_of(scale: Any, process: Process) -> Any:
    """Bind a schedule to a process; return a number, an array or a callable of t unchanged."""
    return scale.bind(process) if isinstance(scale, Schedule) else scale


def as_scale(scale: Any) -> Any:
    """Return a scale as an array or a callable pytree; integers become floats, to avoid a second compilation."""
    if callable(scale):
        return as_pytree(scale)
    finite(scale=scale)
    return float(scale) if isinstance(scale, int) else scale


def scale_at(scale: Any, t: Time, like: Array) -> Array:
    """Return the scale at t, shaped to multiply x_t."""
    value: Any = scale(t) if callable(scale) else scale
    return per_example(value, like)


def depends_on_time(scale: Any) -> bool:
    """Return whether a scale is a schedule or a callable of t."""
    return isinstance(scale, Schedule) or callable(scale)


def is_number(scale: Any) -> bool:
    """Return whether a scale is a single number that is not traced."""
    return not depends_on_time(scale) and not is_traced(scale) and np.ndim(scale) == 0


def check_scale(scale: Any, name: str = "scale") -> None:
    """Raise ValueError for a number outside [0, 10,000]; schedules and callables are not checked."""
    if not depends_on_time(scale):
        low, high = (jnp.min(scale), jnp.max(scale)) if np.ndim(scale) else (scale, scale)
        require(  # NaN fails as well
            (low >= 0) & (high <= LARGEST),
            f"`{name}` must not be negative, nor above {LARGEST:,}, where 1 is already all of it; got {scale}.",
        )
