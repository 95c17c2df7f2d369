"""Laws of paths and densities: relations between velocity and density, for every class of process.

For a path x_t = interpolate(x_0, z, t) with density p(x_t | x_0), in two dimensions unless said otherwise:

    D1  noise_of inverts the path
    D2  the field is the same by definition, automatic differentiation, finite differences and noise_of
    D3  p and f conserve mass: d log p / dt + f . grad log p + div f = 0
    D4  the same for the marginal of three points, so for any data set
    D5  the density has mass 1, by quadrature on a line, or else in the plane
    D6  all mass is at x_0 as t -> t_min
    D7  x_t at t_max is independent of x_0 (if `exact_prior`), and the prior density is that of the paths' ends
    D8  the cumulative probability is constant along the marginal flow on a line
    D9  coordinates are independent of each other (if `coordinatewise`)

For a process without noise_of (random paths) none of these is checked; without a density D1, D2, D6, D7 and D9
are; for one that is defined only from two dimensions on there is no D8. D5 and D8 are in `mass_laws`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from diffusion.numerics import per_example
from diffusion.processes import Process
from diffusion.processes.inversion import along_time, jacobian, solve_linear
from diffusion.testing.mass_laws import masses, transports
from diffusion.testing.path_problems import (
    POINTS,
    compiled,
    draws,
    has_density,
    has_noise_of,
    marginal_field,
)
from diffusion.testing.report import Finding, findings_of, largest
from diffusion.testing.starts import displacement, starts_near


def _divergence(fn: Callable, x: Any) -> Any:
    return jnp.trace(jacobian(fn, x), axis1=1, axis2=2)


def _conservation(log_p: Callable, velocity: Callable, x: Any, t: Any) -> Any:
    """Return d log p / dt + f . grad log p + div f, relative to the size of its terms."""
    f, div = velocity(x, t), _divergence(lambda y: velocity(y, t), x)
    along = jax.jvp(log_p, (x, t), (f, jnp.ones_like(t)))[1]
    change = jax.jvp(lambda u: log_p(x, u), (t,), (jnp.ones_like(t),))[1]
    return (along + div) / (1 + jnp.abs(div) + jnp.abs(change))


@compiled
def _path_errors(process: Process, x_0: Any, z: Any, t: Any) -> dict[str, Any]:
    x_t = process.interpolate(x_0, z, t)
    stated = process.conditional_velocity(x_t, x_0, t)
    scale = 1 + jnp.abs(stated)
    h = 1e-5 * t
    later, earlier = process.interpolate(x_0, z, t + h), process.interpolate(x_0, z, t - h)
    rate = along_time(lambda u: process.noise_of(x_t, x_0, u), t, x_t)[1]
    ways = (
        process.velocity(x_0, z, t),
        along_time(lambda u: process.interpolate(x_0, z, u), t, x_t)[1],
        (later - earlier) / per_example(2 * h, x_t),
        # from the condition that z is constant along the path
        -solve_linear(lambda y: process.noise_of(y, x_0, t), x_t, rate),
    )
    off = jacobian(lambda z: process.interpolate(x_0, z, t), z) * (1 - jnp.eye(z.shape[1]))
    return {
        "noise_of": (process.noise_of(x_t, x_0, t) - z) / (1 + jnp.abs(z)),
        "ways": jnp.stack([(way - stated) / scale for way in ways]),
        "off": off if process.coordinatewise else jnp.zeros_like(off),
    }


def paths(process: Process) -> list[Finding]:
    """D1: noise_of inverts the path, and all formulas for the field agree."""
    if not has_noise_of(process):
        return []
    errors = _path_errors(process, *draws(process))
    who = type(process).__name__
    return [
        Finding(
            "D1", "noise_of inverts the path, noise_of(x_t, x_0, t) = z for x_t = interpolate(x_0, z, t) (relative)",
            largest(errors["noise_of"]), 1e-6,
            f"whether two paths of {who} from one x_0 cross; an overridden `noise_of` or `conserved`",
        ),
        Finding(
            "D2", "the field agrees by definition, autodiff, finite differences and noise_of (relative)",
            largest(errors["ways"]), 1e-5,
            f"an overridden `velocity` or `conditional_velocity` of {who}",
        ),
        Finding(
            "D9", "coordinates are independent of each other, as `coordinatewise` claims",
            largest(errors["off"]), 1e-12, f"`coordinatewise` of {who}",
        ),
    ]  # fmt: skip


@compiled
def _left(process: Process, x_0: Any, z: Any) -> Any:
    here, zero = (process.interpolate(x, z, process.t_max) for x in (x_0, jnp.zeros_like(x_0)))
    return here - zero


def ends(process: Process) -> list[Finding]:
    """D6: mass starts at x_0, and x_t at t_max is independent of x_0."""
    if not has_noise_of(process):
        return []
    findings = [
        starts_near(
            process, "D6", "at t_min most mass is at x_0, median |x_t - x_0|", displacement(process), 0.05,
            "the direction of time, and whether t_min is small enough",
        )
    ]  # fmt: skip
    if process.exact_prior:
        x_0 = jnp.broadcast_to(jnp.asarray(POINTS[0]), (512, 2))
        left = _left(process, x_0, process.sample_noise(jax.random.key(2), (512, 2)).astype(float))
        findings.append(
            Finding(
                "D7", "x_t at t_max is independent of x_0, as `exact_prior` claims", largest(left), 1e-9,
                "whether every path ends in its z at t_max",
            )
        )  # fmt: skip
    return findings


@compiled
def _density_errors(process: Process, x_0: Any, z: Any, t: Any) -> dict[str, Any]:
    x_t = process.interpolate(x_0, z, t)
    end = process.interpolate(x_0, z, process.t_max)
    log_p = process.log_density(end, x_0, process.t_max)
    field = marginal_field(process, jnp.asarray(POINTS))
    return {
        "conditional": _conservation(
            lambda y, u: process.log_density(y, x_0, u),
            lambda y, u: process.conditional_velocity(y, x_0, u), x_t, t,
        ),
        "marginal": _conservation(field.log_density, field.velocity, x_t, t),
        "prior": (process.prior_log_prob(end) - log_p) / (1 + jnp.abs(log_p)),
    }  # fmt: skip


def densities(process: Process) -> list[Finding]:
    """D3: densities and fields conserve mass."""
    if not has_density(process):
        return []
    errors = _density_errors(process, *draws(process))
    advice = "`log_density` and `conditional_velocity`: one of them is not that of the path"
    findings = [
        Finding(
            "D3", "p(x_t | x_0) and its field conserve mass (relative)",
            largest(errors["conditional"]), 1e-6, advice,
        ),
        Finding(
            "D4", "the marginal of three points and its field conserve mass (relative)",
            largest(errors["marginal"]), 1e-6, advice,
        ),
    ]  # fmt: skip
    if process.exact_prior:
        findings.append(
            Finding(
                "D7", "the prior density is that of the paths' ends (relative)",
                largest(errors["prior"]), 1e-9, "`prior_log_prob`, `noise_log_prob`, `sample_prior`",
            )
        )  # fmt: skip
    return findings


LAWS = tuple((Process, law) for law in (paths, ends, densities, masses, transports))


def check_paths(process: Process) -> list[Finding]:
    """Check a process against the laws of paths and densities only, in float64."""
    with jax.enable_x64(True):
        return [finding for _, law in LAWS for finding in findings_of(law, process)]
