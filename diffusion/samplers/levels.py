"""The times of a grid with the scales of the process at these times, in float64 on the host."""

import functools
from types import MethodType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from diffusion.numerics import is_hashable, is_traced, on_host, value_and_ddt
from diffusion.processes import AffineProcess, Process
from diffusion.processes.base import require_process
from diffusion.samplers.time_grids import check_times
from diffusion.types import Time


class Levels(NamedTuple):
    """The times of a grid, with alpha and sigma at these times, each of shape (num_steps + 1,)."""

    t: Any
    alpha: Any
    sigma: Any

    @property
    def log_ratio(self) -> Any:
        """log(alpha / sigma), which increases from step to step; infinite where sigma = 0."""
        xp = namespace(self.t)
        with np.errstate(divide="ignore"):
            return xp.log(self.alpha) - xp.log(self.sigma)


def namespace(x: Any) -> Any:
    """Return NumPy for tables on the host, jax.numpy for tables of traced times."""
    return jnp if isinstance(x, jax.Array) else np


def _scales(process: AffineProcess, t: Time) -> tuple[Array, Array]:
    """Return alpha and sigma, each shaped like t."""
    return value_and_ddt(process.alpha, t)[0], value_and_ddt(process.sigma, t)[0]


def host_times(process: Process, times: Any) -> Any:
    """Check times and return them in float64 on the host; return traced times unchanged."""
    if is_traced(times):
        return jnp.asarray(times)
    times = check_times(times)
    low, high = process.t_domain
    slack = 1e-9 * abs(float(times[0]))
    if not is_traced(low, high) and (times[0] > high + slack or times[-1] < low - slack):
        domain = f"{type(process).__name__}, {float(low):.6g} to {float(high):.6g}"
        raise ValueError(
            f"`times` must lie within the domain of {domain}; got {times[0]:.6g} ... {times[-1]:.6g}."
        )
    return times


def levels(process: Process, times: Any, who: str) -> Levels:
    """Return times, alpha and sigma in float64 on the host, or as traced arrays if an argument is traced."""
    require_process(process, AffineProcess, who)
    assert isinstance(process, AffineProcess)
    times = host_times(process, times)
    if is_traced(times, process):
        t = jnp.asarray(times)
        return Levels(t, *_scales(process, t))
    return Levels(times, *on_host(MethodType(_scales, process), times))


def noise_left(process: Process, times: Any) -> bool:
    """Return whether sigma > 0 at the last time; True if the time is traced or the process has no sigma."""
    if not isinstance(process, AffineProcess) or is_traced(times, process):
        return True
    last = float(np.asarray(times, np.float64)[-1])
    return (_noise_left if is_hashable(process) else _noise_left.__wrapped__)(process, last)


@functools.lru_cache(maxsize=32)  # called for every batch, and computing it blocks on a device
def _noise_left(process: AffineProcess, t: float) -> bool:
    return bool(on_host(process.sigma, t) > 0)
