"""Checks of the arguments of likelihoods, before anything is compiled."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from diffusion.numerics import is_traced, monotone, on_host, require, row, whole
from diffusion.processes import AffineProcess, Process

_SLACK = 1e-6  # relative tolerance, since times may have been rounded to float32


def check_batch(x: Any, name: str = "x") -> Array:
    """Return x as a floating array of shape (batch, ...features), or raise TypeError or ValueError."""
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(
            f"`{name}` must be floating; got {x.dtype}. Scale integers and add noise, as diffusion.Dequantization does."
        )
    require(
        x.ndim >= 2 and x.size > 0,
        f"`{name}` must have the shape (batch, ...features), as x[None] or x[:, None]; got {list(x.shape)}.",
    )
    return x


def _within(process: Process, times: np.ndarray) -> None:
    if is_traced(process.t_min, process.t_max):
        return
    low, high = float(process.t_min), float(process.t_max)
    require(
        times.min() >= low - _SLACK * abs(low) and times.max() <= high + _SLACK * abs(high),
        f"`times` must lie in [t_min, t_max] of {type(process).__name__}, [{low:.6g}, {high:.6g}]; got "
        f"{times.min():.6g} to {times.max():.6g}.",
    )
    if isinstance(process, AffineProcess) and not is_traced(process):
        require(
            bool(on_host(process.sigma, times.min()) > 0),
            f"`times` must begin where some noise is left; sigma is 0 at {times.min():.6g}. Start a little later.",
        )


def check_monotone(process: Process, times: Any) -> Any:
    """Return times after checking that they rise or fall strictly within [t_min, t_max]; traced times pass."""
    if is_traced(times):
        return times
    times = row("`times`", times, "(num_steps + 1,)")
    direction = "increase" if times[-1] > times[0] else "decrease"
    monotone("`times`", times, direction, "They rise to encode, and fall to decode.")
    _within(process, times)
    return times


def check_rising(process: Process, times: Any) -> Any:
    """Return times after checking that they rise strictly and end at t_max, where the prior's density is known."""
    if is_traced(times):
        return times
    times = row("`times`", times, "(num_steps + 1,)")
    hint = "They go from data to noise. Sampling grids run the other way: reverse them with [::-1]."
    monotone("`times` of a likelihood", times, "increase", hint)
    _within(process, times)
    if not is_traced(process.t_max):
        high = float(process.t_max)
        require(
            abs(times[-1] - high) <= _SLACK * abs(high),
            f"`times` must end at t_max = {high:.6g} of {type(process).__name__}, at the prior; got {times[-1]:.6g}.",
        )
    return times


def rising_times(process: Process, num_steps: int) -> Any:
    """Return the default times of a process in increasing order, (num_steps + 1,); its fields may be traced.

    For a learned schedule the times carry no gradient: the integral does not depend on them.
    """
    whole(1, num_steps=num_steps)
    if not is_traced(process):
        return process.default_times(num_steps)[::-1]
    ends = jnp.stack([jnp.asarray(process.t_min, float), jnp.asarray(process.t_max, float)])
    if not isinstance(process, AffineProcess):
        inner = jnp.linspace(ends[0], ends[1], num_steps + 1)[1:-1]
    else:
        inside = ends + 1e-3 * (ends[1] - ends[0]) * jnp.array([1.0, -1.0])
        exact = process.log_snr(ends)
        finite = jnp.where(jnp.isfinite(exact), exact, process.log_snr(inside))
        inner = process.time_of_log_snr(jnp.linspace(finite[0], finite[1], num_steps + 1)[1:-1])
    inner = jax.lax.stop_gradient(inner)
    return jnp.concatenate([ends[:1], inner, ends[1:]])
