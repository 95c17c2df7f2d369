"""Laws that integrate a density over space: D5 and D8 in the list of `path_laws`."""

from typing import Any

import jax
import jax.numpy as jnp

from diffusion.numerics import runge_kutta
from diffusion.processes import Process
from diffusion.testing.path_problems import (
    POINTS,
    chosen_times,
    compiled,
    has_density,
    marginal_field,
    on_a_line,
)
from diffusion.testing.report import Finding, largest


@compiled
def _mass(process: Process, z: Any, t: Any) -> Any:
    """Return the mass of p(x_t | 0.4) on a line at each time, on wide grids that are fine near the median."""

    def at(t: Any) -> Any:
        origin = lambda x: jnp.full_like(x, 0.4)
        drawn = process.interpolate(origin(z), z, t)[:, 0]
        middle = jnp.median(drawn)
        u = jnp.linspace(-20.0, 20.0, 20_001)
        x = middle + jnp.median(jnp.abs(drawn - middle)) * jnp.sinh(u)
        density = jnp.exp(process.log_density(x[:, None], origin(x[:, None]), t))
        return jnp.trapezoid(density, x)

    return jax.lax.map(at, t)


@compiled
def _mass_in_the_plane(process: Process, z: Any, t: Any) -> Any:
    """Return the mass of p(x_t | x_0) in the plane at each time, on polar grids of geometric radii."""
    u, angle = jnp.linspace(-9.0, 9.0, 201), 2 * jnp.pi * jnp.arange(128) / 128
    circle = jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)

    def at(t: Any) -> Any:
        origin = lambda x: jnp.full_like(x, 0.4)
        drawn = process.interpolate(origin(z), z, t)
        middle = jnp.median(drawn, axis=0)
        r = jnp.median(jnp.linalg.norm(drawn - middle, axis=1)) * jnp.exp(u)

        def around(r: Any) -> Any:
            x = middle + r * circle
            return jnp.exp(process.log_density(x, origin(x), t)).mean() * 2 * jnp.pi * r**2

        return jnp.trapezoid(jax.lax.map(around, r, batch_size=32), u)

    return jax.lax.map(at, t)


def masses(process: Process) -> list[Finding]:
    """D5: the density has mass 1, on a line or, if it is not defined on a line, in the plane."""
    if on_a_line(process):
        mass, dim, where = _mass, 1, "on a line"
    elif has_density(process):
        mass, dim, where = _mass_in_the_plane, 2, "in the plane"
    else:
        return []
    z = process.sample_noise(jax.random.key(3), (1001, dim)).astype(float)
    found = mass(process, z, jnp.asarray(chosen_times(process)))
    return [
        Finding(
            "D5", f"the density {where} has mass 1", largest(found - 1), 5e-3,
            "the normalization in `noise_log_prob` or `log_density`",
        )
    ]  # fmt: skip


@compiled
def _transport(process: Process, x: Any, ends: Any) -> tuple[Any, Any]:
    """Return the cumulative probabilities of x and of its image under the marginal flow."""
    field = marginal_field(process, jnp.asarray(POINTS)[:, :1])

    def below(x: Any, t: Any) -> Any:
        u = jnp.linspace(-25.0, 16.0, 8001)
        grid = x + jnp.exp(u) * (t / process.t_max + 0.1)
        density = jnp.exp(field.log_density(grid[:, None], t))
        return 1 - jnp.trapezoid(density, grid)

    times = jnp.geomspace(ends[0], ends[1], 33)

    step = lambda x, pair: (runge_kutta(field.velocity, x, *pair), None)
    y = jax.lax.scan(step, x, (times[:-1], times[1:]))[0]
    cumulative = lambda x, t: jax.lax.map(lambda x: below(x, t), x[:, 0])
    return cumulative(x, ends[0]), cumulative(y, ends[1])


def transports(process: Process) -> list[Finding]:
    """D8: the marginal flow keeps the cumulative probability."""
    if not on_a_line(process):
        return []
    span = jnp.asarray(chosen_times(process, (1, 2)))
    z = process.sample_noise(jax.random.key(4), (5, 1)).astype(float)
    x = process.interpolate(jnp.full((5, 1), 0.3), z, span[0])
    before, after = _transport(process, x, span)
    return [
        Finding(
            "D8", "the marginal flow keeps the cumulative probability on a line",
            largest(after - before), 5e-3, "`conditional_velocity` against `log_density`",
        )
    ]  # fmt: skip
