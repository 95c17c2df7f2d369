"""Laws of every process: its ends, its velocity, its prior."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.processes import Process
from diffusion.testing.report import Finding, largest
from diffusion.testing.starts import starts_near

SEED = 0


def grid(process: Process, every: int = 1) -> np.ndarray:
    """Return decreasing times from t_max to t_min: every `every`-th of 128 default steps.

    All laws use subsets of one grid, since every new length of a grid needs a compilation.
    """
    return np.asarray(process.default_times(128), np.float64)[::every]


def inner_times(process: Process, every: int = 4) -> np.ndarray:
    """Return increasing times strictly inside the range (t_min, t_max)."""
    return grid(process, every)[::-1][1:-1].copy()


def rows(times: Any) -> tuple[Any, Any, Any]:
    """Return times, data and noise, with one row for each pair of a time and one of four examples."""
    x_0, z = jnp.linspace(-1.0, 1.0, 8).reshape(4, 2), jnp.linspace(0.7, -0.4, 8).reshape(4, 2)
    num = len(times)
    return jnp.repeat(jnp.asarray(times), 4), jnp.tile(x_0, (num, 1)), jnp.tile(z, (num, 1))


def ends_of_times(process: Process) -> Finding:
    """P0: the times of a process run from t_max down to t_min."""
    times = grid(process)
    off = max(abs(times[0] - float(process.t_max)), abs(times[-1] - float(process.t_min)))
    rise = float(np.max(np.diff(times), initial=-np.inf))
    return Finding(
        "P0", "default times run from t_max down to t_min (distance of the ends)",
        float("nan") if rise >= 0 or len(times) != 129 else off, 0.0,
        "the direction of time: alpha falls and sigma rises with t; or an overridden `default_times`",
    )  # fmt: skip


def starts_at_data(process: Process) -> Finding:
    """P1: without noise the path starts at the data."""
    x_0 = jnp.linspace(-1.0, 1.0, 8).reshape(4, 2)
    shape = jax.eval_shape(
        lambda key: process.sample_noise(key, x_0.shape), jax.random.key(SEED)
    ).shape
    moved = jax.jit(lambda t: process.interpolate(x_0, jnp.zeros(shape), t) - x_0)
    return starts_near(
        process, "P1", "without noise the path starts at the data, interpolate(x_0, 0, t_min) = x_0",
        lambda t: largest(moved(t)), 0.02,
        "the direction of time: data at t_min, noise at t_max; and whether t_min is small enough",
    )  # fmt: skip


def velocity_is_derivative(process: Process) -> Finding | list[Finding]:
    """P2: velocity is the time derivative of interpolate."""
    if not getattr(process, "smooth_paths", True):
        return []
    t, x_0, z = rows(inner_times(process, 16))

    @jax.jit
    def errors() -> Any:
        h = 1e-5 * t  # the third-order term is h^2 / 6, round-off eps / h
        forward, back = process.interpolate(x_0, z, t + h), process.interpolate(x_0, z, t - h)
        difference, velocity = (forward - back) / (2 * h[:, None]), process.velocity(x_0, z, t)
        return (velocity - difference) / (1 + jnp.abs(velocity))

    return Finding(
        "P2", "velocity is the time derivative of interpolate (relative)",
        largest(errors()), 1e-5,
        "an overridden `velocity`",
    )  # fmt: skip


def draws_by_key(process: Process) -> Finding:
    """P7: the prior is drawn by key, finite, row by row."""
    draw = lambda keys: process.sample_prior(keys, (len(keys), 2))

    keys, draws = jax.random.split(jax.random.key(SEED), 6), jax.jit(draw)
    x, again, turned = draws(keys), draws(keys), draws(keys[::-1])[::-1]
    apart = largest(again - x) + largest((turned - x) / (1 + jnp.abs(x)))
    return Finding(
        "P7", "row i of the prior is a function of key i alone, in the requested shape",
        apart if x.shape == (6, 2) else float("nan"), 1e-9,
        "an overridden `sample_noise` or `sample_prior`: draw through `diffusion.numerics.draw`",
    )  # fmt: skip


LAWS = (
    (Process, ends_of_times),
    (Process, starts_at_data),
    (Process, velocity_is_derivative),
    (Process, draws_by_key),
)
