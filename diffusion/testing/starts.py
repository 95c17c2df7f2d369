"""The displacement of the data at t_min, and how small t_min has to be."""

from collections.abc import Callable
from math import floor, log10

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.processes import Process
from diffusion.testing.path_problems import POINTS, compiled, has_noise_of
from diffusion.testing.report import Finding

# times the bound: up to this a law holds with a warning, if it passes with a smaller t_min
_TOLERATED = 4.0


def has_displacement(process: Process) -> bool:
    """Return whether the process has paths with labels z, for which |x_t - x_0| is well defined."""
    return has_noise_of(process)


@compiled
def _median_distance(process: Process, x_0: jax.Array, z: jax.Array, t: jax.Array) -> jax.Array:
    near = process.interpolate(x_0, z, t) - x_0
    return jnp.median(jnp.sqrt((near**2).sum(axis=1)))


def displacement(process: Process) -> Callable[[float], float]:
    """Return t -> the median of |x_t - x_0| over 512 draws in the plane."""
    x_0 = jnp.broadcast_to(jnp.asarray(POINTS[0]), (512, 2))
    z = process.sample_noise(jax.random.key(2), (512, 2)).astype(float)
    return lambda t: float(_median_distance(process, x_0, z, jnp.asarray(t, float)))


def rounded_down(t: float, digits: int = 1) -> float:
    """Return t rounded down to `digits` significant digits."""
    if not t > 0:
        return t
    unit = 10.0 ** (floor(log10(t)) - digits + 1)
    return float(f"{floor(t / unit * (1 + 1e-12)) * unit:.{digits}g}")


def passing_t_min(
    process: Process, distance: Callable[[float], float], bound: float
) -> float | None:
    """Return a t_min below the process's own at which a distance is within a bound, or None."""
    high = np.log(float(process.t_min))
    low = np.log(max(float(process.t_domain[0]), 1e-6 * float(process.t_min)))
    if not distance(float(np.exp(low))) <= bound:
        return None
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if distance(float(np.exp(middle))) <= bound else (low, middle)
    t = rounded_down(float(np.exp(low)))
    return t if distance(t) <= bound else float(np.exp(low))


def starts_near(
    process: Process,
    law: str,
    statement: str,
    distance: Callable[[float], float],
    bound: float,
    advice: str,
) -> Finding:
    """Return the finding that a distance at t_min is within a bound.

    A distance slightly above the bound that is within it at a smaller t_min means a correct definition with a
    t_min that is slightly too large: the law holds with a warning.
    """
    measured = distance(float(process.t_min))
    better = (
        None
        if measured <= bound or not process.t_min > 0
        else passing_t_min(process, distance, bound)
    )
    if better is None:
        return Finding(law, statement, measured, bound, advice)
    said = f"t_min = {float(process.t_min):g}, which is a little late: the law holds with t_min = {better:g}"
    if measured > _TOLERATED * bound:
        said = f"t_min = {float(process.t_min):g}: the law holds with t_min = {better:g}"
    return Finding(law, statement, measured, bound, said, tolerated=_TOLERATED * bound)
