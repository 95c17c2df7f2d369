"""Tools of the laws of paths and densities: tests whether a law applies, and the points and times of its checks."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.models.exact_field import ExactField, exact_field
from diffusion.numerics import is_static
from diffusion.processes import Process

POINTS = ((-0.8, 0.5), (0.7, 0.1), (0.2, -0.6))
WEIGHTS = (0.5, 0.3, 0.2)


def _possible(process: Process, method: str) -> bool:
    x, t = jnp.zeros((1, 2)), jnp.full(1, process.t_max)
    try:
        jax.eval_shape(getattr(process, method), x, x, t)
    except TypeError:
        return False
    return True


def has_noise_of(process: Process) -> bool:
    """Return whether the paths of this process can be inverted."""
    return _possible(process, "noise_of")


def has_density(process: Process) -> bool:
    """Return whether p(x_t | x_0) of this process is known."""
    return _possible(process, "log_density")


def on_a_line(process: Process) -> bool:
    """Return whether the density is defined in one dimension; some processes need at least two."""
    x, t = jnp.zeros((1, 1)), jnp.full(1, process.t_max)
    try:
        paths = (process.noise_of, process.conditional_velocity, process.interpolate)
        shapes = [jax.eval_shape(path, x, x, t).shape for path in paths]
        jax.eval_shape(process.noise_log_prob, x)
    except (TypeError, ValueError, IndexError):
        return False
    return shapes == [(1, 1)] * 3 and has_density(process)


def compiled(fn: Callable) -> Callable:
    """Compile a function of a process and arrays, once per process that can be a static argument."""
    run = jax.jit(fn, static_argnums=0)
    return functools.wraps(fn)(
        lambda process, *args: (run if is_static(process) else fn)(process, *args)
    )


def chosen_times(process: Process, steps: tuple[int, ...] = (2, 4, 6)) -> np.ndarray:
    """Return the process's default times of an eight-step grid at these indices, counted from noise to data."""
    return np.asarray(process.default_times(8))[list(steps)]


def draws(process: Process, dim: int = 2, each: int = 8) -> tuple[Any, Any, Any]:
    """Return x_0, z and t, with `each` rows for each of three times."""
    t = jnp.repeat(jnp.asarray(chosen_times(process)), each)
    points = jnp.asarray(POINTS)[:, :dim]
    x_0 = points[jnp.arange(len(t)) % len(points)]
    return x_0, process.sample_noise(jax.random.key(1), (len(t), dim)).astype(float), t


def marginal_field(process: Process, points: Any) -> ExactField:
    """Return the marginal field of the three points."""
    return exact_field(process, points, np.asarray(WEIGHTS))
